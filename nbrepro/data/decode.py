"""One image file → RGB bytes; every reader of image files goes through here.

Whatever the file holds becomes what Pillow's own conversion to RGB gives: grey is repeated, 1-bit
is 0 and 255, palettes are looked up, CMYK is converted. Four decisions are ours:

* **16-bit grey** keeps the upper byte of each value, ``v >> 8``, as Pillow itself does with 16-bit
  colour. (Pillow's conversion clips at 255 instead: nearly every pixel would be white.) An image
  that uses only 12 of its 16 bits is therefore dark.
* **Transparency** is dropped, not blended: a transparent pixel shows the colour stored for it.
* **Orientation in EXIF**, colour profiles and gamma are not applied: torchvision's and TensorFlow's
  readers of ImageNet ignore them too. Rotate such photographs beforehand.
* **Animations** are refused: which frame is meant is not ours to guess.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

#: Endings of the files that are read, in small letters.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")

# Pillow looks at the content, not the ending. Its other formats are not asked: some start programs.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")


class DataError(Exception):
    """A data set is missing or wrong; the message names the file and the remedy."""


def is_image(path: str | Path) -> bool:
    """Whether the ending of a file's name is one of :data:`SUFFIXES`."""
    return Path(path).suffix.lower() in SUFFIXES


def decode(path: str | Path) -> "Image.Image":
    """Read an image file as RGB, see the top of this module.

    Raises:
        DataError: if the file is truncated, damaged, no image, an animation or larger than Pillow's
            limit; it names the file, and what was expected.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=_FORMATS) as image:
            limit, pixels = Image.MAX_IMAGE_PIXELS, image.width * image.height
            if limit is not None and pixels > limit:  # Pillow refuses from twice as many on
                raise Image.DecompressionBombError(f"It has {pixels:,} pixels.")
            return _to_rgb(image, path)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{path} is too large. {error} Expected at most {Image.MAX_IMAGE_PIXELS:,} pixels; "
            "make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if it can be trusted"
        ) from error
    except Exception as error:  # whatever a damaged file makes Pillow raise, the remedy is the same
        raise DataError(
            f"{path} cannot be decoded ({error}); expected a whole image in one of the formats "
            f"{', '.join(_FORMATS)}: restore or delete this file"
        ) from error


def _to_rgb(image: "Image.Image", path: str | Path) -> "Image.Image":
    from PIL import Image

    # A JPEG may carry pictures for other displays behind the photograph (MPO); that is no animation
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise DataError(
            f"{path} is an animation of {frames} frames; expected a single image: save the frame "
            "that is meant"
        )
    if image.mode.startswith("I"):  # of these formats, only PNG with 16 bits of grey
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info:  # else Pillow warns of a palette with transparent entries
        image = image.convert("RGBA")
    return image.convert("RGB")

"""Pictures for the pages that show augmentation at work; all come with scikit-learn."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from sklearn.datasets import load_sample_images
from torch import Generator, Tensor
from torch.nn import functional as F

from nbrepro import data
from nbrepro.book.tables import table
from nbrepro.data import augment

if TYPE_CHECKING:
    from IPython.display import HTML

#: (pixels, magnitude) → shares of blank images and of filled pixels, with the operations' lengths
#: in pixels, then in proportion to the picture.
Shares = Mapping[tuple[int, int], tuple[float, float, float, float]]


def painted(count: int, pixels: int, generator: Generator) -> Tensor:
    """Handwritten digits in random colours on random colours.

    Returns:
        uint8 ``[count, 3, pixels, pixels]``.
    """
    ink = data.load("digits").train_images[:count, :, :, 0].float()[:, None]
    ink = F.interpolate(ink / ink.max(), size=(pixels, pixels), mode="bicubic").clamp(0, 1)
    paper, pen = 255 * torch.rand(2, count, 3, 1, 1, generator=generator)
    shade = torch.linspace(0.6, 1, pixels)[:, None]
    images: Tensor = shade * paper + ink * (pen - shade * paper)
    return images.byte()


def crops(count: int, pixels: int, generator: Generator) -> Tensor:
    """Square crops of two photographs in turn.

    Returns:
        uint8 ``[count, 3, pixels, pixels]``.
    """
    photographs = [torch.from_numpy(image.copy()) for image in load_sample_images().images]
    found = []
    for number in range(count):
        photograph = photographs[number % 2]
        row, column = (
            int(torch.randint(length - pixels + 1, (), generator=generator))
            for length in photograph.shape[:2]
        )
        found.append(photograph[row : row + pixels, column : column + pixels])
    return torch.stack(found).permute(0, 3, 1, 2)


def blank_shares(count: int) -> Shares:
    """How much RandAugment hides of ``count`` crops, by size and magnitude; the same draws for all.

    The authors' lengths of translations and cutouts are in pixels whatever the picture's size; in
    proportion they would be the same at 224 pixels.
    """
    generator = torch.Generator().manual_seed(0)
    draw = augment.draw_randaugment(count, generator)
    shares = {}
    for pixels in (96, 224):
        images = crops(count, pixels, generator)
        for magnitude in (5, 10, 15, 20):
            found: list[float] = []
            for scale in (1.0, pixels / 224):
                result = augment.randaugment(images, draw, magnitude, scale=scale)
                filled = (result == augment.FILL).all(1).float().mean()
                found += [augment.blank_share(result).item(), filled.item()]
            shares[pixels, magnitude] = (found[0], found[1], found[2], found[3])
    return shares


def blank_table(shares: Shares, count: int) -> "HTML":
    """One row per size and magnitude."""
    rows = [(*key, *(f"{share:.0%}" for share in found)) for key, found in shares.items()]
    head = ("pixels", "magnitude", "blank images", "filled pixels", "blank, scaled",
            "filled, scaled")  # fmt: skip
    note = (
        f"{count} crops of scikit-learn's two sample photographs; the same draws in every row. "
        "Blank: grey levels deviate by less than 5, or the fill covers over 90 % of the image. "
        "Scaled: lengths in proportion."
    )
    return table(head, rows, note)

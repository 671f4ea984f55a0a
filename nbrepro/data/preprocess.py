"""Images for evaluation on ImageNet, as in the authors' code of arXiv 2102.06171 (appendix A.1).

Both sides are resized to the test size plus 32 pixels, whatever the aspect ratio; the central
square of the test size is cut out; channels are normalized by the usual mean and standard
deviation. The resizing is TensorFlow's bicubic one, which neither smooths before it shrinks nor
clips what overshoots; Pillow's and torchvision's do both.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nbrepro.data.batches import MEAN, STD

MARGIN = 32


def _bicubic(before: int, after: int) -> Tensor:
    """The matrix ``[after, before]`` that resizes one side.

    Keys' kernel with a = -1/2 around the centre of each new pixel, in units of old pixels at any
    scale. Pixels outside the image have no weight, and the other weights sum to one.
    """
    centre = (torch.arange(after, dtype=torch.float64) + 0.5) * (before / after) - 0.5
    x = (centre[:, None] - torch.arange(before)).abs()
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weight = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    return (weight / weight.sum(dim=1, keepdim=True)).float()


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Bicubic resizing as ``tf.image.resize`` does it: ``[..., H, W]`` → ``[..., height, width]``.

    TensorFlow rounds positions between pixels to 1/1024; results differ by less than 0.1 % of the
    range of the image.
    """
    return _bicubic(image.shape[-2], height) @ image @ _bicubic(image.shape[-1], width).T


@dataclass(frozen=True)
class Preprocess:
    """An RGB image → float32 ``[3, pixels, pixels]``, see the top of this module.

    A dataclass rather than a closure, so that it can be sent to the workers of a ``DataLoader``.
    """

    pixels: int

    def __call__(self, image: Image.Image) -> Tensor:
        """Resize, crop, normalize."""
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        tensor = resize(tensor, self.pixels + MARGIN, self.pixels + MARGIN)
        low, high = MARGIN // 2, MARGIN // 2 + self.pixels
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        return (tensor[:, low:high, low:high] - mean) / std

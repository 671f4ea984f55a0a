"""Pictures for the page that shows augmentation at work, from the digits of scikit-learn."""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from nbrepro import data


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

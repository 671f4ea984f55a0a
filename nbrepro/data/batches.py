"""Whole batches of a data set on the device."""

import torch
from torch import Tensor

from nbrepro.data.datasets import MEAN, STD


class Batches:
    """A labelled image set on a device that hands out augmented, normalised batches.

    A crop is gathered row by row, as runs of bytes of the padded uint8 images; the border is black,
    as padding before normalisation makes it. Batches come out in channels-last memory format.

    Args:
        images: uint8 ``[N, H, W, 3]``.
        labels: int64 ``[N]``.
        pad: pixels of black border the crop may move into; 0 for none.
        device: where the images stay.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, pad: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        self.pad = pad
        self.height, self.width = images.shape[1:3]
        self.images = torch.nn.functional.pad(images.to(device), (0, 0, pad, pad, pad, pad))
        self.labels = labels.to(device)
        # Row p: the 3 W bytes from pixel p on, of all pixels of all images; rows overlap.
        pixels = self.images.numel() // 3
        self._runs = self.images.as_strided((pixels - self.width + 1, 3 * self.width), (3, 1))
        width = self.images.shape[2]
        self._row_starts = torch.arange(0, self.height * width, width, device=device)
        self._middle = torch.tensor([[pad, pad]], device=device)
        # (x / 255 - mean) / std as one multiply and one add, on whole rows of pixels
        std = torch.tensor(STD, device=device) * 255
        self._scale = (1 / std).repeat(self.width)
        self._shift = (-torch.tensor(MEAN, device=device) * 255 / std).repeat(self.width)

    def __len__(self) -> int:
        return len(self.labels)

    def __call__(
        self, index: Tensor, offset: Tensor | None = None, flip: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """A batch.

        Args:
            index: int64 ``[B]``, which images.
            offset: int64 ``[B, 2]`` in ``[0, 2 * pad]``, the crop's upper left corner
                (row, column); default the middle.
            flip: bool ``[B]``, mirror left to right; default no.

        Returns:
            float32 images ``[B, 3, H, W]`` and int64 labels ``[B]``.
        """
        return self.normalise(self.pixels(index, offset, flip)), self.labels[index]

    def pixels(
        self, index: Tensor, offset: Tensor | None = None, flip: Tensor | None = None
    ) -> Tensor:
        """The images of a batch before normalisation: uint8 ``[B, 3, H, W]``."""
        shape = (len(index), self.height, self.width, 3)
        height, width = self.images.shape[1:3]
        row, column = (self._middle if offset is None else offset).unbind(1)
        start = torch.add(column, torch.add(row, index, alpha=height), alpha=width)
        rows = (start[:, None] + self._row_starts).flatten()
        pixels = self._runs.index_select(0, rows).view(shape)
        if flip is not None:
            # Taking whole images from both forms is a third of the time of torch.where.
            both = torch.cat([pixels, pixels.flip(2)])
            first = torch.arange(len(index), device=index.device)
            pixels = both.index_select(0, torch.add(first, flip, alpha=len(index)))
        return pixels.permute(0, 3, 1, 2)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels in 0..255 ``[B, 3, H, W]`` → float32, channel by channel ``(x / 255 - m) / s``."""
        pixels = pixels.permute(0, 2, 3, 1)
        rows = torch.mul(pixels.flatten(2), self._scale).add_(self._shift)
        return rows.view(pixels.shape).permute(0, 3, 1, 2)

"""From uint8 images to a batch that a network trains on, whole batches at a time on the device.

Randomness and arithmetic are separate: :func:`epoch_draws` draws an epoch's numbers, one row per
image, on the CPU; :meth:`Batches.batch` turns rows of them into a batch and is a pure function of
tensors, so that it runs in the same way inside a captured CUDA graph and outside.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nbrepro.data import augment

#: Normalization of the BatchNorm-only study's code, by ImageNet statistics on CIFAR-10 too.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

#: What is drawn for an epoch, or for a batch of it, one row per image in the order of training:
#: ``order`` int64 ``[N]``, which images; ``offset`` int64 ``[N, 2]`` in ``[0, 2 * pad]``, the upper
#: left corner (row, column) of the crop; ``flip`` bool ``[N]``, mirror left to right; ``box`` int64
#: ``[N]``, seeds of the random boxes of :mod:`nbrepro.data.files`; ``mixup``, ``cutmix`` and
#: ``randaugment`` as the ``draw_*`` functions of :mod:`nbrepro.data.augment` give them. All but
#: ``order`` may be missing.
Draws = dict[str, Tensor]


def epoch_draws(
    seed: int,
    epoch: int,
    images: int,
    pad: int = 0,
    *,
    boxes: bool = False,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    randaugment: float = 0.0,
) -> Draws:
    """Draw the order and the augmentation of one epoch: a function of ``(seed, epoch)`` alone.

    Args:
        seed: the run's seed.
        epoch: from 0.
        images: N, the size of the training set.
        pad: pixels of border that crops may move into; with 0 nothing is cropped or flipped.
        boxes: whether images are random boxes of their files, and mirrored, instead.
        mixup: α of MixUp; 0 for none.
        cutmix: α of CutMix; 0 for none.
        randaugment: magnitude of RandAugment; 0 for none.

    Returns:
        Draws of N rows, on the CPU. The global random generator is not used.
    """
    generator = _generator(f"{seed}/{epoch}")
    draws = {"order": torch.randperm(images, generator=generator)}
    if pad:
        draws["offset"] = torch.randint(2 * pad + 1, (images, 2), generator=generator)
    if boxes:
        draws["box"] = torch.randint(2**48, (images,), generator=generator)
    if pad or boxes:
        draws["flip"] = torch.rand(images, generator=generator) < 0.5
    # A separate generator: order and crops are the same with and without strong augmentation.
    generator = _generator(f"{seed}/{epoch}/strong")
    if mixup:
        draws["mixup"] = augment.draw_mixup(images, generator, mixup)
    if cutmix:
        draws["cutmix"] = augment.draw_cutmix(images, generator, cutmix)
    if randaugment:
        draws["randaugment"] = augment.draw_randaugment(images, generator)
    return draws


def _generator(name: str) -> torch.Generator:
    """A random generator on the CPU that is a function of its name."""
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class Batch(NamedTuple):
    """What one step sees.

    Attributes:
        images: float32 ``[B, 3, H, W]``, normalized, in channels-last memory format.
        labels: int64 ``[B]``.
        targets: what the loss compares with: the labels, or probabilities ``[B, classes]`` if the
            images are mixed.
        size: divisor of the summed loss: B, or, where several processes share a batch, the size of
            the whole batch divided by their number, whatever the size of this process's part.
            Processes average their gradients, which are then those of the whole batch's mean loss.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor
    size: float


class Batches:
    """A labelled image set on a device that hands out augmented, normalized batches.

    Attributes:
        capturable: whether making a batch can be recorded as part of a CUDA graph.

    Args:
        images: uint8 ``[N, H, W, 3]``.
        labels: int64 ``[N]``.
        pad: pixels of black border the crop may move into; 0 for none.
        device: where the images stay.
        classes: number of classes; needed to mix images.
        magnitude: magnitude of RandAugment, if there are draws for it.
        part: which part of every batch is this process's, and of how many parts.
    """

    capturable = True

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        pad: int = 0,
        device: torch.device | str = "cpu",
        *,
        classes: int | None = None,
        magnitude: float = 0.0,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self._begin(labels, images.shape[1:3], pad, device, classes, magnitude, part)
        self.images = torch.nn.functional.pad(images.to(device), (0, 0, pad, pad, pad, pad))
        # A crop is gathered row by row. Row p of this view, which copies nothing, holds the 3 W
        # bytes from pixel p on, with the pixels of all images numbered in turn; so rows overlap.
        pixels = self.images.numel() // 3
        self._runs = self.images.as_strided((pixels - self.width + 1, 3 * self.width), (3, 1))
        width = self.images.shape[2]
        self._row_starts = torch.arange(0, self.height * width, width, device=device)
        self._middle = torch.tensor([[pad, pad]], device=device)

    def _begin(
        self,
        labels: Tensor,
        sides: Sequence[int],
        pad: int,
        device: torch.device | str,
        classes: int | None,
        magnitude: float,
        part: tuple[int, int],
    ) -> None:
        """Set up all but the images."""
        self.pad, self.magnitude, self.part = pad, magnitude, part
        self.height, self.width = sides
        self.labels = labels.to(device)
        self._classes = None if classes is None else torch.arange(classes, device=device)
        # (x / 255 - mean) / std as one multiply and one add, on whole rows of pixels
        std = torch.tensor(STD, device=device) * 255
        self._scale = (1 / std).repeat(self.width)
        self._shift = (-torch.tensor(MEAN, device=device) * 255 / std).repeat(self.width)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, draws: Draws) -> Batch:
        """Make a batch: crop and flip, mix, RandAugment, normalize, in this order.

        Args:
            draws: the batch's rows, see :data:`Draws`.

        Returns:
            This process's part of the batch.

        Raises:
            ValueError: if images are to be mixed and the number of classes is not known.
        """
        size, mixed = len(draws["order"]) / self.part[1], _mixed(draws)
        draws = self._read(draws)
        images = self._pixels(draws)
        targets = labels = self.labels[draws["order"]]
        if mixed:
            targets = self._probabilities(labels)
            images, targets = augment.mix(images, targets, draws.get("mixup"), draws.get("cutmix"))
            images, labels, targets = (self._mine(items) for items in (images, labels, targets))
            draws = self._own(draws)
        if "randaugment" in draws:
            # Its lengths are for images of 224 pixels; ours are scaled in proportion.
            scale = self.width / 224
            images = augment.randaugment(images, draws["randaugment"], self.magnitude, scale)
        return Batch(self._normalize(images), labels, targets, size)

    def expect(self, draws: Draws) -> None:
        """Prepare for a batch that will be asked for; nothing to do where images are stored."""

    def __call__(
        self, index: Tensor, offset: Tensor | None = None, flip: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images and labels of a batch that is at most cropped and flipped.

        Args:
            index: int64 ``[B]``, which images.
            offset: as in :data:`Draws`; by default the middle.
            flip: as in :data:`Draws`; by default none.

        Returns:
            float32 images ``[B, 3, H, W]`` and int64 labels ``[B]``.
        """
        named = {"order": index, "offset": offset, "flip": flip}
        batch = self.batch({name: rows for name, rows in named.items() if rows is not None})
        return batch.images, batch.labels

    def _pixels(self, draws: Draws) -> Tensor:
        """Images before normalization: uint8 ``[B, 3, H, W]``; the border is black there."""
        index, offset, flip = draws["order"], draws.get("offset"), draws.get("flip")
        shape = (len(index), self.height, self.width, 3)
        height, width = self.images.shape[1:3]
        row, column = (self._middle if offset is None else offset).unbind(1)
        start = torch.add(column, torch.add(row, index, alpha=height), alpha=width)
        rows = (start[:, None] + self._row_starts).flatten()
        pixels = self._runs.index_select(0, rows).view(shape)
        if flip is not None:
            # Taking whole images from both forms takes a third of the time of torch.where.
            both = torch.cat([pixels, pixels.flip(2)])
            first = torch.arange(len(index), device=index.device)
            pixels = both.index_select(0, torch.add(first, flip, alpha=len(index)))
        return pixels.permute(0, 3, 1, 2)

    def _probabilities(self, labels: Tensor) -> Tensor:
        """Labels as float32 ``[B, classes]``; unlike ``one_hot`` this does not sync."""
        if self._classes is None:
            raise ValueError("to mix images, Batches needs the number of classes: classes=10")
        return (labels[:, None] == self._classes).float()

    def _read(self, draws: Draws) -> Draws:
        """The rows whose images are read: this process's, or all, for partners are neighbours."""
        return draws if _mixed(draws) else self._own(draws)

    def _own(self, draws: Draws) -> Draws:
        """This process's rows."""
        return {name: self._mine(rows) for name, rows in draws.items()}

    def _mine(self, items: Tensor) -> Tensor:
        """This process's part of the items of a batch."""
        rank, processes = self.part
        return items.tensor_split(processes)[rank] if processes > 1 else items

    def _normalize(self, pixels: Tensor) -> Tensor:
        """Pixels in 0..255 ``[B, 3, H, W]`` → float32, channel by channel ``(x / 255 - m) / s``."""
        pixels = pixels.permute(0, 2, 3, 1)
        rows = torch.mul(pixels.flatten(2), self._scale).add_(self._shift)
        return rows.view(pixels.shape).permute(0, 3, 1, 2)


def _mixed(draws: Draws) -> bool:
    """Whether images are mixed with others of their batch."""
    return "mixup" in draws or "cutmix" in draws

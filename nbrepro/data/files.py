"""Image files that are decoded when they are needed: ImageNet, and any tree too large for memory.

The recipe is that of the ImageNet networks of arXiv 2003.00152 (released code): for training, a
random box of 10 to 100 % of the image's area and an aspect ratio from 0.8 to 1.25, resized to a
square, and mirrored at random; for testing, the shorter side resized to 8/7 of the square's (256
for 224) and the central square. Resizing is Pillow's bilinear one, which smooths before it shrinks,
as torchvision has it.

``imagenet@224`` is the tree ``<root>/imagenet`` in squares of 224 pixels; a run asks for it with
``dataset="imagenet@224", augmentation="resized-crop"``. Images may differ in size. Boxes are
functions of (seed, epoch) alone, like all other draws. Files are decoded in threads, the next batch
while the device is busy with this one; a step cannot be recorded as a CUDA graph then.
"""

import math
import os
import random
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nbrepro.data import cards, folder
from nbrepro.data.batches import Batches, Draws
from nbrepro.data.decode import DataError, decode

#: Smallest and largest share of the image's area in a random box, and its width / height.
AREA = (0.1, 1.0)
RATIO = (0.8, 1.25)

_TRIES = 10
_BILINEAR = Image.Resampling.BILINEAR


@dataclass(frozen=True)
class Files:
    """Image files, each seen as a square.

    Attributes:
        paths: the files.
        side: height and width of the square in pixels.
    """

    paths: tuple[Path, ...]
    side: int

    def square(self, index: int, seed: int | None = None) -> np.ndarray:
        """Image ``index`` as uint8 ``[side, side, 3]``: a random box of it, or the centre.

        Args:
            index: which file.
            seed: draws the box; None for the centre, as in testing.

        Raises:
            DataError: if the file cannot be decoded.
        """
        image = decode(self.paths[index])
        if seed is None:
            return np.asarray(centre(image, self.side))
        box = random_box(*image.size, random.Random(seed))
        return np.asarray(image.crop(box).resize((self.side, self.side), _BILINEAR))


def centre(image: Image.Image, side: int) -> Image.Image:
    """The central square of an image whose shorter side is resized to ``side · 256 / 224``."""
    short = round(side * 256 / 224)
    scale = short / min(image.size)
    width, height = (max(short, int(length * scale)) for length in image.size)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return image.resize((width, height), _BILINEAR).crop((left, top, left + side, top + side))


def random_box(width: int, height: int, generator: random.Random) -> tuple[int, int, int, int]:
    """A box (left, top, right, bottom) with a share of the area in :data:`AREA`.

    Share and logarithm of the ratio are uniform. Boxes that do not fit are drawn again, up to ten
    times; then it is the largest central box with a ratio in :data:`RATIO`.
    """
    low, high = (math.log(ratio) for ratio in RATIO)
    for _ in range(_TRIES):
        area = width * height * (AREA[0] + (AREA[1] - AREA[0]) * generator.random())
        ratio = math.exp(low + (high - low) * generator.random())
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int((width - w + 1) * generator.random())
            top = int((height - h + 1) * generator.random())
            return left, top, left + w, top + h
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


@dataclass(frozen=True)
class FileDataset:
    """A labelled training and test set of image files; otherwise as :class:`~.datasets.Dataset`.

    Attributes:
        name: with its side, such as ``imagenet@224``.
        classes: label → class name.
        train_images: N files; ``test_images`` likewise.
        train_labels: int64 ``[N]``; ``test_labels`` likewise.
        fingerprint: 16 hexadecimal digits of a SHA-256 over the names and contents of all files.
    """

    name: str
    classes: tuple[str, ...]
    train_images: Files
    train_labels: Tensor
    test_images: Files
    test_labels: Tensor
    fingerprint: str

    @property
    def chance(self) -> float:
        """Accuracy of guessing, where test images are spread evenly over the classes."""
        return 1 / len(self.classes)


def open_files(name: str, root: Path) -> FileDataset:
    """The files of a tree, checked but not decoded.

    The first time all files are read once for their fingerprint, which is cached.

    Args:
        name: a tree with a side and perhaps some of its classes, such as ``imagenet@224`` or
            ``imagenet@224-classes0to99``.
        root: folder that holds the data sets.

    Raises:
        DataError: if the tree is missing or wrong, or the name has no side.
    """
    data, side, classes, small, _, few = cards.parse(name)
    if side is None or small or few is not None or data in cards.NOT_TREES:
        raise DataError(
            f"{name}: the augmentation resized-crop reads the files of a tree and needs a side: "
            "write imagenet@224, or imagenet@224-classes0to99 for some of its classes"
        )
    tree = folder.find(data, root)
    kept = tree.classes if classes is None else folder.chosen(data, tree.classes, *classes)

    def labelled(part: dict[str, list[Path]]) -> tuple[Files, Tensor]:
        paths = tuple(path for label in kept for path in part[label])
        labels = [number for number, label in enumerate(kept) for _ in part[label]]
        return Files(paths, side), torch.tensor(labels)

    train, test = (labelled(part) for part in tree.parts.values())
    return FileDataset(name, tuple(kept), *train, *test, folder.digest(tree, kept))


class FileBatches(Batches):
    """:class:`~nbrepro.data.Batches` of files.

    Args:
        files: the images.
        labels: int64 ``[N]``.
        device: where batches go.
        classes: number of classes; needed to mix images.
        magnitude: magnitude of RandAugment, if there are draws for it.
        part: which part of every batch is this process's, and of how many parts.
    """

    capturable = False

    def __init__(
        self,
        files: Files,
        labels: Tensor,
        device: torch.device | str = "cpu",
        *,
        classes: int | None = None,
        magnitude: float = 0.0,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self._begin(labels, (files.side, files.side), 0, device, classes, magnitude, part)
        self.files = files
        self._threads = ThreadPoolExecutor(os.cpu_count())
        self._ahead: dict[_Wanted, list[Future[np.ndarray]]] = {}

    def expect(self, draws: Draws) -> None:
        """Begin to decode a batch that will be asked for."""
        wanted = self._wanted(self._read(draws))
        self._ahead[wanted] = [self._threads.submit(self.files.square, *one) for one in wanted]

    def _pixels(self, draws: Draws) -> Tensor:
        wanted = self._wanted(draws)
        ahead = self._ahead.pop(wanted, None)
        decoded = (
            self._threads.map(lambda one: self.files.square(*one), wanted)
            if ahead is None
            else (future.result() for future in ahead)
        )
        squares = np.empty((len(wanted), self.height, self.width, 3), np.uint8)
        for row, square in enumerate(decoded):
            squares[row] = square
        pixels = torch.from_numpy(squares).to(self.labels.device)
        if "flip" in draws:
            pixels = torch.where(draws["flip"][:, None, None, None], pixels.flip(2), pixels)
        return pixels.permute(0, 3, 1, 2)

    def _wanted(self, draws: Draws) -> "_Wanted":
        order = draws["order"].tolist()
        boxes = draws["box"].tolist() if "box" in draws else [None] * len(order)
        return tuple(zip(order, boxes, strict=True))


#: Of every image of a batch, which one, and the seed of its box.
_Wanted = tuple[tuple[int, int | None], ...]

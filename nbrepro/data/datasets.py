"""Data sets as tensors, and whole-batch augmentation on the device.

A data set is decoded once into uint8 tensors and cached; nothing is decoded while training.

======================  ==========================================================================
``digits``              scikit-learn's handwritten digits, 8×8; part of the installation
``cifar10``             the original files, through torchvision (``download=True`` fetches them)
any other name          a folder tree ``<root>/<name>/train/<class>/*.jpg`` and ``.../test/...``
``<name>-16px``         a fifth of ``<name>``, at half its side: see :func:`shrink`
======================  ==========================================================================

``cifar10-jpeg`` is a folder tree too: CIFAR-10 re-encoded as JPEG. Its pixels differ from the
original's, hence the name, and its contents are checked against a known digest.
"""

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nbrepro._files import cache_folder, replacing

#: Normalisation of the BatchNorm-only study's code: ImageNet statistics, on CIFAR-10 too.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

#: Ending of the name of a data set's small form, see :func:`shrink`.
SMALL = "-16px"

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}
_TEST_FOLDERS = ("test", "val")


@dataclass(frozen=True)
class _Tree:
    """A folder tree whose content is known."""

    classes: tuple[str, ...]
    side: int
    files_per_class: dict[str, int]
    digest: str


_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_KNOWN_TREES = {
    "cifar10-jpeg": _Tree(
        classes=tuple(_CIFAR10.split()),
        side=32,
        files_per_class={"train": 5000, "test": 1000},
        digest="3f8acc60b8946a2f",
    ),
}


class DataError(Exception):
    """A data set is missing or wrong; the message names the file and the remedy."""


@dataclass(frozen=True)
class Dataset:
    """Images and labels of a training and a test set.

    Attributes:
        name: as passed to :func:`load`.
        classes: label → class name.
        train_images: uint8 ``[N, H, W, 3]``; ``test_images`` likewise.
        train_labels: int64 ``[N]``; ``test_labels`` likewise.
        fingerprint: 16 hexadecimal digits of a SHA-256 over all pixels and labels.
    """

    name: str
    classes: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    fingerprint: str

    def __repr__(self) -> str:
        n, height, width, _ = self.train_images.shape
        return (
            f"{self.name}: {n:,} training and {len(self.test_images):,} test images, "
            f"{height}×{width}, {len(self.classes)} classes, fingerprint {self.fingerprint}"
        )


def default_root() -> Path:
    """Where data sets lie: ``$NBREPRO_DATA`` or ``./data``."""
    return Path(os.environ.get("NBREPRO_DATA", "data"))


def load(name: str, root: str | Path | None = None, *, download: bool = False) -> Dataset:
    """Load a data set by name.

    Args:
        name: see the table at the top of this module.
        root: folder that holds the data sets; default :func:`default_root`.
        download: allow torchvision to fetch ``cifar10``.

    Raises:
        DataError: if the data is missing, truncated, mislabelled or of the wrong shape; the message
            names the file and what to do.
    """
    root = Path(root) if root is not None else default_root()
    if name.endswith(SMALL):
        return shrink(load(name.removesuffix(SMALL), root, download=download))
    if name == "digits":
        return _digits()
    if name == "cifar10":
        return _cifar10(root, download)
    return _folder(name, root)


def shrink(dataset: Dataset) -> Dataset:
    """The first fifth of every class, each image at half its side (means of 2×2 pixels).

    CIFAR-10 becomes 10,000 training and 2,000 test images of 16×16: small enough for sweeps of
    optimizer settings on a CPU.
    """
    parts = []
    for images, labels in (
        (dataset.train_images, dataset.train_labels),
        (dataset.test_images, dataset.test_labels),
    ):
        indices = [(labels == c).nonzero()[:, 0] for c in range(len(dataset.classes))]
        first = torch.cat([index[: len(index) // 5] for index in indices])
        kept = images[first].permute(0, 3, 1, 2).float()
        small = torch.nn.functional.avg_pool2d(kept, 2).round().byte().permute(0, 2, 3, 1)
        parts.append((small.numpy(), labels[first].numpy()))
    return _dataset(dataset.name + SMALL, list(dataset.classes), *parts)


def base(name: str) -> str:
    """The data set that ``name`` is, or is a part of: ``cifar10-16px`` → ``cifar10``."""
    return name.removesuffix(SMALL)


def _dataset(
    name: str,
    classes: list[str],
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
) -> Dataset:
    """Check shapes and labels, fingerprint, and wrap as tensors."""
    digest = hashlib.sha256("\n".join(classes).encode())
    tensors: list[Tensor] = []
    for part, (images, labels) in (("training", train), ("test", test)):
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            raise DataError(
                f"{name}: {part} images are {images.dtype} {images.shape}; "
                "expected uint8 [N, H, W, 3]"
            )
        if len(images) != len(labels) or not len(images):
            raise DataError(f"{name}: {len(images)} {part} images but {len(labels)} labels")
        if labels.min() < 0 or labels.max() >= len(classes):
            raise DataError(
                f"{name}: {part} labels run from {labels.min()} to {labels.max()}, "
                f"expected 0 to {len(classes) - 1}"
            )
        images, labels = np.ascontiguousarray(images), np.ascontiguousarray(labels, dtype="<i8")
        digest.update(str(images.shape).encode() + images.tobytes() + labels.tobytes())
        tensors += [torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))]
    train_images, train_labels, test_images, test_labels = tensors
    return Dataset(
        name,
        tuple(classes),
        train_images,
        train_labels,
        test_images,
        test_labels,
        digest.hexdigest()[:16],
    )


def _digits() -> Dataset:
    """The 1,797 digits, grey as three equal channels; every fifth one is a test image."""
    from sklearn.datasets import load_digits

    source = load_digits()
    grey = np.round(source.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=3)
    test = np.arange(len(images)) % 5 == 0
    labels = source.target
    return _dataset(
        "digits", list("0123456789"), (images[~test], labels[~test]), (images[test], labels[test])
    )


def _cifar10(root: Path, download: bool) -> Dataset:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    remedy = "run with download=True (nbrepro run --download) to fetch it again"
    if not download:
        for file, md5 in [*CIFAR10.train_list, *CIFAR10.test_list]:
            path = root / CIFAR10.base_folder / file
            if not path.exists():
                raise DataError(
                    f"cifar10: {path} is missing; {remedy}, or set NBREPRO_DATA to the folder "
                    f"that holds {CIFAR10.base_folder}/"
                )
            if not check_integrity(str(path), md5):
                raise DataError(
                    f"cifar10: {path} is damaged (its MD5 is not {md5}); delete it and {remedy}"
                )
    try:
        parts = [CIFAR10(root, train=train, download=download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"cifar10: torchvision could not read or fetch it below {root}: {error}"
        ) from error
    train, test = ((part.data, np.asarray(part.targets)) for part in parts)
    return _dataset("cifar10", list(parts[0].classes), train, test)


def _folder(name: str, root: Path) -> Dataset:
    """A tree ``<root>/<name>/{train,test}/<class>/<image>``; ``val`` is accepted for ``test``."""
    base = root / name
    if not (base / "train").is_dir():
        hint = "Known without files: digits; fetched on request: cifar10."
        raise DataError(
            f"data set {name!r}: no folder {base / 'train'}. Put the images there as "
            f"train/<class>/*.jpg and test/<class>/*.jpg, or set NBREPRO_DATA. {hint}"
        )
    test_folder = next((t for t in _TEST_FOLDERS if (base / t).is_dir()), None)
    if test_folder is None:
        raise DataError(f"{name}: no folder {base / 'test'} (or val) beside {base / 'train'}")
    listing = {part: _list(base / part) for part in ("train", test_folder)}
    classes = sorted(listing["train"])
    _check_tree(name, base, listing, classes, test_folder)

    stamp = hashlib.sha256(str(base.resolve()).encode())
    for files in listing.values():
        for paths in files.values():
            for path in paths:
                status = path.stat()
                # ctime and inode change even when files trade places, size and time alike
                marks = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
                stamp.update(f"{path}\0{marks}\n".encode())
    cached = cache_folder() / f"{name}-{stamp.hexdigest()[:16]}.npz"
    arrays = _read_cache(cached)
    if arrays is None:
        _check_digest(name, base, listing)
        arrays = {}
        known = _KNOWN_TREES.get(name)
        shape: tuple[int, ...] | None = (known.side, known.side, 3) if known else None
        for part, key in (("train", "train"), (test_folder, "test")):
            images, labels, shape = _decode(name, listing[part], classes, shape)
            arrays |= {f"{key}_images": images, f"{key}_labels": labels}
        _write_cache(cached, arrays)
    return _dataset(
        name,
        classes,
        (arrays["train_images"], arrays["train_labels"]),
        (arrays["test_images"], arrays["test_labels"]),
    )


def _list(folder: Path) -> dict[str, list[Path]]:
    """Class name → its image files, sorted; folders below a class are looked into."""
    return {
        entry.name: sorted(p for p in entry.rglob("*") if p.suffix.lower() in _IMAGE_SUFFIXES)
        for entry in sorted(folder.iterdir())
        if entry.is_dir()
    }


def _check_tree(
    name: str,
    base: Path,
    listing: dict[str, dict[str, list[Path]]],
    classes: list[str],
    test_folder: str,
) -> None:
    if not classes:
        raise DataError(f"{name}: {base / 'train'} holds no class folders")
    for part, files in listing.items():
        for empty in (c for c in files if not files[c]):
            raise DataError(f"{name}: {base / part / empty} holds no .jpg, .jpeg or .png file")
    odd = sorted(set(listing["train"]) ^ set(listing[test_folder]))
    if odd:
        raise DataError(
            f"{name}: class {odd[0]!r} is not in both {base / 'train'} and {base / test_folder}"
        )
    known = _KNOWN_TREES.get(name)
    if known is None:
        return
    if classes != list(known.classes):
        raise DataError(f"{name}: classes in {base} are {classes}; expected {list(known.classes)}")
    for part, files in listing.items():
        for label, paths in files.items():
            if len(paths) != known.files_per_class.get(part):
                raise DataError(
                    f"{name}: {base / part / label} holds {len(paths)} images, expected "
                    f"{known.files_per_class.get(part)}; unpack the archive again"
                )


def _check_digest(name: str, base: Path, listing: dict[str, dict[str, list[Path]]]) -> None:
    """Compare all files of a known tree with its digest: catches swapped and altered files."""
    known = _KNOWN_TREES.get(name)
    if known is None:
        return
    if tree_digest(base, listing) != known.digest:
        raise DataError(
            f"{name}: some file below {base} is not the archive's (altered, or under another "
            "class); unpack the archive again, or give the folder another name to use it as it is"
        )


def tree_digest(base: Path, listing: dict[str, dict[str, list[Path]]]) -> str:
    """SHA-256 over the relative paths and contents of all listed files, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for files in listing.values():
        for paths in files.values():
            for path in paths:
                inner = hashlib.sha256(path.read_bytes()).hexdigest()
                digest.update(f"{path.relative_to(base).as_posix()} {inner}\n".encode())
    return digest.hexdigest()[:16]


def _decode(
    name: str,
    files: dict[str, list[Path]],
    classes: list[str],
    shape: tuple[int, ...] | None,
) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    from PIL import Image, UnidentifiedImageError

    images, labels = [], []
    for label, class_name in enumerate(classes):
        for path in files[class_name]:
            try:
                with Image.open(path) as image:
                    pixels = np.asarray(image.convert("RGB"))
            except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
                raise DataError(
                    f"{name}: {path} cannot be decoded ({error}); restore or delete this file"
                ) from error
            shape = shape or pixels.shape
            if pixels.shape != shape:
                raise DataError(
                    f"{name}: {path} is {pixels.shape[1]}×{pixels.shape[0]}, the others are "
                    f"{shape[1]}×{shape[0]}; resize or remove it"
                )
            images.append(pixels)
            labels.append(label)
    assert shape is not None
    return np.stack(images), np.asarray(labels), shape


def _read_cache(path: Path) -> dict[str, np.ndarray] | None:
    """The cached arrays; ``None`` if there are none or they are damaged (then: decode again)."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except Exception:  # whatever a damaged zip file makes numpy raise, the remedy is the same
        return None


def _write_cache(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write atomically; a cache that cannot be written is done without."""
    with contextlib.suppress(OSError), replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


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

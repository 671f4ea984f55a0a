"""Data sets as tensors.

A data set is decoded once into uint8 tensors and cached; nothing is decoded during training.

======================  ==========================================================================
``digits``              scikit-learn's handwritten digits, 8×8; part of the installation
``cifar10``             the original files, through torchvision (``download=True`` fetches them)
``cifar100``            likewise, with its 100 fine classes
any other name          a folder tree ``<root>/<name>/train/<class>/*.jpg`` and ``.../test/...``
``<tree>@32``           a folder tree at 32×32 pixels: see :func:`nbrepro.data.folder.read`
``<name>-classes0to4``  five classes of ``<name>``: see :func:`some_classes`
``<name>-16px``         a fifth of ``<name>``, at half its side: see :func:`shrink`
``...-16px-alltest``    the same, tested on every image instead of a fifth
``<name>-few10``        ten training images of each class: see :func:`few_images`
======================  ==========================================================================

The last four may follow each other in this order: ``tiny-imagenet-50@32-classes0to9-16px-few10``.

``cifar10-jpeg`` is a folder tree too: CIFAR-10 re-encoded as JPEG. Its pixels differ from the
original's, hence the name, and its contents are checked against a known digest. So are those of
``tiny-imagenet-50``, 50 of the 200 classes of Tiny ImageNet in their original files, 64×64.
"""

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nbrepro.data import cards, folder
from nbrepro.data.decode import DataError
from nbrepro.data.folder import default_root
from nbrepro.spec import Spec

if TYPE_CHECKING:
    from nbrepro.data.files import FileDataset

log = logging.getLogger("nbrepro")


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

    @property
    def chance(self) -> float:
        """Accuracy of guessing, where test images are spread evenly over the classes."""
        return 1 / len(self.classes)

    @property
    def card(self) -> cards.Card:
        """The data set's :func:`nbrepro.data.card`, completed from the images themselves."""
        height, width = self.train_images.shape[1:3]
        return replace(
            cards.card(self.name),
            classes=len(self.classes),
            train_images=len(self.train_images),
            test_images=len(self.test_images),
            side=height if height == width else None,
            fingerprint=self.fingerprint,
        )

    def __repr__(self) -> str:
        n, height, width, _ = self.train_images.shape
        return (
            f"{self.name}: {n:,} training and {len(self.test_images):,} test images, "
            f"{height}×{width}, {len(self.classes)} classes, fingerprint {self.fingerprint}"
        )


def load(name: str, root: str | Path | None = None, *, download: bool = False) -> Dataset:
    """Load a data set by name.

    Args:
        name: see the table at the top of this module.
        root: folder that holds the data sets; by default :func:`default_root`.
        download: allow torchvision to fetch ``cifar10`` or ``cifar100``.

    Raises:
        DataError: if the data is missing, truncated, mislabelled or of the wrong shape; the message
            names the file and what to do.
    """
    root = Path(root) if root is not None else default_root()
    data, side, classes, small, all_test, few = cards.parse(name)
    if data not in cards.NOT_TREES:
        dataset = _dataset(cards.base(name), *folder.read(data, root, side))
    elif side is not None:
        raise DataError(f"{name}: only folder trees are resized, write {data} without @{side}")
    else:
        dataset = _digits() if data == "digits" else _cifar(data, root, download)
    if classes is not None:
        dataset = some_classes(dataset, *classes)
    if small:
        dataset = shrink(dataset, all_test=all_test)
    return dataset if few is None else few_images(dataset, few)


def load_for(
    spec: Spec, root: str | Path | None = None, *, download: bool = False
) -> "Dataset | FileDataset":
    """The data of a run: files for the augmentation ``resized-crop``, else as :func:`load` does.

    Args:
        spec: the run.
        root: as for :func:`load`.
        download: as for :func:`load`.

    Raises:
        DataError: as :func:`load` and :func:`nbrepro.data.files.open_files` do.
    """
    if spec.augmentation != "resized-crop":
        return load(spec.dataset, root, download=download)
    from nbrepro.data.files import open_files

    return open_files(spec.dataset, Path(root) if root is not None else default_root())


def some_classes(dataset: Dataset, first: int, last: int) -> Dataset:
    """The images of the classes ``first`` to ``last``, labelled 0 to ``last - first``.

    Two such parts are two tasks on images of one kind; each has its own chance level.

    Raises:
        DataError: if there are no such classes, or fewer than two of them.
    """
    names = folder.chosen(dataset.name, dataset.classes, first, last)
    parts = []
    for images, labels in (
        (dataset.train_images, dataset.train_labels),
        (dataset.test_images, dataset.test_labels),
    ):
        kept = (labels >= first) & (labels <= last)
        parts.append((images[kept].numpy(), (labels[kept] - first).numpy()))
    return _dataset(f"{dataset.name}-classes{first}to{last}", names, *parts)


def shrink(dataset: Dataset, *, all_test: bool = False) -> Dataset:
    """The first fifth of every class, each image at half its side (means of 2×2 pixels).

    CIFAR-10 becomes 10,000 training and 2,000 test images of 16×16: small enough for sweeps of
    optimizer settings on a CPU. Of a class with fewer than five images one is kept, with a warning.

    Args:
        dataset: the whole.
        all_test: keep every test image, so that accuracies after the same training are read from
            five times as many.
    """
    parts = []
    fifth = cards.SMALL_SHARE
    for part, images, labels, share in (
        ("training", dataset.train_images, dataset.train_labels, fifth),
        ("test", dataset.test_images, dataset.test_labels, 1 if all_test else fifth),
    ):
        indices = [(labels == c).nonzero()[:, 0] for c in range(len(dataset.classes))]
        few = [
            f"{name} ({len(index)})"
            for name, index in zip(dataset.classes, indices, strict=True)
            if len(index) < share
        ]
        if few:
            log.warning(
                "%s%s keeps one in %d images of a class, but one %s image of each class that has "
                "fewer than %d: %s",
                dataset.name, cards.SMALL, share, part, share, ", ".join(few),
            )  # fmt: skip
        first = torch.cat([index[: max(1, len(index) // share)] for index in indices])
        kept = images[first].permute(0, 3, 1, 2).float()
        small = torch.nn.functional.avg_pool2d(kept, 2).round().byte().permute(0, 2, 3, 1)
        parts.append((small.numpy(), labels[first].numpy()))
    name = dataset.name + cards.SMALL + (cards.ALL_TEST if all_test else "")
    return _dataset(name, list(dataset.classes), *parts)


def few_images(dataset: Dataset, images: int) -> Dataset:
    """The first ``images`` training images of every class; the test set stays whole.

    Raises:
        DataError: if a class has fewer.
    """
    labels = dataset.train_labels
    indices = [(labels == c).nonzero()[:images, 0] for c in range(len(dataset.classes))]
    for name, index in zip(dataset.classes, indices, strict=True):
        if len(index) < images:
            raise DataError(
                f"{dataset.name} has {len(index)} training images of {name}, so there is no "
                f"{dataset.name}-few{images}; take at most {len(index)}"
            )
    kept = torch.cat(indices)
    return _dataset(
        f"{dataset.name}-few{images}",
        list(dataset.classes),
        (dataset.train_images[kept].numpy(), labels[kept].numpy()),
        (dataset.test_images.numpy(), dataset.test_labels.numpy()),
    )


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


def _cifar(name: str, root: Path, download: bool) -> Dataset:
    """CIFAR-10 or CIFAR-100 from the original files, each of them checked."""
    from torchvision.datasets import CIFAR10, CIFAR100
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive

    source = CIFAR10 if name == "cifar10" else CIFAR100
    names = (source.meta["filename"], source.meta["md5"])
    files = {
        root / source.base_folder / file: md5
        for file, md5 in (*source.train_list, *source.test_list, names)
    }
    try:
        if download and not all(check_integrity(str(path), md5) for path, md5 in files.items()):
            download_and_extract_archive(
                source.url, str(root), filename=source.filename, md5=source.tgz_md5
            )
        remedy = "run with download=True (nbrepro run --download) to fetch it"
        for path, md5 in files.items():
            if not path.exists():
                raise DataError(
                    f"{name}: {path.absolute()} is missing; {remedy}, or name the folder that "
                    f"holds {source.base_folder}/ with --data-root or NBREPRO_DATA"
                )
            if not check_integrity(str(path), md5):
                raise DataError(
                    f"{name}: {path.absolute()} is damaged (its MD5 is not {md5}); delete it and "
                    f"{remedy} again"
                )
        parts = [source(root, train=train) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{name}: torchvision could not read or fetch it below {root}: {error}. Without a "
            f"network, put {source.base_folder}/ there yourself; it is in {source.filename}"
        ) from error
    train, test = ((part.data, np.asarray(part.targets)) for part in parts)
    return _dataset(name, list(parts[0].classes), train, test)

"""Folder trees of images: checked, decoded once, and cached.

A tree is ``<root>/<name>/{train,test}/<class>/<image>``; ``val`` is accepted for ``test``, and
folders inside a class are searched too. Images may have any size, square or not, but all the same:
batches are cut from one tensor, which must fit into memory (3 bytes per pixel). Nothing is resized
unless a side is given, since the method would affect the results; it is then part of the name, as
in ``tiny-imagenet-50@32``. :mod:`nbrepro.data.decode` says how files become pixels.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nbrepro._files import cache_folder, replacing
from nbrepro.data.decode import SUFFIXES, DataError, decode, is_image

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger("nbrepro")

#: uint8 images ``[N, H, W, 3]`` and their labels ``[N]``.
Part = tuple[np.ndarray, np.ndarray]

# Part of a cached file's name: another number whenever decoding gives other pixels.
_DECODING = 2
_TEST_FOLDERS = ("test", "val")
_ENDINGS = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"


@dataclass(frozen=True)
class _Tree:
    """A folder tree with known content."""

    side: int
    files_per_class: dict[str, int]
    digest: str
    classes: tuple[str, ...] = ()  # if not given, the digest alone tells other ones


_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_KNOWN_TREES = {
    "cifar10-jpeg": _Tree(
        side=32,
        files_per_class={"train": 5000, "test": 1000},
        digest="3f8acc60b8946a2f",
        classes=tuple(_CIFAR10.split()),
    ),
    "tiny-imagenet-50": _Tree(
        side=64,
        files_per_class={"train": 500, "val": 50},
        digest="ca02f931668b9c2c",
    ),
}


def default_root() -> Path:
    """The folder of the data sets: ``$NBREPRO_DATA`` or ``./data``."""
    return Path(os.environ.get("NBREPRO_DATA") or "data")


def read(name: str, root: Path, side: int | None = None) -> tuple[list[str], Part, Part]:
    """Decode the tree ``<root>/<name>``, or take it from the cache.

    Args:
        name: the tree's folder.
        root: folder that holds the data sets.
        side: resize all images to ``side × side`` pixels: of the central square, each new pixel is
            the mean of the area that it covers (Pillow's ``BOX``, rounded after each direction).
            Images may then differ in size.

    Returns:
        Names of the classes; the training and the test images with their labels.

    Raises:
        DataError: if the tree is missing or wrong; the message names the file and what to do.
    """
    tree = find(name, root)
    classes, listing = tree.classes, tree.parts
    stamp = _stamp(listing, f"{_DECODING} {side} {tree.base.resolve()}")
    cached = cache_folder() / f"{name}-{stamp}.npz"
    arrays = _read_cache(cached)
    if arrays is None:
        _check_digest(name, tree.base, listing)
        arrays = {}
        known = _KNOWN_TREES.get(name)
        shape: tuple[int, ...] | None = (known.side, known.side, 3) if known and not side else None
        for key, files in zip(("train", "test"), listing.values(), strict=True):
            images, labels, shape = _decode(name, files, classes, shape, side)
            arrays |= {f"{key}_images": images, f"{key}_labels": labels}
        _write_cache(cached, arrays)
    return (
        classes,
        (arrays["train_images"], arrays["train_labels"]),
        (arrays["test_images"], arrays["test_labels"]),
    )


@dataclass(frozen=True)
class Tree:
    """The files of a folder tree.

    Attributes:
        name: of the data set.
        base: the tree's folder.
        classes: names of the classes, sorted.
        parts: ``train``, then ``test`` or ``val`` → class → its files.
    """

    name: str
    base: Path
    classes: list[str]
    parts: dict[str, dict[str, list[Path]]]


def find(name: str, root: Path) -> Tree:
    """List the tree ``<root>/<name>``.

    Raises:
        DataError: if the tree is missing or wrong; the message names the file and what to do.
    """
    base = root / name
    if not (base / "train").is_dir():
        hint = "Known without files: digits; fetched on request: cifar10, cifar100."
        raise DataError(
            f"data set {name!r}: no folder {(base / 'train').absolute()}. Put the images there as "
            "train/<class>/*.jpg and test/<class>/*.jpg, or name another root with --data-root or "
            f"NBREPRO_DATA. {hint}"
        )
    test_folder = next((t for t in _TEST_FOLDERS if (base / t).is_dir()), None)
    if test_folder is None:
        raise DataError(f"{name}: no folder {base / 'test'} (or val) beside {base / 'train'}")
    listing = {part: _list(base / part) for part in ("train", test_folder)}
    classes = sorted(listing["train"])
    _check_tree(name, base, listing, classes, test_folder)
    return Tree(name, base, classes, listing)


def chosen(name: str, classes: Sequence[str], first: int, last: int) -> list[str]:
    """The classes with the labels ``first`` to ``last``.

    Raises:
        DataError: if there are no such classes, or fewer than two of them.
    """
    if not first < last < len(classes):
        raise DataError(
            f"{name}-classes{first}to{last}: {name} has the classes 0 to {len(classes) - 1}; "
            "expected two or more of them, the lower label first, as in "
            f"{name}-classes0to{len(classes) // 2}"
        )
    return list(classes[first : last + 1])


def digest(tree: Tree, classes: Sequence[str]) -> str:
    """:func:`tree_digest` of some of the classes of a tree, or from the cache if nothing changed.

    Raises:
        DataError: if a tree whose content is known has another one.
    """
    parts = {part: {c: files[c] for c in classes} for part, files in tree.parts.items()}
    cached = cache_folder() / f"{tree.name}-{_stamp(parts, str(tree.base.resolve()))}.digest"
    with contextlib.suppress(OSError):
        if len(found := cached.read_text("ascii")) == 16:
            return found
    _check_digest(tree.name, tree.base, tree.parts)
    found = tree_digest(tree.base, parts)
    with contextlib.suppress(OSError), replacing(cached) as file:
        file.write(found.encode())
    return found


def _stamp(listing: dict[str, dict[str, list[Path]]], made: str) -> str:
    """Changes whenever a listed file does, or how something is ``made`` of them."""
    stamp = hashlib.sha256(made.encode())
    for files in listing.values():
        for paths in files.values():
            for path in paths:
                status = path.stat()
                # ctime and inode change even when two files of one size and time are swapped
                marks = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
                stamp.update(f"{path}\0{marks}\n".encode())
    return stamp.hexdigest()[:16]


def _list(folder: Path) -> dict[str, list[Path]]:
    """Class name → its image files, sorted; folders inside a class are searched too.

    Other files are left out, with a warning that names the first; hidden ones without.
    """
    classes = {entry: sorted(entry.rglob("*")) for entry in folder.iterdir() if entry.is_dir()}
    others = [path for path in folder.iterdir() if path.is_file()]
    others += [p for inside in classes.values() for p in inside if not is_image(p) and p.is_file()]
    others = sorted(path for path in others if not path.name.startswith("."))
    if others:
        log.warning(
            "%s: %d files are left out, the first is %s; expected images in folders of classes, "
            "with names that end in %s",
            folder, len(others), others[0].relative_to(folder), _ENDINGS,
        )  # fmt: skip
    return {
        entry.name: [path for path in inside if is_image(path)]
        for entry, inside in sorted(classes.items())
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
            raise DataError(f"{name}: {base / part / empty} holds no {_ENDINGS} file")
    odd = sorted(set(listing["train"]) ^ set(listing[test_folder]))
    if odd:
        raise DataError(
            f"{name}: class {odd[0]!r} is not in both {base / 'train'} and {base / test_folder}"
        )
    known = _KNOWN_TREES.get(name)
    if known is None:
        return
    if known.classes and classes != list(known.classes):
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
            f"{name}: some file below {base} differs from the archive (altered, or under another "
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
    side: int | None,
) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    images, labels = [], []
    for label, class_name in enumerate(classes):
        for path in files[class_name]:
            image = decode(path)
            pixels = np.asarray(image if side is None else _square(image, side))
            shape = shape or pixels.shape
            if pixels.shape != shape:
                raise DataError(
                    f"{name}: {path} is {pixels.shape[1]}×{pixels.shape[0]}, those before it are "
                    f"{shape[1]}×{shape[0]}; all images of a data set must have the same size: "
                    "resize or remove what differs, "
                    f"or write {name}@{min(shape[:2])}, which resizes them all"
                )
            images.append(pixels)
            labels.append(label)
    assert shape is not None
    return np.stack(images), np.asarray(labels), shape


def _square(image: "Image.Image", side: int) -> "Image.Image":
    """The central square at ``side × side`` pixels, each the mean of the area it covers."""
    from PIL import Image

    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    box = (left, top, left + short, top + short)
    return image.resize((side, side), Image.Resampling.BOX, box)


def _read_cache(path: Path) -> dict[str, np.ndarray] | None:
    """The cached arrays; ``None`` if there are none, or damaged ones, so images are decoded."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except Exception:  # whatever a damaged zip file makes numpy raise, the remedy is the same
        return None


def _write_cache(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write atomically; if that fails, images are decoded again the next time."""
    with contextlib.suppress(OSError), replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]

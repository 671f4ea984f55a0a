"""Data sets as tensors, and whole batches of them on the device.

Names load on first use: cards and folder trees need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from nbrepro.data.cards import SMALL, Card, base, card

if TYPE_CHECKING:
    from nbrepro.data.batches import MEAN, STD, Batches
    from nbrepro.data.datasets import Dataset, few_images, load, load_for, shrink, some_classes
    from nbrepro.data.decode import DataError
    from nbrepro.data.files import FileBatches, FileDataset, open_files
    from nbrepro.data.folder import default_root, tree_digest
else:
    _HOMES = {
        "batches": ("MEAN", "STD", "Batches"),
        "datasets": ("Dataset", "few_images", "load", "load_for", "shrink", "some_classes"),
        "decode": ("DataError",),
        "files": ("FileBatches", "FileDataset", "open_files"),
        "folder": ("default_root", "tree_digest"),
    }

    def __getattr__(name: str) -> object:
        for home, names in _HOMES.items():
            if name in names:
                return getattr(import_module(f"nbrepro.data.{home}"), name)
        raise AttributeError(f"module 'nbrepro.data' has no attribute {name!r}")


__all__ = [
    "MEAN",
    "SMALL",
    "STD",
    "Batches",
    "Card",
    "DataError",
    "Dataset",
    "FileBatches",
    "FileDataset",
    "base",
    "card",
    "default_root",
    "few_images",
    "load",
    "load_for",
    "open_files",
    "shrink",
    "some_classes",
    "tree_digest",
]

"""Data sets as tensors, and whole batches of them on the device."""

from nbrepro.data.batches import Batches
from nbrepro.data.datasets import (
    MEAN,
    SMALL,
    STD,
    DataError,
    Dataset,
    base,
    cache_folder,
    default_root,
    load,
    shrink,
    tree_digest,
)

__all__ = [
    "MEAN",
    "SMALL",
    "STD",
    "Batches",
    "DataError",
    "Dataset",
    "base",
    "cache_folder",
    "default_root",
    "load",
    "shrink",
    "tree_digest",
]

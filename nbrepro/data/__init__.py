"""Data sets as tensors, and whole batches of them on the device."""

from nbrepro.data.datasets import (
    MEAN,
    SMALL,
    STD,
    Batches,
    DataError,
    Dataset,
    base,
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
    "default_root",
    "load",
    "shrink",
    "tree_digest",
]

"""nbrepro: paper claims, the runs that could prove them wrong, and computed verdicts.

Rooms load on first use, so that ``import nbrepro`` costs nothing and a typing error in a
notebook's parameters is reported before torch is imported.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_ROOMS = (
    "agc",
    "book",
    "claims",
    "data",
    "experiments",
    "freezing",
    "imagenet",
    "layers",
    "models",
    "optim",
    "probes",
    "records",
    "spec",
    "sweep",
    "train",
)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"nbrepro.{name}")
    raise AttributeError(f"module 'nbrepro' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_ROOMS]

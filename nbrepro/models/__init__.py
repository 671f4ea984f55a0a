"""Networks by name: ``create("cifar_resnet14")``, ``create("nf_resnet50", num_classes=1000)``."""

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from nbrepro._suggest import choose, unknown
from nbrepro.models.family import Family, Size, read

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Size", "check", "create", "label", "names", "options", "size"]


@cache
def _families() -> dict[str, Family]:
    """Name of a file in this folder, without suffix → the family that it describes, if any.

    The files are read, not imported: they need torch, which takes seconds to load, and torch must
    not be needed to report a misspelt name, read a record or judge a claim.
    """
    files = sorted(Path(__file__).parent.glob("*.py"))
    found = {file.stem: read(file) for file in files}
    return {module: family for module, family in found.items() if family is not None}


def _find(name: str) -> tuple[str, Family]:
    if not isinstance(name, str):
        raise TypeError(f"a model has a name such as cifar_resnet14, not {name!r}")
    for module, family in _families().items():
        if family.claims(name):
            family.parse(name)
            return module, family
    raise ValueError(unknown("model", name, names()))


def names() -> list[str]:
    """The networks of the papers; families accept other sizes too (see their docstrings)."""
    return [name for family in _families().values() for name in family.names]


def check(name: str) -> None:
    """Raise if :func:`create` would not know ``name``, without building anything.

    Raises:
        ValueError: naming what is wrong and the nearest right name.
    """
    _find(name)


def options(name: str) -> tuple[str, ...]:
    """The options that :func:`create` takes for this network.

    Raises:
        ValueError: for an unknown name.
    """
    return _find(name)[1].options_of(name)


def size(name: str) -> Size:
    """Depth and width, as the name counts them: ``cifar_resnet14x2`` → ``Size(14, 2)``.

    Raises:
        ValueError: for an unknown name.
    """
    return _find(name)[1].size_of(name)


def label(name: str) -> str:
    """The network's name for readers: ``cifar_resnet14x2`` → ``ResNet-14 ×2``.

    Raises:
        ValueError: for an unknown name.
    """
    return _find(name)[1].label_of(name)


def create(name: str, num_classes: int = 10, **options: object) -> "nn.Module":
    """Build a freshly initialized network.

    Args:
        name: for example ``cifar_resnet14``, ``cifar_resnet14x4`` (four times as wide),
            ``resnet50``, ``cifar_vgg16``, ``cifar_nf_resnet20``, ``nf_resnet50`` or ``nfnet_f0``;
            see :func:`names`.
        num_classes: outputs of the last linear layer.
        **options: options of the family, for example ``batchnorm_init="oneone"``.

    Raises:
        TypeError: for a name that is no text, or a number of classes that is not whole.
        ValueError: for an unknown name, an impossible size or a bad option.
    """
    module, family = _find(name)
    if isinstance(num_classes, bool) or not isinstance(num_classes, int):
        raise TypeError(f"num_classes is {num_classes!r}, expected a whole number")
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; it must be at least 1")
    for option in options:
        choose(f"option of {name}", option, family.options_of(name))
    model: nn.Module = import_module(f"nbrepro.models.{module}").build(name, num_classes, **options)
    return model

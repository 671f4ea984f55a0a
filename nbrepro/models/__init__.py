"""Networks by name: ``create("cifar_resnet14")``, ``create("nf_resnet50", num_classes=1000)``."""

from types import ModuleType

from torch import nn

from nbrepro._suggest import choose, unknown
from nbrepro.models import cifar_nf_resnet, cifar_resnet, nf_resnet, nfnet

# A family has PREFIX (a text or several), OPTIONS, NAMES, parse(name) and build(name, ...).
_FAMILIES: tuple[ModuleType, ...] = (cifar_resnet, cifar_nf_resnet, nf_resnet, nfnet)


def names() -> list[str]:
    """The networks of the papers; families accept other sizes too (see their docstrings)."""
    return [name for family in _FAMILIES for name in family.NAMES]


def _family(name: str) -> ModuleType:
    for family in _FAMILIES:
        if name.startswith(family.PREFIX):
            family.parse(name)
            return family
    raise ValueError(unknown("model", name, names()))


def check(name: str) -> None:
    """Raise if :func:`create` would not know ``name``, without building anything.

    Raises:
        ValueError: naming what is wrong and the nearest right name.
    """
    _family(name)


def options(name: str) -> tuple[str, ...]:
    """The options that :func:`create` takes for this network.

    Raises:
        ValueError: for an unknown name.
    """
    known: tuple[str, ...] = _family(name).OPTIONS
    return known


def create(name: str, num_classes: int = 10, **options: object) -> nn.Module:
    """Build a freshly initialised network.

    Args:
        name: for example ``cifar_resnet14``, ``cifar_resnet14x4`` (four times as wide),
            ``cifar_nf_resnet20``, ``nf_resnet50`` or ``nfnet_f0``.
        num_classes: outputs of the last linear layer.
        **options: the family's own, for example ``batchnorm_init="oneone"``.

    Raises:
        ValueError: for an unknown name, an impossible size or a bad option.
    """
    family = _family(name)
    for option in options:
        choose(f"option of {name}", option, family.OPTIONS)
    model: nn.Module = family.build(name, num_classes, **options)
    return model

"""Networks by name: ``create("cifar_resnet14")``, ``create("cifar_resnet14x4")``."""

from torch import nn

from nbrepro.models import cifar_resnet
from nbrepro.names import choose, unknown

_FAMILIES = (cifar_resnet,)


def names() -> list[str]:
    """The networks of the papers; families accept other sizes too (see their docstrings)."""
    return [name for family in _FAMILIES for name in family.NAMES]


def check(name: str) -> None:
    """Raise if :func:`create` would not know ``name``, without building anything.

    Raises:
        ValueError: naming what is wrong and the nearest right name.
    """
    for family in _FAMILIES:
        if name.startswith(family.PREFIX):
            family.parse(name)
            return
    raise ValueError(unknown("model", name, names()))


def create(name: str, num_classes: int = 10, **options: object) -> nn.Module:
    """Build a freshly initialised network.

    Args:
        name: for example ``cifar_resnet14`` or ``cifar_resnet14x4`` (four times as wide).
        num_classes: outputs of the last linear layer.
        **options: the family's own, for example ``batchnorm_init="oneone"``.

    Raises:
        ValueError: for an unknown name, an impossible size or a bad option.
    """
    check(name)
    family = next(f for f in _FAMILIES if name.startswith(f.PREFIX))
    for option in options:
        choose(f"option of {name}", option, family.OPTIONS)
    model: nn.Module = family.build(name, num_classes, **options)
    return model

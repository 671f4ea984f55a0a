"""Parameter groups: weights are decayed, gains and biases are not (arXiv 2102.06171, appendix A).

The authors exempt gains and biases by name. Here the shape decides: a parameter with one number per
unit, or a single number, is exempt. timm exempts those with one dimension, and so decays its own
weight-standardization gains, which have shape ``[out, 1, 1, 1]``.
"""

from typing import Any

from torch import Tensor, nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters for an optimizer: weights are decayed, gains and biases not.

    Decayed are the weights of convolutions and linear layers. Not decayed are biases, gains of
    weight standardization, SkipInit scalars, and γ and β of BatchNorm: everything with no more
    numbers than its first dimension. (A linear layer with one input looks the same and is not
    decayed.)

    Args:
        model: any module; shared parameters appear once, frozen ones not at all.
        weight_decay: the coefficient of the decayed group.

    Returns:
        One or two groups, each with ``params`` and ``weight_decay``; no group is empty.

    Raises:
        ValueError: if no parameter of the model is trainable.
    """
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": weight_decay},
        {"params": [], "weight_decay": 0.0},
    ]
    for parameter in trainable(model):
        groups[0 if is_decayed(parameter) else 1]["params"].append(parameter)
    return [group for group in groups if group["params"]]


def undecayed(model: nn.Module) -> list[str]:
    """The names of what :func:`parameter_groups` does not decay, for ``ClippedSGD(no_decay=...)``.

    Frozen parameters are among them, so that they stay exempt when they are unfrozen.

    Args:
        model: any module; shared parameters appear once.
    """
    return [name for name, parameter in model.named_parameters() if not is_decayed(parameter)]


def is_decayed(parameter: Tensor) -> bool:
    """Whether it has more numbers than its first dimension, unlike a bias, a gain or a scalar."""
    return parameter.ndim > 0 and parameter.numel() > parameter.shape[0]


def trainable(model: nn.Module) -> list[Tensor]:
    """The parameters that are trained, each once.

    Raises:
        ValueError: if there is none.
    """
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("no parameter of this model is trainable; unfreeze some of it first")
    return parameters

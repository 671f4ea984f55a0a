"""Random initialization as the BatchNorm-only study uses it.

Source: arXiv 2003.00152, section 3 and appendices; the released code (open_lth) draws γ from
U[0, 1). Draws happen on the CPU, so a seed gives the same network on every device.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nbrepro._suggest import choose


def _uniform(gamma: Tensor, beta: Tensor) -> None:
    nn.init.uniform_(gamma, 0.0, 1.0)
    nn.init.zeros_(beta)


def _fixed(gamma: Tensor, beta: Tensor) -> None:
    nn.init.ones_(gamma)
    nn.init.zeros_(beta)


def _oneone(gamma: Tensor, beta: Tensor) -> None:
    nn.init.ones_(gamma)
    nn.init.ones_(beta)


def _positivenegative(gamma: Tensor, beta: Tensor) -> None:
    nn.init.uniform_(gamma, -1.0, 1.0)
    nn.init.zeros_(beta)


def _binary(weight: Tensor) -> None:
    """Signs of a He-normal draw, scaled to that draw's standard deviation."""
    nn.init.kaiming_normal_(weight)
    with torch.no_grad():
        weight.copy_(weight.sign() * weight.std())


def _kaiming_normal(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight)


def _kaiming_uniform(weight: Tensor) -> None:
    nn.init.kaiming_uniform_(weight)


def _orthogonal(weight: Tensor) -> None:
    nn.init.orthogonal_(weight)


#: How γ and β start. ``uniform`` (γ ~ U[0, 1), β = 0) is the paper's default.
BATCHNORM: dict[str, Callable[[Tensor, Tensor], None]] = {
    "uniform": _uniform,
    "fixed": _fixed,
    "oneone": _oneone,
    "positivenegative": _positivenegative,
}

#: How convolution and linear weights start. He normal (fan-in, gain √2) is the paper's default.
WEIGHT: dict[str, Callable[[Tensor], None]] = {
    "kaiming_normal": _kaiming_normal,
    "kaiming_uniform": _kaiming_uniform,
    "orthogonal": _orthogonal,
    "binary": _binary,
}


def initialize(model: nn.Module, weight_init: str, batchnorm_init: str) -> None:
    """Draw all weights of ``model`` in module order; linear biases keep PyTorch's uniform draw.

    Raises:
        ValueError: for an unknown initialization.
    """
    weight = WEIGHT[choose("weight_init", weight_init, WEIGHT)]
    batchnorm = BATCHNORM[choose("batchnorm_init", batchnorm_init, BATCHNORM)]
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            batchnorm(module.weight, module.bias)

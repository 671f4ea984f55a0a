"""Layer-wise adaptive rate scaling, an alternative to AGC (2102.06171, section 4)."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from nbrepro.agc import norm_type
from nbrepro.optim.groups import is_decayed


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al., arXiv 1708.03888, Algorithm 1).

    ``v = momentum v + lr ratio (g + weight_decay w)`` and ``w = w - v``, where a weight's
    ``ratio = trust |w| / (|g| + weight_decay |w|)``. For biases, gains and scalars (what
    :func:`parameter_groups` does not decay) and where ``w`` or ``g`` is zero, the ratio is
    ``scalars``. The paper leaves it at 1; but the rates that suit weights under LARS are far
    larger than those that suit a bias.

    The learning rate is inside the momentum, as in the paper, so that a change of rate does not
    rescale the past. ``timm.optim.Lars`` has it outside (at a constant rate the two are the same);
    the tests compare with it, training does not need it.

    Norms and steps of half-precision weights are computed in float32. A weight whose norm, or its
    gradient's, is nan, infinite or too large for its type becomes nan: a ratio of zero would
    silently stop it.

    Args:
        params: parameters, or groups as :func:`parameter_groups` gives them.
        lr: learning rate; a tensor on the parameters' device is never read back.
        momentum: factor of the velocity.
        weight_decay: for groups without one of their own; biases and gains are not exempt.
        trust: the paper's η.
        scalars: the ratio of biases, gains and scalars.

    Raises:
        TypeError: for options that are no numbers, and from ``step`` for sparse gradients.
        ValueError: for numbers out of range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float | Tensor,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        scalars: float = 1.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust": trust,
            "scalars": scalars,
        }
        for name, value in defaults.items():
            if not isinstance(value, Tensor):  # which would have to be read back
                _check(name, value, below=1.0 if name == "momentum" else math.inf)
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move all parameters that have a gradient.

        Args:
            closure: computes the loss and its gradients once more, as torch's optimizers allow.

        Returns:
            What the closure returns, or ``None`` without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        _check_dense(self.param_groups)
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            velocities = [self.state[weight]["momentum_buffer"] for weight in weights]
            gradients = _wide([p.grad for p in weights if p.grad is not None])
            rates = self._rates(_wide(weights), gradients, group)
            change = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
            torch._foreach_mul_(change, rates)
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, change)
            torch._foreach_sub_(weights, velocities)
        return loss

    @staticmethod
    def _rates(
        weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any]
    ) -> tuple[Tensor, ...]:
        """Learning rate times ratio, a scalar tensor for every weight."""
        size, slope = (
            torch.stack(torch._foreach_norm(tensors)).nan_to_num(nan=math.nan, posinf=math.nan)
            for tensors in (weights, gradients)
        )
        ratio = group["trust"] * size / (slope + group["weight_decay"] * size)
        ratio = torch.where((size == 0) | (slope == 0), group["scalars"], ratio)  # nan stays
        other = torch.full_like(ratio[0], group["scalars"])
        chosen = [
            own if is_decayed(weight) else other for weight, own in zip(weights, ratio, strict=True)
        ]
        rates: Tensor = torch.stack(chosen) * group["lr"]
        return rates.unbind()


def _wide(tensors: list[Tensor]) -> list[Tensor]:
    """The same tensors, those of half precision as float32."""
    return [tensor.to(norm_type(tensor) or tensor.dtype) for tensor in tensors]


def _check(name: str, value: float, below: float) -> None:
    try:
        possible = 0 <= value < below
    except TypeError:
        raise TypeError(f"{name} is {value!r}; expected a number") from None
    if not possible:
        bound = "" if below == math.inf else f" and below {below:g}"
        raise ValueError(f"{name} is {value}; expected a finite number of at least 0{bound}")


def _check_dense(groups: list[dict[str, Any]]) -> None:
    for parameter in (p for group in groups for p in group["params"]):
        if parameter.grad is not None and parameter.grad.layout is not torch.strided:
            raise TypeError(
                f"the gradient of a parameter of shape {tuple(parameter.shape)} is sparse; LARS "
                "expects dense ones, such as those of an embedding with sparse=False"
            )

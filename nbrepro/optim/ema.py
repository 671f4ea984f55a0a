"""Averaged weights (NFNets, arXiv 2102.06171, appendix A.1, in the form of the authors' code)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from nbrepro.agc import norm_type

_Number = TypeVar("_Number", float, Tensor)


def ema_decay(step: _Number, decay: float = 0.99999) -> _Number:
    """Decay of the averaged weights: ``min(decay, (1 + step) / (10 + step))``.

    At 0.99999 the second term is the smaller one for the first 899,990 steps; the NFNets train for
    about 112,600.

    Args:
        step: the global step, from 0; a number, or a tensor on any device.
        decay: upper bound.
    """
    rising = (1 + step) / (10 + step)
    return rising.clamp(max=decay) if isinstance(rising, Tensor) else min(decay, rising)


class EMA:
    """An exponential moving average of a model's weights (NFNets, appendix A.1).

    Averages the trainable parameters and the floating-point buffers (running statistics), copies
    other buffers, and leaves frozen parameters out. It starts as a copy of the model. Averages of
    half-precision weights are kept in float32, where their small changes are not rounded away. (The
    authors average the running statistics of BatchNorm like the weights; other programs copy them.)

    ``torch.optim.swa_utils.AveragedModel`` would do the same, but its update reads a counter back
    from the device, which stalls a GPU and cannot be captured in a CUDA graph, and it also copies
    and averages frozen parameters.

    Args:
        model: the model to follow, already on its device and frozen as it will be trained.
        decay: upper bound of :func:`ema_decay`.
    """

    def __init__(self, model: nn.Module, decay: float = 0.99999) -> None:
        self.decay = decay
        tensors = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._live = {**tensors, **dict(model.named_buffers())}
        self._average = {
            name: tensor.detach().to(norm_type(tensor) or tensor.dtype, copy=True)
            for name, tensor in self._live.items()
        }

    @torch.no_grad()
    def update(self, step: int | Tensor) -> None:
        """Average in the weights after the optimizer's step ``step`` (from 0).

        Args:
            step: a number, or an integer tensor on the model's device, which is not read back.
        """
        weight: float | Tensor
        if isinstance(step, Tensor):  # 1 - 0.9999 needs more digits than float32 has
            weight = (1 - ema_decay(step.double(), self.decay)).float()
        else:
            weight = 1 - ema_decay(float(step), self.decay)
        averaged = [name for name, t in self._average.items() if t.is_floating_point()]
        average = [self._average[name] for name in averaged]
        # Not _foreach_lerp_: it would read back a weight that is on the device.
        change = torch._foreach_sub([self._live[name] for name in averaged], average)
        torch._foreach_mul_(change, weight)
        torch._foreach_add_(average, change)
        for name in self._average.keys() - averaged:
            self._average[name].copy_(self._live[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the model, in place, and restore its own weights at the end.

        The model keeps its types: under half precision it has the average rounded.
        """
        live, average = list(self._live.values()), list(self._average.values())
        own = [tensor.detach().clone() for tensor in live]
        with torch.no_grad():
            torch._foreach_copy_(live, average)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(live, own)

    def state_dict(self) -> dict[str, Tensor]:
        """The average by name; the tensors are not copies, and float32 for half precision."""
        return dict(self._average)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` returned, in place; types may differ.

        Raises:
            ValueError: if it belongs to another model, or to one with other parameters trained.
        """
        if state.keys() != self._average.keys():
            odd = ", ".join(sorted(state.keys() ^ self._average.keys())[:5])
            raise ValueError(f"this average belongs to another model: {odd} only in one of the two")
        for name, tensor in self._average.items():
            tensor.copy_(state[name])

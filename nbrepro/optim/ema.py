"""Averaged weights (NFNets, arXiv 2102.06171, appendix A.1, in the form of the authors' code)."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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

    Averages the trainable parameters and the running statistics of BatchNorm, and copies all other
    buffers: a mask of -inf has no average. Frozen parameters and buffers that are not saved with
    the model are left out. It starts as a copy of the model. Averages of half-precision weights are
    kept in float32, where their small changes are not rounded away. (The authors average the
    running statistics of BatchNorm like the weights; other programs copy them.)

    To export the averaged model, frozen and tied parameters included::

        with ema.applied():
            torch.save(model.state_dict(), path)

    ``torch.optim.swa_utils.AveragedModel`` would do the same, but its update reads a counter back
    from the device, which stalls a GPU and cannot be captured in a CUDA graph, and it also copies
    and averages frozen parameters.

    Args:
        model: the model to follow, already on its device and frozen as it will be trained.
        decay: upper bound of :func:`ema_decay`, from 0 to 1.

    Raises:
        TypeError: for a decay that is no number.
        ValueError: for one out of range.
    """

    def __init__(self, model: nn.Module, decay: float = 0.99999) -> None:
        _check(decay)
        self.decay = decay
        saved = model.state_dict().keys()
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        buffers = [name for name, _ in model.named_buffers() if name in saved]
        # Not the tensors themselves: model.double(), for one, puts others in the place of buffers.
        self._places = {name: _place(model, name) for name in trained + buffers}
        self._average = {
            name: tensor.detach().to(norm_type(tensor) or tensor.dtype, copy=True)
            for name, tensor in zip(self._places, self._live(self._places), strict=True)
        }
        statistics = [name for name in buffers if isinstance(self._places[name][0], _BatchNorm)]
        self._averaged = [n for n in trained + statistics if self._average[n].is_floating_point()]
        self._copied = self._average.keys() - self._averaged

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
        average = [self._average[name] for name in self._averaged]
        # Not _foreach_lerp_: it would read back a weight that is on the device.
        change = torch._foreach_sub(self._live(self._averaged), average)
        torch._foreach_mul_(change, weight)
        torch._foreach_add_(average, change)
        for name, tensor in zip(self._copied, self._live(self._copied), strict=True):
            self._average[name].copy_(tensor)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the model, in place, and restore its own weights at the end.

        The model keeps its types: under half precision it has the average rounded.
        """
        live = self._live(self._average)
        own = [tensor.detach().clone() for tensor in live]
        with torch.no_grad():
            torch._foreach_copy_(live, list(self._average.values()))
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._live(self._average), own)

    def state_dict(self) -> dict[str, Tensor]:
        """The average by name, to go on from; the tensors are not copies.

        The model cannot load it in general, as it lacks frozen parameters and second names of tied
        ones: see the class for how to export. It is float32 for half precision.
        """
        return dict(self._average)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` returned, in place; types may differ.

        Raises:
            ValueError: if it belongs to another model, or to one with other parameters trained;
                nothing is copied then.
        """
        if state.keys() != self._average.keys():
            odd = ", ".join(sorted(state.keys() ^ self._average.keys())[:5])
            raise ValueError(f"this average belongs to another model: {odd} only in one of the two")
        for name, tensor in self._average.items():
            if state[name].shape != tensor.shape:
                raise ValueError(
                    f"this average belongs to another model: {name} has shape "
                    f"{tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
                )
        for name, tensor in self._average.items():
            tensor.copy_(state[name])

    def _live(self, names: Iterable[str]) -> list[Tensor]:
        """The model's own tensors."""
        return [getattr(*self._places[name]) for name in names]


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that has a parameter or buffer, and its name there."""
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def _check(decay: float) -> None:
    try:
        possible = 0 <= decay <= 1
    except TypeError:
        raise TypeError(f"decay is {decay!r}; expected a number") from None
    if not possible:
        raise ValueError(f"decay is {decay}; expected a number from 0 to 1, such as 0.99999")

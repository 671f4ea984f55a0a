"""The rest of the NFNet training recipe: weight decay, averaged weights, SAM, and LARS beside it.

Sources: arXiv 2102.06171 (NFNets), appendix A, in the form of the authors' released code; SAM,
arXiv 2010.01412; LARS, arXiv 1708.03888. No function here waits for the device, so all of them may
run inside a captured CUDA graph.

The loss needs no function of its own: ``torch.nn.functional.cross_entropy`` takes probabilities as
targets, and its ``label_smoothing`` is the authors'.

Where others differ:

* The authors exempt gains and biases from weight decay by name. Here the shape decides: what has
  one number a unit, or a single number, is exempt. timm exempts what has one dimension, and so
  decays its own weight-standardization gains, which have shape ``[out, 1, 1, 1]``.
* The authors average the running statistics of BatchNorm like the weights; others copy them.
* LARS has the learning rate inside the momentum (Algorithm 1 of its paper), so that a change of
  rate does not rescale the past; timm has it outside. At a constant rate the two are the same.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_Number = TypeVar("_Number", float, Tensor)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters for an optimizer: weights are decayed, gains and biases not.

    Decayed are the weights of convolutions and linear layers. Not decayed are biases, gains of
    weight standardization, SkipInit scalars, and γ and β of BatchNorm: all that has no more numbers
    than its first dimension. (A linear layer with one input looks the same and is not decayed.)

    Args:
        model: any module; shared parameters appear once, frozen ones not at all.
        weight_decay: of the decayed group.

    Returns:
        One or two groups, each with ``params`` and ``weight_decay``; no group is empty.

    Raises:
        ValueError: if no parameter of the model is trainable.
    """
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": weight_decay},
        {"params": [], "weight_decay": 0.0},
    ]
    for parameter in _trainable(model):
        groups[_is_vector(parameter)]["params"].append(parameter)
    return [group for group in groups if group["params"]]


def _is_vector(parameter: Tensor) -> bool:
    """Whether it holds one number a unit at most: a bias, a gain, a scalar."""
    return parameter.ndim == 0 or parameter.numel() == parameter.shape[0]


def _trainable(model: nn.Module) -> list[Tensor]:
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("no parameter of this model is trainable; unfreeze some of it first")
    return parameters


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
    other buffers, and leaves frozen parameters out. It starts as a copy of the model.

    Args:
        model: the model to follow, on its device and with what is trained already chosen.
        decay: upper bound of :func:`ema_decay`.
    """

    def __init__(self, model: nn.Module, decay: float = 0.99999) -> None:
        self.decay = decay
        tensors = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._live = {**tensors, **dict(model.named_buffers())}
        self._average = {name: tensor.detach().clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self, step: int | Tensor) -> None:
        """Take up the weights that the optimizer's step ``step`` (from 0) left behind.

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
        # Not _foreach_lerp_: it would read a weight that lies on the device.
        change = torch._foreach_sub([self._live[name] for name in averaged], average)
        torch._foreach_mul_(change, weight)
        torch._foreach_add_(average, change)
        for name in self._average.keys() - averaged:
            self._average[name].copy_(self._live[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the model, in place, and the model's own weights back at the end."""
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
        """The average by name; the tensors are the live ones."""
        return dict(self._average)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up what :meth:`state_dict` gave, in place.

        Raises:
            ValueError: if it is of another model, or of one with other parameters trained.
        """
        if state.keys() != self._average.keys():
            odd = ", ".join(sorted(state.keys() ^ self._average.keys())[:5])
            raise ValueError(f"this average is of another model: {odd} in one of the two only")
        for name, tensor in self._average.items():
            tensor.copy_(state[name])


def sam_gradient(
    model: nn.Module,
    loss_fn: Callable[..., Tensor],
    batch: Sequence[Tensor],
    *,
    rho: float = 0.05,
    share: float = 0.2,
    other: Sequence[Tensor] | None = None,
) -> Tensor:
    """The gradient of sharpness-aware minimisation, added to ``.grad`` (NFNets, appendix A.4).

    Args:
        model: its trainable parameters are moved and put back, bit for bit.
        loss_fn: from a batch's tensors to a scalar loss, the mean over its examples.
        batch: tensors ``[B, ...]``, such as images and labels.
        rho: length of the ascent step, over all parameters together.
        share: part of the batch that the ascent is computed from; 0.2 in the paper, 1 in SAM.
        other: ascend on these examples instead, all of them; the paper found that useless.

    Returns:
        The loss at the moved weights, detached.

    Raises:
        ValueError: for a share outside (0, 1].
    """
    with ascended(model, loss_fn, subset(batch, share) if other is None else other, rho):
        loss = loss_fn(*batch)
        loss.backward()
    return loss.detach()


def subset(batch: Sequence[Tensor], share: float) -> list[Tensor]:
    """A share of a batch's examples, evenly spaced, at least one.

    Evenly spaced because the halves of a batch may be mixed differently.

    Raises:
        ValueError: for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; expected more than 0 and at most 1, such as 0.2")
    size = len(batch[0])
    index = torch.arange(max(1, round(share * size)), device=batch[0].device)
    index = index * size // len(index)
    return [tensor[index] for tensor in batch]


@contextmanager
def ascended(
    model: nn.Module, loss_fn: Callable[..., Tensor], batch: Sequence[Tensor], rho: float = 0.05
) -> Iterator[None]:
    """Hold the weights a step of length ``rho`` up the gradient of a batch's loss.

    Compute the descent gradient, forward and backward, inside. Running statistics of BatchNorm are
    not updated by the ascent, so that every step updates them once, from the whole batch.

    Args:
        model: the bare module. ``DistributedDataParallel`` counts backward passes: give its
            ``.module``, in ``loss_fn`` too; each process then climbs its own examples.
        loss_fn: as in :func:`sam_gradient`; under autocast it must enter the context itself,
            as autocast remembers the weights of a context it is left in.
        batch: what to climb.
        rho: length of the step, over all trainable parameters together.
    """
    parameters = _trainable(model)
    with _statistics_kept(model):
        step = list(torch.autograd.grad(loss_fn(*batch), parameters))
    own = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        length = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(step)))
        torch._foreach_mul_(step, rho / length.clamp(min=1e-12))
        torch._foreach_add_(parameters, step)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(parameters, own)


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Normalise with the batch's statistics as always, but leave the running ones alone."""
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    layers = [layer for layer in layers if layer.training]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al., arXiv 1708.03888, Algorithm 1).

    ``v = momentum v + lr ratio (g + weight_decay w)`` and ``w = w - v``, where a weight's
    ``ratio = trust |w| / (|g| + weight_decay |w|)``. The ratio is 1 for biases, gains and scalars
    (what :func:`parameter_groups` does not decay) and where ``w`` or ``g`` is zero.

    Args:
        params: parameters, or groups as :func:`parameter_groups` gives them.
        lr: learning rate; a tensor on the parameters' device is never read back.
        momentum: of the velocity.
        weight_decay: of groups that do not name their own; biases and gains are not exempt.
        trust: the paper's η.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float | Tensor,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all parameters that have a gradient."""
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            velocities = [self.state[weight]["momentum_buffer"] for weight in weights]
            gradients = [weight.grad for weight in weights]
            rates = self._rates(weights, gradients, group)
            change = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
            torch._foreach_mul_(change, rates)
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, change)
            torch._foreach_sub_(weights, velocities)

    @staticmethod
    def _rates(
        weights: list[Tensor], gradients: list[Tensor], group: dict[str, Any]
    ) -> tuple[Tensor, ...]:
        """Learning rate times ratio, a scalar tensor for every weight."""
        size = torch.stack(torch._foreach_norm(weights))
        slope = torch.stack(torch._foreach_norm(gradients))
        ratio = group["trust"] * size / (slope + group["weight_decay"] * size)
        ratio = torch.where((size > 0) & (slope > 0), ratio, 1.0)
        one = torch.ones_like(ratio[0])
        chosen = [
            one if _is_vector(weight) else own for weight, own in zip(weights, ratio, strict=True)
        ]
        rates: Tensor = torch.stack(chosen) * group["lr"]
        return rates.unbind()

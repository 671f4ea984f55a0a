"""Sharpness-aware minimization (arXiv 2010.01412), as NFNets use it (2102.06171, appendix A.4)."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nbrepro.agc import norm_type
from nbrepro.optim.groups import trainable


def sam_gradient(
    model: nn.Module,
    loss_fn: Callable[..., Tensor],
    batch: Sequence[Tensor],
    *,
    rho: float = 0.05,
    share: float = 0.2,
    other: Sequence[Tensor] | None = None,
) -> Tensor:
    """The gradient of sharpness-aware minimization, added to ``.grad`` (NFNets, appendix A.4).

    Args:
        model: its trainable parameters are moved and restored, bit for bit.
        loss_fn: from a batch's tensors to a scalar loss, the mean over its examples.
        batch: tensors ``[B, ...]``, such as images and labels.
        rho: length of the ascent step, over all parameters together.
        share: part of the batch that the ascent is computed from; 0.2 in the paper, 1 in SAM.
        other: ascend on all of these examples instead; the paper found that useless.

    Returns:
        The loss at the moved weights, detached.

    Raises:
        ValueError: for a share outside (0, 1] and a negative rho; see :func:`ascended`.
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
    """Within the context, the weights are a step of length ``rho`` up the gradient of a loss.

    Compute the descent gradient, forward and backward, inside. Running statistics of BatchNorm are
    not updated by the ascent, so that every step updates them once, from the whole batch. Of
    half-precision gradients the step is computed in float32; one whose length is nan, infinite or
    too large for its type makes the weights nan, as a step of zero would not be noticed.

    Args:
        model: the bare module. ``DistributedDataParallel`` counts backward passes: give its
            ``.module``, in ``loss_fn`` too; each process then ascends on its own examples.
        loss_fn: as in :func:`sam_gradient`; under autocast it must enter the context itself,
            since autocast caches the cast weights within a context.
        batch: the examples to ascend on.
        rho: length of the step, over all trainable parameters together; those that the loss does
            not depend on stay where they are.

    Raises:
        ValueError: for a rho that is negative or infinite, and for a loss that depends on none of
            the trainable parameters.
    """
    if not 0 <= rho < math.inf:
        raise ValueError(f"rho is {rho}; expected a finite number of at least 0, such as 0.05")
    parameters = trainable(model)
    with _statistics_kept(model):
        found = torch.autograd.grad(loss_fn(*batch), parameters, allow_unused=True)
    step = [g.to(norm_type(g) or g.dtype) for g in found if g is not None]
    parameters = [p for p, gradient in zip(parameters, found, strict=True) if gradient is not None]
    if not parameters:
        raise ValueError("the loss depends on none of the model's trainable parameters")
    own = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        length = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(step)))
        length = length.nan_to_num(nan=math.nan, posinf=math.nan)
        torch._foreach_mul_(step, rho / length.clamp(min=1e-12))
        torch._foreach_add_(parameters, step)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(parameters, own)


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Normalize with the batch's statistics as always, but leave the running ones alone."""
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    layers = [layer for layer in layers if layer.training]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True

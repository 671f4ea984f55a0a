"""One step: the lines that every number in the records comes from.

:func:`train_step` first, then what it calls, in the order of the calls. Nothing here waits for the
device and nothing branches on the values of a tensor, so a CUDA graph of a step repeats it exactly.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from nbrepro import agc
from nbrepro.data.batches import Batch
from nbrepro.optim import sam
from nbrepro.spec import Spec

#: The context of a forward pass without mixed precision.
AS_STORED: AbstractContextManager[Any] = nullcontext()


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    spec: Spec,
    lr: float | Tensor,
    *,
    autocast: AbstractContextManager[Any] = AS_STORED,
    backward: Callable[[Tensor], object] = Tensor.backward,
) -> Tensor:
    """Train on one batch: forward, loss, backward, clipping, update.

    Args:
        model: in training mode; may be wrapped in ``DistributedDataParallel``.
        optimizer: of what is trained.
        batch: from :meth:`nbrepro.data.Batches.batch`.
        spec: says how to clip, and whether labels are smoothed and SAM is used.
        lr: the step's learning rate, a number or a scalar tensor.
        autocast: context of the forward pass.
        backward: computes the gradients of a loss.

    Returns:
        float64 ``[3]``: sum of the images' losses, number of correctly classified images, and the
        share of clipped units times the batch's size.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    with sam_ascent(model, batch, spec, autocast):  # no-op without SAM
        with autocast:
            logits = model(batch.images)
        loss = summed_loss(logits, batch.targets, spec.label_smoothing)
        backward(loss / batch.size)
    clipped = clip(model, spec)
    optimizer.step()
    hits = (logits.argmax(1) == batch.labels).sum()
    return torch.stack([loss.detach(), hits, clipped * batch.size]).double()


def sam_ascent(
    model: nn.Module, batch: Batch, spec: Spec, autocast: AbstractContextManager[Any]
) -> AbstractContextManager[None]:
    """A context with the weights a step up the loss of part of the batch (SAM, arXiv 2010.01412).

    Without SAM (``spec.sam == 0``) it does nothing.
    """
    if not spec.sam:
        return nullcontext()
    network = bare(model)

    def mean_loss(images: Tensor, targets: Tensor) -> Tensor:
        with autocast:
            logits = network(images)
        return summed_loss(logits, targets, spec.label_smoothing) / len(images)

    part = sam.subset([batch.images, batch.targets], spec.sam_share)
    return sam.ascended(network, mean_loss, part, spec.sam)


def summed_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy in float32, summed over the images of a batch.

    Args:
        logits: ``[B, classes]``.
        targets: labels ``[B]`` or probabilities ``[B, classes]``.
        smoothing: share of the target that is spread over all classes.
    """
    return F.cross_entropy(logits.float(), targets, reduction="sum", label_smoothing=smoothing)


def clip(model: nn.Module, spec: Spec) -> Tensor:
    """Clip the gradients as ``spec.clip`` says.

    ``none``; ``agc`` unit by unit or ``agc-layer`` layer by layer (arXiv 2102.06171, equation 3);
    ``norm``, by the norm of the whole gradient.

    Returns:
        The share of units that were clipped, a 0-dim tensor; under ``norm`` 1 or 0.
    """
    network = bare(model)
    if spec.clip == "none":
        return torch.zeros((), device=next(network.parameters()).device)
    if spec.clip == "norm":
        norm = nn.utils.clip_grad_norm_(network.parameters(), spec.clipping, foreach=True)
        return (norm > spec.clipping).float()
    units = "layer" if spec.clip == "agc-layer" else "official"
    clipped = agc.clip_grads_(
        network.named_parameters(), spec.clipping, exclude=spec.unclipped, units=units
    )
    return agc.share(clipped).to(next(network.parameters()).device)  # nothing lies on the CPU


@torch.no_grad()
def evaluation_step(
    model: nn.Module, batch: Batch, *, autocast: AbstractContextManager[Any] = AS_STORED
) -> Tensor:
    """Measure one batch.

    Args:
        model: in evaluation mode.
        batch: from :meth:`nbrepro.data.Batches.batch`, not mixed.
        autocast: context of the forward pass.

    Returns:
        float64 ``[3]``: sum of the images' losses, number of correctly classified images, and of
        images whose class is among the five likeliest (or all, if there are fewer).
    """
    with autocast:
        logits = model(batch.images).float()
    loss = summed_loss(logits, batch.labels)
    hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == batch.labels[:, None]
    return torch.stack([loss, hits[:, 0].sum(), hits.sum()]).double()


def bare(model: nn.Module) -> nn.Module:
    """The network itself, without the wrapper that lets processes share a batch."""
    network: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    return network

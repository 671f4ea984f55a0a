"""What a network with BatchNorm depends on, and its normalizer-free twin does not."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbrepro import models
from nbrepro.claims.checks import Outcome, check, check_over

#: Name for readers → network.
TWINS = {"BatchNorm": "bn_cifar_nf_resnet20", "normalizer-free": "cifar_nf_resnet20"}


def twin(name: str) -> nn.Module:
    """A twin whose residual branches count from the start, in training mode."""
    options: dict[str, Any] = {} if name == "BatchNorm" else {"skip_gain": None}
    return models.create(TWINS[name], **options)


@check_over(seeds=10)
def independence() -> Outcome:
    """Change of the logits of 31 images when one more of their batch is replaced (section 1).

    The largest change, in standard deviations of the logits.
    """
    change = {}
    for name in TWINS:
        model = twin(name)
        images = torch.randn(32, 3, 16, 16)
        replaced = torch.cat([torch.randn(1, 3, 16, 16), images[1:]])
        with torch.no_grad():
            before, after = model(images)[1:], model(replaced)[1:]
        change[name] = float((after - before).abs().max() / before.std())
    return Outcome(
        {"batchnorm": change["BatchNorm"], "normalizer_free": change["normalizer-free"]},
        "one of 32 images replaced: logits of the others move by up to {batchnorm:.1%} of their "
        "deviation with BatchNorm, by {normalizer_free:g} without",
    )


@check_over(seeds=10)
def train_eval_gap() -> Outcome:
    """Difference of a batch's logits between training and evaluation (section 1).

    As a share of their norm, after 50 updates of the running statistics on independent noise. The
    note has what is left of the untouched statistics too, after a single update.
    """
    gaps: dict[str, list[float]] = {}
    for name in TWINS:
        model = twin(name)
        updates = 50 if any(True for _ in model.buffers()) else 1  # without statistics, no updates
        gaps[name] = []
        with torch.no_grad():
            for update in range(1, updates + 1):
                images = torch.randn(32, 3, 16, 16)
                train = model.train()(images)
                if update in (1, updates):
                    change = model.eval()(images) - train
                    gaps[name].append(float(change.norm() / train.norm()))
    return Outcome(
        {"batchnorm": gaps["BatchNorm"][-1], "normalizer_free": np.max(gaps["normalizer-free"])},
        "logits of a batch in the two modes differ with BatchNorm by {batchnorm:.1%} after 50 "
        "updates of the running statistics, without by {normalizer_free:g}; after a single update, "
        "when these are still near where they start, by {one:.0%}",
        {"one": gaps["BatchNorm"][0]},
    )


def gradient(model: nn.Module, images: Tensor, labels: Tensor, parts: int = 1) -> Tensor:
    """The mean gradient over equal parts of a batch, as on so many devices; one vector."""
    total = torch.zeros_like(nn.utils.parameters_to_vector(model.parameters()))
    for some, targets in zip(images.chunk(parts), labels.chunk(parts), strict=True):
        loss = F.cross_entropy(model(some), targets)
        grads = torch.autograd.grad(loss, list(model.parameters()))
        total += torch.cat([grad.flatten() for grad in grads]) / parts
    return total


@check_over(seeds=10)
def micro_batches() -> Outcome:
    """Difference of the gradient of 32 examples and the mean over equal parts (section 1).

    As a share of its norm, for 2 and 8 parts, as on so many devices: the smaller with BatchNorm,
    the larger in the normalizer-free twin.
    """
    difference: dict[str, list[float]] = {}
    for name in TWINS:
        model = twin(name)
        images, labels = torch.randn(32, 3, 16, 16), torch.randint(10, (32,))
        whole = gradient(model, images, labels)
        difference[name] = [
            float((gradient(model, images, labels, parts) - whole).norm() / whole.norm())
            for parts in (2, 8)
        ]
    bn, nf = difference["BatchNorm"], difference["normalizer-free"]
    return Outcome(
        {"batchnorm": np.min(bn), "normalizer_free": np.max(nf)},
        "gradient of 32 images against the mean over equal parts: relative difference with "
        "BatchNorm {two:.2f} for 2 parts and {eight:.2f} for 8, without at most "
        "{normalizer_free:.0e}",
        {"two": bn[0], "eight": bn[1]},
    )


@check
def memory() -> Outcome:
    """Bytes that a training step keeps for the backward pass (section 1).

    Those of the BatchNorm network over those of its normalizer-free twin, whose scalars are
    operations of their own, as in the authors' code. The note has the twin with folded scalars too.
    """
    kept = {}
    for name, options in {
        "BatchNorm": {},
        "folded": {"fold": True},
        "unfolded": {"fold": False},
    }.items():
        model = models.create(TWINS.get(name, "cifar_nf_resnet20"), **options)
        kept[name] = _kept(model, torch.randn(32, 3, 16, 16)) / 2**20
    return Outcome(
        {"ratio": kept["BatchNorm"] / kept["unfolded"]},
        "depends on the implementation; MiB that PyTorch keeps for the backward pass of 32 images: "
        f"BatchNorm {kept['BatchNorm']:.1f}; normalizer-free {kept['unfolded']:.1f} with γ, β, α "
        "and SkipInit as operations of their own, as in the authors' code, but only "
        f"{kept['folded']:.1f} with them folded into the weights, as in ours",
    )


def _kept(model: nn.Module, images: Tensor) -> int:
    """Bytes of activations that autograd keeps; each storage once, parameters not counted."""
    storages: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: list[Tensor] = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(images).sum()
    return sum(storages.values())

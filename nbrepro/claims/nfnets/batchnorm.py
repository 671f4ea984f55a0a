"""What a network with BatchNorm depends on, and its normalizer-free twin does not."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbrepro import models
from nbrepro.claims.checks import Outcome, check, each
from nbrepro.claims.nfnets.counts import size

_TWINS = {"BatchNorm": "bn_cifar_nf_resnet20", "normalizer-free": "cifar_nf_resnet20"}


def _twin(name: str) -> nn.Module:
    """A twin whose residual branches count from the start, in training mode."""
    options: dict[str, Any] = {} if name == "BatchNorm" else {"skip_gain": None}
    return models.create(_TWINS[name], **options)


@check
def independence() -> Outcome:
    """Change of the logits of 31 images when one more of their batch is replaced (section 1).

    The largest change, in standard deviations of the logits.
    """
    change = {}
    for name in _TWINS:
        model = _twin(name)
        images = torch.randn(32, 3, 16, 16)
        replaced = torch.cat([torch.randn(1, 3, 16, 16), images[1:]])
        with torch.no_grad():
            before, after = model(images)[1:], model(replaced)[1:]
        change[name] = float((after - before).abs().max() / before.std())
    bn, nf = change["BatchNorm"], change["normalizer-free"]
    return Outcome(
        {"batchnorm": bn, "normalizer_free": nf},
        f"one of 32 images replaced: logits of the others move by up to {100 * bn:.0f} % of their "
        f"deviation with BatchNorm, by {nf:g} without",
    )


@check
def train_eval_gap() -> Outcome:
    """Difference of a batch's logits between training and evaluation (section 1).

    As a share of their norm; with BatchNorm after 1 update of the running statistics and after
    50, on independent noise; in the normalizer-free twin the larger of the two.
    """
    gaps: dict[str, list[float]] = {}
    for name in _TWINS:
        model = _twin(name)
        gaps[name] = []
        with torch.no_grad():
            for update in range(1, 51):
                images = torch.randn(32, 3, 16, 16)
                train = model.train()(images)
                if update in (1, 50):
                    change = model.eval()(images) - train
                    gaps[name].append(float(change.norm() / train.norm()))
    (one, fifty), nf = gaps["BatchNorm"], gaps["normalizer-free"]
    without = np.max(nf)
    return Outcome(
        {"batchnorm_after_1": one, "batchnorm_after_50": fifty, "normalizer_free": without},
        f"logits of a batch in the two modes differ with BatchNorm by {100 * one:.0f} % after 1 "
        f"update of the running statistics and {100 * fifty:.0f} % after 50, without by "
        f"{without:g}",
    )


@check
def micro_batches() -> Outcome:
    """Difference of the gradient of 32 examples and the mean over equal parts (section 1).

    As a share of its norm, for 2, 4, 8 and 16 parts, as on so many devices: the smallest with
    BatchNorm, the largest in the normalizer-free twin.
    """
    difference: dict[str, list[float]] = {}
    for name in _TWINS:
        model = _twin(name)
        images, labels = torch.randn(32, 3, 16, 16), torch.randint(10, (32,))

        def gradient(parts: int, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            total = torch.zeros(size(model))
            for some, targets in zip(images.chunk(parts), labels.chunk(parts), strict=True):
                loss = F.cross_entropy(model(some), targets)
                grads = torch.autograd.grad(loss, list(model.parameters()))
                total += torch.cat([grad.flatten() for grad in grads]) / parts
            return total

        whole = gradient(1, model, images, labels)
        difference[name] = [
            float((gradient(k, model, images, labels) - whole).norm() / whole.norm())
            for k in (2, 4, 8, 16)
        ]
    bn, nf = difference["BatchNorm"], difference["normalizer-free"]
    return Outcome(
        {"batchnorm": np.min(bn), "normalizer_free": np.max(nf)},
        f"gradient of 32 images against the mean of 2, 4, 8, 16 parts: relative difference "
        f"{each(bn)} with BatchNorm, under 1e-5 without"
        if max(nf) < 1e-5
        else f"the gradient of the normalizer-free twin changes by {max(nf):.0e}",
    )


@check
def memory() -> Outcome:
    """Bytes that a training step keeps for the backward pass (section 1).

    Those of the BatchNorm network over those of its normalizer-free twin with folded scalars.
    """
    kept = {}
    for name, options in {
        "BatchNorm": {},
        "folded": {"fold": True},
        "unfolded": {"fold": False},
    }.items():
        model = models.create(_TWINS.get(name, "cifar_nf_resnet20"), **options)
        kept[name] = _kept(model, torch.randn(32, 3, 16, 16)) / 2**20
    return Outcome(
        {"ratio": kept["BatchNorm"] / kept["folded"]},
        f"MiB kept for the backward pass of 32 images: BatchNorm {kept['BatchNorm']:.1f}; "
        f"normalizer-free {kept['folded']:.1f} with γ, β, α and SkipInit folded into the weights, "
        f"but {kept['unfolded']:.1f} with operations of their own",
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

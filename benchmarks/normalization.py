"""Time of a step and of inference: BatchNorm, normalizer-free, and its scalars folded or not.

ResNet-20 twins on random images of 32 pixels, float32, channels last. A training step is forward,
backward and an update. Inference is the network with BatchNorm in evaluation mode against the
normalizer-free one as it is, and with its standardized weights computed once ("weights kept"),
as one would ship it. Compiled forms where a compiler is found. One thread, and its own seconds: the
clock stands still while other programs have the core. All take turns, and ratios are taken round by
round. First it checks that the forms of one network compute the same.

    python benchmarks/normalization.py
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbrepro import _malloc, models
from nbrepro.layers import ScaledStdConv2d
from nbrepro.records import timings

BATCHNORM, FREE, UNFOLDED = "BatchNorm", "normalizer-free", "normalizer-free unfolded"


def network(name: str, depth: int) -> nn.Module:
    """One of the twins with the same random state, its branches counting."""
    torch.manual_seed(0)
    options: dict[str, Any] = {} if name == BATCHNORM else {"skip_gain": 0.5, "fold": name == FREE}
    prefix = "bn_" if name == BATCHNORM else ""
    model = models.create(f"{prefix}cifar_nf_resnet{depth}", **options)
    return model.to(memory_format=torch.channels_last)


def keep_weights(model: nn.Module, images: Tensor) -> nn.Module:
    """Compute standardized weights once, on a first pass; right for inference only."""
    for conv in model.modules():
        if isinstance(conv, ScaledStdConv2d):
            setattr(conv, "_standardize", _first_only(conv._standardize))  # noqa: B010
    with torch.no_grad():
        model(images)
    return model


def _first_only(compute: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    kept: list[Tensor] = []

    def weight(gain: Tensor) -> Tensor:
        if not kept:
            kept.append(compute(gain).detach())
        return kept[0]

    return weight


def step(run: Callable[[Tensor], Tensor], model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Forward, backward, and an update that leaves the weights nearly as they are."""
    F.cross_entropy(run(images), labels).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.add_(parameter.grad, alpha=-1e-6)
            parameter.grad = None


def inference(run: Callable[[Tensor], Tensor], images: Tensor) -> None:
    """A forward pass that keeps nothing."""
    with torch.inference_mode():
        run(images)


def variants(depth: int, images: Tensor, labels: Tensor) -> dict[str, Callable[[], None]]:
    """Name → what is timed."""
    nets = {name: network(name, depth) for name in (BATCHNORM, FREE, UNFOLDED)}
    torch.testing.assert_close(nets[FREE](images), nets[UNFOLDED](images), rtol=1e-3, atol=1e-4)
    found: dict[str, Callable[[], None]] = {
        f"{name}, a training step": partial(step, m, m, images, labels) for name, m in nets.items()
    }
    shipped = {BATCHNORM: network(BATCHNORM, depth).eval(), FREE: network(FREE, depth).eval()}
    shipped["normalizer-free with weights kept"] = keep_weights(network(FREE, depth).eval(), images)
    torch.testing.assert_close(
        shipped["normalizer-free with weights kept"](images), shipped[FREE](images)
    )
    found |= {f"{name}, inference": partial(inference, m, images) for name, m in shipped.items()}
    return found


def compiled(depth: int, images: Tensor, labels: Tensor) -> dict[str, Callable[[], None]]:
    """Compiled training steps; none, with the reason in one line, where they cannot be compiled."""
    found: dict[str, Callable[[], None]] = {}
    for name in (BATCHNORM, FREE):
        model = network(name, depth)
        work = partial(step, torch.compile(model), model, images, labels)
        try:
            work()
        except Exception as error:  # of many kinds: no compiler, or an operation it does not know
            print(f"{name} is not compiled: {type(error).__name__}")
            return {}
        found[f"{name}, a compiled training step"] = work
    return found


CASES = {
    f"{FREE} over {BATCHNORM}, a training step": (FREE, BATCHNORM, "a training step"),
    f"{UNFOLDED} over {BATCHNORM}, a training step": (UNFOLDED, BATCHNORM, "a training step"),
    f"{FREE} over {UNFOLDED}, a training step": (FREE, UNFOLDED, "a training step"),
    f"{FREE} over {BATCHNORM}, inference": (FREE, BATCHNORM, "inference"),
    f"normalizer-free with weights kept over {BATCHNORM}, inference": (
        "normalizer-free with weights kept",
        BATCHNORM,
        "inference",
    ),
    f"{FREE} over {BATCHNORM}, a compiled training step": (
        FREE,
        BATCHNORM,
        "a compiled training step",
    ),
}


@_malloc.kept()  # as in `nbrepro run`
def main() -> None:
    """Measure, print, and store the record."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--depth", type=int, default=20)
    arguments.add_argument("--images", type=int, default=64)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument(
        "--smoke", action="store_true", help="a small network, two rounds; writes nothing"
    )
    given = arguments.parse_args()
    if given.smoke:
        given.depth, given.images, given.rounds = 8, 4, 2
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.randn(given.images, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (given.images,))
    work = variants(given.depth, images, labels)
    if not given.smoke:
        work |= compiled(given.depth, images, labels)
    turns = {name: partial(timings.computed, one, 2) for name, one in work.items()}
    timings.rounds(turns, 1)  # to warm up
    times = timings.rounds(turns, given.rounds)
    rows = {}
    for case, (fast, slow, what) in CASES.items():
        if f"{fast}, {what}" in times:
            row = timings.ratios(times[f"{slow}, {what}"], times[f"{fast}, {what}"])
            rows[f"ResNet-{given.depth}: {case}"] = row
            print(f"{case}: {row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]")
    if not given.smoke:
        timings.write("normalization", "cpu", rows)


if __name__ == "__main__":
    main()

"""What a training step dispatches. Counts never flake, unlike timings.

Operations are counted with a dispatch mode on the CPU; views, allocations and the bookkeeping of
autograd do no work and are left out. On a GPU each of the rest is about one kernel launch.
"""

import dataclasses
from collections import Counter
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from nbrepro import data
from nbrepro.spec import Spec
from nbrepro.train import assembly, loop
from nbrepro.train.device import accelerator_for

NO_WORK = {
    *("detach", "empty", "expand", "permute", "select", "slice", "t", "unsqueeze", "view"),
    *("_record_function_enter_new", "_record_function_exit"),
}


class Operations(TorchDispatchMode):
    """Counts by name, and convolutions whose weight gradient was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.weight_gradients = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        name = operation._schema.name.split("::")[1]
        self.counts[name] += 1
        if name == "convolution_backward":
            self.weight_gradients += bool(arguments[-1][1])
        return operation(*arguments, **(options or {}))


def one_step(model: str, train: str) -> tuple[Counter[str], int]:
    """What a second step adds to an epoch of one step."""
    digits = data.load("digits")
    seen = []
    for steps in (1, 2):
        part = dataclasses.replace(
            digits,
            train_images=digits.train_images[: 8 * steps],
            train_labels=digits.train_labels[: 8 * steps],
        )
        spec = Spec(
            model=model, train=train, dataset="digits", batch_size=8, epochs=1, precision="float32"
        )
        accelerator = accelerator_for("cpu")
        run, _ = assembly.assemble(spec, part, accelerator)
        with Operations() as operations:
            loop.train_epoch(loop.Eager(run), accelerator, 0)
        seen.append(operations)
    counts = seen[1].counts - seen[0].counts
    return counts, seen[1].weight_gradients - seen[0].weight_gradients


def work(counts: Counter[str]) -> int:
    return sum(number for name, number in counts.items() if name not in NO_WORK)


@pytest.mark.parametrize("train", ["batchnorm", "output", "all", "random:2"])
def test_no_step_waits_for_the_device(train: str) -> None:
    counts, _ = one_step("cifar_resnet8", train)
    assert counts["_local_scalar_dense"] == 0
    assert counts["nonzero"] == 0


@pytest.mark.parametrize(
    ("train", "weight_gradients", "backward"),
    [("batchnorm", 0, 14), ("gamma", 0, 14), ("output", 0, 0), ("all", 15, 15)],
)
def test_what_is_frozen_costs_nothing(train: str, weight_gradients: int, backward: int) -> None:
    """ResNet-14 has 15 convolutions; the stem's input never needs a gradient."""
    counts, computed = one_step("cifar_resnet14", train)
    assert computed == weight_gradients
    assert counts["convolution_backward"] == backward


def test_operations_of_a_step_are_bounded() -> None:
    counts, _ = one_step("cifar_resnet14", "batchnorm")
    assert work(counts) <= 155


def test_the_optimizer_is_one_operation_at_any_depth() -> None:
    for model in ("cifar_resnet8", "cifar_resnet20"):
        counts, _ = one_step(model, "all")
        assert counts["_fused_sgd_"] == 1

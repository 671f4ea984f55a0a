"""The step that a GPU replays against the eager loop: the same numbers, and nothing that waits.

Without a GPU the recorded functions run as they are; only the recording itself needs one.
"""

import contextlib
import copy
from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_step_cost import Operations
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nbrepro import data
from nbrepro.spec import Spec
from nbrepro.train import assembly, device, loop
from nbrepro.train.cuda_graph import Captured
from nbrepro.train.device import accelerator_for
from nbrepro.train.loop import Eager
from nbrepro.train.run import Run

SPEC = Spec(model="cifar_resnet8", dataset="digits", epochs=2, batch_size=500, precision="float32")


def trained(spec: Spec, driver: Callable[[Run], Eager | Captured]) -> tuple[nn.Module, list[Any]]:
    """The network that a driver leaves, as a user gets it, and everything measured on the way."""
    accelerator = accelerator_for("cpu")
    run, finished = assembly.assemble(spec, data.load("digits"), accelerator)
    driven = driver(run)
    rows = [loop.evaluate(driven, accelerator)]
    for epoch in range(spec.epochs):
        rows.append(loop.train_epoch(driven, accelerator, epoch))
        rows.append(loop.evaluate(driven, accelerator))
    return finished(0), rows


def assert_same(one: tuple[nn.Module, list[Any]], other: tuple[nn.Module, list[Any]]) -> None:
    """To the bit."""
    weights = other[0].state_dict()
    for name, weight in one[0].state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert one[1] == other[1]


RECIPES: list[dict[str, object]] = [
    {"train": "batchnorm"},
    {"train": "random:2"},
    {"schedule": "cosine", "warmup_epochs": 1, "augmentation": "none"},
    {"precision": "bfloat16", "train": "batchnorm"},
    {"mixup": 0.2, "cutmix": 1.0, "randaugment": 5.0, "label_smoothing": 0.1},
    {"model": "cifar_nf_resnet8", "optimizer": "nesterov", "clip": "agc", "decay": "weights"},
    {"model": "cifar_nf_resnet8", "optimizer": "lars", "clip": "norm", "clipping": 1.0},
    {"model": "cifar_nf_resnet8", "optimizer": "adamw", "lr": 0.002, "clip": "agc"},
    {"model": "bn_cifar_nf_resnet8", "train": "batchnorm", "clip": "agc"},
    {"model": "cifar_nf_resnet8", "dropout": 0.2, "stochastic_depth": 0.2, "ema": 0.999},
    {"model": "cifar_nf_resnet8", "sam": 0.05},
]


@pytest.mark.parametrize("changes", RECIPES, ids=str)
def test_the_tensor_step_is_the_eager_step(changes: dict[str, object]) -> None:
    """Tail batch included: 1,437 training images are two batches of 500 and one of 437."""
    spec = SPEC.replace(**changes)
    assert_same(trained(spec, Eager), trained(spec, Captured))


def test_a_tensor_step_never_waits_for_the_device() -> None:
    spec = SPEC.replace(
        model="cifar_nf_resnet8", clip="agc", ema=0.999, mixup=0.2, cutmix=1.0, randaugment=5.0
    )
    run, _ = assembly.assemble(spec, data.load("digits"), accelerator_for("cpu"))
    driver = Captured(run)
    driver.begin(run.draws(0), 0)
    run.model.train()
    with Operations() as operations:
        driver.train_on(500)
        driver.train_on(437)
    # On the CPU the fused optimizer reads its rate; on a GPU its kernel does.
    allowed = 2 * len(run.state.optimizer.param_groups)
    assert operations.counts["_local_scalar_dense"] <= allowed
    assert operations.counts["nonzero"] == 0


class HostTensors(TorchDispatchMode):
    """Operations that read or make a tensor in the computer's own memory."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        result = operation(*arguments, **(options or {}))
        tensors = [x for x in tree_leaves((arguments, options, result)) if isinstance(x, Tensor)]
        if any(tensor.device.type == "cpu" for tensor in tensors):
            self.seen.append(str(operation))
        return result


@pytest.mark.parametrize("changes", RECIPES, ids=str)
def test_a_recorded_step_stays_on_the_device(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph replays no copy from the host, and no shape or branch that depends on values.

    The device is "meta", whose tensors have no values: whatever needs one raises, as does whatever
    mixes devices. Only what torch refuses there for want of a kernel is replaced.
    """

    def fused(*tensors: list[Tensor], lr: Tensor, **_: object) -> None:
        assert {t.device.type for t in [*chain.from_iterable(tensors), lr]} == {"meta"}

    for kernel, name in (("_fused_sgd_", "sgd"), ("_fused_adamw_", "adam")):
        monkeypatch.setattr(torch, kernel, fused)
        module = import_module(f"torch.optim.{name}")  # torch.optim deletes the name
        monkeypatch.setattr(module, "_device_dtype_check_for_fused", lambda *_, **__: None)
    monkeypatch.setattr("torch.nn.utils.clip_grad._device_has_foreach_support", lambda _: True)
    monkeypatch.setattr("torch.autocast", lambda *_, **__: contextlib.nullcontext())
    accelerator: Any = SimpleNamespace(
        device=torch.device("meta"),
        num_processes=1,
        process_index=0,
        prepare=lambda *parts: parts,
        backward=lambda loss: loss.backward(),
    )
    run, _ = assembly.assemble(SPEC.replace(**changes), data.load("digits"), accelerator)
    driver = Captured(run)
    run.model.train()
    driver.train_on(500)  # as a warm-up does, for what is made once
    with HostTensors() as host:
        driver.train_on(500)
        driver.train_on(437)
        run.model.eval()
        driver.test_on(360)
    assert host.seen == []


def test_frozen_weights_rounded_once_train_as_those_rounded_in_every_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = SPEC.replace(train="batchnorm", precision="bfloat16")
    types: list[torch.dtype] = []

    def noting(run: Run) -> Eager:
        types.append(run.state.model.get_parameter("blocks.0.conv1.weight").dtype)
        return Eager(run)

    once = trained(spec, noting)
    monkeypatch.setattr(device, "round_frozen", lambda model: {})
    always = trained(spec, noting)
    assert types == [torch.bfloat16, torch.float32]
    assert_same(once, always)


def test_a_finished_network_is_what_pytorch_would_have_left() -> None:
    """Frozen weights as drawn, in float32, and the batches counted."""
    spec = SPEC.replace(train="batchnorm", precision="bfloat16")
    result = loop.train(spec, data.load("digits"), device="cpu")
    drawn = assembly.initial_model(spec, 10)
    name = "conv.weight"
    assert torch.equal(result.model.get_parameter(name), drawn.get_parameter(name))
    assert int(result.model.get_buffer("bn.num_batches_tracked")) == 6
    copy.deepcopy(drawn).load_state_dict(result.model.state_dict(), strict=True)
    assert result.how["step"] == "eager"


class Recorded(Captured):
    """Goes through recording on a machine without a GPU: nothing is kept, so steps run again."""

    def recorded(self, step: Callable[[int], None], size: int) -> Callable[[], object]:
        own, self.device = self.device, torch.device("cuda")
        try:
            super().recorded(step, size)
        finally:
            self.device = own
        return partial(step, size)


@pytest.mark.parametrize(
    "changes",
    [
        {"train": "batchnorm", "schedule": "cosine", "warmup_epochs": 1},
        {"model": "cifar_nf_resnet8", "clip": "agc", "ema": 0.999, "momentum": 0.0},
        {"model": "cifar_nf_resnet8", "optimizer": "lars", "dropout": 0.2},
        {"model": "cifar_nf_resnet8", "optimizer": "adamw", "lr": 0.002},
    ],
    ids=str,
)
def test_recording_leaves_no_trace(
    changes: dict[str, object], without_cuda: pytest.MonkeyPatch
) -> None:
    """Warm-up steps train; weights, statistics, momentum, averages and sums go back."""
    spec = SPEC.replace(**changes)
    assert_same(trained(spec, Eager), trained(spec, Recorded))


def test_a_step_that_cannot_be_captured_is_run_eagerly(
    without_cuda: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(graph: object, pool: object) -> object:
        raise RuntimeError("operation not permitted when stream is capturing")

    without_cuda.setattr(torch.cuda, "graph", refuse)
    without_cuda.setattr(loop, "Captured", Recorded)
    run, _ = assembly.assemble(SPEC, data.load("digits"), accelerator_for("cpu"))
    before = {name: weight.clone() for name, weight in run.model.state_dict().items()}
    driver = loop.captured(run)
    assert driver.name == "eager"
    assert "so it runs eagerly" in caplog.text
    assert "not permitted when stream is capturing" in caplog.text
    for name, weight in run.model.state_dict().items():
        assert torch.equal(weight, before[name]), name


@pytest.fixture
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Stand-ins for what recording takes from CUDA."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, stub in {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": contextlib.nullcontext,
        "CUDAGraph": lambda: SimpleNamespace(replay=None),
        "graph": lambda graph, pool: contextlib.nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stub)
    return monkeypatch


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")
@pytest.mark.parametrize("train", ["batchnorm", "all", "random:2"])
def test_a_captured_step_is_the_eager_step_on_a_gpu(train: str) -> None:
    spec = SPEC.replace(train=train, lr=0.01)
    digits = data.load("digits")
    captured = loop.train(spec, digits, device="cuda")
    eager = loop.train(spec, digits, device="cuda", eager=True)
    assert captured.how["step"] == "captured"
    assert eager.how["step"] == "eager"
    for name, weight in eager.model.state_dict().items():
        # Kernels may add in another order: close, not equal.
        torch.testing.assert_close(captured.model.state_dict()[name], weight, rtol=1e-3, atol=1e-4)

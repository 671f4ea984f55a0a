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
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nbrepro import data
from nbrepro.spec import Spec
from nbrepro.train import cuda_graph, loop
from nbrepro.train.cuda_graph import _Graphs
from nbrepro.train.device import accelerator_for
from nbrepro.train.loop import _Run

SPEC = Spec(model="cifar_resnet8", dataset="digits", epochs=2, batch_size=500, precision="float32")


def trained(spec: Spec, *, graphs: type[_Graphs] | None) -> _Run:
    run = _Run(spec, data.load("digits"), accelerator_for("cpu"))
    if graphs is not None:
        run._graphs = graphs(run)
        run._graphs.record()
    run.evaluate(0)
    for epoch in range(spec.epochs):
        run.train_epoch(epoch, lambda _: None)
        run.evaluate(epoch + 1)
    return run


RECIPES: list[dict[str, object]] = [
    {"train": "batchnorm"},
    {"train": "random:2"},
    {"schedule": "cosine", "warmup_epochs": 1, "augmentation": "none"},
    {"precision": "bfloat16", "train": "batchnorm"},
    {"mixup": 0.2, "cutmix": 1.0, "randaugment": 5.0, "label_smoothing": 0.1},
    {"model": "cifar_nf_resnet8", "optimizer": "nesterov", "clip": "agc", "decay": "weights"},
    {"model": "cifar_nf_resnet8", "optimizer": "lars", "clip": "norm", "clipping": 1.0},
    {"model": "bn_cifar_nf_resnet8", "train": "batchnorm", "clip": "agc"},
    {"model": "cifar_nf_resnet8", "dropout": 0.2, "stochastic_depth": 0.2, "ema": 0.999},
    {"model": "cifar_nf_resnet8", "sam": 0.05},
]


@pytest.mark.parametrize("changes", RECIPES, ids=str)
def test_the_tensor_step_is_the_eager_step(changes: dict[str, object]) -> None:
    """Tail batch included: 1,437 training images are two batches of 500 and one of 437."""
    spec = SPEC.replace(**changes)
    eager, tensors = trained(spec, graphs=None), trained(spec, graphs=_Graphs)
    for name, weight in eager.model.state_dict().items():
        assert torch.equal(weight, tensors.model.state_dict()[name]), name
    assert eager.curve == tensors.curve


def test_a_tensor_step_never_waits_for_the_device() -> None:
    spec = SPEC.replace(
        model="cifar_nf_resnet8", clip="agc", ema=0.999, mixup=0.2, cutmix=1.0, randaugment=5.0
    )
    run = _Run(spec, data.load("digits"), accelerator_for("cpu"))
    graphs = run._graphs = _Graphs(run)
    graphs.record()
    graphs.begin_epoch(run.plan(0), 0)
    with Operations() as operations:
        graphs.step(500)
        graphs.step(437)
    # On the CPU the fused optimizer reads its rate; on a GPU its kernel does.
    allowed = 2 * len(run.optimizer.param_groups)
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

    def fused_sgd(*tensors: list[Tensor], lr: Tensor, **_: object) -> None:
        assert {t.device.type for t in [*chain.from_iterable(tensors), lr]} == {"meta"}

    monkeypatch.setattr("torch._fused_sgd_", fused_sgd)
    sgd = import_module("torch.optim.sgd")  # torch.optim deletes the name
    monkeypatch.setattr(sgd, "_device_dtype_check_for_fused", lambda *_, **__: None)
    monkeypatch.setattr("torch.nn.utils.clip_grad._device_has_foreach_support", lambda _: True)
    monkeypatch.setattr("torch.autocast", lambda *_, **__: contextlib.nullcontext())
    device: Any = SimpleNamespace(
        device=torch.device("meta"),
        num_processes=1,
        process_index=0,
        prepare=lambda *parts: parts,
        backward=lambda loss: loss.backward(),
    )
    run = _Run(SPEC.replace(**changes), data.load("digits"), device)
    graphs = _Graphs(run)
    graphs._step(500)  # as a warm-up does, for what is made once
    with HostTensors() as host:
        graphs._step(500)
        graphs._step(437)
        run.model.eval()
        graphs._evaluation_step(360)
    assert host.seen == []


def test_frozen_weights_rounded_once_train_as_those_rounded_in_every_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = SPEC.replace(train="batchnorm", precision="bfloat16")
    once = trained(spec, graphs=None)
    assert once.model.blocks[0].conv1.weight.dtype == torch.bfloat16
    monkeypatch.setattr(loop, "round_frozen", lambda model: {})
    always = trained(spec, graphs=None)
    assert always.model.blocks[0].conv1.weight.dtype == torch.float32
    assert once.curve == always.curve
    first, second = once.finished_model().state_dict(), always.finished_model().state_dict()
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name


def test_a_finished_network_is_what_pytorch_would_have_left() -> None:
    """Frozen weights as drawn, in float32, and the batches counted."""
    spec = SPEC.replace(train="batchnorm", precision="bfloat16")
    result = loop.train(spec, data.load("digits"), device="cpu")
    drawn = loop.initial_model(spec, 10)
    assert torch.equal(result.model.conv.weight, drawn.conv.weight)
    assert int(result.model.bn.num_batches_tracked) == 6
    copy.deepcopy(drawn).load_state_dict(result.model.state_dict(), strict=True)
    assert result.how["step"] == "eager"


class Recorded(_Graphs):
    """Goes through recording on a machine without a GPU: nothing is kept, so steps run again."""

    def _record(self, step: Callable[[int], None], batch: int) -> Callable[[], object]:
        device, self.run.device = self.run.device, torch.device("cuda")
        try:
            super()._record(step, batch)
        finally:
            self.run.device = device
        return partial(step, batch)


@pytest.mark.parametrize(
    "changes",
    [
        {"train": "batchnorm", "schedule": "cosine", "warmup_epochs": 1},
        {"model": "cifar_nf_resnet8", "clip": "agc", "ema": 0.999, "momentum": 0.0},
        {"model": "cifar_nf_resnet8", "optimizer": "lars", "dropout": 0.2},
    ],
    ids=str,
)
def test_recording_leaves_no_trace(
    changes: dict[str, object], without_cuda: pytest.MonkeyPatch
) -> None:
    """Warm-up steps train; weights, statistics, momentum, averages and sums go back."""
    spec = SPEC.replace(**changes)
    eager = trained(spec, graphs=None)
    recorded = trained(spec, graphs=Recorded)
    for name, weight in eager.model.state_dict().items():
        assert torch.equal(weight, recorded.model.state_dict()[name]), name
    assert eager.curve == recorded.curve


def test_a_step_that_cannot_be_captured_is_run_eagerly(
    without_cuda: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(graph: object, pool: object) -> object:
        raise RuntimeError("operation not permitted when stream is capturing")

    without_cuda.setattr(torch.cuda, "graph", refuse)
    without_cuda.setattr(cuda_graph, "_Graphs", Recorded)
    run = _Run(SPEC, data.load("digits"), accelerator_for("cpu"))
    before = {name: weight.clone() for name, weight in run.model.state_dict().items()}
    run.capture()
    assert run._graphs is None
    assert run.how["step"] == "eager"
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

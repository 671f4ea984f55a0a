"""One network trained by two processes on the CPU: by torchrun, and from within a notebook.

Without BatchNorm, dropout, stochastic depth and SAM the number of processes does not matter. With
them every process has its own: it normalizes its own half of a batch, draws its own masks and
ascends on its own images; :func:`by_halves` writes that out.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbrepro.book import build
from nbrepro.data import Batches, Dataset
from nbrepro.data.batches import epoch_draws
from nbrepro.optim import sam
from nbrepro.records.ledger import Ledger
from nbrepro.spec import Spec
from nbrepro.train import assembly, loop
from nbrepro.train.device import mask_seed
from nbrepro.train.loop import Result
from nbrepro.train.schedule import learning_rate

# 1,437 images: 45 batches, halves of 16 and 16, in the last one of 15 and 14. At this rate a change
# of the weights in their last digit stays there; at 0.1 the kink of some ReLU makes 4e-3 of it.
NF = Spec(
    model="cifar_nf_resnet8",
    dataset="digits",
    augmentation="none",
    epochs=1,
    batch_size=32,
    lr=0.03,
    precision="float32",
)
SPECS = {
    "NF": NF,
    "BN": NF.replace(model="cifar_resnet8"),
    "AGC": NF.replace(clip="agc", clipping=0.02),
    "dropout": NF.replace(dropout=0.2),
    "stochastic depth": NF.replace(stochastic_depth=0.2),
    "SAM": NF.replace(sam=0.05),
}
#: What every process has for itself, and its row on the page *Running it anywhere*.
OWN = {
    "BN": "ResNet-8 with BatchNorm (`cifar_resnet8`)",
    "dropout": "NF-ResNet-8 with dropout 0.2",
    "stochastic depth": "NF-ResNet-8 with stochastic depth 0.2",
    "SAM": "NF-ResNet-8 with SAM, ρ = 0.05",
}
PAGE = Path(__file__).parents[1] / "book" / "running.md"
MEASURED = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "test_top5")

WORKER = """
import json, os, sys
from pathlib import Path
import torch
from nbrepro import data
from nbrepro.train import assembly, loop
from nbrepro.spec import Spec

torch.set_num_threads(1)
digits = data.load("digits")


def run(spec, **options):
    result = loop.train(spec, digits, device="cpu", **options)
    state = result.model.state_dict()
    return {"state": state, "metrics": result.metrics, "how": result.how}


specs = {name: Spec.from_dict(settings) for name, settings in json.loads(sys.argv[2]).items()}
report = {name: run(spec) for name, spec in specs.items()}
spec, checkpoint = specs["dropout"].replace(epochs=2), Path(sys.argv[1]) / "run.pt"
report["whole"] = run(spec)
try:
    run(spec, checkpoint=checkpoint, should_stop=lambda: True)
except loop.Interrupted:
    report["resumed"] = run(spec, checkpoint=checkpoint)
torch.save(report, f"{sys.argv[1]}/{os.environ['RANK']}.pt")
torch.distributed.destroy_process_group()
"""

Reports = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def two(folder: Path) -> Reports:
    """What each of two processes ended with: state, metrics and how it ran, by network."""
    (folder / "worker.py").write_text(WORKER)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    settings = json.dumps({name: spec.to_dict() for name, spec in SPECS.items()})
    done = subprocess.run(
        [sys.executable, *launch, folder / "worker.py", folder, settings],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reports = [torch.load(folder / f"{rank}.pt") for rank in range(2)]
    return {name: [report[name] for report in reports] for name in reports[0]}


@pytest.fixture(scope="module")
def one(digits: Dataset) -> dict[str, Result]:
    """The same in a single process."""
    return {name: loop.train(spec, digits, device="cpu") for name, spec in SPECS.items()}


def parameters(model: nn.Module, state: dict[str, Tensor]) -> Tensor:
    """All parameters, without statistics, in one vector."""
    return torch.cat([state[name].flatten() for name, _ in model.named_parameters()])


def distance(a: Tensor, b: Tensor) -> float:
    """Relative, in the Euclidean norm."""
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", SPECS)
def test_there_were_two(two: Reports, name: str) -> None:
    for report in two[name]:
        assert report["how"]["processes"] == 2
        assert report["how"]["precision"] == "float32"
    first, second = (report["metrics"] for report in two[name])
    assert first == second


def test_without_batchnorm_two_processes_equal_one(two: Reports, one: dict[str, Result]) -> None:
    """Up to the order of sums; training moved the weights thousands of times as far."""
    model = one["NF"].model
    alone = parameters(model, model.state_dict())
    start = parameters(model, assembly.initial_model(NF, 10).state_dict())
    assert distance(alone, start) > 0.05
    for report in two["NF"]:
        assert distance(parameters(model, report["state"]), alone) < 1e-5
        for metric in MEASURED:
            tolerance = 0 if "acc" in metric or "top" in metric else 1e-5
            assert report["metrics"][metric] == pytest.approx(
                one["NF"].metrics[metric], abs=tolerance
            )


def test_the_share_of_clipped_units_is_that_of_one_process(
    two: Reports, one: dict[str, Result]
) -> None:
    alone = one["AGC"].metrics["clipped"]
    assert 0.01 < alone < 0.99
    for report in two["AGC"]:
        assert report["metrics"]["clipped"] == pytest.approx(alone, abs=1e-3)


def by_halves(spec: Spec, dataset: Dataset) -> nn.Module:
    """What two processes do, in one: both halves of a batch apart, their gradients added.

    Each half has masks from a generator of its own and an ascent of its own. The running statistics
    are those of the first halves.
    """
    before = torch.get_rng_state()
    masks = [torch.manual_seed(mask_seed(spec.seed, 0, half)).get_state() for half in range(2)]
    model = assembly.initial_model(spec, 10).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), spec.lr, spec.momentum, weight_decay=spec.weight_decay, fused=True
    )
    batches = Batches(dataset.train_images, dataset.train_labels)
    order = epoch_draws(spec.seed, 0, len(batches))["order"]
    parts = order.split(spec.batch_size)
    model.train()
    for step, part in enumerate(parts):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(spec, step, len(parts))
        optimizer.zero_grad()
        statistics = []
        for half, indices in enumerate(part.tensor_split(2)):
            torch.set_rng_state(masks[half])
            images, labels = batches(indices)
            with ascent(model, images, labels, spec.sam):
                loss = F.cross_entropy(model(images), labels, reduction="sum") / len(part)
                loss.backward()
            statistics.append([buffer.clone() for buffer in model.buffers()])
            masks[half] = torch.get_rng_state()
        for buffer, first in zip(model.buffers(), statistics[0], strict=True):
            buffer.copy_(first)
        optimizer.step()
    torch.set_rng_state(before)
    return model.eval()


def ascent(
    model: nn.Module, images: Tensor, labels: Tensor, rho: float
) -> contextlib.AbstractContextManager[None]:
    if not rho:
        return contextlib.nullcontext()
    return sam.ascended(
        model, lambda x, y: F.cross_entropy(model(x), y), sam.subset([images, labels], 0.2), rho
    )


def promised(row: str) -> tuple[float, float]:
    """The bounds of a distance on the page."""
    bounds = rf"\| {re.escape(row)} \| ([\d.]+) to ([\d.]+) \|"
    ((low, high),) = re.findall(bounds, PAGE.read_text(encoding="utf-8"))
    return float(low), float(high)


@pytest.mark.parametrize("name", OWN)
def test_what_every_process_has_for_itself(
    two: Reports, one: dict[str, Result], digits: Dataset, name: str
) -> None:
    """Statistics, masks, ascent: two do what is written out, as far from one as the page says."""
    first, second = (report["state"] for report in two[name])
    reference = by_halves(SPECS[name], digits)
    expected = parameters(reference, dict(reference.state_dict()))
    assert torch.equal(parameters(reference, first), parameters(reference, second))
    assert distance(parameters(reference, first), expected) < 1e-5
    for buffer_name, buffer in reference.named_buffers():
        torch.testing.assert_close(first[buffer_name], buffer, rtol=1e-4, atol=1e-5)
    alone = parameters(reference, one[name].model.state_dict())
    low, high = promised(OWN[name])
    assert low < distance(expected, alone) < high


def test_two_processes_resume_bit_for_bit(two: Reports) -> None:
    """Each with the masks that it would have drawn."""
    for whole, resumed in zip(two["whole"], two["resumed"], strict=True):
        assert resumed["how"]["resumed_at_epoch"] == 1
        assert resumed["metrics"] == whole["metrics"]
        for name, tensor in whole["state"].items():
            assert torch.equal(resumed["state"][name], tensor), name


def test_a_run_of_two_processes_is_not_gone_on_with_by_one(
    two: Reports, folder: Path, digits: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    spec = SPECS["dropout"].replace(epochs=2)
    result = loop.train(spec, digits, device="cpu", checkpoint=folder / "run.pt")
    assert "is of another run (processes: 2, here 1; to go on" in caplog.text
    assert result.how["resumed_at_epoch"] == 0
    assert result.how["processes"] == 1


def test_masks_of_one_process_are_those_of_the_first() -> None:
    """So records of one process stay what they were."""
    assert [mask_seed(seed, epoch, 0) for seed, epoch in ((0, 0), (2, 5))] == [0, 200_011]
    others = {mask_seed(s, e, p) for s in range(9) for e in range(9) for p in range(1, 9)}
    assert len(others) == 9 * 9 * 8
    assert others.isdisjoint(mask_seed(s, e, 0) for s in range(9) for e in range(9))
    assert max(others) < 2**32  # what torch reads on a CPU


@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
def test_what_is_recorded_is_that_of_the_network_kept(
    two: Reports, digits: Dataset, name: str
) -> None:
    """Every test image counts once, whoever looked at it."""
    model = assembly.initial_model(SPECS[name], 10).eval()
    model.load_state_dict(two[name][0]["state"])
    images, labels = Batches(digits.test_images, digits.test_labels)(torch.arange(360))
    logits = model(images)
    hits = int((logits.argmax(1) == labels).sum())
    metrics = two[name][0]["metrics"]
    assert round(metrics["test_accuracy"] * 360, 2) == hits
    assert metrics["test_loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), abs=1e-5)


# --- from a notebook ------------------------------------------------------------------------------

PARAMETERS = """
folder = "."
settings = "{}"
port = 29500
"""

TRAIN = """
import json
from accelerate import notebook_launcher
from nbrepro.sweep import SweepOptions, run_one
from nbrepro.records.ledger import Ledger
from nbrepro.spec import Spec

spec, ledger = Spec.from_dict(json.loads(settings)), Ledger(folder)

def train():
    run_one(spec, SweepOptions(ledger=ledger, device="cpu"))

notebook_launcher(train, num_processes=2, use_port=str(port))
"""


def free_port() -> int:
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        return int(connection.getsockname()[1])


def test_a_notebook_trains_on_two_processes(
    two: Reports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under papermill; the record is the one that torchrun's processes leave."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    notebook.cells = [
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(TRAIN),
    ]
    nbformat.write(notebook, tmp_path / "chapter.ipynb")
    given = {
        "folder": str(tmp_path / "results"),
        "settings": json.dumps(NF.to_dict()),
        "port": free_port(),
    }
    build.execute(tmp_path / "chapter.ipynb", tmp_path / "done.ipynb", given)
    (record,), damaged = Ledger(tmp_path / "results").scan()
    assert damaged == []
    assert record.spec == NF
    assert record.provenance["processes"] == 2
    assert record.metrics == two["NF"][0]["metrics"]

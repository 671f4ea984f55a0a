"""Runs on dask workers end in the records of serial ones, whatever is killed on the way.

``HOOK`` is loaded by every worker. It makes runs misbehave on their first attempt and notes when
they begin and end; the library knows nothing of it.
"""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
import torch
from conftest import MakeTree
from distributed import LocalCluster

from nbrepro import cli, data, experiments, sweep
from nbrepro.data import DataError
from nbrepro.experiments import Experiment
from nbrepro.records.ledger import Ledger, Record
from nbrepro.spec import Spec
from nbrepro.sweep import Planned, SweepOptions
from nbrepro.sweep import dask as engine

# What distributed leaves to the garbage collector when a cluster closes is not ours to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PATIENCE = 120  # seconds until a test gives up; nothing waits that long unless it is broken

HOOK = """
import ctypes, json, os, signal, time
from pathlib import Path

from nbrepro.sweep import dask

real = dask.run_locked

def run_locked(spec, options, should_stop):
    told = json.loads(Path("TOLD").read_text())
    folder = Path(told["folder"])

    def note(name):
        text = {"pid": os.getpid(), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}
        (folder / f"{name}.part").write_text(json.dumps(text))
        (folder / f"{name}.part").rename(folder / name)

    def wait(until):
        give_up = time.monotonic() + 120
        while not until():
            assert time.monotonic() < give_up, "waited in vain"
            time.sleep(0.02)

    attempt = len(list(folder.glob(f"{spec.seed}.*.start")))
    name = f"{spec.seed}.{attempt}"
    note(f"{name}.start")
    wait(lambda: len(list(folder.glob("*.start"))) >= told["together"])
    fault = told["faults"].get(str(spec.seed)) if attempt == 0 else None

    def after_an_epoch():
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "exits":
            os._exit(3)
        if fault == "waits":
            note(f"{name}.waits")
            wait(lambda: (folder / "go on").exists())
        return should_stop()

    if fault == "crashes":
        ctypes.string_at(0)
    try:
        return real(spec, options, after_an_epoch)
    finally:
        note(f"{name}.end")

def dask_setup(worker):
    dask.run_locked = run_locked
"""

CLIENT = """
import json, sys
from pathlib import Path
from nbrepro import sweep
from nbrepro.records.ledger import Ledger
from nbrepro.spec import Spec

root = Path(sys.argv[1])
options, specs = json.loads(sys.argv[2]), json.loads(sys.argv[3])
planned = [sweep.Planned(Spec.from_dict(spec), None) for spec in specs]
options = sweep.SweepOptions(ledger=Ledger(root / "results"), device="cpu", data_root=root,
                             **options)
if __name__ == "__main__":
    for record in sweep.run(planned, options):
        print(record.spec.hash, record.status, flush=True)
"""


class Lab:
    """A ledger, a tiny data set, and runs that misbehave as told."""

    def __init__(self, root: Path, hook: Path) -> None:
        self.root, self.hook = root, hook
        self.ledger = Ledger(root / "results")
        self.notes = root / "notes"
        self.notes.mkdir()
        self.expect()

    def expect(self, together: int = 0, **faults: str) -> None:
        """Let runs wait until ``together`` have begun; ``s1="waits"`` is a fault of seed 1."""
        told = {
            "folder": str(self.notes),
            "together": together,
            "faults": {seed.removeprefix("s"): fault for seed, fault in faults.items()},
        }
        self.hook.with_name("told.json").write_text(json.dumps(told))

    def options(self, **changes: Any) -> SweepOptions:
        usual: dict[str, Any] = {"ledger": self.ledger, "device": "cpu", "data_root": self.root}
        return SweepOptions(**(usual | changes))

    def sweep(self, *specs: Spec, **changes: Any) -> list[Record]:
        options = self.options(**changes)
        planned = [Planned(spec, options.ledger.find(spec)) for spec in specs]
        return list(sweep.run(planned, options))

    def client(self, *specs: Spec, **options: Any) -> "subprocess.Popen[str]":
        """The same in a process of its own, which tests kill."""
        told = [json.dumps(options), json.dumps([spec.to_dict() for spec in specs])]
        return subprocess.Popen(
            [sys.executable, "-c", CLIENT, self.root, *told],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | {"DASK_DISTRIBUTED__WORKER__PRELOAD": str([str(self.hook)])},
        )

    def noted(self, kind: str) -> dict[str, dict[str, Any]]:
        return {
            path.name.removesuffix(f".{kind}"): json.loads(path.read_text())
            for path in self.notes.glob(f"*.{kind}")
        }

    def contents(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (self.ledger.root / "runs").glob("*")}


@pytest.fixture(scope="module")
def hook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("hook") / "hook.py"
    path.write_text(HOOK.replace("TOLD", str(path.with_name("told.json"))))
    settings = {
        "distributed.worker.preload": [str(path)],
        "distributed.deploy.lost-worker-timeout": "1 day",
    }
    with dask.config.set(settings):
        yield path


@pytest.fixture
def lab(tmp_path: Path, hook: Path, monkeypatch: pytest.MonkeyPatch, make_tree: MakeTree) -> Lab:
    make_tree("tiny")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Lab(tmp_path, hook)


@pytest.fixture(scope="module")
def cluster(hook: Path) -> Iterator[LocalCluster]:
    """A cluster that was there before the sweep: its workers may go and come."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        memory_limit=0,
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
    ) as started:
        yield started


@pytest.fixture
def specs(spec: Spec) -> list[Spec]:
    return [
        spec.replace(dataset="tiny", batch_size=8, train="batchnorm", seed=seed)
        for seed in range(4)
    ]


def wait(until: Callable[[], object]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.05)


def gone(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


def measured(records: list[Record]) -> dict[str, Any]:
    """What does not depend on when and where a run took place."""
    return {
        r.spec.hash: (r.status, r.metrics, r.curve, (r.error or "").splitlines()[-1:])
        for r in records
    }


# --- the same records ----------------------------------------------------------------------------


def test_same_records_as_serial(
    lab: Lab, specs: list[Spec], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [*specs[:2], specs[0].replace(train="random:28", seed=9)]
    expected = lab.sweep(*specs, ledger=Ledger(lab.root / "alone" / "results"))
    assert [r.status for r in expected] == ["completed", "completed", "failed"]

    lab.expect(together=2)
    monkeypatch.setattr(engine, "visible_gpus", lambda device: ["90", "91"])  # not there: CPU
    records = lab.sweep(*specs, workers=2, device="auto")
    assert measured(records) == measured(expected)
    assert (measured(lab.ledger.scan()[0]), lab.ledger.scan()[1]) == (measured(records), [])
    assert {path.suffix for path in lab.ledger.work.iterdir()} == {".lock"}
    begun = lab.noted("start")
    assert len(begun) == 3
    assert len({note["pid"] for note in begun.values()}) == 2
    assert {note["gpu"] for note in begun.values()} == {"90", "91"}
    out = capfd.readouterr()
    assert "\r" not in out.out + out.err  # no bar where there is no terminal

    before = lab.contents()
    assert lab.sweep(*specs, workers=2) == []
    assert lab.contents() == before
    assert lab.noted("start") == begun


# --- runs that die -------------------------------------------------------------------------------


def test_a_run_that_dies_is_one_failed_record(
    lab: Lab, specs: list[Spec], capfd: pytest.CaptureFixture[str]
) -> None:
    lab.expect(s0="killed", s1="crashes", s2="exits")
    records = lab.sweep(*specs, workers=2)
    by_seed = {record.spec.seed: record for record in records}
    assert [by_seed[seed].status for seed in range(4)] == [*["failed"] * 3, "completed"]
    assert len(records) == len(lab.contents()) == 4
    begun = sorted(lab.noted("start"))
    assert begun[:4] == ["0.0", "1.0", "2.0", "3.0"]
    # Dask may have been moving the last run between workers when one of them died: then another
    # goes on with it. None of the runs that were at fault is tried again.
    assert begun[4:] in ([], ["3.1"])
    killed, crashed, ended = (by_seed[seed].error or "" for seed in range(3))
    for error in (killed, crashed, ended):
        assert error.splitlines()[-1].startswith("the process died without a record")
        assert not re.search(r"(?<![\w.])/\w", error)
    assert "epoch 1 of 2" in killed
    assert "epoch 1 of 2" in ended
    assert "Fatal Python error: Segmentation fault" in crashed
    assert 'File "hook.py"' in crashed  # where it was
    assert capfd.readouterr().err == ""
    assert lab.sweep(*specs, workers=2) == []

    (again,) = lab.sweep(specs[0], retry_failed=True)
    assert again.status == "completed"
    assert again.provenance["resumed_at_epoch"] == 1
    whole = lab.sweep(specs[0], ledger=Ledger(lab.root / "alone" / "results"))
    assert measured([again]) == measured(whole)


def test_a_lost_worker_of_a_cluster_is_no_fault_of_its_run(
    lab: Lab, specs: list[Spec], cluster: LocalCluster
) -> None:
    """As when a queue ends its job: another worker goes on from the last epoch."""
    lab.expect(s0="killed")
    records = lab.sweep(*specs[:2], scheduler=cluster.scheduler_address)
    by_seed = {record.spec.seed: record for record in records}
    assert {record.status for record in records} == {"completed"}
    assert by_seed[0].provenance["resumed_at_epoch"] == 1
    assert set(lab.noted("end")) == {"0.1", "1.0"}


def test_a_run_that_loses_all_workers_of_a_cluster_is_left(
    lab: Lab,
    specs: list[Spec],
    cluster: LocalCluster,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab.expect(s0="killed")
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    assert lab.sweep(specs[0], scheduler=cluster.scheduler_address) == []
    assert "every dask worker that had it was lost" in caplog.text
    assert lab.contents() == {}


def test_a_crash_on_a_cluster_is_the_fault_of_its_run(
    lab: Lab, specs: list[Spec], cluster: LocalCluster
) -> None:
    """The next worker reads so in the output of the first, and does not try again."""
    lab.expect(s0="crashes")
    (record,) = lab.sweep(specs[0], scheduler=cluster.scheduler_address)
    assert record.status == "failed"
    assert "Fatal Python error: Segmentation fault" in (record.error or "")
    assert list(lab.noted("start")) == ["0.0"]


def test_a_second_attempt_waits_for_the_first(
    lab: Lab, specs: list[Spec], cluster: LocalCluster
) -> None:
    """Dask may take a worker for dead that is at work: the run is still done once."""
    lab.expect(s0="waits")
    with lab.client(specs[0], scheduler=cluster.scheduler_address) as client:
        wait(lambda: lab.noted("waits"))
        scheduler: Any = cluster.scheduler
        (task,) = (t for t in scheduler.tasks.values() if t.key.startswith(specs[0].hash))
        address = task.processing_on.address

        def lose() -> None:
            (other,) = set(scheduler.workers) - {address}
            scheduler.set_restrictions({task.key: [other]})
            scheduler.transitions({task.key: "released"}, stimulus_id="test")

        scheduler.loop.add_callback(lose)
        wait(lambda: task.processing_on is not None and task.processing_on.address != address)
        (lab.notes / "go on").touch()
        output, _ = client.communicate()
    assert output.split() == [specs[0].hash, "completed"]
    (record,) = lab.ledger.scan()[0]
    assert record.provenance["resumed_at_epoch"] == 1
    assert list(lab.noted("start")) == ["0.0", "0.1"]


def test_a_run_without_its_data(
    lab: Lab, specs: list[Spec], cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a worker that does not see the folder: no fault of the run, so nothing is recorded."""
    where = {"scheduler": cluster.scheduler_address, "data_root": lab.root / "nowhere"}
    with pytest.raises(DataError, match="no folder"):  # the sweep looks before it starts any run
        lab.sweep(*specs, **where)
    monkeypatch.setattr(data, "load", lambda *_, **__: None)
    with pytest.raises(DataError, match="no folder"):
        lab.sweep(*specs, **where)
    assert lab.contents() == {}


# --- no time -------------------------------------------------------------------------------------


def test_out_of_time(
    lab: Lab,
    specs: list[Spec],
    cluster: LocalCluster,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Runs that do not reach the end of their epoch soon are cut off; nothing is recorded."""
    lab.sweep(specs[3], scheduler=cluster.scheduler_address)  # workers have loaded what they need
    monkeypatch.setattr(engine, "GRACE", 0.5)
    lab.expect(s0="waits", s1="waits", s2="waits")
    records = lab.sweep(*specs[:3], scheduler=cluster.scheduler_address, time_budget=6)
    assert records == []
    assert "time budget spent, 3 runs left" in caplog.text
    begun = lab.noted("waits")
    assert begun
    wait(lambda: all(gone(note["pid"]) for note in begun.values()))
    assert list(lab.contents()) == [lab.ledger.path(specs[3])]

    (record,) = lab.sweep(specs[2])  # no lock is left either
    assert record.status == "completed"


# --- sweeps that are killed ----------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_run_outlives_its_sweep(lab: Lab, specs: list[Spec], how: signal.Signals) -> None:
    lab.expect(s0="waits")
    with lab.client(specs[0], workers=1) as client:
        wait(lambda: lab.noted("waits"))
        # As a terminal and a queue do; a kill hits the one process only.
        client.kill() if how == signal.SIGKILL else os.killpg(client.pid, how)
    wait(lambda: gone(lab.noted("waits")["0.0"]["pid"]))
    assert lab.contents() == {}


def test_killed_sweep_is_started_again(lab: Lab, specs: list[Spec], cluster: LocalCluster) -> None:
    """The cluster's run ends with its epoch; nothing recorded is lost, only the rest is done."""
    where = {"scheduler": cluster.scheduler_address}
    lab.expect(s0="waits")
    with lab.client(*specs[:2], **where) as client:
        assert client.stdout is not None
        assert client.stdout.readline().split() == [specs[1].hash, "completed"]
        wait(lambda: lab.noted("waits"))
        client.kill()
    scheduler: Any = cluster.scheduler
    wait(lambda: not scheduler.tasks)
    (lab.notes / "go on").touch()
    wait(lambda: lab.noted("end").keys() == {"0.0", "1.0"})
    before = lab.contents()
    assert list(before) == [lab.ledger.path(specs[1])]

    (record,) = lab.sweep(*specs[:2], **where)
    assert (record.spec, record.status) == (specs[0], "completed")
    assert record.provenance["resumed_at_epoch"] == 1
    assert before.items() <= lab.contents().items()


def test_two_sweeps_at_once(
    lab: Lab, specs: list[Spec], cluster: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that one is doing is left out by the other; every run takes place once."""
    lab.expect(s0="waits")
    with lab.client(specs[0], scheduler=cluster.scheduler_address) as client:
        wait(lambda: lab.noted("waits"))
        for how in ({}, {"scheduler": cluster.scheduler_address}):
            mine = lab.sweep(specs[0], specs[1], **how)
            assert [record.spec for record in mine] == [specs[1]] * (how == {})
            assert "another process is doing this run" in caplog.text
            caplog.clear()
        (lab.notes / "go on").touch()
        output, _ = client.communicate()
    assert output.split() == [specs[0].hash, "completed"]
    assert list(lab.noted("start")) == ["0.0"]
    assert {r.status for r in lab.ledger.scan()[0]} == {"completed"}


# --- clusters that do not answer -----------------------------------------------------------------


def test_no_scheduler(lab: Lab, specs: list[Spec], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "ANSWER", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for port in (1, silent.getsockname()[1]):
            with pytest.raises(ConnectionError, match=f"no dask scheduler answers at .*:{port} "):
                lab.sweep(*specs, scheduler=f"tcp://127.0.0.1:{port}")
    assert lab.contents() == {}


@pytest.mark.parametrize("budget", [None, 0.2])
def test_no_worker(
    lab: Lab, specs: list[Spec], monkeypatch: pytest.MonkeyPatch, budget: float | None
) -> None:
    monkeypatch.setattr(engine, "PATIENCE", 0.3)
    with (
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", silence_logs=50) as empty,
        pytest.raises(ConnectionError, match="had no worker within 0 s; nothing was run"),
    ):
        lab.sweep(*specs, scheduler=empty.scheduler_address, time_budget=budget)
    assert lab.contents() == {}


# --- options and command line --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers is 0; it must be at least 1"),
        ({"workers": 10**9}, "workers is 1000000000; this machine has .* cores, so take at most"),
        ({"scheduler": "tcp://here:1", "workers": 2}, "has its own workers"),
        ({"device": "cuda", "workers": 1}, "no usable CUDA GPU"),
        ({"workers": 3, "device": "auto"}, "workers: 3, GPUs: 2; each worker needs a GPU"),
    ],
)
def test_options_that_do_not_go_together(
    lab: Lab,
    specs: list[Spec],
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(engine, "visible_gpus", lambda device: ["0", "1"])
    with pytest.raises(ValueError, match=message):
        lab.sweep(*specs, **options)
    assert lab.contents() == {}


def test_not_under_torchrun(lab: Lab, specs: list[Spec], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match="leave workers and scheduler out"):
        lab.sweep(*specs, workers=2)


def test_without_dask(lab: Lab, specs: list[Spec], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=re.escape("pip install -e '.[cluster]'")):
        lab.sweep(*specs, workers=2)
    assert len(lab.sweep(specs[0])) == 1


@pytest.mark.parametrize(
    ("visible", "count", "gpus"),
    [(None, 2, ["0", "1"]), ("3,GPU-5e", 2, ["3", "GPU-5e"]), ("", 0, []), (None, 0, [])],
)
def test_gpus(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int, gpus: list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert engine.visible_gpus("auto") == engine.visible_gpus("cuda") == gpus
    assert engine.visible_gpus("cpu") == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_command_line(
    lab: Lab,
    specs: list[Spec],
    cluster: LocalCluster,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a terminal one bar over the whole sweep, and a line for every run."""
    name, arms = "study", [specs[0], specs[0].replace(train="all")]
    tiny = Experiment(name, "chapter", "title", lambda profile: arms, {"smoke": 1})
    monkeypatch.setitem(experiments.REGISTRY, name, tiny)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.chdir(lab.root)
    command = ["run", name, "--scheduler", cluster.scheduler_address, "--data-root", "."]
    assert cli.main([*command, "--results", "results"]) == 0
    output = capsys.readouterr().out
    assert output.count(": completed, ") == 2
    assert "0 left to do" in output
    assert "0/2" in terminal.getvalue()
    assert "1/2" in terminal.getvalue()
    assert len(lab.ledger.scan()[0]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--worker", "two"], "argument --workers: invalid int value: 'two'"),
        (["--workers", "0"], "nbrepro: workers is 0"),
        (["--scheduler", "tcp://127.0.0.1:1"], "nbrepro: no dask scheduler answers"),
    ],
)
def test_command_line_errors(
    lab: Lab,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(engine, "ANSWER", 0.5)
    try:
        status: object = cli.main(["run", "all", "--results", str(lab.ledger.root), *arguments])
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert lab.contents() == {}

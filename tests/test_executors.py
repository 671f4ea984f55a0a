"""Every executor ends in the records of the serial one, whatever is killed on the way.

Runs take place in processes of their own. ``HOOK`` makes them misbehave on their first attempt and
note when they begin and end; the library knows nothing of it.
"""

import contextlib
import dataclasses
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask_jobqueue.local
import pytest
import torch
from conftest import MakeTree

from nbrepro import cli, experiments
from nbrepro.data import DataError
from nbrepro.records.ledger import Ledger, Record
from nbrepro.spec import Spec
from nbrepro.sweep import executors
from nbrepro.sweep.executors import Settings
from nbrepro.sweep.runner import Planned

# What distributed leaves to the garbage collector when a cluster closes is not ours to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PATIENCE = 120  # seconds until a test gives up; nothing waits that long unless it is broken

HOOK = """
import sys

if "nbrepro.sweep.executors" in sys.orig_argv:
    import ctypes, json, os, signal, time
    from pathlib import Path

    from nbrepro.train import loop

    real, hook = loop.train, json.loads(os.environ["HOOK"])
    folder = Path(hook["folder"])

    def note(name):
        text = {"pid": os.getpid(), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
                "time": time.monotonic()}
        (folder / f"{name}.part").write_text(json.dumps(text))
        (folder / f"{name}.part").rename(folder / name)

    def wait(until):
        give_up = time.monotonic() + 120
        while not until():
            assert time.monotonic() < give_up, "waited in vain"
            time.sleep(0.02)

    def train(spec, dataset, should_stop, **options):
        attempt = len(list(folder.glob(f"{spec.seed}.*.start")))
        name = f"{spec.seed}.{attempt}"
        note(f"{name}.start")
        wait(lambda: len(list(folder.glob("*.start"))) >= hook["together"])
        fault = hook["faults"].get(str(spec.seed)) if attempt == 0 else None

        def after_an_epoch():
            if fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "worker killed":
                os.kill(os.getppid(), signal.SIGKILL)
            if fault in ("hangs", "worker killed"):
                note(f"{name}.hangs")
                wait(lambda: False)
            return should_stop()

        if fault == "crashes":
            ctypes.string_at(0)
        if fault == "late":
            wait(should_stop)
        try:
            return real(spec, dataset, should_stop=after_an_epoch, **options)
        finally:
            note(f"{name}.end")

    loop.train = train
"""

CLIENT = """
import json, sys
from pathlib import Path
from nbrepro.sweep.executors import Settings, execute
from nbrepro.records.ledger import Ledger
from nbrepro.sweep.runner import Planned
from nbrepro.spec import Spec

root, executor = Path(sys.argv[1]), sys.argv[2]
settings, specs = json.loads(sys.argv[3]), json.loads(sys.argv[4])
ledger = Ledger(root / "results")
planned = [Planned("study", Spec.from_dict(spec), None) for spec in specs]
settings = Settings(ledger=ledger, device="cpu", data_root=root, checkpoints=root / "runs",
                    **settings)
for record in execute(executor, planned, settings):
    print(record.spec.hash, record.status, flush=True)
"""


class Lab:
    """A ledger, a tiny data set, and runs that misbehave as told."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.monkeypatch = root, monkeypatch
        self.ledger = Ledger(root / "results")
        self.notes = root / "notes"
        self.notes.mkdir()
        hook = root / "hook"
        hook.mkdir()
        (hook / "sitecustomize.py").write_text(HOOK)
        monkeypatch.setenv("PYTHONPATH", str(hook))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        self.expect()

    def expect(self, together: int = 0, **faults: str) -> None:
        """Let runs wait until ``together`` have begun; ``s1="hangs"`` is a fault of seed 1."""
        told = {
            "folder": str(self.notes),
            "together": together,
            "faults": {seed.removeprefix("s"): fault for seed, fault in faults.items()},
        }
        self.monkeypatch.setenv("HOOK", json.dumps(told))

    def planned(self, *specs: Spec, ledger: Ledger | None = None) -> list[Planned]:
        ledger = ledger or self.ledger
        return [Planned("study", spec, ledger.find(spec)) for spec in specs]

    def settings(self, **changes: Any) -> Settings:
        usual: dict[str, Any] = {
            "ledger": self.ledger,
            "device": "cpu",
            "data_root": self.root,
            "checkpoints": self.root / "runs",
        }
        return Settings(**(usual | changes))

    def sweep(self, executor: str, *specs: Spec, **changes: Any) -> list[Record]:
        settings = self.settings(**changes)
        planned = self.planned(*specs, ledger=settings.ledger)
        return list(executors.execute(executor, planned, settings))

    def client(self, executor: str, *specs: Spec, **settings: Any) -> "subprocess.Popen[str]":
        """The same in a process of its own, which tests kill."""
        told = [json.dumps(settings), json.dumps([spec.to_dict() for spec in specs])]
        return subprocess.Popen(
            [sys.executable, "-c", CLIENT, self.root, executor, *told],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def noted(self, kind: str) -> dict[str, dict[str, Any]]:
        return {
            path.name.removesuffix(f".{kind}"): json.loads(path.read_text())
            for path in self.notes.glob(f"*.{kind}")
        }

    def contents(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.ledger.root.rglob("*.json")}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_tree: MakeTree) -> Lab:
    make_tree("tiny")
    return Lab(tmp_path, monkeypatch)


@pytest.fixture
def specs(spec: Spec) -> list[Spec]:
    return [
        spec.replace(dataset="tiny", batch_size=8, train="batchnorm", seed=seed)
        for seed in range(4)
    ]


Cluster = Callable[..., str]


@pytest.fixture
def cluster(lab: Lab) -> Iterator[Cluster]:
    """Starts dask workers by job scripts, here without a queue, and returns the scheduler."""
    with contextlib.ExitStack() as stack:

        def start(jobs: int = 1) -> str:
            started = dask_jobqueue.local.LocalCluster(
                cores=1,
                processes=1,
                memory="1GB",
                scheduler_options={"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"},
            )
            stack.enter_context(started)
            started.scale(jobs=jobs)
            return str(started.scheduler_address)

        yield start


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


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def measured(records: list[Record]) -> dict[str, Any]:
    """What does not depend on when and where a run took place."""
    return {
        r.spec.hash: (r.status, r.metrics, r.curve, (r.error or "").splitlines()[-1:])
        for r in records
    }


def most_at_once(begun: dict[str, dict[str, Any]], ended: dict[str, dict[str, Any]]) -> int:
    changes = [(note["time"], 1) for note in begun.values()]
    changes += [(note["time"], -1) for note in ended.values()]
    return max(itertools.accumulate(change for _, change in sorted(changes)))


# --- the same records ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("executor", "workers", "gpus"),
    [
        ("processes", 1, False),
        ("processes", 2, False),
        ("processes", 4, True),
        ("dask", 1, False),
        ("dask", 2, True),
    ],
)
def test_same_records_as_serial(
    lab: Lab,
    specs: list[Spec],
    capfd: pytest.CaptureFixture[str],
    executor: str,
    workers: int,
    gpus: bool,
) -> None:
    specs = [*specs[: max(2, workers) - 1], specs[0].replace(train="random:28", seed=9)]
    serial = Ledger(lab.root / "serial")
    expected = lab.sweep("serial", *specs, ledger=serial)
    assert [r.status for r in expected] == ["completed"] * (len(specs) - 1) + ["failed"]

    lab.expect(together=workers)
    settings: dict[str, Any] = {"workers": workers}
    if gpus:  # that are not there, so that the runs take place on the CPU
        names = [f"9{slot}" for slot in range(workers)]
        lab.monkeypatch.setattr(executors, "_gpus", lambda device: names)
        settings["device"] = "auto"
    records = lab.sweep(executor, *specs, **settings)
    assert measured(records) == measured(expected)
    assert (measured(lab.ledger.scan()[0]), lab.ledger.scan()[1]) == (measured(records), [])
    assert list((lab.root / "runs").glob("*.pt")) == []

    begun, ended = lab.noted("start"), lab.noted("end")
    assert len(begun) == len(specs)
    assert most_at_once(begun, ended) <= workers
    if gpus:
        assert sorted(note["gpu"] for note in begun.values()) == names
    out = capfd.readouterr()
    assert "\r" not in out.out + out.err  # no bar where there is no terminal

    before = lab.contents()
    assert lab.sweep(executor, *specs, **settings) == []
    assert lab.contents() == before
    assert lab.noted("start") == begun


def test_two_experiments_with_the_same_run(lab: Lab, specs: list[Spec]) -> None:
    """They share its checkpoint, so it takes place twice, but not at the same time."""
    plan = [Planned(name, spec, None) for name in ("study", "other") for spec in specs[:2]]
    plan.append(Planned("other", specs[2], None))
    assert list(executors._batches(plan)) == [[plan[0], plan[1], plan[4]], [plan[2], plan[3]]]
    assert list(executors._batches([])) == []


# --- runs that die -------------------------------------------------------------------------------


def test_a_run_that_dies_is_one_failed_record(lab: Lab, specs: list[Spec]) -> None:
    lab.expect(s0="killed", s1="crashes")
    records = lab.sweep("processes", *specs[:3], workers=2)
    by_seed = {record.spec.seed: record for record in records}
    assert [by_seed[seed].status for seed in range(3)] == ["failed", "failed", "completed"]
    killed, crashed = (by_seed[seed].error or "" for seed in range(2))
    assert killed.splitlines()[-1] == "killed by signal 9 (Killed), without a record"
    assert "epoch 1 of 2" in killed
    assert "killed by signal 11 (Segmentation fault)" in crashed.splitlines()[-1]
    assert 'File "sitecustomize.py"' in crashed  # where it was
    assert not re.search(r"(?<![\w.])/\w", killed + crashed)
    assert lab.sweep("processes", *specs[:3]) == []

    (again,) = lab.sweep("processes", specs[0], retry_failed=True)
    assert again.status == "completed"
    assert again.provenance["resumed_at_epoch"] == 1
    whole = lab.sweep("serial", specs[0], ledger=Ledger(lab.root / "serial"))
    assert measured([again]) == measured(whole)


def test_what_comes_of_a_run(lab: Lab, specs: list[Spec]) -> None:
    (item,) = lab.planned(specs[0])
    assert executors._settle(item, executors._Exit(None), lab.ledger) is None
    assert executors._settle(item, executors._Exit(executors._NOTHING), lab.ledger) is None
    assert lab.contents() == {}

    silent = executors._Exit(0, "see /some/where/log.txt", executors._cause(0))
    record = executors._settle(item, silent, lab.ledger)
    assert record is not None
    assert record.status == "failed"
    assert record.error == "see log.txt\nended with exit status 0, without a record"

    # It had done its work when it died: what it recorded counts.
    done = dataclasses.replace(record, status="completed", error=None)
    lab.ledger.write(done)
    died = executors._Exit(-11, "", executors._cause(-11))
    assert executors._settle(item, died, lab.ledger) == done


def test_a_dask_worker_that_dies_fails_no_run(lab: Lab, specs: list[Spec]) -> None:
    lab.expect(s0="worker killed")
    records = lab.sweep("dask", *specs[:2], workers=1)
    assert sorted(r.spec.seed for r in records) == [0, 1]
    assert {r.status for r in records} == {"completed"}
    assert gone(lab.noted("hangs")["0.0"]["pid"])
    assert set(lab.noted("end")) >= {"0.1", "1.0"}


def test_a_run_that_loses_all_its_dask_workers_is_left_to_do(
    lab: Lab, specs: list[Spec], caplog: pytest.LogCaptureFixture
) -> None:
    lab.expect(s0="worker killed")
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        assert lab.sweep("dask", specs[0], workers=1) == []
    assert "every dask worker that had it was lost" in caplog.text
    assert lab.contents() == {}


def test_a_run_goes_on_when_its_job_ends(lab: Lab, specs: list[Spec], cluster: Cluster) -> None:
    """A queue ends a job, and with it a dask worker, its nanny and the run they have in hand."""
    lab.expect(s0="hangs")
    with lab.client("dask", specs[0], scheduler=cluster(jobs=2)) as client:
        wait(lambda: lab.noted("hangs"))
        run = lab.noted("hangs")["0.0"]["pid"]
        os.kill(parent(parent(run)), signal.SIGTERM)
        output, _ = client.communicate()
    assert output.split() == [specs[0].hash, "completed"]
    assert gone(run)
    assert lab.ledger.scan()[0][0].provenance["resumed_at_epoch"] == 1


def test_a_run_without_its_data(lab: Lab, specs: list[Spec]) -> None:
    """On a worker that does not see the folder: no fault of the run, so nothing is recorded."""
    nowhere = lab.settings(data_root=lab.root / "nowhere")
    with pytest.raises(DataError, match="no folder"):  # the sweep looks before it starts any run
        list(executors.execute("processes", lab.planned(*specs), nowhere))
    (item,) = lab.planned(specs[0])
    (lab.root / "runs").mkdir()
    task = executors._task(item, nowhere)
    ((_, ended),) = executors._apart([task], [{**os.environ}], None, time.monotonic)
    with pytest.raises(DataError, match="no folder"):
        executors._settle(item, ended, lab.ledger)
    assert lab.contents() == {}


# --- no time -------------------------------------------------------------------------------------


def test_out_of_time(lab: Lab, specs: list[Spec], caplog: pytest.LogCaptureFixture) -> None:
    lab.expect(s0="late")
    with caplog.at_level("INFO", "nbrepro"):
        assert lab.sweep("processes", *specs[:2], time_budget=3) == []
    assert caplog.messages[-1] == "time budget spent"
    assert lab.contents() == {}
    assert list(lab.noted("start")) == ["0.0"]
    (record,) = lab.sweep("processes", specs[0], time_budget=3600)
    assert record.provenance["resumed_at_epoch"] == 1


def test_out_of_time_and_out_of_patience(
    lab: Lab, specs: list[Spec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "GRACE", 0.5)
    lab.expect(s0="hangs")
    assert lab.sweep("processes", *specs[:2], time_budget=3) == []
    assert lab.contents() == {}
    assert all(gone(note["pid"]) for note in lab.noted("start").values())


# --- sweeps that are killed ----------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["processes", "dask"])
def test_killed_sweep_is_started_again(
    lab: Lab, specs: list[Spec], cluster: Cluster, executor: str
) -> None:
    """Nothing recorded is lost, no process is left, and only what is missing is done."""
    lab.expect(s1="hangs")
    where = {"scheduler": cluster()} if executor == "dask" else {"workers": 1}
    with lab.client(executor, *specs[:2], **where) as client:
        assert client.stdout is not None
        assert client.stdout.readline().split() == [specs[0].hash, "completed"]
        wait(lambda: lab.noted("hangs"))
        client.kill()
    wait(lambda: gone(lab.noted("hangs")["1.0"]["pid"]))
    before = lab.contents()
    assert list(before) == [lab.ledger.path(specs[0])]

    (record,) = lab.sweep(executor, *specs[:2], **where)
    assert (record.spec, record.status) == (specs[1], "completed")
    assert record.provenance["resumed_at_epoch"] == 1
    assert before.items() <= lab.contents().items()


@pytest.mark.parametrize(
    ("executor", "how"), [("processes", signal.SIGINT), ("dask", signal.SIGTERM)]
)
def test_no_run_outlives_its_sweep(
    lab: Lab, specs: list[Spec], executor: str, how: signal.Signals
) -> None:
    lab.expect(s0="hangs")
    with lab.client(executor, specs[0], workers=1) as client:
        wait(lambda: lab.noted("hangs"))
        os.killpg(client.pid, how)  # as a terminal and a queue do
    wait(lambda: gone(lab.noted("hangs")["0.0"]["pid"]))
    assert lab.contents() == {}


def test_two_sweeps_at_once(lab: Lab, specs: list[Spec]) -> None:
    """Both begin at the same time; every run takes place once."""
    lab.expect(together=2)
    with lab.client("processes", *specs[:2], workers=1) as client:
        mine = lab.sweep("dask", *specs[:2], workers=1)
        output, _ = client.communicate()
    assert client.returncode == 0
    theirs = {line.split()[0] for line in output.splitlines()}
    assert theirs | {record.spec.hash for record in mine} == {spec.hash for spec in specs[:2]}
    assert sorted(lab.noted("start")) == ["0.0", "1.0"]
    assert {r.status for r in lab.ledger.scan()[0]} == {"completed"}


# --- settings and command line -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("executor", "settings", "message"),
    [
        ("slurm", {}, "unknown executor 'slurm'"),
        ("processes", {"workers": 0}, "workers is 0; it must be at least 1"),
        ("serial", {"workers": 2}, "the serial executor is one worker, not 2"),
        ("processes", {"scheduler": "tcp://here:1"}, "a scheduler is for the dask executor"),
        ("dask", {"scheduler": "tcp://here:1", "workers": 2}, "has its own workers"),
        ("processes", {"device": "cuda"}, "workers: 1, GPUs: 0; each worker needs a GPU"),
        ("dask", {"workers": 3, "device": "auto"}, "workers: 3, GPUs: 2; each worker needs a GPU"),
    ],
)
def test_settings_that_do_not_go_together(
    lab: Lab, specs: list[Spec], executor: str, settings: dict[str, Any], message: str
) -> None:
    gpus = ["0", "1"] if settings.get("device") == "auto" else []
    lab.monkeypatch.setattr(executors, "_gpus", lambda device: gpus)
    with pytest.raises(ValueError, match=message):
        lab.sweep(executor, *specs, **settings)
    assert lab.contents() == {}


def test_no_scheduler(lab: Lab, specs: list[Spec]) -> None:
    lab.monkeypatch.setattr(executors, "_ANSWER", 0.2)
    with pytest.raises(ConnectionError, match="no dask scheduler answers at tcp://127"):
        lab.sweep("dask", *specs, scheduler="tcp://127.0.0.1:1")


def test_not_under_torchrun(lab: Lab, specs: list[Spec]) -> None:
    lab.monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match="use the serial executor"):
        lab.sweep("processes", *specs)


def test_without_dask(lab: Lab, specs: list[Spec]) -> None:
    lab.monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=re.escape("pip install 'nbrepro[cluster]'")):
        lab.sweep("dask", *specs)


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
    assert executors._gpus("auto") == executors._gpus("cuda") == gpus
    assert executors._gpus("cpu") == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_command_line(
    lab: Lab, specs: list[Spec], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal one bar over the whole sweep, and a line for every run."""
    name = "training_only_batchnorm"
    arms = [specs[0], specs[0].replace(train="all")]
    tiny = dataclasses.replace(experiments.get(name), arms=lambda profile: arms)
    monkeypatch.setitem(experiments.REGISTRY, name, tiny)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.chdir(lab.root)
    command = ["run", name, "--executor", "processes", "--workers", "2", "--data-root", "."]
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
        (["--executor", "proceses"], "did you mean processes?"),
        (["--executor", "processes", "--workers", "0"], "nbrepro: workers is 0"),
        (["--scheduler", "tcp://here:1"], "nbrepro: a scheduler is for the dask executor"),
    ],
)
def test_command_line_errors(
    lab: Lab, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    try:
        status = cli.main(["run", "all", "--results", str(lab.ledger.root), *arguments])
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


# --- Slurm ---------------------------------------------------------------------------------------


def test_slurm_job_script() -> None:
    """The job that the documented settings submit: one GPU, one run at a time, a timely end."""
    with dask_jobqueue.SLURMCluster(  # as in the documentation
        queue="gpu",
        cores=1,
        processes=1,
        memory="16GB",
        walltime="01:00:00",
        job_extra_directives=["--gres=gpu:1"],
        worker_extra_args=[
            *("--resources", "GPU=1"),
            *("--lifetime", "50m", "--lifetime-stagger", "5m"),
        ],
        scheduler_options={"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"},
    ) as cluster:
        script = cluster.job_script()
    *head, command, _ = script.split("\n")
    assert head == [
        "#!/usr/bin/env bash",
        "",
        "#SBATCH -J dask-worker",
        "#SBATCH -p gpu",
        "#SBATCH -n 1",
        "#SBATCH --cpus-per-task=1",
        "#SBATCH --mem=15G",
        "#SBATCH -t 01:00:00",
        "#SBATCH --gres=gpu:1",
        "",
    ]
    assert re.fullmatch(
        r"\S+ -m distributed\.cli\.dask_worker tcp://\S+ --name dummy-name --nthreads 1 "
        r"--memory-limit 14\.90GiB --nanny --death-timeout 60 --resources GPU=1 "
        r"--lifetime 50m --lifetime-stagger 5m",
        command,
    )

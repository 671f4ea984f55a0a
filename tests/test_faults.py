"""Faults that a sweep has to survive with nothing lost.

Each is brought about for real where that is possible: processes are killed in the middle of a
write, and the operating system refuses bytes (``RLIMIT_FSIZE``), as a full disk does. Faults that
belong to one room are tested there: damaged and altered records, later schemas and several writers
in ``test_ledger``, interrupted and repeated runs in ``test_runner``, dying processes and workers in
``test_sweep``, damaged and foreign checkpoints in ``test_checkpoint`` and ``test_training``.
"""

import contextlib
import errno
import itertools
import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nbrepro import cli, data, sweep
from nbrepro._files import replacing
from nbrepro.records.ledger import Ledger, Record
from nbrepro.spec import Spec
from nbrepro.sweep import Planned, SweepOptions
from nbrepro.train import assembly, loop, seed_checkpoint
from nbrepro.train.checkpoint import State

BYTES = (0, 1, 1000, 2000)  # of a longer record
LONG = "Größer" * 300


@pytest.fixture
def quickly(spec: Spec) -> Spec:
    """A tenth of a second an epoch."""
    return spec.replace(train="output", batch_size=500, epochs=3)


def record(spec: Spec, status: str = "completed", **provenance: Any) -> Record:
    failed = status == "failed"
    metrics = {} if failed else {"test_accuracy": 0.5}
    error = "Traceback ..." if failed else None
    curve = [{"epoch": 0, "step": 0, **metrics}]
    return Record(spec, status, metrics, curve, {"seconds": 1.5, **provenance}, error)


def run(specs: list[Spec], ledger: Ledger, **options: Any) -> list[Record]:
    planned = [Planned(spec, ledger.find(spec)) for spec in specs]
    return list(sweep.run(planned, SweepOptions(ledger=ledger, device="cpu", **options)))


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


# --- killed in the middle of a write --------------------------------------------------------------


def in_a_child(action: Callable[[], object], prepare: Callable[[], object]) -> int:
    """Do it in a forked process; return the signal that killed it."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            prepare()
            action()
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def killed_when_full(size: int) -> None:
    """Have the system kill this process when it writes byte ``size`` of any file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def killed_at(call: str) -> None:
    """Have this process killed when it is about to call a function of ``os``."""
    setattr(os, call, lambda *_: os.kill(os.getpid(), signal.SIGKILL))


@pytest.mark.parametrize("before", [None, "failed"])
@pytest.mark.parametrize(
    ("prepare", "killed"),
    [
        *((lambda size=size: killed_when_full(size), signal.SIGXFSZ) for size in BYTES),
        *((lambda call=call: killed_at(call), signal.SIGKILL) for call in ("fsync", "replace")),
    ],
    ids=[*(f"byte {size}" for size in BYTES), "fsync", "replace"],
)
def test_killed_while_writing_a_record(
    ledger: Ledger,
    quickly: Spec,
    before: str | None,
    prepare: Callable[[], object],
    killed: signal.Signals,
) -> None:
    new = record(quickly, gpu=LONG)
    assert len(new.to_json().encode()) > max(BYTES)
    old = [record(quickly, before)] if before else []
    for entry in old:
        ledger.write(entry)
    assert in_a_child(lambda: ledger.write(new), prepare) == killed
    assert ledger.scan() == (old, [])  # what the dead process left is no record, damaged or not
    ledger.write(new)
    assert ledger.scan() == ([new], [])


CHECKPOINT_KILLED = """
import json, resource, signal, sys
from pathlib import Path
import torch
from nbrepro import data
from nbrepro.train import assembly, loop
from nbrepro.spec import Spec

def after_an_epoch():
    "From now on the system kills this process in the middle of a checkpoint."
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2,) * 2)
    return False

torch.set_num_threads(1)
path, spec = Path(sys.argv[1]), Spec.from_dict(json.loads(sys.argv[2]))
loop.train(spec, data.load("digits"), device="cpu", checkpoint=path,
               should_stop=after_an_epoch)
"""


def test_killed_while_writing_a_checkpoint(checkpoints: Path, quickly: Spec) -> None:
    """The one before is still there, whole; the run goes on from it to the same end."""
    path = checkpoints / f"{quickly.hash}.pt"
    command = [sys.executable, "-c", CHECKPOINT_KILLED, str(path), json.dumps(quickly.to_dict())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGXFSZ, done.stderr
    assert len(files(checkpoints)) == 2  # the checkpoint, and the part that the dead process left
    digits = data.load("digits")
    whole = loop.train(quickly, digits, device="cpu")
    parts = loop.train(quickly, digits, device="cpu", checkpoint=path)
    assert parts.how["resumed_at_epoch"] == 1
    assert parts.curve == whole.curve


def test_a_result_is_on_the_disk_before_anything_is_removed(
    ledger: Ledger, quickly: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut after the rename must not lose the name: the folder is written out as well."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(handle: int) -> None:
        fsync(handle)
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")

    def note_replace(*paths: Any) -> None:
        replace(*paths)
        done.append("rename")

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    ledger.write(record(quickly))
    assert done == ["file", "rename", "folder"]


# --- disk full -----------------------------------------------------------------------------------


@contextlib.contextmanager
def room(size: int) -> Iterator[None]:
    """No file of this process can grow beyond ``size`` bytes; the system raises, as if full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class FullLedger(Ledger):
    """A ledger on a disk that has no room for a record."""

    def write(self, record: Record) -> Path:
        with room(100):
            return super().write(record)


@pytest.mark.parametrize("size", BYTES)
def test_no_room_for_a_record(ledger: Ledger, quickly: Spec, size: int) -> None:
    path = ledger.write(record(quickly, "failed"))
    with room(size), pytest.raises(OSError, match="too large"):
        ledger.write(record(quickly, gpu=LONG))
    assert files(ledger.root) == {path.name}
    assert ledger.scan() == ([record(quickly, "failed")], [])


def test_no_room_for_the_record_of_a_finished_run(
    ledger: Ledger, checkpoints: Path, quickly: Spec
) -> None:
    """The checkpoint of its last epoch stays; with room again, no epoch is trained twice."""
    with pytest.raises(OSError, match="too large"):
        run([quickly], FullLedger(ledger.root))
    assert ledger.scan() == ([], [])
    (again,) = run([quickly], ledger)
    assert again.provenance["resumed_at_epoch"] == quickly.epochs
    assert again.curve == loop.train(quickly, data.load("digits"), device="cpu").curve
    assert files(checkpoints) == set()


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_no_room_for_a_checkpoint(
    ledger: Ledger,
    checkpoints: Path,
    quickly: Spec,
    share: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A failed run that names the cause; the checkpoint before stays and is gone on from."""
    save = State.save

    def full_from_the_second_on(self: State, path: Path, of: dict[str, Any]) -> None:
        full = room(int(share * path.stat().st_size)) if path.exists() else contextlib.nullcontext()
        with full:
            save(self, path, of)

    with monkeypatch.context() as context:
        context.setattr(State, "save", full_from_the_second_on)
        (failed,) = run([quickly], ledger)
    assert failed.status == "failed"
    assert "OSError: [Errno 27] File too large" in (failed.error or "").splitlines()[-1]
    assert files(checkpoints) == {f"{quickly.hash}.pt"}
    (again,) = run([quickly], ledger, retry_failed=True)
    assert again.provenance["resumed_at_epoch"] == 1
    assert again.curve == loop.train(quickly, data.load("digits"), device="cpu").curve


def test_no_room_for_a_seed_checkpoint(tmp_path: Path, spec: Spec) -> None:
    spec = spec.replace(train="batchnorm")
    path = tmp_path / "network.safetensors"
    seed_checkpoint.save(assembly.initial_model(spec, 10), spec, path)
    before = path.read_bytes()
    changed = assembly.initial_model(spec, 10)
    with torch.no_grad():
        changed.get_parameter("bn.weight").add_(1)
    with room(len(before) - 1), pytest.raises(OSError, match="too large"):
        seed_checkpoint.save(changed, spec, path)
    assert path.read_bytes() == before
    assert files(tmp_path) == {path.name}


def test_an_error_that_is_none_of_the_disks_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ours"), replacing(tmp_path / "file"):
        raise RuntimeError("ours")
    assert files(tmp_path) == set()


# --- a ledger that cannot be written --------------------------------------------------------------


def refuse(number: int) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("a file in its place", "File exists"),
        ("below a file", "Not a directory"),
        ("read-only when empty", "Read-only file system"),
        ("read-only", "Read-only file system"),
        ("not ours", "Permission denied"),
        ("full", "File too large"),
    ],
)
def test_whether_a_ledger_can_be_written(
    tmp_path: Path, quickly: Spec, monkeypatch: pytest.MonkeyPatch, fault: str, cause: str
) -> None:
    """Found out before the runs, in one line that names the ledger, the cause and the remedy."""
    ledger = Ledger(tmp_path / "results")
    with contextlib.ExitStack() as stack:
        if fault == "a file in its place":
            (tmp_path / "results").mkdir()
            (tmp_path / "results" / "runs").touch()
        elif fault == "below a file":
            (tmp_path / "results").touch()
        elif fault == "full":
            stack.enter_context(room(100))
        else:
            # The superuser may write anywhere, and cannot count on being able to mount.
            where = (os, "mkdir") if fault == "read-only when empty" else (os, "open")
            if fault != "read-only when empty":
                ledger.check_writable()
            context = stack.enter_context(monkeypatch.context())
            context.setattr(*where, refuse(errno.EACCES if fault == "not ours" else errno.EROFS))
        with pytest.raises(OSError, match=re.escape(cause)) as caught:
            ledger.check_writable()
        message = str(caught.value)
        assert str(ledger.root) in message
        assert "--results" in message
        assert "\n" not in message


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["serial", "dask"])
def test_no_run_is_begun_for_a_ledger_that_cannot_be_written(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    workers: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").touch()
    options = ("--profile", "smoke", "--results", "results", *workers)
    assert cli.main(["run", "training_only_batchnorm", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"nbrepro: the ledger {tmp_path}/results cannot be written (")
    assert files(tmp_path) == {"results"}


def test_a_ledger_that_can_be_written_is_left_as_it_is(ledger: Ledger, quickly: Spec) -> None:
    path = ledger.write(record(quickly))
    ledger.check_writable()
    assert files(ledger.root) == {path.name}


def test_benchmarks_beside_the_records_are_no_damage(ledger: Ledger, quickly: Spec) -> None:
    ledger.write(record(quickly))
    (ledger.root / "benchmarks").mkdir()
    (ledger.root / "benchmarks" / "data_path.json").write_text('{"benchmark": "data_path"}')
    assert ledger.scan() == ([record(quickly)], [])


# --- the clock -----------------------------------------------------------------------------------


@pytest.fixture
def backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock on the wall shows an hour less."""
    hours = itertools.count()
    monkeypatch.setattr(time, "time", lambda: 1_600_000_000.0 - 3600 * next(hours))


@pytest.mark.usefixtures("backwards")
@pytest.mark.parametrize("dated", [0, 4_000_000_000], ids=["1970", "2096"])
def test_a_clock_set_back(ledger: Ledger, checkpoints: Path, quickly: Spec, dated: int) -> None:
    """Neither budgets nor locks, resumption or what is recorded go by dates."""
    first, second = quickly, quickly.replace(seed=1, epochs=2)
    digits = data.load("digits")
    with pytest.raises(loop.Interrupted):
        loop.train(
            *(second, digits),
            device="cpu",
            checkpoint=checkpoints / f"{second.hash}.pt",
            should_stop=lambda: True,
        )
    ledger.write(record(first, finished="2096-10-02T07:06:40+00:00"))
    for path in [*checkpoints.rglob("*"), *ledger.root.rglob("*")]:
        os.utime(path, (dated, dated))
    before = ledger.path(first).read_bytes()

    assert run([first, second], ledger, time_budget=0) == []
    (done,) = run([first, second], ledger, time_budget=3600)
    assert done.spec == second
    assert done.provenance["resumed_at_epoch"] == 1
    assert done.provenance["seconds"] >= 0
    assert done.curve == loop.train(second, digits, device="cpu").curve
    assert ledger.path(first).read_bytes() == before
    assert len(ledger.scan()[0]) == 2
    assert run([first, second], ledger) == []


# --- a ledger merged from two machines ------------------------------------------------------------


class Machine:
    """A clone of a repository with a ledger in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ledger = folder, Ledger(folder / "results")
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch", "main")

    def git(self, *arguments: str | Path, check: bool = True) -> int:
        who = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", self.folder, *who, *arguments]
        return subprocess.run(command, capture_output=True, check=check).returncode

    def record(self, *records: Record) -> None:
        for entry in records:
            self.ledger.write(entry)
        self.git("add", "results")
        self.git("commit", "--quiet", "--message", "records")


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Machine, Machine]:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    here, there = Machine(tmp_path / "here"), Machine(tmp_path / "there")
    here.git("commit", "--quiet", "--allow-empty", "--message", "start")
    there.git("pull", "--quiet", here.folder, "main")
    return here, there


def test_runs_of_two_machines_merge(machines: tuple[Machine, Machine], quickly: Spec) -> None:
    here, there = machines
    a, b, c = (record(quickly.replace(seed=seed), gpu=f"G{seed}") for seed in range(3))
    here.record(a, b)
    there.record(a, c)  # a is the same to the byte: no conflict
    here.git("pull", "--quiet", "--no-rebase", there.folder, "main")
    sound, damaged = here.ledger.scan()
    assert damaged == []
    assert sorted(r.spec.seed for r in sound) == [0, 1, 2]


@pytest.mark.parametrize("before", [None, "failed"], ids=["new", "retried"])
def test_a_run_done_on_two_machines(
    machines: tuple[Machine, Machine], checkpoints: Path, quickly: Spec, before: str | None
) -> None:
    """Git stops at that file. Both are sound; until one is chosen, neither counts."""
    here, there = machines
    if before:
        here.record(record(quickly, before))
        there.git("pull", "--quiet", here.folder, "main")
    ours, theirs = record(quickly, gpu="A", seconds=9.5), record(quickly, gpu="B", seconds=7.5)
    other = record(quickly.replace(seed=1))
    here.record(ours)
    there.record(theirs, other)
    pull = ["pull", "--quiet", "--no-rebase", str(there.folder), "main"]
    assert here.git(*pull, check=False) == 1
    sound, (damaged,) = here.ledger.scan()
    assert sound == [other]
    assert damaged.path == here.ledger.path(quickly)
    for side, expected in (("--ours", ours), ("--theirs", theirs)):
        here.git("checkout", side, "results")
        assert here.ledger.find(quickly) == expected

    here.git("checkout", "--merge", "results")  # with the marks, and nobody chooses
    assert "<<<<<<<" in damaged.path.read_text()
    (again,) = run([quickly, other.spec], here.ledger)
    assert again.spec == quickly
    assert here.ledger.scan()[1] == []


# --- what the user is told ------------------------------------------------------------------------


def test_a_record_of_a_later_schema_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that says what to do; no run is done over it."""
    from nbrepro import experiments

    monkeypatch.chdir(tmp_path)
    name, ledger = "training_only_batchnorm", Ledger(tmp_path / "results")
    first = experiments.get(name).specs("smoke")[0]
    path = ledger.path(first)
    path.parent.mkdir(parents=True)
    later = '{"schema": 3}'
    path.write_text(later)
    results = ("--results", str(ledger.root))
    for command in ("run", "status"):
        assert cli.main([command, name, "--profile", "smoke", *results]) == 2
        error = capsys.readouterr().err
        assert "schema 3; upgrade nbrepro" in error
        assert error.count("\n") == 1
    assert cli.main(["verify", "ACC-20", *results]) == 1
    assert "schema 3; upgrade nbrepro" in capsys.readouterr().err
    assert path.read_text() == later
    assert files(ledger.root) == {path.name}

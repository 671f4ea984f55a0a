"""One run under its lock, and everything that is missing of a plan.

Torch is imported inside functions: the command line and dask's workers import this module.
"""

import argparse
import contextlib
import logging
import math
import os
import re
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from nbrepro import _malloc
from nbrepro._suggest import select
from nbrepro.records import features
from nbrepro.records.ledger import Ledger, Record
from nbrepro.records.provenance import device_name, provenance
from nbrepro.spec import Spec
from nbrepro.sweep.plan import Planned, checkpoint, estimate

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger("nbrepro")


#: Workers for each core of this machine; more would only be in each other's way.
MOST_PER_CORE = 8
YEAR = 365 * 24 * 3600


class Left(Exception):
    """A run that was not done, or not to its end. The message says why; a later sweep does it."""


def seconds(text: str) -> float:
    """``90``, ``90s``, ``9m`` or ``1.5h`` in seconds; for argparse.

    Raises:
        ArgumentTypeError: for anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 90s, 9m or 1.5h")
    found = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
    if found > YEAR:
        raise argparse.ArgumentTypeError(f"{text!r} is more than a year; leave the budget out")
    return found


def _option(text: str, **parsing: Any) -> dict[str, Any]:
    """Metadata of a field that is an option of the command line too, as argparse wants it."""
    return {"help": text, **parsing}


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """How a sweep is carried out. ``nbrepro run`` has an option for every field with a help text.

    Attributes:
        ledger: where records go; locks, checkpoints and output of runs go to its work folder.
        workers: runs at once, each in a process of its own; default: one after another, here.
        scheduler: address of a running dask scheduler, instead of workers on this machine.
        time_budget: seconds; runs cut off by it go on from their last epoch next time.
        retry_failed: also run again what failed before.
        device: ``auto``, ``cpu`` or ``cuda``.
        data_root: folder of the data sets.
        download: let torchvision fetch CIFAR-10.
        progress: show a bar on a terminal.
    """

    ledger: Ledger
    workers: int | None = field(
        default=None,
        metadata=_option(
            "runs at once, each in a process (and on a GPU) of its own; needs dask",
            type=int,
            metavar="N",
        ),
    )
    scheduler: str | None = field(
        default=None,
        metadata=_option("a running dask scheduler, such as tcp://host:8786", metavar="ADDRESS"),
    )
    time_budget: float | None = field(
        default=None,
        metadata=_option("stop cleanly after 90s, 9m or 1.5h", type=seconds, metavar="T"),
    )
    retry_failed: bool = field(
        default=False, metadata=_option("run again what failed before", action="store_true")
    )
    device: str = field(
        default="auto", metadata=_option("default: %(default)s", choices=("auto", "cpu", "cuda"))
    )
    data_root: Path | None = field(
        default=None,
        metadata=_option("default: $NBREPRO_DATA or data", type=Path, metavar="DIR"),
    )
    download: bool = field(
        default=False, metadata=_option("let torchvision fetch CIFAR-10", action="store_true")
    )
    progress: bool = True

    def __post_init__(self) -> None:
        """Check what does not depend on this machine.

        Raises:
            ValueError: for values out of range, or options that do not go together.
        """
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers is {self.workers}; it must be at least 1")
        if self.workers is not None and self.scheduler is not None:
            raise ValueError(
                "a running scheduler has its own workers; leave the number of workers out"
            )

    @property
    def parallel(self) -> bool:
        """Whether runs take place on dask workers."""
        return self.workers is not None or self.scheduler is not None

    def wants(self, record: Record | None) -> bool:
        """Whether a run with this record, if it has one, is to be done."""
        return record is None or (self.retry_failed and record.status == "failed")


def run(planned: Sequence[Planned], options: SweepOptions) -> Generator[Record]:
    """Do the runs that are missing and yield each record as it appears.

    Here or on dask workers, the same runs end in the same records. A run that another sweep is
    doing is left out. Ends early, without an error, when the time budget is spent.

    Args:
        planned: from :func:`nbrepro.sweep.plan.plan`, most informative first.
        options: how.

    Raises:
        ValueError: for options that this machine cannot follow, or a dask that is not installed.
        OSError: the ledger cannot be written; found out before the first run.
        ConnectionError: the scheduler or its workers do not answer, or are gone.
        DataError: the data is missing or wrong.
    """
    options.ledger.check_writable()
    todo = list({p.spec.hash: p.spec for p in planned if options.wants(p.record)}.values())
    if not todo:
        return _nothing()
    for spec in todo:
        check_unclipped(spec)
    if not options.scheduler:
        check_device(options.device)
    if not options.parallel:
        return _one_after_another(todo, options)
    if is_shared():
        raise ValueError(
            "under torchrun or accelerate launch all processes share each run; leave workers and "
            "scheduler out"
        )
    most = MOST_PER_CORE * (os.cpu_count() or 1)
    if options.workers and options.workers > most:
        raise ValueError(
            f"workers is {options.workers}; this machine has {os.cpu_count()} cores, so take at "
            f"most {most}"
        )
    from nbrepro.sweep import dask

    return dask.run(todo, options)


def _nothing() -> Generator[Record]:
    yield from ()


def _one_after_another(todo: list[Spec], options: SweepOptions) -> Generator[Record]:
    deadline = math.inf
    if options.time_budget is not None:
        deadline = time.monotonic() + options.time_budget
    for spec in todo:
        # Processes that share a run agree on the time at the end of an epoch, and only there.
        if time.monotonic() >= deadline and not is_shared():
            log.info("time budget spent")
            return
        if not is_shared() and not options.wants(options.ledger.find(spec)):
            continue  # another sweep has done it since it was planned
        try:
            check_time(spec, options, deadline)
            yield run_one(spec, options, until(deadline))
        except Left as reason:
            log.warning("%s", reason)
            if is_shared():
                return


def is_shared() -> bool:
    """Whether torchrun or ``accelerate launch`` started several processes for one run."""
    return "RANK" in os.environ


def check_device(device: str) -> None:
    """Refuse a GPU that is not there, before a run is recorded as failed for want of it.

    Raises:
        ValueError: naming the device.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device is cuda, and this machine has no usable CUDA GPU; take auto or cpu"
        )


def check_unclipped(spec: Spec) -> None:
    """Refuse a run whose ``unclipped`` names no parameter of its network.

    Such a run would clip everything, under another name than the run that says so.

    Raises:
        ValueError: naming the nearest parameters.
    """
    if spec.clip.startswith("agc"):
        select("unclipped", spec.unclipped, _parameters(spec.model, spec.skip_init))


@cache
def _parameters(model: str, skip_init: bool) -> tuple[str, ...]:
    """The names of a network's parameters; no memory is taken for their values."""
    import torch

    from nbrepro import models

    options: dict[str, Any] = {} if skip_init else {"skip_gain": None}
    with torch.device("meta"):
        network = models.create(model, **options)
    return tuple(name for name, _ in network.named_parameters())


def check_time(spec: Spec, options: SweepOptions, deadline: float) -> None:
    """Refuse a run that would not reach the end of an epoch in time.

    A run of many epochs may well take longer than the budget: it goes on from its last epoch next
    time. What an epoch takes is known from records of the same data on this GPU or CPU, if any.

    Raises:
        Left: saying how long an epoch takes.
    """
    if deadline == math.inf or is_shared():
        return
    import torch

    gpu = options.device != "cpu" and torch.cuda.is_available()
    device = device_name(torch.device("cuda" if gpu else "cpu"))
    alike = [
        record
        for record in options.ledger.scan()[0]
        if record.provenance.get("device") == device and record.spec.dataset == spec.dataset
    ]
    whole = estimate(spec, alike)
    epoch, left = (whole or 0) / max(1, spec.epochs), deadline - time.monotonic()
    if epoch > left:
        raise Left(
            f"{spec}: not started; an epoch takes about {epoch:.0f} s, and {max(0, left):.0f} s of "
            "the time budget are left"
        )


def until(deadline: float) -> Callable[[], bool]:
    """What a run asks at the end of each epoch: whether another as long would end too late.

    Args:
        deadline: by ``time.monotonic()``.
    """
    before = time.monotonic()

    def should_stop() -> bool:
        nonlocal before
        now = time.monotonic()
        took, before = now - before, now
        return now + took > deadline

    return should_stop


def run_one(
    spec: Spec, options: SweepOptions, should_stop: Callable[[], bool] = lambda: False
) -> Record:
    """Do one run under its lock, write its record and return it.

    An error of the run becomes a ``failed`` record. A run that is recorded is not done again: its
    record is returned as it is.

    Args:
        spec: the run.
        options: where its record goes, and how it is done.
        should_stop: asked at the end of every epoch but the last.

    Raises:
        Left: another process is doing this run, or ``should_stop`` said so; the checkpoint then
            holds what was done.
        DataError: the data is missing or wrong: no fault of the run, so nothing is recorded.
        ValueError: a GPU was asked for and there is none: nothing is recorded.
        OSError: the record cannot be written; the checkpoint holds the result.
    """
    with locked(spec, options.ledger):
        return run_locked(spec, options, should_stop)


@contextlib.contextmanager
def locked(spec: Spec, ledger: Ledger, patience: float = 0) -> Iterator[None]:
    """Hold the lock of a run; processes that share a run take none.

    Args:
        spec: the run.
        ledger: the ledger, in whose work folder the lock lies.
        patience: seconds to wait for it; -1 for as long as it takes.

    Raises:
        Left: another process holds it.
    """
    ledger.work.mkdir(parents=True, exist_ok=True)
    if is_shared():
        yield
        return
    lock = FileLock(ledger.work / f"{spec.hash}.lock")
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise Left(f"{spec}: another process is doing this run") from None
    try:
        yield
    finally:
        lock.release()


def run_locked(spec: Spec, options: SweepOptions, should_stop: Callable[[], bool]) -> Record:
    """:func:`run_one` for those who hold the lock."""
    present = None if is_shared() else options.ledger.find(spec)
    if present is not None and not options.wants(present):
        return present
    record, _ = _train(spec, options, should_stop)
    if record.status != "failed" and _is_first():
        _checkpoint(spec, options).unlink(missing_ok=True)
    return record


def _checkpoint(spec: Spec, options: SweepOptions) -> Path:
    return checkpoint(spec, options.ledger.work)


def _train(
    spec: Spec, options: SweepOptions, should_stop: Callable[[], bool]
) -> tuple[Record, "nn.Module | None"]:
    """Do a run, or the rest of it; its record, written unless there is one, and its network."""
    from nbrepro import data
    from nbrepro.train import loop

    check_unclipped(spec)
    check_device(options.device)
    dataset = data.load_for(spec, options.data_root, download=options.download)
    start = _start(spec, options, should_stop)
    try:
        with _malloc.kept():
            result = loop.train(
                spec,
                dataset,
                start=start,
                device=options.device,
                checkpoint=_checkpoint(spec, options),
                progress=options.progress,
                should_stop=should_stop,
            )
    except loop.Interrupted as stop:
        raise Left(str(stop)) from stop
    except data.DataError:
        raise
    except Exception:
        error = traceback.format_exc()
        record = failed(spec, error, data_fingerprint=dataset.fingerprint)
        _write(record, options.ledger)
        if is_shared():  # the other processes may wait for this one: end them all
            raise SystemExit(record.error) from None
        return record, None
    record = _completed(spec, result, dataset.fingerprint)
    if options.wants(options.ledger.find(spec)):
        _write(record, options.ledger, result.features)
    return record, result.model


def _start(
    spec: Spec, options: SweepOptions, should_stop: Callable[[], bool]
) -> "dict[str, Tensor] | None":
    """The final weights of a run's parent.

    The parent's last checkpoint is kept for all that start from it. Where it is missing, or not of
    this code and these data, the parent is trained, or what is left of it. It is a run like any
    other, with a record; one that is there already stays.

    Raises:
        Left: the parent failed, or there was no time to end it.
    """
    parent = spec.parent
    if parent is None:
        return None
    with locked(parent, options.ledger, patience=-1):
        present = options.ledger.find(parent)
        if present is None or present.status != "failed" or options.retry_failed:
            _, network = _train(parent, options, should_stop)
            if network is not None:
                return network.state_dict()
    raise Left(f"{spec}: not started; its pre-training {parent.hash} failed")


def _completed(spec: Spec, result: Any, fingerprint: str) -> Record:
    how = {**provenance(), **result.how, "data_fingerprint": fingerprint}
    return Record(spec, result.status, result.metrics, result.curve, how)


def failed(spec: Spec, error: str, **how: Any) -> Record:
    """The record of a run that failed with this traceback or last output."""
    return Record(spec, "failed", {}, [], {**provenance(), **how}, without_folders(error))


def _write(record: Record, ledger: Ledger, learnt: features.Features | None = None) -> None:
    if not _is_first():
        return
    try:
        if learnt:  # first, so that a record always has its features
            features.write(learnt, ledger.root)
        ledger.write(record)
    except OSError as problem:
        raise OSError(
            f"{record.spec} has ended and its record cannot be written ({problem}); the checkpoint "
            "is kept: start it again when there is room, and no epoch is trained twice"
        ) from problem


def _is_first() -> bool:
    """Whether this is the one that writes, of the processes that share a run."""
    return os.environ.get("RANK", "0") == "0"


def without_folders(text: str) -> str:
    """``text`` with the names of files but not the folders of this machine."""
    text = re.sub(r"""(["'])/[^"'\n]*/([^"'/\n]*)\1""", r"\1\2\1", text)
    return re.sub(r"(?<![\w.])/(?:[^\s/\"']+/)+([^\s/\"']*)", r"\1", text)

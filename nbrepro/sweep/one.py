"""One run under its lock, from its data to its record.

Torch is imported inside functions: the command line and dask's workers import this module.
"""

import contextlib
import math
import os
import re
import time
import traceback
from collections.abc import Callable, Iterator
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
from nbrepro.sweep.options import SweepOptions
from nbrepro.sweep.plan import checkpoint, estimate

if TYPE_CHECKING:
    from torch import Tensor, nn


class Left(Exception):
    """A run that was not done, or not to its end. The message says why; a later sweep does it."""


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

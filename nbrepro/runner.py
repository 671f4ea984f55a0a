"""Which runs are missing, and running them: one after another, each recorded as it ends."""

import contextlib
import logging
import os
import re
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from nbrepro import data, training
from nbrepro.experiments import Experiment
from nbrepro.ledger import Ledger, Record, provenance
from nbrepro.spec import Spec

log = logging.getLogger("nbrepro")


def _together() -> bool:
    """Whether torchrun or ``accelerate launch`` started several processes for one run."""
    return "RANK" in os.environ


@dataclass(frozen=True)
class Planned:
    """A run of a profile, and its record if there is one."""

    experiment: str
    spec: Spec
    record: Record | None

    @property
    def missing(self) -> bool:
        """Whether it still has to be run; a failed run counts as done until it is retried."""
        return self.record is None


def plan(
    experiment: Experiment,
    profile: str,
    ledger: Ledger,
    *,
    dataset: str | None = None,
    seeds: int | None = None,
) -> list[Planned]:
    """Every run of a profile, most informative first."""
    return [
        Planned(experiment.name, spec, ledger.find(experiment.name, spec))
        for spec in experiment.specs(profile, dataset, seeds)
    ]


def todo(planned: list[Planned], *, retry_failed: bool = False) -> list[Planned]:
    """What of a plan is to be run: what is missing, and on request what failed before."""
    return [
        item
        for item in planned
        if item.record is None or (retry_failed and item.record.status == "failed")
    ]


def estimate(spec: Spec, records: list[Record], train_images: int = 50_000) -> float | None:
    """Seconds a run will take, from the latest record of the same network and policy."""
    rates = [
        rate
        for record in records
        if (record.spec.model, record.spec.train) == (spec.model, spec.train)
        and (rate := record.provenance.get("images_per_second"))
    ]
    return spec.epochs * train_images / rates[-1] if rates else None


def run_one(
    experiment: str,
    spec: Spec,
    ledger: Ledger,
    *,
    device: str = "auto",
    data_root: str | Path | None = None,
    download: bool = False,
    checkpoints: Path | None = None,
    deadline: float | None = None,
    progress: bool = True,
) -> Record:
    """Run ``spec``, write its record and return it. An error becomes a ``failed`` record.

    Args:
        experiment: name of the experiment the record belongs to.
        spec: the run.
        ledger: where the record goes.
        device: ``auto``, ``cpu`` or ``cuda``.
        data_root: folder of the data sets.
        download: let torchvision fetch CIFAR-10.
        checkpoints: folder for the run's checkpoint, removed once the record is written.
        deadline: ``time.monotonic()`` after which the run stops at the next epoch end.
        progress: show a bar on a terminal.

    Raises:
        DataError: the data is missing or wrong: no fault of the run, so nothing is recorded.
        Interrupted: the deadline has passed; the checkpoint holds what was done.
    """
    dataset = data.load(spec.dataset, data_root, download=download)
    checkpoint = checkpoints / f"{spec.hash}.pt" if checkpoints else None
    error: str | None = None
    try:
        result = training.train(
            spec,
            dataset,
            device=device,
            checkpoint=checkpoint,
            progress=progress,
            should_stop=lambda: deadline is not None and time.monotonic() > deadline,
        )
        status, metrics, curve, how = result.status, result.metrics, result.curve, result.how
    except training.Interrupted:
        raise
    except Exception:
        status, metrics, curve, how = "failed", {}, [], {}
        error = without_folders(traceback.format_exc())
    record = Record(
        experiment,
        spec,
        status,
        metrics,
        curve,
        {**provenance(), **how, "data_fingerprint": dataset.fingerprint},
        error,
    )
    if os.environ.get("RANK", "0") == "0":
        ledger.write(record)
        if checkpoint and status != "failed":
            checkpoint.unlink(missing_ok=True)
    if error and _together():
        raise SystemExit(error)  # the other processes may wait for this one: end them all
    return record


def without_folders(text: str) -> str:
    """``text`` with the names of files but not the folders of this machine."""
    text = re.sub(r"""(["'])/[^"'\n]*/([^"'/\n]*)\1""", r"\1\2\1", text)
    return re.sub(r"(?<![\w.])/(?:[^\s/\"']+/)+([^\s/\"']*)", r"\1", text)


def run(
    planned: list[Planned],
    ledger: Ledger,
    *,
    time_budget: float | None = None,
    retry_failed: bool = False,
    device: str = "auto",
    data_root: str | Path | None = None,
    download: bool = False,
    checkpoints: Path = Path("runs"),
    progress: bool = True,
) -> Iterator[Record]:
    """Run what is missing and yield each record as it is written.

    A run that another process on this machine has in hand is left to it. Ends early, without an
    error, when the budget is spent; a run cut off by it goes on from its last epoch next time.

    Args:
        planned: from :func:`plan`.
        ledger: where records go.
        time_budget: seconds.
        retry_failed: also run again what failed before.
        device: ``auto``, ``cpu`` or ``cuda``.
        data_root: folder of the data sets.
        download: let torchvision fetch CIFAR-10.
        checkpoints: folder for checkpoints and locks.
        progress: show a bar on a terminal.
    """
    deadline = None if time_budget is None else time.monotonic() + time_budget
    checkpoints.mkdir(parents=True, exist_ok=True)
    for item in todo(planned, retry_failed=retry_failed):
        # Together, only the end of an epoch decides: there all processes agree.
        if deadline is not None and time.monotonic() > deadline and not _together():
            log.info("time budget spent")
            return
        with contextlib.ExitStack() as stack:
            if not _together():
                try:
                    stack.enter_context(FileLock(checkpoints / f"{item.spec.hash}.lock", timeout=0))
                except Timeout:
                    log.info("%s: in hand elsewhere, left to it", item.spec)
                    continue
                now = ledger.find(item.experiment, item.spec)
                if now is not None and not (now.status == "failed" and retry_failed):
                    continue
            try:
                yield run_one(
                    item.experiment,
                    item.spec,
                    ledger,
                    device=device,
                    data_root=data_root,
                    download=download,
                    checkpoints=checkpoints,
                    deadline=deadline,
                    progress=progress,
                )
            except training.Interrupted as stop:
                log.info("%s", stop)
                return

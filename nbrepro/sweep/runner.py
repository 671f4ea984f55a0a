"""Which runs are missing, and running them: one after another, each recorded as it ends."""

import contextlib
import logging
import os
import re
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from nbrepro import _malloc, claims, data
from nbrepro.claims import verdicts
from nbrepro.experiments import Experiment
from nbrepro.records.ledger import Ledger, Record
from nbrepro.records.provenance import provenance
from nbrepro.spec import Spec
from nbrepro.sweep.executors import Settings
from nbrepro.train import loop

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
    """Every run of a profile, in the grid's order."""
    return [
        Planned(experiment.name, spec, ledger.find(spec))
        for spec in experiment.specs(profile, dataset, seeds)
    ]


def todo(planned: list[Planned], *, retry_failed: bool = False) -> list[Planned]:
    """What of a plan is to be run: what is missing, and on request what failed before."""
    return [
        item
        for item in planned
        if item.record is None or (retry_failed and item.record.status == "failed")
    ]


def most_informative(planned: list[Planned], records: Sequence[Record]) -> list[Planned]:
    """A plan in the order in which its missing runs tell most.

    First one run of every arm that feeds a claim without any evidence, then what has fewest
    replicates, then the order of the grid.
    """
    untold = set(unsettled(records, ("not run",)))
    seeds = Counter(_arm(item) for item in planned if not item.missing)
    ranked = []
    for item in planned:
        replicates = seeds[_arm(item)]
        told = untold.isdisjoint(settles(item)) or replicates > 0
        ranked.append((told, replicates, item))
        seeds[_arm(item)] += item.missing
    return [item for _, _, item in sorted(ranked, key=lambda rank: rank[:2])]


def _arm(item: Planned) -> tuple[str, Spec]:
    """What an experiment's replicates have in common."""
    return item.experiment, item.spec.replace(seed=0)


def settles(item: Planned) -> list[str]:
    """The claims that this run can help to settle."""
    return [claim.id for claim in claims.register().values() if verdicts.settles(item.spec, claim)]


def unsettled(
    records: Sequence[Record], wanted: Sequence[str] = ("not run", "inconclusive")
) -> list[str]:
    """The claims decided by training that have one of these verdicts so far."""
    return [
        claim.id
        for claim in claims.register().values()
        if claim.experiment and verdicts.judge(claim, records).verdict in wanted
    ]


def estimate(spec: Spec, records: Sequence[Record]) -> float | None:
    """Seconds a run will take, from the latest record that does the same work a step.

    CIFAR-10's number of images is assumed.
    """
    work = ("model", "train", "batch_size")
    small = spec.dataset.endswith(data.SMALL)
    alike = [
        record
        for record in records
        if all(getattr(record.spec, name) == getattr(spec, name) for name in work)
        and record.spec.dataset.endswith(data.SMALL) == small
        and record.provenance.get("images_per_second")
    ]
    if not alike:
        return None
    latest = max(alike, key=lambda record: str(record.provenance.get("finished")))
    images = 10_000 if small else 50_000
    return float(spec.epochs * images / latest.provenance["images_per_second"])


def run_one(
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
        OSError: the record cannot be written; the checkpoint holds the result.
        Interrupted: the deadline has passed; the checkpoint holds what was done.
    """
    dataset = data.load(spec.dataset, data_root, download=download)
    checkpoint = checkpoints / f"{spec.hash}.pt" if checkpoints else None
    error: str | None = None
    try:
        result = loop.train(
            spec,
            dataset,
            device=device,
            checkpoint=checkpoint,
            progress=progress,
            should_stop=lambda: deadline is not None and time.monotonic() > deadline,
        )
        status, metrics, curve, how = result.status, result.metrics, result.curve, result.how
    except loop.Interrupted:
        raise
    except Exception:
        status, metrics, curve, how = "failed", {}, [], {}
        error = without_folders(traceback.format_exc())
    record = Record(
        spec,
        status,
        metrics,
        curve,
        {**provenance(), **how, "data_fingerprint": dataset.fingerprint},
        error,
    )
    if os.environ.get("RANK", "0") == "0":
        try:
            ledger.write(record)
        except OSError as problem:
            raise OSError(
                f"{spec} has ended and its record cannot be written ({problem}); the checkpoint is "
                "kept: start it again when there is room, and no epoch is trained twice"
            ) from problem
        if checkpoint and status != "failed":
            checkpoint.unlink(missing_ok=True)
    if error and _together():
        raise SystemExit(error)  # the other processes may wait for this one: end them all
    return record


def without_folders(text: str) -> str:
    """``text`` with the names of files but not the folders of this machine."""
    text = re.sub(r"""(["'])/[^"'\n]*/([^"'/\n]*)\1""", r"\1\2\1", text)
    return re.sub(r"(?<![\w.])/(?:[^\s/\"']+/)+([^\s/\"']*)", r"\1", text)


def run(planned: list[Planned], settings: Settings) -> Iterator[Record]:
    """Run what is missing, one run after another, and yield each record as it is written.

    A run that another process on this machine has in hand is left to it. Ends early, without an
    error, when the budget is spent; a run cut off by it goes on from its last epoch next time.

    Args:
        planned: from :func:`plan`.
        settings: how; ``workers`` and ``scheduler`` are for the other executors.

    Raises:
        OSError: the ledger cannot be written; found out before the first run.
    """
    ledger, budget = settings.ledger, settings.time_budget
    deadline = None if budget is None else time.monotonic() + budget
    settings.checkpoints.mkdir(parents=True, exist_ok=True)
    items = todo(planned, retry_failed=settings.retry_failed)
    ledger.check_writable()
    for item in items:
        # Together, only the end of an epoch decides: there all processes agree.
        if deadline is not None and time.monotonic() > deadline and not _together():
            log.info("time budget spent")
            return
        with contextlib.ExitStack() as stack:
            stack.enter_context(_malloc.kept())
            if not _together():
                try:
                    lock = settings.checkpoints / f"{item.spec.hash}.lock"
                    stack.enter_context(FileLock(lock, timeout=0))
                except Timeout:
                    log.info("%s: in hand elsewhere, left to it", item.spec)
                    continue
                now = ledger.find(item.spec)
                if now is not None and not (now.status == "failed" and settings.retry_failed):
                    continue
            try:
                yield run_one(
                    item.spec,
                    ledger,
                    device=settings.device,
                    data_root=settings.data_root,
                    download=settings.download,
                    checkpoints=settings.checkpoints,
                    deadline=deadline,
                    progress=settings.progress,
                )
            except loop.Interrupted as stop:
                log.info("%s", stop)
                return

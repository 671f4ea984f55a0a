"""Everything that is missing of a plan, one run after another or in parallel."""

import logging
import math
import os
import time
from collections.abc import Generator, Sequence

from nbrepro.records.ledger import Record
from nbrepro.spec import Spec
from nbrepro.sweep.one import (
    Left,
    check_device,
    check_time,
    check_unclipped,
    is_shared,
    run_one,
    until,
)
from nbrepro.sweep.options import SweepOptions
from nbrepro.sweep.plan import Planned

log = logging.getLogger("nbrepro")


#: Workers for each core of this machine; more would only be in each other's way.
MOST_PER_CORE = 8


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

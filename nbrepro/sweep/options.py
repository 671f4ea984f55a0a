"""How a sweep is carried out: what ``nbrepro run`` asks for too."""

import argparse
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbrepro.records.ledger import Ledger, Record

YEAR = 365 * 24 * 3600


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
        if self.scheduler == "":
            raise ValueError(
                "the scheduler's address is empty; expected one such as tcp://host:8786"
            )
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

"""Records of timings: ``<ledger>/benchmarks/<name>-<device>.json``, one per benchmark and device.

Milliseconds belong to one machine on one day; ratios of variants that took turns travel better. So
a row is a ratio over rounds: its median and the range that holds the middle 95 % of rounds. Like
the record of a run, a file carries a digest of its contents, which shows damage and edits by hand
(it is no signature): a file without one, or with another one, is refused.
"""

import json
import random
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbrepro.records.ledger import _digest, default_root, write_signed
from nbrepro.records.provenance import device_name, provenance

if TYPE_CHECKING:
    import torch

FOLDER = "benchmarks"


@dataclass(frozen=True)
class Benchmark:
    """What one benchmark measured on one machine.

    Attributes:
        name: of the script in ``benchmarks/``.
        hardware: CPU or GPU.
        on_gpu: whether it ran on a GPU.
        rows: case → ``ratio``, ``low``, ``high``, ``rounds`` and whatever else was measured.
        provenance: commit, versions, threads, time.
    """

    name: str
    hardware: str
    on_gpu: bool
    rows: dict[str, dict[str, Any]]
    provenance: dict[str, Any]

    @property
    def stem(self) -> str:
        """Name of its file, without ending."""
        return _stem(self.name, self.hardware)


def duration(seconds: float) -> str:
    """Seconds for readers: ``0.3 s``, ``12 s``, ``8 min``, ``1.6 h``."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def computed(work: Callable[[], object], times: int) -> float:
    """Seconds that this process computes for so many calls, whoever else has the core."""
    start = time.process_time()
    for _ in range(times):
        work()
    return time.process_time() - start


def rounds(
    cases: Mapping[str, Callable[[], float]], n: int, seed: int = 0
) -> dict[str, list[float]]:
    """Time all cases in turns, so that a machine that slows down slows all of them alike.

    Args:
        cases: name → work that returns the seconds it took, by the clock that suits it.
        n: how many rounds; in each of them every case takes one turn, in a shuffled order.
        seed: of the orders.

    Returns:
        name → seconds, one value per round; input for :func:`ratios`.
    """
    shuffle = random.Random(seed).shuffle
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(n):
        turns = list(cases)
        shuffle(turns)
        for name in turns:
            seconds[name].append(cases[name]())
    return seconds


def ratios(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float | int]:
    """How many times less time ``fast`` took than ``slow``, round by round.

    Returns:
        ``ratio`` (median), ``low`` and ``high`` (2.5th and 97.5th percentile, interpolated) and
        ``rounds``.

    Raises:
        ValueError: if the two were not timed in the same, at least two, rounds.
    """
    if len(slow) != len(fast) or len(slow) < 2:
        raise ValueError(f"{len(slow)} and {len(fast)} rounds; the same number, at least 2, needed")
    values = sorted(s / f for s, f in zip(slow, fast, strict=True))
    cuts = statistics.quantiles(values, n=40, method="inclusive")
    return {
        "ratio": round(statistics.median(values), 3),
        "low": round(cuts[0], 3),
        "high": round(cuts[-1], 3),
        "rounds": len(values),
    }


def write(
    name: str,
    device: "torch.device | str",
    rows: dict[str, dict[str, Any]],
    root: str | Path | None = None,
) -> Path:
    """Store what a benchmark measured, in place of what it measured on this device before."""
    import torch

    device = torch.device(device)
    hardware = device_name(device)
    body = {
        "benchmark": name,
        "hardware": hardware,
        "on_gpu": device.type == "cuda",
        "rows": rows,
        "provenance": {**provenance(), "threads": torch.get_num_threads()},
    }
    path = (Path(root) if root else default_root()) / FOLDER / f"{_stem(name, hardware)}.json"
    write_signed(path, body)
    return path


def _stem(name: str, hardware: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", hardware.lower()).strip("-")
    return f"{name}-{slug}"


def read(root: str | Path | None = None) -> list[Benchmark]:
    """All benchmarks of the ledger; none if it has no folder of them.

    Raises:
        ValueError: for a file that no benchmark wrote, or that was altered since, naming it.
        OSError: if the folder cannot be read, naming it.
    """
    folder = (Path(root) if root else default_root()) / FOLDER
    if not folder.exists():
        return []
    return [_read(path) for path in sorted(folder.iterdir()) if path.suffix == ".json"]


def _read(path: Path) -> Benchmark:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        digest = body.pop("digest", None)
        found = Benchmark(
            body["benchmark"], body["hardware"], body["on_gpu"], body["rows"], body["provenance"]
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no benchmark record ({error!r}); restore or delete it"
        ) from error
    if digest != _digest(body):
        why = "has no digest" if digest is None else "does not match its digest"
        raise ValueError(
            f"{path} {why}, so no benchmark of this project left it as it is; "
            f"restore it, or run benchmarks/{found.name}.py again"
        )
    return found

"""Records of timings: ``<ledger>/benchmarks/<name>-<device>.json``, one a benchmark and device.

Milliseconds belong to one machine on one day; ratios of variants that took turns travel better. So
a row is a ratio over rounds: its median and the range that holds the middle 95 % of rounds.
"""

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nbrepro._files import replacing
from nbrepro.records.ledger import BENCHMARKS, default_root
from nbrepro.records.provenance import device_name, provenance


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
    device: torch.device | str,
    rows: dict[str, dict[str, Any]],
    root: str | Path | None = None,
) -> Path:
    """Store what a benchmark measured, in place of what it measured on this device before."""
    device = torch.device(device)
    hardware = device_name(device)
    body = {
        "benchmark": name,
        "hardware": hardware,
        "on_gpu": device.type == "cuda",
        "rows": rows,
        "provenance": {**provenance(), "threads": torch.get_num_threads()},
    }
    slug = re.sub(r"[^a-z0-9]+", "-", hardware.lower()).strip("-")
    path = (Path(root) if root else default_root()) / BENCHMARKS / f"{name}-{slug}.json"
    with replacing(path) as file:
        file.write((json.dumps(body, indent=1, allow_nan=False) + "\n").encode())
    return path


def read(root: str | Path | None = None) -> list[Benchmark]:
    """All benchmarks of the ledger.

    Raises:
        ValueError: for a file that is no benchmark, naming it.
    """
    found = []
    for path in sorted(((Path(root) if root else default_root()) / BENCHMARKS).glob("*.json")):
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
            found.append(
                Benchmark(
                    body["benchmark"],
                    body["hardware"],
                    body["on_gpu"],
                    body["rows"],
                    body["provenance"],
                )
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no benchmark record ({error!r}); restore it") from error
    return found

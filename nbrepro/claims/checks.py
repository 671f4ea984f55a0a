"""Computations that decide a claim without training, and what they found.

A check measures and does not judge: it returns an :class:`Outcome`, numbers by name and a sentence
for readers. The bounds that the numbers must keep stand beside the claim, in the ``rule:`` of
``claims.yaml``. The checks of a paper live in its folder, one module per subject. All are
deterministic and run on one core of a CPU in seconds. Where a value is the largest of several,
NumPy takes it: its ``max`` is not a number if one of them is not, and no bounds hold that.

This module imports torch only when a check must be computed.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from nbrepro._files import cache_folder, replacing
from nbrepro._suggest import choose


class Outcome(NamedTuple):
    """What a check found.

    Attributes:
        values: the numbers that the claim's bounds are about; a count, 0 or more, where the claim
            is exact.
        note: a sentence with the numbers a reader wants, without its full stop.
    """

    values: dict[str, float]
    note: str


Check = Callable[[], Outcome]

_CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    """Register a check under its name."""
    _CHECKS[function.__name__] = function
    return function


def registry() -> Mapping[str, Check]:
    """Name → check, of all papers."""
    from nbrepro.claims.nfnets import batchnorm, counts, numerics, printed, signal  # noqa: F401

    return _CHECKS


@contextmanager
def seeded() -> Iterator[None]:
    """The same random numbers every time, and the caller's own afterwards."""
    import torch

    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def compute(name: str) -> Outcome:
    """Run a check, whatever was found before.

    Raises:
        ValueError: for an unknown name, with the nearest right one.
    """
    checks = registry()
    with seeded():
        values, note = checks[choose("check", name, checks)]()
    return Outcome({value: float(number) for value, number in values.items()}, note)


@cache
def outcome(name: str) -> Outcome:
    """What a check finds, computed once for these sources and this version of torch.

    Chapters, scorecard and command line show the same checks in processes of their own, and all
    checks together take the better part of a minute; so what one found is kept in the cache folder.

    Raises:
        ValueError: for an unknown name, with the nearest right one.
    """
    kept = cache_folder() / f"check-{name}-{_digest()}.json"
    with suppress(OSError, ValueError, TypeError):
        values, note = json.loads(kept.read_text(encoding="utf-8"))
        return Outcome(dict(values), str(note))
    found = compute(name)
    with suppress(OSError), replacing(kept) as file:
        file.write(json.dumps(found).encode())
    return found


#: What a finding can depend on, below ``nbrepro``.
SOURCES = (
    *("claims/checks.py", "claims/tables.py", "claims/*/*.py", "claims/*/tables.yaml"),
    *("agc.py", "layers.py", "probes.py", "models/*.py", "optim/*.py", "data/augment.py"),
)


@cache
def _digest() -> str:
    digest = hashlib.sha256(f"{version('torch')} {platform.machine()}".encode())
    package = Path(__file__).parents[1]
    for path in sorted(path for pattern in SOURCES for path in package.glob(pattern)):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def each(values: Iterable[float], form: str = ".2f") -> str:
    """Numbers for a note."""
    return ", ".join(f"{value:{form}}" for value in values)

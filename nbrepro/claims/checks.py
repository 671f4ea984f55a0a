"""Claims that no training is needed for: arithmetic on printed tables, and networks at their start.

Each check takes no argument and returns whether the claim holds and a sentence with the numbers
found. Its criterion is in its docstring. All are deterministic, run on one core of a CPU in
seconds, and are computed once a process. They live by subject in the folder of their paper.

A printed number holds if what it comes from can be rounded to it. "About" and its like get a
tolerance, which the criterion names. Constants are the printed tables of arXiv 2102.06171.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, wraps
from pathlib import Path

import torch

from nbrepro._files import replacing
from nbrepro.data import cache_folder

Check = Callable[[], tuple[bool, str]]

_CHECKS: dict[str, Check] = {}


def registry() -> Mapping[str, Check]:
    """Name → check."""
    from nbrepro.claims.nfnets import batchnorm, counts, numerics, printed, signal  # noqa: F401

    return _CHECKS


@contextmanager
def seeded() -> Iterator[None]:
    """The same random numbers every time, and the caller's own afterwards."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def check(function: Check) -> Check:
    """Register a check."""

    @cache
    @wraps(function)
    def run() -> tuple[bool, str]:
        with seeded():
            return function()

    _CHECKS[function.__name__] = run
    return run


def outcome(name: str) -> tuple[bool, str]:
    """What a check finds, computed once for this source of ours and this torch.

    Several pages show the same checks; the finding is kept in the cache folder under a digest of
    all our source files, so that any change of ours has everything computed again.
    """
    kept = cache_folder() / f"check-{name}-{_source_digest()}.json"
    with suppress(OSError, ValueError, TypeError):
        agrees, note = json.loads(kept.read_text(encoding="utf-8"))
        return bool(agrees), str(note)
    found = registry()[name]()
    with suppress(OSError), replacing(kept) as file:
        file.write(json.dumps(found).encode())
    return found


@cache
def _source_digest() -> str:
    digest = hashlib.sha256(f"{torch.__version__} {platform.machine()}".encode())
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def each(values: Iterable[float], form: str = ".2f") -> str:
    """Numbers for a note."""
    return ", ".join(f"{value:{form}}" for value in values)

"""Computations that decide a claim without training, and what they found.

A check measures and does not judge: it returns an :class:`Outcome`, numbers by name and a sentence
for readers. The bounds that the numbers must keep stand beside the claim, in the ``rule:`` of
``claims.yaml``; :func:`answers` compares. The checks of a paper live in its folder, one module per
subject. All give the same numbers every time and run on one core of a CPU in seconds.

A check that draws random numbers is declared with ``@check_over(seeds=10)``. It computes what one
seed gives; what it finds is the mean over the seeds with Student's 95 % interval, and a claim holds
only if the whole interval keeps the bounds. Where a value is the largest of several, NumPy takes
it: its ``max`` is not a number if one of them is not, and no bounds hold that.

This module imports torch only when a check must be computed.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nbrepro._files import cache_folder, replacing
from nbrepro._suggest import choose
from nbrepro.claims.findings import Answer
from nbrepro.claims.statistics import interval

if TYPE_CHECKING:
    from nbrepro.claims.rules import Bounds


class Outcome(NamedTuple):
    """What one run of a check gives, with one seed if it draws random numbers.

    Attributes:
        values: the numbers that the claim's bounds are about; a count, 0 or more, where the claim
            is exact.
        note: a sentence with the numbers a reader wants, without its full stop. A check with seeds
            writes fields for numbers that depend on the seed, such as ``{share:.0%}``: names of
            ``values`` or of ``beside``.
        beside: numbers for the note that decide nothing.
    """

    values: Mapping[str, float]
    note: str
    beside: Mapping[str, float] = {}


class Computed(NamedTuple):
    """A number that a check computed, and how sure it is.

    Attributes:
        mean: over the seeds.
        low: lower end of Student's 95 % interval; the mean itself if all seeds give the same.
        high: upper end.
        n: how many seeds; 1 where nothing is drawn.
    """

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Computed":
        """From one value per seed."""
        mean = float(np.mean(values))
        ends = interval(values) if len(values) > 1 else (mean, mean)
        return cls(mean, *ends, len(values))

    def __format__(self, form: str) -> str:
        """``0.683 [0.681, 0.685]``, or with a form such as ``.0%`` also ``95 % [93, 97]``."""
        percent = form.endswith("%")
        mean, low, high = (
            f"{100 * number:z{form[:-1]}f}" if percent else f"{number:z{form}}"
            for number in (self.mean, self.low, self.high)
        )
        mean += " %" if percent else ""
        return mean if self.low == self.high else f"{mean} [{low}, {high}]"


class Summary(NamedTuple):
    """What a check found over all its seeds.

    Attributes:
        values: the numbers that the claim's bounds are about.
        note: the sentence for readers, its fields filled in.
    """

    values: dict[str, Computed]
    note: str


def answers(summary: Summary, bounds: Mapping[str, "Bounds"]) -> Answer:
    """Whether every value keeps its bounds, ends included.

    ``yes`` if all intervals lie wholly within, ``no`` if one lies wholly outside or is not a
    number, else ``open``. The value of a check without seeds is a point, which is never open.

    Raises:
        ValueError: if there are not bounds for exactly the values that the check computes.
    """
    if set(summary.values) != set(bounds):
        raise ValueError(
            f"the check computes {', '.join(summary.values)}; its rule has bounds for "
            f"{', '.join(bounds)}"
        )
    found = {_answer(summary.values[name], wanted) for name, wanted in bounds.items()}
    return "no" if "no" in found else "open" if "open" in found else "yes"


def _answer(found: Computed, wanted: "Bounds") -> Answer:
    if wanted.low <= found.low and found.high <= wanted.high:
        return "yes"
    # Put so that what is not a number is a no.
    return "open" if found.low <= wanted.high and wanted.low <= found.high else "no"


class Check(NamedTuple):
    """A registered check.

    Attributes:
        run: computes the outcome, from PyTorch's default generator if it draws.
        seeds: how many seeds it is run with.
    """

    run: Callable[[], Outcome]
    seeds: int


_CHECKS: dict[str, Check] = {}


def check(run: Callable[[], Outcome]) -> Callable[[], Outcome]:
    """Register a check that draws no random numbers, or none that a value depends on."""
    return check_over(seeds=1)(run)


def check_over(seeds: int) -> Callable[[Callable[[], Outcome]], Callable[[], Outcome]]:
    """Register a check that is run with every seed from 0 to ``seeds - 1``."""

    def register(run: Callable[[], Outcome]) -> Callable[[], Outcome]:
        known = _CHECKS.get(run.__name__)
        if known is not None and known.run.__module__ != run.__module__:
            raise ValueError(
                f"two checks are called {run.__name__}, in {known.run.__module__} and in "
                f"{run.__module__}; rename one"
            )
        _CHECKS[run.__name__] = Check(run, seeds)
        return run

    return register


def registry() -> Mapping[str, Check]:
    """Name → check, of all papers: every module in a paper's folder is imported.

    Raises:
        ValueError: if two modules have a check of the same name.
    """
    from nbrepro.claims.register import register

    for folder in sorted({claim.paper.folder for claim in register().values()}):
        paper = import_module(f"nbrepro.claims.{folder}")
        for module in iter_modules(paper.__path__):
            import_module(f"{paper.__name__}.{module.name}")
    return _CHECKS


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The same random numbers, added in the same order; the caller's own settings afterwards.

    The order of sums depends on the number of threads, and with it the last digits.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def compute_one(name: str, seed: int) -> Outcome:
    """Run a check with one seed.

    Raises:
        ValueError: for an unknown name, with the nearest right one.
    """
    checks = registry()
    with seeded(seed):
        run = checks[choose("check", name, checks)].run
        try:
            return run()
        except Exception as error:
            error.add_note(f"in the check {name} ({run.__module__})")
            raise


def compute(name: str) -> Summary:
    """Run a check with all its seeds, whatever was found before.

    Raises:
        ValueError: for an unknown name, with the nearest right one; or if the sentence depends on
            the seed but for its fields.
    """
    checks = registry()
    seeds = checks[choose("check", name, checks)].seeds
    outcomes = [compute_one(name, seed) for seed in range(seeds)]
    first = outcomes[0]
    if any(other.note != first.note for other in outcomes):
        raise ValueError(f"the note of {name} depends on the seed; write fields for its numbers")
    values = {key: Computed.of([float(o.values[key]) for o in outcomes]) for key in first.values}
    beside = {key: Computed.of([float(o.beside[key]) for o in outcomes]) for key in first.beside}
    note = first.note.format(**values, **beside)
    if seeds > 1:
        note += f" (means over {seeds} seeds, with 95 % intervals)"
    return Summary(values, note)


@cache
def outcome(name: str) -> Summary:
    """What a check finds, computed once for these sources and this version of torch.

    Chapters, scorecard and command line show the same checks in processes of their own, and all
    checks together take about a minute; so what one found is kept in the cache folder.

    Raises:
        ValueError: for an unknown name, with the nearest right one.
    """
    with suppress(OSError, ValueError, TypeError, AttributeError):
        values, note = json.loads(_kept(name).read_text(encoding="utf-8"))
        return Summary({key: Computed(*value) for key, value in values.items()}, str(note))
    found = compute(name)
    keep(name, found)
    return found


def keep(name: str, found: Summary) -> None:
    """Put what a check found into the cache folder, where :func:`outcome` looks first."""
    with suppress(OSError), replacing(_kept(name)) as file:
        file.write(json.dumps(found).encode())


def _kept(name: str) -> Path:
    return cache_folder() / f"check-{name}-{_digest()}.json"


#: What a finding can depend on, below ``nbrepro``.
SOURCES = (
    *("claims/checks.py", "claims/statistics.py", "claims/tables.py"),
    *("claims/*/*.py", "claims/*/tables.yaml"),
    *("agc.py", "layers.py", "probes.py", "models/*.py", "optim/*.py", "data/*.py"),
    *("_policy.py", "freezing.py", "spec.py", "train/schedule.py"),
)


@cache
def _digest() -> str:
    text = f"{version('torch')} {platform.machine()} {sources()}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def sources() -> str:
    """The digest of all files that a finding can depend on."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(path for pattern in SOURCES for path in package.glob(pattern)):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def each(values: Iterable[float], form: str = ".2f") -> str:
    """Numbers for a note."""
    return ", ".join(f"{value:{form}}" for value in values)

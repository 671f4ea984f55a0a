"""One question put to runs, and its answer: an effect or a count, a p value, yes, no or open.

Which runs and which questions is the business of :mod:`nbrepro.claims.questions`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, NamedTuple, TypeAlias, TypedDict

import numpy as np

from nbrepro.claims import statistics
from nbrepro.claims.rules import Bounds
from nbrepro.claims.statistics import ALPHA, Estimate, digits

#: Failures are tested from so many seeds per arm on.
FEWEST = 5
#: The test of two arms that share seeds.
PAIRED = "Student, paired by seed"

Answer: TypeAlias = Literal["yes", "no", "open"]
Agreement: TypeAlias = Literal["consistent", "differs", "open"]
Unit: TypeAlias = Literal["points", "%", "×"]


class Run(NamedTuple):
    """What a question needs to know of a run; it failed if it diverged or was near chance."""

    seed: int
    accuracy: float
    failed: bool = False


def _never(alpha: float) -> int | None:
    return None


@dataclass(frozen=True)
class Finding:
    """One question to the data, and its answer.

    Attributes:
        label: what was compared.
        n: replicates, of each arm.
        effect: difference of mean accuracies, a mean accuracy (both fractions), or a ratio; not a
            number where failures are counted.
        low: end of the 95 % interval; ``high`` likewise.
        single: ``yes``, ``no`` or ``open``: the answer of this question by itself.
        unit: of ``effect`` for readers.
        test: name of the test; empty if there was none.
        p: p value of the answer that the finding leans to.
        corrected: the same after Holm's correction over a paper's trained findings.
        family: how many those are.
        failed: runs of each arm that failed; empty if none did.
        survivors: mean accuracy of the others; numbers for readers have it behind *at*.
        counted: what the others do; a run is *rescued* that fails in the first arm of a pair only.
        published: what the paper prints, for readers; empty if it was not asked.
        value: whether ours agrees with that.
        needed: seeds per arm that would settle it at a level, see :attr:`seeds_needed`.
        arms: the runs that were compared: both arms of a pair, what the effect is subtracted from
            first; of two pairs all four, those of the second pair first.
        names: of the arms for readers, as far as they are known.
        estimate: what the interval was computed from; ``None`` where failures are counted.
    """

    label: str
    n: tuple[int, ...]
    effect: float
    low: float
    high: float
    single: Answer
    unit: Unit
    test: str = ""
    p: float = math.nan
    corrected: float = math.nan
    family: int = 1
    failed: tuple[int, ...] = ()
    survivors: tuple[float, ...] = ()
    counted: Literal["survive", "rescued"] = "survive"
    published: str = ""
    value: Agreement | Literal[""] = ""
    needed: Callable[[float], int | None] = field(default=_never, compare=False, repr=False)
    arms: tuple[tuple[Run, ...], ...] = field(default=(), compare=False, repr=False)
    names: tuple[str, ...] = field(default=(), compare=False, repr=False)
    estimate: Estimate | None = field(default=None, compare=False, repr=False)

    @property
    def answer(self) -> Answer:
        """The answer that counts: the single one, if it outlives the correction."""
        return "open" if self.corrected >= ALPHA else self.single

    @property
    def seeds_needed(self) -> int | None:
        """Seeds per arm that would settle an open question, if what was seen is the truth.

        With 80 % power, and at the level that the correction asks of the first of a family.
        ``None`` if it is settled, or no number that anybody would run is enough.
        """
        return self.needed(ALPHA / self.family) if self.answer == "open" else None

    @property
    def amount(self) -> str:
        """For readers: ``+5.5 points``, ``48.0 %``, ``×2.10``, or who survives."""
        if self.failed:
            return ", against ".join(self._counted())
        if self.unit == "×":
            return f"×{self.effect:.2f}"
        return f"{digits(100 * self.effect, self._form)} {self.unit}"

    @property
    def numbers(self) -> str:
        """For readers: the amount with its interval, ``+5.5 points [+4.0, +7.0]``."""
        if self.failed or math.isnan(self.low):
            return self.amount
        if self.unit == "×":  # one of sizes is exact
            interval = f" [{self.low:.2f}, {self.high:.2f}]" if self.low < self.high else ""
            return self.amount + interval
        low, high = (digits(100 * end, self._form) for end in (self.low, self.high))
        return f"{self.amount} [{low}, {high}]"

    @property
    def _form(self) -> str:
        return "+.1f" if self.unit == "points" else ".1f"

    def _counted(self) -> Iterator[str]:
        """``6 of 8 survive, at 42.5 %`` of each arm, the word for it in the first only."""
        arms = zip(self.n, self.failed, self.survivors, strict=True)
        for at, (n, failed, mean) in enumerate(arms):
            does = "" if at else f" {self.counted}"
            mean_of_them = "" if math.isnan(mean) else f", at {digits(100 * mean)} %"
            yield f"{n - failed} of {n}{does}{mean_of_them}"

    @property
    def seeds(self) -> str:
        """Replicates for readers: ``n = 3``, or ``n = 3 and 5``; empty for a measured ratio."""
        if self.unit == "×":
            return ""
        return f"n = {' and '.join(map(str, dict.fromkeys(self.n)))}"

    @property
    def significance(self) -> str:
        """For readers: ``p = 0.008, corrected 0.21``; empty where nothing was tested."""
        if math.isnan(self.p):
            return ""
        corrected = "" if math.isnan(self.corrected) else f", corrected {_digits(self.corrected)}"
        sign = "" if self.p < 0.001 else "= "
        return f"p {sign}{_digits(self.p)}{corrected}"

    def __str__(self) -> str:
        return f"{self.label}: " + ", ".join(
            filter(None, (self.numbers, self.seeds, self.significance))
        )


def _digits(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


# --- questions -----------------------------------------------------------------------------------


def compare(
    label: str,
    low: Sequence[Run],
    high: Sequence[Run],
    bounds: Bounds,
    published: Bounds | None = None,
) -> Finding:
    """Does the accuracy of ``high`` minus that of ``low`` lie within the bounds?

    Seed by seed where the arms share two seeds or more. Where a run fails, accuracy is two-valued
    and no interval means anything: then the question is who fails more often, in the direction of
    the bounds, and stays open if they have none.

    Raises:
        ValueError: if an arm has several runs of one seed.
    """
    first, second = _by_seed(low), _by_seed(high)
    if any(run.failed for run in (*low, *high)):
        if math.isinf(bounds.high):
            finding = fails_more(label, low, high, shown=(high, low))
        elif math.isinf(bounds.low):
            finding = fails_more(label, high, low, shown=(high, low))
        else:
            finding = _counts(label, (high, low))
        return _valued(finding, published)
    shared = sorted(first.keys() & second.keys())
    if len(shared) > 1:
        estimate = statistics.paired(
            [first[s].accuracy for s in shared], [second[s].accuracy for s in shared]
        )
        n, test = (len(shared), len(shared)), PAIRED
    else:
        estimate = statistics.welch([r.accuracy for r in low], [r.accuracy for r in high])
        n, test = (len(high), len(low)), "Welch"
    finding = _student(label, n, estimate, bounds, "points", test)
    return _valued(replace(finding, arms=_kept(high, low)), published)


def gain(
    label: str,
    low: tuple[Sequence[Run], Sequence[Run]],
    high: tuple[Sequence[Run], Sequence[Run]],
    bounds: Bounds,
) -> Finding:
    """Is the second pair's difference larger than the first one's (bounds: by how much)?

    Over the seeds that all four arms share. Where a run fails, the question is whether more runs of
    the second pair are rescued: fail in its first arm, and not in its second.

    Raises:
        ValueError: if an arm has several runs of one seed.
    """
    arms = [_by_seed(arm) for arm in (*low, *high)]
    shared = sorted(set.intersection(*(set(arm) for arm in arms)))
    runs = [[arm[seed] for seed in shared] for arm in arms]
    four = _kept(runs[3], runs[2], runs[1], runs[0])
    n = (len(shared),) * 2
    if any(run.failed for arm in runs for run in arm):
        # The same test, with what it counts put in the place of failures.
        less, more = (
            [b._replace(failed=a.failed and not b.failed) for a, b in zip(*pair, strict=True)]
            for pair in (runs[:2], runs[2:])
        )
        found = fails_more(label, more, less)
        lost = tuple(n - rescued for n, rescued in zip(found.n, found.failed, strict=True))
        nobody = (math.nan,) * 2
        return replace(found, failed=lost, survivors=nobody, counted="rescued", arms=four)
    differences = [
        [b.accuracy - a.accuracy for a, b in zip(*pair, strict=True)]
        for pair in (runs[:2], runs[2:])
    ]
    estimate = statistics.paired(*differences)
    finding = _student(label, n, estimate, bounds, "points", PAIRED)
    return replace(finding, arms=four)


def level(
    label: str,
    runs: Sequence[Run],
    bounds: Bounds,
    published: Bounds | None = None,
    unit: Unit = "%",
) -> Finding:
    """Does the mean accuracy lie within the bounds? Open if some runs fail and others do not."""
    if len({run.failed for run in runs}) > 1:
        return _valued(_counts(label, (runs,)), published)
    estimate = statistics.mean([run.accuracy for run in runs])
    finding = _student(label, (len(runs),), estimate, bounds, unit, "Student")
    return _valued(replace(finding, arms=_kept(runs)), published)


def fails_more(
    label: str,
    more: Sequence[Run],
    fewer: Sequence[Run],
    shown: tuple[Sequence[Run], ...] | None = None,
) -> Finding:
    """Does ``more`` fail more often than ``fewer``? Fisher's exact test, one-sided either way.

    Args:
        label: for readers.
        more: the arm that is expected to fail more often.
        fewer: the other.
        shown: the arms in the order of the label.
    """
    (k, n), (l, m) = _failures(more), _failures(fewer)  # noqa: E741
    most, least = max(k / n, l / m), min(k / n, l / m)
    finding = replace(
        _counts(label, shown or (more, fewer)),
        needed=lambda alpha: statistics.runs_needed(most, least, alpha=alpha),
    )
    if min(n, m) < FEWEST:
        return finding
    yes, no = statistics.fisher(k, n, l, m), statistics.fisher(l, m, k, n)
    decided = _decided("yes", yes) if yes <= no else _decided("no", no)
    return replace(finding, test="Fisher, one-sided", **decided)


def survives(label: str, runs: Sequence[Run], share: float) -> Finding:
    """Do more than ``share`` of the runs survive? Exact binomial test, one-sided either way."""
    failed, n = _failures(runs)
    alive = (n - failed) / n
    truth, against = (alive, share) if alive > share else (1 - alive, 1 - share)
    finding = replace(
        _counts(label, (runs,)),
        needed=lambda alpha: statistics.trials_needed(truth, against, alpha=alpha),
    )
    if n < FEWEST:
        return finding
    yes = statistics.survival(n - failed, n, share)
    no = statistics.survival(failed, n, 1 - share)
    decided = _decided("yes", yes) if yes <= no else _decided("no", no)
    return replace(finding, test="exact binomial, one-sided", **decided)


def ratio(
    label: str, rounds: int, effect: float, low: float, high: float, bounds: Bounds
) -> Finding:
    """Does a ratio of times, with the middle 95 % of its rounds, lie within the bounds?"""
    single: Answer = "open"
    if bounds.low < low and high < bounds.high:
        single = "yes"
    elif high < bounds.low or low > bounds.high:
        single = "no"
    return Finding(label, (rounds,), effect, low, high, single, "×")


def corrected(findings: Sequence[Finding], others: Sequence[Finding] = ()) -> list[Finding]:
    """The findings with Holm's correction over them and ``others``."""
    family = [finding.p for finding in (*findings, *others)]
    tested = sum(not math.isnan(p) for p in family)
    adjusted = statistics.holm(family)
    return [
        replace(finding, corrected=p, family=max(1, tested))
        for finding, p in zip(findings, adjusted[: len(findings)], strict=True)
    ]


# --- in parts ------------------------------------------------------------------------------------


def _student(
    label: str,
    n: tuple[int, ...],
    estimate: Estimate,
    bounds: Bounds,
    unit: Unit,
    test: str,
) -> Finding:
    low, high = estimate.interval
    yes, no = estimate.inside(bounds.low, bounds.high)
    inside = estimate.mean in bounds
    # Told from every bound it keeps, or from the nearest of those it breaks.
    ends = [end for end in (bounds.low, bounds.high) if math.isfinite(end)]
    if not inside:
        ends = [min(ends, key=lambda end: abs(end - estimate.mean))]
    return Finding(
        label,
        n,
        estimate.mean,
        low,
        high,
        unit=unit,
        test=test if not math.isnan(low) else "",
        needed=partial(_seeds, estimate, ends, test != "Welch"),
        estimate=estimate,
        **_decided("yes", yes) if inside else _decided("no", no),
    )


def _seeds(estimate: Estimate, ends: Sequence[float], paired: bool, alpha: float) -> int | None:
    counts = [
        statistics.seeds_needed(estimate.mean, estimate.spread, end, paired=paired, alpha=alpha)
        for end in ends
    ]
    known = [count for count in counts if count is not None]
    return max(known) if len(known) == len(counts) else None


class _Decided(TypedDict):
    single: Answer
    p: float


def _decided(leaning: Answer, p: float) -> _Decided:
    return {"single": leaning if p < ALPHA else "open", "p": p}


def _counts(label: str, arms: Sequence[Sequence[Run]]) -> Finding:
    """An open finding that says who survives."""
    return Finding(
        label,
        tuple(len(arm) for arm in arms),
        *(math.nan,) * 3,
        "open",
        "points" if len(arms) > 1 else "%",
        failed=tuple(_failures(arm)[0] for arm in arms),
        survivors=tuple(_mean(arm) for arm in arms),
        arms=_kept(*arms),
    )


def _kept(*arms: Sequence[Run]) -> tuple[tuple[Run, ...], ...]:
    return tuple(map(tuple, arms))


def _failures(runs: Sequence[Run]) -> tuple[int, int]:
    return sum(run.failed for run in runs), len(runs)


def _mean(runs: Sequence[Run]) -> float:
    """The mean accuracy of the runs that survive."""
    alive = [run.accuracy for run in runs if not run.failed]
    return float(np.mean(alive)) if alive else math.nan


def _by_seed(runs: Sequence[Run]) -> dict[int, Run]:
    """Two runs with one seed would be no replicates."""
    found = {run.seed: run for run in runs}
    if len(found) < len(runs):
        seeds = sorted(run.seed for run in runs)
        raise ValueError(
            f"an arm has several runs of one seed ({', '.join(map(str, seeds))}): its settings "
            "mean more than one recipe; name what tells them apart"
        )
    return found


def _valued(finding: Finding, published: Bounds | None) -> Finding:
    """With the second answer: does our interval lie within what the paper's number allows?"""
    if published is None:
        return finding
    middle, off = (published.high + published.low) / 2, (published.high - published.low) / 2
    sign = "+" if finding.unit == "points" else ""
    agreement: Agreement = "open"
    if not math.isnan(finding.low):
        if published.low < finding.low and finding.high < published.high:
            agreement = "consistent"
        elif finding.high < published.low or finding.low > published.high:
            agreement = "differs"
    words = f"{100 * middle:{sign}.1f} ± {100 * off:.1f} {finding.unit}"
    return replace(finding, published=words, value=agreement)

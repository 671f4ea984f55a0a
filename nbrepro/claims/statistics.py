"""The intervals and tests that verdicts rest on.

Distribution functions are those of :mod:`scipy.special`: importing :mod:`scipy.stats` takes longer
than all verdicts together. The tests compare every function here with :mod:`scipy.stats`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

ALPHA = 0.05
#: Differences below this are rounding errors of the mean.
_ROUNDING = 1e-12
#: More seeds than anybody will run.
MOST_SEEDS = 1000
_MOST_RUNS = 60


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of two, and how well it is known.

    ``(mean - truth) / error`` has Student's distribution. Everything but ``mean`` is not a number
    where there are too few values.

    Attributes:
        mean: the estimate.
        error: its standard error.
        df: degrees of freedom.
        spread: standard deviation of one value, of one paired difference, or (for two independent
            samples) within a sample, for :func:`seeds_needed`.
    """

    mean: float
    error: float = math.nan
    df: float = math.nan
    spread: float = math.nan

    @property
    def quantile(self) -> float:
        """How many standard errors the 95 % interval reaches to either side."""
        return float(special.stdtrit(self.df, 1 - ALPHA / 2))

    @property
    def interval(self) -> tuple[float, float]:
        """Student's 95 % interval; a point if the values have no spread."""
        if self.error == 0:
            return self.mean, self.mean
        half = self.quantile * self.error
        return self.mean - half, self.mean + half

    def above(self, bound: float) -> float:
        """The one-sided p value against a true mean of ``bound`` or less."""
        if self.error == 0:
            return 0.0 if self.mean - bound > _ROUNDING else 1.0
        return float(special.stdtr(self.df, (bound - self.mean) / self.error))

    def below(self, bound: float) -> float:
        """The one-sided p value against a true mean of ``bound`` or more."""
        return Estimate(-self.mean, self.error, self.df).above(-bound)

    def inside(self, low: float, high: float) -> tuple[float, float]:
        """The p values of the answers *yes*, it lies between the bounds, and *no*, it does not.

        *Yes* must hold against both bounds, so its p value is that of the harder one; *no* needs
        one bound, the easier. Both are doubled, as for a two-sided test: an answer has p < 0.05
        exactly if the 95 % interval lies wholly within the bounds, or wholly beyond one of them
        (two one-sided tests: Schuirmann 1987).
        """
        ends = [end for end in (low, high) if math.isfinite(end)]
        yes = [self.above(end) if end == low else self.below(end) for end in ends]
        no = [self.below(end) if end == low else self.above(end) for end in ends]
        return float(np.minimum(1, 2 * np.max(yes))), float(np.minimum(1, 2 * np.min(no)))


def mean(values: Sequence[float]) -> Estimate:
    """The mean of independent values (Student 1908); an open one for fewer than two."""
    if len(values) < 2:
        return Estimate(float(np.mean(values)) if len(values) else math.nan)
    spread = _spread(values)
    n = len(values)
    return Estimate(float(np.mean(values)), spread / math.sqrt(n), n - 1, spread)


def paired(low: Sequence[float], high: Sequence[float]) -> Estimate:
    """The mean of ``high - low``, value by value: Student's test of paired differences.

    Raises:
        ValueError: if there are not as many of the one as of the other.
    """
    return mean([b - a for a, b in zip(low, high, strict=True)])


def welch(low: Sequence[float], high: Sequence[float]) -> Estimate:
    """``mean(high) - mean(low)`` of independent samples whose variances may differ (Welch 1947)."""
    if min(len(low), len(high)) < 2:
        return Estimate(float(np.mean(high) - np.mean(low)) if low and high else math.nan)
    difference = float(np.mean(high) - np.mean(low))
    spreads = [_spread(values) for values in (low, high)]
    # Squared standard errors; the degrees of freedom are those of Satterthwaite (1946).
    parts = [s**2 / len(values) for s, values in zip(spreads, (low, high), strict=True)]
    within = math.sqrt(sum(s**2 for s in spreads) / 2)
    if not within:
        return Estimate(difference, 0.0, len(low) + len(high) - 2, 0.0)
    df = sum(parts) ** 2 / (parts[0] ** 2 / (len(low) - 1) + parts[1] ** 2 / (len(high) - 1))
    return Estimate(difference, math.sqrt(sum(parts)), df, within)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean; not-a-numbers for fewer than two values."""
    return mean(values).interval


def digits(number: float, form: str = ".1f") -> str:
    """A number as readers see it.

    What lies halfway between two last digits falls on the same side on every page, whether a mean
    was taken of fractions or of percents.
    """
    return format(round(number, 9), form)


def fisher(failures_a: int, n_a: int, failures_b: int, n_b: int) -> float:
    """Fisher's exact test (1935), one-sided: the p value against *a fails no more often than b*.

    Given how many runs fail in all, the failures of ``a`` are hypergeometric.
    """
    failures = failures_a + failures_b
    ways = sum(
        math.comb(n_a, k) * math.comb(n_b, failures - k)
        for k in range(failures_a, min(n_a, failures) + 1)
    )
    return ways / math.comb(n_a + n_b, failures)


def survival(k: int, n: int, share: float) -> float:
    """Exact binomial test, one-sided: the p value of ``k`` of ``n`` against *no more than share*.

    Against *no less than share* it is ``survival(n - k, n, 1 - share)``.
    """
    return sum(math.comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(k, n + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values: all below 0.05 may be believed together (Holm 1979).

    Whatever the comparisons have to do with each other, the chance that any of them is false is at
    most 5 %. What is not a number was not tested, and stays so.
    """
    tested = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[index] = largest
    return adjusted


def seeds_needed(
    effect: float,
    spread: float,
    bound: float,
    power: float = 0.8,
    paired: bool = True,
    alpha: float = ALPHA,
) -> int | None:
    """Seeds per arm with which a test would tell ``effect`` from ``bound``.

    The power of Student's test follows from the noncentral t distribution (Cohen 1988, chapter 2).

    Args:
        effect: the true mean, or difference of means.
        spread: standard deviation, see :class:`Estimate`.
        bound: what it must be told from.
        power: chance that the two-sided test at ``alpha`` does.
        paired: whether ``spread`` is that of single values or paired differences, not of each of
            two independent samples.
        alpha: level of the test.

    Returns:
        ``None`` for more than :data:`MOST_SEEDS`, or if the two are equal.
    """
    distance = abs(effect - bound)
    if not distance > _ROUNDING or math.isnan(spread):
        return None
    if spread <= _ROUNDING:
        return 2
    n = np.arange(2, MOST_SEEDS + 1)
    df = n - 1 if paired else 2 * (n - 1)
    shift = distance / (spread * np.sqrt((1 if paired else 2) / n))
    missed = special.nctdtr(df, shift, special.stdtrit(df, 1 - alpha / 2))
    # Far in the tail the function gives up; the power is 1 there.
    enough = np.nan_to_num(missed) <= 1 - power
    return int(n[np.argmax(enough)]) if enough.any() else None


def runs_needed(
    share_a: float, share_b: float, power: float = 0.8, alpha: float = ALPHA
) -> int | None:
    """Runs per arm with which :func:`fisher` would find that ``a`` fails more often than ``b``.

    Args:
        share_a: of the runs of ``a`` that fail; ``share_b`` likewise.
        power: chance that the test at ``alpha`` finds it.
        alpha: level of the test.

    Returns:
        ``None`` for more than a few dozen, or if ``a`` does not fail more often.
    """
    if not share_a > share_b:
        return None
    for n in range(5, _MOST_RUNS + 1):
        a, b = (
            [math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]
            for share in (share_a, share_b)
        )
        reached = sum(
            a[i] * b[j]
            for i in range(n + 1)
            for j in range(i)
            if a[i] * b[j] > 0 and fisher(i, n, j, n) < alpha
        )
        if reached >= power:
            return n
    return None


def trials_needed(
    truth: float, share: float, power: float = 0.8, alpha: float = ALPHA
) -> int | None:
    """Runs with which :func:`survival` would find that more than ``share`` of them survive.

    Args:
        truth: the share that does survive.
        share: what it must be told from.
        power: chance that the test at ``alpha`` finds it.
        alpha: level of the test.

    Returns:
        ``None`` for more than a few dozen, or if the share is no larger.
    """
    if not truth > share:
        return None
    for n in range(5, _MOST_RUNS + 1):
        few = next((k for k in range(n + 1) if survival(k, n, share) < alpha), n + 1)
        if few <= n and survival(few, n, truth) >= power:
            return n
    return None


def _spread(values: Sequence[float]) -> float:
    """The standard deviation, exactly zero for what differs by rounding errors only."""
    spread = float(np.std(values, ddof=1))
    return spread if spread > _ROUNDING else 0.0

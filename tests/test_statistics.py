"""Each test and interval against :mod:`scipy.stats`, known values, and what must hold always."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from nbrepro.claims.statistics import (
    Estimate,
    digits,
    fisher,
    holm,
    interval,
    mean,
    paired,
    runs_needed,
    seeds_needed,
    survival,
    trials_needed,
    welch,
)

ACCURACY = st.integers(0, 10_000).map(lambda n: n / 10_000)
ACCURACIES = st.lists(ACCURACY, min_size=2, max_size=6)
PAIRS = st.lists(st.tuples(ACCURACY, ACCURACY), min_size=2, max_size=6)
BOUND = st.integers(-50, 50).map(lambda n: n / 100)


# --- Student and Welch ---------------------------------------------------------------------------


@given(ACCURACIES, BOUND)
def test_mean_is_students(values: list[float], bound: float) -> None:
    assume(len(set(values)) > 1)
    found = mean(values)
    test = stats.ttest_1samp(values, bound, alternative="greater")
    assert found.above(bound) == pytest.approx(test.pvalue, abs=1e-9)
    assert found.below(bound) == pytest.approx(1 - test.pvalue, abs=1e-9)
    ends = stats.ttest_1samp(values, bound).confidence_interval(0.95)
    assert found.interval == pytest.approx((ends.low, ends.high))
    assert interval(values) == found.interval


@given(PAIRS)
def test_paired_is_ttest_rel(pairs: list[tuple[float, float]]) -> None:
    low, high = map(list, zip(*pairs, strict=True))
    differences = [h - x for x, h in pairs]
    assume(np.std(differences) > 1e-9)
    test = stats.ttest_rel(high, low)
    found = paired(low, high)
    assert found.inside(0, math.inf) == pytest.approx(
        (min(1, 2 * found.above(0)), min(1, 2 * found.below(0)))
    )
    assert min(found.inside(0, math.inf)) == pytest.approx(test.pvalue, abs=1e-9)
    ends = test.confidence_interval(0.95)
    assert found.interval == pytest.approx((ends.low, ends.high))


@given(ACCURACIES, ACCURACIES)
def test_welch_is_ttest_ind(low: list[float], high: list[float]) -> None:
    assume(len(set(low)) > 1 and len(set(high)) > 1)
    found = welch(low, high)
    test = stats.ttest_ind(high, low, equal_var=False)
    ends = test.confidence_interval(0.95)
    assert found.interval == pytest.approx((ends.low, ends.high))
    assert min(found.inside(0, math.inf)) == pytest.approx(test.pvalue, abs=1e-9)
    assert found.df == pytest.approx(test.df)


@given(ACCURACIES, ACCURACIES)
def test_welch_turned_round(low: list[float], high: list[float]) -> None:
    ends = welch(low, high).interval
    assert sum(ends) / 2 == pytest.approx(np.mean(high) - np.mean(low), abs=1e-9)
    turned = welch(high, low).interval
    assert turned == pytest.approx([-end for end in reversed(ends)], abs=1e-9)
    constant = len(set(low)) == len(set(high)) == 1
    assert (ends[1] - ends[0] < 1e-9) == constant


def test_welch_known_values() -> None:
    # On paper: squared error 1/300 + 1/100, 32/19 degrees of freedom, for which t is 5.17623.
    half = 5.17623 * math.sqrt(1 / 300 + 1 / 100)
    found = welch([0.1, 0.2, 0.3], [0.4, 0.6])
    assert found.interval == pytest.approx((0.3 - half, 0.3 + half), abs=1e-6)


def test_welch_of_an_arm_without_spread() -> None:
    """All seeds at chance, say."""
    low, high = [0.1, 0.1, 0.1], [0.4, 0.41, 0.39]
    half = 4.302653 * 0.01 / math.sqrt(3)  # t of 2 degrees of freedom, from a table
    assert welch(low, high).interval == pytest.approx((0.3 - half, 0.3 + half), abs=1e-7)
    assert welch(high, low).interval == pytest.approx((-0.3 - half, -0.3 + half), abs=1e-7)
    assert welch(low, low).interval == (0, 0)
    assert welch(low, [0.4] * 3).interval == pytest.approx((0.3, 0.3))


@given(ACCURACIES)
def test_students_interval_from_a_table(values: list[float]) -> None:
    middle, error = np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))
    t = {2: 12.7062, 3: 4.30265, 4: 3.18245, 5: 2.77645, 6: 2.57058}[len(values)]
    assert interval(values) == pytest.approx((middle - t * error, middle + t * error), abs=2e-5)


def test_pairing_removes_what_both_arms_share() -> None:
    low, high = [0.30, 0.40, 0.50], [0.32, 0.43, 0.52]
    assert paired(low, high).inside(0, math.inf)[0] < 0.05 < welch(low, high).inside(0, math.inf)[0]


def test_pairs_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired([0.1, 0.2], [0.3])


def test_one_value_has_no_interval_and_no_p() -> None:
    for found in (mean([0.5]), mean([]), welch([0.5], [0.6, 0.7]), paired([0.5], [0.6])):
        assert all(math.isnan(end) for end in (*found.interval, *found.inside(0, 1)))
    assert mean([0.5]).mean == 0.5


@given(ACCURACIES, BOUND, st.sampled_from([0.02, 0.1, math.inf]))
def test_an_answer_at_5_percent_is_an_interval_on_one_side(
    values: list[float], low: float, width: float
) -> None:
    found = mean(values)
    yes, no = found.inside(low, low + width)
    least, most = found.interval
    assume(min(abs(end - b) for end in (least, most) for b in (low, low + width)) > 1e-9)
    assert (yes < 0.05) == (low < least and most < low + width)
    assert (no < 0.05) == (most < low or least > low + width)


def test_what_has_no_spread_is_on_one_side_or_on_the_bound() -> None:
    point = mean([0.1, 0.1, 0.1])
    assert point.inside(0.0, math.inf) == (0, 1)
    assert point.inside(0.2, math.inf) == (1, 0)
    assert point.inside(0.1, math.inf) == (1, 1)
    # 0.3 - 0.2 and 0.4 - 0.3 differ in the last digit.
    assert paired([0.2, 0.3], [0.3, 0.4]).inside(0.1, math.inf) == (1, 1)


# --- counts --------------------------------------------------------------------------------------

COUNTS = st.integers(1, 9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(COUNTS, COUNTS)
def test_fisher_is_fisher_exact(a: tuple[int, int], b: tuple[int, int]) -> None:
    table = [[a[0], a[1] - a[0]], [b[0], b[1] - b[0]]]
    assert fisher(*a, *b) == pytest.approx(stats.fisher_exact(table, "greater").pvalue)


def test_fisher_known_values() -> None:
    assert fisher(5, 5, 0, 5) == pytest.approx(1 / 252)
    assert fisher(3, 3, 0, 3) == pytest.approx(1 / 20)  # never below 5 %
    assert fisher(0, 5, 0, 5) == fisher(5, 5, 5, 5) == fisher(0, 5, 5, 5) == 1


@given(COUNTS, st.sampled_from([0.1, 0.5, 0.9]))
def test_survival_is_binomtest(counts: tuple[int, int], share: float) -> None:
    k, n = counts
    test = stats.binomtest(k, n, share, alternative="greater")
    assert survival(k, n, share) == pytest.approx(test.pvalue)
    test = stats.binomtest(k, n, share, alternative="less")
    assert survival(n - k, n, 1 - share) == pytest.approx(test.pvalue)


def test_survival_known_values() -> None:
    assert survival(5, 5, 0.5) == 1 / 32
    assert survival(0, 5, 0.5) == 1


# --- many comparisons ----------------------------------------------------------------------------

P = st.floats(0, 1)


def test_holm_known_values() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


@given(st.lists(P, max_size=8))
def test_holm_lies_between_single_and_bonferroni(values: list[float]) -> None:
    adjusted = holm(values)
    for p, q in zip(values, adjusted, strict=True):
        assert p <= q <= min(1, len(values) * p) + 1e-12
    for a, b in zip(sorted(values), sorted(adjusted), strict=True):
        assert adjusted[values.index(a)] <= b + 1e-12


@given(st.lists(P, min_size=1, max_size=8))
def test_holm_rejects_step_by_step(values: list[float]) -> None:
    """As the procedure is described: from the smallest up, until one is not small enough."""
    rejected = 0
    for rank, p in enumerate(sorted(values)):
        if (len(values) - rank) * p >= 0.05:
            break
        rejected += 1
    assert sum(q < 0.05 for q in holm(values)) == rejected


def test_holm_does_not_count_what_was_not_tested() -> None:
    first, untested, last = holm([0.01, math.nan, 0.04])
    assert (first, last) == (0.02, 0.04)
    assert math.isnan(untested)


# --- power ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effect", "spread", "alone", "expected"),
    [
        (0.5, 1.0, True, 34),  # tables of Cohen (1988): d = 0.5
        (0.5, 1.0, False, 64),
        (0.8, 1.0, False, 26),
        (10, 1.0, True, 3),
    ],
)
def test_seeds_needed_known_values(
    effect: float, spread: float, alone: bool, expected: int
) -> None:
    assert seeds_needed(effect, spread, 0, paired=alone) == expected
    assert seeds_needed(-effect, spread, 0, paired=alone) == expected
    assert seeds_needed(effect + 3, spread, 3, paired=alone) == expected


def test_seeds_needed_where_no_number_is_enough() -> None:
    assert seeds_needed(0.1, 1.0, 0.1) is None
    assert seeds_needed(0.001, 1.0, 0) is None
    assert seeds_needed(0.1, math.nan, 0) is None
    assert seeds_needed(0.1, 0, 0) == 2


@given(st.floats(0.3, 3), st.booleans())
def test_seeds_needed_reach_the_power_and_not_before(effect: float, alone: bool) -> None:
    n = seeds_needed(effect, 1.0, 0, paired=alone)
    assert n is not None

    def power(n: int) -> float:
        df = n - 1 if alone else 2 * n - 2
        shift = effect * math.sqrt(n if alone else n / 2)
        return float(stats.nct.sf(stats.t.ppf(0.975, df), df, shift))

    assert power(n) >= 0.8 - 1e-6
    assert n == 2 or power(n - 1) < 0.8 + 1e-6


def test_a_stricter_level_needs_more_seeds() -> None:
    counts = [seeds_needed(1, 1.0, 0, alpha=alpha) for alpha in (0.05, 0.01, 0.001)]
    assert counts == sorted(counts)
    assert len(set(counts)) == 3


def test_runs_needed() -> None:
    assert runs_needed(1, 0) == 5  # fewer are never tested
    assert runs_needed(1, 0, alpha=0.05 / 30) == 6  # 1 / 924
    assert runs_needed(0.5, 0.5) is None
    assert runs_needed(0, 1) is None
    assert runs_needed(0.52, 0.5) is None
    by_scipy = stats.binom(12, 0.75).pmf(range(13))
    power = sum(by_scipy[k] for k in range(13) if fisher(k, 12, 0, 12) < 0.05)
    n = runs_needed(0.75, 0)
    assert n is not None
    assert n <= 12 or power < 0.8


def test_trials_needed() -> None:
    assert trials_needed(1, 0.5) == 5  # 1 / 32
    assert trials_needed(1, 0.5, alpha=0.01) == 7  # 1 / 128
    assert trials_needed(0.5, 0.5) is None
    assert trials_needed(0.51, 0.5) is None
    n = trials_needed(0.8, 0.5)
    assert n is not None

    def power(n: int) -> float:
        least = min(k for k in range(n + 1) if stats.binom.sf(k - 1, n, 0.5) < 0.05)
        return float(stats.binom.sf(least - 1, n, 0.8))

    assert power(n) >= 0.8 > max(power(m) for m in range(5, n))


def test_an_estimate_turned_round() -> None:
    found, turned = Estimate(0.2, 0.1, 4), Estimate(-0.2, 0.1, 4)
    assert found.above(0.1) == turned.below(-0.1)
    assert found.inside(-0.1, 0.1) == turned.inside(-0.1, 0.1)


def test_a_tie_is_rounded_alike_in_fractions_and_in_percents() -> None:
    """As it was: 28.8 % in a verdict, 28.9 % in the figure above it."""
    accuracies = [0.2885, 0.2885, 0.2885]
    fractions = 100 * mean(accuracies).mean
    percents = mean([100 * accuracy for accuracy in accuracies]).mean
    for off in (0, 1e-12, -1e-12):
        assert digits(fractions + off) == digits(percents)
    assert digits(5.25, "+.1f") == "+5.2"

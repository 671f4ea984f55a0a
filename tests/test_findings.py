"""Questions to runs: who is compared with whom, by which test, and what a reader is told."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from nbrepro.claims import findings
from nbrepro.claims.findings import Answer, Finding, Run
from nbrepro.claims.rules import Bounds

ABOVE = Bounds(0.0, math.inf)


def runs(accuracies: Sequence[float], seed: int = 0, chance: float = 0.1) -> list[Run]:
    """Runs with seeds from ``seed`` on, which fail below twice chance."""
    return [Run(seed + i, a, failed=a < 2 * chance) for i, a in enumerate(accuracies)]


def alive_and_failed(alive: int, failed: int) -> list[Run]:
    return runs([0.4] * alive + [0.1] * failed)


# --- two arms ------------------------------------------------------------------------------------


def test_shared_seeds_are_compared_seed_by_seed_whatever_their_order() -> None:
    low, high = runs([0.30, 0.40, 0.50]), runs([0.32, 0.43, 0.52])
    test = stats.ttest_rel([0.32, 0.43, 0.52], [0.30, 0.40, 0.50])
    for arm in (high, high[::-1]):
        found = findings.compare("a", low, arm, ABOVE)
        assert found.test == "Student, paired by seed"
        assert found.p == pytest.approx(test.pvalue)
        ends = test.confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
        assert (found.n, found.single) == ((3, 3), "yes")


def test_only_shared_seeds_are_compared() -> None:
    low, high = runs([0.3, 0.4, 0.9]), runs([0.32, 0.43])
    found = findings.compare("a", low, high, ABOVE)
    assert found.n == (2, 2)
    assert found.effect == pytest.approx(0.025)


@pytest.mark.parametrize("seed", [2, 3])
def test_arms_that_share_fewer_than_two_seeds_are_compared_as_they_are(seed: int) -> None:
    low, high = [0.30, 0.40, 0.50], [0.32, 0.43]
    found = findings.compare("a", runs(low), runs(high, seed), ABOVE)
    test = stats.ttest_ind(high, low, equal_var=False)
    assert found.test == "Welch"
    assert found.n == (2, 3)
    assert found.p == pytest.approx(test.pvalue)


def test_an_arm_that_means_two_recipes_is_refused() -> None:
    low = runs([0.3, 0.4])
    with pytest.raises(ValueError, match=r"several runs of one seed \(0, 0, 1, 1\)"):
        findings.compare("a", low, [*low, *runs([0.5, 0.6])], ABOVE)


def test_a_single_seed_is_open() -> None:
    found = findings.compare("a", runs([0.3]), runs([0.5]), ABOVE)
    assert (found.single, found.test, found.significance) == ("open", "", "")
    assert found.numbers == "+20.0 points"
    assert found.seeds_needed is None


@given(
    st.lists(st.integers(3000, 9000).map(lambda n: n / 10_000), min_size=3, max_size=6),
    st.lists(st.integers(3000, 9000).map(lambda n: n / 10_000), min_size=6, max_size=6),
    st.sampled_from([Bounds(0, math.inf), Bounds(-0.02, 0.02), Bounds(-math.inf, 0.1)]),
)
def test_an_answer_is_an_interval_on_one_side(
    low: list[float], high: list[float], bounds: Bounds
) -> None:
    found = findings.compare("a", runs(low), runs(high), bounds)
    ends = (found.low, found.high)
    assume(min(abs(e - b) for e in ends for b in (bounds.low, bounds.high)) > 1e-9)
    within = bounds.low < found.low and found.high < bounds.high
    beyond = found.high < bounds.low or found.low > bounds.high
    expected = "yes" if within else "no" if beyond else "open"
    assert found.single == expected
    assert (found.p < 0.05) == (expected != "open")


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        ((0, 5), (5, 0), "yes"),
        ((5, 0), (0, 5), "no"),
        ((0, 3), (3, 0), "open"),  # p = 0.05 at best
        ((0, 4), (5, 0), "open"),  # five of each are asked for
        ((3, 2), (5, 0), "open"),
        ((4, 4), (8, 0), "yes"),
        ((0, 5), (0, 5), "open"),
    ],
)
def test_where_runs_fail_failures_are_compared(
    low: tuple[int, int], high: tuple[int, int], expected: Answer
) -> None:
    arms = alive_and_failed(*low), alive_and_failed(*high)
    found = findings.compare("a", *arms, ABOVE)
    assert found.single == expected
    assert math.isnan(found.low), "no interval over survivors and failures"
    assert found.failed == (high[1], low[1])
    turned = {"yes": "no", "no": "yes", "open": "open"}[expected]
    assert findings.compare("a", *arms, Bounds(-math.inf, 0.1)).single == turned
    assert findings.compare("a", *arms, Bounds(-0.1, 0.1)).single == "open"
    assert findings.fails_more("a", *arms).single == expected
    if expected != "open":
        table = [[low[1], low[0]], [high[1], high[0]]]
        side = "greater" if expected == "yes" else "less"
        assert found.p == pytest.approx(stats.fisher_exact(table, side).pvalue)


def test_who_survives_in_words() -> None:
    low, high = runs([0.1, 0.1, 0.1]), runs([0.4, 0.5, 0.1])
    found = findings.compare("A over B", low, high, ABOVE)
    words = "2 of 3 survive, at 45.0 %, against 0 of 3"
    assert found.numbers == words
    assert str(found) == f"A over B: {words}, n = 3"
    found = findings.fails_more("B fails more often than A", low, high)
    assert found.numbers == "0 of 3 survive, against 2 of 3, at 45.0 %"


@pytest.mark.parametrize(
    ("alive", "failed", "share", "expected"),
    [
        (5, 0, 0.5, "yes"),  # 1 / 32
        (4, 0, 0.5, "open"),
        (4, 1, 0.5, "open"),
        (0, 5, 0.5, "no"),
        (5, 0, 0.9, "open"),
        (3, 5, 0.9, "no"),
    ],
)
def test_survival(alive: int, failed: int, share: float, expected: Answer) -> None:
    found = findings.survives("a", alive_and_failed(alive, failed), share)
    assert found.single == expected
    assert found.n == (alive + failed,)


def test_a_level_over_survivors_and_failures_is_open() -> None:
    found = findings.level("a", runs([0.4, 0.41, 0.1]), Bounds(0.0, 0.05))
    assert found.single == "open"
    assert found.numbers == "2 of 3 survive, at 40.5 %"
    assert findings.level("a", runs([0.1, 0.11, 0.1]), Bounds(0.3, 1)).single == "no"


# --- gains ---------------------------------------------------------------------------------------


def test_gains_are_compared_seed_by_seed() -> None:
    a, b, c, d = [0.40, 0.42, 0.41], [0.41, 0.42, 0.42], [0.30, 0.35, 0.31], [0.40, 0.44, 0.42]
    found = findings.gain("g", (runs(a), runs(b)), (runs(c), runs(d)), ABOVE)
    test = stats.ttest_rel(np.subtract(d, c), np.subtract(b, a))
    assert found.effect == pytest.approx(np.mean(d) - np.mean(c) - np.mean(b) + np.mean(a))
    assert found.p == pytest.approx(test.pvalue)
    assert found.single == "yes"
    turned = findings.gain("g", (runs(c), runs(d)), (runs(a), runs(b)), ABOVE)
    assert turned.single == "no"


def test_where_runs_fail_rescued_runs_are_compared() -> None:
    good, bad = runs([0.4] * 5), runs([0.1] * 5)
    found = findings.gain("g", (good, good), (bad, good), ABOVE)
    assert found.single == "yes"
    assert found.p == pytest.approx(1 / 252)
    assert found.numbers == "5 of 5 rescued, against 0 of 5"
    assert findings.gain("g", (bad, good), (good, good), ABOVE).single == "no"
    # All that fails still fails: nothing was gained.
    assert findings.gain("g", (bad, bad), (bad, bad), ABOVE).single == "open"
    assert findings.gain("g", (good, good), (good, bad), ABOVE).single == "open"


# --- many findings -------------------------------------------------------------------------------


def certain(p: float, single: Answer = "yes") -> Finding:
    return Finding("a", (3, 3), 0.1, 0.05, 0.15, single, "points", "Student", p)


def test_the_correction_is_over_all_findings() -> None:
    first, second = findings.corrected([certain(0.01), certain(0.02, "no")])
    assert (first.corrected, second.corrected) == (0.02, 0.02)
    assert (first.answer, second.answer) == ("yes", "no")
    crowd = [certain(0.5, "open")] * 10
    first, second = findings.corrected([certain(0.001), certain(0.02, "no")], crowd)
    assert (first.answer, second.answer) == ("yes", "open")
    assert (first.single, second.single) == ("yes", "no")
    assert first.family == 12
    assert second.corrected == pytest.approx(0.22)
    assert first.significance == "p = 0.001, corrected 0.012"


def test_what_was_not_tested_does_not_count() -> None:
    untested = findings.compare("a", runs([0.3]), runs([0.5]), ABOVE)
    assert findings.corrected([certain(0.02)], [untested] * 9)[0].family == 1
    assert findings.corrected([untested])[0].answer == "open"


def test_seeds_that_would_settle_it() -> None:
    low, high = runs([0.30, 0.40, 0.50]), runs([0.32, 0.44, 0.515])
    found = findings.compare("a", low, high, ABOVE)
    assert found.single == "open"
    (alone,) = findings.corrected([found])
    (crowded,) = findings.corrected([found], [certain(0.5, "open")] * 20)
    assert alone.seeds_needed is not None
    assert crowded.seeds_needed is not None
    assert 3 < alone.seeds_needed < crowded.seeds_needed
    assert findings.corrected([certain(0.001)])[0].seeds_needed is None, "it is settled"
    fails = findings.compare("a", alive_and_failed(0, 3), alive_and_failed(3, 0), ABOVE)
    assert fails.seeds_needed == 5
    assert findings.survives("a", alive_and_failed(3, 0), 0.5).seeds_needed == 5
    # Between two bounds it must be told from both.
    near = Bounds(-0.001, 0.04)
    both = findings.compare("a", low, high, near).seeds_needed
    assert both is not None
    assert both > alone.seeds_needed


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([0.479, 0.480, 0.481], "consistent"),
        ([0.53, 0.531, 0.532], "differs"),
        ([0.45, 0.451, 0.452], "differs"),
        ([0.459, 0.461, 0.463], "open"),
        ([0.48], "open"),
        ([0.48, 0.481, 0.1], "open"),
    ],
)
def test_published_values(accuracies: list[float], expected: str) -> None:
    found = findings.level("a", runs(accuracies), Bounds(0.3, 1), Bounds(0.46, 0.50))
    assert found.value == expected
    assert found.published == "48.0 ± 2.0 %"


def test_published_differences() -> None:
    low, high = runs([0.48, 0.481, 0.482]), runs([0.58, 0.5805, 0.582])
    found = findings.compare("a", low, high, ABOVE, Bounds(0.08, 0.12))
    assert (found.value, found.published) == ("consistent", "+10.0 ± 2.0 points")
    assert findings.compare("a", low, high, ABOVE).value == ""


# --- in words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finding", "numbers", "seeds"),
    [
        (
            Finding("a", (3, 3), 0.0551, 0.04, 0.07, "yes", "points"),
            "+5.5 points [+4.0, +7.0]",
            "n = 3",
        ),
        (
            Finding("a", (3, 5), -0.01, -0.02, 0, "no", "points"),
            "-1.0 points [-2.0, +0.0]",
            "n = 3 and 5",
        ),
        (Finding("a", (1,), 0.48, math.nan, math.nan, "open", "%"), "48.0 %", "n = 1"),
        (Finding("a", (9,), 1.5, 1.2, 1.8, "yes", "×"), "×1.50 [1.20, 1.80]", ""),
    ],
)
def test_a_finding_in_words(finding: Finding, numbers: str, seeds: str) -> None:
    assert (finding.numbers, finding.seeds) == (numbers, seeds)
    assert str(finding) == f"a: {numbers}" + (f", {seeds}" if seeds else "")
    assert finding.answer == finding.single


@pytest.mark.parametrize(
    ("p", "words"), [(0.0004, "p < 0.001"), (0.0081, "p = 0.0081"), (0.123, "p = 0.12")]
)
def test_p_values_in_words(p: float, words: str) -> None:
    assert certain(p).significance == words
    assert str(certain(p)) == f"a: +10.0 points [+5.0, +15.0], n = 3, {words}"

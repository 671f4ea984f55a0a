"""How the answer of a finding comes about, step by step, for readers who want to do it again.

Nothing is computed here: the numbers are those that the finding was made from.
"""

import math
from typing import TypedDict

from nbrepro.claims import statistics
from nbrepro.claims.findings import FEWEST, PAIRED, Finding


class Difference(TypedDict):
    """One seed: the value of each arm, and what was subtracted from what."""

    seed: int
    values: list[float]
    difference: float


def differences(finding: Finding) -> list[Difference]:
    """Seed by seed what was compared; empty where arms were not compared like that.

    Of two arms the second is subtracted from the first. Of four, the difference of the third and
    the fourth is subtracted from that of the first and the second.
    """
    if finding.test != PAIRED:
        return []
    arms = [{run.seed: run.accuracy for run in arm} for arm in finding.arms]
    rows = []
    for seed in sorted(set.intersection(*map(set, arms))):
        values = [arm[seed] for arm in arms]
        signed = [sign * value for sign, value in zip((1, -1, -1, 1), values, strict=False)]
        rows.append(Difference(seed=seed, values=values, difference=sum(signed)))
    return rows


def steps(finding: Finding) -> list[str]:
    """The way to the interval and to the p value, in order; empty for a ratio of times."""
    if finding.failed:
        found = [*_counts(finding), _test(finding)]
    elif finding.estimate is None:
        found = []
    elif math.isnan(finding.low):
        found = [f"mean {_percent(finding.estimate.mean, finding)}; one seed gives no interval"]
    else:
        found = [*_means(finding), *_interval(finding), _test(finding)]
    if finding.seeds_needed:
        found.append(
            f"open; if what was seen is the truth, {finding.seeds_needed} seeds per arm would "
            "settle it with a chance of 80 %"
        )
    return found


def _counts(finding: Finding) -> list[str]:
    return [
        f"{name}: {sum(run.failed for run in arm)} of {len(arm)} failed"
        for name, arm in zip(finding.names, finding.arms, strict=True)
    ]


def _means(finding: Finding) -> list[str]:
    assert finding.estimate
    if finding.test != "Welch":
        of = "differences" if finding.test == PAIRED else "values"
        return [
            f"mean of {finding.n[0]} {of} {_percent(finding.estimate.mean, finding)}, standard "
            f"deviation {100 * finding.estimate.spread:.4f}"
        ]
    arms = [(arm, statistics.mean([run.accuracy for run in arm])) for arm in finding.arms]
    return [
        *(
            f"{name}: mean of {len(arm)} values {100 * mean.mean:.2f} %, standard deviation "
            f"{100 * mean.spread:.4f}"
            for name, (arm, mean) in zip(finding.names, arms, strict=True)
        ),
        f"difference {_percent(finding.estimate.mean, finding)}",
    ]


def _interval(finding: Finding) -> list[str]:
    estimate = finding.estimate
    assert estimate
    t, error = estimate.quantile, 100 * estimate.error
    freedom = f"{estimate.df:.3g} degree{'s' * (estimate.df != 1)} of freedom"
    return [
        f"standard error {error:.4f}",
        f"times Student's t for 95 % and {freedom}, {t:.4f}: {t * error:.3f}",
        f"95 % interval {_percent(finding.low, finding)} to {_percent(finding.high, finding)}",
    ]


def _test(finding: Finding) -> str:
    if not finding.test:
        return f"not tested, which takes {FEWEST} seeds per arm"
    told = f"{finding.test}: {finding.significance}"
    if math.isnan(finding.corrected):
        return told
    return f"{told} for {finding.family} tested comparisons of this paper (Holm)"


def _percent(number: float, finding: Finding) -> str:
    sign = "+" if finding.unit == "points" else ""
    return f"{100 * number:{sign}.2f} {finding.unit}"

"""The intervals that verdicts rest on, from :mod:`scipy.stats`."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean; not-a-numbers for fewer than two values."""
    if len(values) < 2:
        return math.nan, math.nan
    mean = float(np.mean(values))
    if _constant(values):
        return mean, mean
    low, high = stats.t.interval(CONFIDENCE, len(values) - 1, loc=mean, scale=stats.sem(values))
    return float(low), float(high)


def welch(low: Sequence[float], high: Sequence[float]) -> tuple[float, float]:
    """Welch's 95 % interval of ``mean(high) - mean(low)``; not-a-numbers below two values each."""
    if min(len(low), len(high)) < 2:
        return math.nan, math.nan
    if _constant(low) and _constant(high):
        difference = float(np.mean(high) - np.mean(low))
        return difference, difference
    with warnings.catch_warnings():
        # One arm may well have no spread, such as all seeds at chance; that costs no precision.
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        test = stats.ttest_ind(high, low, equal_var=False)
    ends = test.confidence_interval(CONFIDENCE)
    return float(ends.low), float(ends.high)


def _constant(values: Sequence[float]) -> bool:
    """Whether there is no spread at all: the interval is then a point."""
    return len(set(values)) == 1

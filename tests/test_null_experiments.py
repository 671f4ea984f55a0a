"""Where there is nothing to find, the rules find something in at most 5 % of the experiments."""

import json
from pathlib import Path

import pytest
from conftest import loaded
from scipy import stats

from nbrepro.records.ledger import _digest

ROOT = Path(__file__).parents[1]


NULL = loaded(ROOT / "benchmarks" / "null_experiments.py")
#: Single answers of a whole paper are there to show what the correction is for.
CORRECTED = [name for name in NULL.SHAPES if "single" not in name]


def most(simulations: int) -> float:
    """The share that a rate of 5 % exceeds once in 100,000 times."""
    return float(stats.binom.ppf(1 - 1e-5, simulations, 0.05)) / simulations


@pytest.mark.parametrize("name", CORRECTED)
def test_wrong_answers_are_rare(name: str) -> None:
    simulations = 100 if name.startswith("any of") else 200
    found = NULL.shares(name, simulations)
    assert max(found.values()) <= most(simulations)


def test_a_wrong_rule_would_be_noticed() -> None:
    """Answers that are not corrected are wrong in most papers."""
    (single, *_) = (name for name in NULL.SHAPES if name.endswith("single"))
    assert max(NULL.shares(single, 100).values()) > most(100)


def test_the_stored_table_is_the_scripts() -> None:
    body = json.loads((ROOT / "results" / "null_experiments.json").read_text(encoding="utf-8"))
    assert body.pop("digest") == _digest(body)
    assert (body["seed"], body["simulations"]) == (NULL.SEED, NULL.SIMULATIONS)
    assert list(body["rows"]) == list(NULL.SHAPES)
    for name in CORRECTED:
        assert max(body["rows"][name].values()) <= most(NULL.SIMULATIONS), name


def test_a_simulation_can_be_repeated() -> None:
    name = "one arm over another, n = 3, paired"
    assert NULL.shares(name, 20) == NULL.shares(name, 20)

"""What chapter 4 measures live."""

from nbrepro import experiments, layers
from nbrepro.book import residual
from nbrepro.claims.rules import matches
from nbrepro.records.ledger import Record

GRID = experiments.get("nf_resnets").specs("quick", seeds=1)


def test_the_standardized_network_follows_the_theory_and_the_plain_one_explodes() -> None:
    found = residual.signals()
    assert list(found) == list(residual.NETWORKS)
    rows = found["NF with WS"]
    assert all(0.9 < row["variance"] / row["expected_variance"] < 1.1 for row in rows)
    assert found["plain"][-1]["variance"] > 1000 * found["BN → ReLU"][-1]["variance"]


def test_every_run_of_the_experiment_is_in_one_arm() -> None:
    records = [Record(spec, "completed", {"test_accuracy": 0.5}, [], {}) for spec in GRID]
    arms = residual.all_arms(records)
    for spec in GRID:
        assert sum(matches(spec, settings) for settings in arms.values()) == 1, spec
    assert any(name.endswith(": NF without SkipInit") for name in arms)


def test_beta_starts_each_stage_anew() -> None:
    """As the text of the chapter says of NF-ResNet-50."""
    first, *later = layers.expected_stds([3, 4, 6, 3])
    assert first[0] == 1
    for stage in later:
        assert round(stage[1] ** 2, 6) == 1.04

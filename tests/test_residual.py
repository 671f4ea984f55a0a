"""What chapter 4 measures live."""

import pytest
import torch

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


def test_variance_behind_activations_is_that_of_samples() -> None:
    """The right γ keeps it; one that is too large grows faster than its powers."""
    right = residual.variances(layers.GAMMA["silu"], 3)
    assert right == pytest.approx([1, 1, 1], abs=0.01)
    wrong = residual.variances(2.218, 3)
    assert wrong[2] > wrong[0] ** 3
    signal = torch.randn(10**6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for expected in wrong:
        behind = 2.218 * torch.nn.functional.silu(signal)
        assert behind.var().item() == pytest.approx(expected, rel=0.01)
        signal = signal / signal.std() * expected**0.5  # as standardized weights pass it on

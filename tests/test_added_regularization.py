"""What chapter 6 says of a small network that over-fits: arms that are run, sentences that fit."""

from typing import Any

import pytest

from nbrepro import experiments
from nbrepro.book import nfnets
from nbrepro.claims.rules import matches
from nbrepro.records.ledger import Record
from nbrepro.spec import Spec

GRID = experiments.get("added_regularization").specs("quick", seeds=1)
PLAIN = GRID[0]


def made(spec: Spec, ends: list[float], half: float = 0.5, ema: float = 0.0) -> list[Record]:
    """A run per end: test accuracies half-way and then, the averaged weights' so much higher."""
    runs = []
    for seed, end in enumerate(ends):
        curve: list[dict[str, Any]] = [
            {"epoch": n, "step": n, "test_accuracy": at, "train_accuracy": 0.9,
             "ema_test_accuracy": at + more}
            for n, at, more in ((0, 0.2, 0.0), (1, half, 2 * ema + seed / 1000), (2, end, ema))
        ]  # fmt: skip
        metrics = {key: value for key, value in curve[-1].items() if key not in ("epoch", "step")}
        runs.append(Record(spec.replace(seed=seed), "completed", metrics, curve, {}))
    return runs


def test_every_arm_that_the_figure_names_is_run_once() -> None:
    found = [[spec for spec in GRID if matches(spec, arm)] for arm in nfnets.ADDED.values()]
    assert [len(specs) for specs in found] == [1] * len(GRID)
    assert {specs[0].hash for specs in found} == {spec.hash for spec in GRID}


def test_arms_differ_from_nothing_in_what_their_names_say() -> None:
    changes = [
        {name for name, value in spec.to_dict().items() if value != PLAIN.to_dict()[name]}
        for spec in GRID[1:]
    ]
    assert changes == [
        {"dropout", "stochastic_depth"},
        {"augmentation"},
        {"augmentation", "randaugment", "mixup", "cutmix"},
        {"sam"},
    ]


def test_over_fitting_in_words() -> None:
    text = nfnets.over_fit(made(PLAIN, [0.6, 0.7]))
    assert "90 % of the training images" in text
    assert "65 % of the test images" in text
    assert nfnets.over_fit([]) == ""


def test_what_is_added_is_compared_with_nothing() -> None:
    held = GRID[1]
    text = nfnets.added_text([*made(PLAIN, [0.60, 0.61]), *made(held, [0.65, 0.67])]).data
    assert "- dropout and stochastic depth: **+5.5 points" in text
    assert "SAM" not in text


@pytest.mark.parametrize(("ema", "told"), [(0.01, "**+1.0** points"), (-0.02, "**-2.0** points")])
def test_averaged_weights_half_way_and_at_the_end(ema: float, told: str) -> None:
    text = nfnets.averaged_text(made(PLAIN, [0.6, 0.7], ema=ema)).data.replace("−", "-")
    assert "half-way **" in text
    assert f"at the end {told}" in text
    assert "n = 2" in text
    assert nfnets.averaged_text([]).data == "No records yet."

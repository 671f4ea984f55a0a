"""What chapters 8 and 9 ask of the records."""

from typing import Any

import pytest

from nbrepro import experiments
from nbrepro.book import affine
from nbrepro.claims.rules import matches
from nbrepro.records.ledger import Record
from nbrepro.spec import Spec


def test_arms_are_runs_of_the_experiment() -> None:
    specs: list[Spec] = experiments.get("affine_parameters").specs("quick", seeds=1)
    named = affine.parts() | affine.starts() | affine.weights() | affine.rates()
    for name, settings in named.items():
        assert sum(matches(spec, settings) for spec in specs) == 1, name


@pytest.mark.parametrize(
    ("experiment", "named", "beside"),
    [
        ("other_networks", affine.others(), 0),
        ("random_weights", affine.larger(), 1),  # scattered weights
    ],
)
def test_networks_are_runs_of_their_experiment(
    experiment: str, named: dict[str, dict[str, Any]], beside: int
) -> None:
    specs = experiments.get(experiment).specs("quick", seeds=1)
    for name, settings in named.items():
        assert sum(matches(spec, settings) for spec in specs) == 1, name
    assert len(specs) == len(named) + beside


def run(spec: Spec, accuracy: float, curve: tuple[float, ...] = ()) -> Record:
    rows = [{"epoch": e, "test_accuracy": y} for e, y in enumerate(curve)]
    return Record(spec, "completed", {"test_accuracy": accuracy}, rows, {})


def test_the_first_epoch_that_is_ahead_is_that_of_the_mean() -> None:
    spec = Spec(model="cifar_resnet14", epochs=2)
    runs = [run(spec, 0.6, (0.1, 0.7, 0.6)), run(spec.replace(seed=1), 0.8, (0.1, 0.1, 0.8))]
    assert affine.accuracy_after(runs, 1) == pytest.approx(0.4)
    assert affine.epochs_to(runs, 0.3) == 1
    assert affine.epochs_to(runs, 0.5) == 2
    with pytest.raises(ValueError, match=r"2 runs is never above 90\.0%"):
        affine.epochs_to(runs, 0.9)


def test_leads_are_over_the_seeds_of_both() -> None:
    spec = Spec(model="cifar_resnet14", train="batchnorm")
    accuracies = {
        "batchnorm": (0.5, 0.6, 0.9),
        "random:2": (0.4, 0.4),
        "random:8": (0.55, 0.65),
    }
    runs = [
        run(spec.replace(train=train, seed=seed), accuracy)
        for train, of_seeds in accuracies.items()
        for seed, accuracy in enumerate(of_seeds)
    ]
    assert affine.random_leads(runs) == pytest.approx({2: 15.0, 8: -5.0})


@pytest.mark.parametrize(
    ("leads", "between", "said"),
    [
        ({2: 9.0, 4: 1.0, 8: -1.0, 16: 1.0}, (4, 8), "cross between 4 and 8 random"),
        ({2: 9.0, 16: 1.0}, (16, None), "do not cross up to 16 random"),
        ({2: -1.0}, (0, 2), "cross below 2 random"),
    ],
)
def test_lines_cross_where_the_lead_ends(
    leads: dict[int, float], between: tuple[int, int | None], said: str
) -> None:
    assert affine.crossing(leads) == between
    assert said in affine.crossing_said(leads)


def test_what_an_arm_gains_once_the_rate_drops() -> None:
    """The mean of five epochs up to the first drop, against the end; arms without runs left out."""
    spec = Spec(model="cifar_resnet14", train="batchnorm", epochs=20)
    accuracies = [0.1] * 6 + [0.30, 0.30, 0.35, 0.40, 0.40] + [0.5] * 10
    curve = [{"epoch": n, "test_accuracy": x} for n, x in enumerate(accuracies)]
    runs = [Record(spec, "completed", {"test_accuracy": 0.5}, curve, {})]
    arms = {"γ and β": affine.AFFINE, "output": {**affine.USUAL, "train": "output"}}
    assert affine.drops(runs, arms) == (
        "- γ and β: 35.0 % before the rate first drops, 50.0 % at the end, **+15.0 points** (n = 1)"
    )

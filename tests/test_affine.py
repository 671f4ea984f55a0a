"""What chapters 8 to 10 ask of the records."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from nbrepro import experiments
from nbrepro.book import affine
from nbrepro.claims.rules import matches
from nbrepro.records.features import Clamp, Features, Layer, Relu, write
from nbrepro.records.ledger import Record
from nbrepro.spec import Spec


def kept(gamma: tuple[float, ...], off: tuple[float, ...]) -> Features:
    return Features(
        "0" * 16,
        (Layer("bn", gamma, (0.0,) * len(gamma)),),
        (Relu("bn", off), Relu("", off[::-1])),
        (Clamp(0.0, 0.0, 0.5), Clamp(0.02, 0.5, 0.4)),
    )


TWO = {
    "BatchNorm only": [kept((0.001, 0.5), (1.0, 0.2)), kept((0.3, 0.5), (0.1, 0.2))],
    "all parameters": [kept((0.2, 0.5), (0.0, 0.0))],
}


def test_tables_average_over_seeds() -> None:
    shares = str(affine.shares_table(TWO).data)
    assert "25.0\u00a0%" in shares
    assert "0.0\u00a0%" in shares
    assert ">5\u00a0%<" in shares, "before training a twentieth of all γ lies below 0.05"
    relus = str(affine.relus_table(TWO).data)
    assert "branch + shortcut" in relus
    assert "stem" in relus
    assert "25 %" in relus
    assert "zero at more than 99 % of places" in relus


def test_mean_leaves_out_what_was_not_measured() -> None:
    assert affine.mean(TWO["BatchNorm only"], lambda one: one.lost(0.5)) == pytest.approx(10)
    assert affine.gammas({affine.LONG: TWO["all parameters"]}) == {
        "batchnorm+whole recipe": [0.2, 0.5]
    }
    assert affine.gammas(TWO)["batchnorm"] == [0.001, 0.5, 0.3, 0.5]
    assert affine.curves(TWO)["all parameters, seed 0"].accuracy(0.02) == 0.4


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


def test_what_switches_channels_off_is_asked_of_runs_that_exist() -> None:
    grids = [experiments.get(name) for name in ("affine_parameters", "what_gamma_learns")]
    specs = {spec.hash: spec for grid in grids for spec in grid.specs("quick", seeds=1)}
    for name, settings in affine.variations().items():
        assert sum(matches(spec, settings) for spec in specs.values()) == 1, name


def test_how_well_beta_is_read_alone_and_in_units_of_gamma(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBREPRO_RESULTS", str(tmp_path))
    spec = Spec(model="cifar_resnet14", train="batchnorm")
    # β / |γ| = -4, -1, 0, 2 puts the shares in order; β = -0.4, -1, 0, 0.2 does not
    layer = Layer("bn", (0.1, -1.0, 1.0, 0.1), (-0.4, -1.0, 0.0, 0.2))
    off = (1.0, 0.8, 0.5, 0.1)
    write(Features(spec.hash, (layer,), (Relu("bn", off), Relu("", off[::-1])), ()), tmp_path)
    runs = {"one": [Record(spec, "completed", {}, [], {})], "nothing kept": []}
    table = str(affine.readings_table(runs).data)
    assert "one (n\u00a0=\u00a01)" in table
    assert ">0.80<" in table
    assert ">1.00<" in table
    assert "nothing kept" not in table
    one = Features(spec.hash, (layer,), (Relu("bn", off),), ())
    assert "0.80 for β alone, 1.00 for β / |γ|" in affine.ranks_said(one)


def test_a_table_of_what_is_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBREPRO_RESULTS", str(tmp_path))
    specs = [Spec(model="cifar_resnet14", train="batchnorm", seed=seed) for seed in (0, 1)]
    for spec, found in zip(specs, TWO["BatchNorm only"], strict=True):
        write(dataclasses.replace(found, hash=spec.hash), tmp_path)
    runs = [Record(spec, "completed", {}, [], {}) for spec in specs]
    table = str(affine.silent_table({"both": runs, "nothing kept": []}).data)
    assert "both (n\u00a0=\u00a02)" in table
    assert ">50.0<" in table, "the accuracy with all γ"
    assert ">25.0<" in table
    assert "nothing kept" not in table
    assert affine.older(runs) == ""
    lost = Record(specs[0].replace(seed=2), "completed", {}, [], {})
    assert affine.older([*runs, lost]).startswith("Of the 3 runs with the whole recipe, 2 kept")


def clamped(gamma: tuple[float, ...], *left: float) -> Features:
    """A network with these γ, and its accuracy without none, a quarter, 40 % and half of them."""
    shares = (0.0, 0.25, 0.4, 0.5)
    steps = (Clamp(x, x, y) for x, y in zip(shares, left, strict=True))
    return dataclasses.replace(kept(gamma, (1.0, 0.2)), clamped=tuple(steps))


def test_sentences_on_small_gamma_have_the_numbers_of_their_networks() -> None:
    some, none = (0.001,) * 2 + (0.5,) * 6, (0.5, 0.6, 0.7, 0.8) * 2
    names = {
        **{name: [clamped(none, 0.5, 0.5, 0.4, 0.3)] for name in affine.variations()},
        "γ and β, as above": [clamped(some, 0.5, 0.49, 0.4, 0.3)],
        "start γ = 1, β = 1": [clamped(none, 0.5, 0.43, 0.4, 0.3)],
        affine.WHOLE: [clamped((0.001, 0.002, 0.5, 0.5) * 2, 0.5, 0.5, 0.4, 0.3)],
    }
    assert "With weight decay 25.0 % of γ end below 0.01, without it 0.0 %" in affine.decay_said(
        names
    )
    said = affine.drives(names)
    assert "Without it 0.0 % of γ end below 0.01, with it 25.0 %" in said
    assert "at its full side, it is 50.0 %" in said
    assert "lose 0.0 and 7.0 points, the one with the paper's start 1.0" in said
    cliff = affine.cliff({"BatchNorm only": names["γ and β, as above"]})
    assert "BatchNorm only 1.0, 10.0, 20.0 points" in cliff
    sizes = affine.sizes_said({"ResNet-56, all parameters": [clamped(none, 0.5, 0.5, 0.4, 0.3)]})
    assert "trained: ResNet-56 0.65. The accuracy: ResNet-56 50.0 %" in sizes


def test_places_with_a_sum_before_the_relu_are_counted_apart() -> None:
    layers = (
        Layer("bn", (0.001, 0.5), (0.0, 0.0)),
        Layer("blocks.0.bn1", (0.001, 0.002), (0.0, 0.0)),
        Layer("blocks.0.bn2", (0.3, 0.5), (0.0, 0.0)),
    )
    relus = (Relu("bn", (1.0, 0.1)), Relu("blocks.0.bn1", (1.0, 1.0)), Relu("", (0.2, 0.1)))
    one = Features("0" * 16, layers, relus, ())
    assert affine.gamma_off(one, direct=True) == 0.75
    assert affine.gamma_off(one, direct=False) == 0
    assert affine.relus_off(one, direct=True) == 0.75
    assert affine.relus_off(one, direct=False) == 0
    cells = re.findall("<td.*?>(.*?)</td>", str(affine.places_table({"one": [one]}).data))
    assert cells[1::2] == ["75 %", "0 %", "50 %", "75 %", "0 %", "50 %"]
    said = affine.places_said("Here", [one])
    assert "Here: 75 % of the ReLUs right behind BatchNorm are off, 0 % of those" in said
    assert "and 50 % of all" in said


def test_a_relu_is_named_by_its_place() -> None:
    from nbrepro import models

    model = models.create("cifar_resnet8")
    names = [name for name, _ in model.named_modules() if name.endswith("bn1")]
    assert [affine._behind(name) for name in names] == [
        f"block {number}, inside" for number in (1, 2, 3)
    ]
    assert affine._behind("bn") == "stem"

"""What chapters 9 and 10 ask of the records."""

import dataclasses
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


def test_mean_leaves_out_what_was_not_measured() -> None:
    assert affine.mean(TWO["BatchNorm only"], lambda one: one.lost(0.5)) == pytest.approx(10)
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


def test_a_table_of_what_is_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBREPRO_RESULTS", str(tmp_path))
    specs = [Spec(model="cifar_resnet14", train="batchnorm", seed=seed) for seed in (0, 1)]
    for spec, found in zip(specs, TWO["BatchNorm only"], strict=True):
        write(dataclasses.replace(found, hash=spec.hash), tmp_path)
    runs = [Record(spec, "completed", {}, [], {}) for spec in specs]
    table = str(affine.silent_table({"both": runs, "nothing kept": []}).data)
    assert "both (n\u00a0=\u00a02)" in table
    assert ">25.0<" in table
    assert "nothing kept" not in table


def test_a_relu_is_named_by_its_place() -> None:
    from nbrepro import models

    model = models.create("cifar_resnet8")
    names = [name for name, _ in model.named_modules() if name.endswith("bn1")]
    assert [affine._behind(name) for name in names] == [
        f"block {number}, inside" for number in (1, 2, 3)
    ]
    assert affine._behind("bn") == "stem"

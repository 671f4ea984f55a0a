"""What chapter 10 reads off trained networks."""

import dataclasses
import re
from pathlib import Path

import pytest

from nbrepro import experiments
from nbrepro.book import figures, gamma
from nbrepro.claims.rules import matches
from nbrepro.records.features import Clamp, Features, Layer, Relu, write
from nbrepro.records.ledger import Record
from nbrepro.spec import Spec


def kept(gammas: tuple[float, ...], off: tuple[float, ...]) -> Features:
    return Features(
        "0" * 16,
        (Layer("bn", gammas, (0.0,) * len(gammas)),),
        (Relu("bn", off), Relu("", off[::-1])),
        (Clamp(0.0, 0.0, 0.5), Clamp(0.02, 0.5, 0.4)),
    )


TWO = {
    "BatchNorm only": [kept((0.001, 0.5), (1.0, 0.2)), kept((0.3, 0.5), (0.1, 0.2))],
    "all parameters": [kept((0.2, 0.5), (0.0, 0.0))],
}


def test_tables_average_over_seeds() -> None:
    shares = str(gamma.shares_table(TWO).data)
    assert "25.0\u00a0%" in shares
    assert "0.0\u00a0%" in shares
    assert ">5\u00a0%<" in shares, "before training a twentieth of all γ lies below 0.05"
    relus = str(gamma.relus_table(TWO).data)
    assert "branch + shortcut" in relus
    assert "1: stem" in relus
    assert "25 %" in relus
    assert "zero at more than 99 % of places" in relus


def test_mean_leaves_out_what_was_not_measured() -> None:
    assert gamma.mean(TWO["BatchNorm only"], lambda one: one.lost(0.5)) == pytest.approx(10)
    assert gamma.gammas(TWO)["batchnorm"] == [(0.001, 0.5), (0.3, 0.5)]
    assert gamma.curves(TWO)["all parameters, seed 0"].accuracy(0.02) == 0.4


def test_histograms_and_tables_call_the_whole_recipe_the_same() -> None:
    found = gamma.gammas({gamma.LONG: TWO["all parameters"]})
    assert [*found.values()] == [[(0.2, 0.5)]]
    assert f"{gamma.LONG}: 1 network, 2 γ" in figures.gammas(found).alt


def test_what_switches_channels_off_is_asked_of_runs_that_exist() -> None:
    grids = [experiments.get(name) for name in ("affine_parameters", "what_gamma_learns")]
    specs = {spec.hash: spec for grid in grids for spec in grid.specs("quick", seeds=1)}
    for name, settings in gamma.variations().items():
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
    table = str(gamma.readings_table(runs).data)
    assert "one (n\u00a0=\u00a01)" in table
    assert ">0.80<" in table
    assert ">1.00<" in table
    assert "nothing kept" not in table
    one = Features(spec.hash, (layer,), (Relu("bn", off),), ())
    assert "0.80 for −β alone, 1.00 for −β / |γ|" in gamma.ranks_said(one)


def test_a_table_of_what_is_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBREPRO_RESULTS", str(tmp_path))
    specs = [Spec(model="cifar_resnet14", train="batchnorm", seed=seed) for seed in (0, 1)]
    for spec, found in zip(specs, TWO["BatchNorm only"], strict=True):
        write(dataclasses.replace(found, hash=spec.hash), tmp_path)
    runs = [Record(spec, "completed", {}, [], {}) for spec in specs]
    table = str(gamma.silent_table({"both": runs, "nothing kept": []}).data)
    assert "both (n\u00a0=\u00a02)" in table
    assert ">50.0<" in table, "the accuracy with all γ"
    assert ">25.0<" in table
    assert "nothing kept" not in table
    assert gamma.older(runs) == ""
    lost = [Record(specs[0].replace(seed=seed), "completed", {}, [], {}) for seed in (2, 3)]
    said = gamma.older([*runs, lost[0]])
    assert said.startswith("Of the 3 runs with the whole recipe, 2 kept")
    assert "; the other is older than these files." in said
    assert "2 kept their γ; the others are older" in gamma.older([*runs, *lost])


def clamped(gammas: tuple[float, ...], *left: float) -> Features:
    """A network with these γ, and its accuracy without none, a quarter, 40 % and half of them."""
    shares = (0.0, 0.25, 0.4, 0.5)
    steps = (Clamp(x, x, y) for x, y in zip(shares, left, strict=True))
    return dataclasses.replace(kept(gammas, (1.0, 0.2)), clamped=tuple(steps))


def test_sentences_on_small_gamma_have_the_numbers_of_their_networks() -> None:
    some, none = (0.001,) * 2 + (0.5,) * 6, (0.5, 0.6, 0.7, 0.8) * 2
    names = {
        **{name: [clamped(none, 0.5, 0.5, 0.4, 0.3)] for name in gamma.variations()},
        "γ and β, as above": [clamped(some, 0.5, 0.49, 0.4, 0.3)],
        "start γ = 1, β = 1": [clamped(none, 0.5, 0.43, 0.4, 0.3)],
        gamma.WHOLE: [clamped((0.001, 0.002, 0.5, 0.5) * 2, 0.5, 0.5, 0.4, 0.3)],
    }
    said = gamma.drives(names)
    assert "1 % lie below 0.01. Trained without decay, 0.0 % end there, with it 25.0 %" in said
    assert "at its full side, it is 50.0 % instead of 25.0 %" in said
    assert "lose 0.0 and 7.0 points, the one with the paper's start 1.0" in said
    cliff = gamma.cliff({"BatchNorm only": names["γ and β, as above"]})
    assert "BatchNorm only 1.0 for a quarter of the channels, 10.0 for 40 %, 20.0 for half" in cliff
    sizes = gamma.sizes_said({"ResNet-56, all parameters": [clamped(none, 0.5, 0.5, 0.4, 0.3)]})
    assert "trained: ResNet-56 0.65. The accuracy: ResNet-56 50.0 %" in sizes


def test_what_sentences_conclude_depends_on_their_numbers() -> None:
    gammas = (0.5, 0.6, 0.7, 0.8) * 2
    alike = [clamped(gammas, 0.5, 0.5, 0.4, 0.3)]
    names = {name: alike for name in (*gamma.variations(), gamma.WHOLE)}
    assert "another start" not in gamma.drives(names)
    lossy = [clamped(gammas, 0.5, 0.4, 0.4, 0.3)]
    on = [dataclasses.replace(alike[0], relus=(Relu("bn", (0.0, 0.2)), Relu("", (0.2, 0.0))))]
    for start, what in ((lossy, "small γ"), (on, "ReLUs")):
        said = gamma.drives({**names, "start γ = 1, β = 1": start})
        assert said.endswith(f"what this page says of {what} need not hold for another start.")

    depends = "depends on which of them are called small"
    assert depends in gamma.cliff({"one": alike})
    assert depends not in gamma.cliff({"one": alike, "lossy": lossy})
    assert depends not in gamma.cliff({"one": [clamped(gammas, 0.5, 0.5, 0.5, 0.49)]})
    assert "gain" not in gamma.cliff({"one": alike})
    better = gamma.cliff({"one": [clamped(gammas, 0.5, 0.51, 0.4, 0.3)]})
    assert "(negative: a gain): one -1.0 for a quarter" in better
    assert "-0.0" not in gamma.cliff({"one": [clamped(gammas, 0.5, 0.5001, 0.4, 0.3)]})

    deep = [clamped(gammas, 0.4, 0.4, 0.4, 0.3)]
    shallow = {"ResNet-14, all parameters": alike, "ResNet-14 ×2, all parameters": deep}
    assert "behind" not in gamma.sizes_said(shallow), "a wide network is no deep one"
    said = gamma.sizes_said({**shallow, "ResNet-56, all parameters": deep})
    assert "ResNet-56 is deeper than ResNet-14 and yet behind it: it has probably not" in said
    assert "behind" not in gamma.sizes_said({**shallow, "ResNet-56, all parameters": alike})


def test_places_with_a_sum_before_the_relu_are_counted_apart() -> None:
    layers = (
        Layer("bn", (0.001, 0.5), (0.0, 0.0)),
        Layer("blocks.0.bn1", (0.001, 0.002), (0.0, 0.0)),
        Layer("blocks.0.bn2", (0.3, 0.5), (0.0, 0.0)),
    )
    relus = (Relu("bn", (1.0, 0.1)), Relu("blocks.0.bn1", (1.0, 1.0)), Relu("", (0.2, 0.1)))
    one = Features("0" * 16, layers, relus, ())
    assert gamma.gamma_off(one, direct=True) == 0.75
    assert gamma.gamma_off(one, direct=False) == 0
    assert gamma.relus_off(one, direct=True) == 0.75
    assert gamma.relus_off(one, direct=False) == 0
    cells = re.findall("<td.*?>(.*?)</td>", str(gamma.places_table({"one": [one]}).data))
    assert cells[1::2] == ["75 %", "0 %", "50 %", "75 %", "0 %", "50 %"]
    said = gamma.places_said("Here", [one])
    assert "Here: 75 % of the ReLUs right behind BatchNorm are off, 0 % of those" in said
    assert "and 50 % of all" in said


def test_a_relu_is_named_by_its_place() -> None:
    from nbrepro import models

    model = models.create("cifar_resnet8")
    names = [name for name, _ in model.named_modules() if name.endswith("bn1")]
    assert [gamma._behind(name) for name in names] == [
        f"block {number}, inside" for number in (1, 2, 3)
    ]
    assert gamma._behind("bn") == "stem"

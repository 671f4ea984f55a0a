"""What chapters 9 and 10 ask of the records."""

import pytest

from nbrepro.book import affine
from nbrepro.records.features import Clamp, Features, Layer, Relu
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
    assert "25.0 %" in shares
    assert "0.0 %" in shares
    relus = str(affine.relus_table(TWO).data)
    assert "branch + shortcut" in relus
    assert "25 %" in relus


def test_mean_leaves_out_what_was_not_measured() -> None:
    assert affine.mean(TWO["BatchNorm only"], lambda one: one.lost(0.5)) == pytest.approx(10)
    assert affine.gammas(TWO)["BatchNorm only"] == [0.001, 0.5, 0.3, 0.5]
    assert affine.curves(TWO)["all parameters, seed 0"].accuracy(0.02) == 0.4


def test_arms_are_runs_of_the_experiment() -> None:
    from nbrepro import experiments
    from nbrepro.claims.verdicts import matches

    specs: list[Spec] = experiments.get("affine_parameters").specs("quick", seeds=1)
    for name, settings in (affine.parts() | affine.starts()).items():
        assert sum(matches(spec, settings) for spec in specs) == 1, name

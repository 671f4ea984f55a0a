"""What chapter 1 measures live, and how it sorts its runs."""

from typing import Any

import numpy as np
import pytest

from nbrepro import experiments
from nbrepro.book import basics, figures
from nbrepro.claims.rules import matches
from nbrepro.experiments import depth
from nbrepro.records.ledger import Record
from nbrepro.spec import Spec

GRID = experiments.get("depth").specs("quick", seeds=2)


def ended(spec: Spec, accuracy: float = 0.5) -> Record:
    row = {"test_accuracy": accuracy, "test_top5": 0.9}
    return Record(spec, "completed", row, [row | {"test_accuracy": 0.1}], {})


def heights(line: Any) -> list[float]:
    return [float(y) for y in np.asarray(line.get_ydata())]


RECORDS = [ended(spec) for spec in GRID]


def test_a_branch_behind_batchnorm_has_the_predicted_share() -> None:
    shares = basics.branch_shares(blocks=25)
    assert len(shares) == 25
    for block, share in enumerate(shares, 1):
        assert share * (block + 1) == pytest.approx(1, abs=0.15)
    assert shares[0] > 10 * shares[-1]


def test_the_plain_signal_nearly_doubles_with_every_block() -> None:
    behind = basics.plain_signal(depth=20)
    assert len(behind) == 9
    seconds = [row["variance"] + row["squared_mean"] for row in behind]
    assert 1.5 < (seconds[-1] / seconds[0]) ** (1 / 8) < 2.2
    assert behind[-1]["variance"] < seconds[-1] / 2, "most of it is mean"


def test_runs_are_sorted_by_kind_and_depth_and_those_of_other_lengths_left_out() -> None:
    found = basics.by_depth(RECORDS)
    assert list(found) == list(depth.NETWORKS)
    for by in found.values():
        assert list(by) == sorted(depth.DEPTHS)
        assert all(len(runs) == 2 for runs in by.values()), "two seeds, and no smaller rate"
    shown = {run.spec.hash for by in found.values() for runs in by.values() for run in runs}
    left = [spec for spec in GRID if spec.hash not in shown]
    assert {spec.lr for spec in left if spec.epochs == 2} == set(depth.SMALLER_RATES)
    assert basics.by_depth([]) == {}


def test_every_run_of_the_experiment_is_in_one_figure_of_the_page() -> None:
    arms = {**basics.at_smaller_rates(), **basics.rivals()}
    rates = [arm for arm in basics.at_smaller_rates().values() if "plain" in arm["model"]]
    assert {arm["lr"] for arm in rates} == {depth.SHORT["lr"], *depth.SMALLER_RATES}
    by_depth = basics.by_depth(RECORDS)
    shown = {run.spec.hash for by in by_depth.values() for runs in by.values() for run in runs}
    for spec in GRID:
        in_arms = sum(matches(spec, arm) for arm in arms.values())
        assert in_arms <= 1, spec
        assert in_arms or spec.hash in shown, spec


def test_the_plain_network_is_compared_at_equal_settings() -> None:
    """Arms of a depth differ in the network alone, so the seeds of a pair share all else."""
    short = [spec for spec in GRID if matches(spec, depth.SHORT) and spec.seed == 0]
    assert len(short) == len(depth.NETWORKS) * len(depth.DEPTHS)
    assert len({spec.replace(model="cifar_nf_resnet8") for spec in short}) == 1


def test_depths_are_drawn_with_their_failures_and_told() -> None:
    runs = {
        "BatchNorm": {8: [ended(GRID[0], 0.4)], 56: [ended(GRID[0], 0.3)]},
        "plain": {8: [ended(GRID[0], 0.35)], 56: [ended(GRID[0], 0.11)]},
    }
    figure = figures.by_number(runs, "layers")
    (axis,) = figure.axes
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["8", "56"]
    crosses = [line for line in axis.lines if line.get_marker() == "x" and heights(line)]
    assert [heights(line) for line in crosses] == [[11.0]]
    assert "plain: 8: 35.0, 56: 0 of 1 survive" in figure.alt
    assert "crosses: failed" in figure.note
    assert "No records yet" in figures.by_number({}, "layers").alt


def test_the_prediction_is_drawn_alone_and_again_under_what_was_measured() -> None:
    figure = figures.branch_shares([0.5, 1 / 3], {"BatchNorm": [0.51, 0.3]})
    first, second = figure.axes
    assert [heights(line) for line in first.lines] == [[0.5, 1 / 3]]
    assert [heights(line) for line in second.lines] == [[0.5, 1 / 3], [0.51, 0.3]]
    assert first.get_ylim() == second.get_ylim()
    assert "predicted: 0.5 to 0.33; BatchNorm: 0.51 to 0.3." in figure.alt

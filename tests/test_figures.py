"""Figures say what the records say."""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle, StepPatch
from matplotlib.text import Annotation

from nbrepro import experiments
from nbrepro.book import captions, figures, style
from nbrepro.book.figures import Chart
from nbrepro.book.figures.chart import drawing, powers_of_ten
from nbrepro.book.figures.measured import slower
from nbrepro.book.figures.runs import Ends
from nbrepro.claims import register
from nbrepro.claims.nfnets.smoothness import Along
from nbrepro.claims.tables import printed
from nbrepro.records.features import Channel, Clamp, Features
from nbrepro.records.ledger import Record
from nbrepro.records.timings import Benchmark
from nbrepro.spec import Spec

#: What is trained, as a page may call it.
OWN = {"batchnorm": "γ and β", "all": "everything"}
ARMS = {
    "BatchNorm": {"model": "bn_cifar_nf_resnet20", "batch_size": 256},
    "no clipping": {"model": "cifar_nf_resnet20", "clip": "none", "batch_size": 256,
                    "optimizer": "nesterov"},
    "never run": {"model": "cifar_nf_resnet20", "lr": 100.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def records() -> list[Record]:
    made = []
    for spec in experiments.get("adaptive_gradient_clipping").specs("quick", seeds=2):
        plain = spec.clip == "none" and not spec.model.startswith("bn_")
        diverged = spec.lr > 6 and plain
        accuracy = 0.1 if diverged else 0.4 + 0.01 * spec.seed
        row = {"test_accuracy": accuracy, "test_top5": 0.9, "epoch": 1}
        status = "diverged" if diverged else "completed"
        curve = [row | {"test_accuracy": 0.1, "epoch": 0}, row]
        made.append(Record(spec, status, row, curve, {}))
    return made


def xs(line: Line2D) -> list[float]:
    return np.asarray(line.get_xdata(), float).tolist()


def ys(line: Line2D) -> list[float]:
    return np.asarray(line.get_ydata(), float).tolist()


def texts(figure: Chart) -> str:
    """All that is written in a figure."""
    ticks = [t for axis in figure.axes for t in [*axis.get_yticklabels(), *axis.get_xticklabels()]]
    notes = [text for axis in figure.axes for text in axis.texts]
    return " | ".join(text.get_text() for text in [*ticks, *notes])


def marked(figure: Figure, marker: str) -> list[Line2D]:
    return [line for axis in figure.axes for line in axis.lines if line.get_marker() == marker]


def labelled(figure: Figure, label: str) -> Line2D:
    (line,) = [li for axis in figure.axes for li in axis.lines if li.get_label() == label]
    return line


def test_dots_show_every_seed_and_say_how_many(records: list[Record]) -> None:
    rates = {f"rate {lr}": ARMS["BatchNorm"] | {"lr": lr} for lr in (0.4, 1.6)}
    figure = figures.dots(records, rates | {"never run": ARMS["never run"]})
    assert "rate 0.4 (n = 2)" in texts(figure)
    assert "40.5 [34.1, 46.9]" in texts(figure), "Student's interval of two seeds"
    assert "never run" not in texts(figure) + figure.alt
    assert "cifar10-16px, 6 epochs, n = 2 seeds" in figure.note
    assert figure.alt.count("40.5 [34.1, 46.9]") == 2, "every row is told"
    shown = [x for line in marked(figure, "o") for x in xs(line)]
    assert sorted(shown) == pytest.approx([40.0, 40.0, 41.0, 41.0])


def test_no_interval_reaches_beyond_what_a_percentage_can_be() -> None:
    assert str(Ends((99.0, 100.0))) == "99.5 [93.1, 100.0]"
    assert str(Ends((0.0, 1.0))) == "0.5 [0.0, 6.9]"
    assert Ends((99.0, 100.0)).interval[1] > 100, "what is computed stays as it is"


def test_failed_runs_are_crosses_and_in_no_mean() -> None:
    ends = [0.6, 0.5, 0.1, 0.15]  # the last one did not diverge, but is below twice chance
    runs = [
        ended(Spec(model="cifar_resnet14", seed=seed), accuracy=end, diverged=end == 0.1)
        for seed, end in enumerate(ends)
    ]
    figure = figures.dots(runs, {"four": {}})
    assert [xs(line) for line in marked(figure, "x")] == [[10.0, 15.0]]
    assert [xs(line) for line in marked(figure, "|")] == [[55.0]]
    assert "2 of 4 survive: 55.0" in texts(figure)
    assert "[" not in texts(figure), "no interval covers a mixture"
    assert "2 of 4 survive: 55.0" in figure.alt
    assert "crosses: failed" in figure.note


def test_a_part_of_a_network_may_be_near_chance_without_having_failed() -> None:
    runs = [
        ended(Spec(model="cifar_resnet14", train="output", seed=s), accuracy=0.15) for s in (0, 1)
    ]
    figure = figures.accuracy(runs)
    assert "14: 15.0" in figure.alt
    assert not any(len(xs(line)) for line in marked(figure, "x"))


def test_a_sweep_goes_through_the_means(records: list[Record]) -> None:
    figure = figures.sweep(records, ARMS, by="lr", label="rate")
    line = labelled(figure, "BatchNorm")
    assert xs(line) == [0.4, 1.6, 6.4]
    assert ys(line) == pytest.approx([40.5] * 3)
    (axis,) = figure.axes
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0.4", "1.6", "6.4"]
    assert "n = 2 seeds" in figure.note
    assert "BatchNorm: 0.4: 40.5 [34.1, 46.9], 1.6:" in figure.alt


def test_a_sweep_counts_failures_and_marks_the_mean_of_the_survivors() -> None:
    runs = [
        ended(
            Spec(model="cifar_resnet14", lr=lr, seed=seed), accuracy=0.1 if lr * seed > 2 else 0.5
        )
        for lr in (0.5, 1.0)
        for seed in (0, 1, 2, 3)
    ]
    figure = figures.sweep(runs, {"all": {}}, by="lr")
    assert "1/4 fail" in texts(figure)
    assert "2/4 fail" not in texts(figure), "rate 0.5 fails nowhere"
    (count,) = (text for text in figure.axes[0].texts if text.get_text() == "1/4 fail")
    assert isinstance(count, Annotation)
    assert count.xy == (1.0, 50.0), "above the survivors, not on them"
    hollow = [li for li in marked(figure, "s") if li.get_markerfacecolor() == style.GROUND]
    assert [(xs(line), ys(line)) for line in hollow] == [([1.0], [50.0])]
    (axis,) = figure.axes
    assert axis.get_ylim()[1] > 50, "the axis reaches what is drawn beside its place"
    assert "hollow: mean of the survivors" in figure.note


def test_a_level_is_drawn_at_the_mean_of_its_runs(records: list[Record]) -> None:
    levels = {"without": ARMS["no clipping"] | {"lr": 0.4}, "never run": ARMS["never run"]}
    figure = figures.sweep(records, {"all": ARMS["BatchNorm"]}, by="lr", levels=levels)
    line = labelled(figure, "without (40.5 [34.1, 46.9])")
    assert ys(line) == pytest.approx([40.5, 40.5])
    assert "never run" not in figure.alt
    assert "without (40.5 [34.1, 46.9])" in figure.alt


def test_survival_is_counted_by_arm_and_rate(records: list[Record]) -> None:
    figure = figures.survival(records, {name: ARMS[name] for name in ("BatchNorm", "no clipping")})
    (axis,) = figure.axes
    counts = [text.get_text() for text in axis.texts if " of " in text.get_text()]
    assert counts == ["2 of 2"] * 3 + ["2 of 2", "2 of 2", "0 of 2"]
    assert "no clipping: 2 of 2 at 0.4, 2 of 2 at 1.6, 0 of 2 at 6.4" in figure.alt


def test_a_method_has_one_colour_in_every_figure(records: list[Record]) -> None:
    def colours(arms: figures.Arms) -> dict[str, object]:
        (axis,) = figures.sweep(records, arms, by="lr").axes
        return {str(line.get_label()): line.get_color() for line in axis.lines}

    arms = {name: ARMS[name] for name in ("BatchNorm", "no clipping")}
    both, reverse = colours(arms), colours(dict(reversed(arms.items())))
    alone = colours({"no clipping": ARMS["no clipping"]})
    assert both["no clipping"] == reverse["no clipping"] == alone["no clipping"]
    assert both["BatchNorm"] == reverse["BatchNorm"] != both["no clipping"]


# --- records of other policies, other data, other ends ---


def trained(*policies: str, models: tuple[str, ...] = ("cifar_resnet14",)) -> list[Record]:
    return [ended(Spec(model=m, train=p, seed=s)) for m in models for p in policies for s in (0, 1)]


def ended(
    spec: Spec, status: str = "completed", accuracy: float = 0.5, diverged: bool = False
) -> Record:
    row = {"test_accuracy": accuracy, "test_top5": 0.9, "epoch": 1, "train_accuracy": 0.6}
    curve = [row | {"test_accuracy": 0.1, "epoch": 0}, row]
    if status == "failed":
        row, curve = {}, []
    provenance = {"device": "a GPU", "precision": "bfloat16", "commit": "c0ffee", "seconds": 1.5}
    return Record(spec, "diverged" if diverged else status, row, curve, provenance)


def names(figure: Figure) -> list[str]:
    """Labels of the lines of all panels, each once."""
    labels = [label for axis in figure.axes for label in axis.get_legend_handles_labels()[1]]
    return list(dict.fromkeys(labels))


@pytest.mark.parametrize("draw", [figures.accuracy, figures.curves])
def test_every_policy_in_the_records_is_drawn(draw: Callable[..., Chart]) -> None:
    figure = draw(trained("gamma", "beta", "random:2", "batchnorm", models=("cifar_resnet14",)))
    policies = ["BatchNorm only", "β only", "γ only", "2 random weights per channel only"]
    assert names(figure) == policies
    lines = [labelled(figure, policy) for policy in policies]
    assert len({str(line.get_color()) for line in lines}) == 4
    assert len({str(line.get_marker()) for line in lines}) == 4
    assert all(policy in figure.alt for policy in policies)


def test_the_width_panel_is_that_of_the_depth_with_most_widths() -> None:
    wide = ("cifar_resnet20", "cifar_resnet20x2", "cifar_resnet20x4", "cifar_resnet14")
    depth, width = figures.accuracy(trained("all", models=wide)).axes
    assert [tick.get_text() for tick in depth.get_xticklabels()] == ["14", "20"]
    assert [tick.get_text() for tick in width.get_xticklabels()] == ["×1", "×2", "×4"]
    assert width.get_xlabel() == "width (ResNet-20)"
    assert len(figures.accuracy(trained("all")).axes) == 1


def test_published_accuracies_are_hollow_and_of_the_networks_shown_alone() -> None:
    runs = [record for model in ("cifar_resnet14", "cifar_resnet32", "cifar_resnet14x2")
            for record in trained("batchnorm", "gamma", models=(model,))]  # fmt: skip
    published = {
        "batchnorm": {"cifar_resnet14": 47.9, "cifar_resnet32": float("nan"), "cifar_resnet56": 63},
        "all": {"cifar_resnet14": 90.5},
    }

    def hollow(figure: Figure) -> list[tuple[float, float]]:
        return [
            (x, y)
            for axis in figure.axes
            for line in axis.lines
            if line.get_marker() == "D" and line.get_markerfacecolor() == "none"
            for x, y in zip(xs(line), ys(line), strict=True)
            if y == y  # what the paper's figure hides is not a number
        ]

    figure = figures.accuracy(runs, published)
    assert hollow(figure) == [(14, 47.9), (1, 47.9)]  # by depth and by width
    assert names(figure).count("paper (v1, read off its figure, ±0.4)") == 1
    assert "the paper 14: 47.9" in figure.alt
    assert hollow(figures.accuracy(runs)) == []
    assert "shortened" not in figure.note
    short = [ended(record.spec.replace(epochs=8)) for record in runs]
    note = figures.accuracy(short, published).note
    assert note.startswith("ours: a shortened recipe, cifar10, 8 epochs")
    assert note.endswith("the paper: 160 epochs")


def test_runs_with_the_whole_recipe_are_stars() -> None:
    spec = Spec(model="cifar_resnet14", train="batchnorm", epochs=8)
    short = [
        ended(spec.replace(model=m), accuracy=0.4) for m in ("cifar_resnet14", "cifar_resnet32")
    ]
    whole = [ended(spec.replace(epochs=160, seed=s), accuracy=0.5 + s / 10) for s in (0, 1)]
    figure = figures.accuracy(
        short, whole=[*whole, ended(spec.replace(train="output"), accuracy=0.9)]
    )
    (star,) = (line for line in marked(figure, "*") if len(xs(line)))
    assert xs(star) == [14]
    assert ys(star) == pytest.approx([55])
    assert "BatchNorm only, the paper's recipe: 14: 55.0" in figure.alt
    assert "ours, the paper's recipe" in names(figure)


def test_the_paper_s_figure_is_known_by_policy_and_network() -> None:
    found = figures.figure_v1()
    assert found["batchnorm"]["cifar_resnet14"] == 47.9
    assert {record.spec.train for record in trained(*found)} == set(found)
    assert found["all"].keys() == found["batchnorm"].keys()


def test_networks_of_two_families_are_no_line() -> None:
    families = ("cifar_resnet20", "bn_cifar_nf_resnet20")
    with pytest.raises(ValueError, match="bn_cifar_nf_resnet, cifar_resnet"):
        figures.accuracy(trained("all", models=families))


def test_runs_of_several_recipes_have_no_mean() -> None:
    """Eight epochs and 160 are no replicates, wherever they meet."""
    spec = Spec(model="cifar_resnet14", train="batchnorm")
    mixed = [ended(spec), ended(spec.replace(epochs=8, seed=1))]
    for draw in (figures.accuracy, figures.equal_parameters):
        with pytest.raises(ValueError, match="no replicates, they differ in epochs;"):
            draw(mixed)


def dotted(figure: Figure) -> list[float]:
    """Where chance is drawn, in percent."""
    levels = [
        ys(line)[0] for axis in figure.axes for line in axis.lines if line.get_linestyle() == ":"
    ]
    for axis in figure.axes:
        for lines in axis.collections:
            if isinstance(lines, LineCollection):
                levels += [float(np.asarray(segment)[0, 0]) for segment in lines.get_segments()]
    return levels


@pytest.mark.parametrize(("dataset", "chance"), [("cifar10-jpeg-16px", 10), ("cifar100", 1)])
def test_chance_is_that_of_the_data(dataset: str, chance: float) -> None:
    spec = Spec(model="cifar_resnet14", dataset=dataset)
    runs = [ended(spec), ended(spec.replace(seed=1), accuracy=0.001)]
    assert dotted(figures.dots(runs, {"all": {}})) == [chance]
    assert f"dotted: chance, {chance} %" in figures.dots(runs, {"all": {}}).note
    for figure in (figures.accuracy(runs), figures.curves(runs)):
        assert dotted(figure) == [chance]
        assert "chance" in texts(figure)


def test_chance_is_not_drawn_where_it_is_unknown() -> None:
    runs = [ended(Spec(model="cifar_resnet14", dataset="birds"))]
    for figure in (figures.accuracy(runs), figures.dots(runs, {"all": {}}), figures.curves(runs)):
        assert dotted(figure) == []
        assert "chance" not in texts(figure) + figure.note


def test_a_frame_keeps_provenance_and_survives_failed_runs() -> None:
    spec = Spec(model="cifar_resnet14x2", precision="auto")
    table = figures.frame([ended(spec), ended(spec.replace(seed=1), "failed")])
    assert list(table["status"]) == ["completed", "failed"]
    assert table["accuracy"].iloc[0] == 50
    assert table[["accuracy", "top5", "untrained"]].iloc[1].isna().all()
    row = table.iloc[0]
    assert (row["depth"], row["width"], row["hash"]) == (14, 2, spec.hash)
    assert (row["precision"], row["ran_in"]) == ("auto", "bfloat16")
    assert (row["device"], row["commit"], row["seconds"]) == ("a GPU", "c0ffee", 1.5)
    assert list(figures.frame([]).columns) == list(table.columns)


def test_runs_that_broke_off_are_in_no_figure() -> None:
    runs = [*trained("all"), ended(Spec(model="cifar_resnet14", seed=2), "failed")]
    assert "(n = 2)" in texts(figures.dots(runs, {"all": {"train": "all"}}))
    for figure in (figures.accuracy(runs), figures.curves(runs)):
        assert "n = 2 seeds" in figure.note


# --- curves ---


def test_curves_show_another_metric_in_panels_of_arms(records: list[Record]) -> None:
    for record in records[:4]:
        record.curve[-1]["clipped"] = 0.25
    figure = figures.curves(records, {"": {"all": {}}}, metric="clipped")
    (axis,) = figure.axes
    assert axis.get_ylabel() == "share clipped, %"
    assert {y for line in axis.lines for y in ys(line)} == {25.0}


def test_a_curve_is_the_mean_of_the_same_runs_at_every_epoch() -> None:
    """A mean over whoever is left would rise as runs fail."""
    spec = Spec(model="cifar_resnet14", epochs=4)
    ends = {0: [10, 40, 60, 80, 90], 1: [10, 20, 40, 60, 70], 2: [10, 30]}
    runs = []
    for seed, heights in ends.items():
        run = ended(spec.replace(seed=seed), accuracy=heights[-1] / 100, diverged=len(heights) < 5)
        curve = [{"epoch": e, "test_accuracy": h / 100} for e, h in enumerate(heights)]
        runs.append(replace(run, curve=curve))
    figure = figures.curves(runs, {"one rate": {"ours": {}}})
    mean = labelled(figure, "ours")
    assert ys(mean) == pytest.approx([10, 30, 50, 70, 80])
    (cross,) = marked(figure, "x")
    assert (xs(cross), ys(cross)) == ([1], [30])
    assert "ours: 2 of 3 survive" in texts(figure)
    assert "one rate: ours: 2 of 3 survive: 80.0" in figure.alt


def test_panels_of_curves_have_their_own_title_and_the_same_height() -> None:
    low, high = (ended(Spec(model="cifar_resnet14", lr=lr), accuracy=lr) for lr in (0.3, 0.9))
    arms = {f"rate {lr}": {"all": {"lr": lr}} for lr in (0.3, 0.9)}
    figure = figures.curves([low, high], arms)
    assert [axis.get_title(loc="left") for axis in figure.axes] == [*arms]
    first, second = (axis.get_ylim() for axis in figure.axes)
    assert first == second
    assert first[0] == 0
    assert len(figure.subfigs) == 2, "pages stack them"


def test_the_register_and_the_table_have_the_same_curve() -> None:
    """Where the register has a range, the table has its middle."""
    quoted = register()["ACC-27"].quoted[0].value
    ranges = re.findall(r"(\d+) to (\d+)", quoted)
    told = {float(number) for number in re.findall(r"\d+\.?\d*", quoted)}
    told |= {(float(low) + float(high)) / 2 for low, high in ranges}
    curve = printed("bn_only")["curve_v1"].rows["cifar_resnet110"]
    assert {*curve.values()} <= told
    assert {float(epoch) for epoch in [*curve][:3]} <= told, "the epochs before the drops"


# --- training only BatchNorm ---


def test_equal_parameters_puts_networks_at_what_they_train() -> None:
    networks = ("cifar_resnet14", "cifar_resnet32", "cifar_resnet14x2")
    runs = trained("batchnorm", "all", models=networks)
    published = {"cifar_resnet14": 47.9, "cifar_resnet56": 63.0, "cifar_resnet866": float("nan")}
    figure = figures.equal_parameters(runs, published)
    assert xs(labelled(figure, "BatchNorm only, deeper")) == [1120, 2464]
    assert xs(labelled(figure, "BatchNorm only, wider")) == [1120, 2240]
    deeper, wider = (line for line in marked(figure, "D") if line.get_linestyle() == "None"
                     and len(xs(line)))  # fmt: skip
    assert (xs(deeper), ys(deeper)) == ([1120, 4256], [47.9, 63.0])
    assert (xs(wider), ys(wider)) == ([1120], [47.9])
    assert "deeper, ResNet-32, 2,464 parameters: 50.0" in figure.alt
    assert "the paper, deeper, 4,256 parameters: 63" in figure.alt


def test_stored_bytes_of_each_policy() -> None:
    runs = trained("batchnorm", "all", models=("cifar_resnet14", "cifar_resnet32"))
    sizes = {
        ("cifar_resnet14", "batchnorm"): 16_000,
        ("cifar_resnet32", "batchnorm"): 30_000,
        ("cifar_resnet14", "all"): 700_000,
        ("cifar_resnet32", "all"): 2**20,
    }
    figure = figures.stored(
        {"one task": runs, "none": []}, lambda spec: sizes[spec.model, spec.train], OWN
    )
    assert len(figure.axes) == 1
    assert xs(labelled(figure, "γ and β")) == [16, 30]
    assert xs(labelled(figure, "everything")) == [700, 1048.576]
    assert "100" in texts(figure)
    assert "one task, γ and β, ResNet-32, 30.0 kB: 50.0" in figure.alt


def test_tasks_keep_their_intervals_apart() -> None:
    """Two tasks of different difficulty are not ten runs of one."""
    easy, hard = (
        [
            ended(Spec(model="cifar_resnet14", seed=seed), accuracy=mean + seed / 100)
            for seed in (0, 1)
        ]
        for mean in (0.8, 0.4)
    )
    figure = figures.stored({"easy": easy, "hard": hard}, lambda spec: 1000, OWN)
    alt = figure.alt
    assert "easy, everything, ResNet-14, 1.0 kB: 80.5 [74.1, 86.9]" in alt
    assert "hard, everything, ResNet-14, 1.0 kB: 40.5 [34.1, 46.9]" in alt
    first, second = (axis.get_ylim() for axis in figure.axes)
    assert first == second
    assert first[0] == 0


def test_a_sweep_of_k_has_a_band_for_gamma_and_beta() -> None:
    spec = Spec(model="cifar_resnet14")
    runs = [
        ended(spec.replace(train=train, seed=seed), accuracy=accuracy + 0.02 * seed)
        for train, accuracy in (("random:1", 0.2), ("random:4", 0.3), ("batchnorm", 0.5))
        for seed in (0, 1)
    ]
    faster = [run.spec.replace(lr=0.3) for run in runs if run.spec.train == "batchnorm"]
    others = [ended(spec, accuracy=0.9) for spec in faster]
    figure = figures.k_sweep(runs + others, {"lr": 0.1})
    line = labelled(figure, "ResNet-14, k random weights")
    assert xs(line) == [1, 4]
    assert ys(line) == pytest.approx([21, 31])
    band = labelled(figure, "ResNet-14, γ and β")
    assert ys(band) == pytest.approx([51, 51])
    assert "ResNet-14, γ and β: 51.0 [38.3, 63.7]" in figure.alt


def test_histograms_say_how_many_gamma_are_small() -> None:
    figure = figures.gammas(
        {"batchnorm, longer": [[0.001, -0.002], [0.5, 1.0]], "all": [[0.5, 0.5, 7.0]]}
    )
    first, second = figure.axes
    assert [text.get_text() for text in first.texts] == ["50 % with |γ| < 0.01", "2 networks"]
    assert [text.get_text() for text in second.texts] == ["0 % with |γ| < 0.01", "1 network"]
    for axis in figure.axes:
        bars, before = [patch for patch in axis.patches if isinstance(patch, StepPatch)]
        shares, edges, _ = bars.get_data()
        started, interval, _ = before.get_data()
        assert list(interval) == [0, 1]
        assert 0 in np.asarray(edges).round(12), "no bin holds γ of both signs"
        assert sum(shares) == pytest.approx(100), "every γ is in a bin"
        assert list(started) == pytest.approx([100 * (edges[1] - edges[0])])
    assert shares[-1] == pytest.approx(100 / 3)
    assert first.get_ylim() == second.get_ylim()
    assert first.get_xlim() == second.get_xlim()
    assert "BatchNorm only, longer: 2 networks, 4 γ, -0.002 to 1, 50 % with |γ| <" in figure.alt
    assert "beyond ±2.5" in figure.note
    assert "beyond" not in figures.gammas({"all": [[0.5]]}).note


def test_accuracy_without_small_gamma_is_a_line_per_run() -> None:
    clamped = (Clamp(0.0, 0.0, 0.6), Clamp(0.01, 0.25, 0.5))
    runs = [Features("a", (), (), clamped), Features("b", (), (), clamped[:1])]
    figure = figures.zeroed({"batchnorm": runs, "all": []})
    lines = [(xs(line), ys(line)) for line in marked(figure, "o")]
    assert lines == [([0, 25], [60, 50]), ([0], [60])]
    assert names(figure) == ["BatchNorm only"]
    assert "BatchNorm only, run 1: 0 % zero: 60.0, 25 % zero: 50.0" in figure.alt


def test_relus_stand_against_beta_and_against_beta_in_units_of_gamma() -> None:
    figure = figures.closed([Channel(-0.1, -1.0, 1.0), Channel(1.0, 0.0, 0.4)])
    alone, both = marked(figure, "o")
    assert (xs(alone), ys(alone)) == ([-1, 0], [100, 40])
    assert (xs(both), ys(both)) == ([-4, 0], [100, 40])
    assert "40 to 100 %, of 2 channels" in figure.alt
    assert "5.0 points from the curve" in figure.alt


# --- timings ---


@pytest.mark.parametrize(
    ("case", "ratio", "said"),
    [
        ("A over B, 64 px, batch 4", 2.0, "B takes 2.0× as long as A (64 px, batch 4)"),
        ("A over B", 0.4, "A takes 2.5× as long as B"),
        ("ResNet-14: clip_grads_ + SGD over timm", 3.0,
         "timm takes 3.0× as long as clip_grads_ + SGD (ResNet-14)"),
        ("ResNet-14, float32, over the plain loop", 1.5,
         "The plain loop takes 1.5× as long as float32 (ResNet-14)"),
        ("ResNet-14, 5 seeds, vmap over one after another", 0.5,
         "Vmap takes 2.0× as long as one after another (ResNet-14, 5 seeds)"),
        ("group width 8 over 128, batch 4", 2.0,
         "Group width 128 takes 2.0× as long as group width 8 (batch 4)"),
        ("A over B", 1.01, "B takes about as long as A"),
        ("A over B, narrow", 1.03, "B takes 1.03× as long as A (narrow)"),
        ("A over B", 0.99, "A takes about as long as B"),
    ],
)  # fmt: skip
def test_a_ratio_is_said_as_the_slower_one_taking_longer(
    case: str, ratio: float, said: str
) -> None:
    off = 0.01 if "narrow" in case else 0.1
    text, factor, low, high = slower(
        case, {"ratio": ratio, "low": (1 - off) * ratio, "high": (1 + off) * ratio}
    )
    assert text.replace("\u00a0", " ") == said
    assert low < factor < high
    assert factor >= 1


def test_a_case_that_compares_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="'crop and flip' is no 'A over B'"):
        slower("crop and flip", {"ratio": 2.0, "low": 2.0, "high": 2.0})


def test_bars_are_as_long_as_the_factor_and_whiskers_as_the_rounds() -> None:
    rows = {
        "A over B": {"ratio": 4.0, "low": 3.0, "high": 5.0},
        "C over D": {"ratio": 0.5, "low": 0.4, "high": 0.625},
    }
    provenance = {"threads": 2, "versions": {"torch": "2.15.0"}}
    timing = Benchmark("steps", "a CPU", False, rows, provenance)
    figure = figures.times_as_long([timing])
    (axis,) = figure.axes
    bars = [bar for bar in axis.patches if isinstance(bar, Rectangle)]
    assert [bar.get_x() + bar.get_width() for bar in bars] == [4.0, 2.0]
    assert [xs(line) for line in axis.lines] == [[3.0, 5.0], [1.6, 2.5]]
    assert "B takes 4.0× as long as A [3.00, 5.00]" in figure.alt
    assert figure.note.startswith("a CPU, 2 threads, torch 2.15.0")
    assert len(figures.times_as_long([timing], "C over").axes[0].patches) == 1
    assert "Not measured yet" in texts(figures.times_as_long([]))
    assert figures.factors([timing]) == "0.5 to 4.0"
    with pytest.raises(ValueError, match=r"no case of \['steps'\] has 'E over' in its name"):
        figures.factors([timing], "E over")
    unnamed = replace(timing, rows={"crop and flip": rows["A over B"]})
    figure = figures.times_as_long([unnamed], pair="batches over single images")
    said = "Single images takes 4.0× as long as batches (crop\u00a0and\u00a0flip)"
    assert said in figure.alt


def test_an_axis_of_close_timings_ends_with_them_and_has_finer_ticks() -> None:
    rows = {"A over B": {"ratio": 1.08, "low": 0.98, "high": 1.2}}
    timing = Benchmark("steps", "a CPU", False, rows, {"threads": 1, "versions": {"torch": "2"}})
    (axis,) = figures.times_as_long([timing]).axes
    assert axis.get_xlim()[1] == pytest.approx(1.05 * 1.2)
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1×", "1.1×", "1.2×"]


# --- along a gradient, and at equal fit ---


def fitting() -> list[Record]:
    """Two seeds that fit more by the epoch."""
    made = []
    for seed, higher in ((0, 0.0), (1, 0.1)):
        curve: list[dict[str, float]] = [
            {"epoch": epoch, "test_accuracy": test + higher, "train_accuracy": train}
            for epoch, train, test in ((1, 0.3, 0.2), (2, 0.6, 0.4))
        ]
        first = {"epoch": 0, "test_accuracy": 0.1}
        spec = Spec(model="bn_cifar_nf_resnet8", epochs=2, seed=seed)
        last = curve[-1] | {"test_top5": 0.9}
        made.append(Record(spec, "completed", last, [first, *curve], {}))
    return made


def test_test_accuracy_stands_over_training_accuracy() -> None:
    figure = figures.at_equal_fit(
        fitting(), {"BatchNorm": {"model": "bn_cifar_nf_resnet8"}, "never run": {"lr": 9.0}}, 0.5
    )
    first, second, mean, mark = figure.axes[0].lines
    assert xs(mean) == pytest.approx([30, 60])
    assert ys(mean) == pytest.approx([25, 45])
    assert ys(first) == pytest.approx([20, 40])
    assert ys(second) == pytest.approx([30, 50])
    assert xs(mark) == [50, 50]
    assert "BatchNorm: ends at 60.0 and 45.0" in figure.alt


def test_an_arm_of_one_run_is_no_mean() -> None:
    figure = figures.at_equal_fit(fitting()[:1], {"BatchNorm": {}}, 0.5)
    assert labelled(figure, "BatchNorm (one run)").get_linewidth() <= 1


def test_steps_along_a_gradient_stand_at_their_rates() -> None:
    found = {"normalizer-free": Along(1.0, [0.9, 1.5], [0.1, 2.0])}
    figure = figures.along_gradient([0.1, 0.2], found)
    loss, change = figure.axes
    assert ys(loss.lines[0]) == [0.9, 1.5]
    assert ys(change.lines[0]) == [0.1, 2.0]
    assert "after the largest step 1.50" in figure.alt


def test_places_of_a_descent_lie_on_the_parabola() -> None:
    figure = figures.overshooting({"rate 2.2": [1.0, -1.2]})
    curve, path = figure.axes[0].lines
    assert ys(path) == pytest.approx([x**2 / 2 for x in xs(path)])
    assert min(xs(curve)) < -1.2


def test_seeds_of_a_live_measurement_are_thin_and_their_mean_is_thick() -> None:
    rows = {"BatchNorm": [{0.0: 100.0, 10.0: 40.0}, {0.0: 90.0, 10.0: 20.0}]}
    figure = figures.lines_by_seed(rows, "passes", "accuracy, %")
    first, second, mean = figure.axes[0].lines
    assert (ys(first), ys(second), ys(mean)) == ([100, 40], [90, 20], [95, 30])
    assert first.get_linewidth() < mean.get_linewidth()
    assert "BatchNorm: 95.0 to 30.0" in figure.alt
    assert "2 seeds" in figure.note


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((0.05, 0.5), ["0.05", "0.1", "0.2", "0.5"]),
        ((1200, 6000), ["2,000", "5,000"]),
        ((3e-6, 2.5e-5), ["5·10⁻⁶", "10⁻⁵", "2·10⁻⁵"]),
        ((0.5, 20), ["1", "10"]),
        ((0.5, 2e5), ["1", "10", "100", "1,000", "10,000", "10⁵"]),
    ],
)
def test_a_logarithmic_axis_has_two_labels_at_least(
    ends: tuple[float, float], expected: list[str]
) -> None:
    with drawing(300) as (_, (axis,)):
        powers_of_ten(axis)
        axis.set_ylim(*ends)
    shown = zip(axis.get_yticks(), axis.get_yticklabels(), strict=True)
    assert [t.get_text() for y, t in shown if ends[0] <= y <= ends[1]] == expected


# --- on pages ---


def test_every_figure_says_in_words_what_it_shows(records: list[Record]) -> None:
    """And stands on a page in the page's font, with small print that fits a phone."""
    shares = pd.DataFrame([{"name": "stem.weight", "part": "stem", "step": 1, "share": 0.5}])
    table = pd.DataFrame({"block": [0.1, 0.2]}, index=[1, 2])
    block = dict.fromkeys(("squared_mean", "variance", "branch_variance", "expected_variance"), 1.0)
    at_one_rate = [record for record in records if record.spec.lr == records[0].spec.lr]
    drawn = [
        figures.dots(at_one_rate, ARMS),
        figures.sweep(records, ARMS, by="lr"),
        figures.survival(records, ARMS),
        figures.by_number({"BatchNorm": {14: records[:1]}}, "layers"),
        figures.curves(records, {"": ARMS}),
        figures.signal_propagation({"plain": [{"block": 0} | block]}, theory="plain"),
        figures.branch_shares([0.5, 0.3], {"BatchNorm": [0.5, 0.3]}),
        figures.influence({"BatchNorm": torch.ones(2, 2)}),
        figures.lines({"BatchNorm": {1: 0.1, 2: 0.2}}, "devices", "loss", levels={"floor": 0.1}),
        figures.lines_by_seed({"BatchNorm": [{1.0: 0.1, 2.0: 0.2}]}, "passes", "accuracy, %"),
        figures.clipped_shares(shares, "digits"),
        figures.skip_bounds({"ours": [1e-5, 1e-4]}),
        figures.skip_gains(table, table, [0.1, 1.0]),
        figures.gammas({"ResNet-14": [[0.5, 1.0]]}),
        figures.closed([Channel(0.5, -1.0, 1.0), Channel(1.0, 0.0, 0.5)]),
        figures.along_gradient([0.1, 0.2], {"BatchNorm": Along(1.0, [0.9, 1.2], [0.1, 0.3])}),
        figures.overshooting({"rate 2.2": [1.0, -1.2, 1.44]}),
        figures.at_equal_fit(fitting(), {"BatchNorm": {"model": "bn_cifar_nf_resnet8"}}, 0.5),
        figures.trade_offs({"F": {"F0": [1.0, 80.0]}}, ["cost"], {"F": {"F0": (5, 5)}}, "printed"),
        figures.ladder({"baseline": [80.0]}, [81.0], ["F0"], "printed"),
        figures.pictures({"crops": torch.zeros(2, 3, 8, 8)}, "two"),
    ]
    for figure in drawn:
        html = captions.figure(figure, caption=figure.alt[:60]).data
        assert figure.alt.endswith(".")
        assert "nan" not in figure.alt
        assert "DejaVu" not in html
        sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", html)]
        panels = html.split('class="panels"')[1]
        width = max(int(width) for width in re.findall(r'viewBox="0 0 (\d+)', panels))
        assert min(sizes) * min(1, 350 / width) >= 9, "a phone has 350 pixels"


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.accuracy([]),
        lambda: figures.accuracy([ended(Spec(model="cifar_resnet14"), "failed")]),
        lambda: figures.curves([]),
        lambda: figures.curves([], {"": {}}),
        lambda: figures.dots([], ARMS),
        lambda: figures.dots(trained("all"), {"never run": ARMS["never run"]}),
        lambda: figures.sweep([], ARMS, by="lr"),
        lambda: figures.survival([], ARMS),
        lambda: figures.at_equal_fit([], ARMS, 0.5),
        lambda: figures.equal_parameters(trained("all")),
        lambda: figures.k_sweep(trained("batchnorm"), {}),
        lambda: figures.zeroed({"batchnorm": []}),
        lambda: figures.stored({}, lambda spec: 1, OWN),
        lambda: figures.sweep(trained("all"), {"never run": ARMS["never run"]}, by="lr"),
    ],
)
def test_where_nothing_was_recorded_the_figure_says_so(draw: Callable[[], Chart]) -> None:
    figure = draw()
    assert "No records yet" in texts(figure)
    assert "No records yet" in figure.alt
    assert "nbrepro status" in figure.note

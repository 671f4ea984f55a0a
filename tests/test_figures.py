"""Figures say what the records say."""

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nbrepro import experiments
from nbrepro.book import figures
from nbrepro.records.ledger import Record
from nbrepro.spec import Spec

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
        diverged = spec.lr > 6 and spec.clip == "none"
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


def texts(figure: Figure) -> str:
    (axis,) = figure.axes
    labels = [label.get_text() for label in [*axis.get_yticklabels(), *axis.get_xticklabels()]]
    notes = [text.get_text() for text in [*figure.texts, *axis.texts]]
    return " | ".join(labels + notes)


def test_dots_show_every_seed_and_say_how_many(records: list[Record]) -> None:
    rates = {f"rate {lr}": ARMS["BatchNorm"] | {"lr": lr} for lr in (0.4, 1.6)}
    figure = figures.dots(records, rates | {"never run": ARMS["never run"]})
    assert "rate 0.4  (n = 2)" in texts(figure)
    assert "never run" not in texts(figure)
    assert "cifar10-16px, 6 epochs, n = 2 seeds" in texts(figure)
    (axis,) = figure.axes
    shown = [x for line in axis.lines if line.get_marker() == "o" for x in xs(line)]
    assert sorted(shown) == pytest.approx([40.0, 40.0, 41.0, 41.0])


def test_dots_mark_what_diverged(records: list[Record]) -> None:
    figure = figures.dots(records, {"all rates": ARMS["no clipping"] | {"lr": 6.4}})
    (axis,) = figure.axes
    assert sum(line.get_marker() == "x" for line in axis.lines) == 2


def test_a_sweep_goes_through_the_means(records: list[Record]) -> None:
    figure = figures.sweep(records, ARMS, by="lr", label="rate")
    (axis,) = figure.axes
    (line,) = [li for li in axis.lines if li.get_label() == "BatchNorm"]
    assert xs(line) == [0.4, 1.6, 6.4]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0.4", "1.6", "6.4"]
    assert "n = 2 seeds" in texts(figure)


def test_a_level_is_drawn_at_the_mean_of_its_runs(records: list[Record]) -> None:
    levels = {"without": ARMS["no clipping"] | {"lr": 0.4}, "never run": ARMS["never run"]}
    figure = figures.sweep(records, {"all": ARMS["BatchNorm"]}, by="lr", levels=levels)
    (axis,) = figure.axes
    (line,) = [li for li in axis.lines if li.get_label() == "without (n = 2)"]
    assert ys(line) == pytest.approx([40.5, 40.5])
    assert not any("never run" in str(li.get_label()) for li in axis.lines)


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


def ended(spec: Spec, status: str = "completed") -> Record:
    row = {"test_accuracy": 0.5, "test_top5": 0.9, "epoch": 1, "train_accuracy": 0.6}
    curve = [row | {"test_accuracy": 0.1, "epoch": 0}, row]
    if status == "failed":
        row, curve = {}, []
    provenance = {"device": "a GPU", "precision": "bfloat16", "commit": "c0ffee", "seconds": 1.5}
    return Record(spec, status, row, curve, provenance)


@pytest.mark.parametrize("draw", [figures.accuracy, figures.curves])
def test_every_policy_in_the_records_is_drawn(draw: Callable[..., Figure]) -> None:
    figure = draw(trained("gamma", "beta", "random:2", "batchnorm", models=("cifar_resnet14",)))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    policies = ["BatchNorm only", "beta", "gamma", "random:2"]
    assert [label for label in labels if label != "chance"] == policies
    lines = {li.get_label(): li.get_color() for li in figure.axes[0].lines}
    assert len({str(lines[policy]) for policy in policies}) == 4


def test_the_width_panel_is_that_of_the_depth_with_most_widths() -> None:
    wide = ("cifar_resnet20", "cifar_resnet20x2", "cifar_resnet20x4", "cifar_resnet14")
    depth, width = figures.accuracy(trained("all", models=wide)).axes
    assert [tick.get_text() for tick in depth.get_xticklabels()] == ["14", "20"]
    assert [tick.get_text() for tick in width.get_xticklabels()] == ["×1", "×2", "×4"]
    assert width.get_xlabel() == "width (ResNet-20)"
    assert len(figures.accuracy(trained("all")).axes) == 1


def test_networks_of_two_families_are_no_line() -> None:
    families = ("cifar_resnet20", "bn_cifar_nf_resnet20")
    with pytest.raises(ValueError, match="bn_cifar_nf_resnet, cifar_resnet"):
        figures.accuracy(trained("all", models=families))


@pytest.mark.parametrize(("dataset", "chance"), [("cifar10-jpeg-16px", 10), ("cifar100", 1)])
def test_chance_is_that_of_the_data(dataset: str, chance: float) -> None:
    runs = [ended(Spec(model="cifar_resnet14", dataset=dataset))]
    for figure in (figures.accuracy(runs), figures.dots(runs, {"all": {}})):
        (axis,) = figure.axes
        (line,) = [li for li in axis.lines if li.get_linestyle() == ":"]
        assert chance in (xs(line)[0], ys(line)[0])


def test_chance_is_not_drawn_where_it_is_unknown() -> None:
    runs = [ended(Spec(model="cifar_resnet14", dataset="birds"))]
    for figure in (figures.accuracy(runs), figures.dots(runs, {"all": {}})):
        assert not any(li.get_linestyle() == ":" for li in figure.axes[0].lines)
        assert "chance" not in figure.axes[0].get_xlabel()


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


def test_failed_runs_are_in_no_figure() -> None:
    runs = [*trained("all"), ended(Spec(model="cifar_resnet14", seed=2), "failed")]
    assert "(n = 2)" in texts(figures.dots(runs, {"all": {"train": "all"}}))
    for figure in (figures.accuracy(runs), figures.curves(runs)):
        assert "n = 2 seeds" in figure.get_suptitle()


def test_curves_show_another_metric_in_panels_of_arms(records: list[Record]) -> None:
    for record in records[:4]:
        record.curve[-1]["clipped"] = 0.25
    figure = figures.curves(records, {"": {"all": {}}}, metric="clipped")
    (axis,) = figure.axes
    assert axis.get_ylabel() == "share clipped"
    assert {y for line in axis.lines for y in ys(line)} == {0.25}


@pytest.mark.parametrize(
    "figure",
    [
        lambda: figures.accuracy([]),
        lambda: figures.accuracy([ended(Spec(model="cifar_resnet14"), "failed")]),
        lambda: figures.curves([]),
        lambda: figures.curves([], {"": {}}),
        lambda: figures.dots([], ARMS),
        lambda: figures.dots(trained("all"), {"never run": ARMS["never run"]}),
        lambda: figures.sweep([], ARMS, by="lr"),
        lambda: figures.sweep(trained("all"), {"never run": ARMS["never run"]}, by="lr"),
    ],
)
def test_where_nothing_was_recorded_the_figure_says_so(figure: Callable[[], Figure]) -> None:
    said = texts(figure())
    assert "No records yet" in said
    assert "nbrepro status" in said

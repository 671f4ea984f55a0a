"""Figures say what the records say."""

import pytest
from matplotlib.figure import Figure

from nbrepro import experiments
from nbrepro.book import figures
from nbrepro.records.ledger import Record

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
    shown = [x for line in axis.lines if line.get_marker() == "o" for x in line.get_xdata()]
    assert sorted(shown) == pytest.approx([40.0, 40.0, 41.0, 41.0])


def test_dots_mark_what_diverged(records: list[Record]) -> None:
    figure = figures.dots(records, {"all rates": ARMS["no clipping"] | {"lr": 6.4}})
    (axis,) = figure.axes
    assert sum(line.get_marker() == "x" for line in axis.lines) == 2


def test_a_sweep_goes_through_the_means(records: list[Record]) -> None:
    figure = figures.sweep(records, ARMS, by="lr", label="rate")
    (axis,) = figure.axes
    (line,) = [li for li in axis.lines if li.get_label() == "BatchNorm"]
    assert list(line.get_xdata()) == [0.4, 1.6, 6.4]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0.4", "1.6", "6.4"]
    assert "n = 2 seeds" in texts(figure)


def test_nothing_recorded_is_an_empty_figure_not_an_error() -> None:
    figures.dots([], ARMS)
    figures.sweep([], ARMS, by="lr")

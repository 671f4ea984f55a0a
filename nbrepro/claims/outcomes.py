"""What became of a run: whether it failed, and what was measured."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from nbrepro.claims.findings import Run
from nbrepro.claims.rules import FITTED
from nbrepro.data.cards import card
from nbrepro.records.ledger import Record

__all__ = ["at_equal_fit", "failed", "has", "outcome", "value"]


def failed(record: Record) -> bool:
    """Whether a run diverged, or ended below twice the accuracy of guessing.

    A network of which only a part is trained may be able to do no better: it fails only if it
    diverges.
    """
    if record.status == "diverged" or record.spec.train != "all":
        return record.status == "diverged"
    chance = card(record.spec.dataset).chance
    return chance is not None and value(record, "test_accuracy") < 2 * chance


def has(record: Record, metric: str) -> bool:
    """Whether a run has a metric; those made before it was kept have not."""
    if metric == "fitted":
        return at_equal_fit(record.curve, FITTED) is not None
    if metric == "train_lead":
        metric = "train_accuracy"
    return metric == "untrained_accuracy" or metric in record.metrics


def value(record: Record, metric: str) -> float:
    """A final metric, or ``untrained_accuracy``, the test accuracy before the first step.

    Or ``fitted``, see :func:`at_equal_fit`, or ``train_lead``, training less test accuracy.
    """
    if metric == "untrained_accuracy":
        return record.curve[0]["test_accuracy"]
    if metric == "fitted":
        found = at_equal_fit(record.curve, FITTED)
        assert found is not None, "ask has() first"
        return found
    if metric == "train_lead":
        return record.metrics["train_accuracy"] - record.metrics["test_accuracy"]
    return record.metrics[metric]


def outcome(record: Record, metric: str = "test_accuracy") -> Run:
    """A run as questions see it; runs fail in their accuracy and in nothing else."""
    final = metric == "test_accuracy"
    return Run(record.spec.seed, value(record, metric), final and failed(record))


def at_equal_fit(curve: Sequence[Mapping[str, float]], share: float) -> float | None:
    """Test accuracy at the first moment when this share of the training images is right.

    Both are interpolated between the ends of two epochs. A training accuracy is counted in training
    mode while an epoch goes on, so it lags behind by about half an epoch, in all arms alike.

    Args:
        curve: rows of a record.
        share: as a fraction.

    Returns:
        ``None`` if the run never gets there, or is there from the first epoch on.
    """
    epochs = [row for row in curve if row.get("train_accuracy") is not None]
    for before, after in pairwise(epochs):
        low, high = before["train_accuracy"], after["train_accuracy"]
        if low < share <= high:
            part = (share - low) / (high - low)
            return before["test_accuracy"] * (1 - part) + after["test_accuracy"] * part
    return None

"""Live tracking through Accelerate: off by default, one row an epoch."""

from pathlib import Path

import pytest

from nbrepro import data
from nbrepro.spec import Spec
from nbrepro.train import loop

SPEC = Spec(
    model="cifar_resnet8",
    train="batchnorm",
    dataset="digits",
    augmentation="none",
    epochs=2,
    precision="float32",
)


def test_tensorboard_gets_one_row_an_epoch_and_changes_nothing(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    digits = data.load("digits")
    plain = loop.train(SPEC, digits, device="cpu")
    tracked = loop.train(SPEC, digits, device="cpu", track="tensorboard", logs=tmp_path)
    assert tracked.curve == plain.curve
    (folder,) = {
        path.parent
        for path in tmp_path.rglob("events.out.tfevents.*")
        if SPEC.hash in str(path.parent.name)
    }
    log = events.EventAccumulator(str(folder)).Reload()
    accuracy = log.Scalars("test_accuracy")
    assert [row.step for row in accuracy] == [1, 2]
    expected = [row["test_accuracy"] for row in plain.curve[1:]]
    assert [row.value for row in accuracy] == pytest.approx(expected)


def test_off_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loop.train(SPEC.replace(epochs=1), data.load("digits"), device="cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_is_not_installed_is_named() -> None:
    with pytest.raises(ValueError, match="tensorbord"):
        loop.train(SPEC, data.load("digits"), device="cpu", track="tensorbord")


def test_the_log_of_a_run_is_one_line_an_epoch(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "nbrepro"):
        loop.train(SPEC, data.load("digits"), device="cpu")
    assert len(caplog.records) == SPEC.epochs
    assert len(caplog.text.encode()) < 250 * SPEC.epochs

"""What runs write where nobody watches: one line an epoch in a log, nothing in a notebook.

Counted in bytes, because a bar that redraws itself fills a log of a sweep with megabytes.
"""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from nbrepro import cli, data, experiments, sweep
from nbrepro.book import build
from nbrepro.data import Dataset
from nbrepro.records.ledger import Ledger
from nbrepro.spec import Spec
from nbrepro.sweep import Planned, SweepOptions

EXPERIMENT = "training_only_batchnorm"
LINE = 160  # bytes
BAR = re.compile(r"[\r\x08\x1b█▏▎▍▌▋▊▉]|\d%\|")


def test_the_log_of_a_sweep(tmp_path: Path) -> None:
    """Standard error gets a line an epoch; standard output a line a run, one before, one after."""
    specs = experiments.get(EXPERIMENT).specs("smoke")
    done = subprocess.run(
        [sys.executable, "-m", "nbrepro.cli", "run", EXPERIMENT, "--device", "cpu"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not BAR.search(done.stdout + done.stderr)
    epochs, runs = done.stderr.splitlines(), done.stdout.splitlines()
    assert len(epochs) == sum(spec.epochs for spec in specs)
    assert all(re.search(r"epoch \d+ of \d+, test accuracy", line) for line in epochs)
    assert len(runs) == 1 + len(specs) + 1
    assert max(len(line.encode()) for line in epochs + runs) < LINE

    again = subprocess.run(  # nothing to do, so nothing is said but that
        [sys.executable, "-m", "nbrepro.cli", "run", EXPERIMENT, "--device", "cpu"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0
    assert again.stderr == ""
    assert len(again.stdout.encode()) < 2 * LINE


@pytest.mark.parametrize("batch_size", [45, 2])
def test_a_log_does_not_grow_with_the_number_of_steps(
    spec: Spec,
    few_digits: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    batch_size: int,
) -> None:
    """2 or 45 steps an epoch: the same two lines."""
    monkeypatch.setattr(data, "load_for", lambda *_, **__: few_digits)
    spec = spec.replace(train="output", batch_size=batch_size)
    ledger = Ledger(tmp_path / "results")
    with caplog.at_level(logging.INFO, "nbrepro"):
        options = SweepOptions(ledger=ledger, device="cpu")
        (record,) = sweep.run([Planned(spec, None)], options)
    assert record.curve[-1]["step"] == 2 * 90 / batch_size
    assert len(caplog.records) == 2
    assert sum(len(line.getMessage().encode()) for line in caplog.records) < 2 * LINE
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_of_several_processes_the_first_one_speaks(
    rank: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", rank)
    try:
        assert cli.main(["list"]) == 0
    finally:
        logging.disable(logging.NOTSET)
    assert bool(capsys.readouterr().out) == (rank == "0")


CHAPTER = "08_training_only_batchnorm"
CELLS = (
    'profile, dataset, seeds = "smoke", "cifar10", 1',
    f'from nbrepro.book.chapter import begin\n\nchapter = begin("{CHAPTER}", globals())',
    "records = chapter.run()",
    "min(len(record.curve) for record in records)",
)


def test_a_notebook_stays_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under papermill: no bar, no warning and no line of a log ends up on the page."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    nbformat.write(notebook, tmp_path / "chapter.ipynb")
    build.execute(tmp_path / "chapter.ipynb", tmp_path / "done.ipynb")
    done = nbformat.read(tmp_path / "done.ipynb", as_version=4)
    *quiet, epochs = (cell.outputs for cell in done.cells)
    assert quiet == [[], [], []]
    assert [output.data["text/plain"] for output in epochs] == ["7"]

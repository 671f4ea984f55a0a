"""The command line: what a newcomer types, rightly and wrongly."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nbrepro import claims, cli
from nbrepro.records.ledger import Ledger
from nbrepro.sweep.run import seconds


def run(*arguments: str) -> int:
    return cli.main(arguments)


def test_without_arguments_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    text = capsys.readouterr().out
    for command in ("list", "run", "status", "verify", "book"):
        assert re.search(rf"^    {command}\s", text, re.M)


def test_list_names_every_experiment_and_claim(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    text = capsys.readouterr().out
    assert "training_only_batchnorm" in text
    assert all(claim in text for claim in claims.register())


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["runn", "all"], "did you mean run?"),
        (["run", "all", "--profile", "quik"], "did you mean quick?"),
        (["run", "all", "--time-budget", "9 minutes"], "9m"),
    ],
)
def test_misspelt_commands_and_options(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["run", "training_only_batchnrm"], "'training_only_batchnorm'"),
        (["run", "ACC20"], "'ACC-20'"),
        (["verify", "ACC20"], "'ACC-20'"),
        (["run", "ACC-1"], "needs no run"),
        (["run", "all", "--seeds", "0"], "at least 1"),
        (["run", "all", "--profile", "quick", "--dataset", "nowhere"], "nowhere"),
    ],
)
def test_wrong_names_end_with_one_line_that_helps(
    arguments: list[str],
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert hint in error
    assert "Traceback" not in error
    assert error.count("\n") == 0


def test_run_then_run_again_then_status_then_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    results = ["--results", str(tmp_path / "results")]
    assert run("run", "training_only_batchnorm", "--profile", "smoke", *results) == 0
    assert "3 runs, 0 recorded, 3 to do" in capsys.readouterr().out
    records, damaged = Ledger(tmp_path / "results").scan()
    assert len(records) == 3
    assert not damaged

    assert run("run", "training_only_batchnorm", "--profile", "smoke", *results) == 0
    assert "3 runs, 3 recorded, 0 to do" in capsys.readouterr().out
    assert run("status", "training_only_batchnorm", "--profile", "smoke", *results) == 0
    assert "To do: 0 s" in capsys.readouterr().out

    assert run("verify", "ACC-20", *results) == 0
    assert "ACC-20: not run" in capsys.readouterr().out  # smoke runs carry no verdict


def test_verify_fails_on_a_damaged_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "0123456789abcdef.json").write_text('{"schema": 1, "status": "comple')
    assert run("verify", "--results", str(tmp_path)) == 1
    assert "0123456789abcdef.json" in capsys.readouterr().err


def test_smoke_runs_stay_out_of_the_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NBREPRO_RESULTS", str(tmp_path / "evidence"))
    assert run("run", "training_only_batchnorm", "--profile", "smoke") == 0
    assert not (tmp_path / "evidence").exists()


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("90s", 90), ("9m", 540), ("1.5h", 5400)]
)
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected


def test_help_does_not_load_torch() -> None:
    code = "import sys; from nbrepro import cli; cli.main([]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"

"""The command line: what a newcomer types, rightly and wrongly."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nbrepro import claims, cli, experiments, sweep
from nbrepro.records.ledger import Ledger, Record
from nbrepro.spec import Spec
from nbrepro.sweep import SweepOptions
from nbrepro.sweep.options import seconds


def run(*arguments: str) -> int:
    return cli.main(arguments)


def test_without_arguments_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    text = capsys.readouterr().out
    for command in ("list", "run", "status", "verify", "show", "book"):
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
        (["run", "all", "--profiel", "quick"], "did you mean --profile?"),
        (["verify", "--josn"], "did you mean --json?"),
        (["run", "all", "--time-budget", "9 minutes"], "9m"),
        (["run", "all", "--time-budget", f"{'9' * 400}h"], "more than a year"),
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
        (["run", "ACC-4", "--profile", "quick"], "no quick run settles ACC-4; take --profile full"),
        (["status", "ACC-4"], "no quick run settles ACC-4; take --profile full"),
        (["verify", "--results", "nowhere"], "/nowhere cannot be read (No such file"),
        (["status", "--results", "nowhere"], "/nowhere cannot be read (No such file"),
        (["show", "00", "--results", "nowhere"], "/nowhere cannot be read (No such file"),
        (["verify"], "/results cannot be read (No such file"),
        (["verify", "ACC-20"], "/results cannot be read (No such file"),
        (["status"], "/results cannot be read (No such file"),
        (["verify", "--results", "."], "is no ledger: it has no folder runs with records"),
        (["run", "all", "--device", "cuda"], "no usable CUDA GPU"),
        (["run", "all", "--seeds", "0"], "at least 1"),
        (["run", "all", "--seeds", "1000000000000"], "at most 1000"),
        (["run", "all", "--workers", "1000000000"], "workers is 1000000000; this machine has"),
        (["run", "all", "--profile", "quick", "--dataset", "/a/b"], "the name of a folder, not a"),
        (["status", "all", "--profile", "quick", "--dataset", "../b"], "the name of a folder, not"),
        (["run", "all", "--profile", "quick", "--dataset", "nowhere"], "nowhere"),
        (["run", "all", "--dataset", "flowers"], "--dataset flowers: smoke runs train on embedded"),
        (
            ["status", "ACC-20", "--dataset", "cifar11"],
            "do not count for ACC-20; take --dataset cifar10 or cifar10-jpeg",
        ),
        (
            ["status", "ACC-10", "--dataset", "digits"],
            "do not count for ACC-10; take --dataset cifar10, or a whole data set of your own",
        ),
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
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert hint in error
    assert "Traceback" not in error
    assert error.count("\n") == 0
    assert not list(tmp_path.rglob("*.json"))


def test_status_says_what_data_nobody_knows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results" / "runs").mkdir(parents=True)
    for dataset, said in (("cifar11", True), ("cifar10", False), ("tiny-imagenet-50@32", False)):
        arguments = ("--dataset", dataset, "--results", str(tmp_path / "results"))
        assert run("status", "training_only_batchnorm", *arguments) == 0
        note = f"nothing is known of a data set called {dataset!r}"
        assert (note in capsys.readouterr().err) == said


def test_run_then_run_again_then_status_then_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    results = ["--results", str(tmp_path / "results")]
    assert run("run", "training_only_batchnorm", "--profile", "smoke", *results) == 0
    assert "3 smoke runs on digits, 0 recorded, 3 to do" in capsys.readouterr().out
    records, damaged = Ledger(tmp_path / "results").scan()
    assert len(records) == 3
    assert not damaged

    assert run("run", "training_only_batchnorm", "--profile", "smoke", *results) == 0
    assert "3 smoke runs on digits, 3 recorded, 0 to do" in capsys.readouterr().out
    assert run("status", "training_only_batchnorm", "--profile", "smoke", *results) == 0
    by_arm = capsys.readouterr().out
    assert "Nothing is left to do." in by_arm
    assert by_arm.count("train=") == 3
    assert run("status", "--profile", "smoke", *results) == 0
    by_experiment = capsys.readouterr().out
    assert "train=" not in by_experiment
    rows = dict(re.findall(r"│ (\w+) +│ (\d+ +│ \d+) ", by_experiment))
    assert set(rows) == set(experiments.REGISTRY)
    assert rows["training_only_batchnorm"].split() == ["3", "│", "0"]
    assert " not measured" in by_experiment

    assert run("verify", "ACC-20", *results) == 0
    assert "ACC-20: not run" in capsys.readouterr().out  # smoke runs carry no verdict


def test_verify_fails_on_a_damaged_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "0123456789abcdef.json").write_text('{"schema": 1, "status": "comple')
    assert run("verify", "ACC-20", "--results", str(tmp_path)) == 1
    assert "0123456789abcdef.json" in capsys.readouterr().err


def test_verify_names_the_remedy_for_an_earlier_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "training_only_batchnorm"
    folder.mkdir()
    (folder / "0123456789abcdef.json").write_text("{}")
    assert run("verify", "ACC-20", "--results", str(tmp_path)) == 1
    assert f"python scripts/migrate_ledger.py {tmp_path}" in capsys.readouterr().err
    assert run("run", "ACC-20", "--profile", "full", "--results", str(tmp_path)) == 2
    assert f"python scripts/migrate_ledger.py {tmp_path}" in capsys.readouterr().err


@pytest.fixture
def shown(tmp_path: Path) -> Ledger:
    """Three records: two whose hashes begin alike, one that diverged, one that failed."""
    ledger = Ledger(tmp_path / "results")
    spec = Spec(model="cifar_resnet8", lr=0.5, seed=3)
    curve: list[dict[str, Any]] = [
        {"epoch": 0, "step": 0, "test_accuracy": 0.1, "test_loss": 2.3},
        {"epoch": 1, "step": 40, "test_accuracy": 0.25, "test_loss": None},
    ]
    how = {"device": "a CPU", "versions": {"torch": "2.9", "numpy": "2.1"}, "seconds": 1.5}
    ledger.write(Record(spec, "diverged", {"test_accuracy": 0.25}, curve, how))
    failed = Record(spec.replace(seed=4), "failed", {}, [], {}, "Traceback\nValueError: no")
    ledger.write(failed)
    return ledger


def test_show(shown: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    diverged, failed = sorted(shown.scan()[0], key=lambda record: record.spec.seed)
    assert run("show", diverged.spec.hash[:8], "--results", str(shown.root)) == 0
    text = capsys.readouterr().out
    assert f"{diverged.spec}: diverged" in text
    assert "lr: 0.5" in text
    assert "momentum" not in text  # the default
    assert "versions: torch 2.9, numpy 2.1" in text
    assert re.search(r"1 +│ 40 +│ 0.25 +│ not finite", text)
    assert run("show", failed.spec.hash, "--results", str(shown.root)) == 0
    assert "ValueError: no" in capsys.readouterr().out


def test_show_needs_one_run(shown: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "xyz", "--results", str(shown.root)) == 2
    assert "0 records" in capsys.readouterr().err
    assert run("show", "", "--results", str(shown.root)) == 2
    said = capsys.readouterr().err
    assert "2 records" in said
    for record in shown.scan()[0]:
        assert f"{record.spec.hash[:8]} {record.spec}" in said


def test_show_says_where_a_smoke_run_is(
    shown: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "SMOKE", shown.root)
    other = Ledger(shown.root.with_name("other"))
    other.write(Record(Spec(model="cifar_resnet8", seed=9), "failed", {}, [], {}, "no"))
    monkeypatch.setenv("NBREPRO_RESULTS", str(other.root))
    run_hash = shown.scan()[0][0].spec.hash
    assert run("show", run_hash) == 2
    assert f"--results {shown.root}" in capsys.readouterr().err


def test_runs_that_read_alike_are_told_apart() -> None:
    base = Spec(model="cifar_resnet8", train="batchnorm")
    specs = [base, base.replace(lr=0.3), base.replace(train="gamma"), base.replace(seed=1)]
    name = cli._names(specs)
    first, second, third, fourth = (name(spec).partition(str(spec))[2] for spec in specs)
    assert (first, second, third, fourth) == (", lr=0.1", ", lr=0.3", "", "")
    assert all(name(spec).startswith(spec.hash[:8]) for spec in specs)


def test_run_names_the_damaged_record_that_it_does_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing(planned: object, options: SweepOptions) -> Iterator[Record]:
        yield from ()

    ledger = Ledger(tmp_path / "results")
    (planned, *_) = sweep.plan(experiments.select("training_only_batchnorm"), "smoke", ledger)
    ledger.write(Record(planned.spec, "failed", {}, [], {}, "no"))
    ledger.path(planned.spec).write_text("{")
    other = ledger.root / "runs" / "0123456789abcdef.json"
    other.write_text("{")
    monkeypatch.setattr(sweep, "run", nothing)
    assert run("run", "training_only_batchnorm", "--results", str(ledger.root)) == 0
    said = capsys.readouterr().out
    assert f"damaged, is done again: {ledger.path(planned.spec)}" in said
    assert other.name not in said, "no run of this plan"


def test_show_says_that_a_record_is_damaged(
    shown: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shown.path(shown.scan()[0][0].spec)
    path.write_text("{")
    assert run("show", path.stem, "--results", str(shown.root)) == 2
    assert f"damaged: {path}" in capsys.readouterr().err


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


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "nbrepro.cli", *arguments]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_greek_letters(encoding: str) -> None:
    """γ and × are written as escapes; nothing is lost behind them."""
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(command("list"), env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    assert all(claim.encode() in done.stdout for claim in claims.register())


def test_a_reader_that_has_seen_enough() -> None:
    with subprocess.Popen(
        command("list"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize(("streams", "status"), [("2>&-", 2), (">&- 2>&-", 2), ("<&- >&- 2>&-", 2)])
def test_closed_streams_change_no_exit_status(tmp_path: Path, streams: str, status: int) -> None:
    """Without a standard error an error ended in one of its own, with another status."""
    shell = f"{shlex.join(command('verify', '--results', str(tmp_path / 'nowhere')))} {streams}"
    assert subprocess.run(shell, shell=True, check=False).returncode == status
    shell = f"{shlex.join(command('list'))} {streams}"
    assert subprocess.run(shell, shell=True, stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_nothing_is_printed_into_a_record(tmp_path: Path) -> None:
    """The number of a closed standard error goes to the next file: here a module writes there."""
    code = (
        "import os, sys; from nbrepro import cli; cli.main([]);"
        "file = open(sys.argv[1], 'w'); file.write('sound'); file.flush();"
        "os.write(2, b'a warning')"
    )
    path = tmp_path / "record"
    shell = f"{shlex.join([sys.executable, '-c', code, str(path)])} 2>&-"
    subprocess.run(shell, shell=True, stdout=subprocess.DEVNULL, check=True)
    assert path.read_text() == "sound"


@pytest.mark.parametrize("moment", ["parser", "_answer"])
def test_ctrl_c_at_any_time_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], moment: str
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, moment, interrupted)
    assert run("list") == 130
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("interrupted; start it again")


def test_every_option_of_a_sweep_is_one_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[SweepOptions] = []

    def note(planned: object, options: SweepOptions) -> Iterator[Record]:
        seen.append(options)
        yield from ()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "run", note)
    given = ["--workers", "2", "--time-budget", "9m", "--retry-failed", "--device", "cpu"]
    assert run("run", "training_only_batchnorm", *given, "--data-root", "d", "--download") == 0
    assert run("run", "training_only_batchnorm", "--scheduler", "tcp://here:1") == 0
    ledger = seen[0].ledger
    assert ledger.root == cli.SMOKE
    assert seen[0] == SweepOptions(
        ledger=ledger, workers=2, time_budget=540, retry_failed=True, device="cpu",
        data_root=Path("d"), download=True,
    )  # fmt: skip
    assert seen[1] == SweepOptions(ledger=seen[1].ledger, scheduler="tcp://here:1")


def test_help_does_not_load_torch() -> None:
    code = "import sys; from nbrepro import cli; cli.main([]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_case_does_not_hide_the_right_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", "acc-20") == 2
    said = capsys.readouterr().err
    assert "did you mean 'ACC-20'?" in said
    assert len(said) < 200, "not all ids"


def test_data_that_do_not_count_are_named_and_not_the_profile(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("status", "ACC-19", "--dataset", "digits") == 2
    assert "runs on 'digits' do not count for ACC-19" in capsys.readouterr().err


def test_an_empty_address_of_a_scheduler(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "depth", "--scheduler", "") == 2
    assert "address is empty" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "runs"), [("many_tasks", 40), ("TASK-2", 20)])
def test_status_says_where_else_runs_are_recorded(
    name: str, runs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("status", name) == 0
    assert f"On cifar10-jpeg {runs} runs are recorded" in capsys.readouterr().out


def test_a_run_that_cannot_begin_leaves_no_evidence_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NBREPRO_DATA", str(tmp_path))
    assert run("run", "ACC-20", "--profile", "quick") == 2
    assert "data_batch_1 is missing; run with download=True" in capsys.readouterr().err
    assert run("verify", "ACC-20") == 2
    assert f"the ledger {tmp_path / 'results'} has no records" in capsys.readouterr().err


def test_a_small_install_says_what_is_missing() -> None:
    code = (
        "import sys; sys.modules['filelock'] = None; from nbrepro import cli; cli.main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.startswith("nbrepro: filelock is missing; the command needs pip install")
    assert done.stderr.count("\n") == 1

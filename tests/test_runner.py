import json
import logging
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from nbrepro import claims, data, experiments, sweep
from nbrepro.data import DataError
from nbrepro.experiments import Experiment
from nbrepro.records.ledger import Ledger, Record
from nbrepro.records.provenance import device_name
from nbrepro.spec import Spec
from nbrepro.sweep import Left, Planned, SweepOptions
from nbrepro.sweep.one import until
from nbrepro.train import loop


@pytest.fixture
def quickly(spec: Spec) -> Spec:
    """A tenth of a second a run: no more than the output layer, in large batches."""
    return spec.replace(train="output", batch_size=500, epochs=1)


def planned(ledger: Ledger, *specs: Spec) -> list[Planned]:
    return [Planned(spec, ledger.find(spec)) for spec in specs]


def run(plan: list[Planned], ledger: Ledger, **options: Any) -> list[Record]:
    return list(sweep.run(plan, SweepOptions(ledger=ledger, device="cpu", **options)))


def contents(ledger: Ledger) -> dict[Path, tuple[bytes, int]]:
    return {
        p: (p.read_bytes(), p.stat().st_mtime_ns) for p in (ledger.root / "runs").glob("*.json")
    }


# --- experiments ---------------------------------------------------------------------------------


def test_an_experiment_outside_the_package_as_the_page_has_it(tmp_path: Path) -> None:
    page = Path(__file__).parents[1] / "book" / "running.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    (script,) = [block for block in blocks if block.startswith("# mine.py\n")]
    assert '"epochs": 4' in script
    (tmp_path / "mine.py").write_text(script.replace('"epochs": 4', '"epochs": 0'), "utf-8")
    command = [sys.executable, "mine.py"]
    printed = [
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    records, damaged = Ledger(tmp_path / "mine" / "results").scan()
    assert not damaged
    assert {(r.spec.lr, r.spec.seed) for r in records} == {
        (a, s) for a in (0.1, 0.3) for s in (0, 1)
    }
    assert all(record.spec.hash in printed[0] for record in records)
    assert printed[1] == "", "nothing is left to do"


@pytest.mark.parametrize("name", experiments.REGISTRY)
@pytest.mark.parametrize("profile", experiments.PROFILES)
def test_grids_hold_different_runs(name: str, profile: str) -> None:
    experiment = experiments.get(name)
    specs = experiment.specs(profile)
    assert len({spec.hash for spec in specs}) == len(specs) > 0
    assert {spec.seed for spec in specs} == set(range(experiment.seeds[profile]))
    arms = {spec.replace(seed=0).hash for spec in specs}
    assert len(specs) == len(arms) * experiment.seeds[profile]
    assert [spec.seed for spec in specs] == sorted(spec.seed for spec in specs)


@pytest.mark.parametrize("name", experiments.REGISTRY)
def test_profiles_share_no_run(name: str) -> None:
    hashes = [{s.hash for s in experiments.get(name).specs(p)} for p in experiments.PROFILES]
    assert not hashes[0] & hashes[1]
    assert not hashes[0] & hashes[2]
    assert not hashes[1] & hashes[2]


def test_other_data_and_other_numbers_of_seeds() -> None:
    experiment = experiments.get("training_only_batchnorm")
    quick = experiment.specs("quick", "cifar10-jpeg", seeds=2)
    assert {spec.dataset for spec in quick} == {"cifar10-jpeg"}
    assert {spec.seed for spec in quick} == {0, 1}
    smoke = experiment.specs("smoke", "cifar10-jpeg")
    assert {spec.dataset for spec in smoke} == {"digits"}
    with pytest.raises(ValueError, match="seeds is 0"):
        experiment.specs("quick", seeds=0)
    with pytest.raises(ValueError, match="did you mean 'smoke'"):
        experiment.specs("smoek")


def test_select() -> None:
    one = experiments.get("training_only_batchnorm")
    assert experiments.select(one.name) == [one]
    assert one in experiments.select(one.chapter)
    assert experiments.select("all") == list(experiments.REGISTRY.values())
    for find in (experiments.get, experiments.select):
        with pytest.raises(ValueError, match="did you mean 'training_only_batchnorm'"):
            find("training_only_batchnrom")


# --- running -------------------------------------------------------------------------------------


def test_smoke_from_end_to_end(ledger: Ledger, checkpoints: Path) -> None:
    experiment = experiments.get("training_only_batchnorm")
    plan = sweep.plan([experiment], "smoke", ledger)
    assert [p.missing for p in plan] == [True] * 3
    records = run(plan, ledger)
    assert [record.spec for record in records] == [p.spec for p in plan]
    assert {record.status for record in records} == {"completed"}
    found, damaged = ledger.scan()
    assert damaged == []
    assert sorted(r.spec.hash for r in found) == sorted(p.spec.hash for p in plan)
    for record in found:
        assert len(record.curve) == 7
        assert record.provenance["data_fingerprint"] == "5ba4c266def42ea5"
        assert record.provenance["threads"] == 1
        assert record.provenance["images_per_second"] > 0
    accuracy = {r.spec.train: r.metrics["test_accuracy"] for r in found}
    assert accuracy["all"] > 0.9
    assert accuracy["batchnorm"] > 0.2  # twice chance
    assert list(checkpoints.glob("*.pt")) == []

    before = contents(ledger)
    again = sweep.plan([experiment], "smoke", ledger)
    assert not any(p.missing for p in again)
    assert run(again, ledger) == []
    assert run(plan, ledger) == []  # nor with the plan made before
    assert contents(ledger) == before


def test_record_says_what_training_says(ledger: Ledger, quickly: Spec) -> None:
    record = sweep.run_one(quickly, SweepOptions(ledger=ledger, device="cpu"))
    result = loop.train(quickly, data.load("digits"), device="cpu")
    assert record == ledger.find(quickly)
    assert record.metrics == result.metrics
    assert record.curve == result.curve


def test_diverged_run_is_recorded_once(ledger: Ledger, checkpoints: Path, quickly: Spec) -> None:
    spec = quickly.replace(train="all", lr=1e9, batch_size=128)
    (record,) = run(planned(ledger, spec), ledger)
    assert record.status == "diverged"
    assert record.metrics["diverged_at"] >= 0
    assert run(planned(ledger, spec), ledger, retry_failed=True) == []


# --- interruptions -------------------------------------------------------------------------------

KILLED = """
import json, logging, sys
from pathlib import Path
import torch
from nbrepro import sweep
from nbrepro.records.ledger import Ledger
from nbrepro.spec import Spec

class Halt(logging.Handler):
    "Reports, and stands still after two epochs of the second run and the third one's training."
    def emit(self, record):
        print(record.getMessage(), flush=True)
        if "epoch 3 of 4" in record.getMessage():
            sys.stdin.read()

torch.set_num_threads(1)
logging.getLogger("nbrepro").addHandler(Halt())
logging.getLogger("nbrepro").setLevel(logging.INFO)
root, specs = sys.argv[1:]
ledger = Ledger(Path(root) / "results")
plan = [sweep.Planned(Spec.from_dict(s), None) for s in json.loads(specs)]
for _ in sweep.run(plan, sweep.SweepOptions(ledger=ledger, device="cpu")):
    pass
"""


def test_killed_in_the_middle(
    tmp_path: Path, ledger: Ledger, checkpoints: Path, quickly: Spec
) -> None:
    """SIGKILL in the second of three runs; later the second goes on from its checkpoint."""
    specs = [quickly.replace(seed=seed, epochs=epochs) for seed, epochs in enumerate((1, 4, 1))]
    command = [
        sys.executable,
        "-c",
        KILLED,
        str(tmp_path),
        json.dumps([s.to_dict() for s in specs]),
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        shown = []
        for line in process.stdout:
            shown.append(line)
            if "epoch 3 of 4" in line:
                process.kill()
    assert process.returncode == -signal.SIGKILL, shown
    before = contents(ledger)
    assert list(before) == [ledger.path(specs[0])]

    records = run(planned(ledger, *specs), ledger)
    assert [record.spec for record in records] == specs[1:]
    assert [record.provenance["resumed_at_epoch"] for record in records] == [2, 0]
    after = contents(ledger)
    assert set(after) == {ledger.path(spec) for spec in specs}
    assert all(after[path] == before[path] for path in before)
    assert ledger.scan()[1] == []
    assert list(checkpoints.glob("*.pt")) == []
    assert records[0].curve == loop.train(specs[1], data.load("digits"), device="cpu").curve


def test_no_time_no_run(ledger: Ledger, checkpoints: Path, quickly: Spec) -> None:
    assert run(planned(ledger, quickly), ledger, time_budget=0) == []
    assert contents(ledger) == {}


def test_a_run_whose_epochs_do_not_fit_is_not_started(
    ledger: Ledger, quickly: Spec, caplog: pytest.LogCaptureFixture
) -> None:
    """At the speed recorded on this device; at that of another one nothing is known."""
    cpu = device_name(torch.device("cpu"))
    measured = {"test_accuracy": 0.1}
    epoch = {"epoch": 1.0, "step": 100.0, **measured}
    for seed, device, rate in ((1, "another", 0.001), (2, cpu, 1000.0)):
        how = {"images_per_second": rate, "device": device, "finished": f"2026-0{seed}"}
        ledger.write(Record(quickly.replace(seed=seed), "completed", measured, [epoch], how))
    long = quickly.replace(epochs=5)  # 50 s per epoch of 100 steps, if the record were true
    assert run(planned(ledger, long), ledger, time_budget=40) == []
    assert "not started; an epoch takes about 50 s, and" in caplog.text
    assert not list(ledger.work.glob("*.pt"))
    (record,) = run(planned(ledger, long), ledger, time_budget=100)  # all five would take longer
    assert record.status == "completed"


def test_a_run_stops_before_an_epoch_that_would_end_too_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 10.0, 20.0, 31.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    should_stop = until(deadline=40)
    assert [should_stop() for _ in range(3)] == [False, False, True]


def test_enough_time(ledger: Ledger, checkpoints: Path, quickly: Spec) -> None:
    plan = planned(ledger, quickly, quickly.replace(seed=1))
    assert len(run(plan, ledger, time_budget=3600)) == 2


def test_run_cut_off_by_the_deadline_goes_on_later(
    ledger: Ledger, checkpoints: Path, quickly: Spec
) -> None:
    spec = quickly.replace(epochs=3)
    with pytest.raises(Left, match="stopped after epoch 1 of 3"):
        sweep.run_one(spec, SweepOptions(ledger=ledger, device="cpu"), lambda: True)
    assert contents(ledger) == {}
    (record,) = run(planned(ledger, spec), ledger)
    assert record.provenance["resumed_at_epoch"] == 1
    assert record.curve == loop.train(spec, data.load("digits"), device="cpu").curve


def test_a_run_that_another_process_is_doing_is_left_out(
    ledger: Ledger, checkpoints: Path, quickly: Spec, caplog: pytest.LogCaptureFixture
) -> None:
    other = quickly.replace(seed=1)
    checkpoints.mkdir()
    holder = (
        "import sys; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, checkpoints / f"{quickly.hash}.lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with caplog.at_level(logging.INFO, "nbrepro"):
            records = run(planned(ledger, quickly, other), ledger)
        assert [record.spec for record in records] == [other]
        assert "another process is doing this run" in caplog.text
        process.communicate()  # ends it
    records = run(planned(ledger, quickly, other), ledger)
    assert [record.spec for record in records] == [quickly]


def test_sweeps_from_different_folders_share_the_locks_of_their_ledger(
    tmp_path: Path, ledger: Ledger, quickly: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One names the ledger as seen from its folder, the other in full."""
    here, there = tmp_path / "here", tmp_path / "there" / "deeper"
    for folder in (here, there):
        folder.mkdir(parents=True)
    doing = (
        "import json, sys\n"
        "from nbrepro.records.ledger import Ledger\n"
        "from nbrepro.spec import Spec\n"
        "from nbrepro.sweep.one import locked\n"
        "with locked(Spec.from_dict(json.loads(sys.argv[1])), Ledger('../../results')):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    monkeypatch.chdir(here)
    with subprocess.Popen(
        [sys.executable, "-c", doing, json.dumps(quickly.to_dict())],
        cwd=there,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        for mine in (Ledger(ledger.root.absolute()), Ledger("../results")):
            assert run(planned(mine, quickly), mine) == []
        process.communicate()
    assert len(run(planned(ledger, quickly), ledger)) == 1
    assert list(here.iterdir()) == list(there.iterdir()) == []


def test_a_run_that_ended_meanwhile_is_not_repeated(
    ledger: Ledger, checkpoints: Path, quickly: Spec
) -> None:
    stale = planned(ledger, quickly)
    run(planned(ledger, quickly), ledger)
    before = contents(ledger)
    assert run(stale, ledger) == []
    assert contents(ledger) == before


# --- failures ------------------------------------------------------------------------------------

ABSOLUTE_PATH = re.compile(r"(?<![\w.])/\w")


def test_a_failing_run_does_not_stop_the_others(
    ledger: Ledger, checkpoints: Path, quickly: Spec
) -> None:
    bad = quickly.replace(train="random:28")  # more than the 27 weights of a channel of the stem
    plan = planned(ledger, bad, quickly)
    records = run(plan, ledger)
    assert [record.status for record in records] == ["failed", "completed"]
    failed = ledger.find(bad)
    assert failed == records[0]
    assert failed.error is not None
    assert "Traceback (most recent call last):" in failed.error
    assert 'File "freezing.py", line' in failed.error
    assert "ValueError: random:28 asks for more weights than conv.weight has" in failed.error
    assert not ABSOLUTE_PATH.search(failed.error)
    assert failed.metrics == {}
    assert failed.provenance["data_fingerprint"] == "5ba4c266def42ea5"


def test_no_folder_of_this_machine_is_recorded(
    tmp_path: Path, ledger: Ledger, quickly: Spec
) -> None:
    """Not even where the error itself names one: here a folder stands where a file has to go."""
    ledger = Ledger(tmp_path / "my folder" / "results")
    (ledger.work / f"{quickly.hash}.pt").mkdir(parents=True)
    (record,) = run(planned(ledger, quickly), ledger)
    assert record.status == "failed"
    assert record.error is not None
    assert f"{quickly.hash}.pt" in record.error
    assert "my folder" not in record.error
    assert str(tmp_path) not in record.error
    assert not ABSOLUTE_PATH.search(record.error)


@pytest.mark.parametrize("together", [False, True], ids=["alone", "torchrun"])
def test_failed_runs_are_retried_on_request_only(
    ledger: Ledger,
    checkpoints: Path,
    quickly: Spec,
    monkeypatch: pytest.MonkeyPatch,
    together: bool,
) -> None:
    if together:
        monkeypatch.setenv("RANK", "0")
    failed = Record(quickly, "failed", {}, [], {}, "Traceback ...")
    path = ledger.write(failed)
    before = path.read_bytes()
    assert run(planned(ledger, quickly), ledger) == []
    assert path.read_bytes() == before
    (record,) = run(planned(ledger, quickly), ledger, retry_failed=True)
    assert record.status == "completed"
    assert ledger.scan() == ([record], [])


def test_damaged_record_is_run_again(ledger: Ledger, checkpoints: Path, quickly: Spec) -> None:
    run(planned(ledger, quickly), ledger)
    ledger.path(quickly).write_text("{")
    assert len(run(planned(ledger, quickly), ledger)) == 1
    assert ledger.scan()[1] == []


def test_missing_data_is_no_failed_run(
    tmp_path: Path, ledger: Ledger, checkpoints: Path, quickly: Spec
) -> None:
    plan = planned(ledger, quickly.replace(dataset="nowhere"), quickly)
    with pytest.raises(DataError, match="no folder"):
        run(plan, ledger, data_root=tmp_path)
    assert contents(ledger) == {}


def test_a_ledger_that_can_no_longer_be_written_keeps_the_checkpoint(
    ledger: Ledger, checkpoints: Path, quickly: Spec
) -> None:
    ledger.root.write_text("a file, not a folder")
    with pytest.raises(OSError, match=r"its record cannot be written .* checkpoint is kept"):
        sweep.run_one(quickly, SweepOptions(ledger=ledger, device="cpu"))
    assert (checkpoints / f"{quickly.hash}.pt").is_file()
    ledger.root.unlink()
    (record,) = run(planned(ledger, quickly), ledger)
    assert record.provenance["resumed_at_epoch"] == quickly.epochs


def test_a_gpu_that_is_not_there_is_refused_once(
    ledger: Ledger, quickly: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = SweepOptions(ledger=ledger, device="cuda")
    for start in (
        lambda: sweep.run(planned(ledger, quickly), options),
        lambda: sweep.run_one(quickly, options),
    ):
        with pytest.raises(ValueError, match="no usable CUDA GPU"):
            start()
    assert contents(ledger) == {}


def test_a_pattern_that_names_nothing_is_refused_before_any_run(
    ledger: Ledger, quickly: Spec
) -> None:
    """It would clip everything, in a record that says otherwise."""
    agc = {"model": "cifar_nf_resnet8", "train": "all", "clip": "agc"}
    good = quickly.replace(**agc)
    bad = quickly.replace(**agc, unclipped=("fc.weight", "*skip_gian"), seed=1)
    message = r"unclipped: '\*skip_gian' matches no name; nearest: .*skip_gain"
    options = SweepOptions(ledger=ledger, device="cpu")
    with pytest.raises(ValueError, match=message):
        run(planned(ledger, good, bad), ledger)
    with pytest.raises(ValueError, match=message):
        sweep.run_one(bad, options)
    assert contents(ledger) == {}
    assert sweep.run_one(good, options).status == "completed"


def test_one_run_that_is_recorded_is_not_done_again(ledger: Ledger, quickly: Spec) -> None:
    options = SweepOptions(ledger=ledger, device="cpu")
    first = sweep.run_one(quickly, options)
    before = contents(ledger)
    assert sweep.run_one(quickly, options) == first
    assert contents(ledger) == before


def test_a_failure_ends_all_of_several_processes(
    ledger: Ledger, quickly: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others may be waiting for this one; its record is written all the same."""
    monkeypatch.setenv("RANK", "0")
    bad = quickly.replace(train="random:28")
    with pytest.raises(SystemExit, match="random:28"):
        sweep.run_one(bad, SweepOptions(ledger=ledger, device="cpu"))
    assert [record.status for record in ledger.scan()[0]] == ["failed"]


def test_only_the_first_of_several_processes_writes(
    ledger: Ledger, quickly: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    record = sweep.run_one(quickly, SweepOptions(ledger=ledger, device="cpu"))
    assert record.status == "completed"
    assert contents(ledger) == {}


# --- estimates -----------------------------------------------------------------------------------


def test_estimate(quickly: Spec) -> None:
    def record(rate: float | None, **changes: Any) -> Record:
        spec = quickly.replace(**changes)
        return Record(spec, "completed", {}, [], {"images_per_second": rate})

    records = [record(500), record(500, seed=1), record(None, seed=2), record(9, train="all")]
    spec = quickly.replace(epochs=4, seed=7)
    assert sweep.estimate(spec, records) == pytest.approx(4 * 1_437 / 500)  # digits
    assert sweep.estimate(spec.replace(batch_size=8), records) is None
    assert sweep.estimate(spec.replace(train="gamma"), records) is None
    assert sweep.estimate(spec.replace(sam=0.05), records) is None
    assert sweep.estimate(spec, []) is None


def test_a_step_on_images_of_another_side_tells_nothing() -> None:
    run = Spec(model="cifar_resnet8", dataset="cifar10-jpeg-16px", epochs=3)
    known = [Record(run, "completed", {}, [], {"images_per_second": 100.0})]
    for name, images in (("cifar10-16px", 10_000), ("tiny-imagenet-50@16", 25_000)):
        assert sweep.estimate(run.replace(dataset=name), known) == 3 * images / 100
    for name in ("cifar10", "tiny-imagenet-50", "a-folder"):
        assert sweep.estimate(run.replace(dataset=name), known) is None


def test_a_pre_training_costs_once_and_nothing_where_its_weights_are_kept(tmp_path: Path) -> None:
    child = Spec(model="cifar_nf_resnet8", dataset="cifar10-16px", epochs=4, batch_size=64)
    child = child.replace(pretrained="tiny-imagenet-50@16:5")
    both = [child, child.replace(lr=0.2)]
    parent = child.parent
    assert parent
    assert parent == both[1].parent
    known = [
        Record(spec.replace(seed=1), "completed", {}, [], {"images_per_second": 100.0})
        for spec in (child, parent)
    ]
    tuning, training = 2 * 4 * 10_000 / 100, 5 * 25_000 / 100
    assert sweep.cost(both, known, tmp_path) == (tuning + training, 0)
    assert sweep.cost(both, known[:1], tmp_path) == (tuning, 1)
    (tmp_path / f"{parent.hash}.pt").touch()
    assert sweep.cost(both, known, tmp_path) == (tuning, 0)
    assert sweep.cost([], known, tmp_path) == (0, 0)


def test_plan_knows_what_is_recorded(ledger: Ledger, quickly: Spec) -> None:
    experiment = Experiment("study", "chapter", "title", lambda _: [quickly], {"quick": 3})
    measured = {"epoch": 0, "step": 0, "test_accuracy": 0.1}
    ledger.write(Record(quickly.replace(seed=1), "completed", measured, [measured], {}))
    plan = sweep.plan([experiment], "quick", ledger, dataset="digits")
    assert [p.missing for p in plan] == [True, False, True]


# --- order and cost ------------------------------------------------------------------------------


def recorded(item: Planned, accuracy: float = 0.4, **provenance: object) -> Record:
    metrics = {"test_accuracy": accuracy, "test_top5": 0.9}
    curve = [{"epoch": 0, "step": 0, "test_accuracy": x} for x in (0.1, accuracy)]
    return Record(item.spec, "completed", metrics, curve, provenance)


def clipping_plan(ledger: Ledger, seeds: int = 2) -> list[Planned]:
    return sweep.plan([experiments.get("adaptive_gradient_clipping")], "quick", ledger, seeds=seeds)


def test_what_no_claim_has_comes_first_then_the_fewest_seeds(ledger: Ledger) -> None:
    plan = clipping_plan(ledger)
    settles = sweep.settles([item.spec for item in plan], "quick")
    for item in plan:
        if "F2-d" in settles[item.spec.hash] and item.spec.seed == 0:
            ledger.write(recorded(item))
    fresh = clipping_plan(ledger)
    order = sweep.most_informative(fresh, ledger.scan()[0], "quick")
    assert sorted(order, key=str) == sorted(fresh, key=str)
    missing = [item for item in order if item.missing]
    untold = set(sweep.unsettled(ledger.scan()[0], ("not run",)))
    assert "F2-d" not in untold
    seen: Counter[Spec] = Counter(i.spec.replace(seed=0) for i in fresh if not i.missing)
    ranks = []
    for item in missing:
        arm = item.spec.replace(seed=0)
        tells = not untold.isdisjoint(settles[item.spec.hash]) and not seen[arm]
        ranks.append((not tells, seen[arm]))
        seen[arm] += 1
    assert ranks == sorted(ranks)
    assert set(ranks) == {(False, 0), (True, 0), (True, 1)}


def test_settles_names_the_claims_of_the_run(ledger: Ledger) -> None:
    settles = sweep.settles([item.spec for item in clipping_plan(ledger, seeds=1)], "quick")
    told = {claim for claims in settles.values() for claim in claims}
    assert {"F2-a", "F2-b", "F2-f-stages", "TR-1"} <= told
    assert "P-12" not in told
    assert "F2-a" in sweep.unsettled([])


def test_only_runs_of_a_profile_that_the_rule_accepts_settle_a_claim(ledger: Ledger) -> None:
    claim = claims.get("ACC-4")
    assert sweep.accepted(claim) == ("full",)
    experiment = experiments.get("training_only_batchnorm")
    for profile in experiments.PROFILES:
        specs = experiment.specs(profile, seeds=1)
        told = {name for names in sweep.settles(specs, profile).values() for name in names}
        assert ("ACC-4" in told) == (profile == "full")
        assert bool(told) == (profile != "smoke")


@pytest.mark.parametrize(
    ("claim", "profile", "dataset", "expected"),
    [
        ("ACC-20", "quick", "cifar10", True),
        ("ACC-20", "full", "cifar10-jpeg", True),
        ("ACC-4", "full", "cifar10", True),
        ("ACC-4", "quick", "cifar10", False),  # asks for the whole recipe
        ("ACC-4", "full", "cifar100", False),  # and for the paper's data
        ("ACC-19", "quick", "cifar100", True),
        ("ACC-19", "quick", "digits", False),  # they prove the code, and nothing else
        ("F2-d", "quick", "cifar10", False),  # another experiment
        ("PAR-1", "quick", "cifar10", False),
    ],
)
def test_runs_that_can_settle_a_claim(
    claim: str, profile: str, dataset: str, expected: bool
) -> None:
    study = experiments.get("training_only_batchnorm")
    told = sweep.settles(study.specs(profile, dataset, seeds=2), profile)
    assert any(claim in names for names in told.values()) == expected
    told = sweep.settles(study.specs("smoke"), profile)
    assert not any(claim in names for names in told.values())


def test_runs_that_start_from_a_network_trained_on_cifar10_settle_their_claim() -> None:
    specs = experiments.get("fine_tuning_back").specs("quick", "cifar10-jpeg", seeds=1)
    told = sweep.settles(specs, "quick")
    assert any("FT-NF-back" in names for names in told.values())


def test_a_run_that_two_experiments_share_is_planned_once(ledger: Ledger, quickly: Spec) -> None:
    other = quickly.replace(lr=0.2)
    one = Experiment("one", "chapter", "title", lambda _: [quickly], {"quick": 1})
    two = Experiment("two", "chapter", "title", lambda _: [quickly, other], {"quick": 1})
    assert [item.spec for item in sweep.plan([one, two], "quick", ledger)] == [quickly, other]


def test_cost_comes_from_the_latest_run_that_does_the_same_work(ledger: Ledger) -> None:
    plan = clipping_plan(ledger, seeds=1)
    first = plan[0]
    same = next(i for i in plan if i.spec.model == first.spec.model and i.spec.lr != first.spec.lr)
    other = next(
        i for i in plan if i.spec.model == first.spec.model
        and i.spec.batch_size != first.spec.batch_size
    )  # fmt: skip
    old = recorded(first, images_per_second=10.0, finished="2026-01-01")
    new = recorded(same, images_per_second=1000.0, finished="2026-02-01")
    for records in ([old, new], [new, old]):
        assert sweep.estimate(first.spec, records) == first.spec.epochs * 10_000 / 1000
    assert sweep.estimate(other.spec, [old, new]) is None

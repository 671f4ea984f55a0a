import json
import math
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from nbrepro.records import ledger as ledger_module
from nbrepro.records.ledger import Ledger, Record, default_root
from nbrepro.records.provenance import provenance
from nbrepro.spec import Spec

SHIPPED = Path(__file__).parents[1] / "results"


def make(seed: int = 0, status: str = "completed", **changes: Any) -> Record:
    failed = status == "failed"
    values: dict[str, Any] = {
        "spec": Spec(model="cifar_resnet14", train="batchnorm", milestones=(0.25, 0.5), seed=seed),
        "status": status,
        "metrics": {} if failed else {"test_accuracy": 0.4756, "test_loss": 1.46},
        "curve": [] if failed else [{"epoch": 0, "step": 0, "test_accuracy": 0.1}],
        "provenance": {"device": "Größer ×1", "seconds": 12.5, "dirty": None},
        "error": 'Traceback\n  File "a.py", line 1\nValueError: “no”' if failed else None,
    }
    return Record(**(values | changes))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "results")


def files(ledger: Ledger) -> list[str]:
    return sorted(p.name for p in ledger.root.rglob("*") if p.is_file())


@pytest.mark.parametrize("status", ["completed", "diverged", "failed"])
def test_round_trip(ledger: Ledger, status: str) -> None:
    record = make(status=status)
    path = ledger.write(record)
    assert path == ledger.root / "runs" / f"{record.spec.hash}.json"
    assert ledger.find(record.spec) == record
    assert ledger.scan() == ([record], [])
    assert files(ledger) == [path.name]
    assert Record.from_json(record.to_json()) == record


def test_record_is_plain_json_that_git_can_merge(ledger: Ledger) -> None:
    text = ledger.write(make()).read_text(encoding="utf-8")
    body = json.loads(text)
    assert body["schema"] == 2
    assert "experiment" not in body
    assert body["hash"] == make().spec.hash
    assert body["spec"] == make().spec.to_dict()
    assert len(text.splitlines()) > 20
    assert text.endswith("}\n")
    assert text == make().to_json()


def test_other_people_can_read_a_record(ledger: Ledger) -> None:
    assert ledger.write(make()).stat().st_mode & 0o777 == 0o644


def test_scan_finds_every_run_once(ledger: Ledger) -> None:
    for record in (make(), make(seed=1), make()):
        ledger.write(record)
    assert len(files(ledger)) == 2
    assert {r.spec.seed for r in ledger.scan()[0]} == {0, 1}
    assert ledger.find(make(seed=2).spec) is None


def test_empty_ledger(ledger: Ledger) -> None:
    assert ledger.find(make().spec) is None
    ledger.check_writable()
    assert ledger.scan() == ([], [])
    assert ledger.find(make().spec) is None


@pytest.mark.parametrize("how", ["argument", "environment", "nobody named it"])
@pytest.mark.parametrize("fault", ["missing", "a file"])
def test_a_ledger_that_is_not_there_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, fault: str
) -> None:
    root = tmp_path / "results"
    if fault == "a file":
        root.touch()
    if how == "environment":
        monkeypatch.setenv("NBREPRO_RESULTS", str(root))
    monkeypatch.chdir(tmp_path)
    ledger = Ledger(root) if how == "argument" else Ledger()
    with pytest.raises(OSError, match=re.escape(f"the ledger {root} cannot be read (No")):
        ledger.scan()


def forbidding(folder: Path, listing: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def listed(path: Any = ".") -> Any:
        if Path(path).resolve() == folder:
            raise PermissionError(13, "Permission denied")
        return listing(path)

    return listed


@pytest.mark.parametrize("hidden", [".", "runs"])
def test_a_ledger_that_may_not_be_read_is_no_empty_one(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, hidden: str
) -> None:
    ledger.write(make())
    folder = (ledger.root / hidden).resolve()
    for name in ("listdir", "scandir"):  # the superuser may read everything
        monkeypatch.setattr(os, name, forbidding(folder, getattr(os, name)))
    with pytest.raises(OSError, match=re.escape(f"ledger {folder} cannot be read (Permission")):
        ledger.scan()


@pytest.mark.parametrize(
    ("named", "hint"),
    [
        ("results/runs", "did you mean {}/results?"),
        (".", "did you mean results?"),
        ("book", "name another with --results"),
    ],
)
def test_a_folder_beside_the_ledger_is_no_empty_one(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, hint: str
) -> None:
    ledger.write(make())
    ledger.work.mkdir()
    (tmp_path / "book").mkdir()
    monkeypatch.chdir(tmp_path)
    expected = f"{tmp_path / named} is no ledger: it has no folder runs with records; "
    with pytest.raises(OSError, match=re.escape(expected)) as caught:
        Ledger(tmp_path / named if "{}" in hint else named).scan()
    assert hint.format(tmp_path) in str(caught.value)


def test_a_ledger_of_timings_has_no_records(ledger: Ledger) -> None:
    (ledger.root / "benchmarks").mkdir(parents=True)
    assert ledger.scan() == ([], [])


def test_locks_and_checkpoints_go_with_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    absolute, relative = Ledger(tmp_path / "results"), Ledger("../results")
    assert absolute.work == relative.work == tmp_path / "runs"


def test_what_is_run_again_shares_no_checkpoints_with_the_first_time(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "again").work == tmp_path / "again-runs"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_become_null(ledger: Ledger, value: float) -> None:
    record = make(
        status="diverged",
        metrics={"test_loss": value, "test_accuracy": 0.1},
        curve=[{"epoch": 1, "step": 9, "train_loss": value, "test_accuracy": 0.1}],
    )

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    text = ledger.write(record).read_text()
    assert json.loads(text, parse_constant=refuse)["metrics"]["test_loss"] is None
    found = ledger.find(record.spec)
    assert found is not None
    assert found.metrics == {"test_loss": None, "test_accuracy": 0.1}
    assert found.curve == [{"epoch": 1, "step": 9, "train_loss": None, "test_accuracy": 0.1}]


# --- damage --------------------------------------------------------------------------------------


def altered(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    def alter(text: str) -> str:
        body = json.loads(text)
        change(body)
        return json.dumps(body, indent=1)

    return alter


DAMAGE: dict[str, tuple[Callable[[str], str], str]] = {
    "empty": (lambda text: "", ""),
    "cut": (lambda text: text[: len(text) // 2], ""),
    "not JSON": (lambda text: "hello", ""),
    "a list": (lambda text: "[]", "not a run record"),
    "a number": (lambda text: "1", "not a run record"),
    "other JSON": (lambda text: '{"a": 1}', "not a run record"),
    "merge conflict": (lambda text: f"<<<<<<< ours\n{text}=======\n{text}>>>>>>> theirs\n", ""),
    "too deep": (lambda text: "[" * 100_000, "nested too deeply"),
    "no digest": (altered(lambda b: b.pop("digest")), "digest"),
    "earlier schema": (altered(lambda b: b.update(schema=0)), "this nbrepro reads 1 and 2"),
    "better number": (altered(lambda b: b["metrics"].update(test_accuracy=0.93)), "digest"),
    "other spec": (altered(lambda b: b["spec"].update(lr=0.2)), "digest"),
    "other status": (altered(lambda b: b.update(status="diverged")), "digest"),
    "missing field": (altered(lambda b: b.pop("curve")), "digest"),
    "added field": (altered(lambda b: b.update(note="fine")), "digest"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_record_is_reported_and_not_trusted(ledger: Ledger, damage: str) -> None:
    spoil, reason = DAMAGE[damage]
    path = ledger.write(make())
    sound = make(seed=1)
    ledger.write(sound)
    path.write_text(spoil(path.read_text()))
    assert ledger.find(make().spec) is None
    records, (damaged,) = ledger.scan()
    assert records == [sound]
    assert damaged.path == path
    assert reason in damaged.reason
    assert str(path) in str(damaged)


def test_a_record_of_a_later_schema_is_neither_trusted_nor_replaced(ledger: Ledger) -> None:
    """An old nbrepro in a new ledger must not do the runs again over what it cannot read."""
    path = ledger.write(make())
    path.write_text(altered(lambda b: b.update(schema=3))(path.read_text()))
    later = path.read_text()
    _, (damaged,) = ledger.scan()
    assert "upgrade nbrepro" in str(damaged)
    with pytest.raises(ValueError, match="upgrade nbrepro"):
        ledger.find(make().spec)
    with pytest.raises(ValueError, match="upgrade nbrepro"):
        ledger.write(make())
    assert path.read_text() == later


def test_damaged_record_is_replaced_by_a_new_run(ledger: Ledger) -> None:
    path = ledger.write(make())
    path.write_text("{")
    ledger.write(make())
    assert ledger.scan() == ([make()], [])


def nested(depth: int) -> dict[str, Any]:
    deep: dict[str, Any] = {}
    for _ in range(depth):
        deep = {"deeper": deep}
    return deep


SIGNED_ANEW: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no metrics": (lambda b: b.update(metrics={}), "metrics has no test_accuracy"),
    "metrics in a list": (lambda b: b.update(metrics=[1]), "metrics is [1]; expected a mapping"),
    "a text": (lambda b: b["metrics"].update(test_loss="low"), "test_loss of metrics is 'low'"),
    "a truth value": (lambda b: b["metrics"].update(test_loss=True), "test_loss of metrics is T"),
    "not a number": (lambda b: b["metrics"].update(test_loss=math.nan), "test_loss of metrics"),
    "huge": (lambda b: b["metrics"].update(test_loss=10**400), "test_loss of metrics is 1000"),
    "accurate": (lambda b: b["metrics"].update(test_accuracy=47.56), "number between 0 and 1"),
    "no accuracy": (lambda b: b["metrics"].update(test_accuracy=None), "has no test_accuracy"),
    "no curve": (lambda b: b.update(curve=[]), "curve is empty, and the run is said to have c"),
    "curve of numbers": (lambda b: b.update(curve=[1]), "row 0 of curve is 1"),
    "no step": (lambda b: b["curve"][0].pop("step"), "row 0 of curve has no step"),
    "nested": (lambda b: b["provenance"].update(x=nested(4)), "x of provenance is nested"),
    "deep": (lambda b: b["provenance"].update(x=nested(500)), "x of provenance is nested"),
    "too deep": (lambda b: b["provenance"].update(x="DEEP"), "nested too deeply"),
    "provenance": (lambda b: b.update(provenance=None), "provenance is None; expected a mapping"),
    "speed": (lambda b: b["provenance"].update(images_per_second="9"), "images_per_second of"),
    "error": (lambda b: b.update(error=7), "error is 7; expected text or null"),
    "status": (lambda b: b.update(status="done"), "status is 'done', not completed or diverged"),
    "spec": (lambda b: b.update(spec=["cifar_resnet14"]), "spec is ['cifar_resnet14']"),
    "setting": (lambda b: b["spec"].update(lrr=1), "unknown setting 'lrr'; did you mean 'lr'?"),
    "no model": (lambda b: b["spec"].pop("model"), "model"),
    "other settings": (lambda b: b["spec"].update(lr=0.2), "is not the spec's"),
    "entry": (lambda b: b.update(note="fine"), "unknown entry 'note'"),
    "no provenance": (lambda b: b.pop("provenance"), "provenance is missing"),
    "experiment": (lambda b: b.update(schema=1), "experiment is missing"),
}


@pytest.mark.parametrize("change", SIGNED_ANEW)
def test_a_right_digest_makes_no_record(ledger: Ledger, change: str) -> None:
    """Whoever can write a file can sign it too; what is no record is refused in one line."""
    alter, reason = SIGNED_ANEW[change]
    path = ledger.write(make())
    body = json.loads(path.read_text())
    del body["digest"]
    alter(body)
    text = json.dumps(body | {"digest": ledger_module._digest(body)})
    path.write_text(text.replace('"DEEP"', '{"deeper":' * 50_000 + "{}" + "}" * 50_000))
    assert ledger.find(make().spec) is None
    records, (damaged,) = ledger.scan()
    assert records == []
    assert reason in damaged.reason
    assert "\n" not in damaged.reason


def test_no_flipped_bit_is_believed(ledger: Ledger) -> None:
    """One bit in every byte in turn: the record is refused, or still says what it said."""
    path = ledger.write(make())
    content = path.read_bytes()
    believed = 0
    for position in range(len(content)):
        spoilt = bytearray(content)
        spoilt[position] ^= 1 << position % 8
        path.write_bytes(spoilt)
        found = ledger.find(make().spec)
        assert found in (None, make()), position
        assert len(ledger.scan()[0]) + len(ledger.scan()[1]) == 1
        believed += found is not None
    assert believed < len(content) // 4  # spaces and line ends do not matter, the rest does


def test_no_shortened_record_is_believed(ledger: Ledger) -> None:
    path = ledger.write(make())
    content = path.read_bytes()
    for length in range(len(content) - 2):
        path.write_bytes(content[:length])
        assert ledger.find(make().spec) is None, length


def test_record_under_the_wrong_name(ledger: Ledger) -> None:
    path = ledger.write(make())
    wrong = ledger.path(make(seed=7).spec)
    shutil.copy(path, wrong)
    records, (damaged,) = ledger.scan()
    assert records == [make()]
    assert damaged.path == wrong
    assert make().spec.hash in damaged.reason
    assert ledger.find(make(seed=7).spec) is None


def test_folder_where_a_record_should_be(ledger: Ledger) -> None:
    path = ledger.path(make().spec)
    path.mkdir(parents=True)
    assert ledger.find(make().spec) is None
    assert [d.path for d in ledger.scan()[1]] == [path]
    with pytest.raises(OSError, match=path.name):
        ledger.write(make())
    assert files(ledger) == []


def test_what_could_not_be_read_again_is_not_written(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="done"):
        ledger.write(make(status="done"))
    assert files(ledger) == []


# --- the earlier schema and layout ----------------------------------------------------------------


def earlier(root: Path, experiment: str = "study", record: Record | None = None) -> Path:
    """A record of schema 1, which names its experiment, in the experiment's folder."""
    body = json.loads((record or make()).to_json())
    del body["digest"]
    body |= {"schema": 1, "experiment": experiment}
    path = root / experiment / f"{body['hash']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body | {"digest": ledger_module._digest(body)}, indent=1))
    return path


def migrate(root: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SHIPPED.parent / "scripts" / "migrate_ledger.py"), str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_record_of_the_earlier_schema(ledger: Ledger) -> None:
    """Its digest covers the experiment's name, which is no longer used and still protected."""
    path = ledger.path(make().spec)
    path.parent.mkdir(parents=True)
    earlier(ledger.root).rename(path)
    (ledger.root / "study").rmdir()
    text = path.read_text()
    assert ledger.scan() == ([make()], [])
    path.write_text(text.replace('"study"', '"other"'))
    _, (damaged,) = ledger.scan()
    assert "digest" in damaged.reason


def test_the_earlier_layout_is_not_taken_for_an_empty_ledger(ledger: Ledger) -> None:
    path = earlier(ledger.root)
    records, (damaged,) = ledger.scan()
    assert records == []
    assert damaged.path == path.parent
    remedy = f"python scripts/migrate_ledger.py {ledger.root}"
    assert remedy in damaged.reason
    with pytest.raises(ValueError, match=re.escape(remedy)):
        ledger.check_writable()


def test_migration_moves_records_byte_for_byte(ledger: Ledger) -> None:
    first = earlier(ledger.root, "study").read_bytes()
    other = earlier(ledger.root, "other", make(seed=1)).read_bytes()
    (ledger.root / "benchmarks").mkdir()
    (ledger.root / "benchmarks" / "agc-cpu.json").write_text("{}")
    done = migrate(ledger.root)
    assert (done.returncode, done.stdout) == (0, "2 records moved, 0 second copies deleted\n")
    assert ledger.path(make().spec).read_bytes() == first
    assert ledger.path(make(seed=1).spec).read_bytes() == other
    assert sorted(path.name for path in ledger.root.iterdir()) == ["benchmarks", "runs"]
    assert migrate(ledger.root).stdout.startswith("0 records moved")


@pytest.mark.parametrize("older", ["a", "b"])
def test_migration_keeps_the_older_of_two_equal_records(ledger: Ledger, older: str) -> None:
    for name in ("a", "b"):
        finished = f"2026-0{1 if name == older else 2}-01T00:00:00+00:00"
        earlier(ledger.root, name, make(provenance={"finished": finished}))
    assert migrate(ledger.root).stdout == "1 records moved, 1 second copies deleted\n"
    (record,), damaged = ledger.scan()
    assert damaged == []
    assert record.provenance["finished"].startswith("2026-01")


def test_migration_does_not_choose_between_different_curves(ledger: Ledger) -> None:
    earlier(ledger.root, "a")
    left = earlier(ledger.root, "b", make(curve=[{"epoch": 0, "step": 0, "test_accuracy": 0.2}]))
    done = migrate(ledger.root)
    assert done.returncode == 1
    assert f"{left}: another curve than" in done.stderr
    assert left.exists()
    assert ledger.path(make().spec).exists()


# --- writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["completed", "diverged"])
@pytest.mark.parametrize("second", ["completed", "diverged", "failed"])
def test_a_result_is_never_replaced(ledger: Ledger, first: str, second: str) -> None:
    path = ledger.write(make(status=first))
    before = path.read_bytes()
    ledger.write(make(status=second, provenance={"device": "another"}))
    assert path.read_bytes() == before


@pytest.mark.parametrize("second", ["completed", "diverged", "failed"])
def test_a_failed_run_is_replaced(ledger: Ledger, second: str) -> None:
    ledger.write(make(status="failed"))
    later = make(status=second, provenance={"device": "another"})
    ledger.write(later)
    assert ledger.scan() == ([later], [])


@pytest.mark.parametrize("fails", ["replace", "fsync"])
def test_failing_write_loses_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path = ledger.write(make(status="failed"))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(os, fails, full)
        with pytest.raises(OSError, match="No space left"):
            ledger.write(make())
    assert files(ledger) == [path.name]
    assert path.read_bytes() == before
    ledger.write(make())
    assert ledger.find(make().spec) == make()


def write_many(root: Path, start: Any, writer: int) -> None:
    """Ten records that another process writes as well, and ten of this one's own."""
    ledger = Ledger(root)
    start.wait()
    for seed in [*range(10), *range(100 * writer, 100 * writer + 10)]:
        ledger.write(make(seed, provenance={"device": f"writer {writer}" * 1000}))


def test_two_writers_at_once(ledger: Ledger) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    writers = [
        context.Process(target=write_many, args=(ledger.root, start, number)) for number in (1, 2)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    records, damaged = ledger.scan()
    assert damaged == []
    expected = {*range(10), *range(100, 110), *range(200, 210)}
    assert sorted(record.spec.seed for record in records) == sorted(expected)
    assert len(files(ledger)) == 30


# --- places and provenance ------------------------------------------------------------------------


def test_default_root_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBREPRO_RESULTS", str(tmp_path / "mine"))
    assert default_root() == tmp_path / "mine"
    assert Ledger().root == tmp_path / "mine"
    assert Ledger(tmp_path / "given").root == tmp_path / "given"


@pytest.mark.parametrize("inside", [".", "book", "book/deeper"])
def test_default_root_is_that_of_the_book(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    (tmp_path / inside).mkdir(parents=True, exist_ok=True)
    (tmp_path / "results").mkdir()
    (tmp_path / "_toc.yml").touch()
    (tmp_path / "book").mkdir(exist_ok=True)
    (tmp_path / "book" / "_toc.yml").touch()  # a link to the upper one, without results beside it
    monkeypatch.chdir(tmp_path / inside)
    assert default_root().resolve() == (tmp_path / "results").resolve()


def test_default_root_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")  # a folder called results alone does not make a book
    assert default_root().resolve() == (tmp_path / "sub" / "results").resolve()


ABSOLUTE_PATH = re.compile(r"(?<![\w.])/\w")


def test_provenance_names_versions_and_no_folders() -> None:
    found = provenance()
    assert set(found) == {"commit", "dirty", "versions", "platform", "finished"}
    assert {"python", "torch", "nbrepro", "accelerate", "numpy"} <= set(found["versions"])
    assert not ABSOLUTE_PATH.search(json.dumps(found))


def test_the_ledger_that_ships_is_sound() -> None:
    records, damaged = Ledger(SHIPPED).scan()
    assert [str(d) for d in damaged] == []
    assert len(records) >= 194
    assert not [r for r in records if r.status == "failed"]
    for record in records:
        assert record.provenance["data_fingerprint"]
        assert not ABSOLUTE_PATH.search(json.dumps(record.provenance))


SCHEMA = json.loads((Path(ledger_module.__file__).parent / "schema.json").read_text())


def test_the_ledger_that_ships_follows_the_schema() -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    validator.check_schema(SCHEMA)
    paths = list((SHIPPED / "runs").glob("*.json"))
    assert paths
    for path in paths:
        validator.validate(json.loads(path.read_text()))


@pytest.mark.parametrize("status", ["completed", "diverged", "failed"])
def test_what_is_written_follows_the_schema(status: str) -> None:
    jsonschema.validate(json.loads(make(status=status).to_json()), SCHEMA)


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": "finished"},
        {"experiment": "study"},  # named by schema 1 only
        {"note": "fine"},
        {"hash": "0123"},
        {"status": "failed"},  # without saying why
        {"metrics": {"test_accuracy": "0.4"}},
        {"curve": [{"test_accuracy": 0.1}]},  # of which epoch?
    ],
    ids=str,
)
def test_the_schema_refuses(wrong: dict[str, Any]) -> None:
    body = json.loads(make().to_json()) | wrong
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body, SCHEMA)

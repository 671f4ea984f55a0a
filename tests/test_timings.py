"""Timings on disk: ratios round by round, one file per benchmark and device."""

import json
from functools import partial
from pathlib import Path

import pytest

from nbrepro.records import timings
from nbrepro.records.ledger import Ledger


def test_every_case_takes_one_turn_per_round_in_a_shuffled_order() -> None:
    turns: list[str] = []

    def case(name: str, seconds: float) -> float:
        turns.append(name)
        return seconds

    cases = {name: partial(case, name, float(ord(name))) for name in "abc"}
    times = timings.rounds(cases, 20)
    assert times == {name: [float(ord(name))] * 20 for name in "abc"}
    by_round = {tuple(turns[start : start + 3]) for start in range(0, 60, 3)}
    assert all(sorted(order) == ["a", "b", "c"] for order in by_round)
    assert len(by_round) > 1

    first = turns.copy()
    turns.clear()
    timings.rounds(cases, 20)
    assert turns == first, "the orders are those of the seed"


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that is twice as slow in one round slows both: the ratio stays."""
    row = timings.ratios([2.0, 4.0, 2.0, 2.0], [1.0, 2.0, 1.0, 1.0])
    assert row == {"ratio": 2.0, "low": 2.0, "high": 2.0, "rounds": 4}


def test_the_range_holds_the_middle_of_the_rounds() -> None:
    row = timings.ratios([float(n) for n in range(1, 42)], [1.0] * 41)
    assert row["ratio"] == 21.0
    assert (row["low"], row["high"]) == (2.0, 40.0)


@pytest.mark.parametrize(("slow", "fast"), [([1.0], [1.0]), ([1.0, 2.0], [1.0])])
def test_rounds_must_match(slow: list[float], fast: list[float]) -> None:
    with pytest.raises(ValueError, match="rounds"):
        timings.ratios(slow, fast)


def test_written_and_read_and_written_again(tmp_path: Path) -> None:
    rows = {"case": timings.ratios([2.0, 2.0], [1.0, 1.0])}
    for _ in range(2):
        path = timings.write("speed", "cpu", rows, tmp_path)
    (found,) = timings.read(tmp_path)
    assert (found.name, found.on_gpu, found.rows) == ("speed", False, rows)
    assert found.hardware
    assert found.provenance["threads"] >= 1
    assert path.parent == tmp_path / "benchmarks"


def test_timings_are_no_damaged_runs(tmp_path: Path) -> None:
    timings.write("speed", "cpu", {}, tmp_path)
    assert Ledger(tmp_path).scan() == ([], [])


def test_a_file_that_is_no_benchmark_is_named(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "odd.json").write_text("{}")
    with pytest.raises(ValueError, match=r"odd\.json is no benchmark record"):
        timings.read(tmp_path)


def test_a_record_typed_by_hand_is_refused_by_name(tmp_path: Path) -> None:
    path = timings.write("speed", "cpu", {"case": {"ratio": 2.0}}, tmp_path)
    body = json.loads(path.read_text())
    del body["digest"]
    path.write_text(json.dumps(body | {"hardware": "My keyboard"}))
    with pytest.raises(ValueError, match=rf"{path.name} has no digest.*run benchmarks/speed\.py"):
        timings.read(tmp_path)


@pytest.mark.parametrize("key", ["benchmark", "hardware", "on_gpu", "rows", "provenance"])
def test_an_altered_record_is_refused_by_name(tmp_path: Path, key: str) -> None:
    path = timings.write("speed", "cpu", {"case": {"ratio": 2.0}}, tmp_path)
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {key: "another"}))
    with pytest.raises(ValueError, match=rf"{path.name} does not match its digest"):
        timings.read(tmp_path)


def test_the_records_that_ship_are_sound() -> None:
    assert timings.read(Path(__file__).parents[1] / "results")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.31, "0.3 s"), (12.4, "12 s"), (89, "89 s"), (480, "8 min"), (5760, "1.6 h")],
)
def test_durations_for_readers(seconds: float, said: str) -> None:
    assert timings.duration(seconds) == said

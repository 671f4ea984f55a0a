"""Damage at random, a little of each kind; ``fuzz.py`` does it for an hour."""

import json
import random
from pathlib import Path

import fuzz
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbrepro.records.ledger import _digest


@pytest.mark.parametrize("kind", fuzz.KINDS)
@settings(max_examples=60)
@given(number=st.integers(0, 10**6))
def test_what_is_damaged_is_refused_or_read_as_it_was_written(kind: str, number: int) -> None:
    assert fuzz.run(kind, number) != fuzz.FAULT


def test_a_fault_is_counted_and_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def believes_anything(chance: random.Random) -> str:
        """A reader without a digest."""
        assert chance.random() < 0.5, "another value is believed"
        return fuzz.UNHARMED

    monkeypatch.setitem(fuzz.KINDS, "settings", believes_anything)
    tallies = [fuzz.fuzz(["settings"], first, seconds=0) for first in range(40)]
    faults = sum(found for _, found in tallies)
    assert 5 < faults < 35
    assert capsys.readouterr().out.count("another value is believed") >= faults
    assert "| A reader without a digest | 3 | 0 | 2 | 1 |" in fuzz.table(
        {"settings": {fuzz.UNHARMED: 2, fuzz.FAULT: 1}}
    )


def test_the_page_has_the_last_long_run() -> None:
    root = Path(__file__).parents[1]
    body = json.loads((root / "results" / "fuzz.json").read_text(encoding="utf-8"))
    assert body.pop("digest") == _digest(body)
    assert list(body["counts"]) == list(fuzz.KINDS)
    page = (root / "book" / "records.md").read_text(encoding="utf-8")
    assert fuzz.table(body["counts"]) in page

"""Records run again, to the last digit: the script, and what the page says of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import loaded

from nbrepro.records.ledger import Ledger, Record, _digest
from nbrepro.spec import Spec
from nbrepro.sweep import SweepOptions, run_one

ROOT = Path(__file__).parents[1]


RERUN = loaded(ROOT / "scripts" / "rerun.py")


def recorded(spec: Spec, ledger: Ledger) -> Record:
    run_one(spec, SweepOptions(ledger=ledger, device="cpu", progress=False))
    ((record,), _) = ledger.scan()
    return record


@pytest.mark.parametrize("lr", [0.1, 1e9], ids=["completed", "diverged"])
def test_a_record_is_the_same_again(spec: Spec, ledger: Ledger, lr: float) -> None:
    record = recorded(spec.replace(train="output", batch_size=500, lr=lr), ledger)
    row = RERUN.rerun(record)
    assert row["found"] == "the same"
    assert row["on"] == row["again_on"]


def test_what_differs_is_found(spec: Spec, ledger: Ledger) -> None:
    record = recorded(spec.replace(train="output", batch_size=500), ledger)
    curve = [dict(row) for row in record.curve]
    curve[1]["test_loss"] += 1e-6
    for other, expected in (
        ({"curve": curve}, "another curve from epoch 1 on"),
        ({"curve": record.curve[:-1]}, "another end"),
        ({"status": "diverged"}, "another end"),
        ({"metrics": record.metrics | {"test_accuracy": 1.0}}, "another end"),
        ({"metrics": record.metrics | {"newer": 1.0}}, "the same"),
    ):
        assert RERUN.compared(record, replace(record, **other)) == expected


def test_the_page_has_the_stored_table() -> None:
    body = json.loads((ROOT / "results" / "reruns.json").read_text(encoding="utf-8"))
    assert body.pop("digest") == _digest(body)
    assert list(body["rows"]) == list(RERUN.SAMPLE)
    assert body["provenance"]["dirty"] is False
    page = (ROOT / "book" / "records.md").read_text(encoding="utf-8")
    assert RERUN.table(body["rows"]) in page

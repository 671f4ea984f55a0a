"""Networks drawn again from their records: the script, and the table of chapter 8."""

import json
from html import unescape
from pathlib import Path

import pytest
from conftest import loaded

from nbrepro import data
from nbrepro.book.redrawn import redrawn_table
from nbrepro.records import features
from nbrepro.records.ledger import Ledger, _digest
from nbrepro.spec import Spec
from nbrepro.sweep import SweepOptions, run_one

ROOT = Path(__file__).parents[1]
REDRAW = loaded(ROOT / "scripts" / "redraw.py")


def test_a_network_drawn_again_is_as_good_as_recorded(ledger: Ledger) -> None:
    spec = Spec(
        model="cifar_resnet8", train="batchnorm", dataset="digits", augmentation="none", epochs=3
    )
    run_one(spec, SweepOptions(ledger=ledger, device="cpu", progress=False))
    ((record,), _) = ledger.scan()
    kept = features.read(ledger.root, spec.hash)
    assert kept
    found = REDRAW.row(record, kept, data.load("digits"))
    assert found["recorded"] == record.metrics["test_accuracy"]
    assert found["test"] == pytest.approx(found["recorded"], abs=0.05)
    assert found["train"] == pytest.approx(record.metrics["train_accuracy"], abs=0.1)
    assert found["numbers"] == sum(len(layer.gamma) + len(layer.beta) for layer in kept.layers)


def test_the_stored_rows_are_of_records_and_the_page_shows_them() -> None:
    body = json.loads((ROOT / "results" / "redrawn.json").read_text(encoding="utf-8"))
    assert body.pop("digest") == _digest(body)
    assert body["provenance"]["dirty"] is False
    records = {record.spec.hash: record for record in Ledger(ROOT / "results").scan()[0]}
    shown = unescape(str(redrawn_table().data))
    for run, row in body["rows"].items():
        assert row["recorded"] == records[run].metrics["test_accuracy"]
        assert row["seed"] == records[run].spec.seed
        assert f"{100 * row['test']:.1f}" in shown

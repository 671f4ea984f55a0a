"""The table of simulated null experiments."""

import json
from html import unescape
from pathlib import Path

from nbrepro.book.chance import null_table

ROOT = Path(__file__).parents[1]


def test_every_simulated_question_has_its_row() -> None:
    shown = unescape(str(null_table().data))
    body = json.loads((ROOT / "results/null_experiments.json").read_text(encoding="utf-8"))
    assert shown.count("<tr>") == len(body["rows"]) + 1
    assert f"{body['simulations']:,} simulated experiments" in shown
    for case, wrong in body["rows"].items():
        assert case in shown
        assert f"{100 * wrong['reproduced']:.1f} %" in shown

"""What ``nbrepro verify`` says of a claim, to readers and to machines."""

import dataclasses
import json
from pathlib import Path

import pytest

from nbrepro import claims, cli
from nbrepro.claims import verdicts
from nbrepro.claims.report import drift, in_words, lines, report
from nbrepro.records.ledger import Ledger

ROOT = Path(__file__).parents[1]


def test_every_rule_has_words() -> None:
    for claim in claims.register().values():
        asked = in_words(claim.rule)
        assert bool(asked) == bool(claim.rule), claim.id
        assert all("inf" not in words.split() for words in asked), claim.id


def test_a_report_names_rule_runs_and_both_answers(capsys: pytest.CaptureFixture[str]) -> None:
    records, _ = Ledger(ROOT / "results").scan()
    verdict = verdicts.judge(claims.get("ACC-22"), records)
    found = report(verdict, records)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    text = "\n".join(lines(found))
    assert "rule: ResNet-32 over ResNet-14 ×2 (BatchNorm only) lies above 0 points" in text
    assert len(found["runs"]) == len(verdict.records)
    for run in found["runs"]:
        assert f"run: {run['arm']}, seed {run['seed']}: {100 * run['accuracy']:.2f} %" in text
        assert (ROOT / "results" / run["file"]).is_file()
    assert str(verdict.findings[0]) in text

    assert cli.main(["verify", "ACC-22", "--json", "--results", str(ROOT / "results")]) == 0
    assert json.loads(capsys.readouterr().out) == [found]


def test_a_page_that_says_something_else_is_named(tmp_path: Path) -> None:
    records, _ = Ledger(ROOT / "results").scan()
    verdict = verdicts.judge(claims.get("ACC-14"), records)
    claim_cell = '<td><span class="claim-id">ACC-14</span></td>'
    stored = f'<tr>{claim_cell}<td><span class="verdict verdict-yes">{{}}</span></td></tr>'
    page = tmp_path / "scorecard.ipynb"
    for said in (verdict.verdict, "contradicted"):
        output = {"data": {"text/html": stored.format(said)}}
        page.write_text(json.dumps({"cells": [{"outputs": [output]}]}))
        told = drift([verdict], page)
        assert told == (
            []
            if said == verdict.verdict
            else [f"ACC-14 is {verdict.verdict}, the stored scorecard says contradicted"]
        )
    other = dataclasses.replace(verdict, claim=claims.get("ACC-21"))
    assert "the stored scorecard says None" in drift([other], page)[0]

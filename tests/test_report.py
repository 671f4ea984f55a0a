"""What ``nbrepro verify`` says of a claim, to readers and to machines."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from nbrepro import claims, cli, experiments
from nbrepro.claims import verdicts
from nbrepro.claims.report import drift, in_words, lines, report
from nbrepro.records.ledger import Ledger, Record

ROOT = Path(__file__).parents[1]


def test_every_rule_has_words() -> None:
    for claim in claims.register().values():
        asked = in_words(claim.rule)
        assert bool(asked) == bool(claim.rule), claim.id
        assert all("inf" not in words.split() for words in asked), claim.id


def test_a_report_names_rule_runs_and_both_answers(capsys: pytest.CaptureFixture[str]) -> None:
    records, _ = Ledger(ROOT / "results").scan()
    rows = verdicts.judge_all(claims.get("ACC-22"), records)
    verdict = rows[0]
    found = report(rows, records)
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


def test_runs_are_listed_by_network_and_with_what_is_asked_of_them() -> None:
    records, _ = Ledger(ROOT / "results").scan()
    rows = verdicts.judge_all(claims.get("ACC-19"), records)
    of_several = report([row for row in rows if row.profile == "quick"], records)
    arms = {run["arm"] for run in of_several["runs"]}
    assert {"ResNet-14, BatchNorm only", "ResNet-32, BatchNorm only"} <= arms
    lost = report(verdicts.judge_all(claims.get("GB-6"), records), records)
    first = lost["runs"][0]
    value, accuracy = (100 * first[name] for name in ("value", "accuracy"))
    assert f"{lost['metric']} {value:.2f} %, accuracy {accuracy:.2f} %" in "\n".join(lines(lost))


def test_runs_on_other_data_of_the_same_name_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(tmp_path / "results")
    specs = experiments.get("training_only_batchnorm").specs("quick", "cifar10-jpeg", seeds=5)
    for spec in specs:
        accuracy = 0.3 + 0.1 * (spec.model == "cifar_resnet32") + 0.001 * spec.seed
        row = {"epoch": 8, "step": 9, "test_accuracy": accuracy}
        data = "before" if spec.seed < 3 else "after"
        ledger.write(Record(spec, "completed", row, [row], {"data_fingerprint": data}))
    assert cli.main(["verify", "ACC-20", "--results", str(ledger.root)]) == 0
    output = capsys.readouterr()
    meant = "on cifar10-jpeg, not the data meant by that name"
    assert f"(quick: 8 epochs {meant} (fingerprint before))\n" in output.out
    assert "beside it: " in output.out
    assert f"{meant} (fingerprint after))\n" in output.out
    assert re.search(r"not counted: \d+ runs on other data of the same name", output.out)
    for command in (["verify", "ACC-20"], ["status", "all"]):
        assert cli.main([*command, "--results", str(ledger.root)]) == 0
        notes = capsys.readouterr().err
        assert "note: no record called cifar10-jpeg is of fingerprint 4755da40623d5849" in notes
        assert "note: records of different data are called cifar10-jpeg: " in notes


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

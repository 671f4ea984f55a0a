"""A verdict with all that it rests on, for readers on a command line and for machines."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbrepro.claims import arithmetic, outcomes
from nbrepro.claims.findings import Finding
from nbrepro.claims.labels import comparison, label, named, network
from nbrepro.claims.register import Claim
from nbrepro.claims.rules import (
    DIFFERENCES,
    METRICS,
    Arm,
    Bounds,
    Check,
    Counts,
    Failures,
    Level,
    Measured,
    Ordered,
    Pair,
    Rule,
    Trained,
)
from nbrepro.claims.tables import printed
from nbrepro.claims.verdicts import Verdict
from nbrepro.records.ledger import Record


def in_words(rule: Rule | None) -> list[str]:
    """What a rule asks, a sentence per question."""
    match rule:
        case None:
            return []
        case Ordered():
            about = "" if rule.metric == "test_accuracy" else f"{METRICS[rule.metric]}: "
            asked = [about + _difference(pair, rule.between) for pair in rule.pairs]
            if rule.rising:
                rising = ", ".join(map(label, rule.rising))
                what = "accuracy" if rule.metric == "test_accuracy" else METRICS[rule.metric]
                asked.append(f"{what} rises from each to the next that was run: {rising}")
            asked += [
                f"what is gained from {label(g.high.low)} to {label(g.high.high)}, less what is "
                f"gained from {label(g.low.low)} to {label(g.low.high)}, "
                f"{_lies(rule.between, 100, ' points')}"
                for g in rule.gains
            ]
            return asked + [_survives(arm, 0.5) for arm in rule.survives]
        case Failures():
            pairs = [f"{label(p.low)} fails more often than {label(p.high)}" for p in rule.pairs]
            return pairs + [_survives(arm, rule.share) for arm in rule.survives]
        case Level():
            return [_level(rule, arm) for arm in rule.arms]
        case Counts():
            return [f"each network has the printed counts of the table {rule.table}"]
        case Check():
            return [
                f"{name.replace('_', ' ')} ({rule.check}) {_lies(bounds)}"
                for name, bounds in rule.bounds.items()
            ]
        case Measured():
            where = f"in benchmarks/{rule.benchmark}.py" + " on a GPU" * bool(rule.device)
            return [f"the ratio {named(case)} {where} {_lies(rule.between)}" for case in rule.cases]


def _difference(pair: Pair, between: Bounds) -> str:
    return f"{comparison(pair.high, pair.low)} {_lies(pair.between or between, 100, ' points')}"


def _survives(arm: Arm, share: float) -> str:
    return f"more than {100 * share:g} % of the runs of {label(arm)} survive"


def _level(rule: Level, arm: Arm) -> str:
    what = "accuracy" if rule.metric == "test_accuracy" else METRICS[rule.metric]
    asked = f"the {what} of {rule.over} ({label(arm)})"
    if rule.between:
        unit = " points" if rule.metric in DIFFERENCES else " %"
        return f"{asked} {_lies(rule.between, 100, unit)}"
    if rule.times_chance:
        return f"{asked}, in multiples of chance, {_lies(rule.times_chance)}"
    assert arm.value
    return f"{asked} {_lies(arm.value.bounds, 100, ' %')}, the published value with our tolerance"


def _lies(bounds: Bounds, scale: float = 1, unit: str = "") -> str:
    low, high = (f"{scale * end:g}{unit}" for end in (bounds.low, bounds.high))
    if math.isinf(bounds.high):
        return f"lies above {low}"
    if math.isinf(bounds.low):
        return f"lies below {high}"
    return f"is {low}" if bounds.low == bounds.high else f"lies between {low} and {high}"


def report(rows: Sequence[Verdict], records: Sequence[Record]) -> dict[str, Any]:
    """All of a verdict as JSON types; numbers that are not known are ``None``.

    Args:
        rows: of one claim, see :func:`nbrepro.claims.verdicts.judge_all`: the first one counts, the
            others are named.
        records: of the ledger that they were computed from.
    """
    verdict, *others = rows
    claim, used = verdict.claim, set(verdict.records)
    runs = [_run(claim.rule, record) for record in records if record.spec.hash in used]
    return {
        "id": claim.id,
        "paper": claim.paper.short,
        "place": claim.place,
        "by": claim.by,
        "statement": claim.statement,
        "published": [{"value": q.value, "seen": q.seen} for q in claim.quoted],
        "evidence": claim.evidence,
        "rule": in_words(claim.rule),
        "metric": METRICS[_metric(claim.rule)] if isinstance(claim.rule, Trained) else None,
        "verdict": verdict.verdict,
        "uncorrected": verdict.single or verdict.verdict,
        "value": verdict.value,
        "seeds_needed": verdict.seeds_needed,
        "scale": verdict.scale,
        "note": verdict.note,
        "findings": [_finding(finding) for finding in verdict.findings],
        "others": [{"verdict": v.verdict, "scale": v.scale, "note": v.note} for v in others],
        "values": _values(verdict),
        "runs": sorted(runs, key=lambda run: (run["arm"], run["seed"], run["file"])),
        "benchmarks": [
            f"benchmarks/{name}.json"
            for name in verdict.records
            if isinstance(claim.rule, Measured)
        ],
    }


def _values(verdict: Verdict) -> list[dict[str, Any]]:
    """What a check found or was counted, with what the rule asks."""
    asked = _asked(verdict.claim)
    return [
        {
            "name": name.replace("_", " "),
            "mean": _known(value.mean),
            "low": _known(value.low),
            "high": _known(value.high),
            "n": value.n,
            "asked": asked[name],
            "in_words": f"{value:,}" if value.mean.is_integer() else f"{value:.4g}",
        }
        for name, value in verdict.values.items()
    ]


def _asked(claim: Claim) -> dict[str, str]:
    """What a rule that asks for no run asks of each value."""
    match claim.rule:
        case Check() as rule:
            return {name: _lies(bounds) for name, bounds in rule.bounds.items()}
        case Counts() as rule:
            return {
                f"{network(model)} {group}": f"is printed as {text}"
                for model, row in printed(claim.paper.folder)[rule.table].rows.items()
                for group, text in row.items()
            }
    return {}


def _known(number: float) -> float | None:
    """A number as JSON has it."""
    return number if math.isfinite(number) else None


def _finding(finding: Finding) -> dict[str, Any]:
    numbers = {
        name: _known(getattr(finding, name)) for name in ("effect", "low", "high", "p", "corrected")
    }
    return {
        "question": finding.label,
        "answer": finding.answer,
        "uncorrected": finding.single,
        "n": list(finding.n),
        **numbers,
        "unit": finding.unit,
        "test": finding.test,
        "failed": list(finding.failed),
        "family": finding.family,
        "seeds_needed": finding.seeds_needed,
        "in_words": str(finding),
        "arms": [
            {"arm": name, "runs": [run._asdict() for run in runs]}
            for name, runs in zip(finding.names, finding.arms, strict=True)
        ],
        "differences": arithmetic.differences(finding),
        "arithmetic": arithmetic.steps(finding),
    }


def _metric(rule: Trained) -> str:
    return "test_accuracy" if isinstance(rule, Failures) else rule.metric


def _name(arm: Arm, arms: Sequence[Arm]) -> str:
    """An arm's label, with the settings that tell it from others of the same label."""
    alike = [other.settings for other in arms if label(other) == label(arm)]
    differing = [
        f"{setting.replace('_', ' ')} {value}"
        for setting, value in arm.settings.items()
        if any(other.get(setting) != value for other in alike)
    ]
    return label(arm) + (f" ({', '.join(differing)})" if differing else "")


def _run(rule: Rule | None, record: Record) -> dict[str, Any]:
    assert isinstance(rule, Trained)
    metric = _metric(rule)
    arms = rule.arms
    if isinstance(rule, Level):  # asks the same of several networks
        arms = tuple(arm.of(record.spec.model) for arm in arms)
    named = dict.fromkeys(_name(arm, arms) for arm in arms if arm.matches(record.spec))
    return {
        "arm": " = ".join(named),
        "seed": record.spec.seed,
        "value": outcomes.value(record, metric) if outcomes.has(record, metric) else None,
        "accuracy": outcomes.value(record, "test_accuracy"),
        "status": record.status,
        "failed": outcomes.failed(record),
        "data": record.spec.dataset,
        **{name: record.provenance.get(name) for name in _PROVENANCE},
        "file": f"runs/{record.spec.hash}.json",
    }


#: What a report says of where a run comes from.
_PROVENANCE = ("commit", "dirty", "finished", "seconds", "device", "threads")


def lines(report: Mapping[str, Any]) -> list[str]:
    """A report as text, a line per entry; the first one is the verdict."""
    head = f"{report['id']}: {report['verdict']}"
    text = [head + (f" ({report['scale']})" if report["scale"] else "")]
    text.append(f"  claim: {report['statement']}")
    text += [f"  published: {q['value']} (seen: {q['seen']})" for q in report["published"]]
    text += [f"  rule: {asked}" for asked in report["rule"]]
    for run in report["runs"]:
        ended = run["status"] + (", counts as failed" if run["failed"] else "")
        measured = f"{100 * run['accuracy']:.2f} %"
        if run["value"] is not None and report["metric"] != METRICS["test_accuracy"]:
            measured = f"{report['metric']} {100 * run['value']:.2f} %, accuracy {measured}"
        text.append(f"  run: {run['arm']}, seed {run['seed']}: {measured}, {ended}, {run['file']}")
    for found in report["findings"]:
        alone = found["uncorrected"]
        by_itself = "" if alone == found["answer"] else f" ({alone} by itself)"
        text.append(f"  {found['answer']}{by_itself}: {found['in_words']}")
        if found["arithmetic"]:
            text.append(f"    {'; '.join(found['arithmetic'])}")
    for value in report["values"]:
        over = f" over {value['n']} seeds" if value["n"] > 1 else ""
        text.append(
            f"  value: {value['name']} {value['in_words']}{over}; {value['asked']}, if true"
        )
    if report["uncorrected"] != report["verdict"]:
        text.append(f"  without the correction for many questions: {report['uncorrected']}")
    if report["value"]:
        text.append(f"  published value: {report['value']}")
    if report["seeds_needed"]:
        text.append(f"  {report['seeds_needed']} seeds per arm would probably settle it")
    if report["note"]:
        text.append(f"  note: {report['note']}")
    text += [f"  beside it: {v['verdict']} ({v['scale']})" for v in report["others"]]
    return text


def drift(judged: Iterable[Verdict], scorecard: Path) -> list[str]:
    """What a stored scorecard says otherwise than the records, a line per claim.

    Args:
        judged: the verdicts now.
        scorecard: the notebook with its outputs.
    """
    outputs = [
        "".join(output.get("data", {}).get("text/html", ()))
        for cell in json.loads(scorecard.read_text(encoding="utf-8"))["cells"]
        for output in cell.get("outputs", ())
    ]
    rows = re.findall(r"<tr\b[^>]*>(.*?)</tr>", "\n".join(outputs), re.DOTALL)
    stored = {}
    for row in rows:
        claim = re.search(r'class="claim-id">([^<]+)<', row)
        verdict = re.search(r'class="verdict [^"]*">([^<]+)<', row)
        if claim and verdict:
            stored[claim[1]] = verdict[1]
    return [
        f"{v.claim.id} is {v.verdict}, the stored scorecard says {stored.get(v.claim.id)}"
        for v in judged
        if v.claim.rule and stored.get(v.claim.id) != v.verdict
    ]

"""From records to verdicts.

A rule (:mod:`nbrepro.claims.rules`) asks one or more questions of the records, each answered by an
effect with its 95 % interval: *yes* if the interval lies wholly on the claim's side, *no* if wholly
on the other, else *open*. All yes: reproduced. Any no: contradicted. Otherwise, or with a single
seed: inconclusive.

Questions about networks that were not run are left out and named, and the verdict is then one "at
reduced scale", as for all profiles but ``full``, pixels but CIFAR-10's own, and experiments that
stand in for a data set beyond our means. Runs that diverged count with the accuracy they ended at.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from nbrepro import experiments
from nbrepro.claims.labels import network, trained
from nbrepro.claims.register import Claim
from nbrepro.claims.rules import (
    DECISIVE,
    Arm,
    Bounds,
    Check,
    Counts,
    Level,
    Measured,
    Ordered,
    Pair,
    matches,
)
from nbrepro.claims.statistics import interval, welch
from nbrepro.records.ledger import Record
from nbrepro.records.timings import Benchmark
from nbrepro.spec import Spec

__all__ = [
    "VERDICTS",
    "Finding",
    "Verdict",
    "arms",
    "comparison",
    "feeds",
    "interval",
    "judge",
    "label",
    "matches",
    "of_scale",
    "scales",
    "value",
    "welch",
]

VERDICTS = (
    "reproduced",
    "reproduced at reduced scale",
    "contradicted",
    "inconclusive",
    "cited only",
    "not run",
)


@dataclass(frozen=True)
class Finding:
    """One question and its answer.

    Attributes:
        label: what was compared.
        n: replicates of each arm; rounds of a measured ratio.
        effect: fraction (0.055 is 5.5 points); a difference for ``ordered``, a mean for ``level``.
        low: lower end of the 95 % interval; not a number with a single replicate.
        high: upper end.
        answer: ``yes``, ``no`` or ``open``.
        difference: whether ``effect`` is a difference of two means.
        ratio: whether ``effect`` is a measured ratio, not a fraction.
    """

    label: str
    n: tuple[int, ...]
    effect: float
    low: float
    high: float
    answer: str
    difference: bool
    ratio: bool = False

    @property
    def numbers(self) -> str:
        """Effect and interval for readers: ``+5.5 points [+4.0, +7.0]``, ``48.0 %``."""
        if self.ratio:
            return f"×{self.effect:.2f} [{self.low:.2f}, {self.high:.2f}]"
        sign, unit = ("+", "points") if self.difference else ("", "%")
        effect = f"{100 * self.effect:{sign}.1f} {unit}"
        if math.isnan(self.low):
            return effect
        return f"{effect} [{100 * self.low:{sign}.1f}, {100 * self.high:{sign}.1f}]"

    @property
    def seeds(self) -> str:
        """Replicates for readers: ``n = 3``, or ``n = 3 and 5``; empty for a measured ratio."""
        return "" if self.ratio else f"n = {' and '.join(map(str, dict.fromkeys(self.n)))}"

    def __str__(self) -> str:
        return f"{self.label}: {', '.join(filter(None, (self.numbers, self.seeds)))}"


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim, with what it rests on.

    Attributes:
        claim: the claim.
        verdict: one of :data:`VERDICTS`.
        findings: the questions that could be asked.
        scale: profile, epochs and data in words; empty if no run was needed or made.
        note: what was left out, or what else a reader must know.
        records: hashes of the records it rests on.
    """

    claim: Claim
    verdict: str
    findings: tuple[Finding, ...] = ()
    scale: str = ""
    note: str = ""
    records: tuple[str, ...] = ()

    @property
    def weakest(self) -> Finding | None:
        """The finding that carries least: the one nearest to failing."""
        order = {"no": 0, "open": 1, "yes": 2}
        return min(self.findings, key=lambda f: (order[f.answer], f.low), default=None)

    @property
    def ours(self) -> str:
        """The weakest finding in words, and how many more there are; the note if there is none."""
        if self.weakest is None:
            return self.note
        more = len(self.findings) - 1
        return f"{self.weakest}" + (f"; {more} more at least as clear" if more else "")


def label(arm: Arm) -> str:
    """A reader's name for an arm, such as ``ResNet-14 ×2, BatchNorm only``."""
    if arm.called:
        return arm.called
    words = []
    if "model" in arm.settings:
        words.append(network(arm.settings["model"]))
    if "train" in arm.settings:
        words.append(trained(arm.settings["train"]))
    return ", ".join(words)


def comparison(high: Arm, low: Arm) -> str:
    """A reader's name for a pair, what both share said once: ``A over B (BatchNorm only)``."""
    if high.called or low.called:
        return f"{label(high)} over {label(low)}"
    shared = {k: v for k, v in high.settings.items() if low.settings.get(k) == v}
    ours, theirs = (
        Arm({k: v for k, v in arm.settings.items() if k not in shared}) for arm in (high, low)
    )
    return f"{label(ours)} over {label(theirs)}" + (f" ({label(Arm(shared))})" if shared else "")


def judge(claim: Claim, records: Sequence[Record], benchmarks: Sequence[Benchmark] = ()) -> Verdict:
    """Apply the claim's rule to the records of its experiment, or to benchmarks.

    The best evidence decides: the ``full`` profile before ``quick``, original CIFAR-10 before
    other pixels; but what has a single seed somewhere only where nothing has more. ``smoke`` runs
    never count.

    Raises:
        ValueError: if a check computes other values than its rule has bounds for.
    """
    match claim.rule:
        case None:
            return Verdict(claim, "cited only", note="beyond our means; not tested")
        case Counts() as rule:
            return _judge_counts(claim, rule)
        case Check() as rule:
            return _judge_check(claim, rule)
        case Measured() as rule:
            return _judge_measured(claim, rule, benchmarks)
        case Ordered() | Level() as rule:
            return _judge_runs(claim, rule, records)


def arms(claim: Claim) -> tuple[Arm, ...]:
    """The arms that a claim's rule looks at; none if it needs no run."""
    return claim.rule.arms if isinstance(claim.rule, Ordered | Level) else ()


def feeds(spec: Spec, claim: Claim) -> bool:
    """Whether a claim's rule looks at runs like this one."""
    return any(arm.matches(spec) for arm in arms(claim))


def scales(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """Profiles and data sets that can carry a verdict, the best first."""
    found = {_base(r.spec.dataset) for r in records}
    datasets = sorted(found, key=lambda d: (d != "cifar10", d))
    for profile in DECISIVE:
        for dataset in datasets:
            yield profile, dataset


def of_scale(
    records: Sequence[Record], experiment: str, profile: str, dataset: str
) -> list[Record]:
    """The records of a profile of an experiment on one data set; failed runs are left out.

    An experiment is a view: a run counts whichever experiment it was made for.
    """
    grid = {s.hash for s in experiments.get(experiment).specs(profile, dataset, seeds=1)}
    found = {
        r.spec.hash: r  # transition: until the ledger is one folder, a run may be recorded twice
        for r in records
        if r.status != "failed" and r.spec.replace(seed=0).hash in grid
    }
    return list(found.values())


def _base(name: str) -> str:  # transition: becomes nbrepro.data.cards.base
    return name.removesuffix("-16px")


def value(record: Record, metric: str) -> float:
    """A final metric, or ``untrained_accuracy``, the test accuracy before the first step."""
    if metric == "untrained_accuracy":
        return record.curve[0]["test_accuracy"]
    return record.metrics[metric]


# --- runs ----------------------------------------------------------------------------------------


def _judge_runs(claim: Claim, rule: Ordered | Level, records: Sequence[Record]) -> Verdict:
    assert claim.experiment is not None
    first: Verdict | None = None
    for profile, dataset in scales(records):
        if profile not in rule.profiles:
            continue
        chosen = of_scale(records, claim.experiment, profile, dataset)
        if isinstance(rule, Level):
            grid = experiments.get(claim.experiment).specs(profile, dataset, seeds=1)
            findings, missing = _level(rule, chosen, grid)
        else:
            findings, missing = _ordered(rule, chosen)
        if findings:
            used = [r for r in chosen if feeds(r.spec, claim)]
            verdict = _conclude(claim, findings, missing, profile, dataset, used)
            if all(min(finding.n) > 1 for finding in findings):
                return verdict
            first = first or verdict
    if first:
        return first
    if set(rule.profiles) == set(DECISIVE):
        return Verdict(claim, "not run", note="no records yet")
    return Verdict(claim, "not run", note=f"needs the {' or '.join(rule.profiles)} profile")


def _runs(records: Sequence[Record], arm: Arm) -> list[Record]:
    return [record for record in records if arm.matches(record.spec)]


def _ordered(rule: Ordered, records: Sequence[Record]) -> tuple[list[Finding], list[str]]:
    """The findings the records allow, and names of the arms that were not run."""
    present = [arm for arm in rule.rising if _runs(records, arm)]
    pairs = [*rule.pairs, *(Pair(low, high) for low, high in pairwise(present))]
    findings = []
    for pair in pairs:
        low, high = (
            [value(r, "test_accuracy") for r in _runs(records, arm)]
            for arm in (pair.low, pair.high)
        )
        if not low or not high:
            continue
        ends = welch(low, high)
        findings.append(
            Finding(
                comparison(pair.high, pair.low),
                (len(high), len(low)),
                float(np.mean(high) - np.mean(low)),
                *ends,
                _answer(ends, pair.between or rule.between),
                difference=True,
            )
        )
    missing = [_absent(records, arm) for arm in rule.arms if not _runs(records, arm)]
    return findings, list(dict.fromkeys(missing))


def _absent(records: Sequence[Record], arm: Arm) -> str:
    """The network, or the arm where only this arm of the network was not run."""
    if arm.called:
        return label(arm)
    model = arm.settings["model"]
    return label(arm) if _runs(records, Arm({"model": model})) else network(model)


def _level(
    rule: Level, records: Sequence[Record], grid: Sequence[Spec]
) -> tuple[list[Finding], list[str]]:
    """The findings the records allow, and names of the networks that were not run."""
    together = rule.over == "all runs"
    groups: dict[str, list[Record]] = {}
    missing = []
    for arm in rule.arms:
        for model in dict.fromkeys(spec.model for spec in grid if arm.matches(spec)):
            concrete = Arm({**arm.settings, "model": model}, arm.called)
            found = _runs(records, concrete)
            if not found:
                missing.append(network(model))
                continue
            name = f"all networks, {label(arm)}" if together else label(concrete)
            groups.setdefault(name, []).extend(found)
    findings = []
    for name, members in groups.items():
        values = [value(r, rule.metric) for r in members]
        ends = interval(values)
        answer = _answer(ends, rule.between)
        findings.append(
            Finding(name, (len(values),), float(np.mean(values)), *ends, answer, difference=False)
        )
    return findings, missing


def _answer(ends: tuple[float, float], wanted: Bounds) -> str:
    low, high = ends
    if math.isnan(low):
        return "open"
    if wanted.low < low and high < wanted.high:
        return "yes"
    return "no" if high < wanted.low or low > wanted.high else "open"


def _conclude(
    claim: Claim,
    findings: list[Finding],
    missing: list[str],
    profile: str,
    dataset: str,
    records: Sequence[Record],
) -> Verdict:
    answers = {finding.answer for finding in findings}
    assert claim.experiment is not None
    stands_in = experiments.get(claim.experiment).stands_in
    whole = profile == "full" and dataset == "cifar10" and not missing and not stands_in
    if "no" in answers:
        verdict = "contradicted"
    elif "open" in answers:
        verdict = "inconclusive"
    else:
        verdict = "reproduced" if whole else "reproduced at reduced scale"
    epochs = sorted({r.spec.epochs for r in records})
    notes = []
    if any(min(f.n) < 2 for f in findings):
        notes.append("a single seed gives no interval")
    diverged = sum(r.status == "diverged" for r in records)
    if diverged:
        notes.append(f"{diverged} of {len(records)} runs diverged and count as they ended")
    if missing:
        notes.append(f"not run: {', '.join(missing)}")
    on = " and ".join(sorted({r.spec.dataset for r in records}))
    scale = f"{profile}: {' or '.join(map(str, epochs))} epochs on {on}"
    hashes = tuple(sorted(r.spec.hash for r in records))
    return Verdict(claim, verdict, tuple(findings), scale, "; ".join(notes), hashes)


# --- without runs --------------------------------------------------------------------------------


def _judge_check(claim: Claim, rule: Check) -> Verdict:
    """Compute the values and compare each with its bounds."""
    from nbrepro.claims import checks

    outcome: Any = checks.outcome(rule.check)
    if not hasattr(outcome, "values"):  # transition: a check that still decides itself
        agrees, note = outcome
        return Verdict(claim, "reproduced" if agrees else "contradicted", note=note)
    if set(outcome.values) != set(rule.bounds):
        raise ValueError(
            f"{claim.id}: the check {rule.check} computes {', '.join(outcome.values)}; its rule "
            f"has bounds for {', '.join(rule.bounds)}"
        )
    holds = all(outcome.values[name] in bounds for name, bounds in rule.bounds.items())
    return Verdict(claim, "reproduced" if holds else "contradicted", note=outcome.note)


def _judge_counts(claim: Claim, rule: Counts) -> Verdict:
    """Build every network (without memory for its weights) and compare with the printed counts."""
    import torch

    from nbrepro import freezing, models

    wrong = []
    for model, texts in rule.printed.items():
        with torch.device("meta"):
            counts = freezing.count(models.create(model))
        for group, text in zip(("all", "batchnorm", "output", "shortcut"), texts, strict=True):
            if not _prints_as(counts[group], text):
                wrong.append(f"{network(model)} {group}: {counts[group]:,}, printed {text}")
    numbers = sum(len(texts) for texts in rule.printed.values())
    if wrong:
        return Verdict(claim, "contradicted", note="; ".join(wrong))
    return Verdict(
        claim, "reproduced", note=f"all {numbers} counts agree as printed; built, not run"
    )


def _judge_measured(claim: Claim, rule: Measured, benchmarks: Sequence[Benchmark]) -> Verdict:
    """Read the benchmark's rows; one machine's timings never stand for more than that machine."""
    gpu_only = rule.device == "cuda"
    wanted = [b for b in benchmarks if b.name == rule.benchmark and (b.on_gpu or not gpu_only)]
    best = max(wanted, key=lambda b: b.on_gpu, default=None)
    findings = []
    for case in rule.cases:
        row = best.rows.get(case) if best else None
        if row is not None:
            ends = row["low"], row["high"]
            answer = _answer(ends, rule.between)
            findings.append(
                Finding(case, (row["rounds"],), row["ratio"], *ends, answer, False, ratio=True)
            )
    if best is None or not findings:
        where = " on a GPU" if gpu_only else ""
        return Verdict(claim, "not run", note=f"needs benchmarks/{rule.benchmark}.py{where}")
    answers = {finding.answer for finding in findings}
    verdict = "contradicted" if "no" in answers else "inconclusive"
    if answers == {"yes"}:
        verdict = "reproduced at reduced scale"
    return Verdict(claim, verdict, tuple(findings), f"measured on {best.hardware}")


def _prints_as(count: int, text: str) -> bool:
    """Whether ``count``, rounded or truncated, prints as a number such as ``1.12K``."""
    unit = {"K": 10**3, "M": 10**6}.get(text[-1], 1)
    digits = text.rstrip("KM")
    place = unit / 10 ** len(digits.partition(".")[2])
    beyond = count - float(digits) * unit
    return bool(-place / 2 <= beyond < place)

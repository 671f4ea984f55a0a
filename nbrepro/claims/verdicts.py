"""From records to verdicts.

A rule asks one or more questions of the records, each answered by an effect with its 95 % interval:

``ordered``   is the second arm's mean test accuracy above the first one's? (``rising``: each arm
              against the next; ``pairs``: as listed.) Effect: difference of means, Welch's. The
              rule, or a pair written out as ``low`` and ``high``, may say ``between`` which bounds
              the difference must lie; ``[-0.005, .inf]`` is "not worse by half a point".
``level``     does the mean lie ``between`` two bounds? ``over: each network`` asks it of every
              network, ``over: all runs`` of all runs together. Effect: the mean, Student's.
``counts``    do the networks have the printed numbers of parameters? No run needed.
``check``     does a computation without training come out as claimed? The function of this name in
              :mod:`nbrepro.claims.checks`. No run needed.
``measured``  does every ``case`` of a ``benchmark`` lie ``between`` two bounds? Effect: the median
              ratio over interleaved rounds, with the middle 95 % of rounds. ``device: cuda`` asks
              for a record made on a GPU.

A question is answered *yes* if its interval lies wholly on the claim's side, *no* if wholly on the
other, else *open*. All yes: reproduced. Any no: contradicted. Otherwise, or with a single seed:
inconclusive. Questions about networks that were not run are left out and named, and the verdict
is then one "at reduced scale", as for all profiles but ``full``, pixels but CIFAR-10's own, and
experiments that stand in for a data set beyond our means. Runs that diverged count with the
accuracy they ended at.

An arm is a set of settings; it may also carry ``called``, its name for readers.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import stats

from nbrepro import experiments
from nbrepro.claims import Claim
from nbrepro.claims.labels import network, trained
from nbrepro.data import base
from nbrepro.records.ledger import Record
from nbrepro.records.timings import Benchmark
from nbrepro.spec import Spec

VERDICTS = (
    "reproduced",
    "reproduced at reduced scale",
    "contradicted",
    "inconclusive",
    "cited only",
    "not run",
)
CONFIDENCE = 0.95


#: Settings that a rule looks for in runs, and perhaps ``called``.
Arm = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """One question and its answer.

    Attributes:
        label: what was compared.
        n: replicates of each arm.
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

    def __str__(self) -> str:
        if self.ratio:
            return f"{self.label}: ×{self.effect:.2f} [{self.low:.2f}, {self.high:.2f}]"
        sign, unit = ("+", "points") if self.difference else ("", "%")
        numbers = f"{100 * self.effect:{sign}.1f} {unit}"
        if not math.isnan(self.low):
            numbers += f" [{100 * self.low:{sign}.1f}, {100 * self.high:{sign}.1f}]"
        seeds = (
            f"n = {self.n[0]}" if len(set(self.n)) == 1 else f"n = {' and '.join(map(str, self.n))}"
        )
        return f"{self.label}: {numbers}, {seeds}"


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
    def ours(self) -> str:
        """The finding that carries least: the one nearest to failing, in words."""
        if not self.findings:
            return self.note
        order = {"no": 0, "open": 1, "yes": 2}
        weakest = min(self.findings, key=lambda f: (order[f.answer], f.low))
        more = len(self.findings) - 1
        return f"{weakest}" + (f"; {more} more at least as clear" if more else "")


def label(arm: Arm) -> str:
    """A reader's name for an arm, such as ``ResNet-14 ×2, BatchNorm only``."""
    if "called" in arm:
        return str(arm["called"])
    words = []
    if "model" in arm:
        words.append(network(arm["model"]))
    if "train" in arm:
        words.append(trained(arm["train"]))
    return ", ".join(words)


def comparison(high: Arm, low: Arm) -> str:
    """A reader's name for a pair, what both share said once: ``A over B (BatchNorm only)``."""
    if "called" in high or "called" in low:
        return f"{label(high)} over {label(low)}"
    shared = {k: v for k, v in high.items() if low.get(k) == v}
    ours, theirs = ({k: v for k, v in arm.items() if k not in shared} for arm in (high, low))
    return f"{label(ours)} over {label(theirs)}" + (f" ({label(shared)})" if shared else "")


def judge(claim: Claim, records: Sequence[Record], benchmarks: Sequence[Benchmark] = ()) -> Verdict:
    """Apply the claim's rule to the records of its experiment, or to benchmarks.

    The best evidence decides: the ``full`` profile before ``quick``, original CIFAR-10 before
    other pixels; but what has a single seed somewhere only where nothing has more. ``smoke`` runs
    never count.
    """
    rule = claim.rule
    if rule is None:
        return Verdict(claim, "cited only", note="beyond our means; not tested")
    if rule["kind"] == "counts":
        return _judge_counts(claim, rule["printed"])
    if rule["kind"] == "check":
        from nbrepro.claims import checks

        agrees, note = checks.outcome(rule["check"])
        return Verdict(claim, "reproduced" if agrees else "contradicted", note=note)
    if rule["kind"] == "measured":
        return _judge_measured(claim, rule, benchmarks)
    assert claim.experiment is not None
    first: Verdict | None = None
    for profile, dataset in scales(records):
        if profile not in rule.get("profiles", ("full", "quick")):
            continue
        chosen = of_scale(records, claim.experiment, profile, dataset)
        grid = experiments.get(claim.experiment).specs(profile, dataset, seeds=1)
        findings, missing = _ask(rule, chosen, grid)
        if findings:
            used = [r for r in chosen if feeds(r.spec, claim)]
            verdict = _conclude(claim, findings, missing, profile, dataset, used)
            if all(min(finding.n) > 1 for finding in findings):
                return verdict
            first = first or verdict
    if first:
        return first
    only = rule.get("profiles")
    needs = f"needs the {' or '.join(only)} profile" if only else "no records yet"
    return Verdict(claim, "not run", note=needs)


def scales(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """Profiles and data sets that can carry a verdict, the best first."""
    found = {base(r.spec.dataset) for r in records}
    datasets = sorted(found, key=lambda d: (d != "cifar10", d))
    for profile in ("full", "quick"):
        for dataset in datasets:
            yield profile, dataset


def of_scale(
    records: Sequence[Record], experiment: str, profile: str, dataset: str
) -> list[Record]:
    """The records of a profile of an experiment on one data set; failed runs are left out."""
    arms = {s.hash for s in experiments.get(experiment).specs(profile, dataset, seeds=1)}
    return [r for r in records if r.status != "failed" and r.spec.replace(seed=0).hash in arms]


def value(record: Record, metric: str) -> float:
    """A final metric, or ``untrained_accuracy``, the test accuracy before the first step."""
    if metric == "untrained_accuracy":
        return record.curve[0]["test_accuracy"]
    return record.metrics[metric]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean; not-a-numbers for fewer than two values."""
    if len(values) < 2:
        return math.nan, math.nan
    return _around(float(np.mean(values)), _squared_error(values), len(values) - 1)


def welch(low: Sequence[float], high: Sequence[float]) -> tuple[float, float]:
    """Welch's 95 % interval of ``mean(high) - mean(low)``; not-a-numbers below two values each."""
    if min(len(low), len(high)) < 2:
        return math.nan, math.nan
    difference = float(np.mean(high) - np.mean(low))
    a, b = _squared_error(low), _squared_error(high)
    if a + b == 0:  # no spread at all: the interval is a point
        return difference, difference
    freedom = (a + b) ** 2 / (a**2 / (len(low) - 1) + b**2 / (len(high) - 1))
    return _around(difference, a + b, freedom)


def _squared_error(values: Sequence[float]) -> float:
    """Of the mean."""
    return float(np.var(values, ddof=1)) / len(values)


def _around(centre: float, squared_error: float, freedom: float) -> tuple[float, float]:
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(squared_error)
    return centre - half, centre + half


def arms(claim: Claim) -> list[Arm]:
    """The settings of the runs that a claim's rule looks at; none if it needs no run."""
    rule = claim.rule or {}
    listed: list[Arm] = [*rule.get("arms", []), *rule.get("rising", [])]
    return listed + [pair[end] for pair in _pairs(rule) for end in ("low", "high")]


def _pairs(rule: dict[str, Any]) -> list[dict[str, Any]]:
    """Pairs as ``low``, ``high`` and perhaps ``between``; a list of two is low and high."""
    pairs = rule.get("pairs", [])
    return [p if isinstance(p, dict) else {"low": p[0], "high": p[1]} for p in pairs]


def feeds(spec: Spec, claim: Claim) -> bool:
    """Whether a claim's rule looks at runs like this one."""
    return any(matches(spec, arm) for arm in arms(claim))


def matches(spec: Spec, arm: Mapping[str, Any]) -> bool:
    """Whether a run has all settings of an arm."""
    return all(
        getattr(spec, setting) == (tuple(wanted) if isinstance(wanted, list) else wanted)
        for setting, wanted in arm.items()
        if setting != "called"
    )


def _arm(records: Sequence[Record], arm: Arm) -> list[Record]:
    return [record for record in records if matches(record.spec, arm)]


def _ask(
    rule: dict[str, Any], records: Sequence[Record], grid: Sequence[Spec]
) -> tuple[list[Finding], list[str]]:
    """The findings the records allow, and names of the arms that were not run."""
    if rule["kind"] == "level":
        return _ask_level(rule, records, grid)
    if "rising" in rule:
        present = [arm for arm in rule["rising"] if _arm(records, arm)]
        pairs = [{"low": low, "high": high} for low, high in pairwise(present)]
        missing = [_absent(records, arm) for arm in rule["rising"] if arm not in present]
    else:
        pairs = [p for p in _pairs(rule) if _arm(records, p["low"]) and _arm(records, p["high"])]
        named = [pair[end] for pair in _pairs(rule) for end in ("low", "high")]
        missing = [_absent(records, arm) for arm in named if not _arm(records, arm)]
    findings = []
    for pair in pairs:
        low_arm, high_arm = pair["low"], pair["high"]
        low, high = (
            [value(r, "test_accuracy") for r in _arm(records, a)] for a in (low_arm, high_arm)
        )
        ends = welch(low, high)
        findings.append(
            Finding(
                comparison(high_arm, low_arm),
                (len(high), len(low)),
                float(np.mean(high) - np.mean(low)),
                *ends,
                _answer(ends, pair.get("between") or rule.get("between", (0.0, math.inf))),
                difference=True,
            )
        )
    return findings, list(dict.fromkeys(missing))


def _absent(records: Sequence[Record], arm: Arm) -> str:
    """The network, or the arm where only this arm of the network was not run."""
    if "called" in arm:
        return label(arm)
    return label(arm) if _arm(records, {"model": arm["model"]}) else network(arm["model"])


def _ask_level(
    rule: dict[str, Any], records: Sequence[Record], grid: Sequence[Spec]
) -> tuple[list[Finding], list[str]]:
    together = rule["over"] == "all runs"
    groups: dict[str, list[Record]] = {}
    missing = []
    for arm in rule["arms"]:
        for model in dict.fromkeys(spec.model for spec in grid if matches(spec, arm)):
            concrete = arm | {"model": model}
            found = _arm(records, concrete)
            if not found:
                missing.append(network(model))
                continue
            name = f"all networks, {label(arm)}" if together else label(concrete)
            groups.setdefault(name, []).extend(found)
    findings = []
    for name, members in groups.items():
        values = [value(r, rule["metric"]) for r in members]
        ends = interval(values)
        answer = _answer(ends, rule["between"])
        findings.append(
            Finding(name, (len(values),), float(np.mean(values)), *ends, answer, difference=False)
        )
    return findings, missing


def _answer(ends: tuple[float, float], wanted: Sequence[float]) -> str:
    low, high = ends
    if math.isnan(low):
        return "open"
    if wanted[0] < low and high < wanted[1]:
        return "yes"
    return "no" if high < wanted[0] or low > wanted[1] else "open"


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


def _judge_counts(claim: Claim, printed: dict[str, list[str]]) -> Verdict:
    """Build every network (without memory for its weights) and compare with the printed counts."""
    import torch

    from nbrepro import freezing, models

    wrong = []
    for model, texts in printed.items():
        with torch.device("meta"):
            counts = freezing.count(models.create(model))
        for group, text in zip(("all", "batchnorm", "output", "shortcut"), texts, strict=True):
            if not _prints_as(counts[group], text):
                wrong.append(f"{network(model)} {group}: {counts[group]:,}, printed {text}")
    numbers = sum(len(texts) for texts in printed.values())
    if wrong:
        return Verdict(claim, "contradicted", note="; ".join(wrong))
    return Verdict(
        claim, "reproduced", note=f"all {numbers} counts agree as printed; built, not run"
    )


def _judge_measured(claim: Claim, rule: dict[str, Any], benchmarks: Sequence[Benchmark]) -> Verdict:
    """Read the benchmark's rows; one machine's timings never stand for more than that machine."""
    gpu_only = rule.get("device") == "cuda"
    wanted = [b for b in benchmarks if b.name == rule["benchmark"] and (b.on_gpu or not gpu_only)]
    best = max(wanted, key=lambda b: b.on_gpu, default=None)
    findings = []
    for case in rule["cases"]:
        row = best.rows.get(case) if best else None
        if row is not None:
            ends = row["low"], row["high"]
            answer = _answer(ends, rule["between"])
            findings.append(
                Finding(case, (row["rounds"],), row["ratio"], *ends, answer, False, ratio=True)
            )
    if best is None or not findings:
        where = " on a GPU" if gpu_only else ""
        return Verdict(claim, "not run", note=f"needs benchmarks/{rule['benchmark']}.py{where}")
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

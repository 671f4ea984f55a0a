"""What a rule asks of records, and what it finds at each scale that they were made at.

A rule that looks at runs compares arms, asks where their accuracy lies, or counts their failures;
each such question is a :class:`~nbrepro.claims.findings.Finding`. Questions about networks that
were not run are left out and named.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

from nbrepro import experiments
from nbrepro.claims import findings
from nbrepro.claims.findings import Finding, Run
from nbrepro.claims.labels import comparison, label, network
from nbrepro.claims.outcomes import has, outcome
from nbrepro.claims.register import Claim, register
from nbrepro.claims.rules import (
    DIFFERENCES,
    METRICS,
    Arm,
    Bounds,
    Failures,
    Level,
    Ordered,
    Pair,
    Rule,
    Trained,
)
from nbrepro.claims.scales import CIFAR10, Latest, by_data, of_grid, scales, specs, whole
from nbrepro.data.cards import card
from nbrepro.records import fingerprints
from nbrepro.records.ledger import Record
from nbrepro.spec import Spec

__all__ = ["ENOUGH", "Row", "decides", "needs_cifar10", "rows", "rows_of_paper"]

#: Seeds per arm from which on a better scale decides: the interval of two seeds, with one degree of
#: freedom, settles next to nothing, and must not hide what five say of a shorter training.
ENOUGH = 3

#: From an arm to its runs.
_Runs = Callable[[Arm], list[Run]]


@dataclass(frozen=True)
class Row:
    """What a claim's rule finds at one scale, before the correction.

    Attributes:
        profile: of the runs.
        dataset: what stands for CIFAR-10 in them.
        other: the fingerprint of data that only bear this name; ``None`` if they are those meant.
        findings: answers.
        missing: names of the networks or arms that were not run.
        records: the runs.
        apart: how many runs are not among them, since they are on other data.
    """

    profile: str
    dataset: str
    other: str | None
    findings: list[Finding]
    missing: list[str]
    records: list[Record]
    apart: int

    @property
    def theirs(self) -> bool:
        """Whether these are the data of the papers' small networks."""
        return _is_theirs(self.dataset, self.other)

    @property
    def rank(self) -> tuple[bool, bool]:
        """The best comes first: CIFAR-10, then what has :data:`ENOUGH` seeds."""
        return not self.theirs, any(min(f.n) < ENOUGH for f in self.findings)


def _is_theirs(dataset: str, other: str | None) -> bool:
    return dataset in CIFAR10 and other is None


def needs_cifar10(rule: Trained) -> bool:
    """Whether a rule asks for CIFAR-10: for its absolute accuracies or published values."""
    absolute = isinstance(rule, Level) and not rule.times_chance
    return absolute or any(arm.value for arm in rule.arms)


def decides(rule: Rule | None, found: Sequence[Row]) -> bool:
    """Whether the best row may decide: if there is one, on the data that the rule asks for."""
    assert isinstance(rule, Trained)
    return bool(found) and (found[0].theirs or not needs_cifar10(rule))


def rows_of_paper(paper: str, records: Sequence[Record]) -> dict[str, list[Row]]:
    """The rows of all claims of a paper that training decides: what is corrected together."""
    return _of_paper(paper)(records)


@cache
def _of_paper(paper: str) -> Latest[dict[str, list[Row]]]:
    def found(records: Sequence[Record]) -> dict[str, list[Row]]:
        return {
            claim.id: rows(claim, claim.rule, records)
            for claim in register().values()
            if claim.paper.folder == paper and isinstance(claim.rule, Trained)
        }

    return Latest(found)


def rows(claim: Claim, rule: Trained, records: Sequence[Record]) -> list[Row]:
    """What a claim's rule finds at each scale, the best first (:attr:`Row.rank`)."""
    assert claim.experiment is not None
    stands_in = experiments.get(claim.experiment).stands_in
    found: list[tuple[frozenset[str], Row]] = []
    meant = fingerprints.meant(records)
    for profile, dataset in scales(records):
        if profile not in rule.profiles:
            continue
        chosen = of_grid(records, claim.experiment, profile, dataset)
        fed = [r for r in chosen if claim.feeds_on(r.spec)]
        for other, used in by_data(fed, meant):
            theirs = _is_theirs(dataset, other)
            if isinstance(rule, Level) and needs_cifar10(rule) and not theirs:
                continue
            asked = frozenset(_asked(rule, r.spec) for r in used)
            # Where every arm uses small images, both names mean them.
            if not used or any(asked == others for others, _ in found):
                continue
            valued = profile == "full" and theirs and not stands_in
            match rule:
                case Ordered():
                    answers, missing = _ordered(rule, used, valued)
                case Level():
                    grid = specs(claim.experiment, profile, dataset)
                    answers, missing = _level(rule, used, grid, valued)
                case Failures():
                    answers, missing = _failures(rule, used)
            if answers:
                apart = len(fed) - len(used)
                row = Row(profile, dataset, other, answers, missing, used, apart)
                found.append((asked, row))
    return sorted(whole(found), key=lambda row: row.rank)


def _asked(rule: Trained, spec: Spec) -> str:
    """What makes a run's answer its own: before training, how long it was trained does not."""
    untrained = isinstance(rule, Level) and rule.metric == "untrained_accuracy"
    return (spec.replace(epochs=1) if untrained else spec).hash


# --- the three kinds of rules: findings, and what was not run -------------------------------------


def _ordered(
    rule: Ordered, records: Sequence[Record], valued: bool
) -> tuple[list[Finding], list[str]]:
    runs = _recalled(records, rule.metric)
    present = [arm for arm in rule.rising if runs(arm)]
    pairs = [*rule.pairs, *(Pair(low, high) for low, high in pairwise(present))]
    found = []
    for pair in pairs:
        if (low := runs(pair.low)) and (high := runs(pair.high)):
            published = _published(pair) if valued else None
            bounds = pair.between or rule.between
            about = _pair(pair) + _of(rule.metric)
            compared = findings.compare(about, low, high, bounds, published)
            found.append(_named(compared, pair.high, pair.low))
    for gains in rule.gains:
        first, second = ((runs(pair.low), runs(pair.high)) for pair in (gains.low, gains.high))
        if set.intersection(*({run.seed for run in arm} for arm in (*first, *second))):
            name = f"{_pair(gains.high)}, more than {_pair(gains.low)}"
            compared = findings.gain(name, first, second, rule.between)
            found.append(_named(compared, *reversed(gains.arms)))
    return [*found, *_survivals(rule.survives, runs, 0.5)], _missing(rule.arms, runs)


def _failures(rule: Failures, records: Sequence[Record]) -> tuple[list[Finding], list[str]]:
    runs = _recalled(records)
    found = []
    for pair in rule.pairs:
        if (low := runs(pair.low)) and (high := runs(pair.high)):
            name = f"{label(pair.low)} fails more often than {label(pair.high)}"
            found.append(_named(findings.fails_more(name, low, high), pair.low, pair.high))
    return [*found, *_survivals(rule.survives, runs, rule.share)], _missing(rule.arms, runs)


def _level(
    rule: Level, records: Sequence[Record], grid: Sequence[Spec], valued: bool
) -> tuple[list[Finding], list[str]]:
    recalled = _recalled(records, rule.metric)
    together = rule.over == "all runs"
    groups: dict[str, tuple[Arm, list[Run]]] = {}
    missing = []
    for arm in rule.arms:
        for model in dict.fromkeys(spec.model for spec in grid if arm.matches(spec)):
            runs = recalled(arm.of(model))
            if not runs:
                missing.append(network(model))
                continue
            name = f"all networks, {label(arm)}" if together else label(arm.of(model))
            name += _of(rule.metric)
            groups.setdefault(name, (arm, []))[1].extend(runs)
    found = []
    chance = card(grid[0].dataset).chance
    for name, (arm, runs) in groups.items():
        published = arm.value.bounds if arm.value and valued else None
        bounds = rule.between or published
        if rule.times_chance and chance is not None:
            bounds = Bounds(rule.times_chance.low * chance, rule.times_chance.high * chance)
        if bounds:
            unit: findings.Unit = "points" if rule.metric in DIFFERENCES else "%"
            answer = findings.level(name, runs, bounds, published, unit)
            found.append(replace(answer, names=(name,)))
    return found, missing


def _survivals(arms: Sequence[Arm], runs: _Runs, share: float) -> list[Finding]:
    return [
        _named(findings.survives(label(arm), runs(arm), share), arm) for arm in arms if runs(arm)
    ]


def _recalled(records: Sequence[Record], metric: str = "test_accuracy") -> _Runs:
    """The runs of an arm. Runs that were made before a metric was kept are left out."""
    return lambda arm: [
        outcome(record, metric)
        for record in records
        if arm.matches(record.spec) and has(record, metric)
    ]


def _missing(arms: Sequence[Arm], runs: _Runs) -> list[str]:
    return list(dict.fromkeys(_absent(arm, runs) for arm in arms if not runs(arm)))


def _absent(arm: Arm, runs: _Runs) -> str:
    """The network, or the arm where only this arm of the network was not run."""
    if arm.called:
        return label(arm)
    model = arm.settings["model"]
    return label(arm) if runs(Arm({"model": model})) else network(model)


# --- words ----------------------------------------------------------------------------------------


def _named(finding: Finding, *arms: Arm) -> Finding:
    return replace(finding, names=tuple(map(label, arms)))


def _of(metric: str) -> str:
    """What a finding is about, for its label; nothing where it is an accuracy."""
    return "" if metric.endswith("accuracy") else f", {METRICS[metric]}"


def _pair(pair: Pair) -> str:
    return comparison(pair.high, pair.low)


def _published(pair: Pair) -> Bounds | None:
    """Where the difference of two published accuracies lies, if both are."""
    if not (pair.low.value and pair.high.value):
        return None
    low, high = pair.low.value.bounds, pair.high.value.bounds
    return Bounds(high.low - low.high, high.high - low.low)

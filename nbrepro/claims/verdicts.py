"""From records to verdicts.

A rule (:mod:`nbrepro.claims.rules`) asks one or more questions of the records, each answered *yes*,
*no* or *open* (:mod:`nbrepro.claims.findings`): by an effect whose 95 % interval lies wholly on the
claim's side, wholly on the other, or neither, or by an exact test of how many runs fail. The more
questions, the more of them come out wrongly by chance; so all answers of a paper that rest on
training are corrected together (Holm), and the corrected answers make the verdict. All yes: the
claim is reproduced. Any no: contradicted. Else inconclusive.

Questions about networks that were not run are left out and named, and the verdict is then one "at
reduced scale", as for all profiles but ``full``, pixels but CIFAR-10's own, and experiments that
stand in for a data set beyond our means.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from operator import is_
from typing import TYPE_CHECKING

from nbrepro import experiments
from nbrepro.claims import findings
from nbrepro.claims.findings import Agreement, Answer, Finding, Run
from nbrepro.claims.labels import network, trained
from nbrepro.claims.register import Claim, register
from nbrepro.claims.rules import (
    DECISIVE,
    FITTED,
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
    matches,
)
from nbrepro.claims.statistics import interval
from nbrepro.claims.tables import printed
from nbrepro.data.cards import EMBEDDED, base, card, parse
from nbrepro.records import fingerprints
from nbrepro.records.ledger import Record
from nbrepro.records.timings import Benchmark
from nbrepro.spec import Spec

if TYPE_CHECKING:
    from nbrepro.claims.checks import Computed, Summary

__all__ = [
    "TONE",
    "VERDICTS",
    "Finding",
    "Verdict",
    "arms",
    "at_equal_fit",
    "comparison",
    "failed",
    "feeds",
    "grid",
    "has",
    "interval",
    "judge",
    "judge_all",
    "label",
    "matches",
    "needs_cifar10",
    "of_scale",
    "replicated",
    "scales",
    "value",
]

#: Every verdict, with what it says of the claim, in the order of a list: what surprises leads.
TONE = {
    "contradicted": "no",
    "inconsistent as printed": "no",
    "not found here": "no",
    "implementation differs": "no",
    "counts differ": "no",
    "inconclusive": "open",
    "reproduced at reduced scale": "yes",
    "reproduced": "yes",
    "found here": "yes",
    "consistent as printed": "yes",
    "counts agree": "yes",
    "implementation verified": "yes",
    "not run": "none",
    "cited only": "none",
}
VERDICTS = tuple(TONE)

#: The verdicts on what needs no training, by kind of evidence: it holds, it does not.
_EXACT = {
    "arithmetic": ("consistent as printed", "inconsistent as printed"),
    "counted": ("counts agree", "counts differ"),
    "verified": ("implementation verified", "implementation differs"),
}

#: The data set of the papers' small networks: its own pixels, and the same pictures compressed.
CIFAR10 = ("cifar10", "cifar10-jpeg")


#: Seeds per arm from which on a better scale decides: the interval of two seeds, with one degree of
#: freedom, settles next to nothing, and must not hide what five say of a shorter training.
ENOUGH = 3


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim, with what it rests on.

    Attributes:
        claim: the claim.
        verdict: one of :data:`VERDICTS`.
        findings: the questions that could be asked.
        scale: profile, epochs and data in words; empty if no run was needed or made.
        note: what was left out, or what else a reader must know.
        records: names of the records it rests on, without ending: hashes of runs, or a benchmark's.
        values: what a check found, or was counted, by name.
        single: what the verdict would be without the correction for many questions.
        value: whether the published values agree with ours; empty if that was not asked.
        profile: of the runs it rests on.
        dataset: what stands for CIFAR-10 in them, for ``nbrepro run --dataset``.
    """

    claim: Claim
    verdict: str
    findings: tuple[Finding, ...] = ()
    scale: str = ""
    note: str = ""
    records: tuple[str, ...] = ()
    single: str = ""
    value: str = ""
    profile: str = ""
    dataset: str = ""
    values: "Mapping[str, Computed]" = field(default_factory=dict)

    @property
    def tone(self) -> str:
        """``yes``, ``no``, ``open`` or ``none``, for colors."""
        return TONE[self.verdict]

    @property
    def weakest(self) -> Finding | None:
        """The finding that carries least: the one nearest to failing."""

        def carries(finding: Finding) -> tuple[float, ...]:
            order = {"no": 0, "open": 1, "yes": 2}[finding.answer]
            p = 1.0 if math.isnan(finding.p) else finding.p
            leans = -p if order else p
            return order, leans, 0.0 if math.isnan(finding.low) else finding.low

        return min(self.findings, key=carries, default=None)

    @property
    def ours(self) -> str:
        """The weakest finding in words, and how many more there are; the note if there is none."""
        if self.weakest is None:
            return self.note
        more = len(self.findings) - 1
        return f"{self.weakest}" + (f"; {more} more at least as clear" if more else "")

    @property
    def seeds_needed(self) -> int | None:
        """Seeds per arm that would settle all open findings, see :class:`Finding`.

        ``None`` if none is open, or one of them cannot be settled with seeds.
        """
        needed = [f.seeds_needed for f in self.findings if f.answer == "open"]
        known = [n for n in needed if n is not None]
        return max(known) if known and len(known) == len(needed) else None


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

    The best evidence decides, see :func:`judge_all`.

    Raises:
        ValueError: if a check computes other values than its rule has bounds for.
    """
    return judge_all(claim, records, benchmarks)[0]


def judge_all(
    claim: Claim,
    records: Sequence[Record],
    benchmarks: Sequence[Benchmark] = (),
    outcome: "Callable[[str], Summary] | None" = None,
) -> list[Verdict]:
    """The verdict on a claim at each scale that it was run at, the best first.

    CIFAR-10 comes before other data; then what has :data:`ENOUGH` seeds or more everywhere; then
    the ``full`` profile before ``quick``, and CIFAR-10's own pixels before compressed ones.
    Absolute accuracies and published values are CIFAR-10's: other data never decide about them.
    Other data are also those that only bear its name, by their fingerprint
    (:mod:`nbrepro.records.fingerprints`).
    ``smoke`` runs never count.

    Args:
        claim: the claim.
        records: all of a ledger.
        benchmarks: all of a ledger.
        outcome: what a check found, by its name; default it is computed.

    Raises:
        ValueError: if a check computes other values than its rule has bounds for.
    """
    match claim.rule:
        case None:
            return [Verdict(claim, "cited only", note=claim.needs or "")]
        case Counts() as rule:
            return [_judge_counts(claim, rule)]
        case Check() as rule:
            return [_judge_check(claim, rule, outcome)]
        case Measured() as rule:
            return [_judge_measured(claim, rule, benchmarks)]
        case Ordered() | Level() | Failures() as rule:
            return _judge_trained(claim, rule, records)


def arms(claim: Claim) -> tuple[Arm, ...]:
    """The arms that a claim's rule looks at; none if it needs no run."""
    return claim.rule.arms if isinstance(claim.rule, Trained) else ()


def feeds(spec: Spec, claim: Claim) -> bool:
    """Whether a claim's rule looks at runs like this one."""
    return any(arm.matches(spec) for arm in arms(claim))


def scales(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """Profiles and data sets that can carry a verdict, the best first.

    Some of the classes of a data set are no data set of their own: an arm that wants a part of the
    classes names it. The embedded digits prove the code; they carry no verdict.
    """
    names = {str(parse(r.spec.dataset)._replace(classes=None)) for r in records}
    names |= {base(name) for name in names}
    names.discard(EMBEDDED)
    for theirs in (True, False):
        for profile in DECISIVE:
            for name in sorted(names, key=lambda name: (not card(name).original, name)):
                if (name in CIFAR10) == theirs:
                    yield profile, name


def of_scale(
    records: Sequence[Record], experiment: str, profile: str, dataset: str
) -> list[Record]:
    """The records of a profile of an experiment on one data set.

    Failed runs are left out, and runs on other data of the same name (see
    :func:`nbrepro.records.fingerprints.meant`). An experiment is a view: a run counts whichever
    experiment it was made for.
    """
    (_, counted), *_ = _by_data(
        _of_grid(records, experiment, profile, dataset), fingerprints.meant(records)
    )
    return counted


def _of_grid(
    records: Sequence[Record], experiment: str, profile: str, dataset: str
) -> list[Record]:
    by_arm = _by_arm(records)
    places = sorted(p for arm in grid(experiment, profile, dataset) for p in by_arm.get(arm, ()))
    return [records[place] for place in places if records[place].status != "failed"]


#: The records seen last, and where among them the runs of an arm are: every claim asks again.
_PLACES: list[tuple[tuple[Record, ...], dict[str, list[int]]]] = []


def _by_arm(records: Sequence[Record]) -> Mapping[str, list[int]]:
    if _PLACES and _same(_PLACES[0][0], records):
        return _PLACES[0][1]
    places: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        places.setdefault(replicated(record.spec), []).append(place)
    _PLACES[:] = [(tuple(records), places)]
    return places


def _same(seen: Sequence[Record], records: Sequence[Record]) -> bool:
    return len(seen) == len(records) and all(map(is_, seen, records))


def _by_data(
    records: Sequence[Record], meant: Mapping[str, str]
) -> Iterator[tuple[str | None, list[Record]]]:
    """Records that may be pooled: first those of the data meant by their name, with ``None``.

    Then, per name and fingerprint, those of other data.
    """
    groups: dict[tuple[str, str] | None, list[Record]] = {None: []}
    for record in records:
        name, data = record.spec.dataset, fingerprints.fingerprint(record)
        groups.setdefault(None if data == meant[name] else (name, data), []).append(record)
    for key, group in groups.items():
        yield key and key[1], group


def value(record: Record, metric: str) -> float:
    """A final metric, or ``untrained_accuracy``, the test accuracy before the first step.

    Or ``fitted``, see :func:`at_equal_fit`.
    """
    if metric == "untrained_accuracy":
        return record.curve[0]["test_accuracy"]
    if metric == "fitted":
        found = at_equal_fit(record.curve, FITTED)
        assert found is not None, "ask has() first"
        return found
    return record.metrics[metric]


def at_equal_fit(curve: Sequence[Mapping[str, float]], share: float) -> float | None:
    """Test accuracy at the first moment when this share of the training images is right.

    Both are interpolated between the ends of two epochs. A training accuracy is counted in training
    mode while an epoch goes on, so it lags behind by about half an epoch, in all arms alike.

    Args:
        curve: rows of a record.
        share: as a fraction.

    Returns:
        ``None`` if the run never gets there, or is there from the first epoch on.
    """
    epochs = [row for row in curve if row.get("train_accuracy") is not None]
    for before, after in pairwise(epochs):
        low, high = before["train_accuracy"], after["train_accuracy"]
        if low < share <= high:
            part = (share - low) / (high - low)
            return before["test_accuracy"] * (1 - part) + after["test_accuracy"] * part
    return None


def has(record: Record, metric: str) -> bool:
    """Whether a run has a metric; those made before it was kept have not."""
    if metric == "fitted":
        return at_equal_fit(record.curve, FITTED) is not None
    return metric == "untrained_accuracy" or metric in record.metrics


def failed(record: Record) -> bool:
    """Whether a run diverged, or ended below twice the accuracy of guessing.

    A network of which only a part is trained may be able to do no better: it fails only if it
    diverges.
    """
    if record.status == "diverged" or record.spec.train != "all":
        return record.status == "diverged"
    chance = card(record.spec.dataset).chance
    return chance is not None and value(record, "test_accuracy") < 2 * chance


@cache
def _specs(experiment: str, profile: str, dataset: str) -> tuple[Spec, ...]:
    return tuple(experiments.get(experiment).specs(profile, dataset, seeds=1))


@cache
def grid(experiment: str, profile: str, dataset: str) -> frozenset[str]:
    """What an experiment's runs share with their replicates, arm by arm; see :func:`replicated`."""
    return frozenset(spec.hash for spec in _specs(experiment, profile, dataset))


#: Hash of a run → what its replicates have in common. By hash: a Spec is slow as a key.
_SEED_0: dict[str, str] = {}


def replicated(spec: Spec) -> str:
    """What the replicates of a run have in common: the hash of the one with seed 0."""
    if spec.hash not in _SEED_0:
        _SEED_0[spec.hash] = spec.replace(seed=0).hash
    return _SEED_0[spec.hash]


# --- runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """What a claim's rule finds at one scale, before the correction."""

    profile: str
    dataset: str
    other: str | None  # the fingerprint of data that only bear this name
    findings: list[Finding]
    missing: list[str]
    records: list[Record]
    apart: int  # runs that are not among the records, since they are on other data

    @property
    def theirs(self) -> bool:
        """Whether these are the data of the papers' small networks."""
        return _is_theirs(self.dataset, self.other)

    @property
    def rank(self) -> tuple[bool, bool]:
        return not self.theirs, any(min(f.n) < ENOUGH for f in self.findings)


def _is_theirs(dataset: str, other: str | None) -> bool:
    return dataset in CIFAR10 and other is None


def _judge_trained(claim: Claim, rule: Trained, records: Sequence[Record]) -> list[Verdict]:
    held = _rows_of_paper(claim.paper.folder, records)
    rows = held[claim.id] if register().get(claim.id) == claim else _rows(claim, rule, records)
    others = [
        finding
        for other, found in held.items()
        if other != claim.id and _decided(register()[other].rule, found)
        for finding in found[0].findings
    ]
    verdicts = [_conclude(claim, row, others) for row in rows]
    if _decided(rule, rows):
        return verdicts
    where = " on CIFAR-10" if needs_cifar10(rule) else ""
    note = f"needs the {' or '.join(rule.profiles)} profile{where}"
    if set(rule.profiles) == set(DECISIVE):
        note = f"no records yet{where}" if verdicts else "no records yet"
    return [Verdict(claim, "not run", note=note), *verdicts]


def _decided(rule: Rule | None, rows: Sequence[_Row]) -> bool:
    """Whether the best row may decide: if there is one, on the data that the rule asks for."""
    assert isinstance(rule, Trained)
    return bool(rows) and (rows[0].theirs or not needs_cifar10(rule))


#: The rows of a paper's claims for the records seen last: whoever judges one claim judges more.
_HELD: dict[str, tuple[tuple[Record, ...], dict[str, list[_Row]]]] = {}


def _rows_of_paper(paper: str, records: Sequence[Record]) -> dict[str, list[_Row]]:
    """The rows of all claims of a paper that training decides: what is corrected together."""
    if paper in _HELD:
        seen, rows = _HELD[paper]
        if _same(seen, records):
            return rows
    rows = {
        claim.id: _rows(claim, claim.rule, records)
        for claim in register().values()
        if claim.paper.folder == paper and isinstance(claim.rule, Trained)
    }
    _HELD[paper] = tuple(records), rows
    return rows


def needs_cifar10(rule: Trained) -> bool:
    """Whether a rule asks for CIFAR-10: for its absolute accuracies or published values."""
    absolute = isinstance(rule, Level) and not rule.times_chance
    return absolute or any(arm.value for arm in rule.arms)


def _rows(claim: Claim, rule: Trained, records: Sequence[Record]) -> list[_Row]:
    assert claim.experiment is not None
    rows: list[_Row] = []
    seen = set()
    meant = fingerprints.meant(records)
    for profile, dataset in scales(records):
        if profile not in rule.profiles:
            continue
        chosen = _of_grid(records, claim.experiment, profile, dataset)
        fed = [r for r in chosen if feeds(r.spec, claim)]
        for other, used in _by_data(fed, meant):
            theirs = _is_theirs(dataset, other)
            if isinstance(rule, Level) and needs_cifar10(rule) and not theirs:
                continue
            hashes = frozenset(r.spec.hash for r in used)
            # Where every arm uses small images, both names mean them.
            if not used or hashes in seen:
                continue
            seen.add(hashes)
            valued = (
                profile == "full" and theirs and not experiments.get(claim.experiment).stands_in
            )
            match rule:
                case Ordered():
                    found, missing = _ordered(rule, used, valued)
                case Level():
                    specs = _specs(claim.experiment, profile, dataset)
                    found, missing = _level(rule, used, specs, valued)
                case Failures():
                    found, missing = _failures(rule, used)
            if found:
                apart = len(fed) - len(used)
                rows.append(_Row(profile, dataset, other, found, missing, used, apart))
    return sorted(rows, key=lambda row: row.rank)


def _runs(records: Sequence[Record], arm: Arm, metric: str = "test_accuracy") -> list[Run]:
    """The runs of an arm. Runs that were made before a metric was kept are left out."""
    final = metric == "test_accuracy"
    return [
        Run(r.spec.seed, value(r, metric), final and failed(r))
        for r in records
        if arm.matches(r.spec) and has(r, metric)
    ]


def _ordered(
    rule: Ordered, records: Sequence[Record], valued: bool
) -> tuple[list[Finding], list[str]]:
    """The findings the records allow, and names of the arms that were not run."""
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
    return [*found, *_survivals(rule.survives, runs, 0.5)], _missing(rule, records)


def _failures(rule: Failures, records: Sequence[Record]) -> tuple[list[Finding], list[str]]:
    runs = _recalled(records)
    found = []
    for pair in rule.pairs:
        if (low := runs(pair.low)) and (high := runs(pair.high)):
            name = f"{label(pair.low)} fails more often than {label(pair.high)}"
            found.append(_named(findings.fails_more(name, low, high), pair.low, pair.high))
    return [*found, *_survivals(rule.survives, runs, rule.share)], _missing(rule, records)


def _survivals(
    arms: Sequence[Arm], runs: Callable[[Arm], list[Run]], share: float
) -> list[Finding]:
    return [
        _named(findings.survives(label(arm), runs(arm), share), arm) for arm in arms if runs(arm)
    ]


def _named(finding: Finding, *arms: Arm) -> Finding:
    return replace(finding, names=tuple(map(label, arms)))


def _recalled(
    records: Sequence[Record], metric: str = "test_accuracy"
) -> Callable[[Arm], list[Run]]:
    return lambda arm: _runs(records, arm, metric)


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


def _missing(rule: Ordered | Failures, records: Sequence[Record]) -> list[str]:
    metric = rule.metric if isinstance(rule, Ordered) else "test_accuracy"
    absent = [arm for arm in rule.arms if not _runs(records, arm, metric)]
    return list(dict.fromkeys(_absent(records, arm) for arm in absent))


def _absent(records: Sequence[Record], arm: Arm) -> str:
    """The network, or the arm where only this arm of the network was not run."""
    if arm.called:
        return label(arm)
    model = arm.settings["model"]
    return label(arm) if _runs(records, Arm({"model": model})) else network(model)


def _level(
    rule: Level, records: Sequence[Record], grid: Sequence[Spec], valued: bool
) -> tuple[list[Finding], list[str]]:
    """The findings the records allow, and names of the networks that were not run."""
    together = rule.over == "all runs"
    groups: dict[str, tuple[Arm, list[Run]]] = {}
    missing = []
    for arm in rule.arms:
        for model in dict.fromkeys(spec.model for spec in grid if arm.matches(spec)):
            concrete = replace(arm, settings={**arm.settings, "model": model})
            runs = _runs(records, concrete, rule.metric)
            if not runs:
                missing.append(network(model))
                continue
            name = f"all networks, {label(arm)}" if together else label(concrete)
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
            found.append(replace(findings.level(name, runs, bounds, published), names=(name,)))
    return found, missing


def _conclude(claim: Claim, row: _Row, others: Sequence[Finding]) -> Verdict:
    assert claim.experiment is not None
    found = findings.corrected(row.findings, others)
    stands_in = experiments.get(claim.experiment).stands_in
    original = card(row.dataset).original and row.theirs
    whole = row.profile == "full" and original and not row.missing and not stands_in
    verdict = _word(claim, [f.answer for f in found], whole)
    single = _word(claim, [f.single for f in found], whole)
    agreement = _agreement([f.value for f in found if f.value])
    notes = []
    if any(min(f.n) < 2 for f in found):
        notes.append("a single seed gives no interval")
    if any(f.failed and min(f.n) < findings.FEWEST for f in found):
        notes.append(f"failures are counted, and tested from {findings.FEWEST} seeds per arm on")
    if any(f.failed for f in found):
        fails = sum(map(failed, row.records))
        notes.append(f"{fails} of {len(row.records)} runs failed (diverged, or below twice chance)")
    if single != verdict:
        notes.append(f"{single} before the correction for {found[0].family} comparisons")
    if agreement == "differs" and TONE[verdict] == "yes":
        notes.append("the direction is the paper's, the value is not")
    if agreement == "consistent" and TONE[verdict] == "no":
        notes.append("the value agrees with the paper's, the direction does not")
    if row.missing:
        notes.append(f"not run: {', '.join(row.missing)}")
    if row.apart and row.other is None:
        notes.append(f"not counted: {row.apart} runs on other data of the same name")
    names = {r.spec.dataset: fingerprints.fingerprint(r) for r in row.records}
    other = {data for name, data in names.items() if fingerprints.is_other(name, data)}
    epochs = sorted({r.spec.epochs for r in row.records})
    on = " and ".join(sorted(names))
    scale = f"{row.profile}: {' or '.join(map(str, epochs))} epochs on {on}"
    if row.other is not None or other:
        of = " and ".join(map(fingerprints.called, sorted(other) or [row.other or ""]))
        scale += f", not the data meant by that name ({of})"
    hashes = tuple(sorted(r.spec.hash for r in row.records))
    return Verdict(
        claim,
        verdict,
        tuple(found),
        scale,
        "; ".join(notes),
        hashes,
        single,
        agreement,
        row.profile,
        row.dataset,
    )


def _word(claim: Claim, answers: Sequence[Answer], whole: bool) -> str:
    """What trained or measured evidence says: nobody reproduces a finding of their own."""
    ours = claim.by == "ours"
    if "no" in answers:
        return "not found here" if ours else "contradicted"
    if "open" in answers:
        return "inconclusive"
    if ours:
        return "found here"
    return "reproduced" if whole else "reproduced at reduced scale"


def _agreement(values: Sequence[Agreement]) -> str:
    order: tuple[Agreement, ...] = ("differs", "open", "consistent")
    return next((word for word in order if word in values), "")


# --- without runs --------------------------------------------------------------------------------


def _judge_check(
    claim: Claim, rule: Check, outcome: "Callable[[str], Summary] | None" = None
) -> Verdict:
    """Compute the values and compare each with its bounds."""
    from nbrepro.claims import checks

    found = (outcome or checks.outcome)(rule.check)
    try:
        answer = checks.answers(found, rule.bounds)
    except ValueError as error:
        raise ValueError(f"{claim.id}: {rule.check}: {error}") from None
    return Verdict(claim, _without_training(claim, answer), note=found.note, values=found.values)


def _without_training(claim: Claim, answer: Answer) -> str:
    """The verdict on a claim that a check or a count decides."""
    if claim.evidence in _EXACT and answer != "open":
        return _EXACT[claim.evidence][answer == "no"]
    return _word(claim, [answer], whole=True)


def _judge_counts(claim: Claim, rule: Counts) -> Verdict:
    """Build every network (without memory for its weights) and compare with the printed counts."""
    import torch

    from nbrepro import freezing, models
    from nbrepro.claims.checks import Computed

    wrong, values = [], {}
    for model, row in printed(claim.paper.folder)[rule.table].rows.items():
        with torch.device("meta"):
            counts = freezing.count(models.create(model))
        for group, text in row.items():
            name = f"{network(model)} {group}"
            values[name] = Computed.of([counts[group]])
            if not _prints_as(counts[group], text):
                wrong.append(f"{name}: {counts[group]:,}, printed {text}")
    note = "; ".join(wrong) or f"all {len(values)} printed counts agree; built, not run"
    verdict = _without_training(claim, "no" if wrong else "yes")
    return Verdict(claim, verdict, note=note, values=values)


def _judge_measured(claim: Claim, rule: Measured, benchmarks: Sequence[Benchmark]) -> Verdict:
    """Read the benchmark's rows; one machine's timings never stand for more than that machine."""
    gpu_only = rule.device == "cuda"
    wanted = [b for b in benchmarks if b.name == rule.benchmark and (b.on_gpu or not gpu_only)]
    best = max(wanted, key=lambda b: b.on_gpu, default=None)
    found = [
        findings.ratio(case, row["rounds"], row["ratio"], row["low"], row["high"], rule.between)
        for case in rule.cases
        if best is not None and (row := best.rows.get(case)) is not None
    ]
    if best is None or not found:
        where = " on a GPU" if gpu_only else ""
        return Verdict(claim, "not run", note=f"needs benchmarks/{rule.benchmark}.py{where}")
    verdict = _word(claim, [finding.answer for finding in found], whole=False)
    scale = f"measured on {best.hardware}"
    return Verdict(claim, verdict, tuple(found), scale, records=(best.stem,))


def _prints_as(count: int, text: str) -> bool:
    """Whether ``count``, rounded or truncated, prints as a number such as ``1.12K``."""
    unit = {"K": 10**3, "M": 10**6}.get(text[-1], 1)
    digits = text.rstrip("KM")
    place = unit / 10 ** len(digits.partition(".")[2])
    beyond = count - float(digits) * unit
    return bool(-place / 2 <= beyond < place)

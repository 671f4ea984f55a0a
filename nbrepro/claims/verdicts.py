"""From records to verdicts.

A rule (:mod:`nbrepro.claims.rules`) asks one or more questions of the records, each answered *yes*,
*no* or *open* (:mod:`nbrepro.claims.findings`): by an effect whose 95 % interval lies wholly on the
claim's side, wholly on the other, or neither, or by an exact test of how many runs fail. The more
questions, the more of them come out wrongly by chance; so all answers of a paper that rest on
training are corrected together (Holm), and the corrected answers make the verdict. All yes: the
claim is reproduced. Any no: contradicted. Else inconclusive.

Questions about networks that were not run are left out and named
(:mod:`nbrepro.claims.questions`), and the verdict is then one "at reduced scale", as for all
profiles but ``full``, pixels but CIFAR-10's own, and experiments and checks whose networks or data
stand in for what is beyond our means.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nbrepro import experiments
from nbrepro.claims import findings
from nbrepro.claims.findings import Agreement, Answer, Finding
from nbrepro.claims.labels import named, network
from nbrepro.claims.outcomes import failed
from nbrepro.claims.questions import Row, decides, needs_cifar10, rows, rows_of_paper
from nbrepro.claims.register import Claim, register
from nbrepro.claims.rules import (
    DECISIVE,
    Check,
    Counts,
    Failures,
    Level,
    Measured,
    Ordered,
    Trained,
)
from nbrepro.claims.tables import printed
from nbrepro.data.cards import card
from nbrepro.records import fingerprints
from nbrepro.records.ledger import Record
from nbrepro.records.timings import Benchmark

if TYPE_CHECKING:
    from nbrepro.claims.checks import Computed, Summary

__all__ = ["TONE", "VERDICTS", "Verdict", "judge", "judge_all"]

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
        missing: networks or arms of the rule that were not run at this scale.
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
    missing: tuple[str, ...] = ()
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

    CIFAR-10 comes before other data; then what has :data:`~nbrepro.claims.questions.ENOUGH` seeds
    or more everywhere; then the ``full`` profile before ``quick``, and CIFAR-10's own pixels before
    compressed ones.
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


# --- trained --------------------------------------------------------------------------------------


def _judge_trained(claim: Claim, rule: Trained, records: Sequence[Record]) -> list[Verdict]:
    held = rows_of_paper(claim.paper.folder, records)
    found = held[claim.id] if register().get(claim.id) == claim else rows(claim, rule, records)
    others = [
        finding
        for other, theirs in held.items()
        if other != claim.id and decides(register()[other].rule, theirs)
        for finding in theirs[0].findings
    ]
    verdicts = [_conclude(claim, row, others) for row in found]
    if decides(rule, found):
        return verdicts
    where = " on CIFAR-10" if needs_cifar10(rule) else ""
    note = f"needs the {' or '.join(rule.profiles)} profile{where}"
    if set(rule.profiles) == set(DECISIVE):
        note = f"no records yet{where}" if verdicts else "no records yet"
    return [Verdict(claim, "not run", note=note), *verdicts]


def _conclude(claim: Claim, row: Row, others: Sequence[Finding]) -> Verdict:
    """The verdict that one row makes, corrected with the findings of the paper's other claims."""
    assert claim.experiment is not None
    found = findings.corrected(row.findings, others)
    stands_in = experiments.get(claim.experiment).stands_in
    original = card(row.dataset).original and row.theirs
    whole = row.profile == "full" and original and not row.missing and not stands_in
    verdict = _word(claim, [f.answer for f in found], whole)
    single = _word(claim, [f.single for f in found], whole)
    agreement = _agreement([f.value for f in found if f.value])
    notes = [*_limits(found, row.records)]
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
    return Verdict(
        claim,
        verdict,
        tuple(found),
        scale=_scale(row),
        note="; ".join(notes),
        records=tuple(sorted(r.spec.hash for r in row.records)),
        single=single,
        value=agreement,
        profile=row.profile,
        dataset=row.dataset,
        missing=tuple(row.missing),
    )


def _limits(found: Sequence[Finding], records: Sequence[Record]) -> Iterator[str]:
    """What so few runs, or runs that failed, cannot say."""
    if any(min(f.n) < 2 for f in found):
        yield "a single seed gives no interval"
    if any(f.failed and min(f.n) < findings.FEWEST for f in found):
        yield f"failures are counted, and tested from {findings.FEWEST} seeds per arm on"
    if any(f.failed for f in found):
        fails = sum(map(failed, records))
        yield f"{fails} of {len(records)} runs failed (diverged, or below twice chance)"
    chosen = {r.provenance.get("precision") for r in records if r.spec.precision == "auto"}
    if len(chosen) > 1:
        yield f"some runs are in {' and some in '.join(sorted(map(str, chosen)))}"


def _scale(row: Row) -> str:
    """Profile, epochs and data in words."""
    data = {r.spec.dataset: fingerprints.fingerprint(r) for r in row.records}
    epochs = sorted({r.spec.epochs for r in row.records})
    on = " and ".join(sorted(data))
    scale = f"{row.profile}: {' or '.join(map(str, epochs))} epochs on {on}"
    other = {mark for name, mark in data.items() if fingerprints.is_other(name, mark)}
    if row.other is not None or other:
        of = " and ".join(map(fingerprints.called, sorted(other) or [row.other or ""]))
        scale += f", not the data meant by that name ({of})"
    return scale


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
    verdict = _computed(claim, answer, whole=not rule.trains)
    return Verdict(claim, verdict, note=found.note, values=found.values)


def _computed(claim: Claim, answer: Answer, whole: bool = True) -> str:
    """The verdict on a claim that a check or a count decides."""
    if claim.evidence in _EXACT and answer != "open":
        return _EXACT[claim.evidence][answer == "no"]
    return _word(claim, [answer], whole)


def _judge_counts(claim: Claim, rule: Counts) -> Verdict:
    """Build every network (without memory for its weights) and compare with the printed counts."""
    import torch

    from nbrepro import freezing, models
    from nbrepro.claims.checks import Computed

    wrong, values = [], {}
    for model, row in printed(claim.paper.folder)[rule.table].rows.items():
        with torch.device("meta"):
            counts = freezing.count(models.create(model, rule.classes))
        for group, text in row.items():
            name = f"{network(model)} {group}"
            values[name] = Computed.of([counts[group]])
            if not _prints_as(counts[group], text):
                wrong.append(f"{name}: {counts[group]:,}, printed {text}")
    agree = f"{len(values) - len(wrong)} of {len(values)}" if wrong else f"all {len(values)}"
    note = "; ".join([f"{agree} printed counts agree", *wrong, "built, not run"])
    verdict = _computed(claim, "no" if wrong else "yes")
    return Verdict(claim, verdict, note=note, values=values)


def _judge_measured(claim: Claim, rule: Measured, benchmarks: Sequence[Benchmark]) -> Verdict:
    """Read the benchmark's rows; one machine's timings never stand for more than that machine."""
    gpu_only = rule.device == "cuda"
    wanted = [b for b in benchmarks if b.name == rule.benchmark and (b.on_gpu or not gpu_only)]
    best = max(wanted, key=lambda b: b.on_gpu, default=None)
    found = [
        findings.ratio(
            named(case), row["rounds"], row["ratio"], row["low"], row["high"], rule.between
        )
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

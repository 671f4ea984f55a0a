"""What was found, in words: the box that opens a page, and the sentence under a figure.

A sentence is chosen by the verdict on a claim and filled with the numbers of its findings. The
words stand beside the claims, in ``nbrepro/claims/<paper>/conclusions.yaml``; nobody writes what
was found into a page, so no page says it otherwise than the records do.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from nbrepro._suggest import choose, unknown
from nbrepro.book.figures import runs_of
from nbrepro.book.markup import address, render
from nbrepro.claims.findings import Finding, compare, gain
from nbrepro.claims.outcomes import outcome
from nbrepro.claims.register import parse, register
from nbrepro.claims.rules import Bounds, Failures, Measured, Ordered, Rule, read

if TYPE_CHECKING:
    from IPython.display import HTML

    from nbrepro.claims import Claim
    from nbrepro.claims.verdicts import Verdict
    from nbrepro.records.ledger import Record


#: How a published value was seen, in words; see :class:`nbrepro.claims.Quoted`.
SEEN = {
    "paper": "the paper",
    "figure": "read off its figure",
    "code": "its authors' code",
    "second hand": "second hand",
    "recalled": "recalled, seen nowhere",
}
#: More seeds per arm than this are more than we, or a reader, would run.
MANY_SEEDS = 100
#: What stands before the paper's name on a card.
BY = {"paper": "", "review": "a published review of ", "ours": "beside "}


@dataclass(frozen=True)
class Wording:
    """What is said of a claim, as ``conclusions.yaml`` has it.

    Attributes:
        holds: a sentence for where the verdict is that it does.
        fails: for where it does not hold.
        open: for where the records do not settle it.
        numbers: what the findings are, with fields that :func:`conclusion` fills in.
    """

    holds: str
    fails: str
    open: str
    numbers: str = ""


class Said(NamedTuple):
    """A conclusion in its two parts: what it comes to, and the numbers."""

    headline: str
    details: str


@cache
def wordings() -> Mapping[str, Wording]:
    """Claim → what is said of it, of all papers.

    Raises:
        ValueError: for a claim that the register does not have, or an entry that is not a wording.
    """
    found: dict[str, Wording] = {}
    folder = files("nbrepro.claims")
    for paper in sorted({claim.paper.folder for claim in register().values()}):
        file = f"{paper}/conclusions.yaml"
        path = folder.joinpath(file)
        entries = parse(path.read_text(encoding="utf-8"), file) if path.is_file() else {}
        for claim, entry in entries.items():
            if claim not in register():
                raise ValueError(f"{file}: {claim} is not in the register")
            found[claim] = read(Wording, entry, f"{file}: {claim}")
    return found


def conclusion(verdict: "Verdict") -> str:
    """What was found on a claim: sentences with its numbers, as plain text, the same on every page.

    Of an open claim they say what is missing, and of one that was not run what it needs.
    """
    return " ".join(filter(None, (*said(verdict), missing(verdict))))


def takeaway(verdict: "Verdict") -> str:
    """A conclusion without what is missing: the sentence to remember under a figure."""
    return " ".join(filter(None, said(verdict)))


def against(
    records: "Sequence[Record]", first: Mapping[str, Any], second: Mapping[str, Any]
) -> str:
    """Two arms that no claim compares, in numbers: a difference, or who survives.

    Args:
        records: the runs.
        first: settings of one arm.
        second: of the other; a positive difference says that the first is better.
    """
    finding = compared(records, first, second)
    return "no records yet" if finding is None else f"{_Numbers(finding)}"


def ahead_by_more(
    records: "Sequence[Record]",
    first: tuple[Mapping[str, Any], Mapping[str, Any]],
    second: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> str:
    """By how much one lead is larger than another, in numbers: seed by seed.

    Args:
        records: the runs.
        first: settings of two arms, of which the first leads the second.
        second: the same of two others.
    """
    (a, b), (c, d) = (
        [list(map(outcome, runs_of(records, arm))) for arm in pair] for pair in (first, second)
    )
    if not (a and b and c and d):
        return "no records yet"
    return f"{_Numbers(gain('', (d, c), (b, a), Bounds(0, math.inf)))}"


def compared(
    records: "Sequence[Record]", first: Mapping[str, Any], second: Mapping[str, Any]
) -> Finding | None:
    """The same as a finding; ``None`` where an arm has no runs."""
    high, low = (list(map(outcome, runs_of(records, arm))) for arm in (first, second))
    return compare("", low, high, Bounds(0, math.inf)) if high and low else None


def said(verdict: "Verdict") -> Said:
    """What a conclusion comes to, and its numbers."""
    wording = wordings().get(verdict.claim.id)
    if verdict.tone == "none":
        kind = verdict.verdict.capitalize()
        return Said(f"{kind}: {bare(verdict.claim)}", _sentence(verdict.note))
    if wording is None or not _fits(wording, verdict):
        headline, numbers = bare(verdict.claim), _sentence(verdict.ours)
        if verdict.tone != "yes":
            headline = f"{verdict.verdict.capitalize()}: {headline}"
    else:
        headline = {"yes": wording.holds, "no": wording.fails, "open": wording.open}[verdict.tone]
        numbers = wording.numbers.format(*map(_Numbers, verdict.findings), **_fields(verdict))
        numbers = numbers or _sentence(verdict.ours)
    return Said(headline, numbers)


def missing(verdict: "Verdict") -> str:
    """What would settle an open claim, as a sentence; empty for any other."""
    if verdict.tone != "open" or not verdict.findings:
        return ""
    if verdict.seeds_needed and verdict.seeds_needed <= MANY_SEEDS:
        words = f"{verdict.seeds_needed} seeds per arm would probably settle it."
    elif isinstance(verdict.claim.rule, Measured):
        words = "More rounds on this machine would hardly settle it."
    elif any(min(finding.n) < 2 for finding in verdict.findings):
        words = "A single seed settles nothing."
    else:
        words = "More seeds of the same runs would hardly settle it."
    if verdict.single not in ("", verdict.verdict):
        family = verdict.findings[0].family
        words += (
            f" Without the correction for {family} comparisons the verdict would be "
            f"“{verdict.single}”."
        )
    return words


def not_run(verdict: "Verdict") -> str:
    """What the rule asks about and the runs leave out, as a sentence; empty if it is nothing."""
    return f"Not run at this scale: {', '.join(verdict.missing)}." if verdict.missing else ""


def found(*sentences: "Verdict | str", hero: "HTML | None" = None) -> "HTML":
    """The box that opens a page: what was found, sentence by sentence, and one figure.

    Args:
        sentences: verdicts, each told by :func:`said` with its scale and a link to its evidence,
            or sentences of one's own.
        hero: a figure of :func:`nbrepro.book.captions.figure`.
    """
    told = [(None, s, "") if isinstance(s, str) else (s, *said(s)) for s in sentences]
    return render("found", told=told, link=address, hero=hero)


class Claims:
    """The claims of a page beside what was found, in several places, each claim once.

    Args:
        verdicts: of the page; several of one claim are rows of their own, the first decides.
    """

    def __init__(self, verdicts: "Iterable[Verdict]") -> None:
        self._left: dict[str, list[Verdict]] = {}
        for verdict in verdicts:
            self._left.setdefault(verdict.claim.id, []).append(verdict)
        self._all = dict(self._left)

    def __getitem__(self, name: str) -> "Verdict":
        """The verdict that decides a claim.

        Raises:
            ValueError: for a claim that is not one of the page.
        """
        return self._all[choose("claim of this page", name, self._all)][0]

    def of(self, name: str, records: "Sequence[Record]") -> "Verdict":
        """The verdict on a claim that rests on these runs, or else the one that decides.

        For figures that show the runs.

        Raises:
            ValueError: for a claim that is not one of the page.
        """
        deciding, shown = self[name], {record.spec.hash for record in records}
        rows = (row for row in self._all[name] if row.records and shown.issuperset(row.records))
        return next(rows, deciding)

    def __call__(self, *wanted: str) -> "HTML":
        """A table of these claims.

        Raises:
            ValueError: for a claim that is not one of the page, or has its place already.
        """
        for name in wanted:
            if name not in self._left:
                raise ValueError(unknown("claim without a place yet", name, self._left))
        return _claims([self._left.pop(name) for name in wanted])

    def rest(self) -> "HTML":
        """All others of the page: trained and measured ones, then, folded, those that are neither.

        Claims without a rule come last, with what a test would take.
        """
        left = list(self._left.values())
        self._left = {}
        return _claims(left)


def _claims(groups: "Sequence[Sequence[Verdict]]") -> "HTML":
    """Rows of claims; those that are neither trained nor measured, and those untested, folded."""
    ruled = [rows for rows in groups if rows[0].claim.rule]
    shown = [rows for rows in ruled if rows[0].claim.evidence in ("trained", "measured")]
    return render(
        "claims",
        head=("claim", "what we found", "verdict"),
        shown=shown,
        folded=[rows for rows in ruled if rows not in shown],
        untested=[rows[0].claim for rows in groups if not rows[0].claim.rule],
        by=BY,
        seen=SEEN,
        link=address,
        bare=bare,
        details=_details,
    )


def _details(verdict: "Verdict") -> str:
    return " ".join(filter(None, (said(verdict).details, not_run(verdict), missing(verdict))))


def bare(claim: "Claim") -> str:
    """A claim's statement without the remarks in brackets behind it."""
    return re.sub(r"\s*\((?:[^()]|\([^()]*\))*\)\s*$", "", claim.statement)


def _sentence(text: str) -> str:
    """Text as a sentence: a capital first, unless it is a symbol such as λ, a full stop last."""
    if text[:1].isascii():
        text = text[:1].upper() + text[1:]
    return text if not text or text.endswith((".", "?")) else f"{text}."


def _fits(wording: Wording, verdict: "Verdict") -> bool:
    """Whether fields that name findings by their place name the right ones: all pairs were run."""
    by_place = re.search(r"\{\d", wording.numbers)
    return not by_place or len(verdict.findings) == _asked(verdict.claim.rule)


def _asked(rule: Rule | None) -> int:
    """How many questions a rule asks; one where it asks the same of whatever was run."""
    match rule:
        case Ordered():
            return len(rule.pairs) + len(rule.gains) + len(rule.survives)
        case Failures():
            return len(rule.pairs) + len(rule.survives)
    return 1


class _Numbers:
    """A finding as a field: its numbers, and the counts of its arms."""

    def __init__(self, finding: Finding) -> None:
        self._finding = finding

    def __format__(self, _: str) -> str:
        finding = self._finding
        alone = finding.failed or not finding.seeds
        return finding.numbers if alone else f"{finding.numbers}, {finding.seeds}"

    def _count(self, arm: int) -> str:
        n, failed = self._finding.n[arm], self._finding.failed[arm]
        return f"{n - failed} of {n}"

    @property
    def first(self) -> str:
        """Of the first arm, how many survive."""
        return self._count(0)

    @property
    def second(self) -> str:
        """Of the second arm, how many survive."""
        return self._count(1)


def _fields(verdict: "Verdict") -> dict[str, Any]:
    """What fields may name besides single findings: all, their range, or values."""
    if verdict.values:
        return dict(verdict.values)
    ranked = sorted(verdict.findings, key=lambda f: -1 if math.isnan(f.effect) else f.effect)
    each = (f"{finding.label}: {_Numbers(finding)}" for finding in verdict.findings)
    return {
        "all": "; ".join(each),
        "range": " to ".join(dict.fromkeys(f.amount for f in (*ranked[:1], *ranked[-1:]))),
    }

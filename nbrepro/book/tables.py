"""Tables of verdicts, reviews and records, as HTML that also reads well without our style sheet.

A number is rounded and put into words once, here or in
:class:`~nbrepro.claims.findings.Finding`, and never read back out of a text.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from nbrepro.book import found
from nbrepro.book.found import SEEN
from nbrepro.book.markup import Cell, nothing, render, table
from nbrepro.claims import labels
from nbrepro.data.cards import card

if TYPE_CHECKING:
    from IPython.display import HTML, Markdown
    from markupsafe import Markup

    from nbrepro.claims.reviews import Review
    from nbrepro.claims.verdicts import Verdict
    from nbrepro.records.ledger import Record
    from nbrepro.spec import Spec

#: What a claim can rest on, in the order of a scorecard; see :attr:`nbrepro.claims.Claim.evidence`.
EVIDENCE = {
    "trained": "training on real images",
    "measured": "measurement without a training run",
    "counted": "counting parameters and operations",
    "arithmetic": "arithmetic on printed numbers",
    "verified": "code held against its description",
    "cited": "nothing of ours",
}
_BY = {"paper": "", "review": "a review's claim", "ours": "our own finding"}
_STANDS = {
    "agrees": "agrees with the paper",
    "partly": "agrees in part",
    "differs": "differs from the paper",
    "own": "the reviewer's own",
}
_NO_RECORDS = "No records yet."


# --- numbers in words ---


def _interval(low: float, high: float, digits: str) -> str:
    """Both ends in brackets; empty if there is no interval."""
    return "" if math.isnan(low) else f"[{low:{digits}}, {high:{digits}}]"


def _mean(values: Sequence[float]) -> str:
    """Mean and standard deviation, one digit behind the point."""
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}"


def page(chapter: str) -> str:
    """How a link to a page reads: ``chapter 8``, or the page's name if it has no number."""
    number = re.match(r"\d+", chapter)
    return f"chapter {int(number[0])}" if number else chapter.replace("_", " ")


# --- verdicts ---


def _in_order(verdicts: Iterable["Verdict"]) -> list[list["Verdict"]]:
    """The rows of each claim, the deciding one first; claims by their verdicts, surprises first."""
    from nbrepro.claims.verdicts import VERDICTS

    rows: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        rows.setdefault(verdict.claim.id, []).append(verdict)
    return sorted(rows.values(), key=lambda of_claim: VERDICTS.index(of_claim[0].verdict))


def by_evidence(verdicts: Iterable["Verdict"]) -> dict[str, list["Verdict"]]:
    """Kind of evidence → the verdicts that rest on it, in the order of :data:`EVIDENCE`."""
    groups: dict[str, list[Verdict]] = {kind: [] for kind in EVIDENCE}
    for verdict in verdicts:
        groups[verdict.claim.evidence].append(verdict)
    return groups


def scorecard(verdicts: Iterable["Verdict"]) -> "HTML":
    """One row per claim: statement, the paper's value, ours, verdict, scale, links.

    What did not hold says what was found instead. ``scorecard.js`` filters and sorts the rows.
    """
    rows = [row[0] for row in _in_order(verdicts)]
    if not rows:
        return nothing("No claim rests on this.")
    head = ("claim", "published", "ours, the least clear", "verdict")
    return render("scorecard", head=head, verdicts=rows, **_of_scorecard())


def cited(verdicts: Iterable["Verdict"]) -> "HTML":
    """The claims that are only cited, by paper, folded, each with what a test would take."""
    papers: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        papers.setdefault(verdict.claim.source, []).append(verdict)
    if not papers:
        return nothing("No claim is only cited.")
    return render("cited", papers=papers, **_of_scorecard())


def _of_scorecard() -> dict[str, Any]:
    """What the templates of the scorecard call."""
    return {
        "bare": found.bare,
        "by": _BY,
        "conclusion": found.conclusion,
        "facets": _facets,
        "page": page,
        "seen": SEEN,
    }


def _facets(verdict: "Verdict") -> "Markup":
    """What the rows of a scorecard can be chosen by, as attributes."""
    from markupsafe import Markup

    claim = verdict.claim
    facets = {
        "claim": claim.id,
        "verdict": verdict.verdict,
        "evidence": claim.evidence,
        "paper": claim.source,
        "chapter": page(claim.chapter),
    }
    return Markup("").join(Markup(' data-{}="{}"').format(*facet) for facet in facets.items())


def scorecard_filters() -> "HTML":
    """Where ``scorecard.js`` puts what chooses among the rows, and the downloads."""
    from nbrepro.claims.register import texts

    return render("scorecard_filters", register=list(texts()))


def tally(verdicts: Iterable["Verdict"]) -> "HTML":
    """How many claims got which verdict: a sentence per kind of evidence, training first.

    Each number leads to its claims on the scorecard.
    """
    from nbrepro.claims.verdicts import VERDICTS

    sentences = []
    for kind, group in by_evidence(verdicts).items():
        counts = Counter(verdict.verdict for verdict in group)
        said = f"Of {_claims(len(group))} decided by {EVIDENCE[kind]}: "
        if kind == "cited":
            said = "Nothing of ours bears on the others: "
        if group:
            sentences.append(
                (said, kind, [(word, counts[word]) for word in VERDICTS if counts[word]])
            )
    return render("scorecard_tally", sentences=sentences)


def _claims(number: int) -> str:
    return f"{number} claim{'s' * (number != 1)}"


# --- reviews ---


def review(review: "Review", verdicts: Iterable["Verdict"]) -> "HTML":
    """A published review, statement by statement, with the verdicts on the claims that answer it.

    Args:
        review: one of :func:`nbrepro.claims.reviews.reviews`.
        verdicts: on all claims of the register.
    """
    judged = {row[0].claim.id: row[0] for row in _in_order(verdicts)}
    rows = [(each, [judged[claim] for claim in each.claims]) for each in review.statements]
    head = ("no.", "what the review says", "and the paper", "claims that answer it", "note")
    return render("review", head=head, key=review.key, rows=rows, stands=_STANDS)


def review_tally(review: "Review", verdicts: Iterable["Verdict"]) -> "Markdown":
    """One sentence: on how many statements of a review which kind of evidence bears.

    A statement counts for the first kind of :data:`EVIDENCE` that any of its claims rests on, runs
    that are missing not counted. It is settled if all of its claims of that kind are.
    """
    from IPython.display import Markdown

    judged = {row[0].claim.id: row[0] for row in _in_order(verdicts)}
    by_kind: dict[str, list[str]] = {}
    for statement in review.statements:
        found = [judged[claim] for claim in statement.claims]
        kinds = {"not run" if v.verdict == "not run" else v.claim.evidence for v in found}
        kind = next((k for k in (*EVIDENCE, "not run") if k in kinds), "none")
        if kind == "cited" and "not run" in kinds:
            kind = "not run"
        settled = [v.tone in ("yes", "no") for v in found if v.claim.evidence == kind]
        how_far = "settled" if all(settled) else "in part" if any(settled) else ""
        by_kind.setdefault(kind, []).append(how_far)
    trained = by_kind.get("trained", [])
    others = [s for kind in list(EVIDENCE)[1:-1] for s in by_kind.get(kind, [])]
    counts = {kind: len(by_kind.get(kind, [])) for kind in ("not run", "cited", "none")}
    return Markdown(
        f"{len(review.statements)} statements: {len(trained)} put to training on real images "
        f"({_settled(trained)}), {len(others)} to measurement, counting, arithmetic or a check of "
        f"code ({_settled(others)}), {counts['not run']} not run yet, "
        f"{counts['cited']} cited only, {counts['none']} without a claim."
    )


def _settled(how_far: Sequence[str]) -> str:
    part = how_far.count("in part")
    return f"{how_far.count('settled')} settled" + (f", {part} in part" if part else "")


# --- records ---


def deviations(records: Sequence["Record"], published: Mapping[str, Any] | None) -> "HTML":
    """How the recorded runs differ from the published recipe, read from the records themselves.

    Below the settings stands what follows from them: how far random crops move an image.

    Args:
        records: the runs; one that is given twice, as two experiments share it, counts once.
        published: the paper's settings by name, those of :class:`~nbrepro.spec.Spec`, or
            ``precision``, ``device`` and ``replicates``; ``None`` for the recipe of the
            BatchNorm-only study, which is that of a Spec's defaults.
    """
    from nbrepro.spec import Spec

    if not records:
        return nothing(_NO_RECORDS)
    if published is None:
        recipe = Spec(model="cifar_resnet14").to_dict()
        for other in ("model", "train", "seed", "skip_init"):  # varied, or of other networks
            del recipe[other]
        published = recipe | {"precision": "float32", "device": "a GPU", "replicates": 5}
    records = list({record.spec.hash: record for record in records}.values())
    replicates = Counter(record.spec.replace(seed=0) for record in records)
    rows = []
    for setting, theirs in published.items():
        if setting == "replicates":
            values: list[Any] = list(replicates.values())
        elif setting in ("precision", "device"):
            values = [record.provenance.get(setting) for record in records]
        elif setting == "clipping":  # of the whole gradient it is no λ
            values = [r.spec.clipping for r in records if r.spec.clip.startswith("agc")]
        else:
            values = [record.spec.to_dict()[setting] for record in records]
        ours, paper = _listed(setting, values), labels.value(setting, theirs)
        if values and ours != paper:
            rows.append((labels.setting(setting), paper, ours))
    rows += _crops([record.spec for record in records], published)
    return table(("setting", "the paper", "these records"), rows)


def _listed(setting: str, values: Iterable[object]) -> str:
    """Each value once, for readers: numbers in their order, then all others in the alphabet's."""

    def place(value: object) -> tuple[float, str]:
        return (value if isinstance(value, int | float) else math.inf), str(value)

    listed = list(dict.fromkeys(labels.value(setting, one) for one in sorted(values, key=place)))
    return ("; " if any("," in one for one in listed) else ", ").join(listed)


def _crops(specs: "Iterable[Spec]", published: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """A row on how far crops move an image, where the paper's do and ours go another way.

    The border is as wide for small images as for large ones, so no setting shows it.
    """
    theirs = card(str(published.get("dataset"))).side
    if published.get("augmentation") != "crop-flip" or theirs is None:
        return []
    from nbrepro.train.assembly import PAD

    cropped = {card(spec.dataset).side for spec in specs if spec.augmentation == "crop-flip"}
    sides = sorted((side for side in cropped if side is not None), reverse=True)
    if sides in ([], [theirs]):
        return []
    ours = ", ".join(str(Fraction(PAD, side)) for side in sides)
    return [("crops shift by at most, of the side", str(Fraction(PAD, theirs)), ours)]


def paired_table(records: Sequence["Record"], setting: str, before: str, after: str) -> "HTML":
    """What one setting changes: differences between runs that are otherwise the same, seed by seed.

    Where a run fails, who survives is counted, and no mean of differences is given.

    Args:
        records: the runs; those without a partner that has ended are left out.
        setting: of :class:`~nbrepro.spec.Spec`.
        before: its value on one side.
        after: its value on the other, which the difference is counted for.
    """
    from nbrepro.book import figures
    from nbrepro.book.figures.runs import Ends
    from nbrepro.claims.statistics import digits, interval

    sides: dict[str, dict[Spec, Record]] = {before: {}, after: {}}
    for record in figures.ended(records):
        value = str(getattr(record.spec, setting))
        if value in sides:
            sides[value][record.spec.replace(**{setting: before})] = record
    arms: dict[Spec, list[tuple[Record, Record]]] = {}
    for spec, record in sides[after].items():
        if spec in sides[before]:
            arms.setdefault(spec.replace(seed=0), []).append((sides[before][spec], record))
    if not arms:
        return nothing(_NO_RECORDS)
    rows = []
    for spec, pairs in arms.items():
        ends = [Ends.of(runs) for runs in zip(*pairs, strict=True)]
        means = [str(side) if side.failed else digits(side.mean) for side in ends]
        name = f"{labels.network(spec.model)}, {labels.trained(spec.train)}"
        if spec.clip == "agc":
            name += f", AGC {spec.clipping}, rate {spec.lr}"
        change = Cell("-")
        if not any(side.failed for side in ends):
            changes = [b - a for a, b in zip(*(side.survivors for side in ends), strict=True)]
            change = Cell(f"{mean(changes):+.1f}", _interval(*interval(changes), ".1f"))
        rows.append((name, *means, change, len(pairs)))
    head = ("run", f"{before}, %", f"{after}, %", "difference, points", "seeds")
    scale = figures.scale_of([r for side in sides.values() for r in side.values()])
    note = f"Test accuracy, means over seeds [Student's 95 % interval of the pairs]; {scale}."
    return table(head, rows, note)

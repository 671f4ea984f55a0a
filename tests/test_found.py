"""What was found, in words: every claim's sentences for every verdict, with its own numbers."""

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.display import HTML

from nbrepro import claims
from nbrepro.book import found
from nbrepro.book.chapter import judged
from nbrepro.claims import checks
from nbrepro.claims.findings import Answer, Finding
from nbrepro.claims.rules import Check, Counts, Failures, Level, Measured, Ordered, Trained
from nbrepro.claims.verdicts import TONE, Verdict
from nbrepro.records.ledger import Record
from nbrepro.spec import Spec

WORDED = sorted(found.wordings())
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
#: A verdict of each tone that a rule's kind of evidence can have.
WORDS = {
    "trained": ("contradicted", "inconclusive", "reproduced at reduced scale", "reproduced"),
    "measured": ("contradicted", "inconclusive", "reproduced"),
    "arithmetic": ("inconsistent as printed", "inconclusive", "consistent as printed"),
    "counted": ("counts differ", "inconclusive", "counts agree"),
    "verified": ("implementation differs", "inconclusive", "implementation verified"),
    "ours": ("not found here", "inconclusive", "found here"),
}


def difference(at: int, answer: Answer = "yes", unit: Any = "points") -> Finding:
    """A finding with numbers that no other has."""
    effect = 0.111 + at / 10
    return Finding(f"A{at} over B{at}", (7, 7), effect, effect - 0.02, effect + 0.03, answer, unit)


def counted(at: int, arms: int, answer: Answer = "yes") -> Finding:
    n, failed, survivors = (70 + at, 90 + at), (11 + at, 23 + at), (0.431, math.nan)
    nan = (math.nan,) * 3
    return Finding(
        f"A{at} over B{at}",
        n[:arms],
        *nan,
        answer,
        "points",
        failed=failed[:arms],
        survivors=survivors[:arms],
    )


def outcomes(rule: Any) -> Iterator[tuple[Finding, ...]]:
    """All kinds of findings that a rule can have: differences, and counts where runs fail."""
    match rule:
        case Ordered():
            asked = len(rule.pairs) + len(rule.gains) or len(rule.rising) - 1
            lasting = [counted(asked + n, 1) for n, _ in enumerate(rule.survives)]
            yield (*(difference(n) for n in range(asked)), *lasting)
            yield (*(counted(n, 2) for n in range(asked)), *lasting)
        case Failures():
            pairs = [counted(n, 2) for n, _ in enumerate(rule.pairs)]
            yield (*pairs, *(counted(len(pairs) + n, 1) for n, _ in enumerate(rule.survives)))
        case Level():
            yield (difference(0, unit="%"),)
            yield (counted(0, 1),)
        case Measured():
            yield tuple(difference(n, unit="×") for n, _ in enumerate(rule.cases))
        case Check() | Counts():
            yield ()


def made_up(rule: Any) -> dict[str, checks.Computed]:
    """What a check might find: each value is a number of its own."""
    names = sorted(rule.bounds) if isinstance(rule, Check) else ()
    return {
        key: checks.Computed(2.5 + at, 2.25 + at, 2.75 + at, 10) for at, key in enumerate(names)
    }


@pytest.mark.parametrize("claim", WORDED)
def test_every_verdict_on_a_claim_has_its_sentence(claim: str) -> None:
    given = claims.get(claim)
    values = made_up(given.rule)
    headlines = {}
    for findings in outcomes(given.rule):
        for word in WORDS["ours" if given.by == "ours" else given.evidence]:
            verdict = Verdict(given, word, findings, single=word, values=values)
            said, text = found.said(verdict), found.conclusion(verdict)
            assert not re.search(r"[{}]|\bnan\b", text), text
            for sentence in said:
                assert not sentence or sentence[-1] in ".?", text
                assert not sentence or not sentence[0].islower(), text
            headlines[TONE[word]] = said.headline
            wording = found.wordings()[claim]
            assert said.headline in (wording.holds, wording.fails, wording.open)
            ours = "".join(map(str, findings)) + repr(found._fields(verdict))
            settings = str(wording)
            for number in NUMBER.findall(text):
                assert number in ours or number in settings or number in percents(values), text
    assert len(set(headlines.values())) == 3, "three verdicts, three sentences"


def percents(values: dict[str, checks.Computed]) -> str:
    """The values of a check in all the forms that they may be given in."""
    return " ".join(f"{v:.0%} {v:.1%} {v:.1f} {v:.2f} {v:.3f} {v:.4f}" for v in values.values())


def test_every_claim_that_training_decides_has_words_of_its_own() -> None:
    trained = {c.id for c in claims.register().values() if isinstance(c.rule, Trained)}
    assert trained - set(WORDED) == set()


def test_the_numbers_are_those_of_the_scorecard() -> None:
    given = claims.get("F2-d")
    for finding in (difference(0), counted(0, 2)):
        said = found.conclusion(Verdict(given, "reproduced at reduced scale", (finding,)))
        assert finding.numbers in said


def test_what_is_missing() -> None:
    given = claims.get("F2-d")
    open_ = replace(difference(0, "open"), needed=lambda _: 12, family=17)
    verdict = Verdict(given, "inconclusive", (open_,), single="contradicted")
    assert "12 seeds per arm" in found.missing(verdict)
    assert "17 comparisons the verdict would be “contradicted”" in found.missing(verdict)
    many = replace(open_, needed=lambda _: found.MANY_SEEDS + 1)
    assert "hardly" in found.missing(Verdict(given, "inconclusive", (many,)))
    single = replace(difference(0, "open"), n=(1, 1))
    assert "single seed" in found.missing(Verdict(given, "inconclusive", (single,)))
    hopeless = Verdict(given, "inconclusive", (difference(0, "open"),))
    assert "hardly" in found.missing(hopeless)
    assert found.missing(Verdict(given, "contradicted", (difference(0, "no"),))) == ""


def test_what_was_not_run_is_named_beside_the_numbers() -> None:
    part = Verdict(claims.get("F2-d"), "reproduced", (difference(0),), missing=("A", "B"))
    assert found.not_run(part) == "Not run at this scale: A, B."
    assert found.not_run(part) in found.Claims([part])("F2-d").data
    assert found.not_run(Verdict(claims.get("F2-d"), "reproduced", (difference(0),))) == ""


def test_a_claim_that_was_not_run_says_so() -> None:
    said = found.conclusion(Verdict(claims.get("ACC-4"), "not run", note="needs a GPU"))
    assert said.startswith("Not run: ResNet-110 with only BatchNorm trained (8,288 parameters)")
    assert said.endswith("reaches 69.5 %. Needs a GPU.")


def test_with_a_pair_missing_no_number_is_put_in_the_place_of_another() -> None:
    """F2-a names its two comparisons by place; with one of them not run, it names neither."""
    given = claims.get("F2-a")
    said = found.conclusion(Verdict(given, "inconclusive", (counted(1, 2, "open"),)))
    assert said.startswith("Inconclusive: With AGC")
    assert "batch size 1024" not in said
    assert counted(1, 2).numbers in said


def test_the_box_escapes_text_and_shows_verdict_and_figure() -> None:
    verdict = Verdict(
        claims.get("F2-d"), "contradicted", (difference(0, "no"),), scale="quick: 8 epochs"
    )
    figure = HTML("<figure>drawn</figure>")
    box = found.found(verdict, "a < b", hero=figure).data
    assert "a &lt; b" in box
    assert "<figure>drawn</figure>" in box
    assert found.said(verdict).details in box
    assert "(quick: 8 epochs)" in box
    assert 'class="verdict verdict-no">contradicted<' in box
    assert "<figure" not in found.found("a").data


def trained(accuracies: list[float], seed: int = 0, **settings: Any) -> list[Record]:
    """Completed runs with these accuracies, with the seeds from ``seed`` on."""
    base = Spec(model="cifar_nf_resnet20", dataset="cifar10", **settings)
    return [
        Record(base.replace(seed=seed + n), "completed", {"test_accuracy": accuracy}, [], {})
        for n, accuracy in enumerate(accuracies)
    ]


def test_two_arms_that_no_claim_compares() -> None:
    first, second = {"clip": "agc"}, {"clip": "norm"}
    records = [
        *trained([0.41, 0.43, 0.45], clip="agc", clipping=0.01),
        *trained([0.40, 0.40, 0.42], clip="norm", clipping=0.25),
    ]
    said = found.against(records, first, second)
    assert said.startswith("+2.3 points [")
    assert said.endswith("n = 3")
    assert found.against(records, second, first).startswith("-2.3 points [")
    records += trained([0.1], seed=3, clip="norm", clipping=0.25)
    counted = "3 of 3 survive, at 43.0 %, against 3 of 4, at 40.7 %"
    assert found.against(records, first, second) == counted
    assert found.against([], first, second) == "no records yet"


def test_one_lead_is_compared_with_another() -> None:
    """Seed by seed: leads of 10 and 12 points against 4 and 5 are 6 and 7 points larger."""
    arms: list[dict[str, Any]] = [{"clip": "norm", "clipping": x} for x in (1.0, 2.0, 3.0, 4.0)]
    reached = ([0.40, 0.42], [0.30, 0.30], [0.34, 0.36], [0.30, 0.31])
    records = [
        run
        for arm, accuracies in zip(arms, reached, strict=True)
        for seed, accuracy in enumerate(accuracies)
        for run in trained([accuracy], seed=seed, **arm)
    ]
    a, b, c, d = arms
    told = found.ahead_by_more(records, (a, b), (c, d))
    assert told.startswith("+6.5 points [")
    assert told.endswith("n = 2")
    assert found.ahead_by_more(records, (c, d), (a, b)).startswith("-6.5 points [")
    assert found.ahead_by_more([], (a, b), (c, d)) == "no records yet"


def test_a_page_shows_each_claim_once_and_then_the_rest() -> None:
    open_ = Verdict(claims.get("F2-d"), "inconclusive", (difference(0, "open"),), scale="quick")
    (run,) = trained([0.4])
    further = Verdict(
        claims.get("F2-d"), "contradicted", (difference(1, "no"),), records=(run.spec.hash,)
    )
    cited = Verdict(claims.get("M-12"), "cited only")
    page = found.Claims([open_, further, Verdict(claims.get("M-13"), "not run"), cited])
    assert page["F2-d"] == open_
    assert page.of("F2-d", [run, *trained([0.4], seed=1)]) == further
    assert page.of("F2-d", trained([0.4], seed=1)) == open_
    first, rest = page("F2-d").data, page.rest().data
    assert re.findall('id="(.*?)"', first) == ["F2-d"]
    assert re.findall('id="(.*?)"', rest) == ["M-13", "M-12"]
    assert found.said(open_).details in first
    assert found.missing(open_) in first
    assert "does not decide" in first
    assert claims.get("M-12").needs.split(".")[0] in rest
    with pytest.raises(ValueError, match="'F2-d'"):
        page("F2-d")
    with pytest.raises(ValueError, match="did you mean 'F2-d'"):
        page["F2-dd"]


def test_remarks_of_ours_stand_apart_from_what_the_paper_says() -> None:
    """The claim reads as the paper's sentence; our thresholds are folded beneath it."""
    claim = claims.get("F2-b")
    row = found.Claims([Verdict(claim, "not run")])("F2-b").data
    sentence, folded = row.split("<details", 1)
    assert "The larger the batch, and so the rate, the smaller λ must be." in sentence
    assert "(Ours" not in sentence
    assert "(Ours, for our variant" in folded


# --- what is stored ---

ROOT = Path(__file__).resolve().parent.parent


def stored() -> str:
    """The HTML of all stored outputs, of every notebook."""
    return "\n".join(
        output["data"]["text/html"]
        for path in sorted((ROOT / "book").glob("*.ipynb"))
        for cell in nbformat.read(path, as_version=4).cells
        for output in cell.get("outputs", ())
        if "text/html" in output.get("data", {})
    )


def test_what_was_found_on_a_claim_reads_the_same_wherever_it_stands() -> None:
    """In the boxes that open pages and beside the claims: one text per claim."""
    found_in: dict[str, set[str]] = {}
    boxes = r'</b> ?([^<]*?) ?<a class="found-evidence"[^>]*title="The evidence for ([^"]+)"'
    rows = r'<tr id="([^"]+)">.*?<td data-label="what we found">([^<]*)</td>'
    html = stored()
    for text, claim in re.findall(boxes, html):
        found_in.setdefault(claim, set()).add(text)
    for claim, text in re.findall(rows, html, re.DOTALL):
        found_in.setdefault(claim, set()).add(text)
    assert len(found_in) > 20
    assert {claim: texts for claim, texts in found_in.items() if len(texts) > 1} == {}


def test_a_comparison_has_the_same_numbers_wherever_it_stands() -> None:
    """As it was: -24.3 points on a page and -24.4 in the verdict under it."""
    other_scales = r'<tr class="further">.*?</tr>'
    html = re.sub(rf"{other_scales}|<[^>]+>", "", stored(), flags=re.DOTALL)
    numbers = r"[-+]\d+\.\d points(?: \[[^]]*\])?|\d+ of \d+ (?:survive|rescued)[^;<\n]*?(?=, n =)"
    twice = {}
    for verdict in judged(c for c in claims.register().values() if isinstance(c.rule, Trained)):
        for finding in verdict.findings:
            said = set(re.findall(re.escape(f"{finding.label}: ") + f"({numbers})", html))
            if len(said) > 1:
                twice[finding.label] = said
    assert twice == {}

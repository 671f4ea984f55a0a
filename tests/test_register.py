"""Every statement of the reviews and every id of the claim sheets is answered by the register."""

import copy
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nbrepro import claims
from nbrepro.claims.checks import registry
from nbrepro.claims.register import Claim, Paper, parse, read_claims, text
from nbrepro.claims.reviews import Review, Statement, read_reviews, reviews
from nbrepro.claims.rules import Check
from nbrepro.claims.tables import printed

SHEETS = Path(__file__).parents[2] / "shared" / "claims"
REGISTER = claims.register()
STATEMENTS = [
    (review.key, statement) for review in reviews().values() for statement in review.statements
]


# --- the reviews ---------------------------------------------------------------------------------


def test_every_statement_of_the_reviews_is_listed() -> None:
    assert {key: len(review.statements) for key, review in reviews().items()} == {
        "nfnets": 58,
        "bn_only": 26,
    }
    papers = {claim.paper.folder: claim.paper.key for claim in REGISTER.values()}
    assert {key: review.paper for key, review in reviews().items()} == papers


@pytest.mark.parametrize(("review", "statement"), STATEMENTS)
def test_every_statement_is_answered(review: str, statement: Statement) -> None:
    assert statement.says.endswith((".", "?", ")"))
    assert statement.claims or statement.why
    paper = reviews()[review].paper
    for claim in statement.claims:
        assert REGISTER[claim].paper.key == paper


@pytest.mark.parametrize(
    ("review", "statement"), [(r, s) for r, s in STATEMENTS if s.paper in ("partly", "differs")]
)
def test_what_only_the_review_says_is_an_entry_of_its_own(
    review: str, statement: Statement
) -> None:
    assert any(REGISTER[claim].by == "review" for claim in statement.claims)
    assert statement.note


def test_every_claim_of_a_review_is_asked_by_one() -> None:
    asked = {claim for _, statement in STATEMENTS for claim in statement.claims}
    assert {claim.id for claim in REGISTER.values() if claim.by == "review"} <= asked


REVIEWS: dict[str, Any] = {
    "reviews": [
        {
            "key": "one",
            "title": "A review",
            "paper": "brock2021nfnets",
            "statements": [
                {"n": 1, "says": "So.", "paper": "agrees", "claims": ["F2-a"]},
                {"n": 2, "says": "And so.", "paper": "own", "why": "It is no finding."},
            ],
        }
    ]
}


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """A sound document, but for a change to its review."""
    document = copy.deepcopy(REVIEWS)
    change(document["reviews"][0])
    return document


def test_a_sound_review_is_read() -> None:
    first = Statement(1, "So.", "agrees", ("F2-a",))
    second = Statement(2, "And so.", "own", why="It is no finding.")
    assert read_reviews(REVIEWS) == (Review("one", "A review", "brock2021nfnets", (first, second)),)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (
            changed(lambda r: r["statements"][0].update(claims=["F2a"])),
            "reviews.yaml: one: statement 1: unknown claim 'F2a'; did you mean 'F2-a'?",
        ),
        (
            changed(lambda r: r.update(paper="brock2021")),
            "unknown paper of the review one in reviews.yaml: 'brock2021'; "
            "did you mean 'brock2021nfnets'?",
        ),
        (
            changed(lambda r: r["statements"][0].update(paper="agree")),
            "statements 1: paper: unknown value 'agree'; did you mean 'agrees'?",
        ),
        (
            changed(lambda r: r["statements"][0].update(say="So.")),
            "statements 1: unknown key 'say'; did you mean 'says'?",
        ),
        (changed(lambda r: r["statements"][0].pop("claims")), "statements 1: why is missing"),
        (changed(lambda r: r["statements"][1].pop("why")), "statements 2: why is missing"),
        (
            changed(lambda r: r["statements"][0].update(why="Because.")),
            "statements 1: why is set, but there are claims",
        ),
        (
            changed(lambda r: r["statements"][1].update(n=3)),
            "reviews 1: statement 2 has the number 3; count from 1",
        ),
        (changed(lambda r: r["statements"][1].update(n="2")), "n is '2' (text)"),
        (changed(lambda r: r.pop("title")), "reviews 1: title is missing"),
    ],
)
def test_a_review_that_is_refused(document: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        read_reviews(document)


# --- the sheets ----------------------------------------------------------------------------------

#: An id at the start of a paragraph, of an item or of a row, such as ``**F1-a**`` or ``| B-1 |``.
ID = re.compile(
    r"^(?:[-|] )?\*{0,2}(?!M-(?:hi|med|lo)\b)"
    r"((?:SET|PAR|ACC|GB|REL|LIM|DIS|TR|PX|[ABDEMNP]|[FST]\d)-(?:\d+|[a-z]+|[A-Z]{3})|F4|T5)"
    r"\b(?!/)"
)


def ids(text: str) -> set[str]:
    return {match[1] for line in text.splitlines() if (match := ID.match(line))}


def test_what_an_id_looks_like() -> None:
    text = """
- **M-1** `h_{i+1}`
| M-25 | batch |
**F1-a** NFNet-F1
- **T2-a** width
- **TR-1 AGC freezes**
**A-SAM** SAM
**F4** NFNets
| **M-hi / M-med / M-lo** | remembered |
| ResNet-14 = WRN-14-1 | 175,258 |
| BN-50 / NF-50 | 78.1 |
a test of **P-3**
"""
    assert ids(text) == {"M-1", "M-25", "F1-a", "T2-a", "TR-1", "A-SAM", "F4"}


@pytest.mark.skipif(not SHEETS.is_dir(), reason="the claim sheets are not beside the project")
@pytest.mark.parametrize(("sheet", "least"), [("bn_only", 90), ("nfnets", 125)])
def test_every_id_of_a_sheet_is_answered(sheet: str, least: int) -> None:
    found = ids((SHEETS / f"{sheet}.md").read_text(encoding="utf-8"))
    assert len(found) > least, "the sheet is written otherwise than this test expects"
    mine = [claim for claim in REGISTER.values() if claim.paper.folder == sheet]
    answered = {claim.id for claim in mine} | {other for claim in mine for other in claim.also}
    assert found <= answered, sorted(found - answered)


# --- what an entry says --------------------------------------------------------------------------


def test_without_a_rule_a_claim_says_what_a_test_would_take() -> None:
    for claim in REGISTER.values():
        assert (claim.rule is None) == (claim.needs is not None) == (claim.evidence == "cited")
        assert claim.needs is None or claim.needs.endswith("."), claim.id


def test_a_number_that_is_only_recalled_is_nowhere() -> None:
    for claim in REGISTER.values():
        for quoted in claim.quoted:
            if quoted.seen == "recalled":
                assert not re.search(r"\d", quoted.value), claim.id
        if all(quoted.seen == "recalled" for quoted in claim.quoted):
            assert not re.search(r"\d+(\.\d+)? ?(%|points)", claim.statement), claim.id


def test_what_a_claim_rests_on() -> None:
    expected = {
        "F2-a": "trained",
        "ACC-7": "trained",
        "F1-a": "measured",
        "PAR-1": "counted",
        "E-2": "counted",
        "D-8": "arithmetic",
        "SET-1": "verified",
        "ACC-1": "cited",
    }
    assert {name: claims.get(name).evidence for name in expected} == expected


def test_evidence_of_the_checks_of_set_up_design_and_recipe() -> None:
    """Written in the YAML, not left to a default."""
    folder = Path(claims.__file__).parent
    modules = {"setup", "design"}
    for paper in ("bn_only", "nfnets"):
        document = parse((folder / paper / "claims.yaml").read_text(encoding="utf-8"), paper)
        for entry in document["claims"]:
            rule = entry.get("rule", {})
            if rule.get("kind") == "check":
                module = registry()[rule["check"]].run.__module__.rpartition(".")[2]
                assert module not in modules or "evidence" in rule, entry["id"]


def test_a_check_decides_one_claim() -> None:
    names = [claim.rule.check for claim in REGISTER.values() if isinstance(claim.rule, Check)]
    assert len(names) == len(set(names))


def document(**second: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "chapter": "speed",
        "statement": "One.",
        "place": "here",
        "quoted": [{"value": "1", "seen": "paper"}],
        "needs": "Data.",
    }
    return {
        "paper": {"key": "key2021", "short": "Key 2021", "arxiv": "2100.00001"},
        "chapters": ["speed"],
        "claims": [entry | {"id": "A-1"}, entry | {"id": "A-2"} | second],
    }


def test_other_ids_are_read() -> None:
    first, second = read_claims(document(also=["D-1"]), "f/claims.yaml")
    assert (first.also, second.also) == ((), ("D-1",))
    assert second == Claim(
        "A-2",
        "One.",
        "here",
        "speed",
        Paper("key2021", "Key 2021", "2100.00001", "f"),
        (claims.Quoted("1", "paper"),),
        needs="Data.",
        also=("D-1",),
    )


def test_an_id_that_another_claim_answers_is_no_claim() -> None:
    for claim in REGISTER.values():
        assert not REGISTER.keys() & set(claim.also), claim.id


# --- the figure of the first version -------------------------------------------------------------


def test_quoted_values_of_the_figure_are_those_of_the_table() -> None:
    figure = printed("bn_only")["figure_v1"]
    assert figure.seen == "figure"
    column = figure.column("BN")
    for claim, names in {
        "ACC-20": ("cifar_resnet14", "cifar_resnet32", "cifar_resnet56", "cifar_resnet110"),
        "ACC-21": ("cifar_resnet14", *(f"cifar_resnet14x{width}" for width in (2, 4, 8))),
    }.items():
        values = ", ".join(f"{column[name]}" for name in names)
        assert any(values in quoted.value for quoted in claims.get(claim).quoted)
    rows = figure.rows.values()
    gains = [row["BN_alt"] - row["BN"] for row in rows if not math.isnan(row["BN"])]
    quoted = claims.get("ACC-9").quoted[0].value
    assert quoted.startswith(f"{min(gains):.1f} to {max(gains):.1f} points")


# --- files that are broken -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("- id: ", "- id: 2020-13-45 #", 1), "month must be in 1..12"),
        (
            lambda text: text.replace("kind: ", "kind: !!int '' #", 1),
            "line .* not a value that can",
        ),
        (lambda text: "[" * 5000, "claims.yaml: nested too deeply"),
        (lambda text: text.replace("claims:", "claims:\n\t-", 1), "claims.yaml: line"),
    ],
)
def test_a_broken_file_is_named(change: Callable[[str], str], message: str) -> None:
    file = "bn_only/claims.yaml"
    with pytest.raises(ValueError, match=message) as caught:
        read_claims(parse(change(text(file)), file), file)
    assert str(caught.value).startswith(file)


def test_a_file_in_another_encoding_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "claims.yaml").write_bytes("γ".encode("utf-16"))
    monkeypatch.setattr(sys.modules[text.__module__], "files", lambda _: tmp_path)
    with pytest.raises(ValueError, match=r"^claims\.yaml: no UTF-8"):
        text("claims.yaml")

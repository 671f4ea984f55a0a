"""The works that the book cites: told apart, linked, and each of them used."""

import re
from pathlib import Path

import pytest
from pybtex.database import parse_file

from nbrepro.book.bibliography import AuthorYear
from nbrepro.claims import register

ROOT = Path(__file__).parents[1]
WORKS = parse_file(ROOT / "book" / "references.bib").entries
PAGES = [*ROOT.glob("book/*.md"), *ROOT.glob("book/*.ipynb")]


@pytest.mark.parametrize("key", WORKS)
def test_every_work_has_an_address_that_can_be_followed(key: str) -> None:
    fields = WORKS[key].fields
    assert {"eprint", "doi", "url"} & fields.keys()
    assert re.fullmatch(r"\d{4}\.\d{5}", fields.get("eprint", "0000.00000"))


def test_no_two_works_are_cited_alike() -> None:
    labels = list(AuthorYear().format_labels(list(WORKS.values())))
    assert len(set(labels)) == len(WORKS)
    assert {"Brock et al., 2021a", "De and Smith, 2020", "Krizhevsky, 2009"} <= set(labels)


def test_what_is_cited_is_listed_and_what_is_listed_is_cited() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    cited = {key for keys in re.findall(r"\{cite:\w+\}`([^`]+)`", text) for key in keys.split(",")}
    assert cited == set(WORKS)
    assert {claim.paper.key for claim in register().values()} <= cited

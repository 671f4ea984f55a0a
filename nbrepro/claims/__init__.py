"""The register of claims: one folder per paper, read into :class:`Claim`.

A claim's rule is written before the run that decides it; :mod:`nbrepro.claims.verdicts` applies it.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from nbrepro._suggest import choose, unknown

SEEN = ("paper", "figure", "code", "second hand")


@dataclass(frozen=True)
class Paper:
    """The paper a claim is of: bibliography key, short name, arXiv number."""

    key: str
    short: str
    arxiv: str


@dataclass(frozen=True)
class Quoted:
    """A value as published, and where we saw it: ``paper``, ``figure``, its authors' ``code`` or
    ``second hand``."""

    value: str
    seen: str

    def __post_init__(self) -> None:
        choose("provenance of a quoted value", self.seen, SEEN)


@dataclass(frozen=True)
class Claim:
    """One statement that data can support or contradict.

    Attributes:
        id: as in the claim sheets, such as ``ACC-20``.
        statement: in our own words.
        place: where it stands in the paper.
        chapter: notebook that deals with it.
        paper: the paper.
        quoted: published values with their provenance.
        experiment: whose records decide it; ``None`` if no run is needed.
        rule: how it is decided; ``None`` if it can only be cited.
        by: ``paper``, ``review`` for what a published review says of the paper, or ``ours`` for
            what we found and the paper does not say.
    """

    id: str
    statement: str
    place: str
    chapter: str
    paper: Paper
    quoted: tuple[Quoted, ...]
    experiment: str | None = None
    rule: dict[str, Any] | None = None
    by: str = "paper"

    def __post_init__(self) -> None:
        choose("source of a claim", self.by, ("paper", "review", "ours"))


@cache
def register() -> dict[str, Claim]:
    """All claims by id, in the order of the files.

    Raises:
        ValueError: if two claims share an id.
    """
    claims: dict[str, Claim] = {}
    folder = files(__package__)
    for file in sorted(f.name for f in folder.iterdir() if f.joinpath("claims.yaml").is_file()):
        text = folder.joinpath(file, "claims.yaml").read_text(encoding="utf-8")
        document = yaml.safe_load(text)
        paper = Paper(**document["paper"])
        for entry in document["claims"]:
            quoted = tuple(Quoted(**q) for q in entry.pop("quoted"))
            claim = Claim(**entry, paper=paper, quoted=quoted)
            if claim.id in claims:
                raise ValueError(f"{file}: the claim id {claim.id} is used twice")
            claims[claim.id] = claim
    return claims


def get(claim_id: str) -> Claim:
    """The claim with this id.

    Raises:
        ValueError: naming the nearest id.
    """
    claims = register()
    if claim_id not in claims:
        raise ValueError(unknown("claim", claim_id, claims))
    return claims[claim_id]


def of_chapter(chapter: str) -> list[Claim]:
    """The claims a chapter deals with, in the register's order."""
    return [claim for claim in register().values() if claim.chapter == chapter]

"""Reviews of the papers, statement by statement, and the claims that answer each.

``reviews.yaml`` says every statement in our words. What a review says and its paper does not is a
claim of its own, marked ``by: review``.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

from nbrepro._suggest import choose, unknown
from nbrepro.claims.register import parse, register, text
from nbrepro.claims.rules import read

_FILE = "reviews.yaml"


@dataclass(frozen=True)
class Statement:
    """One statement of a review.

    Attributes:
        n: its number in the review, from 1.
        says: the statement, in our words.
        paper: how it stands to the paper: it ``agrees``, does so ``partly`` or ``differs``, or is
            the reviewer's ``own`` thought.
        claims: ids of the claims that answer it, those that say most first.
        why: where no claim answers it, why none can.
        note: what a reader must know besides.
    """

    n: int
    says: str
    paper: Literal["agrees", "partly", "differs", "own"]
    claims: tuple[str, ...] = ()
    why: str | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        if not self.claims and self.why is None:
            raise ValueError("why is missing: without claims it says why none can answer")
        if self.claims and self.why is not None:
            raise ValueError("why is set, but there are claims; say in note what else there is")


@dataclass(frozen=True)
class Review:
    """A review of a paper.

    Attributes:
        key: of the review.
        title: for readers.
        paper: key of the paper, as in the register.
        statements: all that it says, in its order.
    """

    key: str
    title: str
    paper: str
    statements: tuple[Statement, ...]

    def __post_init__(self) -> None:
        for n, statement in enumerate(self.statements, 1):
            if statement.n != n:
                raise ValueError(f"statement {n} has the number {statement.n}; count from 1")


@dataclass(frozen=True)
class _Document:
    """What stands in ``reviews.yaml``."""

    reviews: tuple[Review, ...]


@cache
def reviews() -> dict[str, Review]:
    """All reviews by key.

    Raises:
        ValueError: naming the statement, what is wrong and the nearest right word.
    """
    return {review.key: review for review in read_reviews(parse(text(_FILE), _FILE))}


def read_reviews(document: object) -> tuple[Review, ...]:
    """The reviews of a parsed ``reviews.yaml``, whose claims and papers exist.

    Raises:
        ValueError: see :func:`reviews`.
    """
    claims = register()
    papers = {claim.paper.key for claim in claims.values()}
    found = read(_Document, document, _FILE).reviews
    for review in found:
        choose(f"paper of the review {review.key} in {_FILE}:", review.paper, sorted(papers))
        for statement in review.statements:
            for claim in statement.claims:
                if claim not in claims:
                    at = f"{_FILE}: {review.key}: statement {statement.n}"
                    raise ValueError(f"{at}: {unknown('claim', claim, claims)}")
    return found

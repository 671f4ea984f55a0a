"""HTML of pages: templates, the addresses of claims, and plain tables.

Templates (``templates/*.html.j2``) hold the HTML and escape all text that they are given.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from IPython.display import HTML
    from jinja2 import Environment

#: Letters of a cell that is compared with others of its column.
_SHORT = 24


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("nbrepro.book"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["address"] = address
    return environment


def render(template: str, **given: Any) -> "HTML":
    """A template of this package, ``<template>.html.j2``, filled in; text is escaped."""
    from IPython.display import HTML

    return HTML(_templates().get_template(f"{template}.html.j2").render(given))


#: The folder of the pages of claims on the site.
CLAIMS = "claims"


def address(claim: str) -> str:
    """Where the page of a claim lies on the site, see :mod:`nbrepro.book.evidence`."""
    return f"{CLAIMS}/{claim}.html"


class Cell(NamedTuple):
    """A cell of a table: its text, and what stands behind it in small print."""

    text: str
    aside: str = ""


def table(head: Sequence[str], rows: Iterable[Sequence[object]], note: str = "") -> "HTML":
    """A table in the style of the book.

    On a phone each row becomes a card, but for tables of short cells, whose columns are compared.

    Args:
        head: titles of the columns.
        rows: cells; what is no :class:`Cell` is shown as text.
        note: small print below.

    Raises:
        ValueError: for a row that has more or fewer cells than there are titles.
    """
    cells = [[c if isinstance(c, Cell) else Cell(str(c)) for c in row] for row in rows]
    labelled = [list(zip(head, row, strict=True)) for row in cells]
    short = all(len(cell.text + cell.aside) <= _SHORT for row in cells for cell in row[1:])
    return render("table", head=head, rows=labelled, note=note, kind="" if short else "words")


def nothing(note: str) -> "HTML":
    """What stands where a table would be empty."""
    return render("nothing", note=note)

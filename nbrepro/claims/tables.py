"""The papers' printed tables: ``printed("nfnets")["imagenet"].rows["NFNet-F1"]["top1"]`` is 84.7.

Each number stands once, in ``tables.yaml`` in the folder of its paper, with where it was printed
and where we saw it. Imports no torch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

from nbrepro._suggest import choose, unknown
from nbrepro.claims.register import parse, text
from nbrepro.claims.rules import read

Value = TypeVar("Value")


class _Named(dict[str, Value]):
    """A dict whose error for a missing key names the nearest one."""

    def __init__(self, what: str, items: Iterable[tuple[str, Value]]) -> None:
        super().__init__(items)
        self.what = what

    def __missing__(self, name: str) -> Value:
        raise ValueError(unknown(self.what, name, self))


@dataclass(frozen=True)
class Table:
    """One printed table.

    Attributes:
        place: its number in the paper.
        seen: where we saw it, see :class:`nbrepro.claims.Quoted`.
        unit: of the columns, in order.
        columns: their names.
        rows: row → column → what is printed: a number, ``nan`` where there is none, or a text.
    """

    place: str
    seen: str
    unit: str
    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Any]]

    def column(self, name: str) -> dict[str, Any]:
        """What is printed in one column, by row.

        Raises:
            ValueError: for an unknown column, naming the nearest.
        """
        return {row: cells[name] for row, cells in self.rows.items()}


@cache
def printed(paper: str) -> Mapping[str, Table]:
    """The printed tables of a paper by name; shared, so not to be changed.

    An unknown table, row or column is a ``ValueError`` that names the nearest.

    Args:
        paper: its folder below ``nbrepro/claims``, such as ``nfnets``.

    Raises:
        ValueError: for an unknown paper, or what is wrong in its file.
    """
    folders = files(__package__).iterdir()
    papers = sorted(f.name for f in folders if f.joinpath("tables.yaml").is_file())
    file = f"{choose('paper', paper, papers)}/tables.yaml"
    return _Named(f"table of {paper}", read_tables(parse(text(file), file), file))


@dataclass(frozen=True)
class _Entry:
    """A table as ``tables.yaml`` has it: rows are lists of cells."""

    place: str
    seen: str
    unit: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Any, ...]]


def read_tables(document: object, file: str) -> list[tuple[str, Table]]:
    """The tables of a parsed ``tables.yaml``, by name.

    Raises:
        ValueError: naming file, table and what is wrong.
    """
    if not isinstance(document, dict):
        raise ValueError(f"{file} is no mapping of tables by name")
    return [
        (name, _table(name, read(_Entry, entry, f"{file}: {name}"), f"{file}: {name}"))
        for name, entry in document.items()
    ]


def _table(name: str, entry: _Entry, at: str) -> Table:
    columns = entry.columns
    for row, cells in entry.rows.items():
        if len(cells) != len(columns):
            raise ValueError(f"{at}, row {row!r}: {len(cells)} cells for {len(columns)} columns")
    by_row = (
        (row, _Named(f"column of table {name}", zip(columns, cells, strict=True)))
        for row, cells in entry.rows.items()
    )
    rows = _Named(f"row of table {name}", by_row)
    return Table(entry.place, entry.seen, entry.unit, columns, rows)

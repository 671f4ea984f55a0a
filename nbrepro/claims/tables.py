"""The papers' printed tables: ``printed("nfnets")["imagenet"].rows["NFNet-F1"]["top1"]`` is 84.7.

Each number stands once, in ``tables.yaml`` in the folder of its paper, with where it was printed
and where we saw it. Imports no torch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

import yaml

from nbrepro._suggest import choose, unknown

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
        ValueError: for an unknown paper, or a row that does not fit its table's columns.
    """
    papers = (f for f in files(__package__).iterdir() if f.joinpath("tables.yaml").is_file())
    folder = {f.name: f for f in papers}
    text = folder[choose("paper", paper, sorted(folder))].joinpath("tables.yaml")
    tables = yaml.safe_load(text.read_text(encoding="utf-8"))
    return _Named(f"table of {paper}", ((name, _table(name, **t)) for name, t in tables.items()))


def _table(
    name: str, *, place: str, seen: str, unit: str, columns: list[str], rows: dict[str, list[Any]]
) -> Table:
    for row, cells in rows.items():
        if len(cells) != len(columns):
            raise ValueError(
                f"tables.yaml, {name}, row {row!r}: {len(cells)} cells for {len(columns)} columns"
            )
    by_row = (
        (row, _Named(f"column of table {name}", zip(columns, cells, strict=True)))
        for row, cells in rows.items()
    )
    return Table(place, seen, unit, tuple(columns), _Named(f"row of table {name}", by_row))

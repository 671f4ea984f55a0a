"""Networks drawn again from a seed, γ and β, as measured by ``scripts/redraw.py``."""

import json
from statistics import fmean
from typing import TYPE_CHECKING

from nbrepro.book.markup import Cell, table
from nbrepro.claims.statistics import digits, interval

if TYPE_CHECKING:
    from IPython.display import HTML


def redrawn_table() -> "HTML":
    """Test accuracy as recorded, and of the network drawn again on test and training images.

    Raises:
        FileNotFoundError: if the ledger has no ``redrawn.json``.
    """
    from nbrepro.book.chapter import ledger

    body = json.loads((ledger().root / "redrawn.json").read_text(encoding="utf-8"))
    found = list(body["rows"].values())
    columns = [[100 * row[key] for row in found] for key in ("recorded", "test", "train")]
    columns.append([train - test for _, test, train in zip(*columns, strict=True)])
    rows: list[list[object]] = [
        [f"seed {row['seed']}", *map(digits, numbers[:3]), digits(numbers[3], "+.1f")]
        for row, *numbers in zip(found, *columns, strict=True)
    ]
    low, high = interval(columns[3])
    lead = Cell(digits(fmean(columns[3]), "+.1f"), f"[{low:+.1f}, {high:+.1f}]")
    rows.append(["mean", *(digits(fmean(column)) for column in columns[:3]), lead])
    head = ("network", "recorded, %", "drawn again, %", "on training images, %", "lead, points")
    note = (
        f"ResNet-14 after the whole recipe: {found[0]['numbers']:,} numbers and a seed each. "
        "Images as they are; the lead is training less test accuracy [95 %]."
    )
    return table(head, rows, note)

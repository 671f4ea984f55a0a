"""Networks drawn again from a seed, γ and β, as measured by ``scripts/redraw.py``."""

import json
from statistics import fmean
from typing import TYPE_CHECKING

from nbrepro.book.markup import table
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
    rows = [
        [row["seed"], *map(digits, numbers[:3]), digits(numbers[3], "+.1f")]
        for row, *numbers in zip(found, *columns, strict=True)
    ]
    lead, (low, high) = fmean(columns[3]), interval(columns[3])
    rows.append(["mean", *(digits(fmean(c)) for c in columns[:3]), digits(lead, "+.1f")])
    head = ("seed", "recorded, %", "again, %", "training, %", "lead")
    note = (
        "Test accuracy as recorded and of the network drawn again, accuracy on training images as "
        f"they are, and its lead in points: {lead:+.1f} [{low:+.1f}, {high:+.1f}]. ResNet-14 after "
        f"the whole recipe, a seed and {found[0]['numbers']:,} numbers each."
    )
    return table(head, rows, note)

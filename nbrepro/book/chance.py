"""How often a verdict is wrong by chance, as simulated by ``benchmarks/null_experiments.py``."""

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.display import HTML


def null_table() -> "HTML":
    """Of simulated experiments in which nothing differs: how many rules say that something does.

    One row per kind of question that the register asks; *either way* adds what would be called
    contradicted to what would be called reproduced.

    Raises:
        FileNotFoundError: if the ledger has no ``null_experiments.json``.
    """
    from nbrepro.book.chapter import ledger
    from nbrepro.book.markup import table

    path = ledger().root / "null_experiments.json"
    body = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        (
            case,
            f"{100 * wrong['reproduced']:.1f} %",
            f"{100 * (wrong['reproduced'] + wrong['contradicted']):.1f} %",
        )
        for case, wrong in body["rows"].items()
    ]
    note = f"{body['simulations']:,} simulated experiments per row"
    return table(("question", "reproduced by chance", "either way"), rows, note)

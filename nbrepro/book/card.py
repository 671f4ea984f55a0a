"""What the card of adaptive gradient clipping takes from the records: which λ, and what rivals."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nbrepro.book.clipping import AGC, NONE, NORM, PAPERS
from nbrepro.book.figures.runs import Ends, ends, runs_of, scale_of
from nbrepro.book.tables import table

if TYPE_CHECKING:
    from IPython.display import HTML

    from nbrepro.records.ledger import Record

_FORMS = {"left alone": AGC, "clipped": PAPERS}


def which(records: "Sequence[Record]") -> "HTML":
    """Test accuracy by λ at each batch size and rate, beside no clipping and the global norm."""
    cases = sorted({(r.spec.batch_size, r.spec.lr) for r in runs_of(records, {"clip": "agc"})})
    lambdas = sorted({r.spec.clipping for r in runs_of(records, {"clip": "agc"})})
    rows = []
    for batch, rate in cases:
        setting = {"batch_size": batch, "lr": rate}
        free = Ends.of(runs_of(records, {**NONE, **setting}))
        for skip, form in _FORMS.items():
            found = ends(runs_of(records, {**_any(form), **setting}), "clipping")
            if found:
                cells = (str(found[x]) if x in found else "" for x in lambdas)
                rows.append((batch, f"{rate:g}", skip, free, *cells, best_norm(records, setting)))
    head = ("batch", "rate", "SkipInit", "no clipping", *(f"λ = {x:g}" for x in lambdas))
    note = f"Test accuracy of the runs that survive, %, with 95 % intervals. {scale_of(records)}."
    return table((*head, "best global norm"), rows, note)


def best_norm(records: "Sequence[Record]", setting: dict[str, Any]) -> str:
    """The threshold of the global norm that did best there, and how; empty if none was tried."""
    found = ends(runs_of(records, {**_any(NORM), **setting}), "clipping")
    if not found:
        return ""
    best = max(found, key=lambda t: (len(found[t].survivors), found[t].mean))
    return f"{best:g} of {', '.join(f'{threshold:g}' for threshold in found)}: {found[best]}"


def _any(arm: dict[str, Any]) -> dict[str, Any]:
    """An arm with any λ or threshold."""
    return {key: value for key, value in arm.items() if key != "clipping"}

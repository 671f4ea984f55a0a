"""The map of runs: a dot for each, by learning rate and arm."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbrepro.book.interactive.parts import data, drawn, rows_of
from nbrepro.book.markup import address

if TYPE_CHECKING:
    from IPython.display import HTML

    from nbrepro.claims.verdicts import Verdict
    from nbrepro.records.ledger import Record


@dataclass(frozen=True)
class _Dot:
    """A run on the map: where it stands, how full it is, and what it says."""

    hash: str
    x: float
    y: float
    fill: float
    diverged: bool
    text: str


#: Of the map: where its columns begin and end.
_LEFT, _RIGHT = 132.0, 400.0
#: From dot to dot, and the same where a cell has more than so many of them.
_PITCH, _NARROW, _MANY = 11.0, 9.0, 12
_LONGEST = 22  #: characters of a row's name


def rate_map(
    records: "Sequence[Record]",
    arms: Mapping[str, Mapping[str, Any]],
    judged: "Iterable[Verdict]" = (),
    *,
    by: str = "what holds their gradients",
    takeaway: str = "Which runs survive which learning rate.",
) -> "HTML":
    """Every run as a dot, by learning rate and arm: the fuller the more accurate, a cross diverged.

    A dot leads to the run's record, and where the script runs also to the claims that rest on it.

    Args:
        records: the runs; those that failed are left out.
        arms: reader's name → the settings of the runs of a row, without the rate.
        judged: verdicts, whose claims are linked.
        by: what tells the rows apart, for the caption.
        takeaway: the one sentence to remember.

    Raises:
        ValueError: if no record fits any arm, or for a name that has no room beside its row.
    """
    from nbrepro.book.captions import figure
    from nbrepro.book.figures import scale_of
    from nbrepro.data.cards import card

    rows = rows_of(records, arms, _LONGEST)
    used = [run for runs in rows.values() for run in runs]
    rates = sorted({run.spec.lr for run in used})
    best = max(run.metrics["test_accuracy"] for run in used)
    chance = max(card(run.spec.dataset).chance or 0.0 for run in used)
    width = (_RIGHT - _LEFT) / len(rates)
    most = max(Counter((name, run.spec.lr) for name, runs in rows.items() for run in runs).values())
    pitch = _PITCH if most <= _MANY else _NARROW
    across = max(1, int((width - pitch / 2) // pitch))  # columns stay apart
    columns = {rate: _LEFT + (number + 0.5) * width for number, rate in enumerate(rates)}
    dots: list[list[_Dot]] = []
    labels, y = [], 42.0
    for name, runs in rows.items():
        cells = {rate: [run for run in runs if run.spec.lr == rate] for rate in rates}
        row: list[_Dot] = []
        for rate, x in columns.items():
            row += _cell(cells[rate], name, (x, y), (across, pitch), (chance, best))
        dots.append(row)
        deep = math.ceil(max(map(len, cells.values())) / across)
        labels.append((y + (deep - 1) * pitch / 2, name))
        y += deep * pitch + 13
    picture = drawn(
        "rate_map",
        dots=dots,
        pitch=pitch,
        labels=labels,
        columns=[(x, f"{rate:g}") for rate, x in columns.items()],
        middle=(_LEFT + _RIGHT) / 2,
        bottom=y - 6,
        scale=[f"{100 * accuracy:.1f} %" for accuracy in (chance, best)],
        data=data(claims=_claims({run.spec.hash for run in used}, judged)),
    )
    return figure(
        picture,
        takeaway=takeaway,
        caption=(
            f"Runs by learning rate (columns) and by {by} (rows), within a cell the best first. "
            "The fuller a dot, the higher the test accuracy; a cross diverged. Choose a dot to see "
            "the run, its record and the claims that rest on it."
        ),
        alt=f"A table of dots, learning rates {', '.join(f'{rate:g}' for rate in rates)}. "
        + " ".join(_row_in_words(name, runs) for name, runs in rows.items()),
        note=scale_of(used),
    )


def _cell(
    runs: "Sequence[Record]",
    name: str,
    at: tuple[float, float],
    dots: tuple[int, float],
    scale: tuple[float, float],
) -> Iterable[_Dot]:
    """The runs of one arm and rate as lines of dots, the best first; empty at chance, full best.

    Args:
        runs: the runs.
        name: of the arm.
        at: the middle of the first line.
        dots: at most how many to a line, and from one to the next.
        scale: accuracies of an empty dot and of a full one.
    """
    across, pitch = dots
    in_order = sorted(runs, key=lambda run: (-run.metrics["test_accuracy"], run.spec.seed))
    lines = math.ceil(len(runs) / across)
    wide = math.ceil(len(runs) / max(lines, 1))  # lines of equal length
    chance, best = scale
    for number, run in enumerate(in_order):
        accuracy, diverged = run.metrics["test_accuracy"], run.status == "diverged"
        fill = (accuracy - chance) / (best - chance) if best > chance else 1.0
        ended = "diverged" if diverged else f"{100 * accuracy:.1f} %"
        yield _Dot(
            run.spec.hash,
            at[0] + (number % wide - (wide - 1) / 2) * pitch,
            at[1] + number // wide * pitch,
            round(max(0.0, fill), 2),
            diverged,
            f"{name}, rate {run.spec.lr:g}, seed {run.spec.seed}: {ended}",
        )


def _claims(runs: set[str], judged: "Iterable[Verdict]") -> dict[str, list[tuple[str, str]]]:
    """Run → the claims that rest on it, each with the address of its page."""
    found: dict[str, list[tuple[str, str]]] = {}
    for verdict in judged:
        link = (verdict.claim.id, address(verdict.claim.id))
        for run in runs.intersection(verdict.records):
            if link not in found.setdefault(run, []):
                found[run].append(link)
    return dict(sorted(found.items()))


def _row_in_words(name: str, runs: "Sequence[Record]") -> str:
    diverged = sum(run.status == "diverged" for run in runs)
    best = max(runs, key=lambda run: run.metrics["test_accuracy"])
    accuracy = 100 * best.metrics["test_accuracy"]
    return (
        f"{name}: {len(runs)} runs, {diverged} diverged, "
        f"the best {accuracy:.1f} % at rate {best.spec.lr:g}."
    )

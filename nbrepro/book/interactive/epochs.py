"""How far the runs of each arm have come, from before the first step to the last epoch."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from nbrepro.book.interactive.parts import Slider, data, drawn, rows_of

if TYPE_CHECKING:
    from IPython.display import HTML

    from nbrepro.records.ledger import Record

#: Where the axis begins and ends. At a width of 360 every accuracy with one digit behind the point
#: has a place with two, so that Python and the script write the same.
_LEFT, _RIGHT = 20.0, 380.0
_TOP, _PITCH = 8.0, 38.0  # of the first row, and from row to row
_LANE = 16.0  # high enough for the seeds of a row, one below the other
_LONGEST = 44  #: characters of a row's name
_DOT, _CROSS = "M0 0h0", "M-3.5 -3.5l7 7m0 -7l-7 7"


@dataclass(frozen=True)
class _Row:
    """The runs of one arm, in per cent and with one digit behind the point.

    Attributes:
        name: the reader's.
        colour: CSS variable and fallback.
        runs: in order of seeds.
        failed: of each run, how it failed; empty if it trained.
        paths: of each run, its accuracy at every step; where it diverged, none after that.
        means: at every step the mean of the runs that trained, and with it the ends of its 95 %
            interval where two trained and none failed; empty if none trained.
        chance: accuracy of guessing; None if unknown.
    """

    name: str
    colour: str
    runs: "Sequence[Record]"
    failed: Sequence[str]
    paths: Sequence[Sequence[float]]
    means: Sequence[Sequence[float]]
    chance: float | None

    @property
    def who(self) -> str:
        """How many trained, where some did not."""
        survivors = self.failed.count("")
        return "" if survivors == len(self.runs) else f"{survivors} of {len(self.runs)} survive"

    def said(self, step: int) -> str:
        """``41.1 %``, ``2 of 3 survive: 41.1 %``, or ``0 of 3 survive``."""
        mean = f"{self.means[step][0]:.1f}\u00a0%" if self.means else ""
        return ": ".join(filter(None, (self.who, mean)))

    def dot(self, number: int, step: int, x: Callable[[float], float]) -> dict[str, Any]:
        """A run: where it stands, and what it says; one that failed ends as a cross."""
        run, path, failed = self.runs[number], self.paths[number], self.failed[number]
        ended = bool(failed) and step >= len(path) - 1
        accuracy = path[min(step, len(path) - 1)]
        name = f"{self.name}, seed {run.spec.seed}"
        between = min(4.0, _LANE / max(len(self.runs) - 1, 1))
        return {
            "hash": run.spec.hash,
            "name": name,
            "text": f"{name}: {accuracy:.1f}\u00a0%" + f", {failed}" * ended,
            "x": x(accuracy),
            "y": (number - (len(self.runs) - 1) / 2) * between,
            "ended": ended,
            "mark": _CROSS if ended else _DOT,
            "failed": failed,
        }


def epochs(
    records: "Sequence[Record]",
    arms: Mapping[str, Mapping[str, Any]],
    *,
    caption: str,
    takeaway: str = "",
    published: Mapping[str, Mapping[str, float]] | None = None,
    start: float = 1,
) -> "HTML":
    """Test accuracy, one row per arm and one dot per seed; a slider goes through training.

    The slider has the epochs of the longest runs. Shorter ones are shown where they were after the
    same share of their training. A dot leads to the record of its run.

    Args:
        records: the runs; those that failed with an error are left out.
        arms: reader's name → the settings of the runs of a row; arms that were not run are left
            out.
        caption: what is shown.
        takeaway: the one sentence to remember.
        published: what the paper's figure shows, see :func:`nbrepro.book.figures.figure_v1`: policy
            → network → accuracy in per cent. Hollow, at the end of training, in the rows that say
            both.
        start: the slider starts at the last measurement that is not after this share of training.

    Raises:
        ValueError: if no record fits any arm, or for a name that has no room above its row.
    """
    from nbrepro.book.captions import figure
    from nbrepro.book.figures import scale_of

    found = rows_of(records, arms, _LONGEST)
    used = [run for runs in found.values() for run in runs]
    longest = max(run.spec.epochs for run in used)
    steps = sorted({e for run in used if run.spec.epochs == longest for e, _ in _measured(run)})
    alike = all(run.spec.epochs == longest for run in used)
    shares = [step / longest for step in steps]
    rows = [_row(name, arms[name], runs, shares) for name, runs in found.items()]
    theirs = {
        name: accuracy
        for name in found
        if (accuracy := _published(arms[name], published or {})) is not None
    }
    ours = [y for row in rows for path in row.paths for y in path]
    end = max(10, 10 * math.ceil(max([*ours, *theirs.values()]) / 10))
    values = steps if alike else [round(100 * share, 1) for share in shares]
    last = len(steps) - 1
    now = bisect_right(shares, start) - 1
    bottom = _TOP + _PITCH * len(rows) + 2

    def x(accuracy: float) -> float:
        return _LEFT + min(max(accuracy, 0), end) * (_RIGHT - _LEFT) / end

    picture = drawn(
        "epochs",
        sliders=[Slider("epoch", "epoch" if alike else "training done, %", values, values[now])],
        rows=[
            {
                "name": row.name,
                "n": len(row.runs),
                "y": _TOP + _PITCH * number,
                "colour": row.colour,
                "said": row.said(now),
                "mean": _bar([x(y) for y in row.means[now]]) if row.means else "",
                "chance": None if row.chance is None else x(row.chance),
                "paper": x(theirs[row.name]) if row.name in theirs else None,
                "dots": [row.dot(place, now, x) for place in range(len(row.runs))],
            }
            for number, row in enumerate(rows)
        ],
        paper="visible" if now == last else "hidden",
        axis=(_LEFT, _RIGHT),
        lane=_LANE,
        bottom=bottom,
        ticks=[(x(tick), tick) for tick in range(0, end + 1, 10 if end <= 60 else 20)],
        data=data(
            left=_LEFT,
            right=_RIGHT,
            end=end,
            when="Epoch #" if alike else "# % of training",
            marks=[_DOT, _CROSS],
            rows=[
                {"name": row.name, "who": row.who, "means": row.means, "paths": row.paths}
                for row in rows
            ],
        ),
    )
    return figure(
        picture,
        takeaway=takeaway,
        caption=caption,
        alt="Test accuracy before the first step and at the end of training. "
        + " ".join(f"{row.name}: {_in_words(row, last)}." for row in rows),
        note="; ".join(_notes(rows, scale_of(used), alike, bool(theirs))) + ".",
    )


def _measured(run: "Record") -> list[tuple[float, float]]:
    """Epochs after which the test accuracy was measured, with it in per cent."""
    return [
        (row["epoch"], 100 * row["test_accuracy"]) for row in run.curve if "test_accuracy" in row
    ]


def _published(arm: Mapping[str, Any], values: Mapping[str, Mapping[str, float]]) -> float | None:
    """The paper's accuracy of what an arm trains in its network, if it has one."""
    accuracy = values.get(arm.get("train", ""), {}).get(arm.get("model", ""), math.nan)
    return None if math.isnan(accuracy) else accuracy


def _row(
    name: str, arm: Mapping[str, Any], runs: "Sequence[Record]", shares: Sequence[float]
) -> _Row:
    from nbrepro.book import style
    from nbrepro.book.figures.runs import chance_of, survived
    from nbrepro.claims import statistics

    runs = sorted(runs, key=lambda run: run.spec.seed)
    failed = [
        "" if survived(run) else "diverged" if run.status == "diverged" else "below twice chance"
        for run in runs
    ]
    paths = [[*_along(run, shares)] for run in runs]
    trained = [path for path, failure in zip(paths, failed, strict=True) if not failure]
    means = []
    for accuracies in zip(*trained, strict=True):
        ends = statistics.interval(accuracies) if len(trained) == len(runs) > 1 else ()
        means.append([round(y, 1) for y in (fmean(accuracies), *ends)])
    chance = chance_of(runs)
    (look,) = style.of([style.method(arm)])
    return _Row(
        name,
        f"var({look.variable}, {look.light})",
        runs,
        failed,
        [[round(y, 1) for y in path] for path in paths],
        means,
        None if chance is None else round(chance, 1),
    )


def _along(run: "Record", shares: Sequence[float]) -> Iterator[float]:
    """The last accuracy that a run had by each share of its training, until it diverged."""
    measured, accuracies = zip(*_measured(run), strict=True)
    for share in shares:
        past = bisect_right(measured, share * run.spec.epochs + 1e-9)
        yield accuracies[max(past - 1, 0)]
        if run.status == "diverged" and past == len(measured):
            return


def _bar(places: Sequence[float]) -> str:
    """The mean as an upright stroke, and its interval as a level one."""
    mean, *ends = (f"{place:.2f}" for place in places)
    level = f"M{ends[0]} 0H{ends[1]}" if ends else ""
    return f"M{mean} -9V9{level}"


def _in_words(row: _Row, last: int) -> str:
    before = fmean(path[0] for path in row.paths)
    interval = ""
    if row.means and len(row.means[last]) > 1:
        _, low, high = row.means[last]
        interval = f" [{low:.1f}, {high:.1f}]"
    return f"{before:.1f}\u00a0%, then {row.said(last)}{interval}"


def _notes(rows: Sequence[_Row], scale: str, alike: bool, published: bool) -> Iterator[str]:
    yield scale
    yield "dots: seeds; bar: mean, with its 95 % interval where no run failed"
    if any(row.chance is not None for row in rows):
        yield "dotted: chance"
    if any(failure for row in rows for failure in row.failed):
        yield "crosses: failed (diverged, or ended below twice chance)"
    if published:
        yield "hollow, at the end: the paper's value"
    if not alike:
        yield "runs of different length stand side by side after the same share of their training"

"""The sheet of paper that every figure is drawn on, and the strokes that all of them share."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from nbrepro.book import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Pixels. On a phone 350 are left, and text of 16 must not shrink below 10.
WIDE, PANEL = 520, 340


class Chart(Figure):
    """A figure that knows what it shows, for :func:`nbrepro.book.captions.figure`.

    Attributes:
        alt: what a reader who cannot see it has to know: all that is drawn, in words.
        note: small print for its caption: data, scale, number of seeds, what the marks stand for.
    """

    alt: str = ""
    note: str = ""


@contextmanager
def drawing(
    height: float, panels: int = 1, rows: Sequence[float] = (1,), width: float = WIDE
) -> Iterator[tuple[Chart, list["Axes"]]]:
    """A chart in the style of the book and its axes: one per panel, or the rows of a single panel.

    Args:
        height: of a panel in pixels.
        panels: how many; each is a subfigure, so that pages can stack them.
        rows: heights of the axes of a panel, in proportion; they share what is across.
        width: of a single panel; several have their own.
    """
    width = width if panels == 1 else panels * PANEL
    with mpl.rc_context(style.RC):
        size = (width / style.INCH, height / style.INCH)
        chart = Chart(figsize=size, layout="constrained")
        parts: Any = chart.subfigures(1, panels) if panels > 1 else [chart]
        axes = [
            part.subplots(len(rows), sharex=True, squeeze=False, height_ratios=rows).ravel()
            for part in parts
        ]
        yield chart, [axis for column in axes for axis in column]


def nothing(
    text: str = "No records yet.", note: str = "`nbrepro status` lists the runs that are missing"
) -> Chart:
    """What stands where a figure will be."""
    with drawing(60) as (chart, (axis,)):
        axis.set_axis_off()
        axis.text(0.5, 0.5, text, ha="center", va="center", color=style.MUTED)
    chart.alt, chart.note = text, note
    return chart


def name_axes(axis: "Axes", x: str, y: str = "", title: str = "") -> None:
    """Label both axes, the upright one in a line above it, where a phone has room."""
    axis.set_xlabel(x)
    if y:
        axis.set_ylabel(y, rotation=0, ha="left", va="bottom", color=style.MUTED)
        axis.yaxis.set_label_coords(0, 1.02)
    # An empty title keeps room for the line above: the layout does not see how tall it is.
    if title or y:
        axis.set_title(title or " ", pad=26 if title and y else 8)


def ticks(axis: "Axes", values: Sequence[float], labels: Sequence[str]) -> None:
    """A logarithmic axis that shows these values and no others."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(values, labels)
    axis.minorticks_off()


def powers_of_two(axis: "Axes") -> None:
    """A logarithmic axis that shows about five powers of two."""
    axis.set_xscale("log", base=2)
    low, high = axis.get_xlim()
    marks = [2**power for power in range(60) if low <= 2**power <= high]
    marks = marks[:: math.ceil(len(marks) / 5)]
    ticks(axis, marks, [f"{mark:,}" for mark in marks])


class _Powers(LogLocator):
    """Powers of ten; where an axis has fewer than two of them, also twice and five times each."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        few = math.floor(math.log10(vmax)) - math.ceil(math.log10(vmin)) < 1
        self.set_params(subs=(1, 2, 5) if few else (1,))
        return super().tick_values(vmin, vmax)


def powers_of_ten(axis: "Axes", which: Literal["x", "y"] = "y") -> None:
    """A logarithmic axis whose labels are plain text: 0.01, 1, 100, 10⁵, or 0.2, 0.5, 1, 2."""
    (axis.set_yscale if which == "y" else axis.set_xscale)("log")
    lines = axis.yaxis if which == "y" else axis.xaxis
    lines.set_major_locator(_Powers())
    lines.set_major_formatter(lambda value, _: power(value))
    axis.minorticks_off()


def power(value: float) -> str:
    """A power of ten, or some of them, for readers: ``0.01``, ``2,000``, ``2·10⁵``."""
    exponent = math.floor(math.log10(value) + 1e-9)
    if -4 < exponent < 5:
        return f"{value:,.{max(0, -exponent)}f}"
    ten = "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    times = f"{value / 10.0**exponent:.2g}"
    return ten if times == "1" else f"{times}·{ten}"


def level(axis: "Axes", height: float, name: str, below: float = 3) -> None:
    """A dotted line across the panel, with its name so many points below."""
    axis.axhline(height, color=style.MUTED, ls=":", lw=1.4)
    axis.annotate(name, (1, height), (0, -below), xycoords=("axes fraction", "data"), ha="right",
                  va="top", textcoords="offset points", color=style.MUTED)  # fmt: skip


def rows_only(axis: "Axes", count: int, above: float = 0.75) -> None:
    """A panel of so many rows, the first on top, with room for a line of text above each."""
    axis.set_ylim(count - 0.6, -above)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)


def above(axis: "Axes", y: float, text: str, x: float = 0, up: float = 11) -> None:
    """A line of text above a row, from the left edge of the panel."""
    axis.annotate(text, (x, y), (0, up), xycoords=("axes fraction", "data"),
                  textcoords="offset points")  # fmt: skip


def said(parts: Sequence[str], last: str = ".") -> str:
    """Parts of a description as one text; empty ones are left out."""
    return "; ".join(part for part in parts if part) + last

"""Figures of what a batch does: measured lines beside what theory says."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal

from nbrepro.book import style
from nbrepro.book.figures.chart import Chart, drawing, level, name_axes, powers_of_ten, said, ticks

Series = Mapping[str, Mapping[float, float]]


def lines(
    measured: Series,
    x: str,
    y: str,
    *,
    predicted: Series | None = None,
    levels: Mapping[str, float] | None = None,
    log: Literal["", "y", "both"] = "",
) -> Chart:
    """Measured values as lines, predicted ones dotted, and levels across.

    Args:
        measured: name → value at each point across; a method's name, before a colon, is its look.
        x: what is across.
        y: what is upright.
        predicted: the same, by theory.
        levels: name → height.
        log: ``y``, or ``both`` for powers of two across.
    """
    told = []
    with drawing(300) as (chart, (axis,)):
        for look, (name, row) in zip(style.of(measured), measured.items(), strict=True):
            axis.plot([*row], [*row.values()], color=look.light, ls=look.line, marker=look.marker,
                      ms=6, markevery=max(1, len(row) // 6), label=name)  # fmt: skip
            ends = [*row.values()]
            told.append(f"{name}: {ends[0]:.2g} to {ends[-1]:.2g}")
        for name, row in (predicted or {}).items():
            axis.plot([*row], [*row.values()], color=style.INK, ls=":", lw=2.5, label=name)
        if log:
            powers_of_ten(axis)
        if log == "both":
            points = sorted({point for row in measured.values() for point in row})
            ticks(axis, points, [f"{point:g}" for point in points])
        if levels:
            axis.margins(y=0.2)  # room for their names
        for name, height in (levels or {}).items():
            level(axis, height, f"{name}, {height:.2f}")
        name_axes(axis, x, y)
    chart.alt = f"{y} against {x}, from left to right. {said(told)}"
    return chart


def lines_by_seed(measured: Mapping[str, Sequence[Mapping[float, float]]], x: str, y: str) -> Chart:
    """Measured values as thin lines, one per seed, and their mean as a thick one; upright from 0.

    Args:
        measured: name → value at each point across, a row for each seed, all at the same points; a
            method's name, before a colon, is its look.
        x: what is across.
        y: what is upright.
    """
    told = []
    with drawing(300) as (chart, (axis,)):
        for look, (name, rows) in zip(style.of(measured), measured.items(), strict=True):
            points = [*rows[0]]
            for row in rows:
                axis.plot(points, [row[x] for x in points], color=look.light, lw=0.8, alpha=0.5)
            means = [fmean(row[x] for row in rows) for x in points]
            axis.plot(points, means, color=look.light, ls=look.line, marker=look.marker, lw=2.5,
                      ms=6, markevery=max(1, len(points) // 6), label=name)  # fmt: skip
            told.append(f"{name}: {means[0]:.1f} to {means[-1]:.1f}")
        axis.set_ylim(bottom=0)
        name_axes(axis, x, y)
    chart.alt = f"{y} against {x}, from left to right, means. {said(told)}"
    chart.note = f"thin: {len(rows)} seeds; thick: their mean"
    return chart

"""Figures of the chapter on the NFNets: its tables as printed.

Every accuracy here is the paper's, so every marker is hollow.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbrepro.book import style
from nbrepro.book.figures.chart import Chart, drawing, name_axes, powers_of_ten, said

if TYPE_CHECKING:
    from torch import Tensor

_TOP1 = "ImageNet top-1, %"
_HOLLOW: Any = {"mfc": style.GROUND, "mew": 1.5}


def trade_offs(
    families: Mapping[str, Mapping[str, Sequence[float]]],
    costs: Sequence[str],
    named: Mapping[str, Mapping[str, tuple[float, float]]],
    note: str,
) -> Chart:
    """Accuracy against several costs (log scales), one panel per cost, one line per family.

    Args:
        families: family → network → its costs, then its top-1 accuracy in percent.
        costs: labels of the axes.
        named: family → network whose name is shown → where, in points from the marker.
        note: where the values are from.
    """
    with drawing(300, len(costs)) as (chart, axes):
        for column, (axis, label) in enumerate(zip(axes, costs, strict=True)):
            looks = style.series(len(families))
            for look, (name, rows) in zip(looks, families.items(), strict=True):
                prices = [row[column] for row in rows.values()]
                tops = [row[-1] for row in rows.values()]
                axis.plot(prices, tops, ls=look.line, marker=look.marker, color=look.light, lw=1.5,
                          label=name, **_HOLLOW)  # fmt: skip
                for known, offset in named.get(name, {}).items():
                    axis.annotate(known, (rows[known][column], rows[known][-1]), offset,
                                  textcoords="offset points")  # fmt: skip
            powers_of_ten(axis, "x")
            axis.set_ylim(76.5, 87.5)
            name_axes(axis, label, _TOP1)
    told = [
        f"{family}, {network}: {row[-1]:g} % at {', '.join(f'{cost:g}' for cost in row[:-1])}"
        for family, rows in families.items()
        for network, row in rows.items()
    ]
    chart.alt = f"Top-1 accuracy on ImageNet against {'; '.join(costs)}. {said(told)}"
    chart.note = note
    return chart


def ladder(
    steps: Mapping[str, Sequence[float]], twin: Sequence[float], networks: Sequence[str], note: str
) -> Chart:
    """Printed accuracy as a recipe grows, one row per step, and the full recipe with BatchNorm.

    Args:
        steps: name of each step → top-1 of each network, in percent.
        twin: the full recipe with BatchNorm instead.
        networks: their names.
        note: where the values are from.
    """
    rows = {**steps, "with BatchNorm": twin}
    with drawing(36 * len(rows) + 50) as (chart, (axis,)):
        for column, (look, name) in enumerate(
            zip(style.series(len(networks)), networks, strict=True)
        ):
            tops = [row[column] for row in steps.values()]
            axis.plot(tops, range(len(tops)), ls=look.line, marker=look.marker, color=look.light,
                      lw=1.2, label=name, **_HOLLOW)  # fmt: skip
            axis.plot([twin[column]], [len(steps)], marker=look.marker, color=look.light, **_HOLLOW)
        for y in range(len(rows)):
            axis.axhline(y, color=style.GRID, lw=1, zorder=0)
        axis.set_ylim(len(rows) - 0.6, -0.4)
        axis.set_yticks(range(len(rows)), [*rows])
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
        name_axes(axis, _TOP1)
    told = [
        f"{step}: " + ", ".join(f"{name} {top:g}" for name, top in zip(networks, row, strict=True))
        for step, row in rows.items()
    ]
    chart.alt = f"Top-1 accuracy on ImageNet as the recipe grows, in percent. {said(told)}"
    chart.note = note
    return chart


_SIDE, _GAP, _TITLE = 80, 6, 24  # pixels; six pictures fill a figure


def pictures(grid: Mapping[str, "Tensor"], note: str) -> Chart:
    """Pictures in rows, every fourth pixel of each.

    Args:
        grid: name of the row → images ``[n, 3, height, width]``, uint8 or floats from 0 to 255.
        note: small print.
    """
    columns = len(next(iter(grid.values())))
    with drawing((_SIDE + _TITLE) * len(grid) + 8) as (chart, (axis,)):
        for row, (name, images) in enumerate(grid.items()):
            top = row * (_SIDE + _TITLE)
            axis.text(0, top - 5, name)
            for column, image in enumerate(images.byte()):
                left = column * (_SIDE + _GAP)
                axis.imshow(image.permute(1, 2, 0)[::4, ::4].numpy(),
                            extent=(left, left + _SIDE, top + _SIDE, top))  # fmt: skip
        axis.set(xlim=(0, columns * (_SIDE + _GAP)))
        axis.set(ylim=(len(grid) * (_SIDE + _TITLE) - _TITLE, -_TITLE))
        axis.set_axis_off()
    chart.alt = f"Rows of {columns} pictures each: {', '.join(grid)}."
    chart.note = note
    return chart

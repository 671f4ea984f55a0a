"""How every setting of one thing ended under every way to clip: a table drawn as a figure."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nbrepro.book import style
from nbrepro.book.figures.chart import Chart, drawing, nothing, said
from nbrepro.book.figures.runs import Ends
from nbrepro.book.style import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW = 34  # pixels


def outcome_table(
    groups: Mapping[str, Mapping[str, Mapping[str, Ends]]],
    columns: Mapping[str, str],
    note: str = "",
) -> Chart:
    """One row per setting, one column per way to clip; survivors are told apart from failures.

    A cell is filled as far as runs survived. It says the mean accuracy where all did, else how
    many.

    Args:
        groups: heading → setting → column → runs; empty groups are left out.
        columns: name of a column → its method, for its colour; in their order.
        note: small print.
    """
    groups = {heading: rows for heading, rows in groups.items() if rows}
    if not groups:
        return nothing()
    looks = dict(zip(columns, style.of(columns.values()), strict=True))
    told, y = [], 0.0
    lines = sum(len(rows) + 1 for rows in groups.values())
    with drawing(_ROW * lines + 40) as (chart, (axis,)):
        places = {}
        for heading, rows in groups.items():
            axis.text(-0.5, y, heading, ha="left", va="center", fontweight="bold")
            y += 1
            for setting, cells in rows.items():
                places[y] = setting
                for name, found in cells.items():
                    _cell(axis, list(columns).index(name), y, found, looks[name])
                said_of = ", ".join(f"{name} {told_of(found)}" for name, found in cells.items())
                told.append(f"{heading}, {setting}: {said_of}")
                y += 1
        axis.set_yticks([*places], [*places.values()])
        axis.set_xticks(range(len(columns)), [*columns])
        axis.xaxis.tick_top()
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_xlim(-0.5, len(columns) - 0.5)
        axis.set_ylim(y - 0.4, -0.6)
    chart.alt = f"How runs ended. {said(told)}"
    chart.note = note
    return chart


def told_of(found: Ends) -> str:
    """``39 %`` where all runs trained, else ``18 of 22``."""
    return f"{len(found.survivors)} of {found.n}" if found.failed else f"{found.mean:.0f} %"


def _cell(axis: "Axes", x: float, y: float, found: Ends, look: Style) -> None:
    share = len(found.survivors) / found.n
    axis.barh(y, 0.88, 0.74, x - 0.44, fill=False, ec=look.light, lw=1.2)
    axis.barh(y, 0.88 * share, 0.74, x - 0.44, color=look.light, alpha=0.3, lw=0)
    axis.text(x, y, told_of(found), ha="center", va="center")

"""Figures of recorded runs.

Every seed is shown. Where all runs of an arm trained, the mean stands with Student's 95 % interval;
where some failed, crosses and a count say so, and the mean is that of the survivors, without an
interval, for no interval covers a mixture.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import pandas as pd

from nbrepro.book import style
from nbrepro.book.figures.chart import (
    Chart,
    above,
    drawing,
    level,
    name_axes,
    nothing,
    powers_of_ten,
    powers_of_two,
    rows_only,
    said,
    ticks,
)
from nbrepro.book.figures.runs import (
    Arms,
    Ends,
    chance_of,
    ended,
    ends,
    frame,
    policies,
    runs_of,
    scale_of,
    survived,
)
from nbrepro.book.style import Style
from nbrepro.claims.labels import network, setting
from nbrepro.models import size
from nbrepro.records.ledger import Record
from nbrepro.spec import Spec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Transform

#: A Spec's defaults are the recipe of the BatchNorm-only study.
_RECIPE = Spec(model="cifar_resnet14")
_PUBLISHED = "paper (v1, read off its figure, ±0.4)"
_OURS_WHOLE = "ours, the paper's recipe"
_ACCURACY = "test accuracy, %"
_MEAN = "small: seeds; large: mean with its 95 % interval"
_FAILED = "crosses: failed (diverged, or below twice chance), with their number"
_SURVIVORS = "hollow: mean of the survivors"


def _looks(arms: Arms) -> list[Style]:
    return style.of(map(style.method, arms.values()))


def _hollow(colour: str) -> Any:
    """A value of the paper."""
    return {"marker": "D", "mfc": "none", "mec": colour, "mew": 1.5, "ls": "none"}


def _note(used: Sequence[Record], *marks: str) -> str:
    return said([scale_of(used), *marks], "")


def _cell(axis: "Axes", x: float, found: Ends, look: Style, shift: "Transform") -> None:
    """The runs of one arm at one place: seeds, mean with interval, or survivors and failures."""
    beside = _moved(axis, shift, -7)
    own: Any = {"color": look.light, "ls": "none"}
    axis.plot([x] * len(found.survivors), found.survivors, transform=beside, marker=look.marker,
              ms=5, alpha=0.45, mew=0, **own)  # fmt: skip
    axis.plot(
        [x] * len(found.failed), found.failed, transform=shift, marker="x", ms=8, mew=2, **own
    )
    low, high = found.interval
    # Matplotlib leaves out what is moved when it chooses the range of an axis.
    heights = [*found.survivors, *found.failed, *(end for end in (low, high) if end == end)]
    axis.update_datalim([(x, y) for y in heights])
    axis.autoscale_view()
    if not math.isnan(low):
        axis.plot([x, x], [low, high], transform=shift, marker="_", ms=8, mew=1.5, lw=1.5,
                  color=look.light)  # fmt: skip
    if found.failed and found.survivors:
        axis.plot([x], [found.mean], transform=shift, marker=look.marker, mfc=style.GROUND, mew=1.5,
                  zorder=3, **own)  # fmt: skip


def _moved(axis: "Axes", where: "Transform", points: float) -> "Transform":
    """A place so many points to the right of another."""
    from matplotlib.transforms import offset_copy

    return offset_copy(where, axis.get_figure(root=True), x=points, units="points")


def _line(
    axis: "Axes", cells: Mapping[Any, Ends], look: Style, name: str, right: float = 0
) -> None:
    """A line through the means, with a mark where all runs trained, and the cells themselves.

    Args:
        axis: of the panel.
        cells: place → runs.
        look: of the arm.
        name: of the arm.
        right: points to the right of its place, so that arms stand side by side.
    """
    shift = _moved(axis, axis.transData, right)
    trained = {x: found for x, found in cells.items() if found.survivors}
    whole = [number for number, found in enumerate(trained.values()) if not found.failed]
    means = [found.mean for found in trained.values()]
    axis.plot([*trained], means, transform=shift, color=look.light, ls=look.line, label=name,
              marker=look.marker, markevery=whole)  # fmt: skip
    for x, found in cells.items():
        _cell(axis, x, found, look, shift)


def _chance(axis: "Axes", used: Sequence[Record]) -> None:
    chance = chance_of(used)
    if chance:
        level(axis, chance, "chance", below=8)  # crosses lie on the line


def accuracy(
    records: Sequence[Record],
    published: Mapping[str, Mapping[str, float]] | None = None,
    whole: Sequence[Record] = (),
) -> Chart:
    """Test accuracy against depth and against width, one line per policy of what is trained.

    The right panel is that of the depth which was run at most widths, and is left out if no depth
    was run at several.

    Args:
        records: the runs.
        published: what the paper's figure shows, see :func:`~.runs.figure_v1`: policy → network →
            accuracy in percent. Drawn as hollow markers where the records have the same.
        whole: runs with the paper's own recipe, where the records have a shorter one. Their means
            are drawn as stars where the records have the same network and policy.

    Raises:
        ValueError: for networks of several families, which share depths but no line.
    """
    shown = ended(records)
    if not shown:
        return nothing()
    families = {re.sub(r"\d.*", "", record.spec.model) for record in shown}
    if len(families) > 1:
        raise ValueError(
            f"accuracy() draws one family of networks, these records have {len(families)}: "
            f"{', '.join(sorted(families))}; choose one with runs_of, or draw dots()"
        )
    table = frame(shown)
    arms = policies(shown)
    looks = dict(zip(arms, _looks(arms), strict=True))
    widths = table.groupby("depth")["width"].nunique()
    panels = [("depth", table[table["width"] == table["width"].min()])]
    if widths.max() > 1:
        panels.append(("width", table[table["depth"] == widths.idxmax()]))
    told = []
    with drawing(350, len(panels)) as (chart, axes):
        for axis, (by, part) in zip(axes, panels, strict=True):
            sizes = sorted(part[by].unique())
            labels = [f"{x}" if by == "depth" else f"×{x}" for x in sizes]
            for name, arm in arms.items():
                ours = part[part["train"] == arm["train"]]
                cells = {x: Ends.of(shown[i] for i in ours.index[ours[by] == x]) for x in sizes}
                cells = {x: found for x, found in cells.items() if found.n}
                _line(axis, cells, looks[name], name)
                theirs = _published(axis, ours.drop_duplicates("model"), by, looks[name],
                                    (published or {}).get(arm["train"], {}))  # fmt: skip
                told += [_told(f"{name}, by {by}", cells), theirs]
                longer = _whole(axis, ours, by, looks[name], whole)
                if longer:
                    told.append(_told(f"{name}, the paper's recipe", longer))
            narrow = part.loc[part["width"].idxmin()]
            label = f"depth (width ×{narrow['width']})"
            if by == "width":
                label = f"width ({narrow['network'].partition(' ×')[0]})"
            ticks(axis, sizes, labels)
            _chance(axis, shown)
            name_axes(axis, label, _ACCURACY)
        _same_height(axes)
        if published:
            axes[0].plot([], [], label=_PUBLISHED, **_hollow(style.MUTED))
        if whole:
            axes[0].plot([], [], label=_OURS_WHOLE, **_star(style.MUTED))
    chart.alt = (
        f"Test accuracy in percent by {' and by '.join(by for by, _ in panels)}. {said(told)}"
    )
    chart.note = _note(shown, _MEAN)
    if published and (table["epochs"] < _RECIPE.epochs).any():
        chart.note = f"ours: a shortened recipe, {chart.note}; the paper: {_RECIPE.epochs} epochs"
    return chart


def _star(colour: str) -> Any:
    """A mean of ours with the paper's own recipe."""
    return {"marker": "*", "ms": 15, "mfc": colour, "mec": style.GROUND, "mew": 1, "ls": "none"}


def _whole(
    axis: "Axes", networks: pd.DataFrame, by: str, look: Style, runs: Sequence[Record]
) -> dict[Any, Ends]:
    """Stars where these networks were trained with the whole recipe, and what they stand for."""
    found = {}
    for place, model, policy in networks[[by, "model", "train"]].drop_duplicates().to_numpy():
        reached = Ends.of(runs_of(runs, {"model": model, "train": policy}))
        if reached.survivors:
            found[place] = reached
    means = [reached.mean for reached in found.values()]
    axis.plot([*found], means, zorder=4, **_star(look.light))
    return found


def _published(
    axis: "Axes", networks: pd.DataFrame, by: str, look: Style, values: Mapping[str, float]
) -> str:
    """The paper's values of these networks as hollow diamonds, and in words."""
    places = zip(networks[by], networks["model"], strict=True)
    found = {x: values.get(model, math.nan) for x, model in sorted(places)}
    known = {x: y for x, y in found.items() if not math.isnan(y)}
    axis.plot([*known], [*known.values()], **_hollow(look.light))
    return "the paper " + ", ".join(f"{x}: {y:g}" for x, y in known.items()) if known else ""


def _told(name: str, cells: Mapping[Any, Ends]) -> str:
    """``BatchNorm: 0.4: 59.6 [59.0, 60.2], 1.6: 5 of 8 survive: 54.8``."""
    return f"{name}: " + ", ".join(f"{x:g}: {found}" for x, found in cells.items())


def curves(
    records: Sequence[Record],
    panels: Mapping[str, Arms] | None = None,
    metric: str = "test_accuracy",
) -> Chart:
    """A metric against the epoch: thin lines are seeds, thick lines means of those that trained.

    A run that failed ends in a cross and is in no mean; how many did not stands at the line's end.

    Args:
        records: the runs.
        panels: title → arms; default one panel per network and one arm per policy.
        metric: a column of the records' curves: ``test_accuracy``, ``train_accuracy`` or
            ``clipped``.
    """
    shown = ended(records)
    if panels is None:
        order = frame(shown).sort_values(["width", "depth"])["model"].unique()
        panels = {
            network(model): {name: arm | {"model": model} for name, arm in policies(shown).items()}
            for model in order
        }
    found = {
        title: {name: runs for name, arm in arms.items() if (runs := _with(shown, arm, metric))}
        for title, arms in panels.items()
    }
    used = [run for arms in found.values() for runs in arms.values() for run in runs]
    if not used:
        return nothing()
    told = []
    with drawing(300, len(panels)) as (chart, axes):
        for axis, (title, arms) in zip(axes, panels.items(), strict=True):
            partly = []
            for look, name in zip(_looks(arms), arms, strict=True):
                if name not in found[title]:
                    continue
                runs = found[title][name]
                end = _curve(axis, runs, metric, look, name)
                told.append(": ".join(filter(None, (title, name, end))))
                if not all(map(survived, runs)):
                    partly.append((look, f"{name}: {end.partition(':')[0]}"))
            for line, (look, text) in enumerate(partly):
                axis.annotate(text, (0, 1), (4, -4 - 17 * line), va="top", color=look.light,
                              xycoords="axes fraction", textcoords="offset points")  # fmt: skip
            name_axes(axis, "epoch", _METRICS[metric], title)
            if metric == "test_accuracy":
                _chance(axis, used)
        _same_height(axes)
    chart.alt = f"{_METRICS[metric].capitalize()} by epoch; at the end, {said(told)}"
    failures = _CURVES_FAILED if not all(map(survived, used)) else ""
    chart.note = _note(used, "thin: seeds; thick: their mean", failures)
    return chart


def at_equal_fit(records: Sequence[Record], arms: Arms, share: float) -> Chart:
    """Test accuracy against training accuracy, epoch by epoch; runs are compared where they cross.

    Args:
        records: the runs.
        arms: a line each, the mean over its seeds; thin lines are seeds.
        share: of training images, marked by an upright line.
    """
    found = {name: _with(records, arm, "train_accuracy") for name, arm in arms.items()}
    used = [run for runs in found.values() for run in runs]
    if not used:
        return nothing()
    told = []
    with drawing(400) as (chart, (axis,)):
        for look, (name, runs) in zip(_looks(arms), found.items(), strict=True):
            paths = [
                100 * pd.DataFrame(run.curve)[["train_accuracy", "test_accuracy"]].dropna()
                for run in runs
            ]
            for path in paths:
                axis.plot(*path.to_numpy().T, color=look.light, lw=0.8, alpha=0.4)
            if paths:
                middle = sum(paths[1:], paths[0]) / len(paths)
                several = len(paths) > 1
                name += "" if several else " (one run)"
                axis.plot(*middle.to_numpy().T, color=look.light, ls=look.line, label=name,
                          marker=look.marker, lw=2.5 if several else 1,
                          ms=6 if several else 4)  # fmt: skip
                train, test = middle.to_numpy()[-1]
                told.append(f"{name}: ends at {train:.1f} and {test:.1f}")
        axis.axvline(100 * share, color=style.MUTED, ls=":", lw=1.4)
        name_axes(axis, _METRICS["train_accuracy"], _ACCURACY)
    chart.alt = f"Test accuracy against training accuracy, in percent. {said(told)}"
    chart.note = _note(used, "marks: epochs; thin: seeds; thick: their mean")
    return chart


_METRICS = {
    "test_accuracy": _ACCURACY,
    "train_accuracy": "training accuracy, %",
    "clipped": "share clipped, %",
}
_CURVES_FAILED = "crosses: failed runs, which are in no mean"


def _with(records: Sequence[Record], arm: Mapping[str, Any], metric: str) -> list[Record]:
    """The runs of an arm that recorded the metric by epoch."""
    return [r for r in runs_of(records, arm) if any(metric in row for row in r.curve)]


def _curve(axis: "Axes", runs: Sequence[Record], metric: str, look: Style, name: str) -> str:
    """One arm of a panel, and its end in words."""
    lines = [100 * pd.DataFrame(run.curve).set_index("epoch")[metric].dropna() for run in runs]
    trained = [line for run, line in zip(runs, lines, strict=True) if survived(run)]
    for run, line in zip(runs, lines, strict=True):
        axis.plot(line.index, line, color=look.light, lw=0.8, alpha=0.5)
        if not survived(run):
            axis.plot(line.index[-1:], line[-1:], "x", color=look.light, ms=8, mew=2)
    drawn: Any = {"color": look.light, "ls": look.line, "marker": look.marker, "label": name}
    who = f"{len(trained)} of {len(runs)} survive"
    if not trained:
        axis.plot([], [], **drawn)
        return who
    # The same runs at every epoch: a mean over whoever is left would rise as runs fail.
    middle = pd.concat(trained, axis=1).dropna().mean(axis=1)
    axis.plot(middle.index, middle, lw=2.5, ms=6, markevery=max(1, len(middle) // 6), **drawn)
    end = f"{middle.iloc[-1]:.1f}"
    return end if len(trained) == len(runs) else f"{who}: {end}"


def _same_height(axes: Sequence["Axes"]) -> None:
    """All panels from zero to the same top."""
    top = max(axis.get_ylim()[1] for axis in axes)
    for axis in axes:
        axis.set_ylim(0, top)


_ROW = 50  # pixels


def dots(records: Sequence[Record], arms: Arms, title: str = "") -> Chart:
    """Final test accuracy, one row per arm: a dot per seed, a cross per failed run, their mean.

    The name of an arm stands above its row and its numbers beside it. Arms that were not run are
    left out.

    Args:
        records: the runs.
        arms: a row each.
        title: above the figure.
    """
    runs = {name: runs_of(records, settings) for name, settings in arms.items()}
    runs = {name: found for name, found in runs.items() if found}
    used = [run for found in runs.values() for run in found]
    if not used:
        return nothing()
    rows = {name: Ends.of(found) for name, found in runs.items()}
    looks = [style.of([style.method(arms[name])])[0] for name in rows]
    any_failed = any(found.failed for found in rows.values())
    with drawing(_ROW * len(rows) + 50 + 30 * bool(title)) as (chart, (axis,)):
        for y, (look, (name, found)) in enumerate(zip(looks, rows.items(), strict=True)):
            _row(axis, y, found, look)
            above(axis, y, f"{name} (n = {found.n})", up=13)
            axis.annotate(str(found), (1.02, y), xycoords=("axes fraction", "data"), va="center")
        rows_only(axis, len(rows))
        chance = chance_of(used)
        if any_failed or axis.get_xlim()[0] < 0:  # a wide interval may go beyond what can be
            axis.set_xlim(left=0)
        low, high = axis.get_xlim()
        if chance and low <= chance <= high:
            for y in range(len(rows)):
                axis.vlines(chance, y - 0.12, y + 0.3, color=style.MUTED, ls=":", lw=1.4)
        name_axes(axis, _ACCURACY, title=title)
    chart.alt = f"{_ACCURACY.capitalize()}. " + said(
        [f"{name}: {found}" for name, found in rows.items()]
    )
    chart.note = _note(
        used,
        "dots: seeds; bar: mean, with its 95 % interval where no run failed",
        "crosses: failed (diverged, or below twice chance)" if any_failed else "",
        f"dotted: chance, {chance:g} %" if chance and low <= chance <= high else "",
    )
    return chart


def _row(axis: "Axes", y: float, found: Ends, look: Style) -> None:
    axis.axhline(y, color=style.GRID, lw=1, zorder=0)
    seeds: Any = {"color": look.light, "ls": "none", "alpha": 0.7}
    axis.plot(found.survivors, [y] * len(found.survivors), marker=look.marker, ms=7, mew=0, **seeds)
    axis.plot(found.failed, [y] * len(found.failed), marker="x", ms=8, mew=2, **seeds)
    low, high = found.interval
    if not math.isnan(low):
        axis.plot([low, high], [y, y], color=style.INK, lw=1.5, solid_capstyle="butt")
    if found.survivors:
        axis.plot([found.mean], [y], marker="|", ms=16, mew=2, color=style.INK, ls="none")


def sweep(
    records: Sequence[Record],
    arms: Arms,
    by: str,
    label: str = "",
    title: str = "",
    levels: Arms | None = None,
) -> Chart:
    """Final test accuracy against a setting (log scale), one line per arm.

    Args:
        records: the runs.
        arms: a line each.
        by: a setting of :class:`~nbrepro.spec.Spec` with a number.
        label: of the axis; default the setting's name.
        title: above the figure.
        levels: arms that do not have the setting; a thin line across each, at the mean.
    """
    runs = {name: runs_of(records, settings) for name, settings in arms.items()}
    runs = {name: found for name, found in runs.items() if found}
    used = [run for found in runs.values() for run in found]
    if not used:
        return nothing()
    cells = {name: ends(found, by) for name, found in runs.items()}
    looks = dict(zip(arms, _looks(arms), strict=True))
    values = sorted({x for found in cells.values() for x in found})
    told = []
    with drawing(400) as (chart, (axis,)):
        for number, (name, found) in enumerate(cells.items()):
            _line(axis, found, looks[name], name, 15 * (number - (len(cells) - 1) / 2))
            told.append(_told(name, found))
        levels = levels or {}
        for look, (name, settings) in zip(_looks(levels), levels.items(), strict=True):
            others = Ends.of(runs_of(records, settings))
            if others.survivors:
                name = f"{name} ({others})"
                axis.axhline(others.mean, color=look.light, ls=look.line, lw=1.4, label=name)
                told.append(name)
        ticks(axis, values, [f"{x:g}" for x in values])
        _chance(axis, used)
        axis.set_ylim(bottom=0)
        _count_failures(axis, cells, looks)
        name_axes(axis, label or setting(by), _ACCURACY, title)
    chart.alt = f"{_ACCURACY.capitalize()} by {label or setting(by)}. {said(told)}"
    chart.note = _note(used, _MEAN, *_of_failures(cells))
    return chart


def by_number(runs: Mapping[str, Mapping[int, Sequence[Record]]], label: str) -> Chart:
    """Final test accuracy against a number (log scale), such as that of layers, a line each.

    Args:
        runs: line, by the name of its style, → number → runs.
        label: what is counted.
    """
    used = [run for by in runs.values() for found in by.values() for run in found]
    if not used:
        return nothing()
    looks = dict(zip(runs, style.of(runs), strict=True))
    cells = {
        name: {x: Ends.of(found) for x, found in by.items() if found} for name, by in runs.items()
    }
    values = sorted({x for found in cells.values() for x in found})
    with drawing(400) as (chart, (axis,)):
        for number, (name, found) in enumerate(cells.items()):
            _line(axis, found, looks[name], name, 9 * (number - (len(cells) - 1) / 2))
        ticks(axis, values, [f"{x:,}" for x in values])
        _chance(axis, used)
        axis.set_ylim(bottom=0)
        _count_failures(axis, cells, looks)
        name_axes(axis, label, _ACCURACY)
    told = [_told(name, found) for name, found in cells.items()]
    chart.alt = f"{_ACCURACY.capitalize()} by {label}. {said(told)}"
    chart.note = _note(used, _MEAN, *_of_failures(cells))
    return chart


def _of_failures(cells: Mapping[str, Mapping[Any, Ends]]) -> list[str]:
    """What the marks of failed runs mean, as far as there are such marks."""
    failing = [cell for found in cells.values() for cell in found.values() if cell.failed]
    return [_FAILED] * bool(failing) + [_SURVIVORS] * any(cell.survivors for cell in failing)


def _count_failures(
    axis: "Axes", cells: Mapping[str, Mapping[Any, Ends]], looks: Mapping[str, Style]
) -> None:
    """``5/8 fail`` above all that was drawn at a place, one line per arm."""
    for x in {x for found in cells.values() for x in found}:
        here = {name: found[x] for name, found in cells.items() if x in found}
        failing = {name: cell for name, cell in here.items() if cell.failed}
        top = max(cell.top for cell in here.values())
        for line, (name, cell) in enumerate(failing.items()):
            count = f"{len(cell.failed)}/{cell.n} fail"
            axis.annotate(count, (x, top), (0, 8 + 15 * line), textcoords="offset points",
                          ha="center", color=looks[name].light)  # fmt: skip
        if failing:  # room for them, of the 300 pixels that an axis has about
            axis.set_ylim(top=max(axis.get_ylim()[1], top / (1 - (15 + 15 * len(failing)) / 300)))


def survival(records: Sequence[Record], arms: Arms, by: str = "lr", label: str = "") -> Chart:
    """How many runs trained: one row per arm, one column per value of a setting.

    Args:
        records: the runs.
        arms: a row each; those that were not run are left out.
        by: a setting of :class:`~nbrepro.spec.Spec` with a number.
        label: of the columns; default the setting's name.
    """
    cells = {name: ends(runs_of(records, settings), by) for name, settings in arms.items()}
    cells = {name: found for name, found in cells.items() if found}
    if not cells:
        return nothing()
    used = [run for name in cells for run in runs_of(records, arms[name])]
    values = sorted({x for found in cells.values() for x in found})
    with drawing(66 * len(cells) + 50) as (chart, (axis,)):
        for y, (name, found) in enumerate(cells.items()):
            look = style.of([style.method(arms[name])])[0]
            above(axis, y, name, up=18)
            for column, x in enumerate(values):
                if x in found:
                    _counted(axis, column, y, found[x], look)
        axis.set_xlim(-0.5, len(values) - 0.5)
        rows_only(axis, len(cells))
        axis.set_xticks(range(len(values)), [f"{x:g}" for x in values])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        name_axes(axis, label or setting(by))
    told = [
        f"{name}: " + ", ".join(f"{len(c.survivors)} of {c.n} at {x:g}" for x, c in found.items())
        for name, found in cells.items()
    ]
    chart.alt = f"Runs that survive by {label or setting(by)}. {said(told)}"
    chart.note = _note(used, "runs that neither diverge nor end below twice chance, of all")
    return chart


def _counted(axis: "Axes", x: float, y: float, found: Ends, look: Style) -> None:
    """A bar of eight tenths of a column: the part that survived is filled."""
    share = len(found.survivors) / found.n
    axis.barh(y, 0.8, 0.34, x - 0.4, fill=False, ec=look.light, lw=1.2)
    axis.barh(y, 0.8 * share, 0.34, x - 0.4, color=look.light, alpha=0.3)
    axis.text(x, y, f"{len(found.survivors)} of {found.n}", ha="center", va="center")


# --- training only BatchNorm ---


@cache
def trained_parameters(model: str, policy: str = "batchnorm") -> int:
    """How many parameters a policy trains in a network that classifies ten classes."""
    import torch

    from nbrepro import freezing, models

    with torch.device("meta"):
        network_ = models.create(model)
    return freezing.count(network_)[policy]


def equal_parameters(
    records: Sequence[Record], published: Mapping[str, float] | None = None
) -> Chart:
    """Accuracy against the number of trained BatchNorm parameters (2003.00152, Figure 3).

    Two lines, for networks that grow in depth and networks that grow in width.

    Args:
        records: the runs; those that train BatchNorm only are used.
        published: the paper's values, network → percent; hollow markers at every network that has
            one, run by us or not.
    """
    runs = runs_of(records, {"train": "batchnorm"})
    if not runs:
        return nothing()
    published = {model: y for model, y in (published or {}).items() if not math.isnan(y)}
    ours = {run.spec.model for run in runs}
    base = min(size(model).depth for model in ours)
    told = []
    with drawing(400) as (chart, (axis,)):
        for name, look in zip(("deeper", "wider"), style.of(["batchnorm"] * 2), strict=True):
            counts = {
                model: trained_parameters(model)
                for model in sorted({*ours, *published}, key=trained_parameters)
                if (size(model).width == 1 if name == "deeper" else size(model).depth == base)
            }
            cells = {
                count: Ends.of(run for run in runs if run.spec.model == model)
                for model, count in counts.items()
                if model in ours
            }
            theirs = {count: published[m] for m, count in counts.items() if m in published}
            _line(axis, cells, look, f"BatchNorm only, {name}")
            axis.plot([*theirs], [*theirs.values()], ls=":", lw=1, color=look.light)
            axis.plot([*theirs], [*theirs.values()], **_hollow(look.light))
            for model, count in counts.items():
                if count in cells:
                    depth, width = size(model)
                    label = str(depth) if name == "deeper" else f"×{width}" * (width > 1)
                    axis.annotate(label, (count, cells[count].mean), (8, -8), va="top",
                                  textcoords="offset points", color=style.MUTED)  # fmt: skip
                    told.append(f"{name}, {network(model)}, {count:,} parameters: {cells[count]}")
            told += [f"the paper, {name}, {c:,} parameters: {v:g}" for c, v in theirs.items()]
        if published:
            axis.plot([], [], label=_PUBLISHED, **_hollow(style.MUTED))
        powers_of_two(axis)
        _chance(axis, runs)
        axis.set_ylim(bottom=0)
        name_axes(axis, "trained parameters: γ and β of every BatchNorm", _ACCURACY)
    chart.alt = f"{_ACCURACY.capitalize()} by number of trained parameters. {said(told)}"
    chart.note = _note(runs, _MEAN)
    return chart


def stored(
    panels: Mapping[str, Sequence[Record]],
    size_of: Callable[[Spec], int],
    names: Mapping[str, str],
) -> Chart:
    """Accuracy against the kilobytes that a network has of its own, in panels, by policy.

    Args:
        panels: name → runs; each panel has intervals of its own, and all have one scale.
        size_of: bytes that would be stored of a run's network.
        names: policy → what readers call it, in the legend's order; runs of others are left out.
    """
    shown = {name: found for name, runs in panels.items() if (found := ended(runs))}
    every = [run for runs in shown.values() for run in runs]
    if not every:
        return nothing()
    told = []
    with drawing(360, len(shown)) as (chart, axes):
        for axis, (title, runs) in zip(axes, shown.items(), strict=True):
            present = {run.spec.train for run in runs}
            arms = {name: {"train": train} for train, name in names.items() if train in present}
            for look, (name, arm) in zip(_looks(arms), arms.items(), strict=True):
                sizes: dict[float, list[Record]] = {}
                for run in runs_of(runs, arm):
                    sizes.setdefault(size_of(run.spec) / 1000, []).append(run)
                cells = {size: Ends.of(sizes[size]) for size in sorted(sizes)}
                _line(axis, cells, look, name)
                for size, reached in cells.items():
                    model = network(sizes[size][0].spec.model)
                    told.append(f"{title}, {name}, {model}, {size:,.1f} kB: {reached}")
            powers_of_ten(axis, "x")
            _chance(axis, runs)
            name_axes(axis, "kB of its own", _ACCURACY, title)
        _same_height(axes)
    chart.alt = f"{_ACCURACY.capitalize()} by stored bytes. {said(told)}"
    chart.note = _note(every, _MEAN)
    return chart


def k_sweep(records: Sequence[Record], settings: Mapping[str, Any]) -> Chart:
    """Accuracy against k, with k random weights trained per channel, one line per network.

    Across it a band: the 95 % interval of what γ and β reach, which are two per channel.

    Args:
        records: the runs; those of ``random:k`` and of γ and β are used.
        settings: what all of them have, so that no other start or rate gets into the band.
    """
    records = runs_of(records, settings)
    used = [run for run in ended(records) if _k(run)]
    if not used:
        return nothing()
    names = list(dict.fromkeys(run.spec.model for run in used))
    every = sorted({_k(run) for run in used})
    told = []
    with drawing(400) as (chart, (axis,)):
        looks = zip(*(style.of([arm] * len(names)) for arm in ("random", "batchnorm")), strict=True)
        for model, (look, across) in zip(names, looks, strict=True):
            runs = [run for run in used if run.spec.model == model]
            cells = {k: Ends.of(run for run in runs if _k(run) == k) for k in every}
            cells = {k: found for k, found in cells.items() if found.n}
            _line(axis, cells, look, f"{network(model)}, k random weights")
            told.append(_told(f"{network(model)}, k random weights", cells))
            reached = Ends.of(runs_of(records, {"train": "batchnorm", "model": model}))
            if reached.survivors:
                name = f"{network(model)}, γ and β"
                axis.axhline(reached.mean, color=across.light, ls=across.line, lw=1.5, label=name)
                if not math.isnan(reached.interval[0]):
                    axis.axhspan(*reached.interval, color=across.light, alpha=0.15, lw=0)
                told.append(f"{name}: {reached}")
        ticks(axis, every, [str(k) for k in every])
        _chance(axis, used)
        axis.set_ylim(bottom=0)
        name_axes(axis, "k, random weights trained per channel", _ACCURACY)
    chart.alt = f"{_ACCURACY.capitalize()} by number of random weights per channel. {said(told)}"
    chart.note = _note(used, _MEAN, "band: mean and 95 % interval of γ and β")
    return chart


def _k(run: Record) -> int:
    """How many random parameters per channel a run trains; 0 if it trains something else."""
    found = re.fullmatch(r"random:(\d+)", run.spec.train)
    return int(found[1]) if found else 0

"""Figures of measurements inside a network, of clipping step by step, and of timings."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from scipy import special

from nbrepro.book import style
from nbrepro.book.figures.chart import (
    Chart,
    above,
    drawing,
    name_axes,
    nothing,
    powers_of_ten,
    rows_only,
    said,
    ticks,
)
from nbrepro.claims.labels import trained

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from torch import Tensor

    from nbrepro.claims.nfnets.smoothness import Along
    from nbrepro.records.features import Channel, Features
    from nbrepro.records.timings import Benchmark

#: Of what is no method: shares as squares of one colour, ratios of timings as bars.
_PLAIN = style.COLOURS["--nb-indigo"][0]


def signal_propagation(
    networks: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    theory: str | None = None,
    logarithmic: bool = True,
) -> Chart:
    """Signal propagation plots (2101.08692, Figure 1): three statistics against depth.

    Args:
        networks: name → rows of :func:`nbrepro.probes.signal_propagation`.
        theory: the network whose expected variance is drawn as a dotted line.
        logarithmic: scale of the two variances and the squared mean; means below 1e-4 fall off it.
    """
    panels = {
        "squared_mean": "squared mean",
        "variance": "variance",
        "branch_variance": "variance, end of the branch",
    }
    told = []
    with drawing(280, len(panels)) as (chart, axes):
        for axis, (column, title) in zip(axes, panels.items(), strict=True):
            for look, (name, rows) in zip(style.of(networks), networks.items(), strict=True):
                heights = [row[column] for row in rows]
                axis.plot([row["block"] for row in rows], heights, color=look.light, ls=look.line,
                          marker=look.marker, ms=6, markevery=_every(rows), label=name)  # fmt: skip
                told.append(f"{title}, {name}: {heights[0]:.2g} to {heights[-1]:.2g}")
            name_axes(axis, "residual block", title=title)
            if logarithmic:
                powers_of_ten(axis)
        if logarithmic:
            axes[0].set_ylim(bottom=1e-4)
        if theory is not None:
            rows = networks[theory]
            axes[1].plot([row["block"] for row in rows], [row["expected_variance"] for row in rows],
                         color=style.INK, ls=":", lw=2.5, label="theory")  # fmt: skip
    chart.alt = (
        f"Statistics of the channels, from the first residual block to the last. {said(told)}"
    )
    return chart


def branch_shares(predicted: Sequence[float], measured: Mapping[str, Sequence[float]]) -> Chart:
    """A branch's share of its block's variance, both axes logarithmic: predicted, then measured.

    Args:
        predicted: by block, from the first.
        measured: network → the same as it was found.
    """
    blocks = range(1, len(predicted) + 1)
    told = [f"predicted: {predicted[0]:.2g} to {predicted[-1]:.2g}"]
    told += [f"{name}: {shares[0]:.2g} to {shares[-1]:.2g}" for name, shares in measured.items()]
    with drawing(320, 2) as (chart, axes):
        for axis, title in zip(axes, ("predicted", "measured"), strict=True):
            axis.plot(blocks, predicted, color=style.INK, ls=":", lw=2.5, label="predicted")
            name_axes(axis, "residual block", title=title)
            powers_of_ten(axis, "x")
            powers_of_ten(axis)
            axis.set_ylim(min(*predicted, *(min(s) for s in measured.values())) / 1.5, 1)
        for look, (name, shares) in zip(style.of(measured), measured.items(), strict=True):
            axes[1].plot(range(1, len(shares) + 1), shares, color=look.light, ls=look.line,
                         label=name)  # fmt: skip
    chart.alt = f"Branch variance over output variance, first block to last. {said(told)}"
    return chart


def _every(points: Sequence[object]) -> int:
    """Every how many points a line has a mark."""
    return max(1, len(points) // 6)


# --- along the gradient ---


def along_gradient(rates: Sequence[float], networks: Mapping[str, "Along"]) -> Chart:
    """The loss, and the change of the gradient, after one step of each rate along the gradient.

    Args:
        rates: of the steps, in rising order; a log scale.
        networks: reader's name → what was measured.
    """
    told = []
    with drawing(320, 2) as (chart, (loss, change)):
        for look, (name, found) in zip(style.of(_METHOD[n] for n in networks), networks.items(),
                                       strict=True):  # fmt: skip
            drawn: Any = {"color": look.light, "ls": look.line, "marker": look.marker, "ms": 6}
            loss.plot(rates, found.losses, label=name, **drawn)
            loss.axhline(found.loss, color=look.light, ls=":", lw=1.4)
            change.plot(rates, found.changes, label=name, **drawn)
            told.append(
                f"{name}: loss {found.loss:.2f}, after the largest step {found.losses[-1]:.2f}; "
                f"the gradient has changed by {found.changes[-1]:.1f} times its length"
            )
        powers_of_ten(change)
        for axis, title in ((loss, "loss"), (change, "change of the gradient")):
            axis.set_xscale("log", base=2)
            ticks(axis, rates[::2], [f"{rate:g}" for rate in rates[::2]])
            name_axes(axis, "rate of the step", title=title)
    chart.alt = f"One step along the gradient, by its rate. {said(told)}"
    chart.note = "dotted: the loss before the step"
    return chart


_METHOD = {"BatchNorm": "BatchNorm", "normalizer-free": "no clipping"}


def overshooting(paths: Mapping[str, Sequence[float]]) -> Chart:
    """Gradient descent on ``x² / 2``: one panel per rate, the parabola and where the steps lead.

    Args:
        paths: title → the places, from the start on.
    """
    told = []
    with drawing(280, len(paths)) as (chart, axes):
        for axis, (title, path) in zip(axes, paths.items(), strict=True):
            edge = 1.1 * max(map(abs, path))
            grid = np.linspace(-edge, edge, 101)
            axis.plot(grid, grid**2 / 2, color=style.MUTED, lw=1.4)
            axis.plot(path, [x**2 / 2 for x in path], color=_PLAIN, marker="o", ms=6, lw=1.4)
            name_axes(axis, "weight", "loss", title)
            told.append(f"{title}: from {path[0]:.2g} to {path[-1]:.2g}")
    chart.alt = f"Steps of gradient descent on a parabola. {said(told)}"
    return chart


# --- shares ---


def influence(networks: Mapping[str, "Tensor"]) -> Chart:
    """How much each image of a batch moves each output: one matrix ``[output, image]`` per network.

    The stronger the colour, the more, on a log scale from 1/100 to 1, relative to the diagonal;
    what is exactly zero stays blank.
    """
    told = []
    with drawing(320, len(networks)) as (chart, axes):
        for axis, (name, matrix) in zip(axes, networks.items(), strict=True):
            share = np.asarray(matrix, float)
            moved = share > 0
            logs = np.log10(share, where=moved, out=np.full_like(share, -np.inf))
            _squares(axis, np.where(moved, np.clip(1 + logs / 2, 0.08, 1), 0))
            axis.set_aspect("equal")
            numbers = [str(number + 1) for number in range(len(share))]
            axis.set_xticks(range(len(share)), numbers)
            axis.set_yticks(range(len(share)), numbers)
            name_axes(axis, "image", "output", name)
            others = moved[~np.eye(len(share), dtype=bool)]
            told.append(f"{name}: an output is moved by {others.mean():.0%} of the other images")
    chart.alt = f"Influence of each image of a batch on each output. {said(told)}"
    chart.note = (
        "strength of the colour: influence relative to an image's own, 1/100 to 1, log scale"
    )
    return chart


def _squares(axis: "Axes", strength: Any) -> None:
    """A matrix as squares of one colour; a dark page shows them as well as a light one."""
    rows, columns = strength.shape
    axis.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    for y, row in enumerate(np.round(strength, 2)):
        for opacity in sorted({*row.tolist()} - {0.0}):
            squares = [(x - 0.5, 1) for x in range(columns) if row[x] == opacity]
            axis.broken_barh(squares, (y - 0.5, 1), color=_PLAIN, alpha=opacity, lw=0)


def clipped_shares(shares: "pd.DataFrame", title: str = "") -> Chart:
    """How many units are clipped: one row per kind of parameter, one column per step.

    Args:
        shares: rows of :func:`nbrepro.probes.clip_fraction` with their ``step``.
        title: above the figure.
    """
    kinds = shares["name"].str.rsplit(".").str[-1].map(lambda kind: _PLURALS.get(kind, f"{kind}s"))
    rows = shares.assign(row=shares["part"] + ", " + kinds)
    table = rows.pivot_table(index="row", columns="step", values="share", sort=False)
    order = [f"{part}, {kind}" for part in shares["part"].unique() for kind in _KINDS]
    table = table.reindex([row for row in order if row in table.index])
    with drawing(24 * len(table) + 60 + 30 * bool(title)) as (chart, (axis,)):
        _squares(axis, table.fillna(0).to_numpy())
        axis.set_yticks(range(len(table)), table.index)
        steps = [str(step) for step in table.columns]
        every = _every(steps)
        axis.set_xticks(range(0, len(steps), every), steps[::every])
        name_axes(axis, "step", title=title)
    means = [f"{row}: {share:.0%}" for row, share in table.mean(axis=1).items()]
    chart.alt = f"Share of units clipped, mean over the steps. {said(means)}"
    chart.note = "strength of the colour: share of units clipped, none to all"
    return chart


_KINDS = ("weights", "gains", "biases")
_PLURALS = {"bias": "biases"}


# --- SkipInit ---


def skip_bounds(paths: Mapping[str, Sequence[float]]) -> Chart:
    """The largest value that a clipped parameter can have, against the share of training done.

    Args:
        paths: name → the bound after each step.
    """
    with drawing(380) as (chart, (axis,)):
        for look, (name, path) in zip(style.series(len(paths)), paths.items(), strict=True):
            shown = _thinned(len(path))
            axis.plot([(i + 1) / len(path) for i in shown], [min(path[i], 1e6) for i in shown],
                      color=look.light, ls=look.line, label=name)  # fmt: skip
        powers_of_ten(axis)
        axis.set(ylim=(1e-5, 1e3), xlim=(0, 1))
        for height in (0.1, 1):
            axis.axhline(height, color=style.MUTED, ls=":", lw=1.4)
        name_axes(axis, "share of training done", "largest possible |w|")
    ends = [
        f"{name}: {'above 1000' if path[-1] > 1000 else f'{path[-1]:.2g}'}"
        for name, path in paths.items()
    ]
    chart.alt = f"Bound on a clipped parameter; at the end of training, {said(ends)}"
    return chart


def _thinned(length: int, most: int = 120) -> list[int]:
    """Positions of at most so many points of a long line, first and last among them."""
    count = min(most, length)
    return sorted({round(i * (length - 1) / max(1, count - 1)) for i in range(count)})


def skip_gains(
    free: "pd.DataFrame", clipped: "pd.DataFrame", bound: Sequence[float], title: str = ""
) -> Chart:
    """SkipInit's scalars step by step, with and without clipping, and the largest clipping allows.

    Args:
        free: one row per step, one column per block, left unclipped.
        clipped: the same, clipped.
        bound: after each step.
        title: above the figure.
    """
    shown = _thinned(len(free))
    told = []
    with drawing(380) as (chart, (axis,)):
        for number, (look, block) in enumerate(
            zip(style.series(free.shape[1]), free.columns, strict=True), 1
        ):
            for kind, line, path in (("free", "--", free[block]), ("clipped", "-", clipped[block])):
                name = f"block {number}, {kind}"
                axis.plot(path.index[shown], path.abs().iloc[shown], ls=line, color=look.light,
                          label=name)  # fmt: skip
                told.append(f"{name}: {abs(path.iloc[-1]):.2g}")
        axis.plot(free.index[shown], [bound[i] for i in shown], ls=":", color=style.INK, lw=2.5,
                  label="the bound")  # fmt: skip
        powers_of_ten(axis)
        axis.set_ylim(1e-5, 1e2)
        name_axes(axis, "step", "|SkipInit|", title)
    chart.alt = f"SkipInit's scalars by step; at the end, {said(told)}"
    return chart


# --- BatchNorm's γ ---


def gammas(
    networks: Mapping[str, Sequence[Sequence[float]]],
    below: float = 0.01,
    reach: float = 2.5,
    start: tuple[float, float] = (0, 1),
) -> Chart:
    """Histograms of BatchNorm's γ, one panel per policy on one scale, and where γ started.

    The share of γ that are smaller than a threshold, either way, stands in each panel, and how many
    networks it shows.

    Args:
        networks: what was trained, perhaps with more behind a comma → γ of each network.
        below: the threshold.
        reach: how much of the axis is shown, either way; γ beyond it are in the bins at its ends.
        start: between which γ was drawn, each value equally likely.
    """
    # Zero parts two bins, so that none holds γ of both signs.
    edges = np.linspace(-reach, reach, 2 * round(reach / _BIN) + 1)
    before = 100 * (edges[1] - edges[0]) / (start[1] - start[0])
    every = {name: np.concatenate([np.asarray(one, float) for one in found])
             for name, found in networks.items()}  # fmt: skip
    shares = [
        100 * np.histogram(gamma.clip(-reach, reach), edges)[0] / len(gamma)
        for gamma in every.values()
    ]
    told = []
    with drawing(280, len(networks)) as (chart, axes):
        looks = style.of(name.partition(", ")[0] for name in networks)
        for axis, look, share, (name, gamma) in zip(
            axes, looks, shares, every.items(), strict=True
        ):
            axis.stairs(share, edges, fill=True, color=look.light, alpha=0.75)
            axis.stairs([before], start, color=style.INK, lw=1.4, ls="--")
            # With an edge, for the band alone may be less than a pixel wide.
            axis.axvspan(-below, below, color=style.MUTED, alpha=0.4, lw=1)
            small = f"{100 * (np.abs(gamma) < below).mean():.0f} % with |γ| < {below:g}"
            n = f"{len(networks[name])} network{'s' * (len(networks[name]) > 1)}"
            for down, text in ((0, small), (17, n)):
                axis.annotate(text, (1, 0.98), (0, -down), xycoords="axes fraction", ha="right",
                              textcoords="offset points", va="top")  # fmt: skip
            policy, *more = name.partition(", ")
            title = "".join((trained(policy), *more))
            name_axes(axis, "γ", "share of channels, %", title)
            axis.set(xlim=(-reach, reach), ylim=(0, 1.25 * max(before, *map(np.max, shares))))
            told.append(
                f"{title}: {n}, {len(gamma):,} γ, {gamma.min():.2g} to {gamma.max():.2g}, {small}"
            )
    chart.alt = f"Histograms of γ. {said(told)}"
    beyond = any(np.abs(gamma).max() > reach for gamma in every.values())
    ends = f"first and last bin: with all beyond ±{reach:g}" if beyond else ""
    chart.note = said(["dashed: before training", f"grey band: |γ| < {below:g}", ends], "")
    return chart


#: How wide the bins of γ are, about.
_BIN = 0.1


def zeroed(runs: Mapping[str, Sequence["Features"]]) -> Chart:
    """Accuracy when the smallest γ are set to zero (2003.00152, Figure 6), one line per run.

    Args:
        runs: what was trained → the features of its runs.
    """
    used = [features for found in runs.values() for features in found]
    if not used:
        return nothing()
    told = []
    with drawing(400) as (chart, (axis,)):
        for look, (policy, found) in zip(style.of(runs), runs.items(), strict=True):
            for number, features in enumerate(found):
                path = [(100 * c.share, 100 * c.accuracy) for c in features.clamped]
                label = None if number else trained(policy)
                axis.plot(*zip(*path, strict=True), color=look.light, ls=look.line, lw=1.4, ms=5,
                          marker=look.marker, label=label)  # fmt: skip
                told.append(
                    f"{trained(policy)}, run {number + 1}: "
                    + ", ".join(f"{share:.0f} % zero: {left:.1f}" for share, left in path)
                )
        axis.set_ylim(bottom=0)
        name_axes(axis, "γ set to zero, the smallest first, % of channels", "test accuracy, %")
    chart.alt = f"Test accuracy in percent by share of γ set to zero. {said(told)}"
    n = {len(found) for found in runs.values()}
    chart.note = f"one line per seed, n = {' or '.join(map(str, sorted(n)))}"
    return chart


def closed(channels: Sequence["Channel"], reach: float = 4) -> Chart:
    """At how many places a ReLU behind BatchNorm is zero: against β, and against β in units of γ.

    Where what BatchNorm scales is normally distributed, the share is Φ(−β/|γ|), which is drawn in.

    Args:
        channels: of one trained network.
        reach: how much of the second axis is shown, either way; what lies beyond stands at its end.
    """
    off = 100 * np.array([channel.off for channel in channels])
    beta = np.array([channel.beta for channel in channels])
    ratio = np.array([channel.ratio for channel in channels])
    look = style.METHODS["batchnorm"]
    with drawing(300, 2) as (chart, axes):
        shown = {"β": beta, "β / |γ|": ratio.clip(-reach, reach)}
        for axis, (name, values) in zip(axes, shown.items(), strict=True):
            axis.plot(values, off, look.marker, color=look.light, ms=5, alpha=0.6, mew=0)
            axis.xaxis.set_major_locator(MaxNLocator(5))
            name_axes(axis, name, "zero behind the ReLU, % of places")
        path = np.linspace(-reach, reach, 81)
        axes[1].plot(path, 100 * special.ndtr(-path), color=style.INK, lw=1.4, ls="--")
    apart = np.abs(100 * special.ndtr(-ratio) - off).mean()
    chart.alt = (
        f"Share of places where the ReLU is zero, {off.min():.0f} to {off.max():.0f} %, of "
        f"{len(off)} channels with β from {beta.min():.2g} to {beta.max():.2g}. Against β / |γ| "
        f"they lie {apart:.1f} points from the curve on average."
    )
    chart.note = f"a dot per channel; dashed: normally distributed; beyond ±{reach:g}: at the end"
    return chart


# --- timings ---


def times_as_long(timings: Sequence["Benchmark"], only: str = "", pair: str = "") -> Chart:
    """Bars that say how many times as long the slower of two takes, one row per case.

    Args:
        timings: of :func:`nbrepro.book.chapter.measured`; cases are named ``A over B``.
        only: a pattern; cases without it are left out.
        pair: what they compare, ``A over B``, where the names of the cases do not say it.
    """
    rows = [
        (*slower(f"{case}: {pair}" if pair else case, row), timing)
        for timing in timings
        for case, row in timing.rows.items()
        if re.search(only, case)
    ]
    if not rows:
        return nothing("Not measured yet.", "the scripts in `benchmarks/` measure it")
    texts = [textwrap.wrap(text, _LINE, break_on_hyphens=False) for text, *_ in rows]
    tall = 40 + 17 * max(map(len, texts))
    with drawing(tall * len(rows) + 50, width=_BARS) as (chart, (axis,)):
        for y, (text, (_, factor, low, high, _)) in enumerate(zip(texts, rows, strict=True)):
            axis.barh(y, factor - 1, 14 / tall, 1, color=_PLAIN, alpha=0.6, lw=0)
            axis.vlines(1, y - 10 / tall, y + 10 / tall, color=style.INK, lw=1)
            if low < high:
                axis.plot([low, high], [y, y], color=style.INK, lw=1.5)
            above(axis, y, "\n".join(text), up=15)
        left = min(1, *(row[2] for row in rows)) * 0.98
        right = max(row[3] for row in rows) * 1.05
        finer = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(1, right)
        marks = [mark for mark in (finer if right < 2 else _TWOS) if 1 <= mark <= right]
        ticks(axis, marks, [f"{mark:g}×" for mark in marks])
        axis.set_xlim(left, right)
        rows_only(axis, len(rows), 1 - 24 / tall)
        name_axes(axis, "times as long")
    told = [f"{text} [{low:.2f}, {high:.2f}]" for text, _, low, high, _ in rows]
    chart.alt = f"How many times as long one takes as the other. {said(told)}"
    machines = dict.fromkeys(
        f"{t.hardware}, {t.provenance['threads']} thread{'s' * (t.provenance['threads'] > 1)}, "
        f"torch {t.provenance['versions']['torch']}"
        for *_, t in rows
    )
    chart.note = f"{'; '.join(machines)}; line: the middle 95 % of rounds"
    return chart


_TWOS = [2.0**power for power in range(7)]
#: Pixels of a figure of bars, and the characters that fit; narrow, for a larger type on phones.
_BARS, _LINE = 440, 54


def factors(timings: Sequence["Benchmark"], only: str = "") -> str:
    """The smallest and the largest ratio of some cases: ``1.4 to 2.6``.

    Args:
        timings: as for :func:`times_as_long`.
        only: a pattern; cases without it are left out.

    Raises:
        ValueError: if no case is left.
    """
    found = [r["ratio"] for t in timings for c, r in t.rows.items() if re.search(only, c)]
    if not found:
        raise ValueError(f"no case of {[t.name for t in timings]} has {only!r} in its name")
    return f"{min(found):.1f} to {max(found):.1f}"


def slower(case: str, row: Mapping[str, float]) -> tuple[str, float, float, float]:
    """What a row of a benchmark says in words, and the factor, at least 1, with its range.

    Args:
        case: ``A over B``, perhaps with more before and behind: ``ResNet-14: A over B, 64 px``.
        row: ``ratio``, how many times less time A takes than B, with ``low`` and ``high``.

    Raises:
        ValueError: for a case that compares nothing.
    """
    found = re.fullmatch(r"(?:(.+)[:,] )?([^:,]+),? over ([^,]+)(?:, (.+))?", case)
    if not found:
        raise ValueError(f"{case!r} is no 'A over B'")
    before, first, second, after = found.groups(default="")
    if second.isdecimal():  # group width 8 over 128
        second = first.rstrip("0123456789") + second
    factor, low, high = row["ratio"], row["low"], row["high"]
    if factor < 1:
        first, second, factor, low, high = second, first, 1 / factor, 1 / high, 1 / low
    digits = 2 if factor < 1.1 else 1
    long = "about as long as" if low < 1 < high else f"{factor:.{digits}f}× as long as"
    where = ", ".join(filter(None, (before, after))).replace(" ", "\u00a0")  # stays on one line
    text = f"{second} takes {long} {first}" + f" ({where})" * bool(where)
    if not text.startswith("timm "):  # a name that has no capital
        text = text[0].upper() + text[1:]
    return text, factor, low, high

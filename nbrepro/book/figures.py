"""Every plot of the book, drawn from records and measurements alone."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from nbrepro.claims.labels import TRAINED, network, trained
from nbrepro.claims.rules import matches
from nbrepro.claims.verdicts import value
from nbrepro.models import size
from nbrepro.records.ledger import Record
from nbrepro.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor

#: Reader's name → the settings of the runs it stands for, as in a claim's rule.
Arms = Mapping[str, Mapping[str, Any]]

_STYLE: Any = {
    "figure.dpi": 110,
    "savefig.bbox": "tight",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 11,
}
_PALETTE = sns.color_palette("colorblind")
#: One colour per method everywhere: what is trained, and how a network without BatchNorm is held.
_COLOURS = {
    method: _PALETTE[number]
    for methods in (
        (*TRAINED, "gamma", "beta", "shortcut", "other"),
        ("BatchNorm", "no clipping", "agc", "norm", "lars", "agc-layer"),
    )
    for number, method in enumerate(methods)
}


@contextmanager
def _drawing(rows: int = 1, columns: int = 1, **options: Any) -> Iterator[tuple[Figure, Any]]:
    """A figure in the style of the book and its axes; closed at the end, so shown only once."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(rows, columns, **options)
        yield figure, axes
    plt.close(figure)


def _no_records() -> Figure:
    """What stands where a figure will be."""
    with _drawing(figsize=(5.8, 1.2)) as (figure, axis):
        axis.set_axis_off()
        text = "No records yet. `nbrepro status` lists the runs that are missing."
        axis.text(0.5, 0.5, text, ha="center", va="center", color="0.35")
    return figure


def _footnote(figure: Figure, text: str) -> None:
    figure.text(0.99, -0.02, text, ha="right", va="top", fontsize=9, color="0.35")


def _legend_above(figure: Figure, axes: Sequence[Any], columns: int = 3, note: str = "") -> None:
    """One legend for all panels, each label once, and a note below."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend([*found.values()], [*found], loc="upper center", ncols=columns, frameon=False)
    if note:
        figure.suptitle(note, y=0.02, fontsize=10, color="0.35")
    lines = math.ceil(len(found) / columns)
    figure.tight_layout(rect=(0, 0.03, 1, 1 - 0.08 * lines))


def _method(settings: Mapping[str, Any]) -> str:
    """The method that an arm stands for: what it trains, else how it is normalized or clipped."""
    if "train" in settings:
        return str(settings["train"])
    if settings.get("model", "").startswith("bn_"):
        return "BatchNorm"
    if settings.get("optimizer") == "lars":
        return "lars"
    clip = settings.get("clip", "none")
    return "no clipping" if clip == "none" else str(clip)


def _colours(arms: Arms) -> list[Any]:
    """Each arm's method's own colour; by position where arms share a method."""
    methods = [_method(settings) for settings in arms.values()]
    if len(set(methods)) < len(methods):
        return list(sns.color_palette("colorblind", len(methods)))
    own = [_COLOURS.get(method) for method in methods]
    free = cycle([colour for colour in _PALETTE if colour not in own] or _PALETTE)
    return [colour or next(free) for colour in own]


# For the integrator: nbrepro.data.cards.card(dataset).chance, and nothing else.
def _chance(records: Sequence[Record]) -> float | None:
    """Accuracy of guessing in percent; None if unknown or not the same for all runs."""
    from nbrepro.data import base

    classes = {"cifar10": 10, "cifar10-jpeg": 10, "digits": 10, "cifar100": 100}
    found = {classes.get(base(record.spec.dataset)) for record in records}
    number = found.pop() if len(found) == 1 else None
    return 100 / number if number else None


def ended(records: Sequence[Record]) -> list[Record]:
    """The records of runs that ended with a result: completed or diverged, not failed."""
    return [record for record in records if record.status != "failed"]


def runs_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Record]:
    """The records that ended whose spec has all these settings."""
    return [r for r in ended(records) if matches(r.spec, settings)]


def schedules(
    records: Sequence[Record], *arms: Mapping[str, Any]
) -> list[tuple[tuple[int, int, float], list[list[Record]]]]:
    """Runs that differ in an arm only, side by side.

    Returns:
        ``((batch size, epochs, rate), [runs of each arm])``; large batches first, then few epochs,
        then high rates. An arm without such runs has an empty list.
    """
    found: dict[tuple[int, int, float], list[list[Record]]] = {}
    for number, settings in enumerate(arms):
        for run in runs_of(records, settings):
            key = (run.spec.batch_size, run.spec.epochs, run.spec.lr)
            found.setdefault(key, [[] for _ in arms])[number].append(run)
    return sorted(found.items(), key=lambda item: (-item[0][0], item[0][1], -item[0][2]))


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row per run; accuracies in percent, not a number where a run failed.

    Columns: the settings of :class:`~nbrepro.spec.Spec`; ``network`` and ``trained`` for readers;
    ``depth`` and ``width``; ``status``; ``accuracy``, ``top5`` and ``untrained`` (before the first
    step); ``hash``; and of the provenance ``device``, ``ran_in`` (the precision that ``auto`` came
    to), ``commit`` and ``seconds``.
    """
    metrics = {
        "accuracy": "test_accuracy",
        "top5": "test_top5",
        "untrained": "untrained_accuracy",
    }
    provenance = {
        "device": "device",
        "ran_in": "precision",
        "commit": "commit",
        "seconds": "seconds",
    }
    rows = []
    for record in records:
        depth, width = size(record.spec.model)
        failed = record.status == "failed"
        rows.append(
            {
                **record.spec.to_dict(),
                "unclipped": ", ".join(record.spec.unclipped),
                "network": network(record.spec.model),
                "depth": depth,
                "width": width,
                "trained": trained(record.spec.train),
                "status": record.status,
                "hash": record.spec.hash,
                **{k: math.nan if failed else 100 * value(record, m) for k, m in metrics.items()},
                **{column: record.provenance.get(key) for column, key in provenance.items()},
            }
        )
    ours = ("network", "depth", "width", "trained", "status", "hash")
    return pd.DataFrame(rows, columns=[*Spec.__dataclass_fields__, *ours, *metrics, *provenance])


def scale_of(records: Sequence[Record]) -> str:
    """``cifar10-jpeg, 8 epochs, n = 2 to 3 seeds``: what every caption must say.

    A record that is given twice counts once.
    """
    if not records:
        return "no records yet"
    table = frame(list({id(record): record for record in records}.values()))  # arms may overlap
    settings = [c for c in Spec.__dataclass_fields__ if c not in ("seed", "milestones")]
    seeds = table.groupby(settings, dropna=False).size()
    fewest, most = seeds.min(), seeds.max()
    n = f"n = {most}" if fewest == most else f"n = {fewest} to {most}"
    datasets = " and ".join(sorted(table["dataset"].unique()))
    epochs = " or ".join(str(e) for e in sorted(table["epochs"].unique()))
    return f"{datasets}, {epochs} epochs, {n} seed{'s' if most > 1 else ''}"


# --- figures of records ---


def _policies(records: Sequence[Record]) -> dict[str, dict[str, str]]:
    """What is trained in these records, as arms: known policies first, in the legends' order."""
    present = {record.spec.train for record in records}
    order = [*[p for p in TRAINED if p in present], *sorted(present - TRAINED.keys())]
    return {trained(policy): {"train": policy} for policy in order}


def accuracy(records: Sequence[Record]) -> Figure:
    """Test accuracy against depth and against width: one dot per seed, lines through the means.

    One colour per policy of what is trained. The right panel is that of the depth which was run at
    most widths, and is left out if no depth was run at several.

    Raises:
        ValueError: for networks of several families, which share depths but no line.
    """
    shown = ended(records)
    if not shown:
        return _no_records()
    families = {re.sub(r"\d.*", "", record.spec.model) for record in shown}
    if len(families) > 1:
        raise ValueError(
            f"accuracy() draws one family of networks, these records have {len(families)}: "
            f"{', '.join(sorted(families))}; choose one with runs_of, or draw dots()"
        )
    arms = _policies(shown)
    table = frame(shown)
    widths = table.groupby("depth")["width"].nunique()
    panels = [("depth", table[table["width"] == table["width"].min()])]
    if widths.max() > 1:
        panels.append(("width", table[table["depth"] == widths.idxmax()]))
    chance = _chance(shown)
    shape: Any = {"figsize": (4.75 * len(panels) + 0.8 * (len(panels) == 1), 4.2)}
    with _drawing(1, len(panels), sharey=True, squeeze=False, **shape) as (figure, axes):
        for axis, (by, part) in zip(axes[0], panels, strict=True):
            for (name, arm), colour in zip(arms.items(), _colours(arms), strict=True):
                runs = part[part["train"] == arm["train"]]
                axis.plot(runs[by], runs["accuracy"], "o", color=colour, alpha=0.55, mew=0)
                means = runs.groupby(by)["accuracy"].mean()
                axis.plot(means.index, means, "-", color=colour, lw=2, label=name)
            axis.set_xscale("log", base=2)
            ticks = sorted(part[by].unique())
            axis.set_xticks(ticks, [f"{t}" if by == "depth" else f"×{t}" for t in ticks])
            axis.minorticks_off()
            if chance:
                axis.axhline(chance, color="0.5", ls=":", lw=1.2, label="chance")
            narrow = part.loc[part["width"].idxmin()]
            network_ = narrow["network"].partition(" ×")[0]
            axis.set_xlabel(
                f"depth (width ×{narrow['width']})" if by == "depth" else f"width ({network_})"
            )
        axes[0, 0].set_ylabel("test accuracy (%)")
        axes[0, 0].set_ylim(0, 100)
        _legend_above(figure, axes[0], 4, scale_of(shown))
    return figure


def curves(
    records: Sequence[Record],
    panels: Mapping[str, Arms] | None = None,
    metric: str = "test_accuracy",
) -> Figure:
    """A metric against the epoch: thin lines are seeds, thick lines their means.

    Args:
        records: the runs.
        panels: title → arms; default one panel per network and one arm per policy.
        metric: a column of the records' curves: ``test_accuracy``, ``train_accuracy`` or
            ``clipped``.
    """
    shown = ended(records)
    if panels is None:
        order = frame(shown).sort_values(["width", "depth"])["model"].unique()
        policies = _policies(shown)
        panels = {
            network(model): {name: arm | {"model": model} for name, arm in policies.items()}
            for model in order
        }
    found = {
        title: {name: runs for name, arm in arms.items() if (runs := _with(shown, arm, metric))}
        for title, arms in panels.items()
    }
    used = [run for arms in found.values() for runs in arms.values() for run in runs]
    if not used:
        return _no_records()
    factor, label = (1, "share clipped") if metric == "clipped" else (100, _PERCENT[metric])
    shape: Any = {"figsize": (3.3 * len(panels) if len(panels) > 1 else 7.6, 3.8)}
    with _drawing(1, len(panels), sharey=True, squeeze=False, **shape) as (figure, axes):
        for axis, (title, arms) in zip(axes[0], panels.items(), strict=True):
            for (name, _), colour in zip(arms.items(), _colours(arms), strict=True):
                lines = [
                    factor * pd.DataFrame(run.curve).set_index("epoch")[metric].dropna()
                    for run in found[title].get(name, [])
                ]
                if not lines:
                    continue
                for line in lines:
                    axis.plot(line.index, line, color=colour, lw=0.8, alpha=0.5)
                middle = pd.concat(lines, axis=1).mean(axis=1)
                axis.plot(middle.index, middle, color=colour, lw=2, label=name)
            axis.set_title(title, fontsize=11)
            axis.set_xlabel("epoch")
        axes[0, 0].set_ylabel(label)
        axes[0, 0].set_ylim(0, factor)
        _legend_above(figure, axes[0], note=scale_of(used))
    return figure


_PERCENT = {"test_accuracy": "test accuracy (%)", "train_accuracy": "training accuracy (%)"}


def _with(records: Sequence[Record], arm: Mapping[str, Any], metric: str) -> list[Record]:
    """The runs of an arm that recorded the metric by epoch."""
    return [r for r in runs_of(records, arm) if any(metric in row for row in r.curve)]


def dots(records: Sequence[Record], arms: Arms, title: str = "") -> Figure:
    """Final test accuracy, one row per arm: one dot per seed, a line at the mean, a cross if it
    diverged.

    Arms that were not run are left out; what is shown says how many seeds it has.
    """
    found = {name: runs_of(records, settings) for name, settings in arms.items()}
    found = {name: runs for name, runs in found.items() if runs}
    used = [r for runs in found.values() for r in runs]
    if not used:
        return _no_records()
    chance = _chance(used)
    with _drawing(figsize=(5.8, 0.9 + 0.42 * len(found))) as (figure, axis):
        for row, runs in enumerate(found.values()):
            values = [100 * value(r, "test_accuracy") for r in runs]
            for run, accuracy_ in zip(runs, values, strict=True):
                diverged = run.status == "diverged"
                axis.plot(accuracy_, row, "x" if diverged else "o", ms=8, mew=2 if diverged else 0,
                          color=_PALETTE[1] if diverged else _PALETTE[0], alpha=0.75)  # fmt: skip
            mean = sum(values) / len(values)
            axis.plot([mean, mean], [row - 0.3, row + 0.3], color="0.25", lw=2)
        labels = [f"{name}  (n = {len(runs)})" for name, runs in found.items()]
        axis.set_yticks(range(len(found)), labels)
        axis.invert_yaxis()
        if chance:
            axis.axvline(chance, color="0.5", ls=":", lw=1.2)
        axis.set_xlim(left=0)
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
        axis.set_xlabel(
            "test accuracy (%); " + "dotted: chance; " * bool(chance) + "cross: diverged"
        )
        axis.set_title(title, fontsize=11, loc="left")
        below: Any = {"xytext": (0, -42), "textcoords": "offset points", "annotation_clip": False}
        axis.annotate(scale_of(used), (1, 0), xycoords="axes fraction", ha="right", va="top",
                      fontsize=9, color="0.35", **below)  # fmt: skip
    return figure


def sweep(
    records: Sequence[Record],
    arms: Arms,
    by: str,
    label: str = "",
    title: str = "",
    levels: Arms | None = None,
) -> Figure:
    """Final test accuracy against a setting (log scale): one line per arm, one dot per seed.

    A cross is a run that diverged.

    Args:
        records: the runs.
        arms: a line each.
        by: a setting of :class:`~nbrepro.spec.Spec` with a number.
        label: of the axis; default the setting's name.
        title: above the figure.
        levels: arms that do not have the setting; a dashed line each, at the mean.
    """
    found = {name: runs_of(records, settings) for name, settings in arms.items()}
    used = [run for runs in found.values() for run in runs]
    if not used:
        return _no_records()
    chance = _chance(used)
    with _drawing(figsize=(7.6, 4.2)) as (figure, axis):
        for colour, (name, runs) in zip(_colours(arms), found.items(), strict=True):
            if not runs:
                continue
            table = frame(runs)
            means = table.groupby(by)["accuracy"].mean()
            axis.plot(means.index, means, "-", color=colour, lw=2, label=name)
            for status, mark in (("completed", "o"), ("diverged", "x")):
                part = table[table["status"] == status]
                axis.plot(part[by], part["accuracy"], mark, color=colour, ms=7, alpha=0.7,
                          mew=2 if mark == "x" else 0)  # fmt: skip
        for colour, (name, settings) in zip(_PALETTE, (levels or {}).items(), strict=False):
            runs = runs_of(records, settings)
            if runs:
                mean = 100 * sum(value(r, "test_accuracy") for r in runs) / len(runs)
                axis.axhline(mean, color=colour, ls="--", lw=1.5, label=f"{name} (n = {len(runs)})")
        axis.set_xscale("log", base=2)
        ticks = sorted({getattr(r.spec, by) for r in used})
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        if chance:
            axis.axhline(chance, color="0.5", ls=":", lw=1.2)
        axis.set_ylim(bottom=0)
        axis.set_xlabel(label or by)
        axis.set_ylabel("test accuracy (%)")
        axis.set_title(title, fontsize=11, loc="left")
        if levels:
            axis.legend(frameon=False, fontsize=9, ncols=2, loc="lower left",
                        bbox_to_anchor=(-0.1, 1))  # fmt: skip
        else:
            axis.legend(frameon=False, fontsize=10)
        _footnote(figure, scale_of(used))
    return figure


# --- figures of measurements ---


def signal_propagation(
    networks: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    theory: str | None = None,
    logarithmic: bool = True,
) -> Figure:
    """Signal propagation plots (2101.08692, Figure 1): three statistics against depth.

    Args:
        networks: name → rows of :func:`nbrepro.probes.signal_propagation`.
        theory: the network whose expected variance is drawn as a dashed line.
        logarithmic: scale of the two variances and the squared mean; means below 1e-4 fall off it.
    """
    panels = {
        "squared_mean": "squared mean of the channels",
        "variance": "variance of the channels",
        "branch_variance": "variance at the end of the branch",
    }
    with _drawing(1, 3, figsize=(11, 3.6)) as (figure, axes):
        colours = sns.color_palette("colorblind", len(networks))
        for axis, (column, title) in zip(axes, panels.items(), strict=True):
            for colour, (name, rows) in zip(colours, networks.items(), strict=True):
                axis.plot([row["block"] for row in rows], [row[column] for row in rows],
                          color=colour, lw=1.8, label=name)  # fmt: skip
            axis.set_title(title, fontsize=11)
            axis.set_xlabel("residual block")
            if logarithmic:
                axis.set_yscale("log")
        if logarithmic:
            axes[0].set_ylim(bottom=1e-4)
        if theory is not None:
            expected = [row["expected_variance"] for row in networks[theory]]
            axes[1].plot([row["block"] for row in networks[theory]], expected, "k--", lw=1)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=3, frameon=False, fontsize=10)
        figure.tight_layout(rect=(0, 0, 1, 0.86))
    return figure


def influence(networks: Mapping[str, "Tensor"]) -> Figure:
    """How much each image of a batch moves each output: one matrix ``[output, image]`` per network.

    Log scale, relative to the diagonal; entries that are exactly zero stay blank.
    """
    with _drawing(1, len(networks), figsize=(7.5, 3.4), layout="constrained", squeeze=False) as (
        figure,
        axes,
    ):
        for axis, (name, share) in zip(axes[0], networks.items(), strict=True):
            drawn = axis.imshow(share, norm="log", vmin=1e-2, vmax=1)
            axis.set(title=name, xlabel="image $j$", ylabel="output $i$")
            axis.spines[["top", "right"]].set_visible(True)
        figure.colorbar(drawn, ax=axes, label="influence, relative to its own")
    return figure


def clipped_shares(shares: pd.DataFrame, title: str) -> Figure:
    """Heat map of the share of units clipped: one row per kind of parameter, one column per step.

    Args:
        shares: rows of :func:`nbrepro.probes.clip_fraction` with their ``step``.
        title: above the figure.
    """
    kinds = shares["name"].str.rsplit(".").str[-1].map(lambda kind: _PLURALS.get(kind, f"{kind}s"))
    rows = shares.assign(row=shares["part"] + ", " + kinds)
    table = rows.pivot_table(index="row", columns="step", values="share", sort=False)
    order = [f"{part}, {kind}" for part in shares["part"].unique() for kind in _KINDS]
    with _drawing(figsize=(9, 4.6)) as (figure, axis):
        sns.heatmap(table.reindex([row for row in order if row in table.index]), vmin=0, vmax=1,
                    cmap="Blues", xticklabels=6, cbar_kws={"label": "share of units clipped"},
                    ax=axis)  # fmt: skip
        axis.set(xlabel="step", ylabel="")
        axis.set_title(title, fontsize=11)
        axis.tick_params(axis="y", rotation=0)
    return figure


_KINDS = ("weights", "gains", "biases")
_PLURALS = {"bias": "biases"}


def skip_bounds(paths: Mapping[str, Sequence[float]]) -> Figure:
    """The largest value that a clipped parameter can have, against the share of training done.

    Args:
        paths: name → the bound after each step. The first one is drawn in grey.
    """
    with _drawing(figsize=(7.6, 4.2)) as (figure, axis):
        for colour, (name, path) in zip(["0.35", *_PALETTE], paths.items(), strict=False):
            done = [step / len(path) for step in range(1, len(path) + 1)]
            axis.plot(done, [min(w, 1e6) for w in path], color=colour, lw=2, label=name)
        for level in (0.1, 1):
            axis.axhline(level, color="0.5", ls=":", lw=1.2)
        axis.set(yscale="log", xlabel="share of training done", ylabel="largest possible |w|")
        axis.set(ylim=(1e-5, 1e3), xlim=(0, 1))
        _legend_below(axis)
    return figure


def skip_gains(
    free: pd.DataFrame, clipped: pd.DataFrame, bound: Sequence[float], title: str
) -> Figure:
    """SkipInit's scalars step by step, with and without clipping, and the largest clipping allows.

    Args:
        free: one row per step, one column per block, left unclipped.
        clipped: the same, clipped.
        bound: after each step.
        title: above the figure.
    """
    with _drawing(figsize=(7.6, 4.2)) as (figure, axis):
        for number, (colour, block) in enumerate(zip(_PALETTE, free.columns, strict=False), 1):
            name = f"block {number}"
            axis.plot(free[block].abs(), "--", color=colour, label=f"{name}, free")
            axis.plot(clipped[block].abs(), "-", color=colour, lw=2, label=f"{name}, clipped")
        axis.plot(free.index, bound, ":", color="0.25", lw=2, label="the bound")
        axis.set(yscale="log", ylim=(1e-5, 1e2), xlabel="step", ylabel="|SkipInit|")
        axis.set_title(title, fontsize=11, loc="left")
        _legend_below(axis)
    return figure


def _legend_below(axis: Any) -> None:
    axis.legend(frameon=False, fontsize=9, ncols=2, loc="upper left", bbox_to_anchor=(-0.1, -0.14))


# --- figures of the NFNets' chapter ---


def stages(sides: Sequence[int], widths: Sequence[int], betas: Sequence[Sequence[float]]) -> Figure:
    """The stages of a residual network: one box per block, and β of each block below.

    Args:
        sides: of each stage's feature map, in pixels.
        widths: of each stage, in channels.
        betas: of each block of each stage.
    """
    with _drawing(2, 1, figsize=(9, 4.6), sharex=True, height_ratios=(2, 1)) as (figure, axes):
        top, bottom = axes
        x = 0.0
        for number, (side, width, stage) in enumerate(zip(sides, widths, betas, strict=True)):
            start, wide, colour = x, width / 400, _PALETTE[number]
            for beta in stage:
                top.bar(x, side, wide, align="edge", color=colour, edgecolor="white")
                bottom.plot([x, x + wide], [beta, beta], color=colour, lw=3)
                x += wide
            top.text((start + x) / 2, side + 2, f"stage {number + 1}\n{width}",
                     ha="center", fontsize=10, color=colour)  # fmt: skip
            x += 2.2
        top.set_xlim(-1.5, x - 1)
        top.set_ylabel("side of the map\n(pixels)")
        top.set_ylim(0, max(sides) * 1.375)
        bottom.set_ylabel("β")
        bottom.set_xticks([])
        bottom.set_xlabel("residual blocks, from input to output; width: channels")
        figure.tight_layout()
    return figure


def trade_offs(
    families: Mapping[str, Mapping[str, Sequence[float]]],
    hollow: str,
    costs: Sequence[str],
    named: Mapping[str, Mapping[str, tuple[float, float]]],
    note: str,
) -> Figure:
    """Accuracy against several costs (log scales), one panel per cost, one line per family.

    Args:
        families: family → network → its costs, then its top-1 accuracy in percent.
        hollow: the family that is drawn as hollow markers in the colour of the first one.
        costs: labels of the axes.
        named: family → network whose name is shown → where, in points from the marker.
        note: where the values are from.
    """
    with _drawing(1, len(costs), figsize=(9.5, 3.9), sharey=True) as (figure, axes):
        for column, (axis, label) in enumerate(zip(axes, costs, strict=True)):
            for (name, rows), colour, mark in zip(
                families.items(), _PALETTE, "os^Dv", strict=False
            ):
                prices = [row[column] for row in rows.values()]
                tops = [row[-1] for row in rows.values()]
                if name == hollow:
                    axis.plot(prices, tops, "o", mfc="none", color=_PALETTE[0], label=name)
                else:
                    axis.plot(prices, tops, "-", marker=mark, color=colour, label=name)
                for known, offset in named.get(name, {}).items():
                    axis.annotate(known, (rows[known][column], rows[known][-1]), offset,
                                  textcoords="offset points", fontsize=10, color="0.3")  # fmt: skip
            axis.set_xscale("log")
            axis.set_xlabel(label)
        axes[0].set_ylabel("ImageNet top-1 (%)")
        axes[0].set_ylim(76.5, 87.5)
        _legend_above(figure, axes)
        _footnote(figure, note)
    return figure


def ladder(
    steps: Mapping[str, Sequence[float]],
    twin: Sequence[float],
    networks: Sequence[str],
    augmentation_from: int,
    note: str,
) -> Figure:
    """Printed accuracy as a recipe grows, one line per network, and its twin with BatchNorm.

    Args:
        steps: name of each step → top-1 of each network, in percent.
        twin: the full recipe with BatchNorm instead.
        networks: their names.
        augmentation_from: number of the last step of the architecture.
        note: where the values are from.
    """
    last = len(steps) - 1
    with _drawing(figsize=(8.6, 4.1)) as (figure, axis):
        for column, name in enumerate(networks):
            colour = _PALETTE[column]
            heights = [row[column] for row in steps.values()]
            axis.plot(heights, "o-", color=colour, label=name)
            axis.plot(len(steps), twin[column], "D", mfc="none", mew=1.8, color=colour)
        axis.axvspan(augmentation_from, last, color="0.94", zorder=0)
        axis.text((augmentation_from + last) / 2, 80.3, "augmentation", ha="center", color="0.4")
        axis.text(augmentation_from / 2, 80.0, "architecture", ha="center", color="0.4")
        axis.set_xticks(range(len(steps) + 1), [*steps, "BatchNorm\ninstead"])
        axis.set_ylabel("ImageNet top-1 (%)")
        axis.legend(frameon=False, ncols=len(networks), loc="upper left")
        axis.set_ylim(79.6, 86.6)
        _footnote(figure, note)
        figure.tight_layout()
    return figure


def pictures(grid: Mapping[str, "Tensor"], note: str) -> Figure:
    """Pictures in rows, every fourth pixel of each.

    Args:
        grid: name of the row → images ``[n, 3, height, width]``, uint8 or floats from 0 to 255.
        note: small print below.
    """
    columns = len(next(iter(grid.values())))
    with _drawing(len(grid), columns, figsize=(7.6, 1.12 * len(grid)), squeeze=False) as (
        figure,
        axes,
    ):
        for row, (name, images) in zip(axes, grid.items(), strict=True):
            for axis, image in zip(row, images.byte(), strict=True):
                axis.imshow(image.permute(1, 2, 0)[::4, ::4].numpy())
                axis.set_xticks([])
                axis.set_yticks([])
                axis.spines[["top", "right"]].set_visible(True)
            row[0].set_ylabel(name, rotation=0, ha="right", va="center")
        _footnote(figure, note)
        figure.tight_layout(pad=0.4)
    return figure

"""Every plot of the book, drawn from records and measurements alone."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from nbrepro.claims.labels import TRAINED, network, trained
from nbrepro.claims.verdicts import matches, value
from nbrepro.records.ledger import Record
from nbrepro.spec import Spec

_COLOURS = dict(zip(TRAINED, sns.color_palette("colorblind", len(TRAINED)), strict=True))
_STYLE: Any = {
    "figure.dpi": 110,
    "savefig.bbox": "tight",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 11,
}


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a run: settings, final metrics and ``untrained_accuracy``; accuracies in percent."""
    rows = []
    for record in records:
        size = re.search(r"(\d+)b?(?:x(\d+))?$", record.spec.model)
        rows.append(
            {
                **record.spec.to_dict(),
                "unclipped": ", ".join(record.spec.unclipped),
                "network": network(record.spec.model),
                "depth": int(size[1]) if size else 0,
                "width": int(size[2] or 1) if size else 1,
                "trained": trained(record.spec.train),
                "status": record.status,
                "accuracy": 100 * value(record, "test_accuracy"),
                "top5": 100 * value(record, "test_top5"),
                "untrained": 100 * value(record, "untrained_accuracy"),
            }
        )
    return pd.DataFrame(rows)


def scale_of(records: Sequence[Record]) -> str:
    """``cifar10-jpeg, 8 epochs, n = 2 to 3 seeds``: what every caption must say."""
    table = frame(records)
    settings = [c for c in Spec.__dataclass_fields__ if c not in ("seed", "milestones")]
    seeds = table.groupby(settings, dropna=False).size()
    fewest, most = seeds.min(), seeds.max()
    n = f"n = {most}" if fewest == most else f"n = {fewest} to {most}"
    datasets = " and ".join(sorted(table["dataset"].unique()))
    epochs = " or ".join(str(e) for e in sorted(table["epochs"].unique()))
    return f"{datasets}, {epochs} epochs, {n} seed{'s' if most > 1 else ''}"


def accuracy(records: Sequence[Record]) -> Figure:
    """Test accuracy against depth (left) and width (right): a dot a seed, lines through means."""
    table = frame(records)
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), sharey=True)
        for axis, by, part in (
            (axes[0], "depth", table[table["width"] == 1]),
            (axes[1], "width", table[table["depth"] == 14]),
        ):
            for policy, colour in _COLOURS.items():
                runs = part[part["train"] == policy]
                axis.plot(runs[by], runs["accuracy"], "o", color=colour, alpha=0.55, mew=0)
                means = runs.groupby(by)["accuracy"].mean()
                axis.plot(means.index, means, "-", color=colour, lw=2, label=trained(policy))
            axis.set_xscale("log", base=2)
            ticks = sorted(part[by].unique())
            axis.set_xticks(ticks, [f"{t}" if by == "depth" else f"×{t}" for t in ticks])
            axis.minorticks_off()
            axis.axhline(10, color="0.5", ls=":", lw=1.2, label="chance")
            axis.set_xlabel("depth (width ×1)" if by == "depth" else "width (ResNet-14)")
        axes[0].set_ylabel("test accuracy (%)")
        axes[0].set_ylim(0, 100)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=4, frameon=False)
        figure.suptitle(scale_of(records), y=0.02, fontsize=10, color="0.35")
        figure.tight_layout(rect=(0, 0.03, 1, 0.92))
    plt.close(figure)
    return figure


def curves(records: Sequence[Record]) -> Figure:
    """Test accuracy against epoch, a panel a network: thin lines are seeds, thick lines means."""
    order = frame(records).sort_values(["width", "depth"])
    names = list(order["model"].unique())
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            1, len(names), figsize=(3.3 * len(names), 3.6), sharey=True, squeeze=False
        )
        for axis, model in zip(axes[0], names, strict=True):
            for policy, colour in _COLOURS.items():
                runs = [r for r in records if (r.spec.model, r.spec.train) == (model, policy)]
                if not runs:
                    continue
                rows = pd.concat(
                    [pd.DataFrame(r.curve).assign(seed=r.spec.seed) for r in runs],
                    ignore_index=True,
                )
                rows["accuracy"] = 100 * rows["test_accuracy"]
                for _, run in rows.groupby("seed"):
                    axis.plot(run["epoch"], run["accuracy"], color=colour, lw=0.8, alpha=0.5)
                mean = rows.groupby("epoch")["accuracy"].mean()
                axis.plot(mean.index, mean, color=colour, lw=2, label=trained(policy))
            axis.set_title(network(model), fontsize=11)
            axis.set_xlabel("epoch")
        axes[0, 0].set_ylabel("test accuracy (%)")
        axes[0, 0].set_ylim(0, 100)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=3, frameon=False)
        figure.suptitle(scale_of(records), y=0.02, fontsize=10, color="0.35")
        figure.tight_layout(rect=(0, 0.03, 1, 0.9))
    plt.close(figure)
    return figure


#: Reader's name → the settings of the runs it stands for, as in a claim's rule.
Arms = Mapping[str, Mapping[str, Any]]


def runs_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Record]:
    """The records whose spec has all these settings."""
    return [r for r in records if matches(r.spec, settings)]


def dots(records: Sequence[Record], arms: Arms, title: str = "") -> Figure:
    """Final test accuracy, a row an arm: a dot a seed, a line at the mean, a cross if it diverged.

    Arms that were not run are left out; what is shown says how many seeds it has.
    """
    found = {name: runs_of(records, settings) for name, settings in arms.items()}
    found = {name: runs for name, runs in found.items() if runs}
    with plt.rc_context(_STYLE):
        figure, axis = plt.subplots(figsize=(5.8, 0.9 + 0.42 * max(1, len(found))))
        colours = sns.color_palette("colorblind", 3)
        for row, runs in enumerate(found.values()):
            values = [100 * value(r, "test_accuracy") for r in runs]
            for run, accuracy_ in zip(runs, values, strict=True):
                diverged = run.status == "diverged"
                axis.plot(accuracy_, row, "x" if diverged else "o", ms=8, mew=2 if diverged else 0,
                          color=colours[1] if diverged else colours[0], alpha=0.75)  # fmt: skip
            mean = sum(values) / len(values)
            axis.plot([mean, mean], [row - 0.3, row + 0.3], color="0.25", lw=2)
        labels = [f"{name}  (n = {len(runs)})" for name, runs in found.items()]
        axis.set_yticks(range(len(found)), labels)
        axis.invert_yaxis()
        axis.axvline(10, color="0.5", ls=":", lw=1.2)
        axis.set_xlim(left=0)
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
        axis.set_xlabel("test accuracy (%); dotted: chance; cross: diverged")
        axis.set_title(title, fontsize=11, loc="left")
        used = [r for runs in found.values() for r in runs]
        if used:
            below: Any = {
                "xytext": (0, -42),
                "textcoords": "offset points",
                "annotation_clip": False,
            }
            axis.annotate(scale_of(used), (1, 0), xycoords="axes fraction", ha="right", va="top",
                          fontsize=9, color="0.35", **below)  # fmt: skip
    plt.close(figure)
    return figure


def sweep(
    records: Sequence[Record], arms: Arms, by: str, label: str = "", title: str = ""
) -> Figure:
    """Final test accuracy against a setting (log scale), a line an arm, a dot a seed.

    A cross is a run that diverged.
    """
    with plt.rc_context(_STYLE):
        figure, axis = plt.subplots(figsize=(7.6, 4.2))
        colours = sns.color_palette("colorblind", len(arms))
        used: list[Record] = []
        for colour, (name, settings) in zip(colours, arms.items(), strict=True):
            runs = runs_of(records, settings)
            used += runs
            table = frame(runs)
            if not len(table):
                continue
            means = table.groupby(by)["accuracy"].mean()
            axis.plot(means.index, means, "-", color=colour, lw=2, label=name)
            for ended, mark in (("completed", "o"), ("diverged", "x")):
                part = table[table["status"] == ended]
                axis.plot(part[by], part["accuracy"], mark, color=colour, ms=7, alpha=0.7,
                          mew=2 if mark == "x" else 0)  # fmt: skip
        axis.set_xscale("log", base=2)
        ticks = sorted({getattr(r.spec, by) for r in used})
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.axhline(10, color="0.5", ls=":", lw=1.2)
        axis.set_ylim(bottom=0)
        axis.set_xlabel(label or by)
        axis.set_ylabel("test accuracy (%)")
        axis.set_title(title, fontsize=11, loc="left")
        if used:
            axis.legend(frameon=False, fontsize=10)
            figure.text(0.99, -0.02, scale_of(used), ha="right", va="top", fontsize=9, color="0.35")
    plt.close(figure)
    return figure


def signal_propagation(
    networks: Mapping[str, Sequence[Mapping[str, Any]]], *, logarithmic: bool = True
) -> Figure:
    """Signal propagation plots (2101.08692, Figure 1): three statistics against depth.

    Args:
        networks: name → rows of :func:`nbrepro.probes.signal_propagation`.
        logarithmic: scale of the two variances and the squared mean.
    """
    panels = {
        "squared_mean": "squared mean of the channels",
        "variance": "variance of the channels",
        "branch_variance": "variance at the end of the branch",
    }
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(11, 3.6))
        colours = sns.color_palette("colorblind", len(networks))
        for axis, (column, title) in zip(axes, panels.items(), strict=True):
            for colour, (name, rows) in zip(colours, networks.items(), strict=True):
                axis.plot([row["block"] for row in rows], [row[column] for row in rows],
                          color=colour, lw=1.8, label=name)  # fmt: skip
            axis.set_title(title, fontsize=11)
            axis.set_xlabel("residual block")
            if logarithmic:
                axis.set_yscale("log")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncols=3, frameon=False, fontsize=10)
        figure.tight_layout(rect=(0, 0, 1, 0.86))
    plt.close(figure)
    return figure

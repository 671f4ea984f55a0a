"""Every plot of the book, drawn from records alone."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from nbrepro.claims.verdicts import value
from nbrepro.ledger import Record
from nbrepro.models import cifar_resnet
from nbrepro.names import TRAINED, network, trained

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
        blocks, width = cifar_resnet.parse(record.spec.model)
        rows.append(
            {
                "model": record.spec.model,
                "network": network(record.spec.model),
                "depth": 6 * blocks + 2,
                "width": width,
                "train": record.spec.train,
                "trained": trained(record.spec.train),
                "dataset": record.spec.dataset,
                "epochs": record.spec.epochs,
                "seed": record.spec.seed,
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
    seeds = table.groupby(["model", "train"]).size()
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
    names = sorted(
        {r.spec.model for r in records}, key=lambda m: (cifar_resnet.parse(m)[1], len(m), m)
    )
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

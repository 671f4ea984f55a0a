"""What chapters 9 and 10 ask of the records: arms, and what trained networks have made of γ.

Figures are made by :mod:`nbrepro.book.figures`, sentences by :mod:`nbrepro.book.found`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from nbrepro.book.interactive import GammaCurve
from nbrepro.claims.labels import network
from nbrepro.records import features
from nbrepro.records.features import Features
from nbrepro.records.ledger import Record

if TYPE_CHECKING:
    from IPython.display import HTML

#: The start and the rate that every arm has which does not say otherwise.
RECIPE = {
    "weight_init": "kaiming_normal",
    "batchnorm_init": "uniform",
    "lr": 0.1,
    "weight_decay": 1e-4,
    "decay": "all",
}
USUAL = {"model": "cifar_resnet14", **RECIPE}
AFFINE = {**USUAL, "train": "batchnorm"}
#: Chapter 10's two ways to train a network, by readers' names.
KINDS = {"BatchNorm only": "batchnorm", "all parameters": "all"}


def parts() -> dict[str, dict[str, Any]]:
    """What may be trained, by readers' names."""
    policies = {
        "γ and β": "batchnorm",
        "γ only": "gamma",
        "β only": "beta",
        "two random weights per channel": "random:2",
        "four random weights per channel": "random:4",
        "output layer only": "output",
        "shortcuts only": "shortcut",
        "output layer and shortcuts": "output+shortcut",
        "γ, β and output layer": "batchnorm+output",
        "two random weights and output layer": "random:2+output",
        "γ, β, output layer and shortcuts": "batchnorm+output+shortcut",
        "all but γ and β": "output+shortcut+other",
        "everything": "all",
    }
    return {name: {**USUAL, "train": policy} for name, policy in policies.items()}


def starts() -> dict[str, dict[str, Any]]:
    """Where γ and β may start, by readers' names."""
    named = {
        "γ from [0, 1), β = 0": "uniform",
        "γ = 1, β = 0": "fixed",
        "γ = 1, β = 1": "oneone",
        "γ from [−1, 1), β = 0": "positivenegative",
    }
    return _varied("batchnorm_init", named)


def weights() -> dict[str, dict[str, Any]]:
    """How the frozen weights may be drawn, by readers' names."""
    named = {
        "normal": "kaiming_normal",
        "uniform": "kaiming_uniform",
        "orthogonal": "orthogonal",
        "binary": "binary",
    }
    return _varied("weight_init", named)


def rates() -> dict[str, dict[str, Any]]:
    """The recipe's rate, and a third and three times of it."""
    return _varied("lr", {f"rate {rate:g}": rate for rate in (0.03, 0.1, 0.3)})


def larger() -> dict[str, dict[str, Any]]:
    """γ and β, and as many random weights, in ResNet-14 and in larger networks."""
    policies = {"γ and β": "batchnorm", "two random weights": "random:2"}
    return {
        f"{network(model)}: {name}": {**RECIPE, "model": model, "train": policy}
        for model in ("cifar_resnet14", "cifar_resnet14x2", "cifar_resnet32")
        for name, policy in policies.items()
    }


def others() -> dict[str, dict[str, Any]]:
    """What is trained in a network without BatchNorm, its twin and a plain one."""
    without, twin, plain = (
        {**RECIPE, "model": model}
        for model in ("cifar_nf_resnet14", "bn_cifar_nf_resnet14", "cifar_vgg11")
    )
    return {
        "BatchNorm twin: γ and β": {**twin, "train": "batchnorm+output"},
        "BatchNorm twin: two random weights": {**twin, "train": "random:2+output"},
        "BatchNorm twin: output layer": {**twin, "train": "output"},
        "without BatchNorm: gains and biases": {**without, "train": "affine+output"},
        "without BatchNorm: two random weights": {**without, "train": "random:2+output"},
        "without BatchNorm: output layer": {**without, "train": "output"},
        "VGG-11: γ and β": {**plain, "train": "batchnorm"},
        "VGG-11: two random weights": {**plain, "train": "random:2"},
        "VGG-11: output layer": {**plain, "train": "output"},
    }


def sizes(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The runs of every network with the usual recipe, by network and by what is trained."""
    return {
        f"{network(model)}, {name}": runs
        for model in dict.fromkeys(record.spec.model for record in records)
        for name, runs in _by_kind(records, {**USUAL, "model": model}).items()
    }


def _by_kind(records: Sequence[Record], settings: Mapping[str, Any]) -> dict[str, list[Record]]:
    """The runs with these settings by what is trained, see :data:`KINDS`."""
    from nbrepro.book.figures import runs_of

    return {name: runs_of(records, {**settings, "train": policy}) for name, policy in KINDS.items()}


def _varied(setting: str, named: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """γ and β trained, with another value of one setting."""
    return {name: {**AFFINE, setting: value} for name, value in named.items()}


def learnt(
    records: Sequence[Record], settings: Mapping[str, Any] = USUAL
) -> dict[str, list[Features]]:
    """``BatchNorm only`` and ``all parameters`` → what these runs have learnt, in order of seeds.

    Args:
        records: the runs; those that kept no features are left out.
        settings: of the runs, beside what is trained.
    """
    return _kept(_by_kind(records, settings))


def _kept(runs: Mapping[str, Sequence[Record]]) -> dict[str, list[Features]]:
    """What runs have learnt, in order of seeds; arms of which nothing was kept are left out."""
    from nbrepro.book.chapter import ledger

    root = ledger().root
    found = {}
    for name, of_arm in runs.items():
        kept = [
            features.read(root, run.spec.hash)
            for run in sorted(of_arm, key=lambda run: run.spec.seed)
        ]
        found[name] = [one for one in kept if one is not None]
    return {name: kept for name, kept in found.items() if kept}


def gammas(kept: Mapping[str, Sequence[Features]]) -> dict[str, list[float]]:
    """γ of all channels and all seeds, by what was trained."""
    return {KINDS[name]: [g for one in runs for g in one.gamma] for name, runs in kept.items()}


def curves(kept: Mapping[str, Sequence[Features]]) -> dict[str, GammaCurve]:
    """Accuracy without small γ, of the first seed, by name."""
    return {f"{name}, seed 0": GammaCurve.of(runs[0]) for name, runs in kept.items()}


def mean(kept: Sequence[Features], of: Callable[[Features], float | None]) -> float:
    """The mean over seeds of a number, in percent."""
    return 100 * fmean(number for one in kept if (number := of(one)) is not None)


def _below(kept: Sequence[Features], threshold: float) -> str:
    """The share of channels with a smaller |γ|, in percent, for readers."""
    return f"{mean(kept, lambda one: one.gamma_below(threshold)):.1f}"


def shares_table(kept: Mapping[str, Sequence[Features]]) -> "HTML":
    """The share of channels with a γ below each of several thresholds, before and after training.

    γ starts anywhere between 0 and 1, so that a share t lies below t before any training.
    """
    from nbrepro.book.markup import table

    rows = [
        (f"{t:g}", f"{100 * t:g}\u00a0%", *(f"{_below(runs, t)}\u00a0%" for runs in kept.values()))
        for t in (0.001, 0.01, 0.05, 0.1)
    ]
    return table(("|γ| below", "before", *kept), rows)


def silent_table(runs: Mapping[str, Sequence[Record]]) -> "HTML":
    """How small γ is, what is switched off and what it is worth, by how a network was trained.

    Args:
        runs: name → runs; those that kept no features are left out.
    """
    from nbrepro.book.markup import table

    def row(name: str, kept: Sequence[Features]) -> tuple[str, ...]:
        lost = [loss for one in kept if (loss := one.lost(features.QUARTER)) is not None]
        return (
            f"{name} (n\u00a0=\u00a0{len(kept)})",
            f"{fmean(median(abs(g) for g in one.gamma) for one in kept):.2f}",
            _below(kept, features.OFF),
            _below(kept, features.SMALL),
            f"{mean(kept, lambda one: one.relus_off()):.0f}",
            f"{100 * fmean(lost):.1f}" if lost else "not measured",
        )

    small = (f"|γ| < {below:g}, %" for below in (features.OFF, features.SMALL))
    return table(
        ("trained", "median |γ|", *small, "ReLUs off, %", "lost"),
        [row(name, kept) for name, kept in _kept(runs).items()],
        f"ReLUs off: zero at more than {100 * features.ALWAYS:g} % of all places. Lost: points of "
        "test accuracy without the quarter of channels that has the smallest |γ|.",
    )


def variations() -> dict[str, dict[str, Any]]:
    """What chapter 10 compares: other starts, other rates, no decay; by readers' names."""
    others = {f"start {name}": arm for name, arm in starts().items() if arm != AFFINE}
    return {
        "γ and β, as above": AFFINE,
        **others,
        "three times the rate": rates()["rate 0.3"],
        "no weight decay": {**AFFINE, "weight_decay": 0.0},
        "everything": {**AFFINE, "train": "all"},
        "everything, no decay of γ and β": {**AFFINE, "train": "all", "decay": "weights"},
    }


def relus_table(kept: Mapping[str, Sequence[Features]]) -> "HTML":
    """The share of channels whose ReLU is always off, layer by layer."""
    from nbrepro.book.markup import table

    names = list(kept)
    relus = {
        name: list(zip(*(one.relus for one in runs), strict=True)) for name, runs in kept.items()
    }
    rows = []
    for place, of_seeds in enumerate(relus[names[0]]):
        behind = _behind(of_seeds[0].after)
        shares = [
            100 * fmean(x > features.ALWAYS for relu in relus[name][place] for x in relu.off)
            for name in names
        ]
        rows.append((str(place + 1), behind, *(f"{share:.0f} %" for share in shares)))
    return table(("ReLU", "behind", *names), rows)


def readings_table(runs: Mapping[str, Sequence[Record]]) -> "HTML":
    """How well β tells at how many places a ReLU is zero, by itself and in units of γ.

    Args:
        runs: name → runs in which β is trained; those that kept no features are left out.
    """
    from nbrepro.book.markup import table

    def row(name: str, kept: Sequence[Features]) -> tuple[str, ...]:
        ranks = zip(*map(_ranks, kept), strict=True)
        return (f"{name} (n\u00a0=\u00a0{len(kept)})", *(f"{fmean(rank):.2f}" for rank in ranks))

    return table(
        ("trained", "β alone", "β / |γ|"),
        [row(name, kept) for name, kept in _kept(runs).items()],
        "Rank correlation, over channels with a ReLU right behind BatchNorm, between how far below "
        "zero the column's number lies and the share of places where the ReLU is zero; 1: the "
        "number puts all channels in the right order. Mean over seeds.",
    )


def _ranks(one: Features) -> tuple[float, float]:
    """Rank correlations of −β and of −β/|γ| with the share of zeros behind the ReLU."""
    from scipy.stats import spearmanr

    off = [channel.off for channel in one.channels]
    by_beta = spearmanr([-channel.beta for channel in one.channels], off).statistic
    by_both = spearmanr([-channel.ratio for channel in one.channels], off).statistic
    return float(by_beta), float(by_both)


def _behind(layer: str) -> str:
    """What a ReLU stands behind, for readers: ``blocks.0.bn1`` → ``block 1, inside``."""
    if not layer:
        return "branch + shortcut"
    block = re.match(r"blocks\.(\d+)\.", layer)
    return f"block {int(block[1]) + 1}, inside" if block else "stem"

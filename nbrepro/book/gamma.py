"""What chapter 10 reads off trained networks: how small γ is, what is off, what it is worth.

Networks are asked through :class:`nbrepro.records.features.Features`, what was kept of them beside
their records. Figures are made by :mod:`nbrepro.book.figures`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from nbrepro.book.affine import AFFINE, USUAL, rates, starts
from nbrepro.book.interactive import GammaCurve
from nbrepro.claims.labels import network
from nbrepro.claims.register import register
from nbrepro.claims.rules import Bounds, Level, Ordered
from nbrepro.records import features
from nbrepro.records.features import Features
from nbrepro.records.ledger import Record

if TYPE_CHECKING:
    from IPython.display import HTML

#: Two ways to train a network, by readers' names.
KINDS = {"BatchNorm only": "batchnorm", "all parameters": "all"}
#: Names for the paper's own run: beside other ways to train γ and β, beside KINDS.
WHOLE, LONG = "γ and β, the paper's whole recipe", "BatchNorm only, whole recipe"
_USUAL, _NO_DECAY, _EVERYTHING = "γ and β, as above", "no weight decay", "everything"
#: The networks whose γ all start at one; of the first, β starts at zero.
_AT_ONE = ("start γ = 1, β = 0", "start γ = 1, β = 1")


# --- which networks ---


def variations() -> dict[str, dict[str, Any]]:
    """Other starts, other rates, no decay; by readers' names."""
    others = {f"start {name}": arm for name, arm in starts().items() if arm != AFFINE}
    return {
        _USUAL: AFFINE,
        **others,
        "three times the rate": rates()["rate 0.3"],
        _NO_DECAY: {**AFFINE, "weight_decay": 0.0},
        _EVERYTHING: {**AFFINE, "train": "all"},
        "everything, no decay of γ and β": {**AFFINE, "train": "all", "decay": "weights"},
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


def learnt(
    records: Sequence[Record], settings: Mapping[str, Any] = USUAL
) -> dict[str, list[Features]]:
    """``BatchNorm only`` and ``all parameters`` → what these runs have learnt, in order of seeds.

    Args:
        records: the runs; those that kept no features are left out.
        settings: of the runs, beside what is trained.
    """
    return features_of(_by_kind(records, settings))


def features_of(runs: Mapping[str, Sequence[Record]]) -> dict[str, list[Features]]:
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


# --- what is read off them ---


def gammas(kept: Mapping[str, Sequence[Features]]) -> dict[str, list[tuple[float, ...]]]:
    """γ of all channels of each network, by what was trained."""
    policies = {**KINDS, LONG: f"{KINDS['BatchNorm only']}, whole recipe"}
    return {policies[name]: [one.gamma for one in runs] for name, runs in kept.items()}


def curves(kept: Mapping[str, Sequence[Features]]) -> dict[str, GammaCurve]:
    """Accuracy without small γ, of the first seed, by name."""
    return {f"{name}, seed 0": GammaCurve.of(runs[0]) for name, runs in kept.items()}


def mean(kept: Sequence[Features], of: Callable[[Features], float | None]) -> float:
    """The mean over seeds of a number, in percent."""
    return 100 * fmean(number for one in kept if (number := of(one)) is not None)


def accuracy(one: Features) -> float:
    """The test accuracy with every γ as it was learned."""
    return one.clamped[0].accuracy


def gamma_off(one: Features, direct: bool) -> float:
    """The share of γ that are off in layers with a ReLU right behind them, or in all others."""
    behind = {relu.after for relu in one.relus if relu.after}
    own = [abs(g) for layer in one.layers if (layer.name in behind) == direct for g in layer.gamma]
    return fmean(g < features.OFF for g in own)


def relus_off(one: Features, direct: bool) -> float:
    """The share of ReLUs that are always off, of those right behind BatchNorm or of all others."""
    own = [off for relu in one.relus if bool(relu.after) == direct for off in relu.off]
    return fmean(off > features.ALWAYS for off in own)


def _median(kept: Sequence[Features]) -> float:
    """The median of |γ|, mean over seeds."""
    return fmean(median(abs(g) for g in one.gamma) for one in kept)


def _below(kept: Sequence[Features], threshold: float) -> str:
    """The share of channels with a smaller |γ|, in percent, for readers."""
    return f"{mean(kept, lambda one: one.gamma_below(threshold)):.1f}"


def _lost(kept: Sequence[Features], share: float) -> str:
    """Points of accuracy that are lost without that share of the channels, for readers."""
    return f"{_points(kept, share):z.1f}"


def _points(kept: Sequence[Features], share: float) -> float:
    """The same as a number, mean over seeds."""
    return mean(kept, lambda one: one.lost(share))


def _bounds(claim: str) -> Bounds:
    """What a claim's rule calls no loss, or more: as fractions."""
    rule = register()[claim].rule
    assert isinstance(rule, Level | Ordered)
    assert rule.between
    return rule.between


def _ranks(one: Features) -> tuple[float, float]:
    """Rank correlations of −β and of −β/|γ| with the share of zeros behind the ReLU."""
    from scipy.stats import spearmanr

    off = [channel.off for channel in one.channels]
    by_beta = spearmanr([-channel.beta for channel in one.channels], off).statistic
    by_both = spearmanr([-channel.ratio for channel in one.channels], off).statistic
    return float(by_beta), float(by_both)


# --- tables ---


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
            f"{mean(kept, accuracy):.1f}",
            f"{100 * fmean(lost):z.1f}" if lost else "not measured",
            f"{_median(kept):.2f}",
            _below(kept, features.OFF),
            _below(kept, features.SMALL),
            f"{mean(kept, lambda one: one.relus_off()):.0f}",
        )

    small = (f"|γ| <\u00a0{below:g}" for below in (features.OFF, features.SMALL))
    return table(
        ("trained", "accuracy", "lost", "median |γ|", *small, "ReLUs off"),
        [row(name, kept) for name, kept in features_of(runs).items()],
        "Accuracy and shares of channels in percent. Lost: points of test accuracy without the "
        "quarter of channels that has the smallest |γ|. ReLUs off: zero at more than "
        f"{100 * features.ALWAYS:g} % of all places.",
    )


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
        ("trained", "−β alone", "−β / |γ|"),
        [row(name, kept) for name, kept in features_of(runs).items()],
        "Rank correlation, over channels with a ReLU right behind BatchNorm, between the column's "
        "number and the share of places where the ReLU is zero; 1: the number puts all channels in "
        "the right order. Mean over seeds.",
    )


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
        rows.append((f"{place + 1}: {behind}", *(f"{share:.0f} %" for share in shares)))
    note = f"Channels whose ReLU is zero at more than {100 * features.ALWAYS:g} % of places."
    return table(("ReLU, and its place", *names), rows, note)


def _behind(layer: str) -> str:
    """What a ReLU stands behind, for readers: ``blocks.0.bn1`` → ``block 1, inside``."""
    if not layer:
        return "branch + shortcut"
    block = re.match(r"blocks\.(\d+)\.", layer)
    return f"block {int(block[1]) + 1}, inside" if block else "stem"


def places_table(kept: Mapping[str, Sequence[Features]]) -> "HTML":
    """Which γ and which ReLUs are off, by whether a sum stands between the two."""
    from nbrepro.book.markup import table

    measures: dict[str, Callable[[Features], float]] = {
        "γ: the ReLU right behind": lambda one: gamma_off(one, direct=True),
        "γ: a sum before the ReLU": lambda one: gamma_off(one, direct=False),
        "γ: all": lambda one: one.gamma_below(features.OFF),
        "ReLUs: right behind BatchNorm": lambda one: relus_off(one, direct=True),
        "ReLUs: behind a sum": lambda one: relus_off(one, direct=False),
        "ReLUs: all": lambda one: one.relus_off(),
    }
    rows = [
        (name, *(f"{mean(runs, of):.0f} %" for runs in kept.values()))
        for name, of in measures.items()
    ]
    return table(
        (
            "share that is off",
            *(f"{name} (n\u00a0=\u00a0{len(runs)})" for name, runs in kept.items()),
        ),
        rows,
        f"γ: share of channels with |γ| < {features.OFF}. ReLUs: share of channels that are zero "
        f"at more than {100 * features.ALWAYS:g} % of places. Right behind BatchNorm: in the stem "
        "and inside blocks. Behind a sum: at the end of blocks, where the shortcut is added.",
    )


# --- sentences ---


def older(runs: Sequence[Record]) -> str:
    """How many of the runs kept their γ, as a sentence; empty if all did."""
    kept = len(features_of({"": runs}).get("", []))
    if kept == len(runs):
        return ""
    others = "the other is" if len(runs) - kept == 1 else "the others are"
    return (
        f"Of the {len(runs)} runs with the whole recipe, {kept} kept their γ; {others} older than "
        "these files."
    )


def drives(kept: Mapping[str, Sequence[Features]]) -> str:
    """What drives γ to zero, as far as the networks tell: Markdown.

    It ends with what may be peculiar to the paper's start, if networks that started at one differ.

    Args:
        kept: the networks of :func:`variations`, and :data:`WHOLE`.
    """
    off = {name: _below(runs, features.OFF) for name, runs in kept.items()}
    relus = {name: mean(runs, lambda one: one.relus_off()) for name, runs in kept.items()}
    lost = {name: _points(runs, features.QUARTER) for name, runs in kept.items()}
    zero, one = _AT_ONE
    peculiar = [
        what
        for what, found, bound in (
            ("ReLUs", relus, _bounds("GB-8").low),
            ("small γ", lost, _bounds("GB-7").high),
        )
        if any(abs(found[start] - found[_USUAL]) > 100 * bound for start in _AT_ONE)
    ]
    last = (
        f" So what this page says of {' and of '.join(peculiar)} need not hold for another start."
    )
    return (
        f"- *Weight decay.* Of γ as they are drawn before training, from [0, 1), "
        f"{100 * features.OFF:g} % lie below {features.OFF}. Trained without decay, "
        f"{off[_NO_DECAY]} % end there, with it {off[_USUAL]} %.\n"
        f"- *A start close to zero.* Where all γ start at one, {off[zero]} % (β = 0) and "
        f"{off[one]} % (β = 1) end there in as many epochs.\n"
        f"- *Time and data.* After the whole recipe, 160 epochs on all of CIFAR-10 at its full "
        f"side, it is {off[WHOLE]} % instead of {off[_USUAL]} %.\n\n"
        f"And the ReLUs? Where γ starts at one, {relus[zero]:.1f} % (β = 0) and "
        f"{relus[one]:.1f} % (β = 1) of them are off; from the paper's start it is "
        f"{relus[_USUAL]:.1f} %, and {relus[_EVERYTHING]:.1f} % where everything is trained. "
        f"Without the smallest quarter of γ, the networks that started at one lose "
        f"{lost[zero]:z.1f} and {lost[one]:z.1f} points, the one with the paper's start "
        f"{lost[_USUAL]:z.1f}.{last if peculiar else ''}"
    )


def cliff(kept: Mapping[str, Sequence[Features]]) -> str:
    """What more and more of the small γ are worth: a sentence on all kinds of training.

    Another one follows if a quarter of them can be spared and half cannot, in every kind.
    """
    half = 0.5
    lost = {
        name: [_lost(runs, share) for share in (features.QUARTER, 0.4, half)]
        for name, runs in kept.items()
    }
    parts = (
        f"{name} {quarter} for a quarter of the channels, {more} for 40 %, {most} for half"
        for name, (quarter, more, most) in lost.items()
    )
    gain = any(points.startswith("-") for found in lost.values() for points in found)
    spared = 100 * _bounds("GB-7").high
    depends = all(
        _points(runs, features.QUARTER) <= spared < _points(runs, half) for runs in kept.values()
    )
    return (
        "Setting the smallest |γ| to zero costs, in points of accuracy"
        + " (negative: a gain)" * gain
        + f": {'; '.join(parts)}."
        + " How much small γ matter thus depends on which of them are called small." * depends
    )


def ranks_said(one: Features) -> str:
    """How well β, and β in units of γ, put the channels of a network in order: a sentence."""
    alone, both = _ranks(one)
    return (
        f"Rank correlation with how often the ReLU is zero: {alone:.2f} for −β alone, {both:.2f} "
        "for −β / |γ|."
    )


def sizes_said(kept: Mapping[str, Sequence[Features]]) -> str:
    """How large γ is, and how well trained the networks are in which everything is: sentences.

    Args:
        kept: the networks of :func:`sizes`.
    """
    whole = {
        name.removesuffix(", all parameters"): runs
        for name, runs in kept.items()
        if name.endswith("all parameters")
    }
    medians = ", ".join(f"{name} {_median(runs):.2f}" for name, runs in whole.items())
    reached = ", ".join(f"{name} {mean(runs, accuracy):.1f} %" for name, runs in whole.items())
    behind = "".join(
        f" {deep} is deeper than {shallow} and yet behind it: it has probably not been trained for "
        "long enough, and its γ may still move."
        for deep, shallow in _outdone_by_shallower(whole)
    )
    return (
        f"The verdict uses the share below {features.SMALL}. The median of |γ| where everything is "
        f"trained: {medians}. The accuracy: {reached}.{behind}"
    )


def _outdone_by_shallower(kept: Mapping[str, Sequence[Features]]) -> list[tuple[str, str]]:
    """Each network with the best one that is as wide and not as deep, if that is more accurate.

    Args:
        kept: networks by readers' names: ``ResNet-14 ×2``.
    """

    def size(name: str) -> tuple[int, str]:
        family, depth, width = re.split(r"(\d+)", name, maxsplit=1)
        return int(depth), family + width

    reached = {name: mean(runs, accuracy) for name, runs in kept.items()}
    found = []
    for name in kept:
        depth, kind = size(name)
        shallower = [other for other in kept if size(other)[1] == kind and size(other)[0] < depth]
        best = max(shallower, key=reached.__getitem__, default=name)
        if reached[name] < reached[best]:
            found.append((name, best))
    return found


def places_said(name: str, kept: Sequence[Features]) -> str:
    """What the table shows of one kind of training: sentences."""
    relus, small = (
        [f"{100 * fmean(of(one, direct) for one in kept):.0f}" for direct in (True, False)]
        for of in (relus_off, gamma_off)
    )
    return (
        f"{name}: {relus[0]} % of the ReLUs right behind BatchNorm are off, {relus[1]} % of those "
        f"behind a sum, and {mean(kept, lambda one: one.relus_off()):.0f} % of all. γ is near zero "
        f"at {small[0]} % of the channels with a ReLU right behind them, and at {small[1]} % of "
        "those that are added to others first. Which ReLUs the paper counts for its 30 to 40 %, "
        "we do not know."
    )

"""Signal propagation at the start of training."""

import math
from functools import cache
from itertools import pairwise
from statistics import mean
from typing import Any

import torch
from torch.nn import functional as F

from nbrepro.claims.checks import check, each, seeded
from nbrepro.models.nf_resnet import NFResNet
from nbrepro.probes import BlockSignal, mean_shift, signal_propagation


@cache
def _signal(blocks: int = 50, **options: Any) -> list[BlockSignal]:
    """Three stages of bottleneck blocks, 256 channels, 12×12 Gaussian noise, circular padding."""
    with seeded():
        return signal_propagation(_net(blocks, **options), torch.randn(16, 3, 12, 12))


def _net(blocks: int, classes: int = 10, **options: Any) -> NFResNet:
    return NFResNet(
        (blocks,) * 3,
        (256,) * 3,
        classes,
        stem_channels=256,
        images="cifar",
        padding_mode="circular",
        **options,
    )


def _branch(rows: list[BlockSignal]) -> float:
    return mean(row["branch_variance"] for row in rows)


def _ends(rows: list[BlockSignal], key: str) -> list[float]:
    """A statistic at the end of every stage."""
    last = {row["stage"]: row for row in rows}
    return [row[key] for row in last.values()]  # type: ignore[literal-required]


def _shift(rows: list[BlockSignal]) -> list[float]:
    """Squared mean over variance at the end of every stage."""
    squared, variance = _ends(rows, "squared_mean"), _ends(rows, "variance")
    return [s / v for s, v in zip(squared, variance, strict=True)]


@check
def signal_bn() -> tuple[bool, str]:
    """BatchNorm before or after ReLU: what the branch adds, and that a stage grows linearly.

    Criterion: mean branch variance within 3 % of 1 - 1/π (BN, ReLU, convolution) and of 1 (ReLU,
    BN, convolution); behind block k of a stage variance within 10 % of its start + k times that;
    the squared mean at the ends of the stages above a third of the variance in the first order,
    under a hundredth in the second.
    """
    holds, found = True, []
    for order, expected in (("bn-relu", 1 - 1 / math.pi), ("relu-bn", 1.0)):
        rows = _signal(kind="bn", order=order)
        holds &= abs(_branch(rows) / expected - 1) < 0.03
        for row in rows:
            start = 1.0 if row["stage"] == 1 else expected  # the stem's, or a projection's
            line = start + expected * ((row["block"] - 1) % 50 + 1)
            holds &= abs(row["variance"] / line - 1) < 0.1
        shift = _shift(rows)
        holds &= min(shift) > 1 / 3 if order == "bn-relu" else max(shift) < 0.01
        found.append(
            f"{order}: branch variance {_branch(rows):.3f} (theory {expected:.3f}), stages end at "
            f"{each(_ends(rows, 'variance'), '.1f')} with squared mean over variance "
            f"{each(shift)}"
        )
    return holds, f"50 blocks a stage; {'; '.join(found)}"


@check
def signal_plain() -> tuple[bool, str]:
    """Without normalization the variance grows exponentially with depth.

    Criterion: log variance is a straight line in the number of blocks (R² above 0.95) of at least
    50 % a block.
    """
    rows = _signal(16, kind="plain")
    x = torch.arange(len(rows), dtype=torch.float64)
    y = torch.tensor([row["variance"] for row in rows], dtype=torch.float64).log()
    squared = float(torch.corrcoef(torch.stack([x, y]))[0, 1]) ** 2
    growth = math.exp(
        float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    )
    return squared > 0.95 and growth >= 1.5, (
        f"{len(rows)} blocks with He's initialisation: ×{growth:.2f} a block (R² {squared:.3f}), "
        f"variance {rows[0]['variance']:.2g} after the first and {rows[-1]['variance']:.1g} after "
        "the last"
    )


@check
def signal_mean_shift() -> tuple[bool, str]:
    """With the variance rule but plain weights behind ReLU, means outgrow variances.

    Criterion: squared mean over variance exceeds 1 at the end of every stage and rises from stage
    to stage, with a mean branch variance under 0.7; with BatchNorm before ReLU it stays under 1,
    with BatchNorm behind ReLU under 0.01.
    """
    rows = _signal(alpha=1.0, skip_gain=None, standardize=False)
    shift = _shift(rows)
    before, behind = (
        max(_shift(_signal(kind="bn", order=order))) for order in ("bn-relu", "relu-bn")
    )
    holds = min(shift) > 1 and all(a < b for a, b in pairwise(shift)) and _branch(rows) < 0.7
    return holds and before < 1 and behind < 0.01, (
        f"50 blocks a stage, α = 1, no weight standardization: squared mean over variance "
        f"{shift[0]:.1f}, {shift[1]:.1f}, {shift[2]:.1f} at the ends of the stages, mean branch "
        f"variance {_branch(rows):.2f}; with BatchNorm at most {before:.2f} before ReLU and "
        f"{behind:.2f} behind it"
    )


@check
def signal_linear() -> tuple[bool, str]:
    """The mean shift comes from ReLU: without it there is none.

    Criterion: with the identity for ReLU squared mean over variance stays under 0.05 in every
    block, and the mean branch variance within 5 % of 1.
    """
    rows = _signal(alpha=1.0, skip_gain=None, standardize=False, activation="identity")
    shift = max(row["squared_mean"] / row["variance"] for row in rows)
    return shift < 0.05 and abs(_branch(rows) - 1) < 0.05, (
        f"50 blocks a stage, α = 1, no weight standardization, no ReLU: squared mean over variance "
        f"at most {shift:.3f}, mean branch variance {_branch(rows):.3f}"
    )


@check
def signal_scaled_ws() -> tuple[bool, str]:
    """With scaled weight standardization and γ the variance is as predicted and means stay at 0.

    Criterion, for α = 1 and 0.2: variance over prediction within 5 % of 1 on average and within
    10 % in every block; mean branch variance within 5 % of 1; squared mean over variance under 0.05
    in every block.
    """
    holds, found = True, []
    for alpha in (1.0, 0.2):
        rows = _signal(alpha=alpha, skip_gain=None, fold=False)
        ratios = [row["variance"] / (row["expected_variance"] or math.nan) for row in rows]
        shift = max(row["squared_mean"] / row["variance"] for row in rows)
        holds &= abs(mean(ratios) - 1) < 0.05 and max(abs(r - 1) for r in ratios) < 0.1
        holds &= abs(_branch(rows) - 1) < 0.05 and shift < 0.05
        found.append(
            f"α = {alpha:g}: stages end at {each(_ends(rows, 'variance'), '.3g')} (theory "
            f"{1 + 50 * alpha**2:g}), mean branch variance {_branch(rows):.3f}, squared mean over "
            f"variance at most {shift:.3f}"
        )
    return holds, f"50 blocks a stage; {'; '.join(found)}"


@check
def one_label() -> tuple[bool, str]:
    """Without normalization different inputs become alike, and nearly all get the same label.

    Criterion, for 64 independent noise images: plain network: mean cosine between block outputs
    above 0.9 and share of the most common of 10 labels above 0.9, on average over 100 random
    classifiers; with BatchNorm behind ReLU under 0.1 and under 0.25.
    """
    networks: dict[str, dict[str, Any]] = {
        "plain": {"kind": "plain"},
        "BatchNorm": {"kind": "bn", "order": "relu-bn"},
        "scaled weight standardization": {"skip_gain": None},
    }
    cosine, share = {}, {}
    for name, options in networks.items():
        images = torch.randn(64, 3, 8, 8)
        model = _net(16, classes=1000, **options)
        cosine[name] = mean_shift(model, images)["cosine"][-1]
        with torch.no_grad():
            labels = F.one_hot(model(images).view(64, 100, 10).argmax(dim=2), 10)
        share[name] = float(labels.float().mean(dim=0).amax(dim=1).mean())
    alike = cosine["plain"] > 0.9 and share["plain"] > 0.9
    return alike and abs(cosine["BatchNorm"]) < 0.1 and share["BatchNorm"] < 0.25, (
        "48 blocks, 64 inputs, 100 classifiers; cosine of the outputs and share of the commonest "
        "label: "
        + "; ".join(
            f"{name} {round(cosine[name], 2) + 0.0:.2f}, {100 * share[name]:.0f} %"  # no -0.00
            for name in networks
        )
    )


@check
def bn_downscales() -> tuple[bool, str]:
    """BatchNorm on the branch makes the l-th branch 1 / (l + 1) of its block's output.

    Criterion: branch variance over output variance within 10 % of 1 / (l + 1) in all 50 blocks of
    a stage that starts from variance 1.
    """
    rows = [row for row in _signal(kind="bn", order="relu-bn") if row["stage"] == 1]
    ratios = [row["branch_variance"] / row["variance"] for row in rows]
    off = max(abs(ratio * (depth + 1) - 1) for depth, ratio in enumerate(ratios, 1))
    return off < 0.1, (
        f"{ratios[0]:.3f} of the output's variance in the first block, {ratios[-1]:.4f} in the "
        f"50th (theory 0.500 and {1 / 51:.4f}); at most {100 * off:.1f} % off in between"
    )

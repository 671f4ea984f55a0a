"""Signal propagation at the start of training (arXiv 2101.08692, section 3).

The networks have three stages of equal bottleneck blocks and see Gaussian noise.
"""

import math
from functools import cache
from itertools import pairwise
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from nbrepro.claims.checks import Outcome, check, each, seeded
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


def _largest_shift(rows: list[BlockSignal]) -> float:
    """Squared mean over variance where it is largest."""
    return float(np.max([row["squared_mean"] / row["variance"] for row in rows]))


@check
def signal_bn() -> Outcome:
    """BatchNorm before and behind ReLU: branch variance, growth along a stage, mean shift.

    With BatchNorm before ReLU theory gives the branch a variance of 1 - 1/π, behind it 1, and
    block k of a stage its start + k times that; the line's error is relative, the largest over
    blocks. The shift is squared mean over variance at the ends of the stages, at its least before
    and its largest behind ReLU.
    """
    branch, shift, errors, found = {}, {}, [], []
    for order, expected in (("bn-relu", 1 - 1 / math.pi), ("relu-bn", 1.0)):
        rows = _signal(kind="bn", order=order)
        branch[order], shift[order] = _branch(rows), _shift(rows)
        for row in rows:
            start = 1.0 if row["stage"] == 1 else expected  # the stem's, or a projection's
            line = start + expected * ((row["block"] - 1) % 50 + 1)
            errors.append(abs(row["variance"] / line - 1))
        found.append(
            f"{order}: branch variance {branch[order]:.3f} (theory {expected:.3f}), stages end at "
            f"{each(_ends(rows, 'variance'), '.1f')} with squared mean over variance "
            f"{each(shift[order])}"
        )
    return Outcome(
        {
            "branch_variance_before": branch["bn-relu"],
            "branch_variance_behind": branch["relu-bn"],
            "line_error": np.max(errors),
            "shift_before": np.min(shift["bn-relu"]),
            "shift_behind": np.max(shift["relu-bn"]),
        },
        f"50 blocks a stage; {'; '.join(found)}",
    )


@check
def signal_plain() -> Outcome:
    """Growth of the variance per block without normalization, He's initialization.

    By a line through the logarithms of the variances; also R², how straight they lie.
    """
    rows = _signal(16, kind="plain")
    x = torch.arange(len(rows), dtype=torch.float64)
    y = torch.tensor([row["variance"] for row in rows], dtype=torch.float64).log()
    squared = float(torch.corrcoef(torch.stack([x, y]))[0, 1]) ** 2
    growth = math.exp(
        float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    )
    return Outcome(
        {"r_squared": squared, "growth": growth},
        f"{len(rows)} blocks with He's initialisation: ×{growth:.2f} a block (R² {squared:.3f}), "
        f"variance {rows[0]['variance']:.2g} after the first and {rows[-1]['variance']:.1g} after "
        "the last",
    )


@check
def signal_mean_shift() -> Outcome:
    """Mean shift with the variance rule, but plain weights behind ReLU; and with BatchNorm.

    The shift is squared mean over variance at the ends of the stages: its least, how much it
    grows from stage to stage at least (a ratio), and with BatchNorm before and behind ReLU its
    largest. Also the mean branch variance without BatchNorm.
    """
    rows = _signal(alpha=1.0, skip_gain=None, standardize=False)
    shift = _shift(rows)
    before, behind = (
        float(np.max(_shift(_signal(kind="bn", order=order)))) for order in ("bn-relu", "relu-bn")
    )
    return Outcome(
        {
            "shift": np.min(shift),
            "growth_per_stage": np.min([b / a for a, b in pairwise(shift)]),
            "branch_variance": _branch(rows),
            "batchnorm_before": before,
            "batchnorm_behind": behind,
        },
        f"50 blocks a stage, α = 1, no weight standardization: squared mean over variance "
        f"{shift[0]:.1f}, {shift[1]:.1f}, {shift[2]:.1f} at the ends of the stages, mean branch "
        f"variance {_branch(rows):.2f}; with BatchNorm at most {before:.2f} before ReLU and "
        f"{behind:.2f} behind it",
    )


@check
def signal_linear() -> Outcome:
    """Mean shift and branch variance of the same network with the identity for ReLU.

    The shift is squared mean over variance, the largest over blocks.
    """
    rows = _signal(alpha=1.0, skip_gain=None, standardize=False, activation="identity")
    shift, branch = _largest_shift(rows), _branch(rows)
    return Outcome(
        {"shift": shift, "branch_variance": branch},
        f"50 blocks a stage, α = 1, no weight standardization, no ReLU: squared mean over variance "
        f"at most {shift:.3f}, mean branch variance {branch:.3f}",
    )


@check
def signal_scaled_ws() -> Outcome:
    """Scaled weight standardization and γ: variance against prediction, and mean shift.

    For α = 1 and 0.2, each value the larger of the two: relative error of the variance, averaged
    over blocks and in the worst one; difference of the mean branch variance from 1; squared mean
    over variance, the largest over blocks.
    """
    values: dict[str, list[float]] = {}
    found = []
    for alpha in (1.0, 0.2):
        rows = _signal(alpha=alpha, skip_gain=None, fold=False)
        errors = [row["variance"] / (row["expected_variance"] or math.nan) - 1 for row in rows]
        shift, branch = _largest_shift(rows), _branch(rows)
        for name, value in {
            "mean_error": abs(mean(errors)),
            "worst_error": float(np.max(np.abs(errors))),
            "branch_error": abs(branch - 1),
            "shift": shift,
        }.items():
            values.setdefault(name, []).append(value)
        found.append(
            f"α = {alpha:g}: stages end at {each(_ends(rows, 'variance'), '.3g')} (theory "
            f"{1 + 50 * alpha**2:g}), mean branch variance {branch:.3f}, squared mean over "
            f"variance at most {shift:.3f}"
        )
    return Outcome(
        {name: np.max(both) for name, both in values.items()},
        f"50 blocks a stage; {'; '.join(found)}",
    )


@check
def one_label() -> Outcome:
    """How alike the outputs for 64 independent noise images are (arXiv 2102.06171, section 2).

    The mean cosine between block outputs, and the share of the most common of 10 labels on
    average over 100 random classifiers; without normalization, and with BatchNorm behind ReLU.
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
    return Outcome(
        {
            "plain_cosine": cosine["plain"],
            "plain_share": share["plain"],
            "batchnorm_cosine": cosine["BatchNorm"],
            "batchnorm_share": share["BatchNorm"],
        },
        "48 blocks, 64 inputs, 100 classifiers; cosine of the outputs and share of the commonest "
        "label: "
        + "; ".join(
            f"{name} {round(cosine[name], 2) + 0.0:.2f}, {100 * share[name]:.0f} %"  # no -0.00
            for name in networks
        ),
    )


@check
def bn_downscales() -> Outcome:
    """Branch over output variance with BatchNorm on the branch, block l against 1 / (l + 1).

    The largest relative error over the 50 blocks of a stage that starts from variance 1
    (arXiv 2102.06171, section 2).
    """
    rows = [row for row in _signal(kind="bn", order="relu-bn") if row["stage"] == 1]
    ratios = [row["branch_variance"] / row["variance"] for row in rows]
    error = np.max([abs(ratio * (depth + 1) - 1) for depth, ratio in enumerate(ratios, 1)])
    return Outcome(
        {"worst_error": error},
        f"{ratios[0]:.3f} of the output's variance in the first block, {ratios[-1]:.4f} in the "
        f"50th (theory 0.500 and {1 / 51:.4f}); at most {100 * error:.1f} % off in between",
    )

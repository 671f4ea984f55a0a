"""Signal propagation at the start of training (arXiv 2101.08692, section 3).

The networks have two stages of 25 equal bottleneck blocks, 150 convolutions, and see Gaussian
noise. The predictions hold on average over initializations and for many channels; so the values are
means over seeds, and the networks as small as leaves their deviations clearly within the bounds:
with 64 channels instead of 256 one network is off by 10 %, with a third stage only 2×2 pixels would
be left of the images.
"""

import math
from functools import cache
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from nbrepro.claims.checks import Outcome, check_over, seeded
from nbrepro.models.nf_resnet import NFResNet
from nbrepro.probes import BlockSignal, mean_shift, signal_propagation

_STAGES, _BLOCKS, _CHANNELS = 2, 25, 256
_SIZE = f"{_STAGES} stages of {_BLOCKS} blocks, {_CHANNELS} channels"


def _signal(**options: Any) -> list[BlockSignal]:
    """Of 8 images of 8×8 Gaussian noise; with the same seed computed once, whoever asks."""
    return _signal_of(torch.initial_seed(), **options)


@cache
def _signal_of(seed: int, **options: Any) -> list[BlockSignal]:
    with seeded(seed):
        return signal_propagation(_net(**options), torch.randn(8, 3, 8, 8))


def _net(classes: int = 10, *, padding_mode: str = "circular", **options: Any) -> NFResNet:
    return NFResNet(
        (_BLOCKS,) * _STAGES,
        (_CHANNELS,) * _STAGES,
        classes,
        stem_channels=_CHANNELS,
        images="cifar",
        padding_mode=padding_mode,
        **options,
    )


def _branch(rows: list[BlockSignal]) -> float:
    return mean(row["branch_variance"] for row in rows)


def _shift(rows: list[BlockSignal]) -> list[float]:
    """Squared mean over variance behind every block."""
    return [row["squared_mean"] / row["variance"] for row in rows]


def _ends(values: list[float]) -> list[float]:
    """Of values per block those at the end of every stage."""
    return values[_BLOCKS - 1 :: _BLOCKS]


@check_over(seeds=10)
def signal_bn() -> Outcome:
    """BatchNorm before and behind ReLU: branch variance, growth along a stage, mean shift.

    With BatchNorm before ReLU theory gives the branch a variance of 1 - 1/π, behind it 1, and
    block k of a stage its start + k times that; the line's error is relative, the largest over
    blocks. The shift is squared mean over variance at the ends of the stages, at its least before
    and its largest behind ReLU.
    """
    branch, shift, errors, last = {}, {}, [], {}
    for order, expected in (("bn-relu", 1 - 1 / math.pi), ("relu-bn", 1.0)):
        rows = _signal(kind="bn", order=order)
        branch[order], shift[order] = _branch(rows), _ends(_shift(rows))
        last[order] = rows[-1]["variance"]
        for row in rows:
            start = 1.0 if row["stage"] == 1 else expected  # the stem's, or a projection's
            line = start + expected * ((row["block"] - 1) % _BLOCKS + 1)
            errors.append(abs(row["variance"] / line - 1))
    return Outcome(
        {
            "branch_variance_before": branch["bn-relu"],
            "branch_variance_behind": branch["relu-bn"],
            "line_error": np.max(errors),
            "shift_before": np.min(shift["bn-relu"]),
            "shift_behind": np.max(shift["relu-bn"]),
        },
        f"{_SIZE}; with BatchNorm before ReLU the branch has variance "
        f"{{branch_variance_before:.3f}} (theory {1 - 1 / math.pi:.3f}), the network ends at "
        "{before:.1f}, and squared mean over variance is at least {shift_before:.2f}; behind ReLU "
        f"the branch has {{branch_variance_behind:.3f}} (theory {1:.3f}), the network ends at "
        "{behind:.1f}, and squared mean over variance is at most {shift_behind:.4f}; the variance "
        "of a block is at most {line_error:.1%} off the line",
        {"before": last["bn-relu"], "behind": last["relu-bn"]},
    )


@check_over(seeds=10)
def signal_plain() -> Outcome:
    """Growth of the variance per block without normalization, He's initialization.

    By a line through the logarithms of the variances; also R², how straight they lie.
    """
    rows = _signal(kind="plain")
    x = torch.arange(len(rows), dtype=torch.float64)
    y = torch.tensor([row["variance"] for row in rows], dtype=torch.float64).log()
    squared = float(torch.corrcoef(torch.stack([x, y]))[0, 1]) ** 2
    growth = math.exp(
        float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    )
    return Outcome(
        {"r_squared": squared, "growth": growth},
        f"{len(rows)} blocks with He's initialization: ×{{growth:.2f}} per block "
        "(R² {r_squared:.3f})",
    )


@check_over(seeds=10)
def signal_mean_shift() -> Outcome:
    """Mean shift with the variance rule, but plain weights behind ReLU; and with BatchNorm.

    The shift is squared mean over variance at the ends of the stages: its least, how much it
    grows from the first to the last (a ratio), and with BatchNorm before and behind ReLU its
    largest. Also the mean branch variance without BatchNorm.
    """
    rows = _signal(alpha=1.0, skip_gain=None, standardize=False)
    shift = _ends(_shift(rows))
    before, behind = (
        np.max(_ends(_shift(_signal(kind="bn", order=order)))) for order in ("bn-relu", "relu-bn")
    )
    return Outcome(
        {
            "shift": np.min(shift),
            "growth_per_stage": shift[-1] / shift[0],
            "branch_variance": _branch(rows),
            "batchnorm_before": before,
            "batchnorm_behind": behind,
        },
        f"{_SIZE}, α = 1, no weight standardization: squared mean over variance {{first:.1f}} and "
        "{last:.1f} at the ends of the stages, mean branch variance {branch_variance:.2f}; with "
        "BatchNorm at most {batchnorm_before:.2f} before ReLU and {batchnorm_behind:.4f} behind it",
        {"first": shift[0], "last": shift[-1]},
    )


@check_over(seeds=20)
def signal_linear() -> Outcome:
    """Mean shift and branch variance of the same network with the identity for ReLU.

    The shift is squared mean over variance, the largest over blocks. Twenty seeds, as the branch
    variance of one network deviates by 5 %, as much as the bounds allow the mean.
    """
    rows = _signal(alpha=1.0, skip_gain=None, standardize=False, activation="identity")
    return Outcome(
        {"shift": np.max(_shift(rows)), "branch_variance": _branch(rows)},
        f"{_SIZE}, α = 1, no weight standardization, no ReLU: squared mean over variance at most "
        "{shift:.3f}, mean branch variance {branch_variance:.3f}",
    )


@check_over(seeds=10)
def signal_scaled_ws() -> Outcome:
    """Scaled weight standardization and γ: variance over prediction, and mean shift.

    For α = 1 and for α = 0.2: the variance over its prediction, on average over blocks and behind
    the last one; the mean branch variance; squared mean over variance, the largest over blocks.
    """
    values: dict[str, float] = {}
    found = []
    for alpha, key in ((1.0, "1"), (0.2, "02")):
        rows = _signal(alpha=alpha, skip_gain=None, fold=False)
        ratios = [row["variance"] / (row["expected_variance"] or math.nan) for row in rows]
        values |= {
            f"variance_{key}": mean(ratios),
            f"last_variance_{key}": ratios[-1],
            f"branch_variance_{key}": _branch(rows),
            f"shift_{key}": float(np.max(_shift(rows))),
        }
        found.append(
            f"α = {alpha:g}: variance over prediction {{variance_{key}:.3f}}, behind the last "
            f"block {{last_variance_{key}:.3f}} (theory 1, where the variance is "
            f"{1 + _BLOCKS * alpha**2:g}), mean branch variance {{branch_variance_{key}:.3f}}, "
            f"squared mean over variance at most {{shift_{key}:.3f}}"
        )
    return Outcome(values, f"{_SIZE}; {'; '.join(found)}")


@check_over(seeds=10)
def signal_padding() -> Outcome:
    """What zero padding, and the stem for ImageNet, do to a signal of variance 1 and mean 0.

    The mean branch variance in the second stage, with maps of 4×4 pixels, by how convolutions are
    padded (theory 1); and, per channel, variance and squared mean of 64×64 noise behind the 7×7
    convolution and the max pooling (theory 1 and 0).
    """
    branch = {}
    for mode in ("circular", "zeros"):
        rows = _signal(alpha=1.0, skip_gain=None, fold=False, padding_mode=mode)
        branch[mode] = _branch([row for row in rows if row["stage"] == 2])
    stem = NFResNet((1,), (64,), 10, stem_channels=64, images="imagenet").stem
    with torch.no_grad():
        variance, shift = torch.var_mean(stem(torch.randn(8, 3, 64, 64)), dim=(0, 2, 3))
    return Outcome(
        {
            "circular": branch["circular"],
            "zeros": branch["zeros"],
            "variance_behind_stem": float(variance.mean()),
            "squared_mean_behind_stem": float(shift.square().mean()),
        },
        f"{_SIZE}, α = 1: mean branch variance in the second stage {{circular:.3f}} with circular "
        "padding and {zeros:.3f} with zeros (theory 1); behind the stem for ImageNet a variance of "
        "{variance_behind_stem:.2f} and a squared mean of {squared_mean_behind_stem:.2f} (theory 1 "
        "and 0)",
    )


@check_over(seeds=10)
def one_label() -> Outcome:
    """How alike the outputs for 64 independent noise images are (arXiv 2102.06171, section 2).

    The mean cosine between block outputs, and the share of the most common of 10 labels on
    average over 100 random classifiers; without normalization, and with BatchNorm behind ReLU.
    """
    networks: dict[str, dict[str, Any]] = {
        "plain": {"kind": "plain"},
        "batchnorm": {"kind": "bn", "order": "relu-bn"},
        "scaled": {"skip_gain": None},
    }
    cosine, share = {}, {}
    for name, options in networks.items():
        logits: list[torch.Tensor] = []
        model = _net(classes=1000, **options)
        model.fc.register_forward_hook(lambda *call, seen=logits: seen.append(call[2]))
        cosine[name] = mean_shift(model, torch.randn(64, 3, 4, 4))["cosine"][-1]
        labels = F.one_hot(logits[0].view(64, 100, 10).argmax(dim=2), 10)
        share[name] = float(labels.float().mean(dim=0).amax(dim=1).mean())
    return Outcome(
        {
            "plain_cosine": cosine["plain"],
            "plain_share": share["plain"],
            "batchnorm_cosine": cosine["batchnorm"],
            "batchnorm_share": share["batchnorm"],
        },
        f"{_STAGES * _BLOCKS} blocks, 64 inputs, 100 classifiers; cosine of the outputs and share "
        "of the commonest label: plain {plain_cosine:.2f}, {plain_share:.0%}; BatchNorm "
        "{batchnorm_cosine:.3f}, {batchnorm_share:.0%}; scaled weight standardization "
        "{scaled_cosine:.2f}, {scaled_share:.0%}",
        {"scaled_cosine": cosine["scaled"], "scaled_share": share["scaled"]},
    )


@check_over(seeds=10)
def bn_downscales() -> Outcome:
    """Branch over output variance with BatchNorm on the branch, block l against 1 / (l + 1).

    The largest relative error over the blocks of a stage that starts from variance 1
    (arXiv 2102.06171, section 2).
    """
    rows = [row for row in _signal(kind="bn", order="relu-bn") if row["stage"] == 1]
    ratios = [row["branch_variance"] / row["variance"] for row in rows]
    error = np.max([abs(ratio * (depth + 1) - 1) for depth, ratio in enumerate(ratios, 1)])
    return Outcome(
        {"worst_error": error},
        f"{{first:.3f}} of the output's variance in the first block, {{last:.4f}} in block "
        f"{_BLOCKS} (theory 0.500 and {1 / (_BLOCKS + 1):.4f}); at most {{worst_error:.1%}} off "
        "in between",
        {"first": ratios[0], "last": ratios[-1]},
    )

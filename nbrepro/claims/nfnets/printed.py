"""Arithmetic on the printed tables."""

import math
from itertools import pairwise
from statistics import mean
from typing import NamedTuple

from nbrepro.claims.checks import check, each
from nbrepro.models.nfnet import VARIANTS


class Row(NamedTuple):
    """A network in Table 3: 10⁹ multiply-adds, 10⁶ parameters, top-1 in %, ms a training step."""

    flops: float
    params: float
    top1: float
    tpu: float = math.nan
    v100: float = math.nan


# [P] Tables 1 and 3; steps of batch 32 (a device)
_NFNETS = {
    "f0": Row(12.38, 71.5, 83.6, 73.3, 56.7),
    "f1": Row(35.54, 132.6, 84.7, 158.5, 133.9),
    "f2": Row(62.59, 193.8, 85.1, 295.8, 226.3),
    "f3": Row(114.76, 254.9, 85.7, 532.2, 524.5),
    "f4": Row(215.24, 316.1, 85.9, 1033.3, 1190.6),
    "f5": Row(289.76, 377.2, 86.0, 1398.5, 2177.1),
}
_SAM = {"f5": Row(289.76, 377.2, 86.3, 1958.0), "f6": Row(377.28, 438.4, 86.5, 2774.1)}
_RESNET50 = Row(4.10, 26.0, 78.6, 41.6, 35.3)
_EFFICIENTNETS = {
    "B0": Row(0.39, 5.3, 77.1, 51.1, 44.8),
    "B6": Row(19.00, 43.0, 84.0, 775.7, 868.2),
    "B7": Row(37.00, 66.0, 84.7, 1397.0, 1753.3),
}
_MAXUP_B8 = Row(62.50, 87.4, 85.8)

# [P] Table 2: top-1 of F0 to F3 as augmentations are added
_LADDER = {
    "none": (81.3, 82.2, 82.4, 82.7),
    "MixUp": (82.2, 82.9, 83.1, 83.5),
    "RandAugment": (83.2, 84.6, 84.8, 85.0),
    "CutMix": (83.6, 84.7, 85.1, 85.7),
}
# [P] Table 6: TPUv3 ms a training step of F0 to F3
_STEP = {
    "baseline": (58.0, 116.0, 211.7, 369.5),
    "width": (64.1, 133.9, 252.2, 441.5),
    "second conv": (73.3, 158.5, 295.8, 532.2),
    "BatchNorm": (111.7, 258.0, 396.3, 617.7),
}
# [P] Table 4: top-1 of BatchNorm and NF ResNet-50, 101, 152, 200 fine-tuned at 224, 320, 384 pixels
_TRANSFER = (
    ((78.1, 79.5), (79.6, 80.9), (79.9, 81.1)),
    ((80.8, 81.4), (82.2, 82.7), (82.5, 83.2)),
    ((81.8, 82.7), (83.1, 83.6), (83.4, 84.0)),
    ((81.8, 82.9), (83.1, 84.1), (83.5, 84.3)),
)


def _quotients(a: tuple[float, ...], b: tuple[float, ...]) -> list[float]:
    return [x / y for x, y in zip(a, b, strict=True)]


@check
def arithmetic_speedup() -> tuple[bool, str]:
    """F1 trains 8.7 times as fast as EfficientNet-B7.

    Criterion: some pair of latencies that round to those printed has a ratio that rounds to 8.7.
    """
    b7, f1 = _EFFICIENTNETS["B7"], _NFNETS["f1"]
    low, high = (b7.tpu - 0.05) / (f1.tpu + 0.05), (b7.tpu + 0.05) / (f1.tpu - 0.05)
    ratio = b7.tpu / f1.tpu
    return low < 8.75 and high >= 8.65, (
        f"Table 3 has {b7.tpu} / {f1.tpu} ms = {ratio:.2f} on TPUv3 (between {low:.3f} and "
        f"{high:.3f} for any unrounded latencies) and {b7.v100 / f1.v100:.1f} on V100: the printed "
        f"8.7 understates its own table by {100 * (ratio / 8.7 - 1):.0f} %, more than rounding can"
    )


@check
def arithmetic_bn_slower() -> tuple[bool, str]:
    """BatchNorm versions of F0 to F3 are 20 to 40 % slower to train.

    Criterion: for all four the step time of Table 6 is 20 to 40 % longer with BatchNorm, or else 20
    to 40 % shorter without, to a percent.
    """
    ratios = _quotients(_STEP["BatchNorm"], _STEP["second conv"])
    slower = [100 * (ratio - 1) for ratio in ratios]
    saved = [100 * (1 - 1 / ratio) for ratio in ratios]
    holds = any(all(20 <= round(v) <= 40 for v in values) for values in (slower, saved))
    return holds, (
        f"Table 6: BatchNorm is {each(slower, '.0f')} % slower; read as time saved without it, "
        f"{each(saved, '.0f')} %"
    )


@check
def arithmetic_half_as_fast() -> tuple[bool, str]:
    """Each variant trains about half as fast as the one before.

    Criterion: every ratio of consecutive TPUv3 latencies, F0 to F5, between 1.5 and 2.5.
    """
    rows = list(_NFNETS.values())
    tpu = [b.tpu / a.tpu for a, b in pairwise(rows)]
    v100 = [b.v100 / a.v100 for a, b in pairwise(rows)]
    return all(1.5 <= ratio <= 2.5 for ratio in tpu), (
        f"step times of Table 3 grow by {each(tpu)} from F0 to F5 on TPUv3 (V100: {each(v100)}): "
        "about half in all steps but the last, on TPUv3"
    )


@check
def arithmetic_latency_rows() -> tuple[bool, str]:
    """The second convolution hardly costs time, and the modified widths roughly preserve it.

    Criterion, in Table 6, F0 to F3: at most 5 % for the convolution, at most 10 % for the widths.
    """
    conv = [100 * (r - 1) for r in _quotients(_STEP["second conv"], _STEP["width"])]
    width = [100 * (r - 1) for r in _quotients(_STEP["width"], _STEP["baseline"])]
    return max(conv) <= 5 and max(width) <= 10, (
        f"Table 6: the second convolution adds {each(conv, '.0f')} % to a training step, the "
        f"modified widths {each(width, '.0f')} %"
    )


@check
def test_resolution() -> tuple[bool, str]:
    """Test images are about 33 % larger than training images.

    Criterion: within 10 points of a third more, F0 to F6.
    """
    ratios = [VARIANTS[f"f{n}"].test_pixels / VARIANTS[f"f{n}"].train_pixels for n in range(7)]
    return all(abs(ratio - 4 / 3) <= 0.1 for ratio in ratios), (
        f"test over train pixels {each(ratios, '.3f')} for F0 to F6, mean {mean(ratios):.3f}"
    )


@check
def flops_not_parameters() -> tuple[bool, str]:
    """NFNets match EfficientNets in accuracy against FLOPs, but not against parameters.

    Criterion, in Table 3: at the FLOPs of EfficientNet-B6 and B7, those of its plain EfficientNets
    that lie in the NFNets' range, the line through the NFNets (in log FLOPs) is at most 0.3 points
    below; B7 beats the smallest NFNet, which has more parameters.
    """

    def line(flops: float) -> float:
        for a, b in pairwise(_NFNETS.values()):
            if a.flops <= flops <= b.flops:
                return a.top1 + (b.top1 - a.top1) * math.log(flops / a.flops) / math.log(
                    b.flops / a.flops
                )
        raise ValueError(f"{flops} is outside the NFNets' range")

    gaps = {
        name: line(_EFFICIENTNETS[name].flops) - _EFFICIENTNETS[name].top1 for name in ("B6", "B7")
    }
    b7, f0 = _EFFICIENTNETS["B7"], _NFNETS["f0"]
    maxup = line(_MAXUP_B8.flops) - _MAXUP_B8.top1
    holds = min(gaps.values()) >= -0.3 and b7.params < f0.params and b7.top1 > f0.top1
    return holds, (
        f"at equal FLOPs NFNets are {gaps['B6']:+.2f} and {gaps['B7']:+.2f} points from B6 and B7; "
        f"{b7.params}M parameters give {b7.top1} % in B7, {f0.params}M give {f0.top1} % in F0 "
        f"(B8, trained with another augmentation, MaxUp: {maxup:+.1f} at equal FLOPs)"
    )


@check
def augmentation_ladder() -> tuple[bool, str]:
    """RandAugment helps most, then MixUp, then CutMix, in the order in which they are added.

    Criterion: so in every column of Table 2, F0 to F3.
    """
    gains = {
        added: [after - before for before, after in zip(_LADDER[to], _LADDER[added], strict=True)]
        for to, added in pairwise(_LADDER)
    }
    columns = zip(gains["RandAugment"], gains["MixUp"], gains["CutMix"], strict=True)
    return all(ra > mixup > cutmix for ra, mixup, cutmix in columns), "Table 2, F0 to F3: " + (
        "; ".join(f"{added} {each(gain, '+.1f')}" for added, gain in gains.items())
    )


@check
def b0_flops() -> tuple[bool, str]:
    """EfficientNet-B0 has a tenth of ResNet-50's FLOPs at similar latency and accuracy.

    Criterion, in Table 3: a ratio that rounds to 10 or 11; training steps within a factor of 4/3 of
    each other on both devices; top-1 within 2 points.
    """
    b0, r50 = _EFFICIENTNETS["B0"], _RESNET50
    ratio = r50.flops / b0.flops
    times = b0.tpu / r50.tpu, b0.v100 / r50.v100
    alike = all(3 / 4 <= time <= 4 / 3 for time in times) and abs(b0.top1 - r50.top1) <= 2
    return round(ratio) in (10, 11) and alike, (
        f"{r50.flops:.2f}B / {b0.flops}B = {ratio:.1f} times fewer FLOPs, yet ×{times[0]:.2f} the "
        f"step time on TPUv3 and ×{times[1]:.2f} on V100; top-1 {b0.top1} against {r50.top1} %"
    )


@check
def sam_cost() -> tuple[bool, str]:
    """SAM with the ascent on a fifth of the batch costs 20 to 40 % more time, not 100 %.

    Criterion: F5's step times in Table 3, to a percent.
    """
    more = 100 * (_SAM["f5"].tpu / _NFNETS["f5"].tpu - 1)
    return 20 <= round(more) <= 40, (
        f"F5: {_SAM['f5'].tpu} ms with SAM, {_NFNETS['f5'].tpu} without: {more:.1f} % more"
    )


@check
def transfer_gaps() -> tuple[bool, str]:
    """NF-ResNets transfer about 1 point better than BatchNorm ResNets.

    Criterion, in Table 4: better in all 12 cells; mean between 0.75 and 1.25 points.
    """
    gaps = [nf - bn for row in _TRANSFER for bn, nf in row]
    return min(gaps) > 0 and 0.75 <= mean(gaps) <= 1.25, (
        f"{sum(gap > 0 for gap in gaps)} of {len(gaps)} cells; +{mean(gaps):.2f} points on "
        f"average, from +{min(gaps):.1f} to +{max(gaps):.1f}; single runs"
    )

"""Arithmetic on the tables that arXiv 2102.06171 prints (:mod:`nbrepro.claims.tables`).

Bounds on what is computed from rounded numbers allow for the rounding.
"""

import math
from itertools import pairwise
from statistics import mean
from typing import Any

from nbrepro.claims.checks import Outcome, check, each
from nbrepro.claims.tables import printed


def _imagenet(network: str) -> dict[str, Any]:
    """A row of Table 3."""
    return dict(printed("nfnets")["imagenet"].rows[network])


def _nfnets() -> list[dict[str, Any]]:
    """The rows of NFNet-F0 to F5, trained without SAM, in Table 3."""
    return [_imagenet(f"NFNet-F{n}") for n in range(6)]


def _ratios(table: str, row: str, over: str) -> list[float]:
    """One row over another of a table with columns F0 to F3."""
    rows = printed("nfnets")[table].rows
    return [a / b for a, b in zip(rows[row].values(), rows[over].values(), strict=True)]


@check
def arithmetic_speedup() -> Outcome:
    """The step time of EfficientNet-B7 over that of F1 on TPUv3.

    Table 3; the least and the greatest ratio of latencies that round to the printed ones (one
    digit after the point), as the abstract says 8.7.
    """
    b7, f1 = _imagenet("EfficientNet-B7"), _imagenet("NFNet-F1")
    least = (b7["tpu"] - 0.05) / (f1["tpu"] + 0.05)
    most = (b7["tpu"] + 0.05) / (f1["tpu"] - 0.05)
    ratio = b7["tpu"] / f1["tpu"]
    return Outcome(
        {"least_ratio": least, "greatest_ratio": most},
        f"Table 3 has {b7['tpu']} / {f1['tpu']} ms = {ratio:.2f} on TPUv3 (between {least:.3f} and "
        f"{most:.3f} for any unrounded latencies) and {b7['v100'] / f1['v100']:.1f} on V100: the "
        f"printed 8.7 understates its own table by {100 * (ratio / 8.7 - 1):.0f} %, more than "
        "rounding can",
    )


@check
def arithmetic_bn_slower() -> Outcome:
    """How much slower BatchNorm's step is for F0 to F3 in Table 6; section 6.1 says 20 to 40 %.

    That can be read as longer with BatchNorm or as shorter without; the values are percentages
    of the reading that strays less from the middle of the printed range.
    """
    ratios = _ratios("step_times", "BatchNorm", over="second conv")
    slower = [100 * (ratio - 1) for ratio in ratios]
    saved = [100 * (1 - 1 / ratio) for ratio in ratios]
    kinder = min((slower, saved), key=lambda reading: max(abs(v - 30) for v in reading))
    return Outcome(
        {"least_percent": min(kinder), "greatest_percent": max(kinder)},
        f"Table 6: BatchNorm is {each(slower, '.0f')} % slower; read as time saved without it, "
        f"{each(saved, '.0f')} %",
    )


@check
def arithmetic_half_as_fast() -> Outcome:
    """Step times of F0 to F5 on TPUv3 over those of the variant before, in Table 3."""
    tpu = [b["tpu"] / a["tpu"] for a, b in pairwise(_nfnets())]
    v100 = [b["v100"] / a["v100"] for a, b in pairwise(_nfnets())]
    return Outcome(
        {"least_ratio": min(tpu), "greatest_ratio": max(tpu)},
        f"step times of Table 3 grow by {each(tpu)} from F0 to F5 on TPUv3 (V100: {each(v100)}): "
        "about half in all steps but the last, on TPUv3",
    )


@check
def arithmetic_latency_rows() -> Outcome:
    """What second convolution and modified widths add to a step at most, F0 to F3, in Table 6."""
    second = _ratios("step_times", "second conv", over="modified width")
    modified = _ratios("step_times", "modified width", over="baseline")
    conv, width = ([100 * (ratio - 1) for ratio in ratios] for ratios in (second, modified))
    return Outcome(
        {"conv_percent": max(conv), "width_percent": max(width)},
        f"Table 6: the second convolution adds {each(conv, '.0f')} % to a training step, the "
        f"modified widths {each(width, '.0f')} %",
    )


@check
def test_resolution() -> Outcome:
    """Pixels in tests over pixels in training, F0 to F6, in Table 1."""
    rows = printed("nfnets")["family"].rows.values()
    ratios = [row["test_pixels"] / row["train_pixels"] for row in rows]
    return Outcome(
        {"least_ratio": min(ratios), "greatest_ratio": max(ratios)},
        f"test over train pixels {each(ratios, '.3f')} for F0 to F6, mean {mean(ratios):.3f}",
    )


@check
def flops_not_parameters() -> Outcome:
    """NFNets against EfficientNets in Table 3: accuracy at equal FLOPs, and B7 against F0.

    At the FLOPs of B6 and B7, the plain EfficientNets in the NFNets' range, the accuracy of
    NFNets is that of the line through them (in log FLOPs); the value is the lesser gap in points.
    """
    nfnets, b7, f0 = _nfnets(), _imagenet("EfficientNet-B7"), _imagenet("NFNet-F0")

    def ahead(network: str) -> float:
        """Points by which the line through the NFNets is above a network."""
        other = _imagenet(network)
        for a, b in pairwise(nfnets):
            if a["flops"] <= other["flops"] <= b["flops"]:
                share = math.log(other["flops"] / a["flops"]) / math.log(b["flops"] / a["flops"])
                return float(a["top1"] + share * (b["top1"] - a["top1"]) - other["top1"])
        raise ValueError(f"the FLOPs of {network} are outside the NFNets' range")

    b6_gap, b7_gap = ahead("EfficientNet-B6"), ahead("EfficientNet-B7")
    return Outcome(
        {
            "gap_at_equal_flops": min(b6_gap, b7_gap),
            "millions_fewer_in_b7": f0["params"] - b7["params"],
            "points_more_in_b7": b7["top1"] - f0["top1"],
        },
        f"at equal FLOPs NFNets lie {b6_gap:+.2f} points from B6 and {b7_gap:+.2f} from B7; "
        f"{b7['params']}M parameters give {b7['top1']} % in B7, {f0['params']}M give "
        f"{f0['top1']} % in F0 (B8, trained with another augmentation, MaxUp: "
        f"{ahead('EfficientNet-B8 + MaxUp'):+.1f} at equal FLOPs)",
    )


@check
def augmentation_ladder() -> Outcome:
    """Points gained by each augmentation when it is added, F0 to F3, in Table 2.

    The value counts networks for which RandAugment > MixUp > CutMix does not hold.
    """
    rows = printed("nfnets")["ablation"].rows
    gains = {
        added: [rows[added][column] - rows[to][column] for column in rows[added]]
        for to, added in pairwise(("second conv", "MixUp", "RandAugment", "CutMix"))
    }
    columns = zip(gains["RandAugment"], gains["MixUp"], gains["CutMix"], strict=True)
    return Outcome(
        {"in_another_order": sum(not ra > mixup > cutmix for ra, mixup, cutmix in columns)},
        "Table 2, F0 to F3: " + "; ".join(f"{to} {each(g, '+.1f')}" for to, g in gains.items()),
    )


@check
def b0_flops() -> Outcome:
    """EfficientNet-B0 against ResNet-50 in Table 3: FLOPs, step times, accuracy.

    Ratios: FLOPs of ResNet-50 over those of B0, step times of B0 over those of ResNet-50.
    """
    b0, r50 = _imagenet("EfficientNet-B0"), _imagenet("ResNet-50")
    ratio = r50["flops"] / b0["flops"]
    tpu, v100 = b0["tpu"] / r50["tpu"], b0["v100"] / r50["v100"]
    return Outcome(
        {
            "flops_ratio": ratio,
            "tpu_ratio": tpu,
            "v100_ratio": v100,
            "points_less_in_b0": r50["top1"] - b0["top1"],
        },
        f"{r50['flops']:.2f}B / {b0['flops']}B = {ratio:.1f} times fewer FLOPs, yet ×{tpu:.2f} the "
        f"step time on TPUv3 and ×{v100:.2f} on V100; top-1 {b0['top1']} against {r50['top1']} %",
    )


@check
def sam_cost() -> Outcome:
    """How much longer F5's step is with SAM (ascent on a fifth of the batch), in Table 3."""
    with_sam, without = _imagenet("NFNet-F5 + SAM")["tpu"], _imagenet("NFNet-F5")["tpu"]
    more = 100 * (with_sam / without - 1)
    return Outcome(
        {"percent_more": more}, f"F5: {with_sam} ms with SAM, {without} without: {more:.1f} % more"
    )


@check
def transfer_gaps() -> Outcome:
    """Points by which NF-ResNets transfer better than BatchNorm ResNets, by cell of Table 4.

    Values are the number of cells in which they do not, and the mean.
    """
    rows = printed("nfnets")["transfer"].rows
    gaps = [
        cell - rows[name.replace("NF", "BN")][pixels]
        for name, cells in rows.items()
        if name.startswith("NF")
        for pixels, cell in cells.items()
    ]
    better = sum(gap > 0 for gap in gaps)
    return Outcome(
        {"not_better": len(gaps) - better, "mean_gap": mean(gaps)},
        f"{better} of {len(gaps)} cells; +{mean(gaps):.2f} points on average, from "
        f"+{min(gaps):.1f} to +{max(gaps):.1f}; single runs",
    )

"""Parameters and multiply-adds of the family."""

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nbrepro import models
from nbrepro.claims.checks import Outcome, check, each
from nbrepro.claims.tables import printed
from nbrepro.models.nfnet import VARIANTS


def blueprint(name: str, **options: Any) -> nn.Module:
    """A network for ImageNet without memory for its weights."""
    with torch.device("meta"):
        return models.create(name, num_classes=1000, **options)


def size(model: nn.Module) -> int:
    """Parameters of a network."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, pixels: int) -> int:
    """Multiply-adds of one forward pass over one square image.

    Convolutions and linear layers count, those of squeeze-excite included; biases, activations,
    pooling and normalization do not. This is what arXiv 2102.06171 prints as FLOPs (Table 3, at
    the resolution of evaluation). Nothing is computed: a copy runs on the meta device.

    Args:
        model: any network of images ``[N, 3, pixels, pixels]``; on any device, left as it was.
        pixels: height and width of the image.
    """
    copy = deepcopy(model).to("meta", torch.float32).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy(torch.empty(1, 3, pixels, pixels, device="meta"))
    operations: int = counter.get_total_flops()
    return operations // 2  # a multiplication and an addition


def _printed(variant: str, column: str) -> float:
    """What Table 3 prints of a variant, which for F6 is trained with SAM."""
    rows = printed("nfnets")["imagenet"].rows
    name = f"NFNet-{variant.upper()}"
    return float(rows[name if name in rows else f"{name} + SAM"][column])


@check
def parameters() -> Outcome:
    """Parameters of F0 to F6 as built, in millions to one digit, against Table 3.

    The value counts networks for which the two differ.
    """
    counts = {f"f{n}": size(blueprint(f"nfnet_f{n}")) for n in range(7)}
    wrong = sum(round(n / 1e6, 1) != _printed(name, "params") for name, n in counts.items())
    return Outcome(
        {"wrong": wrong},
        f"{len(counts) - wrong} of {len(counts)} agree: F0 {counts['f0']:,} to F6 "
        f"{counts['f6']:,}, in equal steps of {counts['f1'] - counts['f0']:,}",
    )


@check
def flops() -> Outcome:
    """Multiply-adds of F0 to F6 at test resolution, in billions to two digits, against Table 3.

    The value counts networks for which the two differ.
    """
    counts = {
        name: count_macs(blueprint(f"nfnet_{name}"), VARIANTS[name].test_pixels) / 1e9
        for name in (f"f{n}" for n in range(7))
    }
    wrong = sum(round(n, 2) != _printed(name, "flops") for name, n in counts.items())
    return Outcome(
        {"wrong": wrong},
        f"{len(counts) - wrong} of {len(counts)} agree as multiply-adds at test resolution: "
        f"{each(counts.values())} billion",
    )


def _f4_plus(*, round_bottleneck: bool) -> tuple[float, float]:
    """Millions of parameters and billions of multiply-adds at 512 pixels of NFNet-F4+."""
    model = blueprint("nfnet_f4+", round_bottleneck=round_bottleneck)
    return size(model) / 1e6, count_macs(model, VARIANTS["f4+"].test_pixels) / 1e9


@check
def f4_plus() -> Outcome:
    """NFNet-F4+ as printed: with 192 channels in the first stage's bottleneck (appendix A.5).

    Millions of parameters and billions of multiply-adds at 512 pixels.
    """
    millions, billions = _f4_plus(round_bottleneck=False)
    row = printed("nfnets")["extra_data"].rows["NFNet-F4+"]
    return Outcome(
        {"millions": millions, "billions": billions},
        f"with a bottleneck of 192 channels in the first stage {millions:.1f}M and {billions:.1f}B "
        f"(printed: {row['params']}M, {row['flops']}B)",
    )


@check
def f4_plus_code() -> Outcome:
    """NFNet-F4+ of the released code, which rounds that bottleneck from 192 channels to 128.

    Millions of parameters and billions of multiply-adds at 512 pixels.
    """
    millions, billions = _f4_plus(round_bottleneck=True)
    row = printed("nfnets")["extra_data"].rows["NFNet-F4+"]
    return Outcome(
        {"millions": millions, "billions": billions},
        f"the released code builds {millions:.1f}M and {billions:.1f}B, as it rounds the first "
        f"stage's bottleneck from 192 down to 128 (printed: {row['params']}M, {row['flops']}B)",
    )


@check
def width_and_conv() -> Outcome:
    """Parameters of F0 to F3 with a ResNet's widths, and without the second 3×3 convolution.

    These are the networks of Table 2's rows. The value counts those of the eight whose number is
    not that of timm's implementation.
    """
    options: dict[str, Any] = {"widths": (256, 512, 1024, 2048), "second_conv": False}
    independent = {
        "widths": (68_638_724, 123_285_648, 177_932_572, 232_579_496),
        "second_conv": (62_774_276, 115_204_240, 167_634_204, 220_064_168),
    }
    wrong = sum(
        size(blueprint(f"nfnet_f{n}", **{option: options[option]})) != count
        for option, counts in independent.items()
        for n, count in enumerate(counts)
    )
    pixels = VARIANTS["f0"].test_pixels
    full = count_macs(blueprint("nfnet_f0"), pixels)
    more = {
        option: 100 * (full / count_macs(blueprint("nfnet_f0", **{option: value}), pixels) - 1)
        for option, value in options.items()
    }
    return Outcome(
        {"wrong": wrong},
        f"{8 - wrong} counts agree; in F0 at its test resolution the modified widths cost "
        f"{more['widths']:+.0f} % multiply-adds, the second convolution "
        f"{more['second_conv']:+.0f} %, each against the network without it",
    )

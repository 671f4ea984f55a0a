"""Parameters and multiply-adds of the family."""

from copy import deepcopy
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nbrepro import models
from nbrepro.claims.checks import check, each
from nbrepro.claims.nfnets.printed import _NFNETS, _SAM
from nbrepro.models.nfnet import VARIANTS


@cache
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


@check
def parameters() -> tuple[bool, str]:
    """The networks have the printed numbers of parameters.

    Criterion: F0 to F6, rounded to 0.1 million, are as printed.
    """
    printed = {**_NFNETS, "f6": _SAM["f6"]}
    counts = {name: size(blueprint(f"nfnet_{name}")) for name in printed}
    wrong = [name for name, row in printed.items() if round(counts[name] / 1e6, 1) != row.params]
    return not wrong, (
        f"{len(counts) - len(wrong)} of {len(counts)} agree: F0 {counts['f0']:,} to F6 "
        f"{counts['f6']:,}, in equal steps of {counts['f1'] - counts['f0']:,}"
    )


@check
def flops() -> tuple[bool, str]:
    """The printed FLOPs are the networks' multiply-adds at test resolution.

    Criterion: F0 to F6, rounded to 0.01 billion, are as printed.
    """
    printed = {**_NFNETS, "f6": _SAM["f6"]}
    counts = {
        name: count_macs(blueprint(f"nfnet_{name}"), VARIANTS[name].test_pixels) / 1e9
        for name in printed
    }
    wrong = [name for name, row in printed.items() if round(counts[name], 2) != row.flops]
    return not wrong, (
        f"{len(counts) - len(wrong)} of {len(counts)} agree as multiply-adds at test resolution: "
        f"{each(list(counts.values()))} billion"
    )


@check
def f4_plus() -> tuple[bool, str]:
    """NFNet-F4+ has 527M parameters and 367B FLOPs.

    Criterion: the network of the released code, rounded to millions and billions at 512 pixels.
    """
    pixels = VARIANTS["f4+"].test_pixels
    found = []
    for rounded in (True, False):
        model = blueprint("nfnet_f4+", round_bottleneck=rounded)
        found.append((size(model) / 1e6, count_macs(model, pixels) / 1e9))
    (params, macs), (wider_params, wider_macs) = found
    return (round(params), round(macs)) == (527, 367), (
        f"the released code builds {params:.1f}M and {macs:.1f}B, as it rounds the first stage's "
        f"bottleneck from 192 down to 128; with 192 it would be {wider_params:.1f}M and "
        f"{wider_macs:.1f}B (printed: 527M, 367B)"
    )


@check
def width_and_conv() -> tuple[bool, str]:
    """The rows of Table 2 are these networks: default widths, and no second 3×3 convolution.

    Criterion: parameters of F0 to F3 in both forms equal to the counts of timm's implementation.
    """
    default = (256, 512, 1024, 2048)
    independent = {
        "widths": (68_638_724, 123_285_648, 177_932_572, 232_579_496),
        "second_conv": (62_774_276, 115_204_240, 167_634_204, 220_064_168),
    }
    options: dict[str, Any] = {"widths": default, "second_conv": False}
    ours = {
        key: tuple(size(blueprint(f"nfnet_f{n}", **{key: value})) for n in range(4))
        for key, value in options.items()
    }
    pixels = VARIANTS["f0"].test_pixels
    full = count_macs(blueprint("nfnet_f0"), pixels)
    less = {
        key: 100 * (full / count_macs(blueprint("nfnet_f0", **{key: value}), pixels) - 1)
        for key, value in options.items()
    }
    return ours == independent, (
        f"8 counts agree; in F0 the modified widths cost {less['widths']:+.0f} % multiply-adds, "
        f"the second convolution {less['second_conv']:+.0f} %"
        if ours == independent
        else f"counted {ours}"
    )

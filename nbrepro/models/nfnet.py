"""NFNets, the family of arXiv 2102.06171 (section 5, Table 1, appendix C), and their twins.

Four stages of pre-activation bottleneck blocks with two grouped 3×3 convolutions and
squeeze-excite, as in the authors' code. F0 has [1, 2, 6, 3] blocks, each following variant as many
more; widths are [256, 512, 1536, 1536] throughout. Only depth, image size and dropout grow. A block
computes ``h + α · skip_gain · f(γ gelu(h) / β)``, as in :mod:`nbrepro.models.nf_resnet`; where the
shape changes, the shortcut is a 1×1 convolution of ``γ gelu(h) / β``, averaged over 2×2 if strided.

====================  ==============================================================================
``nfnet_f0``          to ``nfnet_f7``; ``nfnet_f4+`` and so on are wider (appendix A.5)
``bn_nfnet_f0``       BatchNorm twin (Table 6): a BatchNorm before each activation; convolutions
                      without standardization or bias; no α, β, γ, SkipInit, and no factor 2 in
                      squeeze-excite
``plain_nfnet_f0``    the same without BatchNorm, with biases: nothing is normalized
``cifar_nfnet_f0``    for 32×32 images, ours: the stem is one 3×3 convolution with stride 1, widths
                      and group width are a quarter; twins ``bn_cifar_nfnet_f0`` and
                      ``plain_cifar_nfnet_f0``
====================  ==============================================================================

The paper does not say where the BatchNorms of its twin stood; ours follow the order of the authors'
BatchNorm ResNets. The twins' weights are drawn so that they keep the variance of their input, as in
:mod:`nbrepro.models.nf_resnet`.

timm's ``dm_nfnet_*`` are these networks except for the differences that :mod:`nbrepro.layers`
lists and one more: block i of n is dropped with probability ``rate · i / n`` here and in the
authors' code, ``rate · i / (n - 1)`` there. timm's ``nfnet_*`` are other networks (no SkipInit,
PyTorch's padding).

F4+ is printed with 527M parameters and 367B multiply-adds. The released code rounds the bottleneck
of its first stage from 192 down to 128, the group width, which leaves 524,954,484 parameters and
333.4B; so does ``nfnet_f4+``. ``round_bottleneck=False`` keeps 192 as a single group, which gives
the printed numbers.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from nbrepro._suggest import choose
from nbrepro.layers import (
    SqueezeExcite,
    avg_pool_same,
    expected_stds,
)
from nbrepro.models.family import Family
from nbrepro.models.nf_resnet import KINDS, Design, PreactivationBlock, classifier

FAMILY = Family(
    names=(
        "nfnet_f0",
        "nfnet_f1",
        "nfnet_f2",
        "nfnet_f3",
        "nfnet_f4",
        "nfnet_f5",
        "nfnet_f6",
        "nfnet_f7",
        "nfnet_f4+",
        "bn_nfnet_f0",
        "plain_nfnet_f0",
        "cifar_nfnet_f0",
        "bn_cifar_nfnet_f0",
        "plain_cifar_nfnet_f0",
    ),
    stem="(?P<images>cifar_|)nfnet",
    size=r"_f(?P<depth>[0-7])(?P<wider>\+?)",
    usage="NFNets are nfnet_f0 to nfnet_f7, with + for the wider ones (nfnet_f4+), cifar_ in front "
    "for 32×32 images and bn_ or plain_ before that for a twin; for example bn_cifar_nfnet_f0",
    kinds={"": "", "bn_": "BN-", "plain_": "plain "},
    label="NFNet-F{depth}{wider}",
    options=(
        "widths",
        "group_width",
        "second_conv",
        "round_bottleneck",
        "dropout",
        "stochastic_depth",
        "fold",
    ),
)

ACTIVATION = "gelu"
WIDTHS = (256, 512, 1536, 1536)
WIDER = (384, 768, 2048, 2048)


@dataclass(frozen=True)
class Variant:
    """One row of the family's table (2102.06171, Table 1, appendices A.1 and A.3).

    Attributes:
        depths: blocks of the four stages.
        widths: channels of the four stages.
        dropout: probability before the classifier.
        train_pixels: height and width of training images.
        test_pixels: height and width of test images.
        randaugment_magnitude: magnitude of RandAugment with four layers.
        stochastic_depth: block i of n is dropped with probability ``stochastic_depth · i / n``.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    dropout: float
    train_pixels: int
    test_pixels: int
    randaugment_magnitude: int
    stochastic_depth: float = 0.25


_ROWS = (  # dropout, pixels in training and in tests, magnitude of RandAugment
    (0.2, 192, 256, 5),
    (0.3, 224, 320, 10),
    (0.4, 256, 352, 10),
    (0.4, 320, 416, 15),
    (0.5, 384, 512, 15),
    (0.5, 416, 544, 15),
    (0.5, 448, 576, 15),
    (0.5, 480, 608, 15),  # F7 is in the released code only
)

#: ``f0`` to ``f7``, and ``f0+`` to ``f7+``, which are wider.
VARIANTS = {
    f"f{number}{plus}": Variant(tuple((number + 1) * n for n in (1, 2, 6, 3)), widths, *row)
    for plus, widths in (("", WIDTHS), ("+", WIDER))
    for number, row in enumerate(_ROWS)
}


class Branch(nn.Module):
    """1×1, one or two grouped 3×3 and 1×1 convolutions, activations between, squeeze-excite."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        stride: int,
        design: Design,
        *,
        bottleneck: int,
        groups: int,
        second_conv: bool,
        beta: float,
    ) -> None:
        super().__init__()
        self.second_conv = second_conv
        self.conv1 = design.convolution(channels_in, bottleneck, beta=beta)
        self.act2 = design.preactivation(bottleneck)
        self.conv2 = design.convolution(bottleneck, bottleneck, 3, stride=stride, groups=groups)
        if second_conv:
            self.act2b = design.preactivation(bottleneck)
            self.conv2b = design.convolution(bottleneck, bottleneck, 3, groups=groups)
        self.act3 = design.preactivation(bottleneck)
        self.conv3 = design.convolution(bottleneck, channels)
        self.se = SqueezeExcite(channels, factor=2.0 if design.kind == "nf" else 1.0)

    def convolutions(self, x: Tensor) -> Tensor:
        """The branch up to squeeze-excite."""
        out: Tensor = self.conv2(self.act2(self.conv1(x)))
        if self.second_conv:
            out = self.conv2b(self.act2b(out))
        out = self.conv3(self.act3(out))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """``act1(x)`` of the block → the branch."""
        out: Tensor = self.se(self.convolutions(x))
        return out


class Block(PreactivationBlock):
    """``shortcut + α · skip_gain · branch(act1(x))``; shortcuts average, then convolve."""

    branch: Branch

    def __init__(
        self,
        channels_in: int,
        channels: int,
        stride: int,
        design: Design,
        *,
        bottleneck: int,
        groups: int,
        second_conv: bool = True,
        beta: float = 1.0,
        stochastic_depth: float = 0.0,
    ) -> None:
        super().__init__(channels_in, design, beta, stochastic_depth)
        self.stride = stride
        if stride != 1 or channels_in != channels:
            self.shortcut = design.convolution(channels_in, channels, beta=self.beta)
        self.branch = Branch(
            channels_in,
            channels,
            stride,
            design,
            bottleneck=bottleneck,
            groups=groups,
            second_conv=second_conv,
            beta=self.beta,
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, channels_in, H, W]`` → ``[N, channels, ceil(H / stride), ceil(W / stride)]``."""
        out = self.act1(x)
        shortcut = x
        if self.shortcut is not None:
            shortcut = self.shortcut(avg_pool_same(out) if self.stride == 2 else out)
        if not self.folded:
            return self.add(shortcut, self.branch(out))
        assert self.skip_gain is not None  # only nf networks fold, and these have one
        out = self.branch.convolutions(out)
        gate = self.stochastic_depth(self.branch.se.gate(out))
        return torch.addcmul(shortcut, out, gate * (self.alpha * self.skip_gain))


class NFNet(nn.Module):
    """A stem, four stages of blocks, a 1×1 convolution, activation, average pooling, ``fc``.

    Args:
        variant: depths, widths and rates.
        num_classes: outputs of ``fc``, whose weight starts as N(0, 0.01²).
        images: ``imagenet`` (four 3×3 convolutions that reduce height and width to a quarter) or
            ``cifar`` (one that keeps them).
        group_width: channels per group of the 3×3 convolutions; the bottleneck, half the stage's
            width, has as many groups as fit.
        second_conv: whether blocks have a second 3×3 convolution (Table 2 has rows without).
        round_bottleneck: whether a bottleneck is as wide as its groups, as in the released code, or
            always half the stage's width, with wider groups.
        kind: ``nf``, ``bn`` or ``plain``, see the top of this module.
        fold: fold γ and β into the gains of the convolutions, and α, SkipInit and the mask of
            stochastic depth into the gate of squeeze-excite (``nf``): the same function and the
            same parameters with fewer passes over activations.
        design_class: what makes activations and convolutions.

    Raises:
        ValueError: for an unknown name, a bottleneck that cannot be divided into groups, or
            ``fold`` in a twin.
    """

    def __init__(
        self,
        variant: Variant,
        num_classes: int = 1000,
        *,
        images: str = "imagenet",
        group_width: int = 128,
        second_conv: bool = True,
        round_bottleneck: bool = True,
        kind: str = "nf",
        fold: bool = False,
        design_class: type[Design] = Design,
    ) -> None:
        super().__init__()
        if fold and kind != "nf":
            raise ValueError("fold=True folds scalars into standardized weights; there are none")
        design = design_class(kind, ACTIVATION, fold=fold)
        channels = variant.widths[0] // 2
        if choose("images", images, ("imagenet", "cifar")) == "cifar":
            self.stem = _stem(design, (3, channels), (1,))
        else:
            self.stem = _stem(design, (3, 16, 32, 64, channels), (2, 1, 1, 2))
        self.blocks = nn.Sequential()
        betas = expected_stds(variant.depths, design.alpha)
        for stage, width in enumerate(variant.widths):
            bottleneck, groups = _bottleneck(width, group_width, round_bottleneck)
            for index, beta in enumerate(betas[stage]):
                rate = variant.stochastic_depth * len(self.blocks) / sum(variant.depths)
                self.blocks.append(
                    Block(
                        channels,
                        width,
                        2 if stage > 0 and index == 0 else 1,
                        design,
                        bottleneck=bottleneck,
                        groups=groups,
                        second_conv=second_conv,
                        beta=beta,
                        stochastic_depth=rate,
                    )
                )
                channels = width
        self.final_conv = design.convolution(channels, 2 * channels, beta=None)
        self.act = replace(design, fold=False).preactivation(2 * channels)  # nothing to fold into
        self.dropout = nn.Dropout(variant.dropout)
        self.fc = classifier(2 * channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W]`` → logits ``[N, num_classes]``."""
        x = self.act(self.final_conv(self.blocks(self.stem(x))))
        logits: Tensor = self.fc(self.dropout(x.mean(dim=(2, 3))))
        return logits


def _stem(design: Design, channels: Sequence[int], strides: Sequence[int]) -> nn.Sequential:
    """3×3 convolutions through ``channels``, with activations between them."""
    stem: OrderedDict[str, nn.Module] = OrderedDict()
    for i, ((before, after), stride) in enumerate(zip(pairwise(channels), strides, strict=True), 1):
        if i > 1:
            stem[f"act{i}"] = design.preactivation(before)
        beta = 1.0 if i > 1 else None
        stem[f"conv{i}"] = design.convolution(before, after, 3, stride=stride, beta=beta)
    return nn.Sequential(stem)


def _bottleneck(width: int, group_width: int, rounded: bool) -> tuple[int, int]:
    """Channels and groups of the 3×3 convolutions in a stage of ``width`` channels."""
    channels = width // 2
    groups = channels // group_width
    if groups < 1:
        raise ValueError(
            f"a stage {width} wide has a bottleneck of {channels} channels, fewer than one group "
            f"of {group_width}; choose a group_width of at most {channels}"
        )
    if rounded:
        return groups * group_width, groups
    if channels % groups:
        raise ValueError(
            f"a bottleneck of {channels} channels cannot be divided into {groups} groups of equal "
            "width; choose another group_width, or leave round_bottleneck at True"
        )
    return channels, groups


def parse(name: str) -> tuple[str, str, Variant]:
    """``bn_cifar_nfnet_f0`` → ``("bn", "cifar", its variant)``.

    Returns:
        Kind of network, the images it is for, and its variant; for CIFAR with a quarter of the
        widths, and 32 pixels.

    Raises:
        ValueError: if there is no such network.
    """
    parts = FAMILY.parse(name)
    variant = VARIANTS[f"f{parts['depth']}{parts['wider']}"]
    kind = KINDS[parts["kind"]]
    if not parts["images"]:
        return kind, "imagenet", variant
    widths = tuple(width // 4 for width in variant.widths)
    return kind, "cifar", replace(variant, widths=widths, train_pixels=32, test_pixels=32)


def build(
    name: str,
    num_classes: int,
    *,
    widths: Sequence[int] | None = None,
    group_width: int | None = None,
    dropout: float | None = None,
    stochastic_depth: float | None = None,
    **options: bool,
) -> NFNet:
    """Build the named network.

    Args:
        name: see :func:`parse`.
        num_classes: outputs of the classifier.
        widths: channels of the four stages instead of the variant's; ``(256, 512, 1024, 2048)`` are
            a ResNet's, the baseline of Table 2.
        group_width: channels per group; by default 128, for CIFAR 32.
        dropout: rate instead of the variant's.
        stochastic_depth: rate instead of the variant's.
        **options: ``second_conv``, ``round_bottleneck`` and ``fold``, see :class:`NFNet`.

    Raises:
        ValueError: for an unknown name or options that do not fit.
    """
    kind, images, variant = parse(name)
    if widths is not None:
        if isinstance(widths, int) or len(widths) != len(variant.depths):
            raise ValueError(f"widths are {widths}: expected one for each of the four stages")
        variant = replace(variant, widths=tuple(widths))
    if dropout is not None:
        variant = replace(variant, dropout=dropout)
    if stochastic_depth is not None:
        variant = replace(variant, stochastic_depth=stochastic_depth)
    if group_width is None:
        group_width = 32 if images == "cifar" else 128
    return NFNet(
        variant,
        num_classes,
        images=images,
        group_width=group_width,
        kind=kind,
        **options,  # type: ignore[arg-type]
    )

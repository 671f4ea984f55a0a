"""Pre-activation ResNets without normalization (NF-ResNets), and their twins.

Sources: arXiv 2101.08692; arXiv 2102.06171, section 3 and appendix C; the authors' released code.
A block computes ``h + α · skip_gain · f(γ g(h) / β)``: g the activation and γ its constant, β the
standard deviation h is expected to have (:func:`nbrepro.layers.expected_stds`), f convolutions with
scaled weight standardization, ``skip_gain`` a scalar that starts at 0 (SkipInit). Where the shape
changes, the shortcut is a strided 1×1 convolution of the normalized, activated signal.

=============  ====================================================================================
``nf_``        as above
``bn_``        BatchNorm before (or after, ``order="relu-bn"``) each activation; no standardization,
               bias, α, β, γ or SkipInit
``plain_``     convolutions without standardization; no α, β, γ, SkipInit
``skipinit_``  as ``plain_``, and ``skip_gain`` on every branch (De and Smith, arXiv 2002.10444)
``gn_``        as ``bn_``, with GroupNorm in groups of 16 channels (arXiv 1803.08494)
=============  ====================================================================================

``skipinit_`` and ``gn_`` exist for 32×32 images only (:mod:`nbrepro.models.cifar_nf_resnet`).

The twins have the same shapes and, like ``standardize=False``, plain weights drawn so that they
keep the variance of their input: He's rule after a ReLU, 1 / fan-in in the stem and after
``relu-bn``. The authors' BatchNorm baseline draws truncated normals of variance 1 / fan-in and
starts the classifier at zero; here every classifier starts as N(0, 0.01²).

With ``fold``, the default, the scalars γ, β, α and SkipInit multiply the gains of the convolutions,
vectors of a few hundred numbers, and not whole activations: the same function of the same
parameters, with fewer passes over activations and half as many of them kept for the backward
pass. With ``fold=False`` they are separate operations, as in the authors' code. In either form
``block.residual(x)`` is the residual branch before stochastic depth, SkipInit and α.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from nbrepro._suggest import choose
from nbrepro.layers import (
    GAMMA,
    Activation,
    GhostBatchNorm2d,
    PaddingMode,
    ResidualBlock,
    SameConv2d,
    SameMaxPool2d,
    ScaledStdConv2d,
    StochasticDepth,
    expected_stds,
    second_moment,
)
from nbrepro.models.family import Family

FAMILY = Family(
    names=(
        "nf_resnet26",
        "nf_resnet50",
        "nf_resnet101",
        "nf_resnet152",
        "nf_resnet200",
        "nf_resnet288",
        "nf_resnet600",
        "bn_nf_resnet50",
        "plain_nf_resnet50",
    ),
    stem="nf_resnet",
    size=r"(?P<depth>0|[1-9]\d*)",
    usage="write nf_resnet<depth>, bn_nf_resnet<depth> or plain_nf_resnet<depth>, "
    "for example nf_resnet50",
    kinds={"": "NF-", "bn_": "BN-", "plain_": "plain "},
    label="ResNet-{depth}",
    depths={  # 2101.08692; 26 is timm's
        26: (2, 2, 2, 2),
        50: (3, 4, 6, 3),
        101: (3, 4, 23, 3),
        152: (3, 8, 36, 3),
        200: (3, 24, 36, 3),
        288: (24, 24, 24, 24),
        600: (50, 50, 50, 50),
    },
    options=("activation", "dropout", "stochastic_depth", "padding_mode"),
    kind_options={
        "": ("alpha", "skip_gain", "standardize", "fold"),
        "bn_": ("order", "ghost_batch"),
    },
)

#: How a name begins → kind of network.
KINDS = {"": "nf", "bn_": "bn", "plain_": "plain", "skipinit_": "skipinit", "gn_": "gn"}

#: Channels that GroupNorm standardizes together; with fewer, all of them.
GROUP = 16


@dataclass(frozen=True)
class Design:
    """What the blocks of a network are made of; see :class:`NFResNet` for the meaning.

    Attributes:
        activation_class: what computes the activation.
        convolution_class: what computes the convolutions with scaled weight standardization.
    """

    activation_class: ClassVar[type[Activation]] = Activation
    convolution_class: ClassVar[type[ScaledStdConv2d]] = ScaledStdConv2d

    kind: str = "nf"
    activation: str = "relu"
    alpha: float = 0.2
    skip_gain: float | None = 0.0
    standardize: bool = True
    fold: bool = True
    order: str = "bn-relu"
    ghost_batch: int = 0
    padding_mode: PaddingMode = "zeros"

    def __post_init__(self) -> None:
        choose("kind of network", self.kind, KINDS.values())
        choose("activation", self.activation, GAMMA.keys() - {"glu"})  # glu halves the channels
        choose("order", self.order, ("bn-relu", "relu-bn"))

    @property
    def standardized(self) -> bool:
        """Whether the convolutions have scaled weight standardization."""
        return self.kind == "nf" and self.standardize

    @property
    def folded(self) -> bool:
        """Whether γ, β, α and SkipInit are folded into the gains."""
        return self.standardized and self.fold

    @property
    def normalized(self) -> bool:
        """Whether a normalization of activations precedes every convolution but the stem."""
        return self.kind in ("bn", "gn")

    def preactivation(self, channels: int, beta: float = 1.0) -> nn.Module:
        """What precedes a convolution; ``beta``: expected standard deviation of its input."""
        scaled = self.standardized and not self.folded
        activation = self.activation_class(
            self.activation, scaled, beta=1.0 if self.folded else beta
        )
        if not self.normalized:
            return activation
        norm: nn.Module = nn.BatchNorm2d(channels)
        if self.kind == "gn":
            norm = nn.GroupNorm(max(1, channels // GROUP), channels)
        elif self.ghost_batch:
            norm = GhostBatchNorm2d(channels, self.ghost_batch)
        parts: list[tuple[str, nn.Module]] = [("norm", norm), ("act", activation)]
        return nn.Sequential(OrderedDict(parts if self.order == "bn-relu" else parts[::-1]))

    def convolution(
        self,
        channels_in: int,
        channels: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        beta: float | None = 1.0,
    ) -> nn.Conv2d:
        """A convolution after :meth:`preactivation` with this ``beta``; None: without one."""
        mode = self.padding_mode
        if self.standardized:
            scale = GAMMA[self.activation] / beta if self.folded and beta is not None else 1.0
            return self.convolution_class(
                channels_in,
                channels,
                kernel,
                stride,
                groups=groups,
                padding_mode=mode,
                input_scale=scale,
            )
        unit_input = beta is None or (self.normalized and self.order == "relu-bn")
        moment = 1.0 if unit_input else second_moment(self.activation)
        bias = not self.normalized
        conv = SameConv2d(
            channels_in, channels, kernel, stride, groups=groups, bias=bias, padding_mode=mode
        )
        nn.init.normal_(conv.weight, std=(conv.weight[0].numel() * moment) ** -0.5)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        return conv


class PreactivationBlock(ResidualBlock):
    """What blocks of ``nf``, ``bn`` and ``plain`` networks share; subclasses add the convolutions.

    Attributes:
        beta: expected standard deviation of the input (1 in the twins).
        alpha: growth of the residual stream per block (1 in the twins).
        skip_gain: SkipInit, a scalar; None in networks without.
        act1: before the branch and before a projection.
        shortcut: None for the identity; else a convolution of ``act1(x)``.
        branch: from ``act1(x)`` to what stochastic depth, SkipInit and α act on.
    """

    branch: nn.Module

    def __init__(
        self, channels_in: int, design: Design, beta: float, stochastic_depth: float
    ) -> None:
        super().__init__()
        normalizer_free = design.kind == "nf"
        self.beta = beta if normalizer_free else 1.0
        self.alpha = design.alpha if normalizer_free else 1.0
        self.standardized, self.folded = design.standardized, design.folded
        self.act1 = design.preactivation(channels_in, self.beta)
        self.shortcut: nn.Module | None = None
        self.stochastic_depth = StochasticDepth(stochastic_depth)
        self.skip_gain: nn.Parameter | None = None
        if design.kind in ("nf", "skipinit") and design.skip_gain is not None:
            self.skip_gain = nn.Parameter(torch.tensor(float(design.skip_gain)))

    def residual(self, x: Tensor) -> Tensor:
        """``branch(act1(x))``; where scalars are folded, :meth:`forward` does not compute it."""
        out: Tensor = self.branch(self.act1(x))
        return out

    def add(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        """``shortcut + α · skip_gain · branch``, some examples' branches dropped in training."""
        branch = self.stochastic_depth(branch)
        if self.skip_gain is not None:
            branch = branch * self.skip_gain
        return torch.add(shortcut, branch, alpha=self.alpha)

    @property
    def projects(self) -> bool:
        """Whether the shortcut is a convolution."""
        return self.shortcut is not None

    @property
    def expected_variance(self) -> float | None:
        """β² + α², or 1 + α² with a projection (2102.06171, section 3).

        The rule assumes SkipInit scalars of 1; with scalars that start at zero the variance is
        lower. None without scaled weight standardization.
        """
        if not self.standardized:
            return None
        return (1.0 if self.projects else self.beta**2) + self.alpha**2


class BasicBranch(nn.Module):
    """Two 3×3 convolutions and an activation between them."""

    def __init__(
        self, channels_in: int, channels: int, stride: int, design: Design, beta: float
    ) -> None:
        super().__init__()
        self.conv1 = design.convolution(channels_in, channels, 3, stride=stride, beta=beta)
        self.act2 = design.preactivation(channels)
        self.conv2 = design.convolution(channels, channels, 3)

    def forward(self, x: Tensor, *scale: Tensor | float) -> Tensor:
        """``act1(x)`` of the block → the branch, times ``scale`` where convolutions can fold it."""
        out: Tensor = self.conv2(self.act2(self.conv1(x)), *scale)
        return out


class BottleneckBranch(nn.Module):
    """1×1, 3×3 and 1×1 convolutions, a quarter as wide inside, and activations between them."""

    def __init__(
        self, channels_in: int, channels: int, stride: int, design: Design, beta: float
    ) -> None:
        super().__init__()
        inner = channels // 4
        self.conv1 = design.convolution(channels_in, inner, beta=beta)
        self.act2 = design.preactivation(inner)
        self.conv2 = design.convolution(inner, inner, 3, stride=stride)
        self.act3 = design.preactivation(inner)
        self.conv3 = design.convolution(inner, channels)

    def forward(self, x: Tensor, *scale: Tensor | float) -> Tensor:
        """``act1(x)`` of the block → the branch, times ``scale`` where convolutions can fold it."""
        out: Tensor = self.conv2(self.act2(self.conv1(x)))
        out = self.conv3(self.act3(out), *scale)
        return out


class Block(PreactivationBlock):
    """``shortcut + α · skip_gain · branch(act1(x))``; shortcuts are strided convolutions."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        stride: int,
        design: Design,
        *,
        bottleneck: bool,
        beta: float = 1.0,
        stochastic_depth: float = 0.0,
    ) -> None:
        super().__init__(channels_in, design, beta, stochastic_depth)
        if stride != 1 or channels_in != channels:
            self.shortcut = design.convolution(channels_in, channels, stride=stride, beta=self.beta)
        branch = BottleneckBranch if bottleneck else BasicBranch
        self.branch = branch(channels_in, channels, stride, design, self.beta)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, channels_in, H, W]`` → ``[N, channels, ceil(H / stride), ceil(W / stride)]``."""
        out = self.act1(x)
        shortcut = x if self.shortcut is None else self.shortcut(out)
        if not self.folded:
            return self.add(shortcut, self.branch(out))
        scale = self.alpha if self.skip_gain is None else self.alpha * self.skip_gain
        return torch.add(shortcut, self.stochastic_depth(self.branch(out, scale)))


def classifier(features: int, classes: int) -> nn.Linear:
    """A linear layer whose weight starts as N(0, 0.01²) and whose bias starts as zeros."""
    fc = nn.Linear(features, classes)
    nn.init.normal_(fc.weight, std=0.01)
    nn.init.zeros_(fc.bias)
    return fc


class NFResNet(nn.Module):
    """A stem, stages of pre-activation blocks, activation, global average pooling, ``fc``.

    Args:
        depths: blocks of each stage; stages after the first halve height and width.
        channels: output channels of each stage.
        num_classes: outputs of ``fc``.
        stem_channels: output channels of the stem.
        images: ``imagenet`` (7×7 convolution with stride 2, 3×3 max pooling with stride 2) or
            ``cifar`` (3×3 convolution).
        bottleneck: blocks of 1×1, 3×3, 1×1 convolutions, a quarter as wide inside; otherwise of
            two 3×3 convolutions.
        kind: ``nf``, ``bn``, ``plain``, ``skipinit`` or ``gn``, see the top of this module.
        activation: a key of :data:`nbrepro.layers.GAMMA` except ``glu``.
        dropout: probability before ``fc``.
        stochastic_depth: block i of n is dropped with probability ``stochastic_depth · i / n``.
        padding_mode: of every convolution; ``circular`` for signal propagation plots.
        alpha: growth of the residual stream per block (``nf``).
        skip_gain: start of the SkipInit scalars, None for a network without them (``nf``,
            ``skipinit``).
        standardize: if false, plain weights, and activations without γ (``nf``).
        fold: fold γ, β, α and SkipInit into the gains (``nf``, with ``standardize``).
        order: ``bn-relu``, the authors' baseline, or ``relu-bn`` (``bn``).
        ghost_batch: images that the statistics see at a time, 0 for the whole batch (``bn``); see
            :class:`nbrepro.layers.GhostBatchNorm2d`.

    Raises:
        ValueError: for an unknown name or a probability outside [0, 1].
    """

    def __init__(
        self,
        depths: Sequence[int],
        channels: Sequence[int],
        num_classes: int,
        *,
        stem_channels: int,
        images: str = "imagenet",
        bottleneck: bool = True,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        **design_options: object,
    ) -> None:
        super().__init__()
        design = Design(**design_options)  # type: ignore[arg-type]
        if choose("images", images, ("imagenet", "cifar")) == "imagenet":
            stem = [
                ("conv", design.convolution(3, stem_channels, 7, stride=2, beta=None)),
                ("pool", SameMaxPool2d(3, 2)),
            ]
        else:
            stem = [("conv", design.convolution(3, stem_channels, 3, beta=None))]
        self.stem = nn.Sequential(OrderedDict(stem))
        self.blocks = nn.Sequential()
        width, betas = stem_channels, expected_stds(depths, design.alpha)
        for stage, wider in enumerate(channels):
            for index, beta in enumerate(betas[stage]):
                self.blocks.append(
                    Block(
                        width,
                        wider,
                        2 if stage > 0 and index == 0 else 1,
                        design,
                        bottleneck=bottleneck,
                        beta=beta,
                        stochastic_depth=stochastic_depth * len(self.blocks) / sum(depths),
                    )
                )
                width = wider
        self.act = replace(design, fold=False).preactivation(width)  # no convolution follows
        self.dropout = nn.Dropout(dropout)
        self.fc = classifier(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W]`` → logits ``[N, num_classes]``."""
        x = self.act(self.blocks(self.stem(x)))
        logits: Tensor = self.fc(self.dropout(x.mean(dim=(2, 3))))
        return logits


def build(name: str, num_classes: int, **options: object) -> NFResNet:
    """Build the named ImageNet network; ``options`` as in :class:`NFResNet`."""
    return NFResNet(
        FAMILY.depths[FAMILY.size_of(name).depth],
        (256, 512, 1024, 2048),
        num_classes,
        stem_channels=64,
        kind=KINDS[FAMILY.parse(name)["kind"]],
        **options,  # type: ignore[arg-type]
    )

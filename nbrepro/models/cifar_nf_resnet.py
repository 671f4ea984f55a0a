"""NF-ResNets for 32×32 images and their twins (see :mod:`nbrepro.models.nf_resnet`).

The papers have no CIFAR networks; these are the classic CIFAR ResNets (arXiv 1512.03385, section
4.2; bottlenecks as in arXiv 1603.05027) made of the papers' blocks: a 3×3 stem with 16w channels
and three stages of n blocks, w the width multiple.

===========================  ==========================  ============================
name                         depth                       output channels of the stages
===========================  ==========================  ============================
``cifar_nf_resnet20x2``      6n + 2, two 3×3 a block     16w, 32w, 64w
``cifar_nf_resnet29bx2``     9n + 2, bottlenecks         64w, 128w, 256w
===========================  ==========================  ============================
"""

import re

from nbrepro.models import nf_resnet
from nbrepro.models.nf_resnet import KINDS, NFResNet

PREFIX = tuple(f"{kind}cifar_nf_resnet" for kind in KINDS)
OPTIONS = nf_resnet.OPTIONS
NAMES = [f"{kind}cifar_nf_resnet{size}" for size in ("20", "56", "29bx2") for kind in KINDS]


def parse(name: str) -> tuple[str, int, bool, int]:
    """``bn_cifar_nf_resnet29bx2`` → ``("bn", 3, True, 2)``.

    Returns:
        Kind of network, blocks a stage, whether they are bottlenecks, width multiple.

    Raises:
        ValueError: if the name or the depth is impossible, naming the nearest possible depths.
    """
    match = re.fullmatch(r"(bn_|plain_|)cifar_nf_resnet(0|[1-9]\d*)(b?)(?:x([1-9]\d*))?", name)
    if match is None:
        raise ValueError(
            f"unknown model {name!r}: write cifar_nf_resnet<depth>, then b for bottleneck blocks, "
            "then x<width>, and bn_ or plain_ in front for a twin; for example cifar_nf_resnet20 "
            "or bn_cifar_nf_resnet29bx2."
        )
    depth, bottleneck = int(match[2]), bool(match[3])
    layers = 9 if bottleneck else 6
    blocks, rest = divmod(depth - 2, layers)
    if rest or blocks < 1:
        near = sorted({layers * max(blocks, 1) + 2, layers * (max(blocks, 0) + 1) + 2})
        raise ValueError(
            f"unknown model {name!r}: with {'bottleneck' if bottleneck else 'basic'} blocks the "
            f"depth is {layers}n + 2; nearest to {depth}: {' and '.join(map(str, near))}."
        )
    return KINDS[match[1]], blocks, bottleneck, int(match[4] or 1)


def build(name: str, num_classes: int, **options: object) -> NFResNet:
    """Build the named network; ``options`` as in :class:`NFResNet`."""
    kind, blocks, bottleneck, width = parse(name)
    nf_resnet.check_options(name, kind, options)
    first = (64 if bottleneck else 16) * width
    return NFResNet(
        (blocks,) * 3,
        (first, 2 * first, 4 * first),
        num_classes,
        stem_channels=16 * width,
        images="cifar",
        bottleneck=bottleneck,
        kind=kind,
        **options,  # type: ignore[arg-type]
    )

"""NF-ResNets for 32×32 images and their twins (see :mod:`nbrepro.models.nf_resnet`).

The papers have no CIFAR networks; these are the classic CIFAR ResNets (arXiv 1512.03385, section
4.2; bottlenecks as in arXiv 1603.05027) made of the papers' blocks: a 3×3 stem with 16w channels
and three stages of n blocks, w the width multiple.

===========================  ==========================  ============================
name                         depth                       output channels of the stages
===========================  ==========================  ============================
``cifar_nf_resnet20x2``      6n + 2, two 3×3 per block   16w, 32w, 64w
``cifar_nf_resnet29bx2``     9n + 2, bottlenecks         64w, 128w, 256w
===========================  ==========================  ============================
"""

from nbrepro.models.family import Family
from nbrepro.models.nf_resnet import KINDS, NFResNet

FAMILY = Family(
    names=(
        "cifar_nf_resnet20",
        "bn_cifar_nf_resnet20",
        "plain_cifar_nf_resnet20",
        "skipinit_cifar_nf_resnet20",
        "gn_cifar_nf_resnet20",
        "cifar_nf_resnet56",
        "bn_cifar_nf_resnet56",
        "plain_cifar_nf_resnet56",
        "cifar_nf_resnet29bx2",
        "bn_cifar_nf_resnet29bx2",
        "plain_cifar_nf_resnet29bx2",
    ),
    stem="cifar_nf_resnet",
    size=r"(?P<depth>0|[1-9]\d*)(?P<block>b?)(?:x(?P<width>[1-9]\d*))?",
    usage="write cifar_nf_resnet<depth>, then b for bottleneck blocks, then x<width>, and bn_, "
    "plain_, skipinit_ or gn_ in front for a twin; for example cifar_nf_resnet20 or "
    "bn_cifar_nf_resnet29bx2",
    kinds={"": "NF-", "bn_": "BN-", "plain_": "plain ", "skipinit_": "SkipInit-", "gn_": "GN-"},
    label="ResNet-{depth}{block}",
    depth_rules={
        "": (6, "with basic blocks the depth is 6n + 2"),
        "b": (9, "with bottleneck blocks the depth is 9n + 2"),
    },
    options=("activation", "dropout", "stochastic_depth", "padding_mode"),
    kind_options={
        "": ("alpha", "skip_gain", "standardize", "fold"),
        "bn_": ("order", "ghost_batch"),
        "skipinit_": ("skip_gain",),
        "gn_": ("order",),
    },
)


def build(name: str, num_classes: int, **options: object) -> NFResNet:
    """Build the named network; ``options`` as in :class:`NFResNet`."""
    parts, (depth, width) = FAMILY.parse(name), FAMILY.size_of(name)
    bottleneck = parts["block"] == "b"
    first = (64 if bottleneck else 16) * width
    return NFResNet(
        ((depth - 2) // (9 if bottleneck else 6),) * 3,
        (first, 2 * first, 4 * first),
        num_classes,
        stem_channels=16 * width,
        images="cifar",
        bottleneck=bottleneck,
        kind=KINDS[parts["kind"]],
        **options,  # type: ignore[arg-type]
    )

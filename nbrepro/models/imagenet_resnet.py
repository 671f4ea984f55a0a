"""ResNets for ImageNet, as in arXiv 2003.00152 (Table 1) and its released code.

A 7×7 stem with stride 2, 3×3 max pooling, four stages of residual blocks with 64, 128, 256 and 512
channels, global average pooling and one linear layer. Blocks have two 3×3 convolutions (depths 18
and 34) or are bottlenecks whose output is four times as wide; a bottleneck's stride is in its 3×3
convolution, as in torchvision, whose class the released code derives from; He et al. (2015) have it
in the first 1×1. Depth 200 has 3, 24, 36 and 3 blocks. Module names follow torchvision, so its
state dicts load as they are. Weights, γ and β start as in that study (see
:mod:`nbrepro.models.initializers`), not as in torchvision.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from nbrepro.layers import ResidualBlock
from nbrepro.models.family import Family
from nbrepro.models.initializers import initialize

FAMILY = Family(
    names=("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200"),
    stem="resnet",
    size=r"(?P<depth>0|[1-9]\d*)",
    usage="write resnet<depth>, for example resnet50; networks for CIFAR are cifar_resnet<depth>",
    label="ImageNet ResNet-{depth}",
    depths={
        18: (2, 2, 2, 2),
        34: (3, 4, 6, 3),
        50: (3, 4, 6, 3),
        101: (3, 4, 23, 3),
        152: (3, 8, 36, 3),
        200: (3, 24, 36, 3),
    },
    options=("weight_init", "batchnorm_init"),
)

#: From this depth on, blocks are bottlenecks.
BOTTLENECK = 50


class _Block(ResidualBlock):
    """``relu(residual(x) + downsample(x))``, where ``downsample`` is None for the identity."""

    downsample: nn.Module | None

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` → ``[N, C', H / stride, W / stride]``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.residual(x) + shortcut)

    @property
    def projects(self) -> bool:
        """Whether the shortcut is a convolution."""
        return self.downsample is not None


class BasicBlock(_Block):
    """Two 3×3 convolutions."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = projection(channels_in, channels, stride)

    def residual(self, x: Tensor) -> Tensor:
        """``bn2(conv2(relu(bn1(conv1(x)))))``."""
        out: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return out


class Bottleneck(_Block):
    """1×1, 3×3 and 1×1 convolutions; the last is four times as wide."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        wide = channels * self.expansion
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.downsample = projection(channels_in, wide, stride)

    def residual(self, x: Tensor) -> Tensor:
        """``bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x))))))))``."""
        x = F.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(x)))))
        return out


def projection(channels_in: int, channels: int, stride: int) -> nn.Sequential | None:
    """A strided 1×1 convolution and BatchNorm; None where the shape does not change."""
    if stride == 1 and channels_in == channels:
        return None
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
    )


def stage(
    block: type[BasicBlock] | type[Bottleneck], blocks: int, before: int, channels: int, stride: int
) -> nn.Sequential:
    """Blocks in a row; the first has the stride, and ``before`` input channels."""
    wide = channels * block.expansion
    first = block(before, channels, stride)
    return nn.Sequential(first, *(block(wide, channels, 1) for _ in range(blocks - 1)))


class ImageNetResNet(nn.Module):
    """Stem, four stages, classifier; see the top of this module.

    Args:
        depths: blocks of each stage.
        block: what the stages are made of.
        num_classes: outputs of ``fc``.
        weight_init: how weights start.
        batchnorm_init: how γ and β start.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        block: type[BasicBlock] | type[Bottleneck],
        num_classes: int = 1000,
        *,
        weight_init: str = "kaiming_normal",
        batchnorm_init: str = "uniform",
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        wide = block.expansion
        self.layer1 = stage(block, depths[0], 64, 64, 1)
        self.layer2 = stage(block, depths[1], 64 * wide, 128, 2)
        self.layer3 = stage(block, depths[2], 128 * wide, 256, 2)
        self.layer4 = stage(block, depths[3], 256 * wide, 512, 2)
        self.fc = nn.Linear(512 * wide, num_classes)
        initialize(self, weight_init, batchnorm_init)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W]`` → logits ``[N, num_classes]``."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


def build(name: str, num_classes: int, **options: str) -> ImageNetResNet:
    """Build the named network; ``options`` are ``weight_init`` and ``batchnorm_init``."""
    depth = FAMILY.size_of(name).depth
    block = Bottleneck if depth >= BOTTLENECK else BasicBlock
    return ImageNetResNet(FAMILY.depths[depth], block, num_classes, **options)

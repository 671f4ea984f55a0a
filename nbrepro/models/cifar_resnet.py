"""ResNets for 32×32 images, as in arXiv 2003.00152 (section 3, Table 1) and its released code.

A 3×3 stem, three stages of n basic blocks with 16w, 32w and 64w channels (depth 6n + 2, width
multiple w), global average pooling and one linear layer. BatchNorm precedes the activation. Where
the shape changes, the shortcut is a strided 1×1 convolution with a BatchNorm of its own;
He et al. (2015) used a parameter-free shortcut there. Module names follow the released code, so
its state dicts load as they are.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from nbrepro.layers import ResidualBlock
from nbrepro.models.family import Family
from nbrepro.models.initializers import initialize

FAMILY = Family(
    names=(
        "cifar_resnet14",
        "cifar_resnet20",
        "cifar_resnet32",
        "cifar_resnet56",
        "cifar_resnet110",
        "cifar_resnet218",
        "cifar_resnet434",
        "cifar_resnet866",
        "cifar_resnet14x2",
        "cifar_resnet14x4",
        "cifar_resnet14x8",
        "cifar_resnet14x16",
        "cifar_resnet14x32",
    ),
    stem="cifar_resnet",
    size=r"(?P<depth>0|[1-9]\d*)(?:x(?P<width>[1-9]\d*))?",
    usage="write cifar_resnet<depth> or cifar_resnet<depth>x<width>, "
    "for example cifar_resnet14 or cifar_resnet14x4",
    label="ResNet-{depth}",
    depth_rules={"": (6, "a CIFAR ResNet has depth 6n + 2")},
    options=("weight_init", "batchnorm_init"),
)


class BasicBlock(ResidualBlock):
    """``relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))``."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels:
            self.shortcut.append(nn.Conv2d(channels_in, channels, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, channels_in, H, W]`` → ``[N, channels, H / stride, W / stride]``."""
        return F.relu(self.residual(x) + self.shortcut(x))

    def residual(self, x: Tensor) -> Tensor:
        """``bn2(conv2(relu(bn1(conv1(x)))))``."""
        out: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return out

    @property
    def projects(self) -> bool:
        """Whether the shortcut is a convolution."""
        return len(self.shortcut) > 0


class CifarResNet(nn.Module):
    """Depth ``6 * blocks + 2``, ``16 * width`` channels in the first stage."""

    def __init__(
        self,
        blocks: int,
        width: int = 1,
        num_classes: int = 10,
        *,
        weight_init: str = "kaiming_normal",
        batchnorm_init: str = "uniform",
    ) -> None:
        super().__init__()
        channels = 16 * width
        self.conv = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.blocks = nn.Sequential()
        for stage in range(3):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                wider = 16 * width * 2**stage
                self.blocks.append(BasicBlock(channels, wider, stride))
                channels = wider
        self.fc = nn.Linear(channels, num_classes)
        initialize(self, weight_init, batchnorm_init)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W]`` → logits ``[N, num_classes]``."""
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


def build(name: str, num_classes: int, **options: str) -> CifarResNet:
    """Build the named network; ``options`` are ``weight_init`` and ``batchnorm_init``."""
    depth, width = FAMILY.size_of(name)
    return CifarResNet((depth - 2) // 6, width, num_classes, **options)

"""DenseNets for 32×32 images (Huang et al., arXiv 1608.06993), in their DenseNet-BC form.

A 3×3 stem with 24 channels, three dense blocks of n layers, BatchNorm, ReLU, global average pooling
and one linear layer (depth 6n + 4). A layer (BatchNorm, ReLU, 1×1 convolution to 48 channels,
BatchNorm, ReLU, 3×3 convolution to 12) appends its 12 channels to its input. Between blocks,
BatchNorm, ReLU, a 1×1 convolution to half as many channels and 2×2 average pooling. The growth rate
is 12 throughout: ``cifar_densenet_bc100`` is that paper's network with 0.8 million parameters.

arXiv 2003.00152 cites an earlier result of training only BatchNorm in a DenseNet whose size it does
not give (Rosenfeld and Tsotsos, arXiv 1802.00844). Weights, γ and β start as in that study. Module
names inside blocks follow torchvision.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbrepro.models.family import Family
from nbrepro.models.initializers import initialize

FAMILY = Family(
    names=("cifar_densenet_bc40", "cifar_densenet_bc100"),
    stem="cifar_densenet_bc",
    size=r"(?P<depth>0|[1-9]\d*)",
    usage="write cifar_densenet_bc<depth>, for example cifar_densenet_bc100",
    label="DenseNet-BC-{depth}",
    depths={
        22: (3, 3, 3),
        40: (6, 6, 6),
        100: (16, 16, 16),
    },
    options=("weight_init", "batchnorm_init"),
)

GROWTH = 12


class DenseLayer(nn.Module):
    """Appends :data:`GROWTH` channels to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * GROWTH, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * GROWTH)
        self.conv2 = nn.Conv2d(4 * GROWTH, GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` → ``[N, C + GROWTH, H, W]``."""
        out = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(out)))], dim=1)


class Transition(nn.Module):
    """Half as many channels at half the side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` → ``[N, C / 2, H / 2, W / 2]``."""
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


class CifarDenseNet(nn.Module):
    """Dense blocks and transitions, see the top of this module.

    Args:
        depths: layers of each dense block.
        num_classes: outputs of ``fc``.
        weight_init: how weights start.
        batchnorm_init: how γ and β start.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        num_classes: int = 10,
        *,
        weight_init: str = "kaiming_normal",
        batchnorm_init: str = "uniform",
    ) -> None:
        super().__init__()
        channels = 2 * GROWTH
        self.conv = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.features = nn.Sequential()
        for block, layers in enumerate(depths):
            if block > 0:
                self.features.append(Transition(channels))
                channels //= 2
            for _ in range(layers):
                self.features.append(DenseLayer(channels))
                channels += GROWTH
        self.norm = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        initialize(self, weight_init, batchnorm_init)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W]`` → logits ``[N, num_classes]``."""
        x = F.relu(self.norm(self.features(self.conv(x))))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


def build(name: str, num_classes: int, **options: str) -> CifarDenseNet:
    """Build the named network; ``options`` are ``weight_init`` and ``batchnorm_init``."""
    return CifarDenseNet(FAMILY.depths[FAMILY.size_of(name).depth], num_classes, **options)

"""VGG networks for 32×32 images with BatchNorm, as in the released code of arXiv 2003.00152.

Five groups of 3×3 convolutions with 64, 128, 256, 512 and 512 channels, each with a bias, BatchNorm
and ReLU; 2×2 max pooling between the groups, global average pooling and one linear layer. The
number in the name is that of the original networks (arXiv 1409.1556), which have three linear
layers: there are two weighted layers fewer. Biases of convolutions keep PyTorch's uniform draw.

Differences from the released code: pooling keeps an odd last row and column, so that images of any
size will do (the same for sides that 16 divides), and modules have other names.
"""

from torch import Tensor, nn

from nbrepro.models.family import Family
from nbrepro.models.initializers import initialize

FAMILY = Family(
    names=("cifar_vgg11", "cifar_vgg13", "cifar_vgg16", "cifar_vgg19"),
    stem="cifar_vgg",
    size=r"(?P<depth>0|[1-9]\d*)",
    usage="write cifar_vgg<number>, for example cifar_vgg16",
    label="VGG-{depth}",
    depths={
        11: (1, 1, 2, 2, 2),
        13: (2, 2, 2, 2, 2),
        16: (2, 2, 3, 3, 3),
        19: (2, 2, 4, 4, 4),
    },
    options=("weight_init", "batchnorm_init"),
)

CHANNELS = (64, 128, 256, 512, 512)


class CifarVGG(nn.Module):
    """Convolutions in groups, see the top of this module.

    Args:
        depths: convolutions of each group.
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
        self.features = nn.Sequential()
        before = 3
        for group, (convolutions, channels) in enumerate(zip(depths, CHANNELS, strict=True)):
            if group > 0:
                self.features.append(nn.MaxPool2d(2, ceil_mode=True))
            for _ in range(convolutions):
                self.features.append(nn.Conv2d(before, channels, 3, padding=1))
                self.features.append(nn.BatchNorm2d(channels))
                self.features.append(nn.ReLU())
                before = channels
        self.fc = nn.Linear(before, num_classes)
        initialize(self, weight_init, batchnorm_init)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W]`` → logits ``[N, num_classes]``."""
        logits: Tensor = self.fc(self.features(x).mean(dim=(2, 3)))
        return logits


def build(name: str, num_classes: int, **options: str) -> CifarVGG:
    """Build the named network; ``options`` are ``weight_init`` and ``batchnorm_init``."""
    return CifarVGG(FAMILY.depths[FAMILY.size_of(name).depth], num_classes, **options)

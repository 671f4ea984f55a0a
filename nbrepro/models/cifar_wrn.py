"""Wide ResNets for 32×32 images (Zagoruyko and Komodakis, arXiv 1605.07146), without dropout.

A 3×3 stem with 16 channels, three stages of n pre-activation blocks with 16w, 32w and 64w channels
(depth 6n + 4, width multiple w), BatchNorm, ReLU, global average pooling and one linear layer.
Where the shape changes, the shortcut is a strided 1×1 convolution of the activated signal, without
a BatchNorm of its own. ``cifar_wrn28x10`` is WRN-28-10.

arXiv 2003.00152 cites an earlier result of training only BatchNorm in an unnamed Wide ResNet
(Rosenfeld and Tsotsos, arXiv 1802.00844); its own WRN-14-W are ``cifar_resnet14x<W>``, which have
BatchNorm after each convolution. Weights, γ and β start as in that study.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from nbrepro.layers import ResidualBlock
from nbrepro.models.family import Family
from nbrepro.models.initializers import initialize

FAMILY = Family(
    names=("cifar_wrn16x4", "cifar_wrn28x10"),
    stem="cifar_wrn",
    size=r"(?P<depth>0|[1-9]\d*)(?:x(?P<width>[1-9]\d*))?",
    usage="write cifar_wrn<depth>x<width>, for example cifar_wrn28x10",
    label="WRN-{depth}",
    depths={
        10: (1, 1, 1),
        16: (2, 2, 2),
        22: (3, 3, 3),
        28: (4, 4, 4),
        40: (6, 6, 6),
    },
    options=("weight_init", "batchnorm_init"),
)


class Block(ResidualBlock):
    """``shortcut + conv2(relu(bn2(conv1(relu(bn1(x))))))``."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, channels_in, H, W]`` → ``[N, channels, H / stride, W / stride]``."""
        active = F.relu(self.bn1(x))
        return self._branch(active) + (x if self.shortcut is None else self.shortcut(active))

    def residual(self, x: Tensor) -> Tensor:
        """``conv2(relu(bn2(conv1(relu(bn1(x))))))``."""
        return self._branch(F.relu(self.bn1(x)))

    def _branch(self, active: Tensor) -> Tensor:
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out

    @property
    def projects(self) -> bool:
        """Whether the shortcut is a convolution."""
        return self.shortcut is not None


class CifarWRN(nn.Module):
    """Three stages of pre-activation blocks, see the top of this module.

    Args:
        depths: blocks of each stage.
        width: channels of the first stage in units of 16.
        num_classes: outputs of ``fc``.
        weight_init: how weights start.
        batchnorm_init: how γ and β start.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        width: int,
        num_classes: int = 10,
        *,
        weight_init: str = "kaiming_normal",
        batchnorm_init: str = "uniform",
    ) -> None:
        super().__init__()
        channels = 16
        self.conv = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.blocks = nn.Sequential()
        for stage, blocks in enumerate(depths):
            for index in range(blocks):
                wider = 16 * width * 2**stage
                self.blocks.append(Block(channels, wider, 2 if stage > 0 and index == 0 else 1))
                channels = wider
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        initialize(self, weight_init, batchnorm_init)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W]`` → logits ``[N, num_classes]``."""
        x = F.relu(self.bn(self.blocks(self.conv(x))))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


def build(name: str, num_classes: int, **options: str) -> CifarWRN:
    """Build the named network; ``options`` are ``weight_init`` and ``batchnorm_init``."""
    depth, width = FAMILY.size_of(name)
    return CifarWRN(FAMILY.depths[depth], width, num_classes, **options)

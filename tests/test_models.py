import math
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models as vision

from nbrepro import freezing, models
from nbrepro.models.family import Family, read
from nbrepro.spec import BATCHNORM_INITS, WEIGHT_INITS, Spec

# all, batchnorm, output, shortcut: recomputed from the architecture (claim sheet, section 2)
COUNTS = {
    "cifar_resnet14": (175_258, 1_120, 650, 2_560),
    "cifar_resnet20": (272_474, 1_568, 650, 2_560),
    "cifar_resnet32": (466_906, 2_464, 650, 2_560),
    "cifar_resnet56": (855_770, 4_256, 650, 2_560),
    "cifar_resnet110": (1_730_714, 8_288, 650, 2_560),
    "cifar_resnet218": (3_480_602, 16_352, 650, 2_560),
    "cifar_resnet434": (6_980_378, 32_480, 650, 2_560),
    "cifar_resnet866": (13_979_930, 64_736, 650, 2_560),
    "cifar_resnet14x2": (696_618, 2_240, 1_290, 10_240),
    "cifar_resnet14x4": (2_777_674, 4_480, 2_570, 40_960),
    "cifar_resnet14x8": (11_093_130, 8_960, 5_130, 163_840),
    "cifar_resnet14x16": (44_337_418, 17_920, 10_250, 655_360),
    "cifar_resnet14x32": (177_279_498, 35_840, 20_490, 2_621_440),
    "resnet18": (11_689_512, 9_600, 513_000, 172_032),
    "resnet34": (21_797_672, 17_024, 513_000, 172_032),
    "resnet50": (25_557_032, 53_120, 2_049_000, 2_768_896),
    "resnet101": (44_549_160, 105_344, 2_049_000, 2_768_896),
    "resnet152": (60_192_808, 151_424, 2_049_000, 2_768_896),
    "resnet200": (64_673_832, 176_000, 2_049_000, 2_768_896),
    "cifar_vgg11": (9_231_114, 5_504, 5_130, 0),
    "cifar_vgg13": (9_416_010, 5_888, 5_130, 0),
    "cifar_vgg16": (14_728_266, 8_448, 5_130, 0),
    "cifar_vgg19": (20_040_522, 11_008, 5_130, 0),
    # as their own papers print them, rounded: 36.5M, 2.7M (arXiv 1605.07146), 0.8M (1608.06993)
    "cifar_wrn28x10": (36_479_194, 17_952, 6_410, 258_560),
    "cifar_wrn16x4": (2_748_890, 3_616, 2_570, 41_984),
    "cifar_densenet_bc40": (176_122, 5_088, 1_330, 0),
    "cifar_densenet_bc100": (769_162, 23_988, 3_430, 0),
}
#: The families of the BatchNorm-only study, and of the earlier result that it cites.
STUDIED = ("cifar_resnet", "resnet", "cifar_vgg", "cifar_wrn", "cifar_densenet")


class ReferenceBlock(nn.Module):
    def __init__(self, f_in: int, f_out: int, downsample: bool) -> None:
        super().__init__()
        stride = 2 if downsample else 1
        self.conv1 = nn.Conv2d(f_in, f_out, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(f_out)
        self.conv2 = nn.Conv2d(f_out, f_out, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(f_out)
        self.shortcut = nn.Sequential()
        if downsample:
            self.shortcut = nn.Sequential(
                nn.Conv2d(f_in, f_out, kernel_size=1, stride=2, bias=False), nn.BatchNorm2d(f_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out = out + self.shortcut(x)
        return F.relu(out)


class Reference(nn.Module):
    """The authors' architecture, written down again from its description."""

    def __init__(self, plan: list[tuple[int, int]], outputs: int = 10) -> None:
        super().__init__()
        current = plan[0][0]
        self.conv = nn.Conv2d(3, current, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(current)
        blocks = []
        for segment, (channels, count) in enumerate(plan):
            for index in range(count):
                blocks.append(ReferenceBlock(current, channels, segment > 0 and index == 0))
                current = channels
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(plan[-1][0], outputs)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn(self.conv(x)))
        out = self.blocks(out)
        out = F.avg_pool2d(out, out.size()[3])
        return self.fc(out.view(out.size(0), -1))


def test_the_papers_networks_are_listed() -> None:
    assert {name for name in models.names() if name.startswith(STUDIED)} == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_by_group(name: str) -> None:
    with torch.device("meta"):
        counts = freezing.count(models.create(name, 1000 if name.startswith("resnet") else 10))
    assert tuple(counts[g] for g in ("all", "batchnorm", "output", "shortcut")) == COUNTS[name]
    assert counts["gamma"] == counts["beta"] == counts["batchnorm"] // 2
    assert sum(counts[g] for g in ("batchnorm", "output", "shortcut", "other")) == counts["all"]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("cifar_resnet8", [(16, 1), (32, 1), (64, 1)]),
        ("cifar_resnet20", [(16, 3), (32, 3), (64, 3)]),
        ("cifar_resnet14x2", [(32, 2), (64, 2), (128, 2)]),
    ],
)
def test_same_function_as_an_independent_reference(
    name: str, plan: list[tuple[int, int]], training: bool
) -> None:
    torch.manual_seed(0)
    model = models.create(name, batchnorm_init="positivenegative").double()
    reference = Reference(plan).double()
    for buffer in model.buffers():  # running statistics that differ from 0 and 1
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    reference.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    ours, theirs = model.train(training)(x), reference.train(training)(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for (key, a), b in zip(
        model.state_dict().items(), reference.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=key)


def shaken(model: nn.Module) -> nn.Module:
    """In double precision, with running statistics and biases that differ from 0 and 1."""
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.uniform_(parameter, -0.5, 0.5)
    return model.double()


def same_function(model: nn.Module, other: Callable[[Tensor], Tensor], side: int) -> None:
    x = torch.randn(2, 3, side, side, dtype=torch.float64)
    torch.testing.assert_close(model(x), other(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_imagenet_resnets_are_torchvisions(name: str, training: bool) -> None:
    """Weights for weights: its state dict loads as it is."""
    torch.manual_seed(0)
    model = shaken(models.create(name, 7)).train(training)
    theirs = vision.get_model(name, num_classes=7).double().train(training)
    theirs.load_state_dict(model.state_dict(), strict=True)
    same_function(model, theirs, 65)


@pytest.mark.parametrize("depth", [34, 101, 152, 200])
def test_deeper_imagenet_resnets_have_torchvisions_layers(depth: int) -> None:
    with torch.device("meta"):
        model = models.create(f"resnet{depth}", 1000)
        if depth == 200:  # not among theirs; the released code builds it from their class
            theirs = vision.ResNet(vision.resnet.Bottleneck, [3, 24, 36, 3])
        else:
            theirs = vision.get_model(f"resnet{depth}")

    def layers(network: nn.Module) -> dict[str, str]:
        return {
            path: repr(module)
            for path, module in network.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d)
        }

    assert layers(model) == layers(theirs)


@pytest.mark.parametrize(("name", "letter"), [("cifar_vgg11", "A"), ("cifar_vgg16", "D")])
def test_vgg_features_are_torchvisions(name: str, letter: str) -> None:
    torch.manual_seed(0)
    model = shaken(models.create(name)).eval()
    weight, bias = model.get_parameter("fc.weight"), model.get_parameter("fc.bias")
    theirs = vision.vgg.make_layers(vision.vgg.cfgs[letter], batch_norm=True)[:-1]
    theirs.double().eval().load_state_dict(model.features.state_dict(), strict=True)

    def released(x: Tensor) -> Tensor:
        pooled: Tensor = F.avg_pool2d(theirs(x), 2).flatten(1)
        return F.linear(pooled, weight, bias)

    same_function(model, released, 32)


@pytest.mark.parametrize("side", [8, 16, 28])
def test_vgg_takes_images_of_any_size(side: int) -> None:
    assert models.create("cifar_vgg11")(torch.zeros(2, 3, side, side)).shape == (2, 10)


def test_densenet_is_torchvisions_behind_a_small_stem() -> None:
    torch.manual_seed(0)
    model = shaken(models.create("cifar_densenet_bc40")).eval()
    theirs = vision.DenseNet(12, (6, 6, 6), 24, num_classes=10)
    theirs.features.conv0 = nn.Conv2d(3, 24, 3, padding=1, bias=False)
    for path in ("norm0", "relu0", "pool0"):
        setattr(theirs.features, path, nn.Identity())
    ours, keys = model.state_dict().values(), list(theirs.state_dict())
    theirs.double().eval().load_state_dict(dict(zip(keys, ours, strict=True)), strict=True)
    same_function(model, theirs, 32)


def test_wide_resnet_is_that_of_its_paper() -> None:
    """Written down again as one function of the weights."""
    torch.manual_seed(0)
    model = shaken(models.create("cifar_wrn16x2")).eval()
    state = model.state_dict()

    def active(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{leaf}"][:, None, None]
            for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * weight + bias).clamp(min=0)

    def paper(x: Tensor) -> Tensor:
        x = F.conv2d(x, state["conv.weight"], padding=1)
        for number in range(6):
            block, stride = f"blocks.{number}", 2 if number in (2, 4) else 1
            out = active(x, f"{block}.bn1")
            if number % 2 == 0:  # the first of a stage
                x = F.conv2d(out, state[f"{block}.shortcut.weight"], stride=stride)
            out = F.conv2d(out, state[f"{block}.conv1.weight"], stride=stride, padding=1)
            out = active(out, f"{block}.bn2")
            x = x + F.conv2d(out, state[f"{block}.conv2.weight"], padding=1)
        return F.linear(active(x, "bn").mean((2, 3)), state["fc.weight"], state["fc.bias"])

    same_function(model, paper, 32)


@pytest.mark.parametrize(
    "name", ["resnet18", "cifar_vgg11", "cifar_wrn10x2", "cifar_densenet_bc22", "cifar_resnet8"]
)
def test_every_start_of_the_study_reaches_every_network(name: str) -> None:
    for weight_init, batchnorm_init in zip(WEIGHT_INITS, BATCHNORM_INITS, strict=True):
        spec = Spec(model=name, weight_init=weight_init, batchnorm_init=batchnorm_init)
        torch.manual_seed(0)
        model = models.create(spec.model, 10, **spec.model_options())
        gammas, betas = _affine(model)
        assert betas.unique().tolist() == [float(batchnorm_init == "oneone")]
        assert bool((gammas < 0).any()) == (batchnorm_init == "positivenegative")
        assert (len(gammas.unique()) == 1) == (batchnorm_init in ("fixed", "oneone"))
        for path, weight in _weights(model).items():
            assert (len(weight.abs().unique()) == 1) == (weight_init == "binary"), path


def test_number_of_classes() -> None:
    assert models.create("cifar_resnet8", num_classes=7)(torch.zeros(2, 3, 8, 8)).shape == (2, 7)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.weight": module.weight.detach()
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def _affine(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Every γ and every β of the network."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    gamma, beta = (torch.cat([getattr(m, a) for m in norms]).detach() for a in ("weight", "bias"))
    return gamma, beta


def _he_std(weight: Tensor) -> float:
    return math.sqrt(2 / weight[0].numel())


def test_default_weights_are_he_normal() -> None:
    torch.manual_seed(0)
    for name, weight in _weights(models.create("cifar_resnet14x4")).items():
        n, std = weight.numel(), _he_std(weight)
        # four standard errors of each estimate; the kurtosis tells a normal from a uniform draw
        assert abs(weight.mean()) < 4 * std / math.sqrt(n), name
        assert abs(weight.std() / std - 1) < 4 / math.sqrt(2 * n), name
        kurtosis = (weight / std).pow(4).mean()
        assert abs(kurtosis - 3) < 4 * math.sqrt(96 / n), name


def test_linear_bias_keeps_pytorchs_uniform_draw() -> None:
    torch.manual_seed(0)
    bias = models.create("cifar_resnet8", num_classes=1000).fc.bias
    bound = 1 / math.sqrt(64)
    assert bias.abs().max() <= bound
    assert bias.abs().max() > 0.98 * bound
    assert abs(bias.mean()) < 4 * bound / math.sqrt(3 * 1000)


@pytest.mark.parametrize(
    ("init", "low", "high", "beta"),
    [("uniform", 0, 1, 0), ("fixed", 1, 1, 0), ("oneone", 1, 1, 1), ("positivenegative", -1, 1, 0)],
)
def test_batchnorm_init(init: str, low: int, high: int, beta: int) -> None:
    torch.manual_seed(0)
    options = {} if init == "uniform" else {"batchnorm_init": init}  # uniform is the default
    model = models.create("cifar_resnet14x4", 10, **options)
    gammas, betas = _affine(model)
    n, width = len(gammas), high - low
    assert bool((betas == beta).all())
    assert gammas.min() >= low
    assert gammas.max() <= high
    if width:
        assert gammas.max() < high  # U[low, high)
        error = width / math.sqrt(12 * n)
        assert abs(gammas.mean() - (low + high) / 2) < 4 * error
        assert abs(gammas.var() / (width**2 / 12) - 1) < 4 * math.sqrt(0.8 / n)


def test_kaiming_uniform_init() -> None:
    torch.manual_seed(0)
    for weight in _weights(models.create("cifar_resnet14", weight_init="kaiming_uniform")).values():
        bound = math.sqrt(3) * _he_std(weight)
        assert 0.95 * bound < weight.abs().max() <= bound


def test_orthogonal_init() -> None:
    torch.manual_seed(0)
    for name, weight in _weights(models.create("cifar_resnet8", weight_init="orthogonal")).items():
        flat = weight.flatten(1)
        flat = flat if len(flat) <= flat.shape[1] else flat.T
        torch.testing.assert_close(flat @ flat.T, torch.eye(len(flat)), atol=1e-5, rtol=0, msg=name)


def test_binary_init() -> None:
    torch.manual_seed(0)
    for name, weight in _weights(models.create("cifar_resnet14", weight_init="binary")).items():
        assert len(weight.abs().unique()) == 1, name
        std, n = _he_std(weight), weight.numel()
        assert abs(weight.abs().max() / std - 1) < 4 / math.sqrt(2 * n), name
        assert abs((weight > 0).float().mean() - 0.5) < 4 * 0.5 / math.sqrt(n), name


def test_seed_reproduces_and_distinguishes() -> None:
    def state(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(models.create("cifar_resnet8").parameters())

    assert torch.equal(state(3), state(3))
    assert not torch.equal(state(3), state(4))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar_resnet15", "14 and 20"),
        ("cifar_resnet108", "104 and 110"),
        ("cifar_resnet2", "nearest to 2: 8"),
        ("cifar_resnet0", "nearest to 0: 8"),
        ("cifar_resnet15x2", "14 and 20"),
        ("cifar_resnet14x0", "cifar_resnet<depth>x<width>"),
        ("cifar_resnet14x", "cifar_resnet<depth>x<width>"),
        ("cifar_resnet", "cifar_resnet<depth>"),
        ("cifar_resnet_14", "cifar_resnet<depth>"),
        ("cifar_resnet-4", "cifar_resnet<depth>"),
        ("resnet51", "nearest depths to 51: 34 and 50"),
        ("resnet", "write resnet<depth>"),
        ("cifar_vgg12", "known: 11, 13, 16, 19"),
        ("cifar_densenet40", "did you mean 'cifar_densenet_bc40'?"),
        ("cifar_resent14", "did you mean 'cifar_resnet14'?"),
        ("cifarresnet110", "did you mean 'cifar_resnet110'?"),
        ("", "unknown model ''"),
    ],
)
def test_bad_names_say_what_would_be_right(name: str, message: str) -> None:
    with pytest.raises(ValueError, match="unknown model") as caught:
        models.create(name)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "nearest"),
    [
        ({"batchnorm_init": "unifrom"}, "uniform"),
        ({"weight_init": "kaiming_norml"}, "kaiming_normal"),
    ],
)
def test_bad_options_name_the_nearest(options: dict[str, str], nearest: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{nearest}'"):
        models.create("cifar_resnet8", 10, **options)


FAMILIES = {
    path.stem: family
    for path in sorted(Path(models.__file__).parent.glob("*.py"))
    if (family := read(path)) is not None
}
LISTED = [(module, name) for module, family in FAMILIES.items() for name in family.names]
#: Every kind of block and of name, small enough to run.
SMALL = [
    *("cifar_resnet8", "cifar_resnet14x2"),
    *(f"{kind}cifar_nf_resnet{size}" for kind in ("", "bn_", "plain_") for size in ("8", "11bx2")),
    *("skipinit_cifar_nf_resnet8", "gn_cifar_nf_resnet8"),
    *(f"{kind}cifar_nfnet_f0" for kind in ("", "bn_", "plain_")),
    *("nf_resnet26", "resnet18", "resnet50", "cifar_densenet_bc22"),
    *("cifar_vgg11", "cifar_wrn10x2"),
]


@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        (None, 10, "a model has a name"),
        ("cifar_resnet8", "10", "num_classes is '10', expected a whole number"),
        ("cifar_resnet8", 10.0, "num_classes is 10.0"),
        ("cifar_resnet8", True, "num_classes is True"),
    ],
)
def test_what_is_no_name_or_number(name: Any, classes: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        models.create(name, classes)


def test_families_are_found_in_their_files() -> None:
    assert {"cifar_resnet", "cifar_nf_resnet", "nf_resnet", "nfnet"} <= set(FAMILIES)
    assert {"imagenet_resnet", "cifar_vgg", "cifar_wrn", "cifar_densenet"} <= set(FAMILIES)
    assert models.names() == [name for _, name in LISTED]
    for module, family in FAMILIES.items():
        loaded = import_module(f"nbrepro.models.{module}")
        assert family == loaded.FAMILY  # what is read is what is run
        assert callable(loaded.build)


@pytest.mark.parametrize(("module", "name"), LISTED)
def test_every_listed_name_conforms(module: str, name: str) -> None:
    family = FAMILIES[module]
    assert [m for m, other in FAMILIES.items() if other.claims(name)] == [module]
    models.check(name)
    assert models.label(name) != name
    assert min(models.size(name)) >= 0
    assert models.options(name) == family.options_of(name)
    with pytest.raises(ValueError, match=f"unknown option of {re.escape(name)} 'no_such_option'"):
        models.create(name, no_such_option=1)
    with torch.device("meta"):
        model = models.create(name, num_classes=7)
    assert isinstance(model.fc, nn.Linear)  # AGC leaves fc.weight out
    linear = [path for path, m in model.named_modules() if isinstance(m, nn.Linear)]
    assert linear[-1] == "fc"  # freezing and probes take the last one for the classifier
    assert model.fc.out_features == 7


@pytest.mark.parametrize("name", SMALL)
def test_shape_and_depth_of_what_is_built(name: str) -> None:
    with torch.device("meta"):
        model = models.create(name, num_classes=7)
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 7)
    # An NFNet's is its number; a VGG's counts two more linear layers, a WRN's its projections.
    if not re.search("nfnet|vgg|wrn", name):
        on_the_path = [
            path
            for path, module in model.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear)
            and not re.search("shortcut|downsample", path)
        ]
        assert len(on_the_path) == models.size(name).depth


def test_width_is_that_of_the_channels() -> None:
    with torch.device("meta"):
        for narrow, wide in (
            ("cifar_resnet8", "cifar_resnet8x3"),
            ("bn_cifar_nf_resnet11b", "bn_cifar_nf_resnet11bx3"),
        ):
            assert models.size(wide).width == 3 * models.size(narrow).width
            features = [models.create(name).fc.in_features for name in (narrow, wide)]
            assert features[1] == 3 * features[0]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("cifar_resnet14x2", "ResNet-14 ×2"),
        ("bn_cifar_nf_resnet29bx2", "BN-ResNet-29b ×2"),
        ("plain_nf_resnet50", "plain ResNet-50"),
        ("skipinit_cifar_nf_resnet20", "SkipInit-ResNet-20"),
        ("gn_cifar_nf_resnet20", "GN-ResNet-20"),
        ("nfnet_f4+", "NFNet-F4+"),
        ("resnet50", "ImageNet ResNet-50"),
        ("cifar_wrn28x10", "WRN-28 ×10"),
        ("bn_cifar_nfnet_f0", "BN-NFNet-F0"),
    ],
)
def test_names_for_readers(name: str, label: str) -> None:
    assert models.label(name) == label


def test_every_option_reaches_the_network() -> None:
    values = {"activation": "relu", "padding_mode": "zeros", "order": "bn-relu"} | {
        "weight_init": "orthogonal",
        "batchnorm_init": "fixed",
        "widths": (256, 256, 256, 256),
        "group_width": 32,
    }
    values |= dict.fromkeys(("second_conv", "round_bottleneck", "standardize"), True)
    values |= {"dropout": 0.1, "stochastic_depth": 0.1, "alpha": 0.2, "skip_gain": 0.1}
    for name in SMALL:
        for option in models.options(name):
            value = values.get(option, False)
            with torch.device("meta"):
                models.create(name, 10, **{option: value})


def test_options_of_a_twin_are_its_own() -> None:
    assert "skip_gain" in models.options("cifar_nf_resnet20")
    assert "skip_gain" not in models.options("bn_cifar_nf_resnet20")
    with pytest.raises(ValueError, match="skip_init is set, but bn_nf_resnet50 has no such option"):
        Spec(model="bn_nf_resnet50", skip_init=False)


@pytest.mark.parametrize(
    "text",
    [
        "FAMILY = 3",
        "FAMILY = Family(stem='net')",
        "FAMILY = Family(names=NAMES)",
        "FAMILY = Family(**{})",
        "FAMILY = Family(nmaes=())",
    ],
)
def test_a_family_that_cannot_be_read_names_its_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "new_net.py"
    path.write_text(f"import torch\n{text}\n")
    with pytest.raises(ValueError, match=r"new_net\.py: FAMILY must be Family"):
        read(path)


def test_a_file_without_a_family() -> None:
    assert read(Path(models.__file__)) is None


def test_depths_must_follow_the_familys_rule() -> None:
    family = Family(
        names=("net5",),
        stem="net",
        size=r"(?P<depth>\d+)",
        usage="write net<depth>",
        label="Net-{depth}",
        options=(),
        depth_rules={"": (3, "depth is 3n + 2")},
    )
    assert family.size_of("net11") == (11, 1)
    with pytest.raises(ValueError, match=r"'net6': depth is 3n \+ 2; nearest to 6: 5 and 8"):
        family.parse("net6")
    with pytest.raises(ValueError, match=r"unknown model 'net': write net<depth>\."):
        family.parse("net")


@pytest.mark.parametrize("classes", [0, -3])
def test_a_network_has_an_output(classes: int) -> None:
    with pytest.raises(ValueError, match=r"num_classes is .* at least 1"):
        models.create("cifar_resnet8", num_classes=classes)

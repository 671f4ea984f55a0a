from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nbrepro import freezing, models
from nbrepro.layers import GAMMA, ScaledStdConv2d
from nbrepro.models.nf_resnet import Block, Design, NFResNet

# The authors' networks, 1000 classes (claim sheet E-3; 26 is timm's count and 8 scalars).
COUNTS = {
    "nf_resnet26": 15_995_184,
    "nf_resnet50": 25_557_048,
    "nf_resnet101": 44_549_193,
    "nf_resnet152": 60_192_858,
    "nf_resnet200": 64_673_898,
    "nf_resnet288": 146_460_552,
    "nf_resnet600": 300_646_896,
    "bn_nf_resnet50": 25_549_352,  # timm's resnetv2_50
}


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _blocks(model: nn.Module) -> list[Block]:
    return [module for module in model.modules() if isinstance(module, Block)]


def _scramble(model: nn.Module) -> nn.Module:
    """Move every parameter that starts at a constant away from it."""
    for name, parameter in model.named_parameters():
        if name.endswith(("gain", "norm.weight")):
            nn.init.uniform_(parameter, 0.5, 1.5)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name: str) -> None:
    with torch.device("meta"):
        assert _parameters(models.create(name, num_classes=1000)) == COUNTS[name]


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("cifar_nf_resnet20", [(16, 3, 16), (32, 3, 16), (64, 3, 32)]),
        ("cifar_nf_resnet14x4", [(64, 2, 64), (128, 2, 64), (256, 2, 128)]),
        ("cifar_nf_resnet29bx2", [(128, 3, 32), (256, 3, 128), (512, 3, 256)]),
    ],
)
def test_cifar_parameter_counts(name: str, plan: list[tuple[int, int, int]]) -> None:
    """Layer by layer: ``plan`` has output channels, blocks and input channels of each stage."""

    def conv(inputs: int, outputs: int, kernel: int) -> int:
        return outputs * (inputs * kernel**2 + 2)  # weights, gain and bias

    stem = plan[0][2]
    total = conv(3, stem, 3) + plan[-1][0] * 10 + 10
    for width, blocks, inputs in plan:
        for _ in range(blocks):
            if "b" in name.removeprefix("cifar_nf_resnet"):
                inner = width // 4
                total += conv(inputs, inner, 1) + conv(inner, inner, 3) + conv(inner, width, 1)
            else:
                total += conv(inputs, width, 3) + conv(width, width, 3)
            if inputs != width:
                total += conv(inputs, width, 1)
            total += 1
            inputs = width
    with torch.device("meta"):
        assert _parameters(models.create(name)) == total


def test_betas_of_the_blocks() -> None:
    with torch.device("meta"):
        model = models.create("nf_resnet50")
        assert [round(block.beta, 6) for block in _blocks(model)] == [
            *(1, 1.019804, 1.039230),
            *(1.058301, 1.019804, 1.039230, 1.058301),
            *(1.077033, 1.019804, 1.039230, 1.058301, 1.077033, 1.095445),
            *(1.113553, 1.019804, 1.039230),
        ]
        for twin in ("bn_nf_resnet50", "plain_nf_resnet50"):
            assert {(b.alpha, b.beta, b.skip_gain) for b in _blocks(models.create(twin))} == {
                (1.0, 1.0, None)
            }


class Peer(nn.Module):
    """timm's network without its differences that have no option."""

    def __init__(self, name: str, **options: object) -> None:
        timm = pytest.importorskip("timm")
        super().__init__()
        self.net = timm.create_model(name, num_classes=7, **options)
        if name.startswith("nf_"):
            for module in self.net.modules():
                if type(module).__name__ == "DownsampleAvg" and not isinstance(
                    module.pool, nn.Identity
                ):
                    module.pool = nn.AvgPool2d(1, stride=2)  # every second position, no average
                if type(module).__name__ == "GammaAct":  # its in-place product breaks autograd
                    module.forward = lambda x: torch.relu(x) * GAMMA["relu"]

    def state(self, ours: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our state under timm's names and shapes."""
        state: dict[str, Tensor] = {}
        shapes = {name: value.shape for name, value in self.net.state_dict().items()}
        blocks = [
            name
            for name, module in self.net.named_modules()
            if type(module).__name__ in ("NormFreeBlock", "PreActBottleneck")
        ]
        for key, value in ours.items():
            if key.startswith("blocks."):
                _, index, rest = key.split(".", 2)
                key = f"{blocks[int(index)]}.{rest}"
            for ours_name, theirs in {
                ".branch.": ".",
                ".act1.norm.": ".norm1.",
                ".act2.norm.": ".norm2.",
                ".act3.norm.": ".norm3.",
                ".shortcut.": ".downsample.conv.",
                ".skip_gain": ".skipinit_gain",
            }.items():
                key = key.replace(ours_name, theirs)
            key = key.replace("act.norm.", "norm.") if key.startswith("act.") else key
            key = f"head.{key}" if key.startswith("fc.") else key
            state[key] = value.view(
                shapes[key]
            )  # gains, and a classifier that is a 1×1 convolution
        return state


@pytest.mark.parametrize("fold", [False, True])
def test_timm_is_the_same_function(fold: bool) -> None:
    """Odd sizes all the way down: there timm's symmetric padding is ``SAME``."""
    torch.manual_seed(0)
    options = {"gamma_in_act": True, "skipinit": True, "std_conv_eps": 1e-14}
    peer = Peer("nf_resnet26", **options).double()
    ours = _scramble(models.create("nf_resnet26", num_classes=7, fold=fold).double())
    _compare(ours, peer)


def test_batchnorm_twin_is_timms_preactivation_resnet() -> None:
    torch.manual_seed(0)
    peer = Peer("resnetv2_50", layers=(2, 2, 2, 2)).double()
    _compare(_scramble(models.create("bn_nf_resnet26", num_classes=7).double()), peer)


def _compare(ours: nn.Module, peer: Peer) -> None:
    peer.net.load_state_dict(peer.state(ours.state_dict()), strict=True)
    x = torch.randn(2, 3, 65, 65, dtype=torch.float64)
    outputs = ours(x), peer.net(x)
    torch.testing.assert_close(*outputs, rtol=1e-7, atol=1e-7)
    for output in outputs:
        output.square().sum().backward()
    gradients = peer.state({name: p.grad for name, p in ours.named_parameters()})
    for name, parameter in peer.net.named_parameters():
        scale = parameter.grad.abs().max().item()
        torch.testing.assert_close(
            gradients[name], parameter.grad, rtol=1e-6, atol=1e-7 * scale, msg=name
        )


def _forward(model: nn.Module, x: Tensor) -> Tensor:
    """NF bottlenecks from the paper's equation, on the state dict alone."""
    state: dict[str, Tensor] = dict(model.named_parameters())

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        w = state[f"{name}.weight"]
        fan_in = w[0].numel()
        centred = w - w.mean(dim=(1, 2, 3), keepdim=True)
        variance = centred.square().mean(dim=(1, 2, 3), keepdim=True)
        w = centred / (fan_in * variance).sqrt() * state[f"{name}.gain"].view(-1, 1, 1, 1)
        k = w.shape[-1]
        if k == 3:  # even sizes: one row and column in front only without a stride
            x = nn.functional.pad(x, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))
        return nn.functional.conv2d(x, w, state[f"{name}.bias"], stride)

    def g(x: Tensor) -> Tensor:
        return 1.7139588594436646 * x.clamp(min=0)

    h, variance = conv("stem.conv", x), 1.0
    for i, block in enumerate(_blocks(model)):
        out = g(h) / variance**0.5
        first = f"blocks.{i}.shortcut.weight" in state
        stride = 2 if first and i > 0 else 1
        shortcut = conv(f"blocks.{i}.shortcut", out, stride) if first else h
        convs = [f"blocks.{i}.branch.{name}" for name, _ in block.branch.named_children()]
        convs = [name for name in convs if f"{name}.weight" in state]
        strided = 1 if len(convs) == 3 else 0
        for j, name in enumerate(convs):
            out = conv(name, g(out) if j else out, stride if j == strided else 1)
        h = shortcut + 0.2 * state[f"blocks.{i}.skip_gain"] * out
        variance = (1.0 if first or i == 0 else variance) + 0.04
    return g(h).mean(dim=(2, 3)) @ state["fc.weight"].T + state["fc.bias"]


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("name", ["cifar_nf_resnet14", "cifar_nf_resnet20b"])
def test_same_function_as_the_equation(name: str, fold: bool) -> None:
    torch.manual_seed(0)
    model = _scramble(models.create(name, fold=fold).double())
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(model(x), _forward(model, x), rtol=1e-9, atol=1e-9)


def test_folding_changes_neither_gradients_nor_dropped_branches() -> None:
    x = torch.randn(8, 3, 16, 16, dtype=torch.float64)
    results = []
    for fold in (False, True):
        torch.manual_seed(1)
        options = {"fold": fold, "stochastic_depth": 0.9, "dropout": 0.5, "activation": "gelu"}
        model = _scramble(models.create("cifar_nf_resnet14", 10, **options).double())
        loss = model(x).square().sum()
        results.append(torch.autograd.grad(loss, list(model.parameters())))
    for separate, folded in zip(*results, strict=True):
        torch.testing.assert_close(folded, separate, rtol=1e-9, atol=1e-9)


def _saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps for the backward pass, parameters left out."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x).sum()
    for parameter in model.parameters():
        storages.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def test_folding_saves_memory() -> None:
    x = torch.randn(32, 3, 32, 32)
    folded, separate, batchnorm = (
        _saved_bytes(models.create(name, **options), x)
        for name, options in (
            ("cifar_nf_resnet20", {}),
            ("cifar_nf_resnet20", {"fold": False}),
            ("bn_cifar_nf_resnet20", {}),
        )
    )
    assert folded < 0.6 * separate
    assert folded < 0.7 * batchnorm < 0.7 * separate


def test_identity_at_the_start() -> None:
    torch.manual_seed(0)
    for name in ("cifar_nf_resnet20", "cifar_nf_resnet29b"):
        for block in _blocks(models.create(name)):
            x = torch.randn(2, next(block.branch.conv1.parameters()).shape[1], 8, 8)
            if block.shortcut is None:
                assert torch.equal(block(x), x)
            else:
                assert torch.equal(block(x), block.shortcut(block.act1(x)))
            assert block.skip_gain.shape == ()
    with torch.device("meta"):
        without = models.create("cifar_nf_resnet20", skip_gain=None)
        assert all(block.skip_gain is None for block in _blocks(without))
        assert _parameters(without) == _parameters(models.create("cifar_nf_resnet20")) - 9
    started = models.create("cifar_nf_resnet20", skip_gain=0.5)
    assert {block.skip_gain.item() for block in _blocks(started)} == {0.5}


def test_skipinit_adds_its_scalars_to_the_plain_network_and_nothing_else() -> None:
    """De and Smith's network (arXiv 2002.10444): with scalars of one it is the plain one."""

    def build(name: str, **options: Any) -> nn.Module:
        torch.manual_seed(0)
        return models.create(name, **options)

    plain, with_it = build("plain_cifar_nf_resnet14"), build("skipinit_cifar_nf_resnet14")
    images = torch.randn(2, 3, 16, 16)
    assert _parameters(with_it) == _parameters(plain) + 6
    assert not torch.allclose(with_it(images), plain(images))
    for block in _blocks(with_it):
        assert block.skip_gain.item() == 0
        nn.init.ones_(block.skip_gain)
    torch.testing.assert_close(with_it(images), plain(images))
    without = build("skipinit_cifar_nf_resnet14", skip_gain=None)
    torch.testing.assert_close(without(images), plain(images))


def test_group_norm_stands_where_batchnorm_stood_and_sees_one_image_at_a_time() -> None:
    torch.manual_seed(0)
    model = models.create("gn_cifar_nf_resnet14")
    names = {name for name, module in model.named_modules() if isinstance(module, nn.GroupNorm)}
    twin = models.create("bn_cifar_nf_resnet14")
    assert names == {n for n, m in twin.named_modules() if isinstance(m, nn.BatchNorm2d)}
    groups = {m.num_channels: m.num_groups for m in model.modules() if isinstance(m, nn.GroupNorm)}
    assert groups == {16: 1, 32: 2, 64: 4}  # of 16 channels each
    assert Design(kind="gn").preactivation(8).norm.num_groups == 1
    images = torch.randn(4, 3, 16, 16)
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), alone)


def test_start_of_the_other_parameters() -> None:
    torch.manual_seed(0)
    for kind in ("", "bn_", "plain_", "skipinit_", "gn_"):
        model = models.create(f"{kind}cifar_nf_resnet20x4", num_classes=100)
        assert model.fc.weight.std().item() == pytest.approx(0.01, rel=0.03)
        assert not model.fc.bias.any()
        for name, module in model.named_modules():
            if not isinstance(module, nn.Conv2d):
                continue
            fan_in = module.weight[0].numel()
            he = 1 if kind == "" or name.startswith("stem") else 2
            assert module.weight.std().item() == pytest.approx((he / fan_in) ** 0.5, rel=0.06), name
            assert (module.bias is None) == (kind in ("bn_", "gn_"))
            assert isinstance(module, ScaledStdConv2d) == (kind == "")


@pytest.mark.parametrize("name", ["cifar_nf_resnet20", "cifar_nf_resnet29bx2", "nf_resnet50"])
def test_twins_have_the_same_shapes(name: str) -> None:
    def shapes(model: nn.Module) -> dict[str, torch.Size]:
        found = {}
        for path, module in model.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                found[path] = module.weight.shape
                module.register_forward_hook(
                    lambda _, x, y, path=path: outputs.append((path, y.shape))
                )
        return found

    with torch.device("meta"):
        seen = []
        for twin in (name, f"bn_{name}", f"plain_{name}"):
            outputs: list[tuple[str, torch.Size]] = []
            model = models.create(twin)
            weights = shapes(model)
            model(torch.empty(2, 3, 32, 32))
            seen.append((weights, outputs))
        assert seen[0] == seen[1] == seen[2]
        plain = models.create(f"plain_{name}")
        assert freezing.count(models.create(f"bn_{name}"))["batchnorm"] > 0
        convolutions = sum(isinstance(m, nn.Conv2d) for m in plain.modules())
        nf = models.create(name)
        gains = sum(p.numel() for n, p in nf.named_parameters() if n.endswith(".gain"))
        blocks = len(_blocks(nf))
        assert _parameters(nf) - _parameters(plain) == gains + blocks
        assert convolutions == sum(isinstance(m, ScaledStdConv2d) for m in nf.modules())


def _statistics(model: nn.Module, x: Tensor) -> list[tuple[float, float, float]]:
    """Of every block: squared channel mean and channel variance of the output, and the variance at
    the end of the residual branch."""
    rows = []

    def variance(y: Tensor) -> float:
        return y.var(dim=(0, 2, 3)).mean().item()

    def hook(block: Block, inputs: tuple[Tensor], out: Tensor) -> None:
        branch = block.branch(block.act1(inputs[0]))
        rows.append(
            (out.mean(dim=(0, 2, 3)).square().mean().item(), variance(out), variance(branch))
        )

    for block in _blocks(model):
        block.register_forward_hook(hook)
    with torch.no_grad():
        model(x)
    return rows


def _signal(kind: str, **options: Any) -> list[tuple[float, float, float]]:
    torch.manual_seed(0)
    model = NFResNet(
        (6, 6),
        (256, 256),
        10,
        stem_channels=256,
        images="cifar",
        kind=kind,
        padding_mode="circular",
        **options,
    )
    return _statistics(model, torch.randn(16, 3, 12, 12))


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize(("alpha", "activation"), [(1.0, "relu"), (0.2, "silu"), (1.0, "identity")])
def test_signal_follows_the_variance_rule(fold: bool, alpha: float, activation: str) -> None:
    """2101.08692: with scaled weight standardization variance is as predicted, the mean near 0."""
    rows = _signal("nf", alpha=alpha, skip_gain=None, activation=activation, fold=fold)
    predicted = [1 + alpha**2 * n for n in range(1, 7)] * 2
    for (mean, variance, branch), expected in zip(rows, predicted, strict=True):
        assert variance == pytest.approx(expected, rel=0.12)
        assert branch == pytest.approx(1, rel=0.15)
        assert mean < 0.06 * variance


def test_signal_of_the_twins() -> None:
    """The contrasts of 2101.08692, figures 1 to 3."""
    for order, expected in (("bn-relu", 0.6817), ("relu-bn", 1.0)):  # 1 - 1 / π
        rows = _signal("bn", order=order)
        for index, (mean, variance, branch) in enumerate(rows):
            # stage 1 starts from the stem's variance, stage 2 from a shortcut like a branch
            start = 1 if index < 6 else expected
            assert branch == pytest.approx(expected, rel=0.1)
            assert variance == pytest.approx(start + expected * (index % 6 + 1), rel=0.1)
            assert (mean > 0.1 * variance) == (order == "bn-relu")
    plain = _signal("plain")
    assert plain[-1][1] > 1.7 * plain[-3][1] > 1.7**2 * plain[-5][1]  # exponential
    shifted = _signal("nf", alpha=1.0, skip_gain=None, standardize=False)
    assert shifted[5][0] > shifted[5][1]  # the mean outgrows the variance
    assert shifted[5][2] < 0.7


def test_stochastic_depth_grows_with_depth() -> None:
    with torch.device("meta"):
        model = models.create("cifar_nf_resnet20", stochastic_depth=0.18, dropout=0.4)
    rates = [block.stochastic_depth.rate for block in _blocks(model)]
    assert rates == pytest.approx([0.02 * n for n in range(9)])
    assert model.dropout.p == 0.4


def test_padding_mode_reaches_every_convolution() -> None:
    for kind in ("", "bn_", "plain_"):
        with torch.device("meta"):
            model = models.create(f"{kind}nf_resnet26", padding_mode="circular")
        modes = {m.padding_mode for m in model.modules() if isinstance(m, nn.Conv2d)}
        assert modes == {"circular"}


def test_seed_reproduces_and_state_round_trips() -> None:
    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return models.create("cifar_nf_resnet14")

    first, same, other = build(3), build(3), build(4)
    for (name, a), b in zip(first.state_dict().items(), same.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    x = torch.randn(2, 3, 16, 16)
    assert not torch.allclose(first(x), other(x))
    other.load_state_dict(_scramble(first).state_dict())
    assert torch.equal(first(x), other(x))
    assert torch.equal(first(x), first.eval()(x))  # nothing depends on the mode


def test_batches_do_not_mix() -> None:
    torch.manual_seed(0)
    model = _scramble(models.create("cifar_nf_resnet8").double())
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(model(x)[:1], model(x[:1]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nf_resnet90", "50 and 101"),
        ("bn_nf_resnet1000", "288 and 600"),
        ("nf_resnet", "nf_resnet<depth>"),
        ("nf_resnet50x2", "nf_resnet<depth>"),
        ("cifar_nf_resnet18", "14 and 20"),
        ("cifar_nf_resnet18b", "11 and 20"),
        ("plain_cifar_nf_resnet1", "nearest to 1: 8"),
        ("cifar_nf_resnet20x", "cifar_nf_resnet<depth>"),
        ("cifar_nf_resnet020", "cifar_nf_resnet<depth>"),
        ("nf_resent50", "did you mean 'nf_resnet50'?"),
    ],
)
def test_bad_names_say_what_would_be_right(name: str, message: str) -> None:
    with pytest.raises(ValueError, match="unknown model") as caught:
        models.check(name)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar_nf_resnet8", {"alfa": 1}, "did you mean 'alpha'"),
        ("bn_cifar_nf_resnet8", {"alpha": 1}, "unknown option of bn_cifar_nf_resnet8 'alpha'"),
        ("cifar_nf_resnet8", {"order": "relu-bn"}, "unknown option of cifar_nf_resnet8 'order'"),
        ("bn_cifar_nf_resnet8", {"order": "relu_bn"}, "did you mean 'relu-bn'"),
        ("cifar_nf_resnet8", {"activation": "rellu"}, "did you mean 'relu"),
        ("cifar_nf_resnet8", {"activation": "glu"}, "unknown activation 'glu'"),
        ("cifar_nf_resnet8", {"padding_mode": "round"}, "padding_mode must be one of"),
        ("cifar_nf_resnet8", {"stochastic_depth": -0.5}, "expected a probability"),
        ("nf_resnet26", {"dropout": 2.0}, "dropout probability"),
    ],
)
def test_bad_options_say_what_would_be_right(
    name: str, options: dict[str, object], message: str
) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        models.create(name, 10, **options)


def test_unknown_kind_and_images() -> None:
    with pytest.raises(ValueError, match="did you mean 'plain'"):
        Design(kind="plan")
    with pytest.raises(ValueError, match="did you mean 'cifar'"):
        NFResNet((1,), (64,), 10, stem_channels=16, images="cifar10")

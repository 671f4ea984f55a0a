from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from nbrepro import freezing, models
from nbrepro.claims.nfnets.counts import count_macs
from nbrepro.layers import GAMMA, Activation, ScaledStdConv2d, StochasticDepth
from nbrepro.models import nfnet, pretrained
from nbrepro.models.nf_resnet import Design
from nbrepro.models.nfnet import VARIANTS, Block, NFNet, Variant

# Number → parameters, multiply-adds in G at test and training size, dropout, training and test
# pixels, RandAugment magnitude (claim sheet, section 3.1 and E-4; Table 1 of the paper).
FAMILY = {
    0: (71_489_284, 12.38, 6.98, 0.2, 192, 256, 5),
    1: (132_634_256, 35.54, 17.44, 0.3, 224, 320, 10),
    2: (193_779_228, 62.59, 33.14, 0.4, 256, 352, 10),
    3: (254_924_200, 114.76, 67.94, 0.4, 320, 416, 15),
    4: (316_069_172, 215.24, 121.12, 0.5, 384, 512, 15),
    5: (377_214_144, 289.76, 169.50, 0.5, 416, 544, 15),
    6: (438_359_116, 377.28, 228.29, 0.5, 448, 576, 15),
    7: (499_504_088, None, None, 0.5, 480, 608, 15),
}
RESNET_WIDTHS = (256, 512, 1024, 2048)
# Small, and with every feature of the family: odd sizes inside, groups, all four strides.
TINY = Variant((1, 2, 1, 1), (256, 128, 192, 128), 0.2, 48, 64, 5)


def _create(name: str, num_classes: int = 1000, **options: object) -> NFNet:
    model = models.create(name, num_classes, **options)
    assert isinstance(model, NFNet)
    return model


def _meta(name: str, num_classes: int = 1000, **options: object) -> NFNet:
    with torch.device("meta"):
        return _create(name, num_classes, **options)


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _blocks(model: NFNet) -> list[Block]:
    return [module for module in model.modules() if isinstance(module, Block)]


def _scramble(model: nn.Module) -> None:
    """Move every parameter that starts at a constant away from it."""
    for name, parameter in model.named_parameters():
        if name.endswith(("gain", "norm.weight")):
            nn.init.uniform_(parameter, 0.5, 1.5)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)


def _convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    return ((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("number", FAMILY)
def test_the_family_is_the_papers(number: int) -> None:
    parameters, at_test, at_train, dropout, train_pixels, test_pixels, magnitude = FAMILY[number]
    variant = nfnet.parse(f"nfnet_f{number}")[2]
    assert variant == VARIANTS[f"f{number}"]
    assert variant.depths == tuple((number + 1) * n for n in (1, 2, 6, 3))
    assert variant.widths == (256, 512, 1536, 1536)
    assert (variant.train_pixels, variant.test_pixels) == (train_pixels, test_pixels)
    assert (variant.dropout, variant.stochastic_depth) == (dropout, 0.25)
    assert variant.randaugment_magnitude == magnitude
    model = _meta(f"nfnet_f{number}")
    assert _parameters(model) == parameters
    assert model.dropout.p == dropout
    if at_test is not None:  # no figure of F7 is known
        assert round(count_macs(model, test_pixels) / 1e9, 2) == at_test
        assert round(count_macs(model, train_pixels) / 1e9, 2) == at_train


@pytest.mark.parametrize(
    ("number", "resnet_widths", "one_conv"),
    [
        (0, 68_638_724, 62_774_276),
        (1, 123_285_648, 115_204_240),
        (2, 177_932_572, 167_634_204),
        (3, 232_579_496, 220_064_168),
    ],
)
def test_rows_of_the_ablation(number: int, resnet_widths: int, one_conv: int) -> None:
    name = f"nfnet_f{number}"
    assert _parameters(_meta(name, widths=RESNET_WIDTHS)) == resnet_widths
    assert _parameters(_meta(name, second_conv=False)) == one_conv


@pytest.mark.parametrize(
    ("rounded", "bottleneck", "parameters", "macs"),
    [(True, 128, 524_954_484, 333.39), (False, 192, 527_033_076, 367.41)],
)
def test_both_readings_of_f4_plus(
    rounded: bool, bottleneck: int, parameters: int, macs: float
) -> None:
    model = _meta("nfnet_f4+", round_bottleneck=rounded)
    conv = dict(_convolutions(model))["blocks.0.branch.conv2"]
    assert (conv.out_channels, conv.groups) == (bottleneck, 1)
    assert _parameters(model) == parameters
    assert round(count_macs(model, 512) / 1e9, 2) == macs


def test_macs_of_a_network_counted_by_hand() -> None:
    norm = nn.BatchNorm2d(12)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4),
        norm,
        nn.Flatten(),
        nn.Linear(12 * 9, 5),
    )
    running = norm.running_mean.clone()
    assert count_macs(model, 6) == 36 * 8 * 27 + 9 * 12 * 18 + 108 * 5
    assert torch.equal(norm.running_mean, running)
    assert norm.num_batches_tracked == 0
    assert not any(module._forward_hooks for module in model.modules())


def test_layers_of_f0() -> None:
    convolutions = dict(_convolutions(_meta("nfnet_f0")))
    assert [
        (conv.out_channels, conv.stride[0])
        for name, conv in convolutions.items()
        if name.startswith("stem")
    ] == [(16, 2), (32, 1), (64, 1), (128, 2)]
    for block, width, groups, stride in ((0, 128, 1, 1), (1, 256, 2, 2), (3, 768, 6, 2)):
        first, second = (convolutions[f"blocks.{block}.branch.conv{n}"] for n in ("2", "2b"))
        assert (first.out_channels, first.groups, first.stride[0]) == (width, groups, stride)
        assert (second.out_channels, second.groups, second.stride[0]) == (width, groups, 1)
    assert convolutions["final_conv"].out_channels == 3072
    assert [n for n in convolutions if "shortcut" in n] == [
        f"blocks.{i}.shortcut" for i in (0, 1, 3, 9)
    ]


def test_beta_sequence_and_stochastic_depth_of_f0() -> None:
    blocks = _blocks(_meta("nfnet_f0"))
    assert [round(block.beta, 6) for block in blocks] == [
        *(1.0, 1.019804, 1.019804),
        *(1.03923, 1.019804, 1.03923, 1.058301, 1.077033, 1.095445),
        *(1.113553, 1.019804, 1.03923),
    ]
    assert {block.alpha for block in blocks} == {0.2}
    rates = [block.stochastic_depth.rate for block in blocks]
    assert rates == pytest.approx([0.25 * i / 12 for i in range(12)])


def test_gamma_and_beta_are_in_the_activations_or_folded() -> None:
    """Each pre-activation is γ / β · gelu, wherever the constant is applied."""
    plain, folded = (_blocks(_meta("nfnet_f0", fold=fold))[3] for fold in (False, True))
    scale = GAMMA["gelu"] / 1.0392304845413265
    assert isinstance(plain.act1, Activation)
    assert plain.act1.scale == pytest.approx(scale)
    assert isinstance(folded.act1, Activation)
    assert folded.act1.scale == 1
    for conv in (folded.shortcut, folded.branch.conv1):
        assert isinstance(conv, ScaledStdConv2d)
        assert conv.input_scale == pytest.approx(scale)


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("second_conv", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_same_function_as_timms_network(fold: bool, second_conv: bool) -> None:
    """timm's network, its known deviations removed: eps of the standardization, form of GELU."""
    witness = pytest.importorskip("timm.models.nfnet")
    torch.manual_seed(0)
    model = NFNet(TINY, 7, group_width=32, second_conv=second_conv, fold=fold).double().eval()
    _scramble(model)
    config = witness._dm_nfnet_cfg(TINY.depths, TINY.widths)
    config.group_size, config.extra_conv = 32, second_conv
    reference = witness.NormFreeNet(config, num_classes=7).double().eval()
    for module in reference.modules():
        if isinstance(module, witness.ScaledStdConv2dSame):
            module.eps = 1e-300  # PyTorch refuses 0
        elif isinstance(module, witness.GammaAct):
            module.act_fn = lambda x, inplace: nn.functional.gelu(x, approximate="tanh")
    reference.load_state_dict(pretrained.to_timm(model), strict=True)

    x = torch.randn(2, 3, 40, 40, dtype=torch.float64)  # 10, 5, 3, 2 pixels: odd sizes too
    ours, theirs = model(x), reference(x)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    gradients = {name: p.grad for name, p in reference.named_parameters()}
    for name, (key, p) in zip(pretrained.to_timm(model), model.named_parameters(), strict=True):
        expected = gradients[name].reshape(p.shape)
        assert p.grad is not None
        assert (p.grad - expected).abs().max() <= 1e-10 * expected.abs().max(), key


def test_fold_changes_nothing_in_training() -> None:
    torch.manual_seed(0)
    model, folded = (_create("cifar_nfnet_f0", 10, fold=fold).double() for fold in (False, True))
    for block in _blocks(model):
        block.stochastic_depth.rate = 0.5
    for block in _blocks(folded):
        block.stochastic_depth.rate = 0.5
    _scramble(model)
    folded.load_state_dict(model.state_dict())
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    losses = []
    for network in (model, folded):
        torch.manual_seed(1)  # the same masks of stochastic depth and dropout
        losses.append(network(x).square().sum())
        losses[-1].backward()
    torch.testing.assert_close(*losses, rtol=1e-10, atol=0)
    for (name, p), q in zip(model.named_parameters(), folded.parameters(), strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-10, msg=name)


def test_identity_shortcuts_pass_the_signal_on_at_the_start() -> None:
    torch.manual_seed(0)
    block = _blocks(_create("cifar_nfnet_f0", 10))[2]
    assert block.shortcut is None
    x = torch.randn(2, 128, 8, 8, requires_grad=True)
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    assert block.skip_gain is not None
    assert block.skip_gain.grad is not None
    assert block.skip_gain.grad != 0


def test_one_branch_of_unit_scale_grows_the_variance_as_predicted() -> None:
    """Var(h) / β² of a block's output with α · skip_gain = α is 1 + α², up to finite width."""
    torch.manual_seed(0)
    block = Block(256, 256, 1, Design(), bottleneck=128, groups=4)
    assert block.skip_gain is not None
    nn.init.ones_(block.skip_gain)
    x = torch.randn(8, 256, 24, 24)
    with torch.no_grad():
        added = (block(x) - x) / 0.2
        torch.testing.assert_close(added, block.branch(block.act1(x)), rtol=1e-3, atol=1e-3)
    inner = added[:, :, 2:-2, 2:-2]  # zero padding takes from the border
    assert 0.8 < inner.var(dim=(0, 2, 3)).mean() < 1.25


def test_dropout_and_stochastic_depth_act_in_training_only() -> None:
    torch.manual_seed(0)
    model = _create("cifar_nfnet_f0", 10, dropout=0.5, stochastic_depth=0.0)
    assert model.dropout.p == 0.5
    assert {block.stochastic_depth.rate for block in _blocks(model)} == {0.0}
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert not torch.equal(model(x), model(x))
        model.eval()
        assert torch.equal(model(x), model(x))
        model = _create("cifar_nfnet_f0", 10, dropout=0.0, stochastic_depth=1.0)
        _scramble(model)
        trained, evaluated = model(x), model.eval()(x)
        assert not torch.allclose(trained, evaluated)
        assert torch.equal(model(x), evaluated)


def test_images_of_a_batch_do_not_interact() -> None:
    torch.manual_seed(0)
    model = _create("cifar_nfnet_f0", 10, dropout=0.0, stochastic_depth=0.0).double()
    _scramble(model)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-10, atol=1e-12)


def test_classifier_starts_near_zero() -> None:
    torch.manual_seed(0)
    fc = _create("cifar_nfnet_f0", 1000).fc
    assert abs(fc.weight.std() / 0.01 - 1) < 0.01
    assert not fc.bias.any()


def test_cifar_networks_shrink_in_the_stages_only() -> None:
    model = _meta("cifar_nfnet_f1", 10)
    _, images, variant = nfnet.parse("cifar_nfnet_f1")
    assert (images, variant.widths) == ("cifar", (64, 128, 384, 384))
    assert (variant.train_pixels, variant.test_pixels) == (32, 32)
    assert variant.depths == (2, 4, 12, 6)
    sizes = []
    x = model.stem(torch.empty(1, 3, 32, 32, device="meta"))
    assert x.shape == (1, 32, 32, 32)
    for block in _blocks(model):
        x = block(x)
        sizes.append(tuple(x.shape[1:3]))
    assert list(dict.fromkeys(sizes)) == [(64, 32), (128, 16), (384, 8), (384, 4)]
    groups = {c.groups for n, c in _convolutions(model) if n.endswith("conv2")}
    assert groups == {1, 2, 6}
    assert model.fc.in_features == 768
    groups = {
        conv.groups
        for name, conv in _convolutions(_meta("cifar_nfnet_f1", 10, group_width=8))
        if name.endswith(("conv2", "conv2b"))
    }
    assert groups == {4, 8, 24}


@pytest.mark.parametrize("name", ["nfnet_f0", "cifar_nfnet_f0"])
def test_twins_have_the_same_shapes(name: str) -> None:
    model = _meta(name)
    pixels = nfnet.parse(name)[2].test_pixels
    shapes = {n: c.weight.shape for n, c in _convolutions(model)}
    for kind in ("bn", "plain"):
        twin = _meta(f"{kind}_{name}")
        assert {n: c.weight.shape for n, c in _convolutions(twin)} == shapes
        assert count_macs(twin, pixels) == count_macs(model, pixels)
        assert not any(isinstance(m, ScaledStdConv2d) for m in twin.modules())
        assert not any(n.endswith(("skip_gain", ".gain")) for n, _ in twin.named_parameters())
        assert {m.scale for m in twin.modules() if isinstance(m, Activation)} == {1.0}
        rates = [m.rate for m in twin.modules() if isinstance(m, StochasticDepth)]
        assert rates == [m.rate for m in model.modules() if isinstance(m, StochasticDepth)]


def test_batchnorm_twin_normalizes_before_each_activation() -> None:
    model = _meta("bn_nfnet_f0")
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    activations = [m for m in model.modules() if isinstance(m, Activation)]
    assert len(norms) == len(activations) == 3 + 4 * 12 + 1
    assert all(conv.bias is None for _, conv in _convolutions(model))
    counts = freezing.count(model)
    assert counts["batchnorm"] == 2 * sum(norm.num_features for norm in norms)
    assert counts["shortcut"] == 256 * 128 + 512 * 256 + 1536 * 512 + 1536 * 1536

    torch.manual_seed(0)
    model = _create("bn_cifar_nfnet_f0", 10)
    seen: list[Tensor] = []
    handles = [
        m.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        for m in model.modules()
        if isinstance(m, Activation)
    ]
    with torch.no_grad():
        model(torch.randn(8, 3, 16, 16))
    assert len(seen) == len(handles) == 4 * 12 + 1
    for x in seen:
        assert x.mean(dim=(0, 2, 3)).abs().max() < 1e-4
        torch.testing.assert_close(
            x.var(dim=(0, 2, 3), correction=0).mean().item(), 1.0, rtol=0.01, atol=0
        )


def test_plain_twin_normalizes_nothing_and_keeps_the_second_moment() -> None:
    torch.manual_seed(0)
    model = _create("plain_cifar_nfnet_f0", 10)
    assert freezing.count(model)["batchnorm"] == 0
    block = _blocks(model)[-1]
    x = torch.randn(8, 384, 12, 12)
    with torch.no_grad():
        out = block.branch.conv1(block.act1(x))
    assert 0.9 < out.square().mean() < 1.1
    branch = block.branch(block.act1(x))
    torch.testing.assert_close(block.eval()(x), x + branch)


def test_a_step_reaches_every_parameter() -> None:
    for name in ("cifar_nfnet_f0", "bn_cifar_nfnet_f0", "plain_cifar_nfnet_f0"):
        torch.manual_seed(0)
        model = _create(name, 10, stochastic_depth=0.0)
        _scramble(model)
        model(torch.randn(4, 3, 16, 16)).square().sum().backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
            assert parameter.grad.any(), key


@pytest.mark.parametrize(
    "name", ["nfnet_f9", "nfnet_f", "nfnet_F0", "nfnet_f0++", "nfnet_f0x2", "bn_nfnet", "nfnet_l0"]
)
def test_bad_names_say_what_would_be_right(name: str) -> None:
    with pytest.raises(ValueError, match=r"nfnet_f0 to nfnet_f7") as caught:
        models.create(name)
    assert f"unknown model {name!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nfnet_f0", {"width": (1, 2)}, "did you mean 'widths'"),
        ("nfnet_f0", {"widths": (256, 512, 1024)}, "one for each of the four stages"),
        ("nfnet_f0", {"widths": (128, 512, 1024, 2048)}, "group_width of at most 64"),
        ("cifar_nfnet_f0", {"group_width": 33}, "fewer than one group of 33"),
        ("nfnet_f0", {"group_width": 50, "round_bottleneck": False}, "into 5 groups"),
        ("bn_nfnet_f0", {"fold": True}, "there are none"),
    ],
)
def test_bad_options_say_what_would_be_right(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _meta(name, 1000, **options)


def test_bad_arguments_of_the_class() -> None:
    with pytest.raises(ValueError, match="did you mean 'cifar'"), torch.device("meta"):
        NFNet(TINY, 10, group_width=32, images="cifar10")
    with pytest.raises(ValueError, match="did you mean 'plain'"), torch.device("meta"):
        NFNet(TINY, 10, group_width=32, kind="plan")

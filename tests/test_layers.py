import math
from collections.abc import Callable
from typing import Unpack

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import Tensor, nn
from torch.nn import functional as F

from nbrepro import layers
from nbrepro.layers import GAMMA, Activation, ConvOptions, SameConv2d, ScaledStdConv2d

Elementwise = Callable[[np.ndarray], np.ndarray]

# Written from the functions' definitions, not with torch.
FORMULA: dict[str, Elementwise] = {
    "identity": lambda x: x,
    "celu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "log_sigmoid": lambda x: -np.logaddexp(0, -x),
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
    "sigmoid": special.expit,
    "silu": lambda x: x * special.expit(x),
    "soft_sign": lambda x: x / (1 + np.abs(x)),
    "softplus": lambda x: np.logaddexp(0, x),
    "tanh": np.tanh,
}


def _expect(function: Elementwise) -> float:
    """E[f(x)] for x ~ N(0, 1)."""
    parts = ((-12, 0), (0, 6), (6, 12))
    return sum(integrate.quad(lambda x: function(x) * stats.norm.pdf(x), *p)[0] for p in parts)


@pytest.mark.parametrize("name", FORMULA)
def test_gamma_and_activation_against_integration(name: str) -> None:
    g = FORMULA[name]
    mean, second = _expect(g), _expect(lambda x: g(x) ** 2)
    assert GAMMA[name] == pytest.approx((second - mean**2) ** -0.5, rel=1e-3)
    assert layers.second_moment(name) == pytest.approx(second, rel=1e-6)
    x = torch.linspace(-8, 8, 101, dtype=torch.float64)
    expected = torch.from_numpy(g(x.numpy()))
    torch.testing.assert_close(Activation(name, scaled=False)(x), expected)
    torch.testing.assert_close(Activation(name)(x), GAMMA[name] * expected)
    torch.testing.assert_close(Activation(name, beta=1.6)(x), GAMMA[name] / 1.6 * expected)


def test_gamma_of_activations_over_channels() -> None:
    # glu: x · sigmoid(y) of independent x and y has variance E[sigmoid(y)²]
    second = _expect(lambda y: special.expit(y) ** 2)
    assert GAMMA["glu"] == pytest.approx(second**-0.5, rel=2e-3)
    # log_softmax over many channels only subtracts a constant
    assert GAMMA["log_softmax"] == pytest.approx(1, rel=1e-3)
    x = torch.randn(2, 8, 3, 3)
    assert Activation("glu")(x).shape == (2, 4, 3, 3)
    sums = Activation("log_softmax", scaled=False)(x).exp().sum(dim=1)
    torch.testing.assert_close(sums, torch.ones(2, 3, 3))
    assert set(GAMMA) == {*FORMULA, "glu", "log_softmax"}


def test_activation_errors() -> None:
    with pytest.raises(ValueError, match="did you mean 'leaky_relu'"):
        Activation("leakyrelu")
    with pytest.raises(ValueError, match="not elementwise"):
        layers.second_moment("glu")


def _standardized(weight: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Row by row, from the paper's equation with the floor of the authors' code."""
    out = np.empty_like(weight)
    for i, row in enumerate(weight):
        n = row.size
        variance = ((row - row.mean()) ** 2).sum() / n
        out[i] = gain[i] * (row - row.mean()) / math.sqrt(max(n * variance, 1e-4))
    return out


def _conv(
    channels_in: int,
    channels: int,
    kernel: int,
    stride: int = 1,
    input_scale: float = 1.0,
    **options: Unpack[ConvOptions],
) -> ScaledStdConv2d:
    """A float64 convolution with gains and biases that are not at their start."""
    conv = ScaledStdConv2d(
        channels_in, channels, kernel, stride, input_scale=input_scale, **options
    ).double()
    nn.init.uniform_(conv.gain, 0.5, 2)
    nn.init.normal_(conv.bias)
    return conv


@pytest.mark.parametrize("groups", [1, 4])
def test_standardized_weight_against_the_formula(groups: int) -> None:
    torch.manual_seed(0)
    conv = _conv(8, 12, 3, groups=groups)
    with torch.no_grad():
        conv.weight[0] *= 1e-3  # below the floor
        conv.weight[1] = 0.7  # no variance at all
        conv.weight[2] += 5  # a large mean
    expected = _standardized(conv.weight.detach().numpy(), conv.gain.detach().numpy())
    weight = conv.standardized_weight()
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-9, atol=1e-12)
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    direct = F.conv2d(x, torch.from_numpy(expected), conv.bias, padding=1, groups=groups)
    torch.testing.assert_close(conv(x), direct)
    conv(x).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in conv.parameters())
    assert torch.autograd.gradcheck(
        lambda w: torch.func.functional_call(conv, {"weight": w}, x), conv.weight, fast_mode=True
    )


def test_scaled_weight_standardization_start() -> None:
    torch.manual_seed(0)
    conv = ScaledStdConv2d(64, 128, 3)
    assert conv.gain.shape == conv.bias.shape == (128,)
    assert bool((conv.gain == 1).all())
    assert bool((conv.bias == 0).all())
    assert conv.weight.std().item() == pytest.approx(576**-0.5, rel=0.02)
    rows = conv.standardized_weight().flatten(1)
    torch.testing.assert_close(rows.sum(dim=1), torch.zeros(128), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.square().sum(dim=1), torch.ones(128))
    with torch.no_grad():
        conv.gain.fill_(3)
    torch.manual_seed(0)
    conv.reset_parameters()
    again = conv.weight.detach().clone()
    torch.manual_seed(0)
    torch.testing.assert_close(ScaledStdConv2d(64, 128, 3).weight.detach(), again, rtol=0, atol=0)
    assert bool((conv.gain == 1).all())


def test_all_of_a_convolution_has_the_device_and_the_type_that_are_asked_for() -> None:
    conv = ScaledStdConv2d(8, 4, 3, device="meta", dtype=torch.float64)
    assert all(p.device.type == "meta" for p in conv.parameters())
    assert all(p.dtype == torch.float64 for p in conv.parameters())
    half = ScaledStdConv2d(8, 4, 3, dtype=torch.bfloat16)
    assert half.gain.dtype == torch.bfloat16
    assert bool((half.gain == 1).all())


def test_a_convolution_shows_its_padding_and_scale() -> None:
    plain = "3, 4, kernel_size=(3, 3), stride=(2, 2)"
    options = "groups=2, bias=False, padding_mode=circular"
    assert SameConv2d(3, 4, 3, 2).extra_repr() == f"{plain}, padding=same"
    assert SameConv2d(3, 4, 3, 2, padding=0).extra_repr() == plain
    assert SameConv2d(3, 4, 3, 2, padding=1).extra_repr() == f"{plain}, padding=(1, 1)"
    scaled = ScaledStdConv2d(3, 4, 3, 2, input_scale=GAMMA["relu"])
    assert scaled.extra_repr() == f"{plain}, padding=same, input_scale=1.71396"
    assert ScaledStdConv2d(3, 4, 3, 2, 0).extra_repr() == plain
    grouped = SameConv2d(4, 4, 3, groups=2, bias=False, padding_mode="circular")
    assert f"{options}, padding=same" in repr(grouped)


def test_nothing_is_left_of_a_standardized_weight_of_fan_in_one() -> None:
    for channels, groups in ((1, 1), (4, 4)):
        with pytest.raises(ValueError, match="fan-in 1 has only zeros as weights; give it a"):
            ScaledStdConv2d(channels, 4, 1, groups=groups)
    ScaledStdConv2d(4, 4, 3, groups=4)(torch.ones(1, 4, 5, 5))


def test_timm_agrees_but_for_its_epsilon() -> None:
    timm = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    ours = _conv(64, 16, 3, stride=2)
    peers = [
        timm.ScaledStdConv2dSame(64, 16, 3, stride=2, eps=eps).double() for eps in (1e-14, 1e-5)
    ]
    for peer in peers:
        state = ours.state_dict()
        state["gain"] = state["gain"].view(-1, 1, 1, 1)
        peer.load_state_dict(state)
    x = torch.randn(2, 64, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(ours(x), peers[0](x))
    # timm adds 1e-5 to a variance of 1 / 576: each output channel is 0.3 % smaller
    bias = ours.bias.view(-1, 1, 1)
    for channel, row in enumerate(ours.weight):
        shrunk = (1 + 1e-5 / row.var(correction=0)) ** -0.5
        expected = (ours(x) - bias)[:, channel] * shrunk
        torch.testing.assert_close((peers[1](x) - bias)[:, channel], expected)


def test_folded_scales_equal_separate_operations() -> None:
    torch.manual_seed(0)
    conv = _conv(6, 8, 3, input_scale=1.7)
    plain = ScaledStdConv2d(6, 8, 3).double()
    plain.load_state_dict(conv.state_dict())
    x = torch.randn(2, 6, 7, 7, dtype=torch.float64)
    scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    folded, separate = conv(x, scale), plain(1.7 * x) * scale
    torch.testing.assert_close(folded, separate)
    weights = torch.randn_like(folded)
    ours = torch.autograd.grad((folded * weights).sum(), [scale, *conv.parameters()])
    theirs = torch.autograd.grad((separate * weights).sum(), [scale, *plain.parameters()])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_standardizes_in_float32_whatever_the_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    conv = ScaledStdConv2d(32, 16, 3)
    x = torch.randn(2, 32, 6, 6)
    seen: list[Tensor] = []
    standardize = conv._standardize

    def watched(gain: Tensor) -> Tensor:
        seen.append(standardize(gain))
        return seen[-1]

    monkeypatch.setattr(conv, "_standardize", watched)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = conv(x)
    assert out.dtype == torch.bfloat16
    assert seen[0].dtype == torch.float32
    half = ScaledStdConv2d(32, 16, 3).to(torch.bfloat16)
    formula = _standardized(half.weight.detach().double().numpy(), np.ones(16))
    weight = half.standardized_weight()
    assert weight.dtype == torch.bfloat16
    expected = torch.from_numpy(formula).to(torch.bfloat16)
    torch.testing.assert_close(weight.detach(), expected, rtol=2**-7, atol=0)


def test_channels_last_stays_and_changes_nothing() -> None:
    torch.manual_seed(0)
    conv = ScaledStdConv2d(8, 16, 3, stride=2)
    x = torch.randn(2, 8, 8, 8)
    expected = conv(x)
    conv = conv.to(memory_format=torch.channels_last)
    assert conv.standardized_weight().is_contiguous(memory_format=torch.channels_last)
    out = conv(x.contiguous(memory_format=torch.channels_last))
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected)


def test_same_padding() -> None:
    assert layers.same_padding(13, kernel=6, stride=5) == (1, 2)  # the example of TensorFlow's docs
    assert layers.same_padding(32, kernel=3, stride=2) == (0, 1)
    assert layers.same_padding(224, kernel=7, stride=2) == (2, 3)
    assert layers.same_padding(4, kernel=1, stride=2) == (0, 0)
    for size in range(1, 12):
        for kernel in range(1, 8):
            for stride in range(1, 4):
                for dilation in range(1, 3):
                    before, after = layers.same_padding(size, kernel, stride, dilation)
                    reach = dilation * (kernel - 1) + 1
                    outputs = (size + before + after - reach) // stride + 1
                    assert outputs == math.ceil(size / stride)
                    assert after - before in (0, 1)
                    # no narrower padding gives as many outputs
                    shorter = size + before + after - 1
                    if before + after and shorter >= reach:
                        assert (shorter - reach) // stride + 1 < outputs


def _by_definition(x: np.ndarray, weight: np.ndarray, stride: int, dilation: int) -> np.ndarray:
    """SAME correlation of one channel by loops: outside is zero."""
    k = len(weight)
    out = np.zeros([math.ceil(n / stride) for n in x.shape])
    starts = [
        -(max((m - 1) * stride + dilation * (k - 1) + 1 - n, 0) // 2)
        for n, m in zip(x.shape, out.shape, strict=True)
    ]
    for i, j in np.ndindex(*out.shape):
        for a, b in np.ndindex(k, k):
            row = starts[0] + i * stride + a * dilation
            column = starts[1] + j * stride + b * dilation
            if 0 <= row < x.shape[0] and 0 <= column < x.shape[1]:
                out[i, j] += weight[a, b] * x[row, column]
    return out


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"),
    [(1, 2, 1), (2, 1, 1), (3, 1, 1), (3, 2, 1), (3, 2, 2), (7, 2, 1)],
)
def test_same_convolution_by_definition(kernel: int, stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    conv = SameConv2d(1, 1, kernel, stride, dilation=dilation, bias=False).double()
    for height, width in ((8, 9), (5, 4)):
        x = torch.randn(height, width, dtype=torch.float64)
        expected = _by_definition(x.numpy(), conv.weight.detach()[0, 0].numpy(), stride, dilation)
        out = conv(x[None, None])[0, 0]
        torch.testing.assert_close(out.detach(), torch.from_numpy(expected))


def test_numbers_as_padding_are_torchs() -> None:
    torch.manual_seed(0)
    conv = SameConv2d(3, 4, 3, 2, padding=1)
    peer = nn.Conv2d(3, 4, 3, 2, padding=1)
    peer.load_state_dict(conv.state_dict())
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(conv(x), peer(x))
    assert not torch.allclose(SameConv2d(3, 4, 3, 2)(x), peer(x))


@pytest.mark.parametrize("stride", [1, 2])
def test_circular_padding_knows_no_border(stride: int) -> None:
    torch.manual_seed(0)
    conv = _conv(3, 5, 3, stride=stride, padding_mode="circular")
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    moved = conv(x.roll((2 * stride, 3 * stride), dims=(2, 3)))
    torch.testing.assert_close(moved, conv(x).roll((2, 3), dims=(2, 3)))


@pytest.mark.parametrize("size", [4, 5, 8, 9])
def test_pools(size: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, size, size) - 10  # padding with zeros would win every maximum
    half = math.ceil(size / 2)
    most, mean = torch.empty(2, 3, half, half), torch.empty(2, 3, half, half)
    first = -layers.same_padding(size, 3, 2)[0]
    for i, j in np.ndindex(half, half):
        r, c = first + 2 * i, first + 2 * j
        window = x[:, :, max(r, 0) : r + 3, max(c, 0) : c + 3]
        most[:, :, i, j] = window.amax(dim=(2, 3))
        mean[:, :, i, j] = x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(dim=(2, 3))
    torch.testing.assert_close(layers.SameMaxPool2d(3, 2)(x), most)
    torch.testing.assert_close(layers.avg_pool_same(x), mean)


def test_squeeze_excite() -> None:
    torch.manual_seed(0)
    se = layers.SqueezeExcite(12, ratio=0.25)
    assert [tuple(p.shape) for p in se.parameters()] == [(3, 12), (3,), (12, 3), (12,)]
    assert bool((se.fc0.bias == 0).all())
    assert se.fc0.weight.abs().max() <= 2 * 12**-0.5
    nn.init.normal_(se.fc0.bias)
    x = torch.randn(4, 12, 5, 6)
    for n in range(4):
        pooled = x[n].mean(dim=(1, 2))
        hidden = (se.fc0.weight @ pooled + se.fc0.bias).clamp(min=0)
        logits = se.fc1.weight @ hidden + se.fc1.bias
        gate = 2 / (1 + torch.exp(-logits))
        torch.testing.assert_close(se(x)[n], gate[:, None, None] * x[n])
    with torch.no_grad():
        se.fc1.weight.zero_()
    torch.testing.assert_close(se(x), x)  # the factor 2 undoes sigmoid(0)


def test_stochastic_depth() -> None:
    torch.manual_seed(0)
    drop = layers.StochasticDepth(0.3)
    x = torch.randn(2000, 2, 1, 1).abs() + 1
    out = drop(x)
    kept = (out != 0).flatten(1)
    assert bool((kept[:, 0] == kept[:, 1]).all())  # whole examples
    assert torch.equal(out[kept[:, 0]], x[kept[:, 0]])  # no rescaling
    assert abs(kept[:, 0].float().mean() - 0.7) < 4 * math.sqrt(0.21 / 2000)
    assert torch.equal(drop.eval()(x), x)
    assert torch.equal(layers.StochasticDepth(0.0)(x), x)
    assert not layers.StochasticDepth(1.0)(x).any()
    for rate in (-0.1, 1.5):
        with pytest.raises(ValueError, match="probability in \\[0, 1\\]"):
            layers.StochasticDepth(rate)


@pytest.mark.parametrize("shape", [(64, 3), (64, 3, 2), (64, 3, 2, 2), (64, 3, 2, 2, 2)])
def test_stochastic_depth_of_any_dimensions(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    out = layers.StochasticDepth(0.5)(torch.ones(shape))
    torch.manual_seed(0)
    kept = torch.empty(64).bernoulli_(0.5)  # one draw per example, in order
    assert out.shape == shape
    assert torch.equal(out.flatten(1), kept[:, None].expand(-1, out[0].numel()))


def test_expected_stds() -> None:
    # claim sheet M-4, to six decimals
    nfnet_f0: list[list[float]] = [
        [1],
        [1.019804, 1.019804],
        [1.039230, 1.019804, 1.039230, 1.058301, 1.077033, 1.095445],
        [1.113553, 1.019804, 1.039230],
    ]
    nf_resnet50: list[list[float]] = [
        [1, 1.019804, 1.039230],
        [1.058301, 1.019804, 1.039230, 1.058301],
        [1.077033, 1.019804, 1.039230, 1.058301, 1.077033, 1.095445],
        [1.113553, 1.019804, 1.039230],
    ]
    for expected in (nfnet_f0, nf_resnet50):
        stds = layers.expected_stds([len(stage) for stage in expected])
        assert [[round(std, 6) for std in stage] for stage in stds] == expected
    deep = layers.expected_stds([50] * 4)
    assert deep[0][-1] == pytest.approx(1.720465, abs=1e-6)
    assert deep[1][0] == pytest.approx(math.sqrt(3))
    assert layers.expected_stds([3], alpha=1.0) == [[1.0, math.sqrt(2), math.sqrt(3)]]


def _ghosts(x: Tensor, size: int, eps: float) -> Tensor:
    """Each part by itself, written from the definition."""
    parts = []
    for start in range(0, len(x), size):
        part = x[start : start + size]
        mean = part.mean(dim=(0, 2, 3), keepdim=True)
        variance = ((part - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
        parts.append((part - mean) / (variance + eps).sqrt())
    return torch.cat(parts)


@pytest.mark.parametrize("tracked", [True, False])
def test_ghost_batches_have_statistics_of_their_own(tracked: bool) -> None:
    layer = layers.GhostBatchNorm2d(3, 4)
    if not tracked:
        layer.num_batches_tracked = None  # as the training loop does
    x = torch.randn(10, 3, 2, 2) * 3 + 1  # the last ghost batch has two images
    torch.testing.assert_close(layer(x), _ghosts(x, 4, layer.eps))
    assert not torch.allclose(layer(x), nn.BatchNorm2d(3)(x), atol=0.01)


def test_one_ghost_batch_is_batchnorm_and_so_is_evaluation() -> None:
    ghost, plain = layers.GhostBatchNorm2d(3, 8), nn.BatchNorm2d(3)
    x = torch.randn(8, 3, 2, 2)
    torch.testing.assert_close(ghost(x), plain(x))
    assert ghost.state_dict().keys() == plain.state_dict().keys()
    ghost.size = 2
    for layer in (ghost, plain):
        layer.load_state_dict(plain.state_dict())
        layer.eval()
    torch.testing.assert_close(ghost(x), plain(x))


def test_ghost_batches_together_forget_as_fast_as_one_batch() -> None:
    ghost, plain = layers.GhostBatchNorm2d(1, 2), nn.BatchNorm2d(1)
    x = torch.ones(8, 1, 1, 1)
    ghost(x), plain(x)
    torch.testing.assert_close(ghost.running_mean, plain.running_mean)
    torch.testing.assert_close(ghost.running_var, plain.running_var * 0 + 0.9)


def test_a_ghost_batch_has_an_image() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        layers.GhostBatchNorm2d(3, 0)

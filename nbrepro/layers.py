"""Building blocks of normalizer-free networks.

Sources: arXiv 2101.08692 (scaled weight standardization, the constants γ, the variance rule) and
arXiv 2102.06171 (section 3, appendix C), in the form of the authors' released code. Where timm, the
usual PyTorch port, differs, this module follows the authors:

- the variance of a weight row is floored, ``max(N·Var, 1e-4)``; timm adds 1e-5 to Var instead;
- gains have shape ``[out]``, so that adaptive clipping treats a layer's gains as one unit; timm
  stores ``[out, 1, 1, 1]`` and clips each on its own;
- stochastic depth leaves the kept branches as they are; timm divides them by the keep probability;
- GELU is the tanh form (JAX's default); its exact form changes γ by 5e-6;
- γ multiplies the activation; timm's ``nfnet_*`` and ``nf_*`` fold it into the weight. Both are
  possible here (``input_scale``).
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nbrepro._suggest import choose

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]

#: Activation → γ, the constant that restores unit variance for N(0, 1) inputs, as printed in the
#: authors' code. Each is within 0.13 % of 1 / sqrt(Var g(x)).
GAMMA: dict[str, float] = {
    "identity": 1.0,
    "celu": 1.270926833152771,
    "elu": 1.2716004848480225,
    "gelu": 1.7015043497085571,
    "glu": 1.8484294414520264,
    "leaky_relu": 1.70590341091156,
    "log_sigmoid": 1.9193484783172607,
    "log_softmax": 1.0002083778381348,
    "relu": 1.7139588594436646,
    "relu6": 1.7131484746932983,
    "selu": 1.0008515119552612,
    "sigmoid": 4.803835391998291,
    "silu": 1.7881293296813965,
    "soft_sign": 2.338853120803833,
    "softplus": 1.9203323125839233,
    "tanh": 1.5939117670059204,
}

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "celu": F.celu,
    "elu": F.elu,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "glu": lambda x: F.glu(x, dim=1),
    "leaky_relu": F.leaky_relu,
    "log_sigmoid": F.logsigmoid,
    "log_softmax": lambda x: F.log_softmax(x, dim=1),
    "relu": F.relu,
    "relu6": F.relu6,
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "soft_sign": F.softsign,
    "softplus": F.softplus,
    "tanh": torch.tanh,
}


class Activation(nn.Module):
    """``scale · g(x)``, where the scale is γ / β (2101.08692, section 4; 2102.06171, section 3).

    Args:
        name: a key of :data:`GAMMA`. ``gelu`` is the tanh form; ``glu`` and ``log_softmax`` act on
            dimension 1, and ``glu`` halves it.
        scaled: multiply by γ, so that N(0, 1) inputs give unit variance.
        beta: divide by this expected standard deviation of the input's block. The authors
            multiply by γ and by 1 / β one after the other; one product differs by rounding only.

    Raises:
        ValueError: for an unknown activation.
    """

    def __init__(self, name: str, scaled: bool = True, beta: float = 1.0) -> None:
        super().__init__()
        self.name = choose("activation", name, GAMMA)
        self.scale = (GAMMA[name] if scaled else 1.0) / beta

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same shape (``glu``: half of dimension 1)."""
        y = _FUNCTIONS[self.name](x)
        return y if self.scale == 1.0 else y * self.scale

    def extra_repr(self) -> str:
        """Name and scale, for ``print(model)``."""
        return f"{self.name}, scale={self.scale:.6g}"


@cache
def second_moment(activation: str) -> float:
    """E[g(x)²] for x ~ N(0, 1) by numerical integration; 0.5 for ReLU.

    A plain weight keeps the signal's variance if it is drawn with variance
    ``1 / (fan_in · second_moment)``, which is He's rule for ReLU.

    Raises:
        ValueError: for an unknown activation or one that is not elementwise.
    """
    choose("activation", activation, GAMMA)
    if activation in ("glu", "log_softmax"):
        raise ValueError(f"{activation} is not elementwise: choose another activation")
    x = torch.linspace(-10, 10, 20_001, dtype=torch.float64, device="cpu")
    density = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return float(torch.trapezoid(_FUNCTIONS[activation](x) ** 2 * density, x))


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Padding before and after one dimension, as in TensorFlow's and JAX's ``SAME``.

    The output has ``ceil(size / stride)`` positions; of an odd total the larger half comes after. A
    3×3 convolution with stride 2 pads an even size by (0, 1), not by (1, 1).
    """
    positions = -(-size // stride)
    total = max((positions - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def avg_pool_same(x: Tensor) -> Tensor:
    """2×2 average pooling with stride 2; at an odd edge, the mean of the pixels inside."""
    return F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)


class SameMaxPool2d(nn.Module):
    """Max pooling with ``SAME`` padding (see :func:`same_padding`)."""

    def __init__(self, kernel: int = 3, stride: int = 2) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` → ``[N, C, ceil(H / stride), ceil(W / stride)]``."""
        kernel, stride = self.kernel, self.stride
        (top, bottom), (left, right) = (same_padding(n, kernel, stride) for n in x.shape[-2:])
        if (top, left) == (bottom, right):
            return F.max_pool2d(x, kernel, stride, (top, left))
        return F.max_pool2d(F.pad(x, (left, right, top, bottom), value=-math.inf), kernel, stride)


class ConvOptions(TypedDict, total=False):
    """What ``nn.Conv2d`` takes besides channels, kernel, stride and padding."""

    dilation: int | tuple[int, int]
    groups: int
    bias: bool
    padding_mode: PaddingMode
    device: torch.device | str | int | None
    dtype: torch.dtype | None


class SameConv2d(nn.Conv2d):
    """``nn.Conv2d`` that also accepts ``padding="same"`` with a stride (see :func:`same_padding`).

    The padding, ``same`` unless another is given, then depends on the input's size. All padding
    modes of ``nn.Conv2d`` work.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = "same",
        **options: Unpack[ConvOptions],
    ) -> None:
        self.same = padding == "same"
        padding = 0 if self.same else padding
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, **options)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self.same:
            output: Tensor = super()._conv_forward(input, weight, bias)
            return output
        (top, bottom), (left, right) = (
            same_padding(*sizes)
            for sizes in zip(
                input.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True
            )
        )
        padding = (top, left)
        zeros = self.padding_mode == "zeros"
        if padding != (bottom, right) or (not zeros and padding != (0, 0)):
            mode = "constant" if zeros else self.padding_mode
            input = F.pad(input, (left, right, top, bottom), mode)
            padding = (0, 0)
        return F.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """As of ``nn.Conv2d``, and the padding if it is ``same``, for ``print(model)``."""
        shown: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{shown}, padding=same" if self.same else shown


_FLOOR = 1e-4  # of N · Var, in the authors' code


class _Standardize(torch.autograd.Function):
    """``gain · u`` with ``u = (W − mean) / sqrt(max(N · Var, 1e-4))`` in every row of W.

    Autograd of the formula would dispatch eleven more operations per convolution and step. Each is
    tiny, but in a small network they determine how long a step takes on a GPU. The derivative is
    ``dW = gain / sqrt(N · Var) · (g − mean(g) − u · Σ g u)``, without the last term at the floor.

    ``torch.func`` cannot transform it without a ``setup_context``; with one, forward takes twice as
    long.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, gain: Tensor) -> Tensor:
        var, mean = torch.var_mean(weight, dim=(1, 2, 3), correction=0, keepdim=True)
        square = var * weight[0].numel()
        inverse = square.clamp_min(_FLOOR).rsqrt()
        unit = (weight - mean) * inverse
        ctx.save_for_backward(unit, inverse, gain, square > _FLOOR)
        return unit * gain.view(-1, 1, 1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        unit, inverse, gain, free = ctx.saved_tensors
        along = (grad * unit).sum(dim=(1, 2, 3), keepdim=True)
        centred = grad - grad.mean(dim=(1, 2, 3), keepdim=True)
        across = torch.addcmul(centred, unit, along * free, value=-1)
        return across * (inverse * gain.view(-1, 1, 1, 1)), along.view(-1)


class ScaledStdConv2d(SameConv2d):
    """Convolution with scaled weight standardization (2101.08692, section 4.2).

    ``Ŵ = gain · (W − mean) / sqrt(max(N · Var, 1e-4))``; mean and (biased) variance are taken over
    the N = fan-in weights of each output channel. ``weight`` starts as N(0, 1/N), ``gain``
    (shape ``[out]``) as ones, ``bias`` (``[out]``) as zeros. Standardizes in float32 (float64 for
    float64 weights), also under autocast. Can be differentiated once; the
    transforms of ``torch.func``, such as ``grad`` and ``vmap``, refuse it.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: height and width.
        stride: step.
        padding: ``"same"`` (the default, depends on the input's size) or numbers.
        input_scale: a constant that multiplies the input. It is folded into the gain (a vector of
            ``out`` numbers), which saves a pass over the activation and a copy of it.
        **options: as for ``nn.Conv2d``. The fan-in counts one group's input channels; the authors
            have a bias on every such convolution; ``padding_mode="circular"`` keeps the borders
            from distorting signal statistics.

    Raises:
        ValueError: if the fan-in is 1, as in a depthwise 1×1 convolution: standardized, every
            weight would be 0, and the layer would compute nothing but its bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = "same",
        *,
        input_scale: float = 1.0,
        **options: Unpack[ConvOptions],
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, **options)
        self.fan_in = self.weight[0].numel()
        if self.fan_in == 1:
            raise ValueError(
                "a standardized convolution of fan-in 1 has only zeros as weights; give it a "
                "larger kernel or fewer groups"
            )
        self.input_scale = input_scale
        self.gain = nn.Parameter(self.weight.new_ones(out_channels))

    def reset_parameters(self) -> None:
        """Draw ``weight``; ``gain`` to ones and ``bias`` to zeros."""
        nn.init.normal_(self.weight, std=self.weight[0].numel() ** -0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if hasattr(self, "gain"):  # nn.Conv2d calls this before there is one
            nn.init.ones_(self.gain)

    def standardized_weight(self) -> Tensor:
        """Ŵ, shaped like ``weight``."""
        return self._standardize(self.gain)

    def _standardize(self, gain: Tensor) -> Tensor:
        dtype = torch.float64 if self.weight.dtype == torch.float64 else torch.float32
        weight: Tensor = _Standardize.apply(self.weight.to(dtype), gain.to(dtype))
        return weight.to(self.weight.dtype)

    def forward(self, input: Tensor, output_scale: Tensor | float | None = None) -> Tensor:
        """``[N, in, H, W]`` → ``[N, out, H', W']``.

        Args:
            input: the input.
            output_scale: a number or scalar tensor that multiplies the output; it is folded into
                gain and bias.
        """
        gain: Tensor = self.gain
        bias: Tensor | None = self.bias
        if self.input_scale != 1.0:
            gain = gain * self.input_scale
        if output_scale is not None:
            gain = gain * output_scale
            bias = None if bias is None else bias * output_scale
        return self._conv_forward(input, self._standardize(gain), bias)

    def extra_repr(self) -> str:
        """As of :class:`SameConv2d`, and the input's scale, for ``print(model)``."""
        shown, scale = super().extra_repr(), self.input_scale
        return shown if scale == 1.0 else f"{shown}, input_scale={scale:.6g}"


class GhostBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm whose statistics see ``size`` images at a time (Hoffer et al., arXiv 1705.08741).

    In training a batch is cut, in its order, into ghost batches of ``size`` images, the last of
    which may be smaller, and each is normalized with its own mean and variance. Evaluation uses
    running statistics, as in ``nn.BatchNorm2d``.

    Hoffer et al. (section 4, algorithm 1) update the running statistics once for each ghost batch,
    with the momentum of an ordinary layer. Here every update has a smaller one, so that a whole
    batch is forgotten as fast as by an ordinary layer; otherwise small ghost batches would have the
    noisier statistics in evaluation too, and one could not tell the two apart.

    Args:
        features: channels.
        size: images of a ghost batch.

    Raises:
        ValueError: if ``size`` is below 1.
    """

    def __init__(self, features: int, size: int) -> None:
        super().__init__(features)
        if size < 1:
            raise ValueError(f"a ghost batch of {size} images; it must have at least 1")
        self.size = size

    def forward(self, input: Tensor) -> Tensor:
        """``[N, C, H, W]`` → the same shape."""
        if not self.training or len(input) <= self.size:
            return super().forward(input)
        parts = input.split(self.size)
        assert self.momentum is not None
        momentum = 1 - (1 - self.momentum) ** (1 / len(parts))
        if self.num_batches_tracked is not None:  # the training loop drops what counts for nothing
            self.num_batches_tracked.add_(1)
        statistics = (self.running_mean, self.running_var)
        return torch.cat(
            [
                F.batch_norm(part, *statistics, self.weight, self.bias, True, momentum, self.eps)
                for part in parts
            ]
        )

    def extra_repr(self) -> str:
        """Channels and the size of a ghost batch, for ``print(model)``."""
        return f"{self.num_features}, size={self.size}"


class SqueezeExcite(nn.Module):
    """``factor · sigmoid(fc1(relu(fc0(mean over H, W of x)))) · x`` (2102.06171, appendix C).

    The factor 2 keeps the variance near one, as the sigmoid is near ½ at the start. The paper
    prints GELU between the two plain linear layers; the authors' code has an unscaled ReLU, as
    here.

    Args:
        channels: channels of the input and the output.
        ratio: hidden units as a share of ``channels``.
        factor: 2 in normalizer-free networks, 1 in others.
    """

    def __init__(self, channels: int, ratio: float = 0.5, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = factor
        hidden = max(1, int(channels * ratio))
        self.fc0 = nn.Linear(channels, hidden)
        self.fc1 = nn.Linear(hidden, channels)
        for fc in (self.fc0, self.fc1):  # Haiku's default for linear layers
            std = fc.in_features**-0.5
            nn.init.trunc_normal_(fc.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(fc.bias)

    def gate(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` → a factor per image and channel, ``[N, C, 1, 1]``."""
        gate = torch.sigmoid(self.fc1(F.relu(self.fc0(x.mean(dim=(2, 3))))))
        return (self.factor * gate)[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` → ``[N, C, H, W]``."""
        return x * self.gate(x)


class ResidualBlock(nn.Module):
    """A block whose output is a shortcut plus a scaled branch; :mod:`nbrepro.probes` finds these.

    To measure a network, derive its blocks from this class.
    """

    @property
    def expected_variance(self) -> float | None:
        """Variance that theory expects of the output; None without such a theory."""
        return None

    @property
    def projects(self) -> bool:
        """Whether the shortcut changes the signal's shape; a stage begins there."""
        raise NotImplementedError

    def residual(self, x: Tensor) -> Tensor:
        """The branch of input ``x`` before it is dropped, scaled and added."""
        raise NotImplementedError


class StochasticDepth(nn.Module):
    """Set the branch of each training example to zero with probability ``rate``.

    Kept branches are not divided by the keep probability, and evaluation keeps everything: the
    form of the authors' code (2102.06171, appendix A.1).

    Raises:
        ValueError: if ``rate`` is not in [0, 1].
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate <= 1:
            raise ValueError(f"stochastic depth rate {rate}: expected a probability in [0, 1]")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """``[N, ...]`` → ``[N, ...]``."""
        if not self.training or self.rate == 0:
            return x
        return x * x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(1 - self.rate)

    def extra_repr(self) -> str:
        """The rate, for ``print(model)``."""
        return f"rate={self.rate:.6g}"


def expected_stds(depths: Sequence[int], alpha: float = 0.2) -> list[list[float]]:
    """β of every block, by stage: the standard deviation its input is expected to have.

    ``Var(h₀) = 1`` and each block adds α²; the first block of a stage, whose shortcut starts from
    the normalized signal, resets the variance to 1 + α² (2102.06171, section 3 and appendix C).
    """
    stds: list[list[float]] = []
    variance = 1.0
    for depth in depths:
        stds.append([])
        for block in range(depth):
            stds[-1].append(math.sqrt(variance))
            variance = (1.0 if block == 0 else variance) + alpha**2
    return stds

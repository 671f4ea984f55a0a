"""Claims that no training is needed for: arithmetic on printed tables, and networks at their start.

Each check takes no argument and returns whether the claim holds and a sentence with the numbers
found. Its criterion is in its docstring. All are deterministic, run on one core of a CPU in
seconds, and are computed once a process.

A printed number holds if what it comes from can be rounded to it. "About" and its like get a
tolerance, which the criterion names. Constants are the printed tables of arXiv 2102.06171.
"""

import hashlib
import json
import math
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, wraps
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbrepro import agc, models
from nbrepro._files import replacing
from nbrepro.data import augment, cache_folder
from nbrepro.layers import GAMMA, Activation, ScaledStdConv2d
from nbrepro.models.macs import count_macs
from nbrepro.models.nf_resnet import NFResNet
from nbrepro.models.nfnet import VARIANTS
from nbrepro.optim import ema
from nbrepro.probes import BlockSignal, mean_shift, signal_propagation

Check = Callable[[], tuple[bool, str]]

#: Name → check.
CHECKS: dict[str, Check] = {}


class Row(NamedTuple):
    """A network in Table 3: 10⁹ multiply-adds, 10⁶ parameters, top-1 in %, ms a training step."""

    flops: float
    params: float
    top1: float
    tpu: float = math.nan
    v100: float = math.nan


# [P] Tables 1 and 3; steps of batch 32 (a device)
_NFNETS = {
    "f0": Row(12.38, 71.5, 83.6, 73.3, 56.7),
    "f1": Row(35.54, 132.6, 84.7, 158.5, 133.9),
    "f2": Row(62.59, 193.8, 85.1, 295.8, 226.3),
    "f3": Row(114.76, 254.9, 85.7, 532.2, 524.5),
    "f4": Row(215.24, 316.1, 85.9, 1033.3, 1190.6),
    "f5": Row(289.76, 377.2, 86.0, 1398.5, 2177.1),
}
_SAM = {"f5": Row(289.76, 377.2, 86.3, 1958.0), "f6": Row(377.28, 438.4, 86.5, 2774.1)}
_RESNET50 = Row(4.10, 26.0, 78.6, 41.6, 35.3)
_EFFICIENTNETS = {
    "B0": Row(0.39, 5.3, 77.1, 51.1, 44.8),
    "B6": Row(19.00, 43.0, 84.0, 775.7, 868.2),
    "B7": Row(37.00, 66.0, 84.7, 1397.0, 1753.3),
}
_MAXUP_B8 = Row(62.50, 87.4, 85.8)

# [P] Table 2: top-1 of F0 to F3 as augmentations are added
_LADDER = {
    "none": (81.3, 82.2, 82.4, 82.7),
    "MixUp": (82.2, 82.9, 83.1, 83.5),
    "RandAugment": (83.2, 84.6, 84.8, 85.0),
    "CutMix": (83.6, 84.7, 85.1, 85.7),
}
# [P] Table 6: TPUv3 ms a training step of F0 to F3
_STEP = {
    "baseline": (58.0, 116.0, 211.7, 369.5),
    "width": (64.1, 133.9, 252.2, 441.5),
    "second conv": (73.3, 158.5, 295.8, 532.2),
    "BatchNorm": (111.7, 258.0, 396.3, 617.7),
}
# [P] Table 4: top-1 of BatchNorm and NF ResNet-50, 101, 152, 200 fine-tuned at 224, 320, 384 pixels
_TRANSFER = (
    ((78.1, 79.5), (79.6, 80.9), (79.9, 81.1)),
    ((80.8, 81.4), (82.2, 82.7), (82.5, 83.2)),
    ((81.8, 82.7), (83.1, 83.6), (83.4, 84.0)),
    ((81.8, 82.9), (83.1, 84.1), (83.5, 84.3)),
)


@contextmanager
def _seeded() -> Iterator[None]:
    """The same random numbers every time, and the caller's own afterwards."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def _check(function: Check) -> Check:
    @cache
    @wraps(function)
    def run() -> tuple[bool, str]:
        with _seeded():
            return function()

    CHECKS[function.__name__] = run
    return run


def outcome(name: str) -> tuple[bool, str]:
    """What a check finds, computed once for this source of ours and this torch.

    Several pages show the same checks; the finding is kept in the cache folder under a digest of
    all our source files, so that any change of ours has everything computed again.
    """
    kept = cache_folder() / f"check-{name}-{_source_digest()}.json"
    with suppress(OSError, ValueError, TypeError):
        agrees, note = json.loads(kept.read_text(encoding="utf-8"))
        return bool(agrees), str(note)
    found = CHECKS[name]()
    with suppress(OSError), replacing(kept) as file:
        file.write(json.dumps(found).encode())
    return found


@cache
def _source_digest() -> str:
    digest = hashlib.sha256(f"{torch.__version__} {platform.machine()}".encode())
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _each(values: Iterator[float] | list[float], form: str = ".2f") -> str:
    return ", ".join(f"{value:{form}}" for value in values)


@cache
def _meta(name: str, **options: Any) -> nn.Module:
    """A network for ImageNet without memory for its weights."""
    with torch.device("meta"):
        return models.create(name, num_classes=1000, **options)


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# --- The method ---------------------------------------------------------------------------------


@_check
def variance_rule() -> tuple[bool, str]:
    """β² = 1 + α²k before block k of a stage; before the first one, the end of the stage before.

    Criterion: every β of NFNet-F0, NF-ResNet-50 and NF-ResNet-600 within 1e-6 of this closed form,
    and those of NFNet-F0 equal to the numbers of the released code to six digits.
    """
    depths = {
        "nfnet_f0": (1, 2, 6, 3),
        "nf_resnet50": (3, 4, 6, 3),
        "nf_resnet600": (50, 50, 50, 50),
    }
    worst, blocks = 0.0, 0
    betas: dict[str, list[float]] = {}
    for name, stages in depths.items():
        built = _meta(name)
        betas[name] = [block.beta for block in built.get_submodule("blocks").children()]  # type: ignore[misc]
        steps = [
            k if k or not s else stages[s - 1]
            for s, depth in enumerate(stages)
            for k in range(depth)
        ]
        for beta, k in zip(betas[name], steps, strict=True):
            worst = max(worst, abs(beta - math.sqrt(1 + 0.04 * k)))
        blocks += len(steps)
    released = (
        *(1.0, 1.019804, 1.019804, 1.039230, 1.019804, 1.039230),
        *(1.058301, 1.077033, 1.095445, 1.113553, 1.019804, 1.039230),
    )
    same = tuple(round(beta, 6) for beta in betas["nfnet_f0"]) == released
    last, first = betas["nf_resnet600"][49:51]
    return worst < 1e-6 and same, (
        f"{blocks} β of three networks compared; the 50th block of a stage divides by {last:.4f}, "
        f"the next stage's first by {first:.4f}"
    )


@_check
def gamma_constants() -> tuple[bool, str]:
    """The constants γ are 1 / sqrt(Var g(x)), x ~ N(0, 1).

    Criterion: every constant of the released code within 0.13 % of numerical integration;
    log_softmax over many channels only subtracts a constant, glu is x · sigmoid(y).
    """
    x = torch.linspace(-12, 12, 48_001, dtype=torch.float64)
    density = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)

    def moment(values: Tensor) -> float:
        return float(torch.trapezoid(values * density, x))

    variance = {"glu": moment(torch.sigmoid(x) ** 2), "log_softmax": 1.0}
    for name in GAMMA.keys() - variance.keys():
        y = Activation(name, scaled=False)(x)
        variance[name] = moment(y**2) - moment(y) ** 2
    off = {name: abs(gamma * variance[name] ** 0.5 - 1) for name, gamma in GAMMA.items()}
    worst = max(off, key=off.__getitem__)
    return off[worst] <= 0.0013, (
        f"all {len(off)} constants lie within {100 * off[worst]:.2f} % of the integral (worst: "
        f"{worst}); ReLU {GAMMA['relu']:.4f} against {variance['relu'] ** -0.5:.4f}"
    )


@_check
def weight_standardization() -> tuple[bool, str]:
    """Behind a ReLU, rows of weights with a mean shift their units; standardized rows do not.

    Criterion: for N(0, 1/N) weights the mean of unit i is N μ_g μ_i and its variance
    N σ_g² (σ_i² + μ_i²), to a correlation of 0.99 and 3 % on average; scaled weight standardization
    gives rows of mean 0 and variance 1/N up to rounding, and with γ a mean squared mean under 0.01
    and a mean variance within 3 % of 1.
    """
    fan_in, units = 256, 512
    x = torch.randn(8192, fan_in, 1, 1).relu()
    plain = nn.Conv2d(fan_in, units, 1, bias=False)
    nn.init.normal_(plain.weight, std=fan_in**-0.5)
    scaled = ScaledStdConv2d(fan_in, units, 1)
    with torch.no_grad():
        row = plain.weight.flatten(1)
        mean_, variance = _moments(plain(x))
        scaled_mean, scaled_variance = _moments(scaled(x * GAMMA["relu"]))
        weights = fan_in**0.5 * scaled.standardized_weight().flatten(1)
        exact = bool((weights.mean(1).abs() < 1e-5).all())
        exact &= bool(((weights.var(1, correction=0) - 1).abs() < 1e-4).all())
        predicted = fan_in / math.sqrt(2 * math.pi) * row.mean(1)
        spread = fan_in * (1 - 1 / math.pi) / 2 * row.square().mean(1)
    correlation = float(torch.corrcoef(torch.stack([mean_, predicted]))[0, 1])
    error = float((variance / spread - 1).abs().mean())
    shift, left = float(mean_.square().mean()), float(scaled_mean.square().mean())
    unit = float(scaled_variance.mean())
    holds = correlation > 0.99 and error < 0.03 and left < 0.01 and abs(unit - 1) < 0.03
    return holds and exact, (
        f"one layer, {units} units of fan-in {fan_in}: plain weights give a squared mean of "
        f"{shift:.3f} beside a variance of {float(variance.mean()):.3f}, as predicted (correlation "
        f"{correlation:.3f}); scaled weight standardization {left:.4f} and {unit:.3f}"
    )


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of every channel."""
    variance, average = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    return average, variance


@_check
def agc_formula() -> tuple[bool, str]:
    """AGC is equation 3, per filter, per linear output, per vector.

    Criterion: within 1e-12 of a loop over units, written out in float64, for convolutions, linear
    layers and vectors or scalars; a gradient of weights that are zero is cut to λ · 0.001.
    """
    clipping, eps = 0.01, 1e-3
    shapes = {
        "filter": (24, 4, 3, 3),
        "zero filter": (4, 6, 1, 1),
        "linear": (24, 36),
        **{"bias": (24,), "gain": (24,), "scalar": ()},
    }
    parameters: dict[str, nn.Parameter] = {}
    expected: dict[str, list[float]] = {}
    clipped = units = 0
    for name, shape in shapes.items():
        start = torch.zeros if name == "zero filter" else torch.randn
        weight = nn.Parameter(start(shape, dtype=torch.float64))
        rows = weight.detach().reshape(shape[0] if len(shape) > 1 else 1, -1)
        gradient = 2 * clipping * torch.rand(len(rows), 1) * torch.randn_like(rows)
        expected[name] = []
        for w, g in zip(rows.tolist(), gradient.tolist(), strict=True):
            bound = clipping * max(math.sqrt(sum(v * v for v in w)), eps)
            norm = math.sqrt(sum(v * v for v in g))
            expected[name] += [v * min(1.0, bound / norm) for v in g]
            clipped, units = clipped + (norm > bound), units + 1
        weight.grad = gradient.view(shape)
        parameters[name] = weight
    agc.clip_grads_(parameters.items(), clipping, eps)
    worst, largest = 0.0, 0.0
    for name, weight in parameters.items():
        assert weight.grad is not None
        for ours, loop in zip(weight.grad.flatten().tolist(), expected[name], strict=True):
            worst = max(worst, abs(ours / loop - 1))
        if name == "zero filter":
            largest = float(weight.grad.flatten(1).norm(dim=1).max())
    holds = worst < 1e-12 and 0 < clipped < units and abs(largest / (clipping * eps) - 1) < 1e-12
    return holds, (
        f"a loop over {units} units, {clipped} of them clipped, gives the same up to rounding; "
        f"gradients of weights that are zero are cut to {largest:.0e}"
        if worst < 1e-12
        else f"relative difference from a loop over {units} units up to {worst:.0e}"
    )


# --- Signal propagation at the start of training ------------------------------------------------


@cache
def _signal(blocks: int = 50, **options: Any) -> list[BlockSignal]:
    """Three stages of bottleneck blocks, 256 channels, 12×12 Gaussian noise, circular padding."""
    with _seeded():
        return signal_propagation(_net(blocks, **options), torch.randn(16, 3, 12, 12))


def _net(blocks: int, classes: int = 10, **options: Any) -> NFResNet:
    return NFResNet(
        (blocks,) * 3,
        (256,) * 3,
        classes,
        stem_channels=256,
        images="cifar",
        padding_mode="circular",
        **options,
    )


def _branch(rows: list[BlockSignal]) -> float:
    return mean(row["branch_variance"] for row in rows)


def _ends(rows: list[BlockSignal], key: str) -> list[float]:
    """A statistic at the end of every stage."""
    last = {row["stage"]: row for row in rows}
    return [row[key] for row in last.values()]  # type: ignore[literal-required]


def _shift(rows: list[BlockSignal]) -> list[float]:
    """Squared mean over variance at the end of every stage."""
    squared, variance = _ends(rows, "squared_mean"), _ends(rows, "variance")
    return [s / v for s, v in zip(squared, variance, strict=True)]


@_check
def signal_bn() -> tuple[bool, str]:
    """BatchNorm before or after ReLU: what the branch adds, and that a stage grows linearly.

    Criterion: mean branch variance within 3 % of 1 - 1/π (BN, ReLU, convolution) and of 1 (ReLU,
    BN, convolution); behind block k of a stage variance within 10 % of its start + k times that;
    the squared mean at the ends of the stages above a third of the variance in the first order,
    under a hundredth in the second.
    """
    holds, found = True, []
    for order, expected in (("bn-relu", 1 - 1 / math.pi), ("relu-bn", 1.0)):
        rows = _signal(kind="bn", order=order)
        holds &= abs(_branch(rows) / expected - 1) < 0.03
        for row in rows:
            start = 1.0 if row["stage"] == 1 else expected  # the stem's, or a projection's
            line = start + expected * ((row["block"] - 1) % 50 + 1)
            holds &= abs(row["variance"] / line - 1) < 0.1
        shift = _shift(rows)
        holds &= min(shift) > 1 / 3 if order == "bn-relu" else max(shift) < 0.01
        found.append(
            f"{order}: branch variance {_branch(rows):.3f} (theory {expected:.3f}), stages end at "
            f"{_each(_ends(rows, 'variance'), '.1f')} with squared mean over variance "
            f"{_each(shift)}"
        )
    return holds, f"50 blocks a stage; {'; '.join(found)}"


@_check
def signal_plain() -> tuple[bool, str]:
    """Without normalization the variance grows exponentially with depth.

    Criterion: log variance is a straight line in the number of blocks (R² above 0.95) of at least
    50 % a block.
    """
    rows = _signal(16, kind="plain")
    x = torch.arange(len(rows), dtype=torch.float64)
    y = torch.tensor([row["variance"] for row in rows], dtype=torch.float64).log()
    squared = float(torch.corrcoef(torch.stack([x, y]))[0, 1]) ** 2
    growth = math.exp(
        float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    )
    return squared > 0.95 and growth >= 1.5, (
        f"{len(rows)} blocks with He's initialisation: ×{growth:.2f} a block (R² {squared:.3f}), "
        f"variance {rows[0]['variance']:.2g} after the first and {rows[-1]['variance']:.1g} after "
        "the last"
    )


@_check
def signal_mean_shift() -> tuple[bool, str]:
    """With the variance rule but plain weights behind ReLU, means outgrow variances.

    Criterion: squared mean over variance exceeds 1 at the end of every stage and rises from stage
    to stage, with a mean branch variance under 0.7; with BatchNorm before ReLU it stays under 1,
    with BatchNorm behind ReLU under 0.01.
    """
    rows = _signal(alpha=1.0, skip_gain=None, standardize=False)
    shift = _shift(rows)
    before, behind = (
        max(_shift(_signal(kind="bn", order=order))) for order in ("bn-relu", "relu-bn")
    )
    holds = min(shift) > 1 and all(a < b for a, b in pairwise(shift)) and _branch(rows) < 0.7
    return holds and before < 1 and behind < 0.01, (
        f"50 blocks a stage, α = 1, no weight standardization: squared mean over variance "
        f"{shift[0]:.1f}, {shift[1]:.1f}, {shift[2]:.1f} at the ends of the stages, mean branch "
        f"variance {_branch(rows):.2f}; with BatchNorm at most {before:.2f} before ReLU and "
        f"{behind:.2f} behind it"
    )


@_check
def signal_linear() -> tuple[bool, str]:
    """The mean shift comes from ReLU: without it there is none.

    Criterion: with the identity for ReLU squared mean over variance stays under 0.05 in every
    block, and the mean branch variance within 5 % of 1.
    """
    rows = _signal(alpha=1.0, skip_gain=None, standardize=False, activation="identity")
    shift = max(row["squared_mean"] / row["variance"] for row in rows)
    return shift < 0.05 and abs(_branch(rows) - 1) < 0.05, (
        f"50 blocks a stage, α = 1, no weight standardization, no ReLU: squared mean over variance "
        f"at most {shift:.3f}, mean branch variance {_branch(rows):.3f}"
    )


@_check
def signal_scaled_ws() -> tuple[bool, str]:
    """With scaled weight standardization and γ the variance is as predicted and means stay at 0.

    Criterion, for α = 1 and 0.2: variance over prediction within 5 % of 1 on average and within
    10 % in every block; mean branch variance within 5 % of 1; squared mean over variance under 0.05
    in every block.
    """
    holds, found = True, []
    for alpha in (1.0, 0.2):
        rows = _signal(alpha=alpha, skip_gain=None, fold=False)
        ratios = [row["variance"] / (row["expected_variance"] or math.nan) for row in rows]
        shift = max(row["squared_mean"] / row["variance"] for row in rows)
        holds &= abs(mean(ratios) - 1) < 0.05 and max(abs(r - 1) for r in ratios) < 0.1
        holds &= abs(_branch(rows) - 1) < 0.05 and shift < 0.05
        found.append(
            f"α = {alpha:g}: stages end at {_each(_ends(rows, 'variance'), '.3g')} (theory "
            f"{1 + 50 * alpha**2:g}), mean branch variance {_branch(rows):.3f}, squared mean over "
            f"variance at most {shift:.3f}"
        )
    return holds, f"50 blocks a stage; {'; '.join(found)}"


@_check
def one_label() -> tuple[bool, str]:
    """Without normalization different inputs become alike, and nearly all get the same label.

    Criterion, for 64 independent noise images: plain network: mean cosine between block outputs
    above 0.9 and share of the most common of 10 labels above 0.9, on average over 100 random
    classifiers; with BatchNorm behind ReLU under 0.1 and under 0.25.
    """
    networks: dict[str, dict[str, Any]] = {
        "plain": {"kind": "plain"},
        "BatchNorm": {"kind": "bn", "order": "relu-bn"},
        "scaled weight standardization": {"skip_gain": None},
    }
    cosine, share = {}, {}
    for name, options in networks.items():
        images = torch.randn(64, 3, 8, 8)
        model = _net(16, classes=1000, **options)
        cosine[name] = mean_shift(model, images)["cosine"][-1]
        with torch.no_grad():
            labels = F.one_hot(model(images).view(64, 100, 10).argmax(dim=2), 10)
        share[name] = float(labels.float().mean(dim=0).amax(dim=1).mean())
    alike = cosine["plain"] > 0.9 and share["plain"] > 0.9
    return alike and abs(cosine["BatchNorm"]) < 0.1 and share["BatchNorm"] < 0.25, (
        "48 blocks, 64 inputs, 100 classifiers; cosine of the outputs and share of the commonest "
        "label: "
        + "; ".join(
            f"{name} {round(cosine[name], 2) + 0.0:.2f}, {100 * share[name]:.0f} %"  # no -0.00
            for name in networks
        )
    )


@_check
def bn_downscales() -> tuple[bool, str]:
    """BatchNorm on the branch makes the l-th branch 1 / (l + 1) of its block's output.

    Criterion: branch variance over output variance within 10 % of 1 / (l + 1) in all 50 blocks of
    a stage that starts from variance 1.
    """
    rows = [row for row in _signal(kind="bn", order="relu-bn") if row["stage"] == 1]
    ratios = [row["branch_variance"] / row["variance"] for row in rows]
    off = max(abs(ratio * (depth + 1) - 1) for depth, ratio in enumerate(ratios, 1))
    return off < 0.1, (
        f"{ratios[0]:.3f} of the output's variance in the first block, {ratios[-1]:.4f} in the "
        f"50th (theory 0.500 and {1 / 51:.4f}); at most {100 * off:.1f} % off in between"
    )


# --- The family ---------------------------------------------------------------------------------


@_check
def parameters() -> tuple[bool, str]:
    """The networks have the printed numbers of parameters.

    Criterion: F0 to F6, rounded to 0.1 million, are as printed.
    """
    printed = {**_NFNETS, "f6": _SAM["f6"]}
    counts = {name: _size(_meta(f"nfnet_{name}")) for name in printed}
    wrong = [name for name, row in printed.items() if round(counts[name] / 1e6, 1) != row.params]
    return not wrong, (
        f"{len(counts) - len(wrong)} of {len(counts)} agree: F0 {counts['f0']:,} to F6 "
        f"{counts['f6']:,}, in equal steps of {counts['f1'] - counts['f0']:,}"
    )


@_check
def flops() -> tuple[bool, str]:
    """The printed FLOPs are the networks' multiply-adds at test resolution.

    Criterion: F0 to F6, rounded to 0.01 billion, are as printed.
    """
    printed = {**_NFNETS, "f6": _SAM["f6"]}
    counts = {
        name: count_macs(_meta(f"nfnet_{name}"), VARIANTS[name].test_pixels) / 1e9
        for name in printed
    }
    wrong = [name for name, row in printed.items() if round(counts[name], 2) != row.flops]
    return not wrong, (
        f"{len(counts) - len(wrong)} of {len(counts)} agree as multiply-adds at test resolution: "
        f"{_each(list(counts.values()))} billion"
    )


@_check
def f4_plus() -> tuple[bool, str]:
    """NFNet-F4+ has 527M parameters and 367B FLOPs.

    Criterion: the network of the released code, rounded to millions and billions at 512 pixels.
    """
    pixels = VARIANTS["f4+"].test_pixels
    found = []
    for rounded in (True, False):
        model = _meta("nfnet_f4+", round_bottleneck=rounded)
        found.append((_size(model) / 1e6, count_macs(model, pixels) / 1e9))
    (params, macs), (wider_params, wider_macs) = found
    return (round(params), round(macs)) == (527, 367), (
        f"the released code builds {params:.1f}M and {macs:.1f}B, as it rounds the first stage's "
        f"bottleneck from 192 down to 128; with 192 it would be {wider_params:.1f}M and "
        f"{wider_macs:.1f}B (printed: 527M, 367B)"
    )


@_check
def width_and_conv() -> tuple[bool, str]:
    """The rows of Table 2 are these networks: default widths, and no second 3×3 convolution.

    Criterion: parameters of F0 to F3 in both forms equal to the counts of timm's implementation.
    """
    default = (256, 512, 1024, 2048)
    independent = {
        "widths": (68_638_724, 123_285_648, 177_932_572, 232_579_496),
        "second_conv": (62_774_276, 115_204_240, 167_634_204, 220_064_168),
    }
    options: dict[str, Any] = {"widths": default, "second_conv": False}
    ours = {
        key: tuple(_size(_meta(f"nfnet_f{n}", **{key: value})) for n in range(4))
        for key, value in options.items()
    }
    pixels = VARIANTS["f0"].test_pixels
    full = count_macs(_meta("nfnet_f0"), pixels)
    less = {
        key: 100 * (full / count_macs(_meta("nfnet_f0", **{key: value}), pixels) - 1)
        for key, value in options.items()
    }
    return ours == independent, (
        f"8 counts agree; in F0 the modified widths cost {less['widths']:+.0f} % multiply-adds, "
        f"the second convolution {less['second_conv']:+.0f} %"
        if ours == independent
        else f"counted {ours}"
    )


# --- Arithmetic on the printed tables -----------------------------------------------------------


def _quotients(a: tuple[float, ...], b: tuple[float, ...]) -> list[float]:
    return [x / y for x, y in zip(a, b, strict=True)]


@_check
def arithmetic_speedup() -> tuple[bool, str]:
    """F1 trains 8.7 times as fast as EfficientNet-B7.

    Criterion: some pair of latencies that round to those printed has a ratio that rounds to 8.7.
    """
    b7, f1 = _EFFICIENTNETS["B7"], _NFNETS["f1"]
    low, high = (b7.tpu - 0.05) / (f1.tpu + 0.05), (b7.tpu + 0.05) / (f1.tpu - 0.05)
    ratio = b7.tpu / f1.tpu
    return low < 8.75 and high >= 8.65, (
        f"Table 3 has {b7.tpu} / {f1.tpu} ms = {ratio:.2f} on TPUv3 (between {low:.3f} and "
        f"{high:.3f} for any unrounded latencies) and {b7.v100 / f1.v100:.1f} on V100: the printed "
        f"8.7 understates its own table by {100 * (ratio / 8.7 - 1):.0f} %, more than rounding can"
    )


@_check
def arithmetic_bn_slower() -> tuple[bool, str]:
    """BatchNorm versions of F0 to F3 are 20 to 40 % slower to train.

    Criterion: for all four the step time of Table 6 is 20 to 40 % longer with BatchNorm, or else 20
    to 40 % shorter without, to a percent.
    """
    ratios = _quotients(_STEP["BatchNorm"], _STEP["second conv"])
    slower = [100 * (ratio - 1) for ratio in ratios]
    saved = [100 * (1 - 1 / ratio) for ratio in ratios]
    holds = any(all(20 <= round(v) <= 40 for v in values) for values in (slower, saved))
    return holds, (
        f"Table 6: BatchNorm is {_each(slower, '.0f')} % slower; read as time saved without it, "
        f"{_each(saved, '.0f')} %"
    )


@_check
def arithmetic_half_as_fast() -> tuple[bool, str]:
    """Each variant trains about half as fast as the one before.

    Criterion: every ratio of consecutive TPUv3 latencies, F0 to F5, between 1.5 and 2.5.
    """
    rows = list(_NFNETS.values())
    tpu = [b.tpu / a.tpu for a, b in pairwise(rows)]
    v100 = [b.v100 / a.v100 for a, b in pairwise(rows)]
    return all(1.5 <= ratio <= 2.5 for ratio in tpu), (
        f"step times of Table 3 grow by {_each(tpu)} from F0 to F5 on TPUv3 (V100: {_each(v100)}): "
        "about half in all steps but the last, on TPUv3"
    )


@_check
def arithmetic_latency_rows() -> tuple[bool, str]:
    """The second convolution hardly costs time, and the modified widths roughly preserve it.

    Criterion, in Table 6, F0 to F3: at most 5 % for the convolution, at most 10 % for the widths.
    """
    conv = [100 * (r - 1) for r in _quotients(_STEP["second conv"], _STEP["width"])]
    width = [100 * (r - 1) for r in _quotients(_STEP["width"], _STEP["baseline"])]
    return max(conv) <= 5 and max(width) <= 10, (
        f"Table 6: the second convolution adds {_each(conv, '.0f')} % to a training step, the "
        f"modified widths {_each(width, '.0f')} %"
    )


@_check
def test_resolution() -> tuple[bool, str]:
    """Test images are about 33 % larger than training images.

    Criterion: within 10 points of a third more, F0 to F6.
    """
    ratios = [VARIANTS[f"f{n}"].test_pixels / VARIANTS[f"f{n}"].train_pixels for n in range(7)]
    return all(abs(ratio - 4 / 3) <= 0.1 for ratio in ratios), (
        f"test over train pixels {_each(ratios, '.3f')} for F0 to F6, mean {mean(ratios):.3f}"
    )


@_check
def ema_horizon() -> tuple[bool, str]:
    """The nominal decay of the averaged weights, 0.99999, is never in force.

    Criterion: min(0.99999, (1 + t) / (10 + t)) stays below 0.99999 for the 360 epochs of training.
    """
    steps = 360 * 1_281_167 // 4096
    last = ema.ema_decay(float(steps))
    reached = round((10 * 0.99999 - 1) / (1 - 0.99999))
    return last < 0.99999, (
        f"the decay is {ema.ema_decay(1e3):.5f} at step 1,000 and {last:.5f} at the last, "
        f"{steps:,}; it would reach 0.99999 at step {reached:,}"
    )


@_check
def flops_not_parameters() -> tuple[bool, str]:
    """NFNets match EfficientNets in accuracy against FLOPs, but not against parameters.

    Criterion, in Table 3: at the FLOPs of EfficientNet-B6 and B7, those of its plain EfficientNets
    that lie in the NFNets' range, the line through the NFNets (in log FLOPs) is at most 0.3 points
    below; B7 beats the smallest NFNet, which has more parameters.
    """

    def line(flops: float) -> float:
        for a, b in pairwise(_NFNETS.values()):
            if a.flops <= flops <= b.flops:
                return a.top1 + (b.top1 - a.top1) * math.log(flops / a.flops) / math.log(
                    b.flops / a.flops
                )
        raise ValueError(f"{flops} is outside the NFNets' range")

    gaps = {
        name: line(_EFFICIENTNETS[name].flops) - _EFFICIENTNETS[name].top1 for name in ("B6", "B7")
    }
    b7, f0 = _EFFICIENTNETS["B7"], _NFNETS["f0"]
    maxup = line(_MAXUP_B8.flops) - _MAXUP_B8.top1
    holds = min(gaps.values()) >= -0.3 and b7.params < f0.params and b7.top1 > f0.top1
    return holds, (
        f"at equal FLOPs NFNets are {gaps['B6']:+.2f} and {gaps['B7']:+.2f} points from B6 and B7; "
        f"{b7.params}M parameters give {b7.top1} % in B7, {f0.params}M give {f0.top1} % in F0 "
        f"(B8, trained with another augmentation, MaxUp: {maxup:+.1f} at equal FLOPs)"
    )


@_check
def augmentation_ladder() -> tuple[bool, str]:
    """RandAugment helps most, then MixUp, then CutMix, in the order in which they are added.

    Criterion: so in every column of Table 2, F0 to F3.
    """
    gains = {
        added: [after - before for before, after in zip(_LADDER[to], _LADDER[added], strict=True)]
        for to, added in pairwise(_LADDER)
    }
    columns = zip(gains["RandAugment"], gains["MixUp"], gains["CutMix"], strict=True)
    return all(ra > mixup > cutmix for ra, mixup, cutmix in columns), "Table 2, F0 to F3: " + (
        "; ".join(f"{added} {_each(gain, '+.1f')}" for added, gain in gains.items())
    )


@_check
def b0_flops() -> tuple[bool, str]:
    """EfficientNet-B0 has a tenth of ResNet-50's FLOPs at similar latency and accuracy.

    Criterion, in Table 3: a ratio that rounds to 10 or 11; training steps within a factor of 4/3 of
    each other on both devices; top-1 within 2 points.
    """
    b0, r50 = _EFFICIENTNETS["B0"], _RESNET50
    ratio = r50.flops / b0.flops
    times = b0.tpu / r50.tpu, b0.v100 / r50.v100
    alike = all(3 / 4 <= time <= 4 / 3 for time in times) and abs(b0.top1 - r50.top1) <= 2
    return round(ratio) in (10, 11) and alike, (
        f"{r50.flops:.2f}B / {b0.flops}B = {ratio:.1f} times fewer FLOPs, yet ×{times[0]:.2f} the "
        f"step time on TPUv3 and ×{times[1]:.2f} on V100; top-1 {b0.top1} against {r50.top1} %"
    )


@_check
def sam_cost() -> tuple[bool, str]:
    """SAM with the ascent on a fifth of the batch costs 20 to 40 % more time, not 100 %.

    Criterion: F5's step times in Table 3, to a percent.
    """
    more = 100 * (_SAM["f5"].tpu / _NFNETS["f5"].tpu - 1)
    return 20 <= round(more) <= 40, (
        f"F5: {_SAM['f5'].tpu} ms with SAM, {_NFNETS['f5'].tpu} without: {more:.1f} % more"
    )


@_check
def transfer_gaps() -> tuple[bool, str]:
    """NF-ResNets transfer about 1 point better than BatchNorm ResNets.

    Criterion, in Table 4: better in all 12 cells; mean between 0.75 and 1.25 points.
    """
    gaps = [nf - bn for row in _TRANSFER for bn, nf in row]
    return min(gaps) > 0 and 0.75 <= mean(gaps) <= 1.25, (
        f"{sum(gap > 0 for gap in gaps)} of {len(gaps)} cells; +{mean(gaps):.2f} points on "
        f"average, from +{min(gaps):.1f} to +{max(gaps):.1f}; single runs"
    )


# --- Data and numbers ---------------------------------------------------------------------------


@_check
def randaugment_blanks() -> tuple[bool, str]:
    """RandAugment of magnitude 20 leaves most images of 224 pixels blank.

    Criterion: more than half of 64 crops of two photographs are blank
    (:func:`nbrepro.data.augment.blank_share`).
    """
    from sklearn.datasets import load_sample_images

    photographs = [torch.from_numpy(image.copy()) for image in load_sample_images().images]

    def augmented(pixels: int, magnitude: int) -> Tensor:
        crops = []
        for number in range(64):
            photograph = photographs[number % 2]
            row, column = (
                int(torch.randint(size - pixels + 1, ())) for size in photograph.shape[:2]
            )
            crops.append(photograph[row : row + pixels, column : column + pixels])
        draw = augment.draw_randaugment(64, torch.default_generator)
        return augment.randaugment(torch.stack(crops).permute(0, 3, 1, 2), draw, magnitude)

    at_224 = augmented(224, 20)
    blank = float(augment.blank_share(at_224))
    smaller = [float(augment.blank_share(augmented(96, m))) for m in (5, 20)]
    flat = mean(_commonest(image) > 0.8 for image in at_224)
    return blank > 0.5, (
        f"64 crops of photographs, the released code's ops: {100 * blank:.0f} % blank at 224 "
        f"pixels and magnitude 20 ({100 * flat:.0f} % have one colour on more than 80 %); at 96 "
        f"pixels {100 * smaller[1]:.0f} %, and {100 * smaller[0]:.0f} % at magnitude 5"
    )


def _commonest(image: Tensor) -> float:
    """Share of an image's pixels that have its most common colour."""
    colour = (image.long() * torch.tensor([65536, 256, 1])[:, None, None]).sum(dim=0)
    return float(colour.flatten().unique(return_counts=True)[1].max()) / colour.numel()


@_check
def bf16_statistics() -> tuple[bool, str]:
    """Batch statistics in bfloat16 are not to be trusted.

    Criterion, for the root mean square error of E[x²] - E[x]² over 64 channels: where means are
    about 100 standard deviations it exceeds the variance in bfloat16, and is under 5 % of it in
    float32 from the same bfloat16 numbers; where means are 0 it is under 5 % in both.
    """
    shifts = (0, 10, 30, 100)
    errors: dict[torch.dtype, list[float]] = {torch.bfloat16: [], torch.float32: []}
    for shift in shifts:
        exact = torch.randn(64, 4096) + shift * (0.9 + 0.2 * torch.rand(64, 1))
        stored = exact.bfloat16()
        for dtype, found in errors.items():
            x = stored.to(dtype)
            variance = ((x * x).mean(1) - x.mean(1) ** 2).float()
            error = variance - exact.var(1, correction=0)
            found.append(float(error.square().mean().sqrt()))
    bf16, float32 = errors.values()
    holds = bf16[-1] > 1 and max(bf16[0], float32[0], float32[-1]) < 0.05
    return holds, (
        f"variance 1 at means of about {', '.join(map(str, shifts))}: E[x²] - E[x]² is off by "
        f"{_each(bf16)} in bfloat16, by {_each(float32)} in float32 from the same numbers"
    )


# --- BatchNorm against its twin without ---------------------------------------------------------

_TWINS = {"BatchNorm": "bn_cifar_nf_resnet20", "normalizer-free": "cifar_nf_resnet20"}


def _twin(name: str) -> nn.Module:
    """A twin whose residual branches count from the start, in training mode."""
    options: dict[str, Any] = {} if name == "BatchNorm" else {"skip_gain": None}
    return models.create(_TWINS[name], **options)


@_check
def independence() -> tuple[bool, str]:
    """With BatchNorm an example's output depends on the others of its batch.

    Criterion: with 1 of 32 images replaced, the logits of the 31 others change by more than 1 % of
    their standard deviation; in the normalizer-free twin by exactly 0.
    """
    change = {}
    for name in _TWINS:
        model = _twin(name)
        images = torch.randn(32, 3, 16, 16)
        replaced = torch.cat([torch.randn(1, 3, 16, 16), images[1:]])
        with torch.no_grad():
            before, after = model(images)[1:], model(replaced)[1:]
        change[name] = float((after - before).abs().max() / before.std())
    return change["BatchNorm"] > 0.01 and change["normalizer-free"] == 0, (
        f"one of 32 images replaced: logits of the others move by up to "
        f"{100 * change['BatchNorm']:.0f} % of their deviation with BatchNorm, by "
        f"{change['normalizer-free']:g} without"
    )


@_check
def train_eval_gap() -> tuple[bool, str]:
    """A BatchNorm network is another function in training than in evaluation.

    Criterion: logits of one training batch differ between the modes (relative norm) by more than
    10 % after 1 update of the running statistics and more than 1 % after 50, on independent noise;
    in the normalizer-free twin by exactly 0.
    """
    gaps: dict[str, list[float]] = {}
    for name in _TWINS:
        model = _twin(name)
        gaps[name] = []
        with torch.no_grad():
            for update in range(1, 51):
                images = torch.randn(32, 3, 16, 16)
                train = model.train()(images)
                if update in (1, 50):
                    change = model.eval()(images) - train
                    gaps[name].append(float(change.norm() / train.norm()))
    (one, fifty), nf = gaps["BatchNorm"], gaps["normalizer-free"]
    return one > 0.1 and fifty > 0.01 and nf == [0, 0], (
        f"logits of a batch in the two modes differ with BatchNorm by {100 * one:.0f} % after 1 "
        f"update of the running statistics and {100 * fifty:.0f} % after 50, without by {max(nf):g}"
    )


@_check
def micro_batches() -> tuple[bool, str]:
    """Splitting a batch, as over devices, changes what a BatchNorm network computes.

    Criterion: the gradient of 32 examples and the mean over 2, 4, 8, 16 equal parts differ by more
    than 10 % (relative norm) with BatchNorm, by less than 1e-5 in the normalizer-free twin.
    """
    difference: dict[str, list[float]] = {}
    for name in _TWINS:
        model = _twin(name)
        images, labels = torch.randn(32, 3, 16, 16), torch.randint(10, (32,))

        def gradient(parts: int, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            total = torch.zeros(_size(model))
            for some, targets in zip(images.chunk(parts), labels.chunk(parts), strict=True):
                loss = F.cross_entropy(model(some), targets)
                grads = torch.autograd.grad(loss, list(model.parameters()))
                total += torch.cat([grad.flatten() for grad in grads]) / parts
            return total

        whole = gradient(1, model, images, labels)
        difference[name] = [
            float((gradient(k, model, images, labels) - whole).norm() / whole.norm())
            for k in (2, 4, 8, 16)
        ]
    bn, nf = difference["BatchNorm"], difference["normalizer-free"]
    return min(bn) > 0.1 and max(nf) < 1e-5, (
        f"gradient of 32 images against the mean of 2, 4, 8, 16 parts: relative difference "
        f"{_each(bn)} with BatchNorm, under 1e-5 without"
        if max(nf) < 1e-5
        else f"the gradient of the normalizer-free twin changes by {max(nf):.0e}"
    )


@_check
def memory() -> tuple[bool, str]:
    """BatchNorm needs extra memory in training.

    Criterion: a training step of the BatchNorm network keeps more bytes for the backward pass than
    that of its normalizer-free twin with folded scalars.
    """
    kept = {}
    for name, options in {
        "BatchNorm": {},
        "folded": {"fold": True},
        "unfolded": {"fold": False},
    }.items():
        model = models.create(_TWINS.get(name, "cifar_nf_resnet20"), **options)
        kept[name] = _kept(model, torch.randn(32, 3, 16, 16)) / 2**20
    return kept["BatchNorm"] > kept["folded"], (
        f"MiB kept for the backward pass of 32 images: BatchNorm {kept['BatchNorm']:.1f}; "
        f"normalizer-free {kept['folded']:.1f} with γ, β, α and SkipInit folded into the weights, "
        f"but {kept['unfolded']:.1f} with operations of their own"
    )


def _kept(model: nn.Module, images: Tensor) -> int:
    """Bytes of activations that autograd keeps; each storage once, parameters not counted."""
    storages: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: list[Tensor] = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(images).sum()
    return sum(storages.values())

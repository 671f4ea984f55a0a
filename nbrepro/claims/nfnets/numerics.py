"""Formulas and constants of the method, augmentation, and arithmetic in bfloat16."""

import math
from statistics import mean

import torch
from torch import Tensor, nn

from nbrepro import agc
from nbrepro.claims.checks import check, each
from nbrepro.claims.nfnets.counts import blueprint
from nbrepro.data import augment
from nbrepro.layers import GAMMA, Activation, ScaledStdConv2d
from nbrepro.optim import recipe


@check
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
        built = blueprint(name)
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


@check
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


@check
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


@check
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


@check
def ema_horizon() -> tuple[bool, str]:
    """The nominal decay of the averaged weights, 0.99999, is never in force.

    Criterion: min(0.99999, (1 + t) / (10 + t)) stays below 0.99999 for the 360 epochs of training.
    """
    steps = 360 * 1_281_167 // 4096
    last = recipe.ema_decay(float(steps))
    reached = round((10 * 0.99999 - 1) / (1 - 0.99999))
    return last < 0.99999, (
        f"the decay is {recipe.ema_decay(1e3):.5f} at step 1,000 and {last:.5f} at the last, "
        f"{steps:,}; it would reach 0.99999 at step {reached:,}"
    )


@check
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


@check
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
        f"{each(bf16)} in bfloat16, by {each(float32)} in float32 from the same numbers"
    )

"""Formulas and constants of the method, RandAugment, and batch statistics in bfloat16."""

import math
from statistics import mean

import numpy as np
import torch
from torch import Tensor, nn

from nbrepro import agc
from nbrepro.claims.checks import Outcome, check, check_over
from nbrepro.claims.nfnets.counts import blueprint
from nbrepro.data import augment
from nbrepro.layers import GAMMA, Activation, ScaledStdConv2d
from nbrepro.optim import ema


@check
def variance_rule() -> Outcome:
    """β of NFNet-F0, NF-ResNet-50 and NF-ResNet-600 against a closed form and the released code.

    β² = 1 + α²k before block k of a stage; before the first one, the end of the stage before
    (section 3, appendix C). The values are the largest difference from this, and the number of
    blocks of NFNet-F0 whose β is not, to six digits, that of the released code.
    """
    depths = {
        "nfnet_f0": (1, 2, 6, 3),
        "nf_resnet50": (3, 4, 6, 3),
        "nf_resnet600": (50, 50, 50, 50),
    }
    errors: list[float] = []
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
            errors.append(abs(beta - math.sqrt(1 + 0.04 * k)))
    released = (
        *(1.0, 1.019804, 1.019804, 1.039230, 1.019804, 1.039230),
        *(1.058301, 1.077033, 1.095445, 1.113553, 1.019804, 1.039230),
    )
    ours = [round(beta, 6) for beta in betas["nfnet_f0"]]
    unlike = sum(a != b for a, b in zip(ours, released, strict=True))
    last, first = betas["nf_resnet600"][49:51]
    return Outcome(
        {"worst_error": np.max(errors), "unlike_released": unlike},
        f"{len(errors)} β of three networks compared; the 50th block of a stage divides by "
        f"{last:.4f}, the next stage's first by {first:.4f}",
    )


@check
def gamma_constants() -> Outcome:
    """γ of the released code against 1 / sqrt(Var g(x)), x ~ N(0, 1) (section 3).

    The largest relative difference from numerical integration; log_softmax over many channels
    only subtracts a constant, glu is x · sigmoid(y).
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
    return Outcome(
        {"worst_error": np.max(list(off.values()))},
        f"all {len(off)} constants lie within {100 * off[worst]:.2f} % of the integral (worst: "
        f"{worst}); ReLU {GAMMA['relu']:.4f} against {variance['relu'] ** -0.5:.4f}",
    )


@check_over(seeds=10)
def weight_standardization() -> Outcome:
    """One layer behind a ReLU, with plain and with scaled standardized weights (section 3).

    For N(0, 1/N) weights the mean of unit i is N μ_g μ_i and its variance N σ_g² (σ_i² + μ_i²);
    values are the correlation with those means and the mean relative error of those variances.
    Scaled standardized weights have mean 0 and variance 1/N in every row; values, times N, are
    the largest differences from that, and with γ the units' mean squared mean and mean variance.
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
        row_mean = float(weights.mean(1).abs().max())
        row_variance = float((weights.var(1, correction=0) - 1).abs().max())
        predicted = fan_in / math.sqrt(2 * math.pi) * row.mean(1)
        spread = fan_in * (1 - 1 / math.pi) / 2 * row.square().mean(1)
    correlation = float(torch.corrcoef(torch.stack([mean_, predicted]))[0, 1])
    error = float((variance / spread - 1).abs().mean())
    return Outcome(
        {
            "plain_correlation": correlation,
            "plain_variance_error": error,
            "row_mean": row_mean,
            "row_variance_error": row_variance,
            "squared_mean": float(scaled_mean.square().mean()),
            "variance": float(scaled_variance.mean()),
        },
        f"one layer, {units} units of fan-in {fan_in}: plain weights give a squared mean of "
        "{shift:.3f} beside a variance of {spread:.3f}, as predicted (correlation "
        "{plain_correlation:.4f}); scaled weight standardization {squared_mean:.5f} and "
        "{variance:.3f}",
        {"shift": float(mean_.square().mean()), "spread": float(variance.mean())},
    )


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of every channel."""
    variance, average = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    return average, variance


@check_over(seeds=10)
def agc_formula() -> Outcome:
    """AGC against a loop over units, written out in float64 (section 4, equation 3).

    The units are filters, linear outputs, vectors and scalars. Values are the largest relative
    difference, the number of clipped units (some must be and some not), and the relative
    difference from λ · 0.001 of the largest norm to which a gradient of zero weights is cut.
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
    largest, errors = 0.0, []
    for name, weight in parameters.items():
        assert weight.grad is not None
        for ours, loop in zip(weight.grad.flatten().tolist(), expected[name], strict=True):
            errors.append(abs(ours / loop - 1))
        if name == "zero filter":
            largest = float(weight.grad.flatten(1).norm(dim=1).max())
    return Outcome(
        {
            "worst_error": np.max(errors),
            "clipped": clipped,
            "zero_weights_error": abs(largest / (clipping * eps) - 1),
        },
        f"relative difference from a loop over {units} units, {{clipped:.0f}} of them clipped, at "
        "most {worst_error:.0e}; gradients of weights that are zero are cut to {largest:.0e}",
        {"largest": largest},
    )


@check
def ema_horizon() -> Outcome:
    """Decay of the averaged weights, min(0.99999, (1 + t) / (10 + t)), at the last step.

    Training takes 360 epochs of ImageNet in batches of 4096 (appendix A.1).
    """
    steps = 360 * 1_281_167 // 4096
    last = ema.ema_decay(float(steps))
    reached = round((10 * 0.99999 - 1) / (1 - 0.99999))
    return Outcome(
        {"last_decay": last},
        f"the decay is {ema.ema_decay(1e3):.5f} at step 1,000 and {last:.5f} at the last, "
        f"{steps:,}; it would reach 0.99999 at step {reached:,}",
    )


@check_over(seeds=10)
def randaugment_blanks() -> Outcome:
    """Share of images of 224 pixels that RandAugment of magnitude 20 leaves blank.

    Of 16 crops per seed of two photographs, all that scikit-learn brings along; section 6.1 and
    appendix A.3 say most images, and not what is blank. The value takes the kinder reading, one
    color on more than 80 %; the note has :func:`nbrepro.data.augment.blank_share` too.
    """
    from sklearn.datasets import load_sample_images

    photographs = [torch.from_numpy(image.copy()) for image in load_sample_images().images]

    def augmented(pixels: int, magnitude: int) -> Tensor:
        crops = []
        for number in range(16):
            photograph = photographs[number % 2]
            row, column = (
                int(torch.randint(size - pixels + 1, ())) for size in photograph.shape[:2]
            )
            crops.append(photograph[row : row + pixels, column : column + pixels])
        draw = augment.draw_randaugment(16, torch.default_generator)
        return augment.randaugment(torch.stack(crops).permute(0, 3, 1, 2), draw, magnitude)

    at_224 = augmented(224, 20)
    blank = {m: float(augment.blank_share(augmented(96, m))) for m in (5, 20)}
    return Outcome(
        {"one_color_share": mean(_commonest(image) > 0.8 for image in at_224)},
        "16 crops per seed, but of only two photographs, and the released code's ops: "
        "{one_color_share:.0%} have one colour on more than 80 % at 224 pixels and magnitude 20, "
        "and {blank:.0%} are blank by a stricter measure; by that {small:.0%} are at 96 "
        "pixels, and {weak:.0%} at 96 pixels and magnitude 5",
        {"blank": float(augment.blank_share(at_224)), "small": blank[20], "weak": blank[5]},
    )


def _commonest(image: Tensor) -> float:
    """Share of an image's pixels that have its most common color."""
    color = (image.long() * torch.tensor([65536, 256, 1])[:, None, None]).sum(dim=0)
    return float(color.flatten().unique(return_counts=True)[1].max()) / color.numel()


@check_over(seeds=10)
def bf16_statistics() -> Outcome:
    """Root mean square error of E[x²] - E[x]² over 64 channels of variance 1 (section 6.1).

    In bfloat16 where means are about 100 standard deviations; and the largest of the others: in
    float32 from the same bfloat16 numbers, and in both where means are 0. A demonstration: the
    numbers are drawn, and no network's activations.
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
    return Outcome(
        {"bfloat16_error": bf16[-1], "other_errors": np.max([bf16[0], float32[0], float32[-1]])},
        "a demonstration with drawn numbers, not with a network's activations: where the variance "
        "is 1, E[x²] − E[x]² misses it in bfloat16 by {none:.4f} if the mean is 0, and by "
        "{ten:.2f}, {thirty:.1f} and {bfloat16_error:.0f} at means of about 10, 30 and 100; in "
        "float32, from the same numbers, by at most {float32:.3f}",
        {"none": bf16[0], "ten": bf16[1], "thirty": bf16[2], "float32": np.max(float32)},
    )

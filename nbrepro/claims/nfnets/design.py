"""Design and recipe (arXiv 2102.06171, sections 3 to 6, appendices A and C): text against code."""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from nbrepro import agc, models
from nbrepro.claims.checks import Outcome, check, check_over, each
from nbrepro.claims.nfnets.counts import blueprint, count_macs, size
from nbrepro.claims.tables import printed
from nbrepro.data import MEAN, STD, augment
from nbrepro.data.preprocess import Preprocess
from nbrepro.layers import GAMMA, ScaledStdConv2d, SqueezeExcite, StochasticDepth
from nbrepro.models.nf_resnet import NFResNet, classifier
from nbrepro.models.nfnet import VARIANTS
from nbrepro.optim import LARS, ClippedSGD, parameter_groups
from nbrepro.probes import signal_propagation
from nbrepro.spec import Spec
from nbrepro.train.schedule import learning_rate

#: Images of ImageNet's training set.
IMAGES = 1_281_167


@cache
def _family() -> dict[str, Any]:
    """NFNet-F0 to F6 without memory for their weights."""
    return {f"NFNet-F{n}": blueprint(f"nfnet_f{n}") for n in range(7)}


@cache
def _nf_resnets() -> dict[str, Any]:
    """NF-ResNet-50 to 600 without memory for their weights."""
    return {name: blueprint(name) for name in printed("nfnets")["nf_resnets"].rows}


def _stages(model: Any) -> list[list[Any]]:
    """Blocks by stage; the first of a stage projects."""
    stages: list[list[Any]] = []
    for block in model.blocks:
        if block.projects:
            stages.append([])
        stages[-1].append(block)
    return stages


def _toy(depths: tuple[int, ...], **options: Any) -> Any:
    """Stages of bottleneck blocks, 256 channels, α = 0.2, SkipInit at 1, circular padding."""
    design: dict[str, Any] = {"skip_gain": 1.0, "fold": False, "padding_mode": "circular"} | options
    return NFResNet(depths, (256,) * len(depths), 10, stem_channels=256, images="cifar", **design)


def _off(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    return float((found - expected).norm() / expected.norm())


def _variance(x: Tensor) -> float:
    """Mean over channels of the variance."""
    return float(x.var(dim=(0, 2, 3), correction=0).mean())


def _moment(function: Callable[[Tensor], Tensor], power: int = 1) -> float:
    """E[function(x) to a power], x ~ N(0, 1), by numerical integration."""
    x = torch.linspace(-12, 12, 48_001, dtype=torch.float64)
    density = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return float(torch.trapezoid(function(x) ** power * density, x))


def _spread(function: Callable[[Tensor], Tensor]) -> float:
    """Var of function(x), x ~ N(0, 1)."""
    return _moment(function, 2) - _moment(function) ** 2


# --- blocks --------------------------------------------------------------------------------------


@check_over(seeds=10)
def block_formula() -> Outcome:
    """A block of an NF-ResNet against h + 0.2 f(h / β), β = √1.04 (section 3).

    Values are the relative difference, and the variance of f for h ~ N(0, β²).
    """
    block, beta = _toy((2,)).blocks[1], math.sqrt(1.04)
    h = beta * torch.randn(16, 256, 12, 12)
    with torch.no_grad():
        f = block.branch(GAMMA["relu"] * F.relu(h / beta))
        error, variance = _off(block(h), h + 0.2 * f), _variance(f)
        gelu = _off(F.gelu(h) / beta, F.gelu(h / beta))
    return Outcome(
        {"error": error, "branch_variance": variance},
        "the branch has variance {branch_variance:.3f}; with GELU, as in NFNets, the code's "
        "g(h) / β differs from g(h / β) by {gelu:.1%} in this block, with ReLU not at all",
        {"gelu": gelu},
    )


@check_over(seeds=10)
def transition_block() -> Outcome:
    """The first block of a second stage against section 3, appendix C and Figure 5.

    Values are the relative difference of its skip path from a convolution, with standardized
    weights, of γ relu(h) / β; and the variance of its output for h ~ N(0, β²).
    """
    block, beta = _toy((3, 3)).blocks[3], math.sqrt(1.12)
    h = beta * torch.randn(16, 256, 12, 12)
    with torch.no_grad():
        variance = _variance(block(h))
        block.skip_gain.zero_()
        rows = block.shortcut.weight.flatten(1)
        centred = rows - rows.mean(1, keepdim=True)
        weight = centred / (centred.square().mean(1, keepdim=True) * rows.shape[1]).sqrt()
        skip = F.conv2d(GAMMA["relu"] * F.relu(h) / beta, weight[:, :, None, None], stride=2)
        error = _off(block(h), skip)
    return Outcome(
        {"skip_error": error, "variance": variance},
        "the variance falls from 1.12 to {variance:.3f} (1 + α² is 1.04)",
    )


@check
def block_betas() -> Outcome:
    """β of NFNet-F0 and NF-ResNet-50 against those of the released code, to six digits.

    The value counts stages in which one differs.
    """
    wrong, found = 0, []
    for name, stages in printed("nfnets")["betas"].rows.items():
        for blocks, text in zip(_stages(blueprint(name)), stages.values(), strict=True):
            betas = [f"{block.beta:.6f}" for block in blocks]
            wrong += betas != str(text).split()
            found += betas
    return Outcome({"wrong": wrong}, f"{len(found)} β compared, the largest {max(found)}")


@check_over(seeds=10)
def squeeze_excite() -> Outcome:
    """Squeeze-excite against 2 σ(W₁ relu(W₀ mean(x))) x (appendix C).

    Values are the relative difference, and the number of blocks of NFNet-F0 in which the factor
    is not 2 or the hidden layer not half as wide as the output.
    """
    layer, x = SqueezeExcite(64), torch.randn(4, 64, 8, 8)
    with torch.no_grad():
        hidden = (x.mean((2, 3)) @ layer.fc0.weight.T + layer.fc0.bias).relu()
        gate = 2 / (1 + (-(hidden @ layer.fc1.weight.T + layer.fc1.bias)).exp())
        error = _off(layer(x), gate[:, :, None, None] * x)
    parts = [block.branch.se for block in _family()["NFNet-F0"].blocks]
    other = sum(s.factor != 2 or 2 * s.fc0.out_features != s.fc0.in_features for s in parts)
    return Outcome(
        {"error": error, "other": other},
        f"one layer compared, and {len(parts)} of NFNet-F0 looked at; at the start the gate is "
        "{gate:.2f} on average",
        {"gate": float(gate.mean())},
    )


#: What a block of an NFNet runs, in this order (released code, nfnet.py).
ORDER = (
    *("act1", "shortcut", "branch.conv1", "branch.act2", "branch.conv2", "branch.act2b"),
    *("branch.conv2b", "branch.act3", "branch.conv3", "branch.se", "stochastic_depth"),
)


@check_over(seeds=10)
def block_order() -> Outcome:
    """What runs when in the first block of an NFNet's second stage, in the released code's order.

    Values count steps out of order; give the side of what the strided shortcut convolves, over the
    input's; and the relative difference from shortcut + 0.2 · SkipInit · branch.
    """
    block: Any = _stages(models.create("cifar_nfnet_f0"))[1][0]
    order: list[str] = []
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str) -> None:
        def keep(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            order.append(name)
            seen[name] = inputs[0], output

        block.get_submodule(name).register_forward_hook(keep)

    for name in ORDER:
        watch(name)
    with torch.no_grad():
        block.skip_gain.fill_(0.5)
        x = torch.randn(2, block.branch.conv1.in_channels, 8, 8)
        out = block(x)
    expected = seen["shortcut"][1] + 0.2 * 0.5 * seen["branch.se"][1]
    return Outcome(
        {
            "out_of_order": sum(a != b for a, b in zip(order, ORDER, strict=True)),
            "shortcut_side": seen["shortcut"][0].shape[-1] / x.shape[-1],
            "error": _off(out, expected),
        },
        f"{len(ORDER)} steps in the order {', '.join(n.rpartition('.')[2] for n in order)}",
    )


@check_over(seeds=10)
def linear_layers() -> Outcome:
    """Which layers of NFNet-F0 are standardized, and how its classifier starts (appendix C).

    Values count convolutions that are not standardized and linear layers that are, and give the
    deviation of the classifier's weights.
    """
    modules = list(_family()["NFNet-F0"].modules())
    convolutions = [m for m in modules if isinstance(m, nn.Conv2d)]
    linear = [m for m in modules if isinstance(m, nn.Linear)]
    deviation = float(classifier(3072, 1000).weight.detach().std())
    return Outcome(
        {
            "plain_convolutions": sum(not isinstance(m, ScaledStdConv2d) for m in convolutions),
            "linear_with_gain": sum(hasattr(m, "gain") for m in linear),
            "deviation": deviation,
        },
        f"{len(convolutions)} convolutions standardized, {len(linear)} linear layers not; the "
        "classifier's weights have a deviation of {deviation:.5f}",
    )


@check
def gelu_forms() -> Outcome:
    """γ of GELU in its exact form and with tanh, by numerical integration (released code)."""
    exact, tanh = (_spread(partial(F.gelu, approximate=form)) ** -0.5 for form in ("none", "tanh"))
    return Outcome({"difference": abs(exact - tanh)}, f"γ is {exact:.6f} or {tanh:.6f}")


# --- one step ------------------------------------------------------------------------------------


@check_over(seeds=10)
def relative_step() -> Outcome:
    """‖ΔW‖ / ‖W‖ of one step of plain gradient descent over h ‖G‖ / ‖W‖ (section 4)."""
    layer = nn.Linear(64, 64, bias=False).double()
    before = layer.weight.detach().clone()
    layer(torch.randn(8, 64, dtype=torch.float64)).square().sum().backward()
    gradient = layer.weight.grad
    assert gradient is not None
    torch.optim.SGD(layer.parameters(), 0.01).step()
    moved = float((layer.weight.detach() - before).norm() / before.norm())
    expected = 0.01 * float(gradient.norm() / before.norm())
    return Outcome(
        {"ratio": moved / expected}, "one step moves the weights by {moved:.1%}", {"moved": moved}
    )


@check_over(seeds=10)
def lars_and_agc() -> Outcome:
    """Relative change of a filter by one step, for gradients 1/100 to 100 times as long.

    LARS fixes it: greatest over least. AGC bounds it by h λ: greatest over that bound, and least
    (section 4).
    """
    weight, gradient = torch.randn(2, 64, 64, dtype=torch.float64)
    moved: dict[str, list[float]] = {"LARS": [], "AGC": []}
    for scale in (0.01, 1, 100):
        for name, changes in moved.items():
            layer = nn.Parameter(weight[:1].clone())
            layer.grad = 0.01 * scale * gradient[:1]
            step: torch.optim.Optimizer = LARS([layer], lr=1.0, momentum=0.0)
            if name == "AGC":
                agc.clip_grads_([("weight", layer)], clipping=0.01)
                step = torch.optim.SGD([layer], lr=1.0)
            step.step()
            changes.append(float((layer.detach() - weight[:1]).norm() / weight[:1].norm()))
    lars, clipped = moved.values()
    return Outcome(
        {
            "lars_spread": max(lars) / min(lars),
            "agc_over_bound": max(clipped) / 0.01,
            "agc_least": min(clipped),
        },
        "at rate 1 and gradients 0.0001, 0.01 and 1 times as long as the filter LARS changes it by "
        "0.1 % in all three cases; AGC with λ = 0.01 changes it by 1 % at most, and by "
        "{agc_least:.2%} for the shortest",
    )


@check
def clipping_units() -> Outcome:
    """Units that AGC forms in a filter bank, a linear layer, a vector and timm's gains.

    The value counts kinds of parameter with another number of units than the released code and
    timm give them: one per output, but one for a whole vector; in timm one per gain ``[out, 1, 1,
    1]``.
    """
    shapes = {"filters": (8, 4, 3, 3), "linear": (8, 5), "vector": (8,), "gains": (8, 1, 1, 1)}
    expected = {"official": [8, 8, 1, 1], "timm": [8, 8, 1, 8]}
    wrong, found = 0, {}
    for rule, numbers in expected.items():
        parameters = {name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}
        for parameter in parameters.values():
            parameter.grad = torch.randn_like(parameter)
        clipped = agc.clip_grads_(parameters.items(), units=rule)
        found[rule] = [len(clipped.factors[name]) for name in shapes]
        wrong += sum(a != b for a, b in zip(found[rule], numbers, strict=True))
    return Outcome(
        {"wrong": wrong},
        f"units of {', '.join(shapes)}: {each(found['official'], 'd')} in the released code, "
        f"{each(found['timm'], 'd')} in timm",
    )


@check_over(seeds=10)
def clip_decay_momentum() -> Outcome:
    """Two steps of the clipping optimizer against clip, then decay, then momentum, in float64.

    Values are the relative differences from this order, and from decay before clipping (released
    code).
    """
    start = torch.randn(8, 16, dtype=torch.float64)
    gradients = torch.randn(2, 8, 16, dtype=torch.float64)
    weight = nn.Parameter(start.clone())
    optimizer = ClippedSGD([("weight", weight)], 0.1, momentum=0.9, weight_decay=0.5)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()

    def clip(g: Tensor, w: Tensor) -> Tensor:
        bound = 0.01 * w.norm(dim=1, keepdim=True)
        factor: Tensor = (bound / g.norm(dim=1, keepdim=True)).clamp(max=1)
        return g * factor

    errors = {}
    for order in ("clip_first", "decay_first"):
        w, velocity = start.clone(), torch.zeros_like(start)
        for g in gradients:
            change = clip(g, w) + 0.5 * w if order == "clip_first" else clip(g + 0.5 * w, w)
            velocity = 0.9 * velocity + change
            w = w - 0.1 * velocity
        errors[order] = _off(weight.detach(), w)
    return Outcome(errors, "decay before clipping would differ by {decay_first:.0%}")


# --- the family ----------------------------------------------------------------------------------


def _wrong(look: Callable[[Any, Any], bool], what: str) -> Outcome:
    """How many of F0 to F6 are not as ``look(network, row of Table 1)`` says."""
    rows = printed("nfnets")["family"].rows
    wrong = [name for name, network in _family().items() if not look(network, rows[name])]
    note = f"{', '.join(wrong)} differ in {what}" if wrong else f"{what} of F0 to F6 compared"
    return Outcome({"wrong": len(wrong)}, note)


@check
def stem() -> Outcome:
    """Stems of F0 to F6: 3×3 convolutions of 16, 32, 64, 128 channels, strides 2, 1, 1, 2, GELU.

    The value counts networks of another stem or activation (appendix C).
    """

    def look(network: Any, _: Any) -> bool:
        convolutions = [m for m in network.stem if isinstance(m, nn.Conv2d)]
        layers = [(m.out_channels, m.kernel_size[0], m.stride[0]) for m in convolutions]
        names = [getattr(m, "name", "conv") for m in network.stem]
        wanted = [(16, 3, 2), (32, 3, 1), (64, 3, 1), (128, 3, 2)]
        return layers == wanted and names == ["conv", "gelu"] * 3 + ["conv"]

    return _wrong(look, "stems")


@check
def stage_widths() -> Outcome:
    """Channels of the stages of F0 to F6 against 256, 512, 1536, 1536 (section 5).

    The value counts networks of other widths.
    """

    def look(network: Any, _: Any) -> bool:
        widths = [[b.branch.conv3.out_channels for b in stage] for stage in _stages(network)]
        return [set(stage) for stage in widths] == [{256}, {512}, {1536}, {1536}]

    return _wrong(look, "widths")


@check
def stage_depths() -> Outcome:
    """Blocks in the stages of F0 to F6 against Table 1 and n + 1 times 1, 2, 6, 3.

    The value counts networks of other depths.
    """

    def look(network: Any, row: Any) -> bool:
        depths = [len(stage) for stage in _stages(network)]
        return row["blocks"] == ", ".join(map(str, depths)) and depths == [
            depths[0] * blocks for blocks in (1, 2, 6, 3)
        ]

    return _wrong(look, "depths")


@check
def bottlenecks() -> Outcome:
    """Bottlenecks of F0 to F6: half the output's channels, in groups of 128 (appendix C).

    The value counts networks with another one.
    """

    def look(network: Any, _: Any) -> bool:
        branches = [block.branch for block in network.blocks]
        return all(
            2 * conv.out_channels == branch.conv3.out_channels
            and conv.out_channels == 128 * conv.groups
            for branch in branches
            for conv in (branch.conv2, branch.conv2b)
        )

    return _wrong(look, "bottlenecks")


@check
def last_convolution() -> Outcome:
    """Behind the blocks of F0 to F6: 1×1 to 3072 channels, activation, dropout, classifier.

    The value counts networks that end otherwise (appendix C).
    """

    def look(network: Any, _: Any) -> bool:
        conv, ends = network.final_conv, list(network.children())[-4:]
        shape = conv.in_channels, conv.out_channels, conv.kernel_size
        return shape == (1536, 3072, (1, 1)) and ends == [
            *(conv, network.act, network.dropout, network.fc)
        ]

    return _wrong(look, "ends")


@check
def dropout_rates() -> Outcome:
    """Dropout of F0 to F6 as built against Table 1; the value counts networks that differ."""
    return _wrong(lambda network, row: bool(network.dropout.p == row["dropout"]), "dropout")


@check
def stochastic_depth() -> Outcome:
    """Rates of stochastic depth in F0 to F6, and what it does to the branches that stay.

    Values count networks whose block i of n has another rate than 0.25 i / n, and give the mean of
    the branches that stay over what they were (appendix A.1, released code).
    """

    def look(network: Any, _: Any) -> bool:
        rates = [block.stochastic_depth.rate for block in network.blocks]
        return np.allclose(rates, [0.25 * i / len(rates) for i in range(len(rates))])

    kept = StochasticDepth(0.25).train()(torch.ones(1000, 1, 1, 1)).flatten()
    found = _wrong(look, "rates")
    return Outcome(
        dict(found.values) | {"kept": float(kept[kept != 0].mean())},
        f"{found.note}; branches that stay do so as they are",
    )


@check
def wider_f4() -> Outcome:
    """F4+ against F4: widths, and the number of other differences (appendix A.5).

    Values count stages of other widths than 384, 768, 2048, 2048, and stages of other depth,
    dropout or stochastic depth.
    """
    plain, wider = (_stages(blueprint(name)) for name in ("nfnet_f4", "nfnet_f4+"))
    widths = [stage[0].branch.conv3.out_channels for stage in wider]
    rates = [
        [[block.stochastic_depth.rate for block in stage] for stage in s] for s in (plain, wider)
    ]
    return Outcome(
        {
            "wrong_widths": sum(
                a != b for a, b in zip(widths, (384, 768, 2048, 2048), strict=True)
            ),
            "unlike_f4": sum(a != b for a, b in zip(*rates, strict=True))
            + (VARIANTS["f4"].dropout != VARIANTS["f4+"].dropout),
        },
        f"F4+ has {', '.join(map(str, widths))} channels and F4's {sum(map(len, wider))} blocks",
    )


# --- the recipe ----------------------------------------------------------------------------------


@check
def training_steps() -> Outcome:
    """Steps of 360 epochs of ImageNet in batches of 4096, and of 90 in batches of 1024."""
    steps, short = 360 * IMAGES / 4096, 90 * IMAGES / 1024
    return Outcome({"steps": steps, "short_recipe": short}, f"360 epochs take {steps:,.0f} steps")


@check
def rate_schedule() -> Outcome:
    """The learning rate at batch 4096 over 360 epochs (section 6.1, appendix A.1).

    Values are the highest rate, the epoch at which it is reached, half way down the cosine, and at
    the last step.
    """
    spec = Spec(
        model="nfnet_f0",
        epochs=360,
        batch_size=4096,
        lr=0.1 * 4096 / 256,
        schedule="cosine",
        warmup_epochs=5.0,
        warmup_from_zero=True,
    )
    epoch = math.ceil(IMAGES / 4096)
    rates = [learning_rate(spec, step, epoch) for step in range(360 * epoch)]
    top = max(rates)
    half = rates[(5 + 355 // 2) * epoch + epoch // 2]
    return Outcome(
        {
            "highest": top,
            "reached": rates.index(top) / epoch,
            "after_one_epoch": rates[epoch],
            "half_way": half,
            "last": rates[-1],
        },
        f"rises to {top:g} in {rates.index(top) / epoch:g} epochs, is {half:.3f} half way "
        f"down and {rates[-1]:.0e} at the end",
    )


@check
def decayed_parameters() -> Outcome:
    """Which parameters of NFNet-F0 are decayed (appendix A.1).

    Values count gains, biases and SkipInit scalars that are, and weights that are not.
    """
    model = _family()["NFNet-F0"]
    groups = parameter_groups(model, 2e-5)
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    named = dict(model.named_parameters())
    weights = {name for name in named if name.endswith("weight")}
    return Outcome(
        {
            "others_decayed": sum(id(p) in decayed for n, p in named.items() if n not in weights),
            "weights_not": sum(id(named[name]) not in decayed for name in weights),
        },
        f"{len(weights)} weights are decayed, {len(named) - len(weights)} gains, biases and "
        "scalars are not",
    )


@check
def mixing_recipe() -> Outcome:
    """Halves of a mixed batch, layers and magnitudes of RandAugment (appendix A.3).

    Values count images of the half that is to be blended which show a partner in a box instead,
    images of the other half that are blended, and variants of another magnitude; and give the
    layers.
    """
    batch, classes = 64, torch.eye(64)
    images = torch.arange(batch).float().view(-1, 1, 1, 1).expand(-1, 3, 16, 16)
    blended, boxed = (draw(batch, torch.default_generator) for draw in _DRAWS)
    mixed, _ = augment.mix(images, classes, blended, boxed)
    values = [len(image.unique()) for image in mixed]
    whole = [bool((image == image.round()).all()) for image in mixed]
    magnitudes = [VARIANTS[f"f{n}"].randaugment_magnitude for n in range(7)]
    return Outcome(
        {
            "first_half_boxed": sum(value > 1 for value in values[:32]),
            "second_half_blended": sum(not is_whole for is_whole in whole[32:]),
            "layers": augment.draw_randaugment(1, torch.default_generator).shape[1],
            "wrong_magnitudes": sum(
                a != b for a, b in zip(magnitudes, (5, 10, 10, 15, 15, 15, 15), strict=True)
            ),
        },
        f"of {batch} images half are blended and half get a box; RandAugment has magnitudes "
        f"{', '.join(map(str, magnitudes))}",
    )


_DRAWS = (augment.draw_mixup, augment.draw_cutmix)

#: Operations of RandAugment in the released code (autoaugment.py).
OPERATIONS = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "Color"),
    *("Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY"),
    *("Cutout", "SolarizeAdd"),
)


@check
def randaugment_operations() -> Outcome:
    """Operations of RandAugment against the released code's, and three of their constants.

    Values count operations in one list only, and give at magnitude 10 the pixels of a translation
    and of half a cutout's side, and what fills them.
    """
    white = torch.full((1, 3, 224, 224), 255, dtype=torch.uint8)

    def filled(name: str) -> Tensor:
        op = (augment.OPS.index(name) + 0.5) / len(augment.OPS)
        return augment.randaugment(white, torch.tensor([[[op, 0.0, 0.5, 0.5]]]), 10)[0, 0] != 255

    moved, cut = filled("TranslateX"), filled("Cutout")
    fill = augment.randaugment(white, torch.tensor([[[14.5 / 16, 0.0, 0.5, 0.5]]]), 10).min()
    return Outcome(
        {
            "other_operations": len(set(augment.OPS) ^ set(OPERATIONS)),
            "translation": int(moved[0].sum()),
            "half_cutout": int(cut.any(0).sum()) / 2,
            "fill": int(fill),
        },
        f"{len(augment.OPS)} operations; at magnitude 10 a translation by {int(moved[0].sum())} "
        f"pixels and a cutout of {int(cut.any(0).sum())}, filled with {int(fill)}",
    )


@check
def evaluation_crop() -> Outcome:
    """The crop that is evaluated, of an image that need not be resized (appendix A.1).

    The value is the largest difference from the middle of an image 32 pixels larger than the crop.
    """
    pixels = torch.randint(256, (96, 96, 3), dtype=torch.uint8).numpy()
    found = Preprocess(64)(Image.fromarray(pixels)).permute(1, 2, 0).numpy()
    expected = (pixels[16:80, 16:80] / 255 - np.array(MEAN)) / np.array(STD)
    error = np.abs(found - expected).max()
    return Outcome({"error": error}, "a crop of 64 from the middle of 96 pixels compared")


# --- counts --------------------------------------------------------------------------------------


@check
def timm_counts() -> Outcome:
    """Parameters of F0 to F6, less one per block, against those of timm's ``nfnet_f0`` to ``f6``.

    The value counts networks for which the two differ.
    """
    theirs = printed("nfnets")["timm_counts"].column("parameters")
    ours = {f"nfnet_f{n}": size(m) - len(m.blocks) for n, m in enumerate(_family().values())}
    wrong = sum(ours[name] != count for name, count in theirs.items())
    return Outcome(
        {"wrong": wrong},
        f"{len(theirs) - wrong} of {len(theirs)} agree: F0 has {ours['nfnet_f0']:,} without its "
        f"{len(_family()['NFNet-F0'].blocks)} scalars",
    )


@check
def scalar_per_block() -> Outcome:
    """Parameters of NF-ResNets against the released code's, and ResNets' plus one per block.

    Values count networks for which they differ.
    """
    networks = _nf_resnets()
    counts = {name: size(network) for name, network in networks.items()}
    released = printed("nfnets")["nf_resnets"].column("parameters")
    twins = printed("nfnets")["resnets"].column("parameters")
    return Outcome(
        {
            "unlike_released": sum(counts[name] != count for name, count in released.items()),
            "unlike_twin": sum(
                counts[name] != count + len(networks[name].blocks) for name, count in twins.items()
            ),
        },
        f"{len(counts)} networks counted, {len(twins)} of them beside ResNets: NF-ResNet-50 has "
        f"{counts['nf_resnet50']:,}, ResNet-50 {twins['nf_resnet50']:,}",
    )


@check
def nf_resnet_depths() -> Outcome:
    """Blocks in the stages of six NF-ResNets against the released code's.

    The value counts networks for which they differ.
    """
    wrong = 0
    rows = printed("nfnets")["nf_resnets"].column("blocks")
    for name, blocks in rows.items():
        depths = [len(stage) for stage in _stages(_nf_resnets()[name])]
        wrong += ", ".join(map(str, depths)) != blocks
    return Outcome({"wrong": wrong}, f"{len(rows)} networks built and their blocks counted")


@check
def flops_convention() -> Outcome:
    """Multiply-adds of F0 and F1 over the printed FLOPs of Table 3.

    At the resolutions of tests and of training, and for operations that count a multiply-add as
    two, in tests: the ratio nearest to 1.
    """
    ratios: dict[str, list[float]] = {"test": [], "train": [], "test_as_two": []}
    for name in ("NFNet-F0", "NFNet-F1"):
        variant = VARIANTS[name.removeprefix("NFNet-").lower()]
        flops = 1e9 * printed("nfnets")["imagenet"].rows[name]["flops"]
        for pixels in ("test", "train"):
            macs = count_macs(_family()[name], getattr(variant, f"{pixels}_pixels"))
            ratios[pixels].append(macs / flops)
        ratios["test_as_two"].append(2 * ratios["test"][-1])
    nearest = {name: min(found, key=lambda r: abs(r - 1)) for name, found in ratios.items()}
    return Outcome(
        nearest,
        f"over the printed FLOPs: {each(ratios['test'], '.3f')} multiply-adds in tests, "
        f"{each(ratios['train'])} in training",
    )


# --- constants and signals -----------------------------------------------------------------------


@check
def wrong_gamma() -> Outcome:
    """Variance of γ silu(x) for x ~ N(0, 1), with the released code's γ and with 2.218."""
    variance = _spread(F.silu)
    released, circulating = GAMMA["silu"] ** 2 * variance, 2.218**2 * variance
    return Outcome(
        {"released": released, "circulating": circulating},
        f"{GAMMA['silu']:.4f} gives a variance of {released:.3f}, 2.218 one of {circulating:.2f}",
    )


@check_over(seeds=10)
def gamma_uncentred() -> Outcome:
    """Growth of the second moment per layer with γ relu behind plain weights N(0, 1 / fan-in).

    By integration, and the geometric mean over ten layers of 512 units.
    """
    growth = GAMMA["relu"] ** 2 * _moment(F.relu, 2)
    x = torch.randn(512, 512)
    start = float(x.square().mean())
    for _ in range(10):
        x = GAMMA["relu"] * x.relu() @ torch.randn(512, 512) / math.sqrt(512)
    measured = (float(x.square().mean()) / start) ** (1 / 10)
    return Outcome(
        {"integrated": growth, "measured": measured},
        "×{integrated:.3f} per layer by integration, ×{measured:.3f} in ten layers",
    )


@check_over(seeds=10)
def signal_statistics() -> Outcome:
    """The three statistics of a block by the probe and by NumPy in float64 (section 3).

    The value is the largest relative difference.
    """
    model = _toy((2,))
    block, captured = model.blocks[1], []
    hook = block.register_forward_hook(lambda _, x, y: captured.append((x[0], y)))
    images = torch.randn(8, 3, 12, 12)
    with torch.no_grad():
        model(images)
        hook.remove()
        (x, y), row = captured[0], signal_propagation(model, images)[1]
        output, branch = (t.double().numpy() for t in (y, block.residual(x)))
    expected = {
        "squared_mean": (output.mean((0, 2, 3)) ** 2).mean(),
        "variance": output.var((0, 2, 3)).mean(),
        "branch_variance": branch.var((0, 2, 3)).mean(),
    }
    found: dict[str, Any] = dict(row)
    errors = [abs(found[name] / value - 1) for name, value in expected.items()]
    return Outcome({"error": np.max(errors)}, f"{', '.join(expected)} of one block compared")


@check_over(seeds=10)
def plain_weights_shift() -> Outcome:
    """Mean shift along a stage of 20 blocks with He's weights and ReLU, α = 1 (section 4).

    Values are the squared mean over the variance after the last block, that over the same after
    the fifth, and the mean variance of the branches.
    """
    model = _toy((20,), alpha=1.0, skip_gain=None, standardize=False)
    rows = signal_propagation(model, torch.randn(8, 3, 8, 8))
    shift = [row["squared_mean"] / row["variance"] for row in rows]
    branch = sum(row["branch_variance"] for row in rows) / len(rows)
    return Outcome(
        {"shift": shift[-1], "growth": shift[-1] / shift[4], "branch_variance": branch},
        "squared mean over variance {first:.2f} after one block, {fifth:.1f} after five, "
        "{shift:.1f} after 20; mean variance of the branches {branch_variance:.2f}",
        {"first": shift[0], "fifth": shift[4]},
    )


@check_over(seeds=10)
def unit_means() -> Outcome:
    """Means and variances of units behind a ReLU against N μ_g μ_W and N σ_g² (σ_W² + μ_W²).

    512 units of fan-in 256, weights N(0, 1 / 256): the slope of the means over those expected, and
    the mean of the variances over those expected (section 4).
    """
    weights = torch.randn(512, 256) / 16
    z = torch.randn(8192, 256).relu() @ weights.T
    expected = 256 * math.sqrt(1 / (2 * math.pi)) * weights.mean(1)
    spread = 256 * (1 - 1 / math.pi) / 2 * weights.square().mean(1)
    slope = float((z.mean(0) @ expected) / (expected @ expected))
    ratio = float((z.var(0) / spread).mean())
    return Outcome(
        {"slope": slope, "variance_ratio": ratio},
        "slope {slope:.3f}, variances {variance_ratio:.3f} times those expected; the units' means "
        "have a deviation of {deviation:.2f}",
        {"deviation": float(z.mean(0).std())},
    )


@check
def batchnorm_accuracy() -> Outcome:
    """Points by which F0 to F3 are more accurate than with BatchNorm, in Table 2.

    The least and the greatest difference.
    """
    rows = printed("nfnets")["ablation"].rows
    pairs = zip(rows["CutMix"].values(), rows["BatchNorm"].values(), strict=True)
    gaps = [round(nf - bn, 1) for nf, bn in pairs]
    return Outcome(
        {"least": min(gaps), "greatest": max(gaps)},
        f"{each(gaps, '+.1f')} points for F0 to F3; {gaps.count(0)} of them is a tie as printed",
    )

"""Set-up of the study (arXiv 2003.00152): networks, initialization, recipe, parameter counts."""

import math
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nbrepro import freezing, models
from nbrepro.claims.checks import Outcome, check, check_over, each
from nbrepro.claims.tables import printed
from nbrepro.data.batches import Batches
from nbrepro.layers import ResidualBlock
from nbrepro.spec import Spec
from nbrepro.train.schedule import learning_rate

DEEP = tuple(f"cifar_resnet{depth}" for depth in (14, 32, 56, 110, 218, 434, 866))
WIDE = tuple(f"cifar_resnet14x{width}" for width in (1, 2, 4, 8, 16, 32))
IMAGENET = tuple(f"resnet{depth}" for depth in (18, 34, 50, 101, 200))


@cache
def blueprint(name: str) -> nn.Module:
    """A network of the study without memory for its weights; shared, so not to be changed."""
    with torch.device("meta"):
        return models.create(name, 1000 if name in IMAGENET else 10)


def layers(model: nn.Module) -> Iterator[nn.Conv2d | nn.Linear]:
    """Its convolutions and its linear layer."""
    yield from (m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))


def blocks(model: nn.Module) -> list[Any]:
    """Its residual blocks."""
    return [module for module in model.modules() if isinstance(module, ResidualBlock)]


def scales(model: nn.Module) -> tuple[Tensor, Tensor]:
    """All γ and all β."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return torch.cat([n.weight.data for n in norms]), torch.cat([n.bias.data for n in norms])


@check
def frozen_stays() -> Outcome:
    """What five steps of SGD with weight decay leave as it was, with only BatchNorm trained.

    Values count tensors of ResNet-14: frozen ones of which a bit changed, trained ones of which
    none did, and trained ones that are not γ or β of a BatchNorm layer (abstract, section 1).
    """
    model = models.create("cifar_resnet14")
    trained = set(freezing.freeze(model, train="batchnorm").names)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-4)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(16, 3, 16, 16)), torch.randint(10, (16,))).backward()
        optimizer.step()
    same = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    norms = {n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    affine = {f"{name}.{leaf}" for name in norms for leaf in ("weight", "bias")}
    frozen = before.keys() - affine
    return Outcome(
        {
            "frozen_but_changed": len(frozen - same),
            "trained_but_unchanged": len(affine & same),
            "trained_but_not_affine": len(trained ^ affine),
        },
        f"after five steps the {len(frozen)} frozen tensors of ResNet-14, its output layer among "
        f"them, are bit for bit what they were, and all {len(affine)} γ and β have changed",
    )


@check
def deep_family() -> Outcome:
    """Weighted layers of the deep family on the longest path, against Table 1.

    The value counts networks whose layers, without those of shortcuts, are not as many as the name
    says, or that have not D blocks in each stage where the name says 6D + 2.
    """
    wrong = sum(_depth(name) != models.size(name).depth for name in DEEP)
    wrong += sum(
        len(blocks(blueprint(name))) != 3 * (models.size(name).depth - 2) / 6 for name in DEEP
    )
    return Outcome({"wrong": wrong}, f"{len(DEEP)} networks built and their layers counted")


@check
def imagenet_family() -> Outcome:
    """Weighted layers of the networks for ImageNet on the longest path, against Table 1.

    The value counts networks whose layers, without those of shortcuts, are not as many as the name
    says.
    """
    wrong = sum(_depth(name) != models.size(name).depth for name in IMAGENET)
    return Outcome({"wrong": wrong}, f"{len(IMAGENET)} networks built and their layers counted")


def _depth(name: str) -> int:
    """Layers of a network with weights, without those of shortcuts."""
    model = blueprint(name)
    return sum(1 for _ in layers(model)) - sum(bool(block.projects) for block in blocks(model))


@check
def wide_family() -> Outcome:
    """Channels of the wide family: 16, 32 and 64 times the width in its stages (Table 1).

    The value counts networks of another depth than 14 or with other channels.
    """
    wrong = 0
    for name, width in zip(WIDE, (1, 2, 4, 8, 16, 32), strict=True):
        channels = [block.conv2.out_channels for block in blocks(blueprint(name))]
        wrong += channels != [16 * width] * 2 + [32 * width] * 2 + [64 * width] * 2
    return Outcome({"wrong": wrong}, f"{len(WIDE)} networks built and their channels counted")


@check
def vgg_family() -> Outcome:
    """VGG-11, 13, 16 and 19 for CIFAR-10: what stands behind what (released code).

    Values count networks that have not three convolutions fewer than the name says, convolutions
    without a bias, and those not followed by BatchNorm and ReLU.
    """
    wrong, biases, followers = 0, [], []
    for depth in (11, 13, 16, 19):
        parts: list[Any] = list(blueprint(f"cifar_vgg{depth}").get_submodule("features").children())
        places = [i for i, part in enumerate(parts) if isinstance(part, nn.Conv2d)]
        wrong += len(places) != depth - 3
        biases += [parts[i].bias is not None for i in places]
        followers += [[type(part) for part in parts[i + 1 : i + 3]] for i in places]
    return Outcome(
        {
            "wrong": wrong,
            "without_bias": biases.count(False),
            "otherwise": sum(found != [nn.BatchNorm2d, nn.ReLU] for found in followers),
        },
        f"four networks built, with {len(biases)} convolutions",
    )


@check
def batchnorm_before_activation() -> Outcome:
    """What stands before and behind every BatchNorm in the graph of ResNet-14 (footnote 1).

    Values count BatchNorm layers not behind a convolution, not before ReLU or an addition, and
    blocks whose last BatchNorm is not added.
    """
    traced = fx.symbolic_trace(models.create("cifar_resnet14"))
    module = {
        node: traced.get_submodule(node.target)
        for node in traced.graph.find_nodes(op="call_module")
    }
    norms = [node for node, layer in module.items() if isinstance(layer, nn.BatchNorm2d)]
    behind = {node: {user.name.rstrip("_0123456789") for user in node.users} for node in norms}
    last = [node for node in norms if node.target.endswith("bn2")]
    return Outcome(
        {
            "not_behind_convolution": sum(
                not isinstance(module.get(node.args[0]), nn.Conv2d) for node in norms
            ),
            "not_before_activation": sum(not uses <= {"relu", "add"} for uses in behind.values()),
            "last_not_added": sum(behind[node] != {"add"} for node in last),
        },
        f"{len(norms)} BatchNorm layers, each behind a convolution; "
        f"{sum(uses == {'relu'} for uses in behind.values())} of them before ReLU, the others, the "
        "last of every branch and shortcut, before the addition",
    )


@check
def projection_shortcuts() -> Outcome:
    """Shortcuts of the twelve CIFAR networks that are no identity (released code).

    Values are the least and the largest number in a network, and how many of them are anything but
    a 1×1 convolution of stride 2 without bias and a BatchNorm.
    """
    counts, other = [], 0
    for name in (*DEEP, *WIDE[1:]):
        shortcuts = [b.shortcut for b in blocks(blueprint(name)) if b.projects]
        counts.append(len(shortcuts))
        for convolution, norm in shortcuts:
            shape = (convolution.kernel_size, convolution.stride, convolution.bias)
            other += shape != ((1, 1), (2, 2), None) or not isinstance(norm, nn.BatchNorm2d)
    return Outcome(
        {"least": min(counts), "greatest": max(counts), "other": other},
        f"{sum(counts)} projections in {len(counts)} networks",
    )


@check_over(seeds=10)
def he_normal() -> Outcome:
    """Moments of all weights of ResNet-14 ×4 over the deviation of He's rule, √(2 / fan-in).

    N(0, 1) has mean 0, variance 1 and fourth moment 3; a uniform distribution would have 1.8
    (appendix B).
    """
    parts = [
        layer.weight.detach().flatten() * math.sqrt(layer.weight[0].numel() / 2)
        for layer in layers(models.create("cifar_resnet14x4"))
    ]
    z = torch.cat(parts).double()
    mean, variance, fourth = (float((z**power).mean()) for power in (1, 2, 4))
    return Outcome(
        {"mean": mean, "variance": variance, "fourth_moment": fourth},
        f"{len(z):,} weights: mean "
        "{mean:.4f}, variance {variance:.4f}, fourth moment {fourth_moment:.3f}",
    )


@check_over(seeds=10)
def batchnorm_start() -> Outcome:
    """Moments of γ in ResNet-218 at the start, and the largest β (section 3).

    U[0, 1) has mean 1/2 and variance 1/12.
    """
    gamma, beta = scales(models.create("cifar_resnet218"))
    mean, variance = float(gamma.mean()), float(gamma.var())
    return Outcome(
        {
            "least": float(gamma.min()),
            "greatest": float(gamma.max()),
            "mean": mean,
            "variance": variance,
            "largest_beta": float(beta.abs().max()),
        },
        f"{len(gamma):,} γ, the least "
        "{least:.4f}, the greatest {greatest:.4f}, mean {mean:.3f}, variance {variance:.4f}; every "
        "β is 0",
    )


@check
def other_batchnorm_starts() -> Outcome:
    """The other three ways in which γ and β may start, in ResNet-32 (appendix).

    The value counts those that are not as described: (1, 0); (1, 1); γ in [-1, 1) of either sign
    and variance 1/3, β = 0.
    """
    found = {}
    for name in ("fixed", "oneone", "positivenegative"):
        gamma, beta = scales(models.create("cifar_resnet32", batchnorm_init=name))
        found[name] = gamma, beta
    gamma, beta = found["positivenegative"]
    as_described = (
        bool((found["fixed"][0] == 1).all() and (found["fixed"][1] == 0).all()),
        bool((found["oneone"][0] == 1).all() and (found["oneone"][1] == 1).all()),
        abs(float(gamma.var()) - 1 / 3) < 0.03
        and bool((gamma.abs() <= 1).all() and not beta.any()),
    )
    return Outcome({"other": as_described.count(False)}, "three further starts of γ and β built")


def _binary(rows: Tensor) -> bool:
    return len(rows.unique()) == 2 and len(rows.abs().unique()) == 1


def _uniform(rows: Tensor) -> bool:
    bound = math.sqrt(6 / rows.shape[1])
    spread = 3 * float(rows.var()) / bound**2
    return float(rows.abs().max()) <= bound and abs(spread - 1) < 0.3


def _orthogonal(rows: Tensor) -> bool:
    tall = rows if rows.shape[0] >= rows.shape[1] else rows.T
    gram: Tensor = tall.T @ tall
    return torch.allclose(gram, torch.eye(len(gram)), atol=1e-5)


_AS_DESCRIBED: dict[str, Callable[[Tensor], bool]] = {
    "binary": _binary,
    "kaiming_uniform": _uniform,
    "orthogonal": _orthogonal,
}


@check
def other_weight_starts() -> Outcome:
    """The other three distributions of weights, in ResNet-14 (released code).

    The value counts layers that are not as described: two values of opposite sign; uniform within
    √(6 / fan-in), and as wide; orthogonal rows or columns of length 1.
    """
    other = [
        not as_described(layer.weight.detach().flatten(1))
        for name, as_described in _AS_DESCRIBED.items()
        for layer in layers(models.create("cifar_resnet14", weight_init=name))
    ]
    return Outcome(
        {"other": sum(other)}, f"{len(other)} layers of ResNet-14 drawn in three other ways"
    )


@check
def recipe() -> Outcome:
    """Defaults of a run against the recipe for CIFAR-10 (appendix B, released code).

    The value counts settings, and rates at the start and about epochs 80 and 120, that differ.
    """
    spec = Spec(model="cifar_resnet14")
    named: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.9, "batch_size": 128, "epochs": 160}
    named |= {"weight_decay": 1e-4, "decay": "all", "warmup_epochs": 0, "augmentation": "crop-flip"}
    differing = [name for name, wanted in named.items() if getattr(spec, name) != wanted]
    epoch = math.ceil(50_000 / 128)
    rates = {0: 0.1, 80 * epoch - 1: 0.1, 80 * epoch: 0.01, 120 * epoch: 0.001}
    for step, rate in rates.items():
        if not math.isclose(learning_rate(spec, step, epoch), rate):
            differing.append(f"rate at step {step:,}")
    return Outcome(
        {"other": len(differing)},
        f"{', '.join(differing)} differ"
        if differing
        else f"{len(named)} settings and the rates of {160 * epoch:,} steps are the recipe's",
    )


@check
def crop_and_flip() -> Outcome:
    """Training images of a known one, at every offset and mirrored (appendix B, released code).

    Values are the largest difference from cropping an image with four black pixels around it, and
    from ImageNet's means and deviations, in deviations.
    """
    image = torch.randint(256, (1, 32, 32, 3), dtype=torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    framed = np.zeros((40, 40, 3))
    framed[4:36, 4:36] = (image[0].numpy() / 255 - mean) / std
    framed[:4] = framed[36:] = framed[:, :4] = framed[:, 36:] = -np.array(mean) / std
    batches = Batches(image, torch.zeros(1, dtype=torch.int64), pad=4)
    corners = torch.cartesian_prod(torch.arange(9), torch.arange(9))
    index, errors = torch.zeros(len(corners), dtype=torch.int64), []
    for flip in (False, True):
        images, _ = batches(index, corners, torch.full((len(corners),), flip))
        for found, (row, column) in zip(images.permute(0, 2, 3, 1), corners, strict=True):
            crop = framed[row : row + 32, column : column + 32]
            errors.append(np.abs(found.numpy() - (crop[:, ::-1] if flip else crop)).max())
    return Outcome({"error": np.max(errors)}, f"{len(errors)} crops of one image compared")


def _percent(name: str) -> float:
    """Share of γ and β in a network's parameters."""
    counts = freezing.count(blueprint(name))
    return 100 * counts["batchnorm"] / counts["all"]


@check
def share_of_batchnorm() -> Outcome:
    """The largest share of γ and β in a network's parameters as built, in percent (Table 1)."""
    cifar = max(map(_percent, (*DEEP, *WIDE)))
    imagenet = max(map(_percent, IMAGENET))
    return Outcome(
        {"cifar_percent": cifar, "imagenet_percent": imagenet},
        f"at most {cifar:.3f} % in the CIFAR networks, and {imagenet:.3f} % in those for ImageNet",
    )


@check
def share_by_size() -> Outcome:
    """The share of γ and β by depth and by width, as built and as printed (Table 1).

    Values count printed shares that are not those of the built network, and depths at which the
    share does not fall; and give the least and the greatest factor from one width to the next.
    """
    deep, wide = ([_percent(name) for name in names] for names in (DEEP, WIDE))
    shares = printed("bn_only")["shares"].column("batchnorm")
    built = dict(zip((*DEEP, *WIDE), (*deep, *wide), strict=True))
    factors = [narrow / wider for wider, narrow in pairwise(wide)]
    return Outcome(
        {
            "unlike_printed": sum(round(built[name], 2) != share for name, share in shares.items()),
            "not_falling": sum(deeper >= shallow for shallow, deeper in pairwise(deep)),
            "least_factor": min(factors),
            "greatest_factor": max(factors),
        },
        f"{each(deep)} % by depth; {each(wide)} % by width",
    )


@check
def share_of_the_smallest() -> Outcome:
    """γ and β of ResNet-866 over all parameters of ResNet-14 (Table 1)."""
    most = freezing.count(blueprint("cifar_resnet866"))["batchnorm"]
    least = freezing.count(blueprint("cifar_resnet14"))["all"]
    return Outcome({"share": most / least}, f"{most:,} of {least:,} are {most / least:.3f}")


@check
def operations_of_a_step() -> Outcome:
    """Multiply-adds of a training step with only BatchNorm trained over those with all trained.

    The least share over ResNet-14, -56 and -14 ×4; forward and backward, one image.
    """
    shares = []
    for name in ("cifar_resnet14", "cifar_resnet56", "cifar_resnet14x4"):
        counts = []
        for train in ("batchnorm", "all"):
            with torch.device("meta"):
                model = models.create(name)
            freezing.freeze(model, train=train)
            with FlopCounterMode(display=False) as counter:
                model(torch.empty(2, 3, 32, 32, device="meta")).sum().backward()
            counts.append(counter.get_total_flops())
        shares.append(counts[0] / counts[1])
    return Outcome(
        {"share": min(shares)},
        f"{each([100 * share for share in shares], '.1f')} % of an ordinary step's multiply-adds "
        "remain in ResNet-14, ResNet-56 and ResNet-14 ×4: only gradients of weights are saved",
    )

"""Checks of set-up, design and recipe: each notices what it is there to notice.

That they come out as the register expects now is in ``test_checks.py``.
"""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from nbrepro import claims, freezing, layers
from nbrepro.claims.bn_only import imagenet, setup
from nbrepro.claims.checks import compute_one
from nbrepro.claims.nfnets import design
from nbrepro.claims.rules import Check
from nbrepro.data import augment, batches, files, preprocess
from nbrepro.models import cifar_resnet, initializers
from nbrepro.optim import groups

RULES = {
    claim.rule.check: claim.rule
    for claim in claims.register().values()
    if isinstance(claim.rule, Check)
}


def outside(name: str) -> set[str]:
    """The values that, computed now with one seed, are not within their bounds."""
    found = compute_one(name, 0).values
    return {value for value, bounds in RULES[name].bounds.items() if found[value] not in bounds}


def freeze_all(model: Any, train: str) -> freezing.FreezeReport:
    return FREEZE(model, train="all")


def relu_first(block: Any, x: Any) -> Any:
    return block.bn2(block.conv2(block.bn1(F.relu(block.conv1(x)))))


def scaled_up(module: Any, x: Any) -> Any:
    return x * (torch.rand(len(x), 1, 1, 1) > 0.25) / 0.75


FREEZE, BLUEPRINT = freezing.freeze, setup.blueprint
INITIALIZERS, FAMILY = initializers.WEIGHT, design._family
WRONG: list[tuple[str, Any, str, Any, set[str]]] = [
    (
        "frozen_stays",
        freezing,
        "freeze",
        freeze_all,
        {"frozen_but_changed", "trained_but_not_affine"},
    ),
    ("deep_family", setup, "blueprint", lambda _: BLUEPRINT("cifar_resnet14"), {"wrong"}),
    ("wide_family", setup, "blueprint", lambda _: BLUEPRINT("cifar_resnet14"), {"wrong"}),
    ("imagenet_family", setup, "blueprint", lambda _: BLUEPRINT("resnet18"), {"wrong"}),
    ("vgg_family", setup, "blueprint", lambda _: BLUEPRINT("cifar_vgg11"), {"wrong"}),
    ("imagenet_rates", imagenet, "learning_rate", lambda *_: 0.4, {"error"}),
    ("imagenet_crops", files, "RATIO", (3 / 4, 4 / 3), {"least_ratio", "greatest_ratio"}),
    ("imagenet_crops", files, "AREA", (0.08, 1.0), {"least_area"}),
    (
        "batchnorm_before_activation",
        cifar_resnet.BasicBlock,
        "residual",
        relu_first,
        {"not_behind_convolution", "not_before_activation"},
    ),
    (
        "he_normal",
        initializers,
        "WEIGHT",
        INITIALIZERS | {"kaiming_normal": INITIALIZERS["kaiming_uniform"]},
        {"fourth_moment"},
    ),
    (
        "batchnorm_start",
        initializers,
        "BATCHNORM",
        dict.fromkeys(initializers.BATCHNORM, initializers.BATCHNORM["positivenegative"]),
        {"least", "mean", "variance"},
    ),
    (
        "other_batchnorm_starts",
        initializers,
        "BATCHNORM",
        initializers.BATCHNORM | {"oneone": initializers.BATCHNORM["fixed"]},
        {"other"},
    ),
    (
        "other_weight_starts",
        initializers,
        "WEIGHT",
        INITIALIZERS | {"binary": INITIALIZERS["kaiming_normal"]},
        {"other"},
    ),
    ("recipe", setup, "learning_rate", lambda *_: 0.1, {"other"}),
    ("crop_and_flip", batches, "MEAN", (0.491, 0.482, 0.447), {"error"}),
    ("block_formula", design, "GAMMA", layers.GAMMA | {"relu": 1.41}, {"error"}),
    ("transition_block", design, "GAMMA", layers.GAMMA | {"relu": 1.41}, {"skip_error"}),
    ("squeeze_excite", layers.SqueezeExcite, "gate", lambda *_: torch.ones(()), {"error"}),
    ("block_order", design, "ORDER", design.ORDER[::-1], {"out_of_order"}),
    ("linear_layers", design, "ScaledStdConv2d", int, {"plain_convolutions"}),
    ("lars_and_agc", design, "LARS", torch.optim.SGD, {"lars_spread"}),
    (
        "clip_decay_momentum",
        design,
        "ClippedSGD",
        lambda p, lr, **options: torch.optim.SGD(dict(p).values(), lr, **options),
        {"clip_first"},
    ),
    ("stochastic_depth", layers.StochasticDepth, "forward", scaled_up, {"kept"}),
    ("rate_schedule", design, "learning_rate", lambda *_: 1.6, {"reached", "half_way", "last"}),
    ("decayed_parameters", groups, "is_decayed", lambda _: True, {"others_decayed"}),
    (
        "mixing_recipe",
        augment,
        "mix",
        lambda images, targets, mixup, cutmix: augment.mixup(images, targets, mixup),
        {"second_half_blended"},
    ),
    ("randaugment_operations", augment, "_TRANSLATE", 45, {"translation"}),
    ("evaluation_crop", preprocess, "MARGIN", 24, {"error"}),
    ("flops_convention", design, "count_macs", lambda *_: 25e9, {"test", "test_as_two"}),
    ("timm_counts", design, "size", lambda _: 0, {"wrong"}),
    ("wrong_gamma", design, "GAMMA", layers.GAMMA | {"silu": 2.218}, {"released"}),
    ("gamma_uncentred", design, "GAMMA", layers.GAMMA | {"relu": 1.41}, {"integrated", "measured"}),
]
WRONG += [
    (name, design, "_family", lambda: {n: FAMILY()["NFNet-F0"] for n in FAMILY()}, {"wrong"})
    for name in ("stage_depths", "dropout_rates")
]


@pytest.mark.parametrize(
    ("name", "owner", "attribute", "wrong", "values"), WRONG, ids=[case[0] for case in WRONG]
)
def test_a_check_notices(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    owner: Any,
    attribute: str,
    wrong: Any,
    values: set[str],
) -> None:
    monkeypatch.setattr(owner, attribute, wrong)
    assert outside(name) >= values


def test_no_check_counts_on_what_another_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that several checks share are not changed by one."""
    before = {name: p.requires_grad for name, p in BLUEPRINT("cifar_resnet14").named_parameters()}
    compute_one("operations_of_a_step", 0)
    after = {name: p.requires_grad for name, p in BLUEPRINT("cifar_resnet14").named_parameters()}
    assert before == after

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nbrepro import agc, layers
from nbrepro.claims import checks
from nbrepro.claims.nfnets import batchnorm, counts, numerics, printed
from nbrepro.optim import recipe

CHECKS = checks.registry()

#: Name → whether the claim holds, and numbers that its note must have.
KNOWN: dict[str, tuple[bool, tuple[str, ...]]] = {
    "variance_rule": (True, ("1.7205", "1.7321")),
    "gamma_constants": (True, ("all 16", "1.7140 against 1.7129")),
    "weight_standardization": (True, ("0.159",)),  # the square of ReLU's mean, 1 / 2π
    "agc_formula": (True, ("55 units", "1e-05")),
    "signal_bn": (True, ("(theory 0.682)", "(theory 1.000)")),
    "signal_plain": (True, ("48 blocks",)),
    "signal_mean_shift": (True, ("α = 1",)),
    "signal_linear": (True, ("no ReLU",)),
    "signal_scaled_ws": (True, ("theory 51", "theory 3")),
    "one_label": (True, ("BatchNorm 0.00",)),
    "bn_downscales": (True, ("theory 0.500 and 0.0196",)),
    "parameters": (True, ("7 of 7", "71,489,284", "438,359,116", "61,144,972")),
    "flops": (True, ("7 of 7", "12.38", "377.28")),
    "f4_plus": (False, ("525.0M", "333.4B", "527.0M", "367.4B")),
    "width_and_conv": (True, ("8 counts agree",)),
    "arithmetic_speedup": (False, ("8.81", "13.1")),
    "arithmetic_bn_slower": (False, ("52, 63, 34, 16 %", "34, 39, 25, 14 %")),
    "arithmetic_half_as_fast": (False, ("2.16, 1.87, 1.80, 1.94, 1.35", "2.36, 1.69")),
    "arithmetic_latency_rows": (False, ("14, 18, 17, 21 %", "11, 15, 19, 19 %")),
    "test_resolution": (True, ("1.333, 1.429, 1.375, 1.300, 1.333, 1.308, 1.286",)),
    "ema_horizon": (True, ("0.99109", "0.99992", "112,602", "899,990")),
    "flops_not_parameters": (True, ("-0.7 at equal FLOPs",)),
    "augmentation_ladder": (True, ("RandAugment +1.0, +1.7, +1.7, +1.5",)),
    "b0_flops": (True, ("10.5 times", "×1.23", "×1.27")),
    "sam_cost": (True, ("40.0 %",)),
    "transfer_gaps": (True, ("12 of 12", "+0.88", "+0.5 to +1.4")),
    "randaugment_blanks": (False, ("at 224 pixels",)),
    "independence": (True, ("without",)),
    "train_eval_gap": (True, ("without by 0",)),
    "micro_batches": (True, ("under 1e-5 without",)),
    "bf16_statistics": (True, ("bfloat16",)),
    "memory": (True, ("folded",)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_outcome(name: str) -> None:
    before = torch.get_rng_state()
    agrees, note = CHECKS[name]()
    assert torch.equal(torch.get_rng_state(), before)
    assert agrees is KNOWN[name][0], note
    for number in KNOWN[name][1]:
        assert number in note
    assert "\n" not in note
    assert not note.endswith(".")
    assert CHECKS[name]() is CHECKS[name]()  # computed once


def test_every_check_is_known_and_says_how_it_judges() -> None:
    assert CHECKS.keys() == KNOWN.keys()
    for name, check in CHECKS.items():
        assert "Criterion" in (check.__doc__ or ""), name


def test_the_same_whatever_was_drawn_before() -> None:
    uncached: Callable[[], tuple[bool, str]] = CHECKS["independence"].__wrapped__  # type: ignore[attr-defined]
    torch.manual_seed(1234)
    assert uncached() == uncached() == CHECKS["independence"]()


@pytest.mark.parametrize(
    ("name", "owner", "attribute", "wrong"),
    [
        ("gamma_constants", numerics, "GAMMA", layers.GAMMA | {"silu": 2.218}),
        ("weight_standardization", layers.ScaledStdConv2d, "_standardize", lambda s, g: s.weight),
        ("variance_rule", counts.models.nfnet, "expected_stds", lambda d, _: [[1] * n for n in d]),
        ("test_resolution", printed, "VARIANTS", {
            name: replace(variant, test_pixels=variant.train_pixels)
            for name, variant in printed.VARIANTS.items()
        }),
        ("ema_horizon", recipe, "ema_decay", lambda step: 0.99999),
        ("transfer_gaps", printed, "_TRANSFER", [[(78.1, 79.5), (79.6, 79.5)]]),
        ("parameters", counts, "_NFNETS", {
            **printed._NFNETS, "f2": printed._NFNETS["f2"]._replace(params=193.9)
        }),
        ("arithmetic_speedup", printed, "_NFNETS", {
            **printed._NFNETS, "f1": printed._NFNETS["f1"]._replace(tpu=160.5)
        }),
        ("memory", batchnorm, "_TWINS", {"BatchNorm": "cifar_nf_resnet20"}),
    ],
)  # fmt: skip
def test_the_other_outcome_is_possible(
    monkeypatch: pytest.MonkeyPatch, name: str, owner: Any, attribute: str, wrong: Any
) -> None:
    monkeypatch.setattr(owner, attribute, wrong)
    counts.blueprint.cache_clear()
    try:
        assert CHECKS[name].__wrapped__()[0] is not KNOWN[name][0]  # type: ignore[attr-defined]
    finally:
        counts.blueprint.cache_clear()


def test_agc_by_layer_is_not_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = agc.clip_grads_
    monkeypatch.setattr(agc, "clip_grads_", lambda p, c, e: clip(p, c, e, units="layer"))
    agrees, note = CHECKS["agc_formula"].__wrapped__()  # type: ignore[attr-defined]
    assert not agrees
    assert "difference" in note


def test_networks_without_batchnorm_pass_neither_check_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    twins = {name: "cifar_nf_resnet8" for name in ("BatchNorm", "normalizer-free")}
    monkeypatch.setattr(batchnorm, "_TWINS", twins)
    for name in ("independence", "train_eval_gap", "micro_batches"):
        assert not CHECKS[name].__wrapped__()[0]  # type: ignore[attr-defined]


def test_counts_of_the_ablation_are_timms() -> None:
    """The constants in ``width_and_conv``, counted here for F0."""
    nfnet = pytest.importorskip("timm.models.nfnet", reason="timm is an optional witness")
    paper = nfnet._dm_nfnet_cfg((1, 2, 6, 3))
    counts = []
    for changed in (
        {"channels": (256, 512, 1024, 2048), "num_features": 4096},
        {"extra_conv": False},
    ):
        with torch.device("meta"):
            model = nfnet.NormFreeNet(replace(paper, **changed))
        counts.append(sum(parameter.numel() for parameter in model.parameters()))
    assert counts == [68_638_724, 62_774_276]


def test_a_finding_is_kept_until_our_source_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBREPRO_CACHE", str(tmp_path))
    asked = []

    def check() -> tuple[bool, str]:
        asked.append(1)
        return True, "found"

    monkeypatch.setitem(checks._CHECKS, "sam_cost", check)
    assert checks.outcome("sam_cost") == checks.outcome("sam_cost") == (True, "found")
    assert len(asked) == 1
    monkeypatch.setattr(checks, "_source_digest", lambda: "other")
    assert checks.outcome("sam_cost") == (True, "found")
    assert len(asked) == 2
    for kept in tmp_path.iterdir():
        kept.write_text("{")
    assert checks.outcome("sam_cost") == (True, "found")
    assert len(asked) == 3

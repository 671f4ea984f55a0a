import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nbrepro import agc, claims, layers
from nbrepro.claims import checks, statistics, tables
from nbrepro.claims.checks import (
    Computed,
    Outcome,
    Summary,
    answers,
    compute,
    compute_one,
    outcome,
    registry,
)
from nbrepro.claims.nfnets import batchnorm, counts, numerics, smoothness
from nbrepro.claims.rules import Bounds, Check
from nbrepro.claims.tables import printed
from nbrepro.models import nfnet
from nbrepro.optim import ema

#: Check → bounds on its values, by the claim that rests on it.
BOUNDS: dict[str, Mapping[str, Bounds]] = {
    claim.rule.check: claim.rule.bounds
    for claim in claims.register().values()
    if isinstance(claim.rule, Check)
}

#: Check → numbers that its note must have.
NOTED = {
    "variance_rule": ("1.7205", "1.7321"),
    "gamma_constants": ("all 16", "1.7140 against 1.7129"),
    "weight_standardization": ("0.159 [",),  # the square of ReLU's mean, 1 / 2π
    "agc_formula": ("55 units", "1e-05"),
    "signal_bn": ("0.683 [", "(theory 0.682)", "1.000 [", "(theory 1.000)"),
    "signal_plain": ("50 blocks",),
    "signal_mean_shift": ("α = 1",),
    "signal_linear": ("no ReLU", "over 20 seeds"),
    "signal_scaled_ws": ("the variance is 26)", "the variance is 2)"),
    "one_label": ("BatchNorm -0.00", "16 % ["),
    "bn_downscales": ("theory 0.500 and 0.0385",),
    "parameters": ("7 of 7", "71,489,284", "438,359,116", "61,144,972"),
    "flops": ("7 of 7", "12.38", "377.28"),
    "f4_plus": ("527.0M", "367.4B", "(printed: 527M, 367B)"),
    "f4_plus_code": ("525.0M", "333.4B", "(printed: 527M, 367B)"),
    "width_and_conv": ("8 counts agree",),
    "arithmetic_speedup": ("8.81", "13.1"),
    "arithmetic_bn_slower": ("52, 63, 34, 16 %", "34, 39, 25, 14 %"),
    "arithmetic_half_as_fast": ("2.16, 1.87, 1.80, 1.94, 1.35", "2.36, 1.69"),
    "arithmetic_latency_rows": ("14, 18, 17, 21 %", "11, 15, 19, 19 %"),
    "test_resolution": ("1.333, 1.429, 1.375, 1.300, 1.333, 1.308, 1.286",),
    "ema_horizon": ("0.99109", "0.99992", "112,602", "899,990"),
    "flops_not_parameters": ("-0.7 at equal FLOPs",),
    "augmentation_ladder": ("RandAugment +1.0, +1.7, +1.7, +1.5",),
    "b0_flops": ("10.5 times", "×1.23", "×1.27"),
    "sam_cost": ("40.0 %",),
    "transfer_gaps": ("12 of 12", "+0.88", "+0.5 to +1.4"),
    "independence": ("by 0 without",),
    "train_eval_gap": ("without by 0",),
    "micro_batches": ("without at most",),
    "cheating_pairs": ("costs 2.77", "at most 2.08"),
    "cheating_others": ("move the answer by 0",),
    "cheating_class": ("in mixed batches",),
    "sorted_batches": ("in evaluation",),
    "signal_padding": ("variance of 0.36", "squared mean of 2.0"),
    "statistics_noise": ("theory 0.50", "theory 0.063"),
    "frozen_statistics": ("with 0 parameters changed", "mode 0 lost", "BatchNorm 0 ("),
    "synchronized_devices": ("ten batches", "SyncBatchNorm expected input tensor to be on GPU"),
    "memory": ("depends on the implementation",),
    "randaugment_blanks": ("only two photographs",),
    "bf16_statistics": ("a demonstration",),
}

CONTRADICTED = {
    "f4_plus_code",
    "arithmetic_speedup",
    "arithmetic_bn_slower",
    "arithmetic_half_as_fast",
    "arithmetic_latency_rows",
    "memory",
}
OPEN = {"randaugment_blanks"}
#: The other checks bear their claim out.
EXPECTED = {
    name: "no" if name in CONTRADICTED else "open" if name in OPEN else "yes" for name in registry()
}


def outside(name: str, found: Summary) -> set[str]:
    """The values that are not within their bounds."""
    return {
        value
        for value, bounds in BOUNDS[name].items()
        if answers(Summary({value: found.values[value]}, ""), {value: bounds}) != "yes"
    }


def with_one_seed(name: str) -> Summary:
    """What a check finds with a single seed: enough where a mutation changes it by far."""
    found = compute_one(name, 0)
    return Summary({key: Computed.of([value]) for key, value in found.values.items()}, found.note)


@pytest.mark.parametrize("name", registry())
def test_outcome(name: str) -> None:
    before = torch.get_rng_state()
    found = outcome(name)
    assert torch.equal(torch.get_rng_state(), before)
    assert answers(found, BOUNDS[name]) == EXPECTED[name], found
    for number in NOTED.get(name, ()):
        assert number in found.note
    seeds = registry()[name].seeds
    assert {value.n for value in found.values.values()} == {seeds}
    assert ("seeds, with 95 % intervals)" in found.note) is (seeds > 1)
    assert not set("\n{}") & set(found.note)
    assert not found.note.endswith(".")
    assert outcome(name) is found  # computed once


def test_seeds() -> None:
    """A check that draws has ten seeds at least, and one that has seeds draws."""
    for name, (_, seeds) in registry().items():
        if registry()[name].run.__module__ == counts.__name__:
            assert seeds == 1, "shapes only, nothing is drawn"
        elif seeds == 1:
            assert compute_one(name, 1) == compute_one(name, 0), f"{name} draws; give it seeds"
        else:
            assert seeds >= 10, name
            assert compute_one(name, 1) != compute_one(name, 0), f"{name} draws nothing"


def test_every_check_decides_a_claim_and_says_what_it_measures() -> None:
    assert BOUNDS.keys() == registry().keys()
    assert registry().keys() >= NOTED.keys() | CONTRADICTED
    for name, check in registry().items():
        assert check.run.__doc__, name
        assert "Criterion" not in check.run.__doc__, f"{name}: it stands in claims.yaml"


def test_two_checks_of_one_name() -> None:
    def frozen_stays() -> Outcome:
        return Outcome({}, "")

    frozen_stays.__module__ = "nbrepro.claims.elsewhere"
    registry()
    with pytest.raises(ValueError, match=r"called frozen_stays, in .*setup and in .*elsewhere"):
        checks.check(frozen_stays)


def test_an_error_in_a_check_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checks._CHECKS, "sam_cost", checks.Check(lambda: 1 / 0, 1))  # type: ignore
    with pytest.raises(ZeroDivisionError) as caught:
        compute("sam_cost")
    assert caught.value.__notes__ == [f"in the check sam_cost ({__name__})"]


def test_unknown_check_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown check 'sam_costs'; did you mean 'sam_cost'"):
        outcome("sam_costs")


def test_the_same_whatever_was_drawn_before() -> None:
    torch.manual_seed(1234)
    assert compute("agc_formula") == compute("agc_formula") == outcome("agc_formula")


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((0.4, 0.6), "yes"),  # the ends belong to the bounds
        ((0.39, 0.6), "open"),
        ((0.4, 0.61), "open"),
        ((0.3, 0.7), "open"),
        ((0.2, 0.4), "open"),
        ((0.2, 0.39), "no"),
        ((0.61, 0.8), "no"),
        ((0.5, 0.5), "yes"),
        ((0.3, 0.3), "no"),
        ((math.nan, math.nan), "no"),
    ],
)
def test_the_whole_interval_must_keep_the_bounds(ends: tuple[float, float], expected: str) -> None:
    value = Computed(sum(ends) / 2, *ends, 10)
    bounds = Bounds(0.4, 0.6)
    assert answers(Summary({"share": value}, ""), {"share": bounds}) == expected
    both = {"share": value, "wrong": Computed.of([0.0])}
    assert answers(Summary(both, ""), {"share": bounds, "wrong": Bounds(0, 0)}) == expected
    assert answers(Summary(both, ""), {"share": bounds, "wrong": Bounds(1, 1)}) == "no"


def test_bounds_must_be_for_the_values() -> None:
    found = Summary({"share": Computed.of([0.5])}, "")
    with pytest.raises(ValueError, match="computes share; its rule has bounds for shre"):
        answers(found, {"shre": Bounds(0, 1)})


def test_estimates() -> None:
    found = Computed.of([1.0, 2.0, 3.0])
    assert found == pytest.approx((2.0, 2 - 2.4841, 2 + 2.4841, 3), abs=1e-4)
    assert Computed.of([2.0]) == (2.0, 2.0, 2.0, 1)
    assert Computed.of([0.0] * 10) == (0.0, 0.0, 0.0, 10)
    assert f"{found:.2f}" == "2.00 [-0.48, 4.48]"
    assert f"{found:.0%}" == "200 % [-48, 448]"
    assert f"{Computed.of([0.5]):.0%}" == "50 %"
    assert f"{Computed.of([0.0] * 10):g}" == "0"


def test_a_note_gets_means_and_may_not_depend_on_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn() -> Outcome:
        seed = torch.initial_seed()
        return Outcome({"seed": seed}, "seed {seed:.1f}, twice {twice:.0f}", {"twice": 2 * seed})

    monkeypatch.setitem(checks._CHECKS, "sam_cost", checks.Check(drawn, 3))
    found = compute("sam_cost")
    assert found.values["seed"] == Computed.of([0, 1, 2])
    assert found.note == (
        "seed 1.0 [-1.5, 3.5], twice 2 [-3, 7] (means over 3 seeds, with 95 % intervals)"
    )
    told = checks.Check(lambda: Outcome({"seed": 0}, f"seed {torch.initial_seed()}"), 2)
    monkeypatch.setitem(checks._CHECKS, "sam_cost", told)
    with pytest.raises(ValueError, match="note of sam_cost depends on the seed"):
        compute("sam_cost")


def test_a_check_adds_in_one_order_whatever_threads_its_caller_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pages compute checks in processes of their own, and the last digits stand on pages."""
    told = checks.Check(lambda: Outcome({"threads": torch.get_num_threads()}, "threads"), 1)
    monkeypatch.setitem(checks._CHECKS, "sam_cost", told)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert compute("sam_cost").values["threads"].mean == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("name", "owner", "attribute", "wrong", "value"),
    [
        ("gamma_constants", numerics, "GAMMA", layers.GAMMA | {"silu": 2.218}, "worst_error"),
        ("gamma_constants", numerics, "GAMMA", layers.GAMMA | {"tanh": math.nan}, "worst_error"),
        (
            "weight_standardization",
            layers.ScaledStdConv2d,
            "_standardize",
            lambda s, g: s.weight,
            "row_mean",
        ),
        ("variance_rule", nfnet, "expected_stds", lambda d, _: [[1] * n for n in d], "worst_error"),
        ("ema_horizon", ema, "ema_decay", lambda step: 0.99999, "last_decay"),
    ],
)
def test_the_other_outcome_is_possible(
    monkeypatch: pytest.MonkeyPatch, name: str, owner: Any, attribute: str, wrong: Any, value: str
) -> None:
    assert value not in outside(name, outcome(name))
    monkeypatch.setattr(owner, attribute, wrong)
    assert value in outside(name, with_one_seed(name))


def test_a_larger_network_with_batchnorm_costs_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batchnorm, "TWINS", {"BatchNorm": "bn_cifar_nf_resnet56"})
    assert not outside("memory", compute("memory"))


@pytest.mark.parametrize(
    ("name", "table", "row", "column", "wrong"),
    [
        ("parameters", "imagenet", "NFNet-F2", "params", 193.9),
        ("parameters", "imagenet", "NFNet-F6 + SAM", "params", 438.3),
        ("arithmetic_half_as_fast", "imagenet", "NFNet-F5", "tpu", 2000.0),
        ("arithmetic_speedup", "imagenet", "NFNet-F1", "tpu", 160.5),
        ("b0_flops", "imagenet", "EfficientNet-B0", "flops", 0.5),
        ("b0_flops", "imagenet", "EfficientNet-B0", "tpu", 60.0),
        ("b0_flops", "imagenet", "ResNet-50", "top1", 79.2),
        ("flops_not_parameters", "imagenet", "EfficientNet-B6", "top1", 84.4),
        ("flops_not_parameters", "imagenet", "NFNet-F0", "params", 66.0),
        ("sam_cost", "imagenet", "NFNet-F5 + SAM", "tpu", 1966.0),
        ("augmentation_ladder", "ablation", "RandAugment", "F0", 83.0),
        ("transfer_gaps", "transfer", "NF-ResNet-101", "320", 82.2),
        ("test_resolution", "family", "NFNet-F3", "test_pixels", 320),
    ],
)
def test_another_number_in_a_table_gives_the_other_outcome(
    monkeypatch: pytest.MonkeyPatch, name: str, table: str, row: str, column: str, wrong: float
) -> None:
    right = printed("nfnets")
    rows = {**right[table].rows, row: {**right[table].rows[row], column: wrong}}
    changed = {**right, table: replace(right[table], rows=rows)}
    module = sys.modules[registry()[name].run.__module__]
    monkeypatch.setattr(module, "printed", lambda paper: changed)
    assert (not outside(name, compute(name))) == (name in CONTRADICTED)


@pytest.mark.parametrize(
    ("ratios", "holds"),
    [
        ((1.2, 1.3, 1.35, 1.4), True),  # longer by 20 to 40 %
        ((1.25, 1.4, 1.5, 1.66), True),  # or shorter without
        ((1.2, 1.3, 1.4, 1.5), False),
    ],
)
def test_both_readings_of_slower_count(
    monkeypatch: pytest.MonkeyPatch, ratios: tuple[float, ...], holds: bool
) -> None:
    module = sys.modules[registry()["arithmetic_bn_slower"].run.__module__]
    monkeypatch.setattr(module, "_ratios", lambda *_, **__: list(ratios))
    assert (not outside("arithmetic_bn_slower", compute("arithmetic_bn_slower"))) is holds


def test_agc_by_layer_is_not_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = agc.clip_grads_
    monkeypatch.setattr(agc, "clip_grads_", lambda p, c, e: clip(p, c, e, units="layer"))
    assert "worst_error" in outside("agc_formula", with_one_seed("agc_formula"))


def test_networks_without_batchnorm_pass_neither_check_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    twins = {name: "cifar_nf_resnet8" for name in ("BatchNorm", "normalizer-free")}
    monkeypatch.setattr(batchnorm, "TWINS", twins)
    for name in ("independence", "train_eval_gap", "micro_batches"):
        wrong = outside(name, with_one_seed(name))
        assert wrong == {"batchnorm"}, name


def test_the_smoother_network_is_told_from_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    swapped = dict(zip(smoothness.TWINS, reversed(smoothness.TWINS.values()), strict=True))
    monkeypatch.setattr(smoothness, "TWINS", swapped)
    assert outside("smoothness", with_one_seed("smoothness")) == {"gradient_change", "highest_loss"}


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


# --- what is kept --------------------------------------------------------------------------------


def test_a_finding_is_kept_until_a_source_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBREPRO_CACHE", str(tmp_path))
    asked = []

    def check() -> Outcome:
        asked.append(1)
        return Outcome({"error": 0, "ratio": math.inf}, "found")

    monkeypatch.setitem(checks._CHECKS, "sam_cost", checks.Check(check, 1))
    in_another_process = outcome.__wrapped__
    points = {"error": Computed.of([0.0]), "ratio": Computed.of([math.inf])}
    expected = (points, "found")
    assert in_another_process("sam_cost") == in_another_process("sam_cost") == expected
    assert len(asked) == 1
    with monkeypatch.context() as changed:
        changed.setattr(checks, "_digest", lambda: "other")
        assert in_another_process("sam_cost") == expected
    assert len(asked) == 2
    for kept in tmp_path.iterdir():
        kept.write_text("{")
    assert in_another_process("sam_cost") == expected
    assert len(asked) == 3


def test_the_sources_that_findings_depend_on() -> None:
    package = Path(checks.__file__).parents[1]
    found = {path for pattern in checks.SOURCES for path in package.glob(pattern)}
    used = {checks, statistics, tables, agc, layers, nfnet, ema, batchnorm, counts, numerics}
    assert {Path(str(module.__file__)) for module in used} <= found
    assert package / "claims" / "nfnets" / "tables.yaml" in found
    assert package / "claims" / "nfnets" / "claims.yaml" not in found  # bounds are not findings
    for pattern in checks.SOURCES:
        assert any(package.glob(pattern)), f"{pattern} is no file any more"

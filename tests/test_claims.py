import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nbrepro import claims, experiments
from nbrepro.claims import SEEN, Claim, Quoted, checks
from nbrepro.claims.labels import network
from nbrepro.claims.rules import Arm, Bounds, Check, Counts, Level, Measured, Ordered
from nbrepro.claims.statistics import interval, welch
from nbrepro.claims.verdicts import VERDICTS, Finding, Verdict, arms, comparison, judge, label
from nbrepro.records.ledger import Record
from nbrepro.records.timings import Benchmark
from nbrepro.spec import Spec

STUDY = experiments.get("training_only_batchnorm")
BOOK = Path(__file__).parents[1] / "book"


def record(
    spec: Spec, accuracy: float, status: str = "completed", untrained: float = 0.1
) -> Record:
    curve = [{"test_accuracy": untrained}, {"test_accuracy": accuracy}]
    metrics = {} if status == "failed" else {"test_accuracy": accuracy}
    return Record(spec, status, metrics, curve, {})


def records(
    accuracies: Mapping[tuple[str, str], Sequence[float]],
    profile: str = "quick",
    dataset: str = "cifar10",
    *,
    untrained: float = 0.1,
    status: str = "completed",
) -> list[Record]:
    """One record for each accuracy, by (network, what is trained), with seeds 0, 1, ..."""
    specs = {(s.model, s.train): s for s in STUDY.specs(profile, dataset, seeds=1)}
    made = []
    for arm, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            made.append(record(specs[arm].replace(seed=seed), accuracy, status, untrained))
    return made


def around(mean: float, spread: float = 0.002) -> list[float]:
    return [mean - spread, mean, mean + spread]


DEPTHS = ["cifar_resnet14", "cifar_resnet32", "cifar_resnet56", "cifar_resnet110"]


def by_depth(*means: float, spread: float = 0.002) -> dict[tuple[str, str], list[float]]:
    models = [*DEPTHS, "cifar_resnet218"][: len(means)]
    return {(m, "batchnorm"): around(mean, spread) for m, mean in zip(models, means, strict=True)}


FULL = [(spec.model, spec.train) for spec in STUDY.specs("full", seeds=1)]
RISING = by_depth(0.48, 0.58, 0.63, 0.70, 0.76)
QUICK = by_depth(0.38, 0.42, 0.45, 0.47)  # ResNet-218 is not in this profile


def arm(model: str, train: str = "batchnorm") -> Arm:
    return Arm({"model": model, "train": train})


def verdict(claim: str, found: list[Record]) -> Verdict:
    return judge(claims.get(claim), found)


# --- the register --------------------------------------------------------------------------------


def test_ids_are_unique() -> None:
    register = claims.register()
    assert list(register) == [claim.id for claim in register.values()]
    text = "".join(f.read_text() for f in Path(claims.__file__).parent.glob("*/*.yaml"))
    assert text.count("- id: ") == len(register)


@pytest.mark.parametrize("claim", claims.register().values(), ids=lambda c: c.id)
def test_every_claim_is_complete(claim: Claim) -> None:
    assert claim.statement
    assert claim.place
    assert claim.quoted
    assert {q.seen for q in claim.quoted} <= set(SEEN) == {"paper", "figure", "code", "second hand"}
    assert all(isinstance(q.value, str) for q in claim.quoted)
    assert (BOOK / f"{claim.chapter}.ipynb").is_file()
    assert claim in claims.of_chapter(claim.chapter)
    if claim.experiment is not None:
        assert claim.chapter == experiments.get(claim.experiment).chapter
    assert (claim.experiment is None) == (not isinstance(claim.rule, Ordered | Level))


@pytest.mark.parametrize(
    "claim", [c for c in claims.register().values() if c.experiment], ids=lambda c: c.id
)
def test_every_arm_of_a_rule_is_run_by_some_profile(claim: Claim) -> None:
    """A misspelt network or policy would otherwise never be missed."""
    assert isinstance(claim.rule, Ordered | Level)
    assert claim.experiment is not None
    experiment = experiments.get(claim.experiment)
    for profile in claim.rule.profiles:
        specs = experiment.specs(profile, seeds=1)
        for arm in arms(claim):
            found = [spec for spec in specs if arm.matches(spec)]
            if profile == "quick" and arm.called:
                assert len(found) == 1, "an arm that has a name is one arm of the grid"
    every = [spec for profile in claim.rule.profiles for spec in experiment.specs(profile)]
    for arm in arms(claim):
        assert any(arm.matches(spec) for spec in every), arm


def test_unknown_claim_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'PAR-1'"):
        claims.get("PAR1")


def test_recalled_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown provenance of a quoted value 'recalled'"):
        Quoted("82 %", "recalled")


def test_every_claim_gets_a_verdict_without_records() -> None:
    register = claims.register().values()
    found = {claim.id: judge(claim, []).verdict for claim in register}
    assert found["PAR-1"] == "reproduced"
    for claim in register:
        expected = {
            type(None): {"cited only"},
            Counts: {"reproduced"},
            Check: {"reproduced", "contradicted"},
        }.get(type(claim.rule), {"not run"})
        assert found[claim.id] in expected, claim.id
    assert set(found.values()) <= set(VERDICTS)


# --- ordered -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "dataset", "accuracies", "expected"),
    [
        ("full", "cifar10", RISING, "reproduced"),
        ("full", "cifar10-jpeg", RISING, "reproduced at reduced scale"),
        ("quick", "cifar10", QUICK, "reproduced at reduced scale"),
        ("quick", "cifar10-jpeg", QUICK, "reproduced at reduced scale"),
        ("full", "cifar10", by_depth(0.48, 0.58, 0.63, 0.70), "reproduced at reduced scale"),
        ("full", "cifar10", by_depth(0.48, 0.58, 0.56, 0.70, 0.76), "contradicted"),
        ("quick", "cifar10", by_depth(0.42, 0.38), "contradicted"),
        ("quick", "cifar10", by_depth(0.40, 0.41, spread=0.02), "inconclusive"),
        ("quick", "cifar10", by_depth(0.41, 0.40, spread=0.02), "inconclusive"),
        ("quick", "cifar10", by_depth(0.40), "not run"),
    ],
)
def test_rising(
    profile: str, dataset: str, accuracies: dict[tuple[str, str], list[float]], expected: str
) -> None:
    assert verdict("ACC-20", records(accuracies, profile, dataset)).verdict == expected


def test_arms_have_readable_names() -> None:
    deep, wide = arm("cifar_resnet110"), arm("cifar_resnet14x8")
    assert label(wide) == "ResNet-14 ×8, BatchNorm only"
    assert comparison(deep, wide) == "ResNet-110 over ResNet-14 ×8 (BatchNorm only)"


def test_effects_and_their_intervals() -> None:
    low, high = [0.38, 0.39, 0.385], [0.42, 0.44, 0.425]
    found = records({("cifar_resnet14", "batchnorm"): low, ("cifar_resnet32", "batchnorm"): high})
    result = verdict("ACC-20", found)
    (finding,) = result.findings
    assert finding.label == comparison(arm("cifar_resnet32"), arm("cifar_resnet14"))
    assert finding.n == (3, 3)
    assert finding.effect == pytest.approx(np.mean(high) - np.mean(low))
    assert (finding.low, finding.high) == pytest.approx(welch(low, high))
    assert finding.answer == "yes"
    assert result.scale == "quick: 8 epochs on cifar10"
    assert "+4.3 points [" in str(finding)
    assert set(result.records) == {r.spec.hash for r in found}


def test_networks_that_were_not_run_are_left_out_and_named() -> None:
    accuracies = by_depth(0.38, 0.42, 0.45, 0.47)
    del accuracies["cifar_resnet32", "batchnorm"]
    result = verdict("ACC-20", records(accuracies))
    assert [f.label for f in result.findings] == [
        comparison(arm("cifar_resnet56"), arm("cifar_resnet14")),
        comparison(arm("cifar_resnet110"), arm("cifar_resnet56")),
    ]
    assert result.verdict == "reproduced at reduced scale"
    assert result.note.startswith("not run: ")
    for model in ("cifar_resnet32", "cifar_resnet218"):
        assert network(model) in result.note
    assert "ResNet-56" not in result.note


def test_pairs_compare_the_policies() -> None:
    accuracies = {
        ("cifar_resnet14", "batchnorm"): around(0.38),
        ("cifar_resnet14", "output"): around(0.25),
        ("cifar_resnet32", "batchnorm"): around(0.42),  # without its partner
    }
    result = verdict("ACC-14", records(accuracies))
    (finding,) = result.findings
    assert finding.label == comparison(arm("cifar_resnet14"), arm("cifar_resnet14", "output"))
    assert finding.effect == pytest.approx(0.13)
    assert result.verdict == "reproduced at reduced scale"
    assert result.note.startswith("not run: ResNet-32")
    swapped = {
        (m, "output" if t == "batchnorm" else "batchnorm"): v for (m, t), v in accuracies.items()
    }
    assert verdict("ACC-14", records(swapped)).verdict == "contradicted"


def test_one_clear_no_outweighs_an_open_question() -> None:
    accuracies = by_depth(0.38, 0.42, 0.40) | {("cifar_resnet32", "batchnorm"): around(0.40, 0.02)}
    assert verdict("ACC-20", records(accuracies)).verdict == "inconclusive"
    accuracies |= {("cifar_resnet110", "batchnorm"): around(0.30)}
    assert verdict("ACC-20", records(accuracies)).verdict == "contradicted"


def test_a_single_seed_decides_nothing() -> None:
    accuracies = {arm: values[:1] for arm, values in QUICK.items()}
    result = verdict("ACC-20", records(accuracies))
    assert result.verdict == "inconclusive"
    assert "a single seed gives no interval" in result.note
    assert all(math.isnan(f.low) and f.n == (1, 1) for f in result.findings)
    assert "[" not in str(result.findings[0])


# --- level ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.478, 0.480, 0.483], "reproduced"),
        ([0.44, 0.441, 0.442], "contradicted"),
        ([0.53, 0.531, 0.532], "contradicted"),
        ([0.459, 0.461, 0.463], "inconclusive"),
        ([0.48], "inconclusive"),
    ],
)
def test_level_of_one_network(values: list[float], expected: str) -> None:
    found = records({("cifar_resnet14", "batchnorm"): values}, "full")
    assert verdict("ACC-5", found).verdict == expected


def test_level_needs_its_profile() -> None:
    result = verdict("ACC-5", records(QUICK))
    assert result.verdict == "not run"
    assert result.note == "needs the full profile"


def test_level_of_each_network() -> None:
    accuracies = by_depth(0.48, 0.58)
    result = verdict("ACC-19", records(accuracies))
    assert [f.label for f in result.findings] == [
        label(arm("cifar_resnet14")),
        label(arm("cifar_resnet32")),
    ]
    assert result.verdict == "reproduced at reduced scale"
    assert [f.difference for f in result.findings] == [False, False]
    accuracies["cifar_resnet32", "batchnorm"] = around(0.2)
    assert verdict("ACC-19", records(accuracies)).verdict == "contradicted"


def test_level_of_all_runs_together_before_training() -> None:
    result = verdict("ACC-7", records(by_depth(0.48, 0.58), untrained=0.102))
    (finding,) = result.findings
    assert finding.n == (6,)
    assert finding.effect == pytest.approx(0.102)
    assert result.verdict == "reproduced at reduced scale"
    assert verdict("ACC-7", records(by_depth(0.48), untrained=0.2)).verdict == "contradicted"


@pytest.mark.parametrize("claim", ["ACC-7", "ACC-19"])
def test_level_over_fewer_networks_than_the_profile_has(claim: str) -> None:
    every = {key: around(0.5) for key in FULL if key[1] == "batchnorm"}
    assert verdict(claim, records(every, "full")).verdict == "reproduced"
    del every["cifar_resnet14x8", "batchnorm"]
    result = verdict(claim, records(every, "full"))
    assert result.verdict == "reproduced at reduced scale"
    assert result.note == "not run: ResNet-14 ×8"


# --- which records count -------------------------------------------------------------------------


def test_smoke_runs_never_carry_a_verdict() -> None:
    specs = [s.replace(seed=seed) for s in STUDY.specs("smoke") for seed in range(3)]
    smoke = [record(spec, 0.9) for spec in specs]
    for claim in claims.register().values():
        if claim.experiment is not None:
            assert judge(claim, smoke) == judge(claim, [])


def test_full_comes_before_quick_and_cifar10_before_other_pixels() -> None:
    falling = by_depth(0.5, 0.4)
    quick = records(by_depth(0.3, 0.4), "quick")
    assert verdict("ACC-20", quick).verdict == "reproduced at reduced scale"
    full_jpeg = records(by_depth(0.3, 0.4), "full", "cifar10-jpeg")
    full = records(falling, "full")
    assert verdict("ACC-20", [*quick, *full]).verdict == "contradicted"
    assert verdict("ACC-20", [*full_jpeg, *full]).verdict == "contradicted"
    result = verdict("ACC-20", [*quick, *full_jpeg, *full])
    assert set(result.records) == {r.spec.hash for r in full}
    assert result.scale == "full: 160 epochs on cifar10"


@pytest.mark.parametrize(
    "changes",
    [{"status": "failed", "metrics": {}}, {"spec": {"lr": 0.2}}],
    ids=["failed", "another recipe"],
)
def test_records_that_do_not_count(changes: dict[str, Any]) -> None:
    odd = []
    for record in records(by_depth(0.9, 0.1)):
        spec = record.spec.replace(**changes.get("spec", {}))
        odd.append(dataclasses.replace(record, **{**changes, "spec": spec}))
    assert verdict("ACC-20", odd).verdict == "not run"
    sound = records(by_depth(0.3, 0.4))
    assert verdict("ACC-20", [*odd, *sound]) == verdict("ACC-20", sound)


def test_a_run_counts_once_whatever_experiment_it_was_made_for() -> None:
    """Experiments are views: two of them may share a run."""
    sound = records(by_depth(0.3, 0.4))
    assert verdict("ACC-20", sound).verdict == "reproduced at reduced scale"
    assert verdict("ACC-20", [*sound, *sound]) == verdict("ACC-20", sound)


def test_diverged_runs_count_as_they_ended_and_are_named() -> None:
    arm = {("cifar_resnet32", "batchnorm"): around(0.1, 0.001)}
    found = [*records(by_depth(0.38)), *records(arm, status="diverged")]
    result = verdict("ACC-20", found)
    assert result.verdict == "contradicted"
    assert "3 of 6 runs diverged and count as they ended" in result.note


@pytest.mark.parametrize(
    ("finding", "numbers", "seeds"),
    [
        (
            Finding("a", (3, 3), 0.0551, 0.04, 0.07, "yes", True),
            "+5.5 points [+4.0, +7.0]",
            "n = 3",
        ),
        (
            Finding("a", (3, 5), -0.01, -0.02, 0, "no", True),
            "-1.0 points [-2.0, +0.0]",
            "n = 3 and 5",
        ),
        (Finding("a", (1,), 0.48, math.nan, math.nan, "open", False), "48.0 %", "n = 1"),
        (Finding("a", (9,), 1.5, 1.2, 1.8, "yes", False, ratio=True), "×1.50 [1.20, 1.80]", ""),
    ],
)
def test_a_finding_in_words(finding: Finding, numbers: str, seeds: str) -> None:
    assert (finding.numbers, finding.seeds) == (numbers, seeds)
    assert str(finding) == f"a: {numbers}" + (f", {seeds}" if seeds else "")


def test_weakest_finding_speaks_for_the_claim() -> None:
    result = verdict("ACC-20", records(by_depth(0.38, 0.45, 0.46, 0.60)))
    weakest = comparison(arm("cifar_resnet56"), arm("cifar_resnet32"))
    assert result.ours.startswith(f"{weakest}: +1.0 points [")
    assert result.ours.endswith("; 2 more at least as clear")


# --- bounds of a difference, and experiments that stand in ---------------------------------------


def clipped(
    claim: str, low: Sequence[float], high: Sequence[float], profile: str = "quick"
) -> Verdict:
    """The verdict on a claim of one pair, whose two arms ended at these accuracies."""
    chosen = claims.get(claim)
    assert chosen.experiment
    grid = experiments.get(chosen.experiment).specs(profile, seeds=1)
    found = []
    for arm, accuracies in zip(arms(chosen)[:2], (low, high), strict=True):
        spec = next(spec for spec in grid if arm.matches(spec))
        found += [record(spec.replace(seed=seed), a) for seed, a in enumerate(accuracies)]
    return judge(chosen, found)


@pytest.mark.parametrize(
    ("claim", "high", "expected"),
    [
        ("F2-d", 0.41, "reproduced at reduced scale"),  # unit by unit is better
        ("F2-d", 0.39, "contradicted"),
        ("F2-f-stem", 0.395, "reproduced at reduced scale"),  # costs at most a point
        ("F2-f-stem", 0.38, "contradicted"),
        ("F2-a-small", 0.401, "reproduced at reduced scale"),  # half a point either way
        ("F2-a-small", 0.42, "contradicted"),
        ("F2-a-small", 0.38, "contradicted"),
    ],
)
def test_bounds_of_a_difference(claim: str, high: float, expected: str) -> None:
    verdict = clipped(claim, around(0.40, 0.0005), around(high, 0.0005))
    assert verdict.verdict == expected


def test_a_pair_may_have_bounds_of_its_own() -> None:
    """λ = 0.16 more than ten points behind at the large rate."""
    assert "contradicted" not in clipped("F2-b", around(0.2), around(0.4)).verdict
    assert clipped("F2-b", around(0.35), around(0.4)).verdict == "contradicted"


def test_what_stands_in_for_imagenet_is_never_more_than_reduced() -> None:
    verdict = clipped("F2-d", around(0.4), around(0.5), "full")
    assert verdict.verdict == "reproduced at reduced scale"


# --- timings -------------------------------------------------------------------------------------


def timing(low: float, high: float, *, on_gpu: bool) -> Benchmark:
    row = {"ratio": (low + high) / 2, "low": low, "high": high, "rounds": 9}
    return Benchmark("speed", "a machine", on_gpu, {"ours over theirs": row}, {})


def faster(device: Literal["cuda"] | None = None) -> Claim:
    rule = Measured("speed", ("ours over theirs",), Bounds(1.1, math.inf), device)
    return dataclasses.replace(claims.get("T6-a"), rule=rule)


@pytest.mark.parametrize(
    ("device", "found", "expected"),
    [
        (None, timing(1.2, 1.5, on_gpu=False), "reproduced at reduced scale"),
        (None, timing(1.0, 1.5, on_gpu=False), "inconclusive"),
        (None, timing(0.8, 0.9, on_gpu=True), "contradicted"),
        ("cuda", timing(8.0, 9.0, on_gpu=True), "reproduced at reduced scale"),
        ("cuda", timing(8.0, 9.0, on_gpu=False), "not run"),  # a claim about accelerators
    ],
)
def test_measured(device: Literal["cuda"] | None, found: Benchmark, expected: str) -> None:
    verdict = judge(faster(device), [], [found])
    assert verdict.verdict == expected
    assert ("a machine" in verdict.scale) == (expected != "not run")


def test_a_gpu_speaks_before_a_cpu() -> None:
    cpu, gpu = timing(1.2, 1.5, on_gpu=False), timing(0.8, 0.9, on_gpu=True)
    assert judge(faster(), [], [cpu, gpu]).verdict == "contradicted"


def test_cases_of_measured_claims_are_those_of_the_benchmark() -> None:
    for claim in claims.register().values():
        if isinstance(claim.rule, Measured):
            script = BOOK.parent / "benchmarks" / f"{claim.rule.benchmark}.py"
            for case in claim.rule.cases:
                for side in case.split(" over "):
                    assert side in script.read_text(encoding="utf-8"), case


# --- checks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"share": 0.5, "wrong": 0}, "reproduced"),
        ({"share": 0.4, "wrong": 0}, "reproduced"),  # the ends belong to the bounds
        ({"share": 0.39, "wrong": 0}, "contradicted"),
        ({"share": 0.5, "wrong": 1}, "contradicted"),
        ({"share": math.nan, "wrong": 0}, "contradicted"),
    ],
)
def test_the_bounds_of_a_check_decide(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, float], expected: str
) -> None:
    found = SimpleNamespace(values=values, note="as computed")
    monkeypatch.setattr(checks, "outcome", lambda name: found)
    rule = Check("agc_formula", {"wrong": Bounds(0, 0), "share": Bounds(0.4, math.inf)})
    result = judge(dataclasses.replace(claims.get("M-13"), rule=rule), [])
    assert (result.verdict, result.note) == (expected, "as computed")


def test_bounds_of_another_value_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(values={"share": 0.5}, note="")
    monkeypatch.setattr(checks, "outcome", lambda name: found)
    rule = Check("agc_formula", {"shre": Bounds(0, 1)})
    message = "M-13: the check agc_formula computes share; its rule has bounds for shre"
    with pytest.raises(ValueError, match=message):
        judge(dataclasses.replace(claims.get("M-13"), rule=rule), [])


# --- counts --------------------------------------------------------------------------------------


def printed(**changes: list[str]) -> Claim:
    claim = claims.get("PAR-1")
    assert isinstance(claim.rule, Counts)
    known = claim.rule.printed
    models = ("cifar_resnet14", *changes)
    shown = {model: tuple(changes.get(model, known[model])) for model in models}
    return dataclasses.replace(claim, rule=Counts(shown))


def test_the_printed_counts_are_right() -> None:
    result = judge(claims.get("PAR-1"), [])
    assert result.verdict == "reproduced"
    assert "all 52 counts agree as printed" in result.note


@pytest.mark.parametrize(
    ("group", "text"),
    [
        (0, "174K"),  # 175,258
        (0, "176K"),
        (0, "175M"),
        (1, "1.11K"),  # 1,120
        (1, "1.13K"),
        (2, "649"),  # 650
        (2, "651"),
        (3, "2.55K"),  # 2,560
        (3, "2.57K"),
    ],
)
def test_another_printed_count_contradicts(group: int, text: str) -> None:
    texts = ["175K", "1.12K", "650", "2.56K"]
    assert judge(printed(cifar_resnet14=texts), []).verdict == "reproduced"
    texts[group] = text
    result = judge(printed(cifar_resnet14=texts), [])
    assert result.verdict == "contradicted"
    assert f"printed {text}" in result.note


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("696K", "reproduced"),  # 696,618, cut off
        ("697K", "reproduced"),  # rounded
        ("698K", "contradicted"),
        ("695K", "contradicted"),
        ("0.70M", "reproduced"),
        ("0.69M", "reproduced"),
        ("0.71M", "contradicted"),
    ],
)
def test_printed_counts_may_be_rounded_or_cut_off(text: str, expected: str) -> None:
    claim = printed(cifar_resnet14x2=[text, "2.24K", "1.29K", "10.2K"])
    assert judge(claim, []).verdict == expected


# --- intervals -----------------------------------------------------------------------------------

ACCURACIES = st.lists(st.integers(0, 10_000).map(lambda n: n / 10_000), min_size=2, max_size=6)


@given(ACCURACIES, ACCURACIES)
def test_welch(low: list[float], high: list[float]) -> None:
    ends = welch(low, high)
    difference = np.mean(high) - np.mean(low)
    assert sum(ends) / 2 == pytest.approx(difference, abs=1e-9)
    assert welch(high, low) == pytest.approx([-end for end in reversed(ends)], abs=1e-9)
    constant = len(set(low)) == len(set(high)) == 1
    assert (ends[1] - ends[0] < 1e-9) == constant


def test_welch_known_values() -> None:
    low, high = [0.1, 0.2, 0.3], [0.4, 0.6]
    test = stats.ttest_ind(high, low, equal_var=False).confidence_interval(0.95)
    assert welch(low, high) == pytest.approx((test.low, test.high))
    # On paper: squared error 1/300 + 1/100, 32/19 degrees of freedom, for which t is 5.17623.
    half = 5.17623 * math.sqrt(1 / 300 + 1 / 100)
    assert welch(low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=1e-6)


def test_welch_of_an_arm_without_spread() -> None:
    """All seeds at chance, say. Must not warn either."""
    low, high = [0.1, 0.1, 0.1], [0.4, 0.41, 0.39]
    half = 4.302653 * 0.01 / math.sqrt(3)  # t of 2 degrees of freedom, from a table
    assert welch(low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=1e-7)
    assert welch(high, low) == pytest.approx((-0.3 - half, -0.3 + half), abs=1e-7)
    assert welch(low, low) == (0, 0)
    assert welch(low, [0.4] * 3) == pytest.approx((0.3, 0.3))


@given(ACCURACIES)
def test_students_interval(values: list[float]) -> None:
    mean, error = np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))
    t = {2: 12.7062, 3: 4.30265, 4: 3.18245, 5: 2.77645, 6: 2.57058}[len(values)]  # from a table
    assert interval(values) == pytest.approx((mean - t * error, mean + t * error), abs=2e-5)


def test_one_value_has_no_interval() -> None:
    for ends in (interval([0.5]), interval([]), welch([0.5], [0.6, 0.7]), welch([0.1, 0.2], [0.3])):
        assert all(math.isnan(end) for end in ends)

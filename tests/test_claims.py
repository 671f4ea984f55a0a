import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from nbrepro import claims, experiments
from nbrepro.claims import SEEN, Claim, Quoted, checks, outcomes, scales, verdicts
from nbrepro.claims.labels import comparison, label, network
from nbrepro.claims.rules import (
    Arm,
    Bounds,
    Check,
    Counts,
    Failures,
    Level,
    Measured,
    Ordered,
    Trained,
    Value,
)
from nbrepro.claims.statistics import paired
from nbrepro.claims.tables import printed
from nbrepro.claims.verdicts import (
    TONE,
    VERDICTS,
    Verdict,
    judge,
    judge_all,
)
from nbrepro.data import card
from nbrepro.records import timings
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
    """One record for each accuracy, by (network, what is trained), with seeds 0, 1, ...

    The values of every second arm are turned round: differences by seed must have a spread.
    """
    specs = {(s.model, s.train): s for s in STUDY.specs(profile, dataset, seeds=1)}
    made = []
    for n, (arm, values) in enumerate(accuracies.items()):
        for seed, accuracy in enumerate(values if n % 2 else values[::-1]):
            made.append(record(specs[arm].replace(seed=seed), accuracy, status, untrained))
    return made


def around(mean: float, spread: float = 0.0002) -> list[float]:
    return [mean - spread, mean, mean + spread]


DEPTHS = ["cifar_resnet14", "cifar_resnet32", "cifar_resnet56", "cifar_resnet110"]


def by_depth(*means: float, spread: float = 0.0002) -> dict[tuple[str, str], list[float]]:
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


def test_claims_of_the_predecessor_bear_its_name() -> None:
    register = claims.register()
    assert register["P-3"].source == register["P-3"].paper.predecessor == "Brock, De & Smith 2021"
    assert register["F2-a"].source == register["F2-a"].paper.short == "Brock et al. 2021"
    for claim in register.values():
        named = "predecessor" in claim.place and not claim.place.startswith("abstract")
        assert (claim.source == claim.paper.predecessor != "") == named, claim.id


@pytest.mark.parametrize("claim", claims.register().values(), ids=lambda c: c.id)
def test_every_claim_is_complete(claim: Claim) -> None:
    assert claim.statement
    assert claim.place
    assert claim.quoted
    assert {q.seen for q in claim.quoted} <= set(SEEN)
    assert all(isinstance(q.value, str) for q in claim.quoted)
    assert (BOOK / f"{claim.chapter}.ipynb").is_file()
    assert claim in claims.of_chapter(claim.chapter)
    if claim.experiment is not None:
        assert claim.chapter == experiments.get(claim.experiment).chapter
    assert (claim.experiment is None) == (not isinstance(claim.rule, Trained))


@pytest.mark.parametrize(
    "claim", [c for c in claims.register().values() if c.experiment], ids=lambda c: c.id
)
def test_every_arm_of_a_rule_is_run_by_some_profile(claim: Claim) -> None:
    """A misspelt network or policy would otherwise never be missed."""
    assert isinstance(claim.rule, Trained)
    assert claim.experiment is not None
    experiment = experiments.get(claim.experiment)
    for profile in claim.rule.profiles:
        specs = experiment.specs(profile, seeds=1)
        for arm in claim.arms:
            found = [spec for spec in specs if arm.matches(spec)]
            if not isinstance(claim.rule, Level):
                assert len(found) <= 1, "a seed must mean one run of an arm"
            if profile == "quick" and arm.called:
                assert len(found) == 1, "an arm that has a name is one arm of the grid"
    every = [spec for profile in claim.rule.profiles for spec in experiment.specs(profile)]
    for arm in claim.arms:
        assert any(arm.matches(spec) for spec in every), arm


def test_unknown_claim_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'PAR-1'"):
        claims.get("PAR1")


def test_recalled_numbers_are_refused() -> None:
    assert Quoted("direction only", "recalled").seen == "recalled"
    with pytest.raises(ValueError, match="value is '82 %', which is only recalled"):
        Quoted("82 %", "recalled")


def test_every_claim_gets_a_verdict_without_records() -> None:
    register = claims.register().values()
    found = {claim.id: judge(claim, []).verdict for claim in register}
    assert found["PAR-1"] == "counts agree"
    for claim in register:
        if claim.rule is None:
            assert found[claim.id] == "cited only"
        elif not isinstance(claim.rule, Check | Counts):
            assert found[claim.id] == "not run", claim.id
        else:
            assert TONE[found[claim.id]] in ("yes", "no", "open"), claim.id
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
    ours, theirs = (Arm({}, called=f"ResNet-32, {what}") for what in ("γ and β", "two weights"))
    assert comparison(ours, theirs) == "γ and β over two weights (ResNet-32)"


def test_effects_and_their_intervals() -> None:
    low, high = [0.38, 0.39, 0.385], [0.42, 0.44, 0.425]
    found = records(
        {("cifar_resnet14", "batchnorm"): low[::-1], ("cifar_resnet32", "batchnorm"): high}
    )
    result = verdict("ACC-20", found)
    (finding,) = result.findings
    assert finding.label == comparison(arm("cifar_resnet32"), arm("cifar_resnet14"))
    assert finding.n == (3, 3)
    assert finding.effect == pytest.approx(np.mean(high) - np.mean(low))
    assert (finding.low, finding.high) == pytest.approx(paired(low, high).interval)
    assert finding.answer == "yes"
    assert result.scale == "quick: 8 epochs on cifar10"
    assert "+4.3 points [" in str(finding)
    assert finding.test == "Student, paired by seed"
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
    assert f"not run: {', '.join(result.missing)}" == result.note


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


def test_runs_of_two_precisions_are_named() -> None:
    """A network trained in float32 differs by up to a point from one trained in bfloat16."""
    made = records(QUICK)
    for number, run in enumerate(made):
        run.provenance["precision"] = "bfloat16" if number else "float32"
    assert "in bfloat16 and some in float32" in verdict("ACC-20", made).note
    made[0].provenance["precision"] = "bfloat16"
    assert "float32" not in verdict("ACC-20", made).note


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
    assert result.note == "needs the full profile on CIFAR-10"


def test_level_of_each_network() -> None:
    accuracies = by_depth(0.48, 0.58)
    result = verdict("ACC-19", records(accuracies))
    assert [f.label for f in result.findings] == [
        label(arm("cifar_resnet14")),
        label(arm("cifar_resnet32")),
    ]
    assert result.verdict == "reproduced at reduced scale"
    assert [f.unit for f in result.findings] == ["%", "%"]
    accuracies["cifar_resnet32", "batchnorm"] = around(0.25)
    assert verdict("ACC-19", records(accuracies)).verdict == "contradicted"


def test_level_of_all_runs_together_before_training() -> None:
    result = verdict("ACC-7", records(by_depth(0.48, 0.58), untrained=0.102))
    (finding,) = result.findings
    assert finding.n == (6,)
    assert finding.effect == pytest.approx(0.102)
    assert result.verdict == "reproduced at reduced scale"
    assert verdict("ACC-7", records(by_depth(0.48), untrained=0.2)).verdict == "contradicted"


def test_networks_before_training_count_once_however_long_they_were_trained_then() -> None:
    claim = claims.get("ACC-7")
    quick = records(QUICK, untrained=0.102)
    (only,) = judge_all(claim, quick + records(by_depth(0.48), "full", untrained=0.102))
    assert (only.profile, only.findings[0].n) == ("quick", (12,))
    # all of these and ResNet-218
    (only,) = judge_all(claim, quick + records(RISING, "full", untrained=0.102))
    assert (only.profile, only.findings[0].n) == ("full", (15,))
    assert len(judge_all(claims.get("ACC-19"), quick + records(RISING, "full"))) == 2


@pytest.mark.parametrize("claim", ["ACC-7", "ACC-19"])
def test_level_over_fewer_networks_than_the_profile_has(claim: str) -> None:
    every = {key: around(0.5) for key in FULL if key[1] == "batchnorm"}
    assert verdict(claim, records(every, "full")).verdict == "reproduced"
    del every["cifar_resnet14x8", "batchnorm"]
    result = verdict(claim, records(every, "full"))
    assert result.verdict == "reproduced at reduced scale"
    assert result.note == "not run: ResNet-14 ×8"


def test_what_clamping_costs_is_a_difference_and_so_in_points() -> None:
    spec = experiments.get("what_gamma_learns").specs("quick", seeds=1)[0]
    costs = (0.001, 0.002, 0.003)
    found = [
        dataclasses.replace(
            record(spec.replace(seed=seed), 0.3), metrics={"test_accuracy": 0.3, "clamp_loss": cost}
        )
        for seed, cost in enumerate(costs)
    ]
    (finding,) = verdict("GB-7", found).findings
    assert finding.numbers == "+0.2 points [-0.0, +0.4]"


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


@pytest.mark.parametrize(("seeds", "scale"), [(1, "quick"), (2, "quick"), (3, "full")])
def test_a_better_scale_decides_from_three_seeds_on(seeds: int, scale: str) -> None:
    quick = records({FOURTEEN: around(0.4)}, "quick")
    full = records({FOURTEEN: around(0.5)[:seeds]}, "full")
    assert judge(leveled(times_chance=Bounds(3, math.inf)), [*quick, *full]).profile == scale


# --- which data ----------------------------------------------------------------------------------


def leveled(**rule: Any) -> Claim:
    """A claim about the accuracy of ResNet-14 with only BatchNorm trained."""
    arm = Arm({"model": "cifar_resnet14", "train": "batchnorm"}, value=rule.pop("value", None))
    level = Level((arm,), "test_accuracy", "each network", **rule)
    return dataclasses.replace(claims.get("ACC-19"), rule=level)


FOURTEEN = ("cifar_resnet14", "batchnorm")


def test_other_data_never_outrank_the_papers() -> None:
    """Not even at a larger scale."""
    theirs = records({FOURTEEN: around(0.4)}, "quick", "cifar10-jpeg")
    other = records({FOURTEEN: around(0.04)}, "full", "cifar100")
    claim = leveled(times_chance=Bounds(3, math.inf))
    first, second = judge_all(claim, [*other, *theirs])
    assert first == judge(claim, theirs) == judge(claim, [*other, *theirs])
    assert first.scale.endswith("on cifar10-jpeg")
    assert second.scale == "full: 160 epochs on cifar100"
    assert judge(claim, other) == judge_all(claim, other)[0]
    assert judge(claim, other).scale == second.scale, "better than nothing"


def test_times_chance_is_chance_of_the_data() -> None:
    claim = leveled(times_chance=Bounds(3, math.inf))
    for dataset, accuracy, expected in (
        ("cifar10", 0.31, "reproduced at reduced scale"),
        ("cifar10", 0.29, "contradicted"),
        ("cifar100", 0.031, "reproduced at reduced scale"),
        ("cifar100", 0.029, "contradicted"),
        ("a-folder", 0.9, "not run"),  # of how many classes is not known
    ):
        found = records({FOURTEEN: around(accuracy)}, "quick", dataset)
        assert judge(claim, found).verdict == expected, (dataset, accuracy)


def test_absolute_accuracies_are_cifar10s() -> None:
    claim = leveled(between=Bounds(0.3, 1))
    other = records({FOURTEEN: around(0.04)}, "full", "cifar100")
    (row,) = judge_all(claim, other)
    assert (row.verdict, row.note) == ("not run", "no records yet")
    small = records({FOURTEEN: around(0.04)}, "quick", "cifar10-16px")
    assert judge(claim, small).verdict == "not run"
    theirs = records({FOURTEEN: around(0.4)})
    assert judge_all(claim, [*other, *small, *theirs]) == judge_all(claim, theirs)


def test_small_forms_are_rows_of_their_own() -> None:
    theirs = records(by_depth(0.3, 0.4))
    small = records(by_depth(0.4, 0.3), "full", "cifar10-16px")
    first, second = judge_all(claims.get("ACC-20"), [*small, *theirs])
    assert TONE[first.verdict] == "yes"
    assert second.scale == "full: 160 epochs on cifar10-16px"


def of_data(found: list[Record], fingerprint: str) -> list[Record]:
    """The same runs on the data with this fingerprint."""
    return [dataclasses.replace(r, provenance={"data_fingerprint": fingerprint}) for r in found]


def reseeded(found: list[Record], first: int) -> list[Record]:
    return [dataclasses.replace(r, spec=r.spec.replace(seed=r.spec.seed + first)) for r in found]


def test_runs_on_different_data_of_one_name_are_never_pooled() -> None:
    """Rising on three seeds, falling on three others: pooled they would say nothing."""
    claim = claims.get("ACC-20")
    known = card("cifar10-jpeg").fingerprint
    assert known
    rising = of_data(records(by_depth(0.3, 0.4), dataset="cifar10-jpeg"), known)
    falling = of_data(reseeded(records(by_depth(0.4, 0.3), dataset="cifar10-jpeg"), 10), "other")
    more = of_data(reseeded(records(by_depth(0.4, 0.3), dataset="cifar10-jpeg"), 20), "other")
    first, second = judge_all(claim, [*falling, *more, *rising])
    assert first.verdict == "reproduced at reduced scale"
    assert set(first.records) == {r.spec.hash for r in rising}, "the card knows them"
    assert first.scale == "quick: 8 epochs on cifar10-jpeg"
    assert "not counted: 12 runs on other data of the same name" in first.note
    assert second.verdict == "contradicted"
    assert set(second.records) == {r.spec.hash for r in (*falling, *more)}
    assert second.scale == (
        "quick: 8 epochs on cifar10-jpeg, not the data meant by that name (fingerprint other)"
    )
    quick = scales.of_scale([*falling, *rising], "training_only_batchnorm", "quick", "cifar10")
    assert quick == []
    for found in ([*falling, *rising], [*rising, *falling]):
        counted = scales.of_scale(found, "training_only_batchnorm", "quick", "cifar10-jpeg")
        assert counted == rising, "pages draw what counts"


def test_where_the_card_knows_nothing_most_records_count() -> None:
    claim = leveled(between=Bounds(0.3, 1))
    many = of_data(records({FOURTEEN: around(0.4)}), "a")
    few = of_data(reseeded(records({FOURTEEN: around(0.1)}), 10)[:2], "b")
    (row,) = judge_all(claim, [*few, *many])  # absolute accuracies: others are no row
    assert row.verdict == "reproduced at reduced scale"
    assert set(row.records) == {r.spec.hash for r in many}
    first, second = judge_all(leveled(times_chance=Bounds(3, math.inf)), [*few, *many])
    assert [first.verdict, second.verdict] == ["reproduced at reduced scale", "contradicted"]
    assert second.scale.endswith("(fingerprint b)")


def test_other_data_than_the_card_knows_are_named() -> None:
    """They count if there are no others; another decoder may have read the same files."""
    found = of_data(records(by_depth(0.3, 0.4), dataset="cifar10-jpeg"), "other")
    (row,) = judge_all(claims.get("ACC-20"), found)
    assert row.verdict == "reproduced at reduced scale"
    assert row.scale.endswith("not the data meant by that name (fingerprint other)")


def test_small_images_by_design_are_no_row_of_their_own() -> None:
    claim = claims.get("F2-d")
    assert claim.experiment
    spec = next(
        s
        for s in experiments.get(claim.experiment).specs("quick", "cifar10-jpeg", seeds=1)
        if claim.arms[0].matches(s)
    )
    other = next(
        s
        for s in experiments.get(claim.experiment).specs("quick", "cifar10-jpeg", seeds=1)
        if claim.arms[1].matches(s)
    )
    found = [record(s.replace(seed=i), 0.4 + i / 100) for s in (spec, other) for i in range(3)]
    (row,) = judge_all(claim, found)
    assert row.scale == "quick: 6 epochs on cifar10-jpeg-16px"


# --- published values ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "dataset", "accuracy", "expected"),
    [
        ("full", "cifar10", 0.48, "consistent"),
        ("full", "cifar10-jpeg", 0.48, "consistent"),
        ("full", "cifar10", 0.44, "differs"),
        ("full", "cifar10", 0.46, "open"),
        ("quick", "cifar10", 0.48, ""),  # another schedule promises no such value
    ],
)
def test_values_are_asked_of_the_whole_recipe(
    profile: str, dataset: str, accuracy: float, expected: str
) -> None:
    claim = leveled(between=Bounds(0.3, 1), value=Value(0.48, 0.02))
    result = judge(claim, records({FOURTEEN: around(accuracy)}, profile, dataset))
    assert result.value == expected
    assert TONE[result.verdict] == "yes"
    assert ("the value is not" in result.note) == (expected == "differs")


def test_differences_of_published_values() -> None:
    low, high = (
        Arm({"model": model, "train": "batchnorm"}, value=Value(published, 0.01))
        for model, published in (("cifar_resnet14", 0.48), ("cifar_resnet32", 0.58))
    )
    claim = dataclasses.replace(claims.get("ACC-20"), rule=Ordered(rising=(low, high)))
    for accuracies, direction, value in (
        ((0.38, 0.48), "yes", "consistent"),
        ((0.38, 0.43), "yes", "differs"),
        ((0.48, 0.38), "no", "differs"),
    ):
        result = judge(claim, records(by_depth(*accuracies), "full"))
        assert (TONE[result.verdict], result.value) == (direction, value)
    assert result.findings[0].published == "+10.0 ± 2.0 points"


def test_a_level_may_be_a_value() -> None:
    claim = leveled(value=Value(0.48, 0.02), profiles=("full",))
    for accuracy, expected in ((0.48, "reproduced"), (0.44, "contradicted")):
        result = judge(claim, records({FOURTEEN: around(accuracy)}, "full"))
        assert result.verdict == expected
    assert judge(claim, records({FOURTEEN: around(0.48)}, "quick")).verdict == "not run"


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


def test_diverged_runs_are_failures_whatever_accuracy_they_ended_at() -> None:
    arm = {("cifar_resnet32", "batchnorm"): [0.45] * 5}
    found = [
        *records({("cifar_resnet14", "batchnorm"): around(0.4) * 2}),
        *records(arm, status="diverged"),
    ]
    result = verdict("ACC-20", found)
    assert "5 of 11 runs failed (diverged, or below twice chance)" in result.note
    (finding,) = result.findings
    assert finding.numbers == "0 of 5 survive, against 6 of 6, at 40.0 %"
    assert result.verdict == "contradicted"
    three = [r for r in found if r.spec.seed < 3]
    assert verdict("ACC-20", three).verdict == "inconclusive"
    assert "tested from 5 seeds per arm on" in verdict("ACC-20", three).note


@pytest.mark.parametrize(
    ("dataset", "accuracy", "status", "expected"),
    [
        ("cifar10", 0.19, "completed", True),
        ("cifar10", 0.2, "completed", False),
        ("cifar10", 0.9, "diverged", True),
        ("cifar100", 0.03, "completed", False),
        ("cifar100", 0.01, "completed", True),
        ("a-folder", 0.001, "completed", False),  # of how many classes is not known
        ("a-folder", 0.001, "diverged", True),
    ],
)
def test_failed(dataset: str, accuracy: float, status: str, expected: bool) -> None:
    spec = Spec(model="cifar_resnet14", dataset=dataset)
    assert outcomes.failed(record(spec, accuracy, status)) == expected


def test_weakest_finding_speaks_for_the_claim() -> None:
    result = verdict("ACC-20", records(by_depth(0.38, 0.45, 0.46, 0.60)))
    weakest = comparison(arm("cifar_resnet56"), arm("cifar_resnet32"))
    assert result.ours.startswith(f"{weakest}: +1.0 points [")
    assert result.ours.endswith("; 2 more at least as clear")


# --- bounds of a difference, and experiments that stand in ---------------------------------------


def clipped(
    chosen: Claim, low: Sequence[float], high: Sequence[float], profile: str = "quick"
) -> Verdict:
    """The verdict on a claim of one pair, whose two arms ended at these accuracies."""
    assert chosen.experiment
    grid = experiments.get(chosen.experiment).specs(profile, seeds=1)
    found = []
    for arm, accuracies in zip(chosen.arms[:2], (low, high), strict=False):
        spec = next(spec for spec in grid if arm.matches(spec))
        found += [record(spec.replace(seed=seed), a) for seed, a in enumerate(accuracies)]
    return judge(chosen, found)


def bounded(low: float, high: float) -> Claim:
    """F2-d, whose difference must lie between these bounds."""
    claim = claims.get("F2-d")
    assert isinstance(claim.rule, Ordered)
    return dataclasses.replace(
        claim, rule=dataclasses.replace(claim.rule, between=Bounds(low, high))
    )


@pytest.mark.parametrize(
    ("bounds", "high", "expected"),
    [
        ((0, math.inf), 0.41, "reproduced at reduced scale"),
        ((0, math.inf), 0.39, "contradicted"),
        ((-0.01, math.inf), 0.395, "reproduced at reduced scale"),  # at most a point worse
        ((-0.01, math.inf), 0.38, "contradicted"),
        ((-0.005, 0.005), 0.401, "reproduced at reduced scale"),  # half a point either way
        ((-0.005, 0.005), 0.42, "contradicted"),
        ((-0.005, 0.005), 0.38, "contradicted"),
    ],
)
def test_bounds_of_a_difference(bounds: tuple[float, float], high: float, expected: str) -> None:
    verdict = clipped(bounded(*bounds), around(0.40, 0.0005), around(high, 0.0005)[::-1])
    assert verdict.verdict == expected


def test_a_pair_may_have_bounds_of_its_own() -> None:
    claim = bounded(0, math.inf)
    assert isinstance(claim.rule, Ordered)
    pair = dataclasses.replace(claim.rule.pairs[0], between=Bounds(0.1, math.inf))
    claim = dataclasses.replace(claim, rule=dataclasses.replace(claim.rule, pairs=(pair,)))
    assert clipped(claim, around(0.25), around(0.4)).verdict == "reproduced at reduced scale"
    assert clipped(claim, around(0.35), around(0.4)).verdict == "contradicted"


def test_what_stands_in_for_imagenet_is_never_more_than_reduced() -> None:
    verdict = clipped(claims.get("F2-d"), around(0.4), around(0.5), "full")
    assert verdict.verdict == "reproduced at reduced scale"


# --- failures ------------------------------------------------------------------------------------


def failing(share: float | None = None) -> Claim:
    """A claim about failures of the two arms of F2-d, or about the survival of the first."""
    claim = claims.get("F2-d")
    assert isinstance(claim.rule, Ordered)
    (pair,) = claim.rule.pairs
    rule = Failures((pair,)) if share is None else Failures(survives=(pair.low,), share=share)
    return dataclasses.replace(claim, rule=rule)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        ([0.1] * 5, [0.4] * 5, "reproduced at reduced scale"),
        ([0.4] * 5, [0.1] * 5, "contradicted"),
        ([0.1] * 3, [0.4] * 3, "inconclusive"),
        ([0.4] * 5, [0.4] * 5, "inconclusive"),
    ],
)
def test_pairs_of_failures(low: list[float], high: list[float], expected: str) -> None:
    result = clipped(failing(), low, high)
    assert result.verdict == expected
    (finding,) = result.findings
    assert finding.label == "layer by layer at rate 1.6 fails more often than unit by unit"


@pytest.mark.parametrize(
    ("low", "share", "expected"),
    [
        ([0.4] * 5, 0.5, "reproduced at reduced scale"),
        ([0.4] * 5, 0.9, "inconclusive"),
        ([0.1] * 5, 0.5, "contradicted"),
    ],
)
def test_survival(low: list[float], share: float, expected: str) -> None:
    result = clipped(failing(share), low, [])
    assert result.verdict == expected
    assert str(result.findings[0]).startswith("layer by layer at rate 1.6: ")


def test_what_is_ordered_may_have_to_survive() -> None:
    claim = claims.get("F2-d")
    assert isinstance(claim.rule, Ordered)
    rule = dataclasses.replace(claim.rule, survives=(claim.rule.pairs[0].low,))
    claim = dataclasses.replace(claim, rule=rule)
    assert clipped(claim, [0.3] * 5, [0.4] * 5).verdict == "reproduced at reduced scale"
    assert clipped(claim, [0.3] * 4, [0.4] * 4).verdict == "inconclusive"
    assert clipped(claim, [0.1] * 5, [0.4] * 5).verdict == "contradicted"


# --- many comparisons ----------------------------------------------------------------------------


def test_the_answers_of_a_paper_are_corrected_together() -> None:
    """One and the same pair of arms, alone or beside other networks of the same paper."""
    low, high = [0.400, 0.402, 0.404], [0.430, 0.434, 0.442]
    pair = records(
        {("cifar_resnet14", "batchnorm"): low[::-1], ("cifar_resnet14x2", "batchnorm"): high}
    )
    alone = verdict("ACC-21", pair)
    assert alone.verdict == "reproduced at reduced scale"
    crowd = {(s.model, s.train): around(0.4, 0.05) for s in STUDY.specs("quick", seeds=1)}
    del crowd["cifar_resnet14", "batchnorm"], crowd["cifar_resnet14x2", "batchnorm"]
    del crowd["cifar_resnet14x4", "batchnorm"]
    crowded = verdict("ACC-21", [*pair, *records(crowd)])
    assert crowded.verdict == "inconclusive"
    assert crowded.single == alone.verdict
    assert "reproduced at reduced scale before the correction for" in crowded.note
    (one,), (other,) = alone.findings, crowded.findings
    assert one.p == other.p
    assert one.corrected < 0.05 <= other.corrected
    assert other.family > one.family


def test_papers_are_corrected_apart() -> None:
    ours = records(by_depth(0.3, 0.4))
    theirs = [
        record(s.replace(seed=seed), 0.4 + 0.01 * seed)
        for s in experiments.get("nf_resnets").specs("quick", seeds=1)
        for seed in range(3)
    ]
    assert verdict("ACC-20", [*ours, *theirs]) == verdict("ACC-20", ours)


def test_records_that_are_added_to_the_same_list_count() -> None:
    found = records(by_depth(0.3, 0.4))
    assert len(verdict("ACC-20", found).findings) == 1
    found += records({("cifar_resnet56", "batchnorm"): around(0.5)})
    assert len(verdict("ACC-20", found).findings) == 2


def test_seeds_that_would_settle_a_claim() -> None:
    result = verdict("ACC-20", records(by_depth(0.40, 0.41, spread=0.02)))
    assert result.verdict == "inconclusive"
    (finding,) = result.findings
    assert result.seeds_needed == finding.seeds_needed
    assert result.seeds_needed is not None
    assert result.seeds_needed > 3
    assert verdict("ACC-20", records(by_depth(0.3, 0.4))).seeds_needed is None


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


def test_a_ratio_of_sizes_is_exact_and_has_no_interval() -> None:
    (of_times,) = judge(faster(), [], [timing(1.2, 1.5, on_gpu=False)]).findings
    (of_sizes,) = judge(faster(), [], [timing(1.5, 1.5, on_gpu=False)]).findings
    assert (of_times.numbers, of_sizes.numbers) == ("×1.35 [1.20, 1.50]", "×1.50")


def test_a_gpu_speaks_before_a_cpu() -> None:
    cpu, gpu = timing(1.2, 1.5, on_gpu=False), timing(0.8, 0.9, on_gpu=True)
    assert judge(faster(), [], [cpu, gpu]).verdict == "contradicted"


def test_cases_of_measured_claims_are_those_of_the_benchmark() -> None:
    """Of one that is recorded its rows say so, of another its script."""
    recorded: dict[str, set[str]] = {}
    for benchmark in timings.read(BOOK.parent / "results"):
        recorded.setdefault(benchmark.name, set()).update(benchmark.rows)
    for claim in claims.register().values():
        if isinstance(claim.rule, Measured):
            name = claim.rule.benchmark
            script = (BOOK.parent / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
            for case in claim.rule.cases:
                sides = all(side in script for side in case.split(" over "))
                assert case in recorded.get(name, ()) or sides, case


# --- checks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"share": 0.5, "wrong": 0}, "implementation verified"),
        ({"share": 0.4, "wrong": 0}, "implementation verified"),  # ends belong to the bounds
        ({"share": 0.39, "wrong": 0}, "implementation differs"),
        ({"share": 0.5, "wrong": 1}, "implementation differs"),
        ({"share": math.nan, "wrong": 0}, "implementation differs"),
    ],
)
def test_the_bounds_of_a_check_decide(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, float], expected: str
) -> None:
    points = {name: checks.Computed.of([value]) for name, value in values.items()}
    found = checks.Summary(points, "as computed")
    monkeypatch.setattr(checks, "outcome", lambda name: found)
    bounds = {"wrong": Bounds(0, 0), "share": Bounds(0.4, math.inf)}
    rule = Check("agc_formula", bounds, "verified")
    result = judge(dataclasses.replace(claims.get("M-13"), rule=rule), [])
    assert (result.verdict, result.note) == (expected, "as computed")


@pytest.mark.parametrize(
    ("evidence", "by", "holds", "expected"),
    [
        ("measured", "paper", True, "reproduced"),
        ("measured", "paper", False, "contradicted"),
        ("measured", "paper", None, "inconclusive"),
        ("measured", "ours", True, "found here"),
        ("verified", "paper", None, "inconclusive"),
        ("measured", "ours", False, "not found here"),
        ("counted", "paper", True, "counts agree"),
        ("counted", "paper", False, "counts differ"),
        ("arithmetic", "paper", True, "consistent as printed"),
        ("arithmetic", "ours", False, "inconsistent as printed"),
        ("verified", "ours", True, "implementation verified"),
        ("verified", "paper", False, "implementation differs"),
    ],
)
def test_what_a_check_can_say(
    evidence: Literal["measured", "counted", "arithmetic", "verified"],
    by: str,
    holds: bool | None,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only what was trained or measured reproduces a claim of somebody else's."""
    ends = {True: (0.0, 0.0), False: (1.0, 1.0), None: (0.0, 1.0)}[holds]
    found = checks.Summary({"wrong": checks.Computed(0.5, *ends, 10)}, "")
    monkeypatch.setattr(checks, "outcome", lambda name: found)
    rule = Check("agc_formula", {"wrong": Bounds(0, 0)}, evidence)
    assert judge(dataclasses.replace(claims.get("M-13"), rule=rule, by=by), []).verdict == expected


def test_our_own_findings_are_never_reproduced() -> None:
    ours = dataclasses.replace(claims.get("ACC-20"), by="ours")
    assert judge(ours, records(by_depth(0.3, 0.4))).verdict == "found here"
    assert judge(ours, records(by_depth(0.4, 0.3))).verdict == "not found here"
    assert judge(ours, records(by_depth(0.3))).verdict == "not run"


def test_every_verdict_has_a_tone_and_what_surprises_leads() -> None:
    assert tuple(TONE) == VERDICTS
    tones = list(dict.fromkeys(TONE.values()))
    assert tones == ["no", "open", "yes", "none"]
    assert sorted(TONE.values(), key=tones.index) == list(TONE.values())


def test_what_a_cited_claim_needs_is_its_note() -> None:
    cited = dataclasses.replace(claims.get("ACC-1"), needs="ImageNet, and a year")
    result = judge(cited, [])
    assert (result.verdict, result.note) == ("cited only", "ImageNet, and a year")


def test_bounds_of_another_value_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    found = checks.Summary({"share": checks.Computed.of([0.5])}, "")
    monkeypatch.setattr(checks, "outcome", lambda name: found)
    rule = Check("agc_formula", {"shre": Bounds(0, 1)}, "verified")
    message = "M-13: agc_formula: the check computes share; its rule has bounds for shre"
    with pytest.raises(ValueError, match=message):
        judge(dataclasses.replace(claims.get("M-13"), rule=rule), [])


# --- counts --------------------------------------------------------------------------------------


def judge_printed(monkeypatch: pytest.MonkeyPatch, **changes: list[str]) -> Verdict:
    """The verdict on PAR-1 if these counts were printed, and ResNet-14's as they are."""
    table = printed("bn_only")["counts"]
    texts = {"cifar_resnet14": list(table.rows["cifar_resnet14"].values())} | changes
    rows = {model: dict(zip(table.columns, texts[model], strict=True)) for model in texts}
    changed = dataclasses.replace(table, rows=rows)
    monkeypatch.setattr(verdicts, "printed", lambda paper: {"counts": changed})
    return judge(claims.get("PAR-1"), [])


def test_the_printed_counts_are_right() -> None:
    result = judge(claims.get("PAR-1"), [])
    assert result.verdict == "counts agree"
    assert "all 52 printed counts agree" in result.note


def test_one_printed_count_of_the_imagenet_networks_is_a_slip() -> None:
    result = judge(claims.get("PAR-1-imagenet"), [])
    assert result.verdict == "counts differ"
    slip = "19 of 20 printed counts agree; ImageNet ResNet-101 all: 44,549,160, printed 44.6M"
    assert result.note.startswith(slip)
    outputs = result.values["ImageNet ResNet-50 output"]
    assert outputs.mean == 2_049_000  # of a thousand classes


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
def test_another_printed_count_contradicts(
    group: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["175K", "1.12K", "650", "2.56K"]
    assert judge_printed(monkeypatch, cifar_resnet14=texts).verdict == "counts agree"
    texts[group] = text
    result = judge_printed(monkeypatch, cifar_resnet14=texts)
    assert result.verdict == "counts differ"
    assert f"printed {text}" in result.note


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("696K", "counts agree"),  # 696,618, cut off
        ("697K", "counts agree"),  # rounded
        ("698K", "counts differ"),
        ("695K", "counts differ"),
        ("0.70M", "counts agree"),
        ("0.69M", "counts agree"),
        ("0.71M", "counts differ"),
    ],
)
def test_printed_counts_may_be_rounded_or_cut_off(
    text: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [text, "2.24K", "1.29K", "10.2K"]
    assert judge_printed(monkeypatch, cifar_resnet14x2=texts).verdict == expected

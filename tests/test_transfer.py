"""Chapter 7: every arm of its figures is run once, and its table says what parents reached."""

from dataclasses import replace
from types import ModuleType

import pytest

from nbrepro import experiments
from nbrepro.book import chapter, transfer
from nbrepro.claims.rules import matches
from nbrepro.experiments import fine_tuning_back, fine_tuning_split
from nbrepro.records.ledger import Record
from nbrepro.spec import Spec

QUICK = experiments.get("fine_tuning").specs("quick", "cifar10-jpeg", seeds=2)
FIRST = [spec for spec in QUICK if spec.seed == 0]
WHOLE = [spec for spec in FIRST if spec.train == "all"]


def record(spec: Spec, accuracy: float, before: float = 0.1) -> Record:
    row = {"epoch": 0, "step": 0, "test_accuracy": before}
    last = {"epoch": spec.epochs, "step": 9, "test_accuracy": accuracy}
    metrics = {"test_accuracy": accuracy, "test_top5": 0.9}
    return Record(spec, "completed", metrics, [row, last], {})


@pytest.mark.parametrize(
    ("specs", "arms"),
    [
        (FIRST, transfer.trained()),
        (WHOLE, transfer.clipped()),
        (WHOLE, transfer.starts()),
    ],
)
def test_every_arm_of_a_figure_is_run_once(
    specs: list[Spec], arms: dict[str, transfer.Settings]
) -> None:
    for name, settings in arms.items():
        assert sum(matches(spec, settings) for spec in specs) == 1, name


@pytest.mark.parametrize("module", [fine_tuning_back, fine_tuning_split])
def test_every_arm_on_other_data_is_run_once(module: ModuleType) -> None:
    specs = module.EXPERIMENT.specs("quick", "cifar10-jpeg", seeds=1)
    arms = transfer.elsewhere(module.DATA, module.RATES)
    for name, settings in arms.items():
        assert sum(matches(spec, settings) for spec in specs) == 1, name
    assert all(any(matches(spec, settings) for settings in arms.values()) for spec in specs)
    runs = [record(spec, 0.4 if spec.pretrained else 0.3) for spec in specs]
    runs += [record(r.spec.replace(seed=1), r.metrics["test_accuracy"]) for r in runs]
    shown = transfer.pairs_table({"a to b": (runs, arms), "not run": ([], arms)}).data
    assert "+10.0" in shown
    assert "no records yet" in shown


def test_other_data_than_cifar10_stay_where_they_are() -> None:
    back = fine_tuning_back.EXPERIMENT.specs("quick", "cifar10-jpeg", seeds=1)
    assert {spec.dataset for spec in back} == {"tiny-imagenet-50@16"}
    assert {spec.pretrained for spec in back} == {"", "cifar10-jpeg-16px:5"}
    split = fine_tuning_split.EXPERIMENT
    assert split.specs("quick", "cifar10-jpeg") == split.specs("quick")


def test_every_run_on_few_images_is_in_the_figure() -> None:
    few = experiments.get("few_images").specs("quick", "cifar10-jpeg", seeds=1)
    arms = [
        (n, settings)
        for twin in transfer.TWINS
        for by in transfer.by_images(twin).values()
        for n, settings in by.items()
    ]
    for n, settings in arms:
        assert [matches(spec, settings) for spec in (*few, *FIRST)].count(True) == 1, (n, settings)
    assert all(sum(matches(spec, settings) for _, settings in arms) == 1 for spec in few)


def test_the_figure_of_few_images_has_a_line_for_each_way() -> None:
    few = experiments.get("few_images").specs("quick", "cifar10-jpeg", seeds=2)
    runs = [record(spec, 0.3 + 0.05 * spec.seed) for spec in (*few, *QUICK)]
    for twin in transfer.TWINS:
        told = transfer.images_figure(runs, twin).alt
        assert "training images per class" in told
        for way in transfer.by_images(twin):
            assert way in told
    assert "+0.0" in transfer.images_table(runs).data
    assert "No records yet" in transfer.images_figure([], "with BatchNorm").alt
    assert "no records yet" in transfer.images_table([]).data


def test_what_the_figures_of_few_images_show_in_words() -> None:
    """Made up: pre-training leads by 4, 6 and 8 points, everything the output layer by -1, 1, 3."""
    few = experiments.get("few_images").specs("quick", "cifar10-jpeg", seeds=2)
    lead = {10: 0.04, 100: 0.06, transfer.MANY: 0.08}

    def end(spec: Spec) -> float:
        _, _, many = spec.dataset.partition("-few")
        if not spec.pretrained:
            return 0.3 - lead[int(many or transfer.MANY)]
        output = 0.05 - lead[int(many or transfer.MANY)]
        return 0.3 + (output if spec.train == "output" else 0)

    runs = [record(spec, end(spec)) for spec in (*few, *QUICK)]
    for twin in transfer.TWINS:
        assert transfer.images_takeaway(runs, twin) == (
            "At 10, 100 and 1,000 images per class pre-training leads training from scratch by "
            "+4.0, +6.0 and +8.0 points, and training everything leads the output layer alone by "
            "-1.0, +1.0 and +3.0."
        )
    told = transfer.images_text(runs).data
    assert "by most at 1,000 images per class without BatchNorm (+8.0)" in told
    assert "in neither twin" in told
    assert told.endswith(
        "By those, the output layer alone is ahead of everything at 10 images per class in both "
        "twins; everything is ahead of the output layer alone at 100 and 1,000 images per class "
        "in both twins."
    )
    lead = {10: 0.04, 100: 0.03, transfer.MANY: 0.02}
    told = transfer.images_text([record(spec, end(spec)) for spec in (*few, *QUICK)]).data
    assert "it grows steadily without BatchNorm and with BatchNorm." in told
    assert "By those, the output layer alone is ahead of everything at 10, 100 and 1,000" in told
    assert transfer.images_takeaway([], "with BatchNorm") == ""
    assert "No records yet" in transfer.images_text([]).data


def test_an_interval_that_holds_zero_is_open_whatever_its_mean() -> None:
    def end(spec: Spec) -> float:
        strays = 0.1 * spec.seed if spec.model.startswith("bn_") else 0.0
        return 0.3 + (strays if spec.train == "all" and spec.pretrained else 0.0)

    few = experiments.get("few_images").specs("quick", "cifar10-jpeg", seeds=2)
    told = transfer.images_text([record(spec, end(spec)) for spec in (*few, *QUICK)]).data
    assert told.endswith(
        "By those, whether everything or the output layer alone is ahead is open at 10, 100 and "
        "1,000 images per class in both twins."
    )


def test_what_other_pairs_of_data_show_in_words() -> None:
    def runs(output: float) -> list[Record]:
        return [record(s, output if s.train == "output" else 0.4) for s in specs]

    specs = fine_tuning_back.EXPERIMENT.specs("quick", "cifar10-jpeg", seeds=2)
    arms = transfer.elsewhere(fine_tuning_back.DATA, fine_tuning_back.RATES)
    assert transfer.pair_takeaway(runs(0.3), arms) == (
        "Training everything adds 10.0 points without BatchNorm and 10.0 points with BatchNorm "
        "to the output layer alone."
    )
    pairs = {"a to b": (runs(0.3), arms), "b to c": (runs(0.35), arms)}
    told = transfer.pairs_text(pairs).data
    assert "on *b to c* without BatchNorm, where everything leads by +5.0 points" in told
    assert "*a to b*" not in told
    assert transfer.pair_takeaway([], arms) == ""
    assert "No records yet" in transfer.pairs_text({"a to b": ([], arms)}).data
    lost = [record(s, 0.01) if s.clip == "none" and s.lr == 0.8 else record(s, 0.4) for s in specs]
    told = transfer.without_agc({"first": (runs(0.3), arms), "second": (lost, arms)}).data
    assert "rate of 0.8 without AGC, on other data, 2 of 2 (first) and 0 of 2 (second)" in told


def test_twins_share_everything_but_what_makes_them_twins() -> None:
    """The rates of the whole networks are their own; the start is one data set for all."""
    assert {spec.pretrained for spec in QUICK} == {"", "tiny-imagenet-50@16:5"}
    shared = ("dataset", "epochs", "batch_size", "schedule", "weight_decay", "augmentation")
    assert len({tuple(getattr(spec, name) for name in shared) for spec in QUICK}) == 1
    parents = {spec.parent for spec in QUICK if spec.parent is not None}
    assert len(parents) == 4  # two twins, two seeds


@pytest.mark.parametrize("profile", ["smoke", "quick", "full"])
def test_every_profile_pretrains_on_other_images(profile: str) -> None:
    specs = experiments.get("fine_tuning").specs(profile, seeds=1)
    started = [spec for spec in specs if spec.parent is not None]
    assert {spec.model[:3] for spec in started} == {"cif", "bn_"}
    assert any(spec.parent is None for spec in specs)


def test_on_the_data_of_pretraining_only_training_from_scratch_is_left() -> None:
    """A ledger that holds parents has their data sets as scales, for which grids are asked."""
    experiment = experiments.get("fine_tuning")
    specs = experiment.specs("full", "tiny-imagenet-50@32", seeds=1)
    scratch = [spec for spec in experiment.specs("full", seeds=1) if not spec.pretrained]
    assert {spec.pretrained for spec in specs} == {""}
    assert len(specs) == len(scratch)


def test_what_is_known_before_the_first_step() -> None:
    started = [spec for spec in FIRST if spec.pretrained]
    scratch = next(spec for spec in FIRST if not spec.pretrained)
    runs = [record(started[0], 0.5, 0.1), record(started[1], 0.6, 0.2), record(scratch, 0.3, 0.9)]
    assert transfer.begun(runs) == pytest.approx(0.15)
    assert transfer.begun([replace(runs[0])]) == pytest.approx(0.1)


def test_the_table_of_parents_counts_each_once() -> None:
    evidence = [record(spec, 0.4) for spec in QUICK]
    parents = {spec.parent for spec in QUICK} - {None}
    reached = {"cifar_nf_resnet8": (0.15, 0.17), "bn_cifar_nf_resnet8": (0.21, 0.25)}
    stored = [record(p, reached[p.model][p.seed]) for p in parents if p is not None]
    other = record(stored[0].spec.replace(epochs=99), 0.99)
    shown = transfer.parents(evidence, [*evidence, *stored, other]).data
    assert "16.0" in shown
    assert "23.0" in shown
    assert "99" not in shown
    assert "25,000 training images" in shown
    assert "Guessing gets 2 %" in shown


def test_before_the_first_run_the_table_is_empty() -> None:
    assert "Guessing" not in transfer.parents([], []).data


def test_runs_on_their_own_data_hide_none_that_began_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From scratch on Tiny ImageNet belongs to every CIFAR-10, the rest to the one it began on."""
    specs = fine_tuning_back.EXPERIMENT.specs("quick", "cifar10-jpeg", seeds=2)
    runs = [record(spec, 0.3) for spec in specs]
    scales = [record(QUICK[0].replace(dataset=f"cifar10{form}"), 0.3) for form in ("", "-jpeg")]
    monkeypatch.setattr(chapter, "recorded", lambda: [*scales, *runs])
    page = chapter.Chapter("07_fine_tuning", "quick", "cifar10", 1)
    assert page.evidence("fine_tuning_back") == runs


def test_which_data_a_run_began_on_is_a_matter_of_the_runs() -> None:
    spec = fine_tuning_back.EXPERIMENT.specs("quick", "cifar10-jpeg")[0]
    assert matches(spec, {"pretrained": "cifar10-16px:5"})
    assert not matches(spec, {"pretrained": "cifar10-16px:6"})
    assert not matches(spec, {"pretrained": "cifar10:5"})
    assert not matches(spec, {"pretrained": ""})
    assert not matches(spec.replace(pretrained=""), {"pretrained": "cifar10-16px:5"})

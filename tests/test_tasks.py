"""Tasks that share a random network: what each adds, in bytes, and what the figures ask for."""

import subprocess
import sys
from typing import Any

import pytest
import torch

from nbrepro import experiments
from nbrepro.book import tasks
from nbrepro.book.chapter import Chapter
from nbrepro.claims import checks, scales
from nbrepro.claims.bn_only import tasks as module
from nbrepro.claims.bn_only.tasks import own
from nbrepro.claims.rules import matches
from nbrepro.data import card, cards
from nbrepro.experiments import many_classes
from nbrepro.records.ledger import Record
from nbrepro.spec import Spec
from nbrepro.train.assembly import initial_model


def test_bytes_that_a_task_adds() -> None:
    """ResNet-14 has 560 channels; a linear layer of five classes on 64 features has 325 numbers."""
    statistics = 2 * 560
    assert tasks.added("cifar_resnet14", "output", 5) == 8 + 4 * (325 + statistics)
    assert tasks.added("cifar_resnet14", "batchnorm", 5) == 8 + 4 * (2 * 560 + statistics)
    assert tasks.added("cifar_resnet14", "batchnorm+output", 10) == 8 + 4 * (
        2 * 560 + 650 + statistics
    )


def test_the_table_of_bytes_says_what_every_row_includes() -> None:
    """ResNet-14: two running statistics of 560 channels, four bytes each, and eight of a seed."""
    assert tasks.always("cifar_resnet14") == 8 + 4 * 2 * 560
    assert "4.5 kB of running statistics and the seed" in str(tasks.storage_table().data)


def test_what_a_task_stores_is_as_large_as_said() -> None:
    spec = Spec(model="cifar_resnet14", train="batchnorm+output", dataset="cifar10-classes0to4")
    stored = own(initial_model(spec, 5), spec.train)
    numbers = sum(value.numel() for value in stored.values() if value.is_floating_point())
    assert tasks.size(spec) == 8 + 4 * numbers


@pytest.mark.parametrize("dataset", ["cifar10", "cifar10-jpeg"])
def test_every_arm_of_the_figure_is_run_on_every_data_set(dataset: str) -> None:
    specs = experiments.get("many_tasks").specs("quick", dataset, 1)
    for settings in tasks.arms().values():
        assert sum(matches(spec, settings) for spec in specs) == 1


def test_a_data_set_of_an_arm_is_a_part_of_any_data_set() -> None:
    spec = Spec(model="cifar_resnet14", dataset="birds@32-classes0to4-16px")
    assert matches(spec, {"dataset": "cifar10-classes0to4-16px"})
    assert not matches(spec, {"dataset": "cifar10-classes0to4"})
    assert not matches(spec, {"dataset": "cifar10-classes5to9-16px"})
    assert not matches(spec, {"dataset": "cifar10-16px"})
    assert matches(spec.replace(dataset="cifar10"), {"dataset": "cifar10"})


def test_other_classes_are_another_draw() -> None:
    """As the page warns: networks of one seed share weights only if they have as many outputs."""
    spec = Spec(model="cifar_resnet14", seed=3)
    five, also_five, ten = (initial_model(spec, classes).state_dict() for classes in (5, 5, 10))
    assert torch.equal(five["conv.weight"], also_five["conv.weight"])
    assert not torch.equal(five["conv.weight"], ten["conv.weight"])


def test_the_check_sees_a_backbone_that_moved(monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(module, "_OWN", "all")
    everything = checks.registry()["one_backbone"].run()
    assert everything.values["swapped"] == 0  # whole networks can take turns, too

    monkeypatch.setattr(module, "_OWN", "batchnorm+output")
    monkeypatch.setattr(module, "own", lambda model, _: own(model, "output"))
    forgetful = checks.registry()["one_backbone"].run()
    assert forgetful.values["shared"] > 0
    assert forgetful.values["swapped"] > 0


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_fifty_classes_and_ten_are_trained_alike(profile: str) -> None:
    """As many images of each class, each seen for its share of as many images in all."""
    assert torch.equal(*(torch.tensor(seen) for seen in _seen(profile)))
    few, many = card(many_classes.FEW), card(many_classes.MANY)
    assert (few.classes, many.classes) == (10, 50)
    assert few.train_images * 5 == many.train_images


def _seen(profile: str) -> list[list[int]]:
    """Images that the arms see in training: those with fifty classes, those with ten."""
    specs = experiments.get("many_classes").specs(profile, seeds=1)
    return [
        [spec.epochs * (card(name).train_images or 0) for spec in specs if spec.dataset == name]
        for name in (many_classes.MANY, many_classes.FEW)
    ]


def test_no_other_data_stand_in_for_fifty_classes() -> None:
    experiment = experiments.get("many_classes")
    assert experiment.specs("quick", "cifar10-jpeg") == experiment.specs("quick")
    assert not set(experiment.specs("smoke")) & set(experiment.specs("quick"))


def test_tasks_of_other_images_have_the_network_of_the_others() -> None:
    names = ("many_tasks", "distant_tasks")
    near, far = (experiments.get(name).specs("quick", "cifar10-jpeg", 1) for name in names)
    assert {card(spec.dataset).classes for spec in (*near, *far)} == {5}
    assert not {spec.dataset for spec in near} & {spec.dataset for spec in far}
    settings = ("model", "weight_init", "batchnorm_init", "seed")  # what a network is drawn from
    assert len({tuple(getattr(spec, name) for name in settings) for spec in (*near, *far)}) == 1


@pytest.mark.parametrize(
    ("name", "arms"),
    [("many_classes", tasks.class_arms()), ("distant_tasks", tasks.distant_arms())],
)
def test_every_arm_of_the_figures_is_run_once(name: str, arms: dict[str, dict[str, Any]]) -> None:
    specs = experiments.get(name).specs("quick", seeds=1)
    assert len(arms) == len(specs)
    for settings in arms.values():
        assert sum(matches(spec, settings) for spec in specs) == 1


def test_a_chapter_of_two_experiments_shows_the_one_it_is_asked_for() -> None:
    chapter = Chapter("11_one_network_many_tasks", "smoke", "cifar10", 1)
    for name in ("many_tasks", "distant_tasks", "many_classes"):
        arms = {spec.replace(seed=0) for spec in experiments.get(name).specs("quick", seeds=1)}
        data = {cards.parse(arm.dataset)[1:] for arm in arms}
        assert {cards.parse(run.spec.dataset)[1:] for run in chapter.evidence(name)} <= data


def test_the_check_draws_what_a_run_draws() -> None:
    spec = Spec(model="cifar_resnet14", seed=3)
    ours, theirs = module._draw(5).state_dict(), initial_model(spec, 5).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_checks_bring_no_training_along() -> None:
    """A page or a command that only judges need not import Accelerate."""
    code = "import sys; from nbrepro.claims.checks import registry; registry(); "
    code += "assert 'accelerate' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_task_is_no_data_set_for_the_claims_of_other_experiments() -> None:
    """Chapter 10 once had its claims judged again on each half of the classes."""
    names = ("cifar10-jpeg-classes0to4-16px", "tiny-imagenet-50@16-classes0to9", "cifar10")
    records = [
        Record(Spec(model="cifar_resnet14", dataset=name), "completed", {}, [], {})
        for name in names
    ]
    found = {name for _, name in scales.scales(records)}
    assert found == {
        "cifar10-jpeg-16px", "cifar10-jpeg", "tiny-imagenet-50@16", "cifar10",
    }  # fmt: skip

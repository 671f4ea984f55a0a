"""Tasks that share a random network: what each adds, in bytes, and what the figures ask for."""

import pytest
import torch

from nbrepro import experiments
from nbrepro.book import tasks
from nbrepro.claims import checks
from nbrepro.claims.bn_only.tasks import own
from nbrepro.claims.rules import matches
from nbrepro.spec import Spec
from nbrepro.train.loop import initial_model


def test_bytes_that_a_task_adds() -> None:
    """ResNet-14 has 560 channels; a linear layer of five classes on 64 features has 325 numbers."""
    statistics = 2 * 560
    assert tasks.added("cifar_resnet14", "output", 5) == 8 + 4 * (325 + statistics)
    assert tasks.added("cifar_resnet14", "batchnorm", 5) == 8 + 4 * (2 * 560 + statistics)
    assert tasks.added("cifar_resnet14", "batchnorm+output", 10) == 8 + 4 * (
        2 * 560 + 650 + statistics
    )


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
    from nbrepro.claims.bn_only import tasks as module

    monkeypatch.setattr(module, "_OWN", "all")
    everything = checks.registry()["one_backbone"].run()
    assert everything.values["swapped"] == 0  # whole networks can take turns, too

    monkeypatch.setattr(module, "_OWN", "batchnorm+output")
    monkeypatch.setattr(module, "own", lambda model, _: own(model, "output"))
    forgetful = checks.registry()["one_backbone"].run()
    assert forgetful.values["shared"] > 0
    assert forgetful.values["swapped"] > 0

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nbrepro import experiments
from nbrepro.spec import Spec

GOOD = """
from nbrepro.experiments.experiment import Experiment
from nbrepro.spec import Spec

EXPERIMENT = Experiment(
    name={name!r},
    chapter={chapter!r},
    title="",
    arms=lambda profile: [Spec(model="cifar_resnet8")],
    seeds={{"smoke": 1, "quick": 1, "full": 1}},
)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """An empty package of experiments."""
    name = f"grids_{tmp_path.name}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield import_module(name)
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        del sys.modules[module]


def _write(package: ModuleType, file: str, text: str) -> None:
    Path(package.__path__[0], file).write_text(text)


def test_experiments_stand_in_the_order_of_the_book() -> None:
    chapters = [experiment.chapter for experiment in experiments.REGISTRY.values()]
    assert chapters == sorted(chapters)
    names = list(experiments.REGISTRY)
    assert names.index("nf_resnets") < names.index("adaptive_gradient_clipping")
    assert {"depth", "small_batches", "training_only_batchnorm", "precision"} <= set(names)


def test_modules_are_found_and_not_listed(package: ModuleType) -> None:
    _write(package, "a.py", GOOD.format(name="second", chapter="05_b"))
    _write(package, "b.py", GOOD.format(name="first", chapter="04_a"))
    _write(package, "_helper.py", "raise AssertionError('not an experiment')")
    found = experiments.find(package)
    assert list(found) == ["first", "second"]
    assert found["first"].chapter == "04_a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module", r"c\.py cannot be imported: No module named 'no_such_module'"),
        ("def f(:", r"c\.py cannot be imported: invalid syntax"),
        ("", r"c\.py has no EXPERIMENT = Experiment\(\.\.\.\)"),
        ("EXPERIMENT = 'grid'", r"c\.py has no EXPERIMENT = Experiment\(\.\.\.\)"),
        (GOOD.format(name="first", chapter="06_c"), r"c\.py and .*a\.py both have an experiment"),
    ],
)
def test_an_unfit_module_names_its_file(package: ModuleType, text: str, message: str) -> None:
    _write(package, "a.py", GOOD.format(name="first", chapter="04_a"))
    _write(package, "c.py", text)
    with pytest.raises(experiments.BrokenExperiment, match=message):
        experiments.find(package)


def test_a_profile_without_seeds_names_the_experiment() -> None:
    slip = experiments.Experiment("slip", "04_a", "A slip", lambda _: [], {"quick": 1})
    with pytest.raises(experiments.BrokenExperiment, match="'slip' has no seeds for full"):
        slip.specs("full")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"modle": "cifar_resnet14"},
            "'slip' cannot list its quick runs: .*'modle'",
        ),
        ({"model": "cifar_resnt14"}, "'slip' cannot list its quick runs: .*cifar_resnet14"),
    ],
)
def test_a_slip_in_an_arm_names_the_experiment(settings: dict[str, Any], message: str) -> None:
    slip = experiments.Experiment(
        "slip", "04_a", "A slip", lambda _: [Spec(**settings)], {"smoke": 1, "quick": 1, "full": 1}
    )
    with pytest.raises(experiments.BrokenExperiment, match=message):
        slip.specs("quick")

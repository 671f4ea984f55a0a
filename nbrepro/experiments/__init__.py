"""Experiments: named grids of specs, one module per chapter, discovered by name."""

import pkgutil
import sys
from importlib import import_module
from types import ModuleType

from nbrepro._suggest import unknown
from nbrepro.experiments.experiment import PROFILES, BrokenExperiment, Experiment

__all__ = ["PROFILES", "REGISTRY", "BrokenExperiment", "Experiment", "find", "get", "select"]


def find(package: ModuleType) -> dict[str, Experiment]:
    """The ``EXPERIMENT`` of every module in ``package``, by name; in the order of the book.

    Modules that experiments share (``experiment``, and names that begin with an underscore) are
    skipped.

    Raises:
        BrokenExperiment: for a module that cannot be imported or has no ``EXPERIMENT``, or if two
            experiments have the same name; it names the file.
    """
    files: dict[str, str] = {}
    found: list[Experiment] = []
    for info in pkgutil.iter_modules(package.__path__):
        if info.name == "experiment" or info.name.startswith("_"):
            continue
        file = f"{package.__path__[0]}/{info.name}.py"
        try:
            module = import_module(f"{package.__name__}.{info.name}")
        except Exception as error:  # a module may raise anything
            raise BrokenExperiment(f"{file} cannot be imported: {error}") from error
        experiment = getattr(module, "EXPERIMENT", None)
        if not isinstance(experiment, Experiment):
            raise BrokenExperiment(
                f"{file} has no EXPERIMENT = Experiment(...); if it is not an experiment, begin "
                "its name with an underscore"
            )
        if experiment.name in files:
            raise BrokenExperiment(
                f"{file} and {files[experiment.name]} both have an experiment called "
                f"{experiment.name!r}; rename one"
            )
        files[experiment.name] = file
        found.append(experiment)
    return {e.name: e for e in sorted(found, key=lambda e: (e.chapter, e.name))}


def get(name: str) -> Experiment:
    """The experiment called ``name``.

    Raises:
        ValueError: naming the nearest one.
    """
    if name not in REGISTRY:
        raise ValueError(unknown("experiment", name, REGISTRY))
    return REGISTRY[name]


def select(name: str) -> list[Experiment]:
    """Experiments by experiment name, chapter name, or ``all``.

    Raises:
        ValueError: naming the nearest name.
    """
    if name not in names():
        raise ValueError(unknown("experiment or chapter", name, names()))
    return [e for e in REGISTRY.values() if name in ("all", e.name, e.chapter)]


def names() -> list[str]:
    """Everything :func:`select` knows."""
    return [*REGISTRY, *dict.fromkeys(e.chapter for e in REGISTRY.values()), "all"]


#: Every experiment by name, those of the first chapter first.
REGISTRY = find(sys.modules[__name__])

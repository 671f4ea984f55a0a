"""Experiments: named grids of specs, one module a chapter."""

from nbrepro._suggest import unknown
from nbrepro.experiments import (
    adaptive_gradient_clipping,
    nf_resnets,
    precision,
    training_only_batchnorm,
)
from nbrepro.experiments.experiment import PROFILES, Experiment

__all__ = ["PROFILES", "REGISTRY", "Experiment", "get", "select"]

REGISTRY: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (nf_resnets, adaptive_gradient_clipping, training_only_batchnorm, precision)
}


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

"""Sweeps: what is missing and in which order, and running it, here or on dask workers.

Nothing here imports torch before a run is to be done.
"""

from nbrepro.sweep.one import Left, run_one
from nbrepro.sweep.options import SweepOptions
from nbrepro.sweep.plan import (
    Planned,
    accepted,
    cost,
    estimate,
    most_informative,
    plan,
    settles,
    unsettled,
)
from nbrepro.sweep.run import run

__all__ = [
    "Left",
    "Planned",
    "SweepOptions",
    "accepted",
    "cost",
    "estimate",
    "most_informative",
    "plan",
    "run",
    "run_one",
    "settles",
    "unsettled",
]

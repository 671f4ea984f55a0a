"""What chapter 3 asks of the records, and what it computes live."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from nbrepro.book.figures import Arms, runs_of
from nbrepro.book.figures.runs import ends
from nbrepro.claims.nfnets import smoothness
from nbrepro.experiments import largest_rates
from nbrepro.experiments.adaptive_gradient_clipping import FREE
from nbrepro.records.ledger import Record

if TYPE_CHECKING:
    from nbrepro.claims.nfnets.smoothness import Along

BN, NF = "bn_cifar_nf_resnet8", "cifar_nf_resnet8"
#: Chapter 3's three ways to hold a network, by readers' names.
HELD: Arms = {
    "BatchNorm": {"model": BN, "ghost_batch": 0},
    "normalizer-free": {"model": NF, "clip": "none"},
    "AGC": {"model": NF, "clip": "agc", "unclipped": FREE},
}
#: Rates of the steps along a gradient.
RATES = tuple(0.05 * 2 ** (n / 2) for n in range(11))


def at_batch(size: int) -> Arms:
    """The three ways at one batch size."""
    return {name: {**arm, "batch_size": size} for name, arm in HELD.items()}


def every_rate() -> Arms:
    """The three ways at both batch sizes."""
    return {
        f"{name}, {size}": {**arm, "batch_size": size}
        for size in sorted(largest_rates.RATES)
        for name, arm in HELD.items()
    }


def ghosts() -> Arms:
    """How many of 256 images BatchNorm's statistics see, and a network without it."""
    seen = {"16 of 256 images": 16, "64 of 256": 64, "all 256": 0}
    arms = {name: {"model": BN, "ghost_batch": size} for name, size in seen.items()}
    return {**arms, "normalizer-free": {"model": NF, "clip": "none"}}


def largest_stable(records: Sequence[Record], size: int) -> dict[str, float | None]:
    """The largest rate at which most runs train.

    Args:
        records: the runs.
        size: of the batch.

    Returns:
        Way to hold a network → rate, ``None`` if it trains at none; ways that were not run are left
        out.
    """
    found: dict[str, float | None] = {}
    for name, arm in at_batch(size).items():
        if cells := ends(runs_of(records, arm), "lr"):
            stable = [rate for rate, cell in cells.items() if 2 * len(cell.survivors) > cell.n]
            found[name] = max(stable, default=None)
    return found


def one_step(steps: int, seed: int = 0) -> "dict[str, Along]":
    """Loss and gradient along the gradient, after so many steps on handwritten digits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return smoothness.compared(steps, RATES)

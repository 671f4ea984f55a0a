"""What the chapter on normalizer-free ResNets measures live and compares.

The five networks whose signal is followed, and the twins of its figures.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from nbrepro import models, probes
from nbrepro.book import figures
from nbrepro.experiments.nf_resnets import BN, NF

if TYPE_CHECKING:
    from nbrepro.records.ledger import Record

#: Reader's name → the settings of the runs it stands for.
Arms = dict[str, dict[str, Any]]

#: The twins of this chapter, as the papers build them.
TWINS: Arms = {
    "BatchNorm": {"model": BN, "skip_init": True},
    "normalizer-free": {"model": NF, "skip_init": True},
}
_FREE = {"alpha": 1.0, "skip_gain": None}
#: Network → prefix of its name in the library, and options.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("plain_", {}),
    "BN → ReLU": ("bn_", {"order": "bn-relu"}),
    "ReLU → BN": ("bn_", {"order": "relu-bn"}),
    "NF without WS": ("", _FREE | {"standardize": False}),
    "NF with WS": ("", _FREE),
}


def signals(padding_mode: str = "circular") -> dict[str, Sequence[Any]]:
    """How the signal of Gaussian noise fares in each of :data:`NETWORKS`, block by block.

    24 residual blocks in three stages, with α = 1, so that the normalizer-free networks can be
    compared with those that have BatchNorm, and without SkipInit, which the theory leaves out.

    Args:
        padding_mode: of all convolutions; zeros at the border distort the picture.
    """
    found: dict[str, Sequence[Any]] = {}
    for name, (prefix, options) in NETWORKS.items():
        torch.manual_seed(0)
        model = models.create(f"{prefix}cifar_nf_resnet74bx2", padding_mode=padding_mode, **options)
        found[name] = probes.signal_propagation(model, torch.randn(16, 3, 16, 16))
    return found


def schedules(records: Sequence["Record"]) -> dict[str, Arms]:
    """Batch, epochs and rate → the twins that were trained so."""
    return {
        f"batch {size}, {epochs} epochs, rate {rate:g}": {
            name: arm | {"batch_size": size, "epochs": epochs, "lr": rate}
            for name, arm in TWINS.items()
        }
        for (size, epochs, rate), _ in figures.schedules(records, *TWINS.values())
    }


def all_arms(records: Sequence["Record"]) -> Arms:
    """Every arm of :func:`schedules`, each normalizer-free one with that without SkipInit."""
    arms: Arms = {}
    for case, twins in schedules(records).items():
        for name, arm in twins.items():
            arms[f"{case}: {name}"] = arm
            short = name.replace("normalizer-free", "NF")
            arms[f"{case}: {short} without SkipInit"] = arm | {"skip_init": False}
    return arms


def variances(gamma: float, count: int) -> list[float]:
    """Variance of a signal behind 1, 2, ... ``count`` SiLUs, from a variance of one on.

    Each is multiplied by ``gamma`` and followed by standardized weights, which pass its variance on
    and take away its mean.
    """
    x, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(80))
    weights = weights / weights.sum()
    found, variance = [], 1.0
    for _ in range(count):
        behind = gamma * F.silu(math.sqrt(variance) * x)
        mean = weights @ behind
        variance = float(weights @ (behind - mean).square())
        found.append(variance)
    return found

"""What chapter 1 measures live, and how it sorts the runs of different depth."""

from collections.abc import Sequence
from typing import Any

import torch

from nbrepro import models
from nbrepro.book.figures import Arms
from nbrepro.claims.rules import matches
from nbrepro.experiments.depth import NETWORKS, RIVAL_RATES, SHORT, SMALLER_RATES
from nbrepro.models.nf_resnet import NFResNet
from nbrepro.probes import BlockSignal, signal_propagation
from nbrepro.records.ledger import Record


def branch_shares(blocks: int = 200, channels: int = 64) -> list[float]:
    """A branch's share of the variance behind its block, from the first block to the last.

    Of one untrained stage of bottleneck blocks whose branches have BatchNorm behind ReLU, for eight
    images of noise; convolutions are padded circularly.
    """
    torch.manual_seed(0)
    model = NFResNet(
        (blocks,),
        (channels,),
        10,
        stem_channels=channels,
        images="cifar",
        kind="bn",
        order="relu-bn",
        padding_mode="circular",
    )
    rows = signal_propagation(model, torch.randn(8, 3, 8, 8))
    return [row["branch_variance"] / row["variance"] for row in rows]


def plain_signal(depth: int) -> list[BlockSignal]:
    """The signal behind each block of an untrained plain network, for 16 images of noise."""
    torch.manual_seed(0)
    model = models.create(f"plain_cifar_nf_resnet{depth}", padding_mode="circular")
    return signal_propagation(model, torch.randn(16, 3, 16, 16))


def by_depth(records: Sequence[Record]) -> dict[str, dict[int, list[Record]]]:
    """Kind of network → layers → its runs at the rate that all kinds have."""
    found: dict[str, dict[int, list[Record]]] = {}
    for name, prefix in NETWORKS.items():
        for run in records:
            spec = run.spec
            if spec.model.startswith(f"{prefix}cifar_nf_resnet") and matches(spec, SHORT):
                found.setdefault(name, {}).setdefault(models.size(spec.model).depth, []).append(run)
    return {name: dict(sorted(by.items())) for name, by in found.items()}


def at_smaller_rates() -> Arms:
    """Networks of 56 layers: plain at every rate that it was given, and two that train."""
    plain = {
        f"plain, rate {rate:g}": {**_short("plain_", 56), "lr": rate}
        for rate in (SHORT["lr"], *SMALLER_RATES)
    }
    others = {name: _short(NETWORKS[name], 56) for name in ("SkipInit", "BatchNorm")}
    return plain | {f"{name}, rate {SHORT['lr']:g}": arm for name, arm in others.items()}


def rivals() -> Arms:
    """Networks of 20 layers with the longer schedule: SkipInit, GroupNorm, BatchNorm."""
    return {
        f"{name}, rate {rate:g}": {
            "model": f"{NETWORKS[name]}cifar_nf_resnet20",
            "batch_size": 256,
            "lr": rate,
        }
        for rate in RIVAL_RATES
        for name in ("BatchNorm", "GroupNorm", "SkipInit")
    }


def _short(prefix: str, depth: int) -> dict[str, Any]:
    return {"model": f"{prefix}cifar_nf_resnet{depth}", **SHORT}

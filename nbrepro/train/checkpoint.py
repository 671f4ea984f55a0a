"""Everything that a run changes, in one place, and the file that stores it between epochs."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nbrepro._files import replacing
from nbrepro.optim import EMA

log = logging.getLogger("nbrepro")

#: Stands for the first step with a loss that is not finite while there is none.
NEVER = torch.iinfo(torch.int64).max


class Sums(nn.Module):
    """What the steps of an epoch and of an evaluation add up, on the device.

    It is a module because buffers can be saved, and loaded in place.

    Attributes:
        trained: float64 ``[3]``, sums of what :func:`nbrepro.train.step.train_step` returns.
        tested: float64 ``[3]``, the same for :func:`nbrepro.train.step.evaluation_step`.
        first_bad: number of the first step whose loss was not finite, or :data:`NEVER`.
    """

    trained: Tensor
    tested: Tensor
    first_bad: Tensor

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("trained", torch.zeros(3, dtype=torch.float64, device=device))
        self.register_buffer("tested", torch.zeros(3, dtype=torch.float64, device=device))
        self._never = torch.tensor(NEVER, device=device)
        self.register_buffer("first_bad", self._never.clone())

    def add(self, measured: Tensor, number: int | Tensor) -> None:
        """Add what the training step ``number`` measured; its loss comes first."""
        self.trained += measured
        bad = torch.where(measured[0].isfinite(), self._never, number)
        torch.minimum(self.first_bad, bad, out=self.first_bad)


class _Trained:
    """A network without its frozen weights, which the seed draws again."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def state_dict(self) -> dict[str, Tensor]:
        frozen = {name for name, p in self.model.named_parameters() if not p.requires_grad}
        return {n: t for n, t in self.model.state_dict().items() if n not in frozen}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        whole = self.model.state_dict()  # with its metadata, which tells BatchNorm its version
        whole.update(state)
        self.model.load_state_dict(whole)


@dataclass
class State:
    """Everything that a run changes.

    Attributes:
        model: the bare network.
        optimizer: the optimizer with its momentum.
        average: the averaged weights, if the run keeps them.
        sums: sums over the epoch.
        curve: one row of measurements per epoch.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: EMA | None
    sums: Sums
    curve: list[dict[str, float]] = field(default_factory=list)

    def parts(self) -> dict[str, Any]:
        """The parts that hold tensors that a step changes; no other list of them exists."""
        parts = {
            "model": _Trained(self.model),
            "optimizer": self.optimizer,
            "average": self.average,
            "sums": self.sums,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def tensors(self) -> list[Tensor]:
        """Every tensor that a step changes; not copies."""
        return [t for part in self.parts().values() for t in _tensors(part.state_dict())]

    @property
    def diverged_at(self) -> int | None:
        """The first step with a loss that was not finite."""
        step = int(self.sums.first_bad)
        return None if step == NEVER else step

    def save(self, path: Path, owner: str) -> None:
        """Write the checkpoint atomically.

        Args:
            path: the file.
            owner: the hash of the run's spec.

        Raises:
            OSError: if it cannot be written; what was at ``path`` stays.
        """
        parts = {name: part.state_dict() for name, part in self.parts().items()}
        with replacing(path) as file:
            torch.save({"hash": owner, "curve": self.curve} | parts, file)

    def load(self, path: Path, owner: str) -> int:
        """Load a checkpoint, if there is an intact one of this run; return the finished epochs."""
        parts = self.parts()
        if not path.exists():
            return 0
        try:
            device = self.sums.first_bad.device
            saved = torch.load(path, map_location=device, weights_only=True)
            found, curve = saved.pop("hash"), saved.pop("curve")
            if found == owner and saved.keys() != parts.keys():
                raise ValueError(f"it holds {', '.join(saved)}, expected {', '.join(parts)}")
        except Exception as error:  # damage raises errors of many kinds; all mean the same
            log.warning("%s cannot be read (%r); starting from the beginning", path, error)
            return 0
        if found != owner:
            log.warning("%s belongs to another run; starting from the beginning", path)
            return 0
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        self.curve = curve
        return int(curve[-1]["epoch"])


def _tensors(state: object) -> Iterator[Tensor]:
    """The tensors in nested dictionaries and lists."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for item in state.values() if isinstance(state, dict) else state:
            yield from _tensors(item)

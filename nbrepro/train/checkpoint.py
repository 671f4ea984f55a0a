"""Everything that a run changes, in one place, and the file that stores it between epochs.

The file is a line with a digest of the rest, then what ``torch.save`` writes. It says what it is of
(:func:`identity`): a run goes on from it only if its data, its code and its content are the same.
"""

import hashlib
import io
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nbrepro._files import replacing
from nbrepro.data import Dataset, FileDataset
from nbrepro.optim import EMA
from nbrepro.spec import Spec
from nbrepro.train.device import can_compute

log = logging.getLogger("nbrepro")

#: Stands for the first step with a loss that is not finite while there is none.
NEVER = torch.iinfo(torch.int64).max

_HEADER = b"nbrepro checkpoint 2 "
#: What of a :class:`State` is stored beside its tensors.
_NOTED = ("curve", "how", "sessions", "seconds")
#: What a run computes with, below the package's folder.
_CODE = (
    *("_policy.py", "agc.py", "freezing.py", "layers.py", "spec.py"),
    *("data/*.py", "models/*.py", "optim/*.py", "train/*.py"),
)


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
    """A network without its frozen weights, which the seed draws, or its parent has, again."""

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
        how: ``precision`` and ``memory_format`` of the forward passes, as :func:`watched` saw them.
        sessions: where the epochs were computed, each place once in a row: device, threads and
            kind of step.
        seconds: that all sessions took up to the last whole epoch.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: EMA | None
    sums: Sums
    curve: list[dict[str, float]] = field(default_factory=list)
    how: dict[str, str] = field(default_factory=dict)
    sessions: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

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

    def add(self, row: dict[str, float], session: dict[str, Any]) -> None:
        """Add a row of measurements, and where they were made."""
        self.curve.append(row)
        if self.sessions[-1:] != [session]:
            self.sessions.append(session)

    @property
    def diverged_at(self) -> int | None:
        """The first step with a loss that was not finite."""
        step = int(self.sums.first_bad)
        return None if step == NEVER else step

    def save(self, path: Path, of: Mapping[str, Any]) -> None:
        """Write the checkpoint atomically.

        Args:
            path: the file.
            of: what it is of, from :func:`identity`.

        Raises:
            OSError: if it cannot be written; what was at ``path`` stays.
        """
        parts = {name: part.state_dict() for name, part in self.parts().items()}
        noted = {name: getattr(self, name) for name in _NOTED}
        content = io.BytesIO()
        torch.save({"of": dict(of), "parts": parts} | noted, content)
        with replacing(path) as file:
            file.write(_header(content.getbuffer()))
            file.write(content.getbuffer())

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up what :func:`read` returned."""
        for name, part in self.parts().items():
            part.load_state_dict(saved["parts"][name])
        for name in _NOTED:
            setattr(self, name, saved[name])


def identity(
    spec: Spec,
    dataset: Dataset | FileDataset,
    processes: int,
    start: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """What a checkpoint is of: all of it must be the same for a run to go on from it.

    Args:
        spec: the run.
        dataset: its data.
        processes: how many share it.
        start: the weights that it began with, if it was pre-trained.
    """
    began = {} if start is None else {"start": digest(start)}
    return began | {
        "run": spec.hash,
        "data": dataset.fingerprint,
        "classes": len(dataset.classes),
        "processes": processes,
        "torch": str(torch.__version__),
        "code": _code(),
    }


def read(path: Path, of: Mapping[str, Any], device: torch.device) -> dict[str, Any] | None:
    """The checkpoint of a run, if there is one that is sound and of just this run.

    Anything else is left where it is, with a warning that says what differs; the run then starts
    from the beginning and replaces it.

    Args:
        path: the file.
        of: what it must be of, from :func:`identity`.
        device: where the run goes on, and its tensors go.
    """
    if not path.exists():
        return None
    try:
        return _read(path, of, device)
    except _Refused as reason:
        log.warning("%s %s; starting from the beginning", path, reason)
        return None


class _Refused(Exception):
    """Why a checkpoint is not taken up."""


def _read(path: Path, of: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    try:
        whole = path.read_bytes()
    except OSError as error:
        raise _Refused(f"cannot be read ({error.strerror})") from error
    if not whole.startswith(_HEADER):
        raise _Refused("is no checkpoint of this version of nbrepro")
    end = len(_header(b""))
    if whole[:end] != _header(whole[end:]):
        raise _Refused("is damaged: its content does not match its digest")
    kind = device.type  # torch refuses cpu:0, as Accelerate calls it where processes share a run
    try:
        saved = torch.load(io.BytesIO(whole[end:]), map_location=kind, weights_only=True)
    except Exception as error:  # it is as it was written, so by a torch that we are not
        raise _Refused(f"cannot be read by this torch ({type(error).__name__})") from error
    differing = [
        f"{name}: {saved['of'].get(name)}, here {value}"
        for name, value in of.items()
        if saved["of"].get(name) != value
    ]
    if not differing and not can_compute(saved["how"]["precision"], device):
        differing.append(f"precision: {saved['how']['precision']}, which cannot be computed here")
    if differing:
        raise _Refused(
            f"is of another run ({'; '.join(differing)}; to go on from it, stop before the first "
            "epoch ends and restore what differs)"
        )
    return dict(saved)


def _header(content: bytes | memoryview) -> bytes:
    return _HEADER + hashlib.sha256(content).hexdigest().encode() + b"\n"


def digest(weights: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits that say whether two networks have the same weights, to the bit."""
    found = hashlib.sha256()
    for name, tensor in weights.items():
        found.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


@cache  # once: what is loaded is what counts, not what the files become while runs go on
def _code() -> str:
    """A digest of the modules that a run computes with."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _CODE for path in root.glob(pattern)):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _tensors(state: object) -> Iterator[Tensor]:
    """The tensors in nested dictionaries and lists."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for item in state.values() if isinstance(state, dict) else state:
            yield from _tensors(item)

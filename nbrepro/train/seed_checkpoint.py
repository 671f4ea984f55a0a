"""Networks stored as a seed and the trained parameters.

Where the frozen weights are a random draw, the file need not hold them: the seed draws them again.
What remains is small: the trained parameters and BatchNorm's running statistics. (Frankle, Schwab &
Morcos 2021 do not claim this; a published review suggests it, claim LIM-7.)

The draw is a function of the seed and of the torch build. The file carries a digest of the frozen
weights, so that a build that would draw others is detected, and one of itself, so that damage is.
"""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from nbrepro import freezing
from nbrepro._files import replacing
from nbrepro.spec import Spec
from nbrepro.train.assembly import initial_model

_FORMAT = "nbrepro seed checkpoint 2"
#: Stands for the file's digest where the digest is taken.
_BLANK = "0" * 64


class CheckpointError(Exception):
    """The file is damaged, or cannot be rebuilt here; the message says which."""


def save(model: nn.Module, spec: Spec, path: str | Path) -> int:
    """Store a trained network as its spec's seed plus what was trained.

    Args:
        model: trained as ``spec`` says, such as ``loop.train(spec, ...).model``.
        spec: the run.
        path: file to write atomically (safetensors format).

    Returns:
        The size of the file in bytes.

    Raises:
        CheckpointError: if a frozen weight of ``model`` is not the seed's draw.
    """
    path = Path(path)
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    classes = _classes(model)
    drawn, trained = _draw(spec, classes)
    for name, tensor in drawn.items():
        if not torch.equal(state[name], tensor):
            raise CheckpointError(
                f"{name} is frozen under train={spec.train} but is not what seed {spec.seed} draws"
            )
    header = {
        "format": _FORMAT,
        "spec": json.dumps(spec.to_dict()),
        "classes": str(classes),
        "frozen": _digest(drawn),
        "torch": str(torch.__version__),
        "digest": _BLANK,
    }
    stored = {name: state[name].contiguous() for name in trained}
    content = to_bytes(stored, metadata=header)
    digest = hashlib.sha256(content).hexdigest()
    with replacing(path) as file:
        file.write(content.replace(_BLANK.encode(), digest.encode(), 1))
    return path.stat().st_size


def load(path: str | Path) -> tuple[nn.Module, Spec]:
    """Rebuild a network, bit for bit the one that was stored.

    Returns:
        The network, on the CPU in evaluation mode, and its spec.

    Raises:
        CheckpointError: if the file is damaged or has another format, or if this torch build draws
            other frozen weights than the one that wrote it.
    """
    try:
        content = Path(path).read_bytes()
        stored, header = from_bytes(content), _header(content)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if header.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not a seed checkpoint of this version")
    digest = str(header.get("digest"))
    if hashlib.sha256(content.replace(digest.encode(), _BLANK.encode(), 1)).hexdigest() != digest:
        raise CheckpointError(f"{path} is damaged: its content does not match its digest")
    spec = Spec.from_dict(json.loads(header["spec"]))
    model = initial_model(spec, int(header["classes"]))
    drawn, trained = _draw(spec, int(header["classes"]))
    if _digest(drawn) != header["frozen"]:
        raise CheckpointError(
            f"{path}: torch {torch.__version__} draws other frozen weights from seed {spec.seed} "
            f"than torch {header['torch']}, which wrote it; rebuild it there"
        )
    if set(stored) != set(trained):
        raise CheckpointError(f"{path}: holds other tensors than train={spec.train} trains")
    model.load_state_dict(drawn | stored)
    return model.eval(), spec


def _draw(spec: Spec, classes: int) -> tuple[dict[str, Tensor], list[str]]:
    """The frozen tensors as the seed draws them, and the names of everything else in the state."""
    model = initial_model(spec, classes)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = freezing.freeze(model, spec.train, seed=spec.seed)
    frozen = {name for name, _ in model.named_parameters()} - set(report.names)
    return {n: t for n, t in state.items() if n in frozen}, [n for n in state if n not in frozen]


def _header(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file: its first eight bytes are the length of a JSON object."""
    length = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return metadata


def _classes(model: nn.Module) -> int:
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    return linear[-1].out_features


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()

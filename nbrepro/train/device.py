"""Where a run is computed: the accelerator, and a network prepared for its hardware."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

#: Environment variables by which Accelerate would replace the training step.
_REFUSED = (
    "ACCELERATE_DYNAMO_BACKEND",
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_USE_MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG",
)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices itself, without emulation."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def resolved(precision: str, device: torch.device) -> str:
    """``float32`` or ``bfloat16``; ``auto`` is the latter where the hardware has it."""
    if precision != "auto":
        return precision
    return "bfloat16" if has_bfloat16(device) else "float32"


def can_compute(precision: str, device: torch.device) -> bool:
    """Whether a run that began in this precision can go on here, slowly if need be."""
    if precision == "float32" or device.type == "cpu":
        return True
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=True)


def accelerator_for(device: str, track: str | None = None, logs: Path | None = None) -> Accelerator:
    """An ``Accelerator`` on ``auto``, ``cpu`` or ``cuda`` that changes no number of a run.

    The spec alone determines what a run computes. So precision and gradient accumulation are set
    here, whatever ``accelerate launch`` or the environment request, and anything that would replace
    the training step (a compiler, DeepSpeed, FSDP, Megatron-LM) is refused.

    Args:
        device: where to run.
        track: one of Accelerate's trackers, such as ``tensorboard``; off by default.
        logs: folder for a tracker that writes files.

    Raises:
        RuntimeError: if a GPU is requested and there is none, or if Accelerate chooses another
            device than the requested one.
        ValueError: for an unknown device, a tracker that is unknown or not installed, or an
            environment that would change what is computed.
    """
    if track is not None:
        installed = [str(t) for t in get_available_trackers()]
        if track not in installed:
            have = ", ".join(installed) or "none"
            raise ValueError(
                f"tracker {track!r} is not installed; pip install it. Installed: {have}"
            )
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {device!r}; expected auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("device='cuda' was requested, but this machine has no usable CUDA GPU")
    for name in _REFUSED:
        value = os.environ.get(name, "no")
        if value.lower() not in ("", "no", "false", "0"):
            raise ValueError(
                f"the environment has {name}={value}, which would change what a run computes "
                "without a trace in its record; unset it"
            )
    if "RANK" not in os.environ:
        # Accelerate keeps the first device for the whole process; every run may choose its own.
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        # Without a GPU and cpu=True, Accelerate would ignore torchrun's other processes.
        cpu=device == "cpu" or not torch.cuda.is_available(),
        mixed_precision="no",  # the spec's precision is our own autocast
        # A plugin, because the environment would override gradient_accumulation_steps=1.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        log_with=track,
        project_dir=logs,
    )
    if device != "auto" and accelerator.device.type != device:
        raise RuntimeError(
            f"device={device!r} was requested, but Accelerate chose {accelerator.device}"
        )
    return accelerator


@contextlib.contextmanager
def watched(model: nn.Module, seen: dict[str, str]) -> Iterator[None]:
    """Within the context, note how forward passes compute, as their tensors say.

    Args:
        model: the bare network; images come in, logits go out.
        seen: gets ``precision``, the logits' type, and ``memory_format``, that of the images.
    """

    def note(_: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        last = inputs[0].is_contiguous(memory_format=torch.channels_last)
        seen["precision"] = str(logits.dtype).removeprefix("torch.")
        seen["memory_format"] = "channels_last" if last else "contiguous"

    handle = model.register_forward_hook(note)
    try:
        yield
    finally:
        handle.remove()


def mask_seed(seed: int, epoch: int, process: int) -> int:
    """The seed of an epoch's dropout and stochastic depth.

    Every process draws its own, as every device does in the authors' code: with the same for all,
    an image would share its masks with those at its place in the other parts of the batch. (On a
    CPU torch reads the last 32 bits of a seed.)
    """
    if process == 0:
        return seed * 100_003 + epoch
    digest = hashlib.sha256(f"{seed}/{epoch}/process {process}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's own generators, for layers such as dropout; restore them afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def place(
    model: nn.Module, device: torch.device, *, bfloat16: bool
) -> tuple[nn.Module, Callable[[int], nn.Module]]:
    """Prepare a network for training: on the device, channels-last, no needless operations.

    Args:
        model: the network, already frozen as it will be trained.
        device: where it is trained.
        bfloat16: whether it runs under autocast to bfloat16.

    Returns:
        The network, and a function from the number of steps taken to the network as the user gets
        it: on the CPU, frozen weights as they were drawn, batches counted.
    """
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    uncounted = stop_counting_batches(model)
    rounded = round_frozen(model) if bfloat16 else {}

    def finished(steps: int) -> nn.Module:
        for weight, drawn in rounded.items():
            weight.data = drawn
        for layer in uncounted:
            layer.num_batches_tracked = torch.tensor(steps)
        network: nn.Module = model.cpu()
        return network

    return model, finished


def stop_counting_batches(model: nn.Module) -> list[_BatchNorm]:
    """Save one operation per BatchNorm layer and step: fixed momentum needs no counter."""
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.momentum is not None]
    for layer in layers:
        layer.num_batches_tracked = None
    return layers


def round_frozen(model: nn.Module) -> dict[nn.Parameter, Tensor]:
    """Store frozen convolution and linear weights in bfloat16; return them as they were drawn.

    Autocast would round the same weights in the same way in every step, so the results are equal
    bit for bit. (Scaled weight standardization reads its weights in float32; they stay.)
    """
    drawn = {}
    for module in model.modules():
        if type(module) in (nn.Conv2d, nn.Linear):
            for weight in module.parameters(recurse=False):
                if not weight.requires_grad:
                    drawn[weight] = weight.data
                    weight.data = weight.data.bfloat16()
    return drawn

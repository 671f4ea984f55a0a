"""Measurements inside residual networks: signal propagation, mean shift, what AGC clips where.

The statistics of arXiv 2101.08692 (section 3) as the authors' code takes them: at the output of
every residual block, and at the end of its residual branch, before stochastic depth, SkipInit, α
and the addition. Works on networks whose blocks are :class:`nbrepro.layers.ResidualBlock`, as all
of :mod:`nbrepro.models` are.

Measuring changes nothing: no gradient is recorded, running statistics and random generators are
restored and hooks removed, even after an error. The model is measured in its current mode; in
training mode BatchNorm uses the batch's statistics. Autocast is switched off.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nbrepro._suggest import unknown
from nbrepro.layers import ResidualBlock


class BlockSignal(TypedDict):
    """Statistics of one residual block.

    Attributes:
        block: number of the block, from 1.
        stage: number of its stage, from 1.
        squared_mean: mean over channels of the squared mean over N, H, W of the output.
        variance: mean over channels of the variance over N, H, W of the output.
        branch_variance: the same for the residual branch before it is scaled and added.
        expected_variance: that of the output by the variance rule; None where the rule does
            not apply.
    """

    block: int
    stage: int
    squared_mean: float
    variance: float
    branch_variance: float
    expected_variance: float | None


class MeanShift(TypedDict):
    """How alike different inputs have become.

    Attributes:
        ratio: after every block, squared channel mean over channel variance.
        cosine: after every block, mean cosine between the outputs of two examples.
        pooled_cosine: the same for the input of the last linear layer.
        common_label: share of the examples that get the most common label.
    """

    ratio: list[float]
    cosine: list[float]
    pooled_cosine: float
    common_label: float


class ClipShare(TypedDict):
    """What AGC did to one parameter.

    Attributes:
        name: name of the parameter.
        part: ``stem``, ``stage 1`` and so on, ``head`` (after the stages), ``fc`` (the last linear
            layer).
        share: clipped share of its units.
    """

    name: str
    part: str
    share: float


def signal_propagation(model: nn.Module, batch: Tensor) -> list[BlockSignal]:
    """Statistics of every residual block, in order (2101.08692, section 3 and figures 1 to 3).

    Every branch runs a second time, to be measured before it is scaled and added.

    Args:
        model: a network of residual blocks (see the top of this module), in any mode.
        batch: images ``[N, 3, H, W]``, such as ``torch.randn(16, 3, 32, 32)``.

    Raises:
        ValueError: if the model has no residual block.
    """
    rows: list[BlockSignal] = []

    def measure(stage: int, block: ResidualBlock, inputs: tuple[Tensor], output: Tensor) -> None:
        squared_mean, variance = _moments(output)
        rows.append(
            {
                "block": len(rows) + 1,
                "stage": stage,
                "squared_mean": squared_mean,
                "variance": variance,
                "branch_variance": _moments(block.residual(inputs[0]))[1],
                "expected_variance": block.expected_variance,
            }
        )

    stages = _stages(model)
    with _measuring(model, batch) as listen:
        for name, stage in stages.items():
            listen(model.get_submodule(name), partial(measure, stage))
        model(batch)
    return rows


def mean_shift(model: nn.Module, batch: Tensor) -> MeanShift:
    """How alike the network makes different inputs (2102.06171, section 2).

    Args:
        model: as in :func:`signal_propagation`.
        batch: at least two images ``[N, 3, H, W]``, preferably independent ones.

    Raises:
        ValueError: for a single image, or a model without residual blocks.
    """
    if len(batch) < 2:
        raise ValueError(f"the batch has {len(batch)} image; expected at least two to compare")
    stages = _stages(model)
    ratio: list[float] = []
    cosine: list[float] = []
    pooled: list[float] = []

    def compare(_: nn.Module, __: Any, output: Tensor) -> None:
        squared_mean, variance = _moments(output)
        ratio.append(squared_mean / variance if variance else float("nan"))
        cosine.append(_cosine(output))

    with _measuring(model, batch) as listen:
        for name in stages:
            listen(model.get_submodule(name), compare)
        last = model.get_submodule(_last_linear(model))
        listen(last, lambda _, inputs, __: pooled.append(_cosine(inputs[0])))
        labels = model(batch).argmax(dim=1)
    return {
        "ratio": ratio,
        "cosine": cosine,
        "pooled_cosine": pooled[0],
        "common_label": int(labels.bincount().max()) / len(labels),
    }


def clip_fraction(model: nn.Module, clipped: Mapping[str, Tensor]) -> list[ClipShare]:
    """Where AGC clipped, one row per parameter.

    Args:
        model: as in :func:`signal_propagation`.
        clipped: what :func:`nbrepro.agc.clip_grads_` returned for this model.

    Raises:
        ValueError: if ``clipped`` names a parameter that the model does not have.
    """
    stages = _stages(model)
    last = _last_linear(model)
    parts: dict[str, str] = {}
    part = "stem"
    for name, _ in model.named_parameters():
        inside = [stage for block, stage in stages.items() if name.startswith(f"{block}.")]
        if inside:
            part = f"stage {inside[0]}"
        elif part != "stem":
            part = "fc" if name.startswith(f"{last}.") else "head"
        parts[name] = part
    for name in clipped:
        if name not in parts:
            raise ValueError(unknown("parameter", name, parts))
    if not clipped:
        return []
    shares = torch.stack([clipped[name] for name in clipped]).tolist()  # waits once for the device
    return [
        {"name": name, "part": parts[name], "share": share}
        for name, share in zip(clipped, shares, strict=True)
    ]


def _stages(model: nn.Module) -> dict[str, int]:
    """Name of every residual block → its stage; a projection shortcut begins a new one."""
    stages: dict[str, int] = {}
    stage = 1
    for name, module in model.named_modules():
        if isinstance(module, ResidualBlock):
            stage += bool(stages) and module.projects
            stages[name] = stage
    if not stages:
        raise ValueError(
            f"{type(model).__name__} has no residual block: derive its blocks from "
            "nbrepro.layers.ResidualBlock, or measure a network of nbrepro.models"
        )
    return stages


def _last_linear(model: nn.Module) -> str:
    """Name of the classifier."""
    name = ""
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            name = path
    return name


def _moments(x: Tensor) -> tuple[float, float]:
    """Squared mean and variance over N, H, W of ``[N, C, H, W]``, averaged over channels."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    return mean.square().mean().item(), variance.mean().item()


def _cosine(x: Tensor) -> float:
    """Mean cosine between two different rows: ``[N, ...]`` → a number."""
    rows = nn.functional.normalize(x.flatten(1).to(torch.promote_types(x.dtype, torch.float32)))
    count = len(rows)
    total = rows.sum(dim=0).square().sum() - rows.square().sum()  # all pairs, without their matrix
    return total.item() / (count * (count - 1))


_Listen = Callable[[nn.Module, Callable[[nn.Module, Any, Any], None]], None]


@contextmanager
def _measuring(model: nn.Module, batch: Tensor) -> Iterator[_Listen]:
    """A context in which modules can be hooked; it restores the model and random generators."""
    handles: list[RemovableHandle] = []
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = [batch.device] if batch.is_cuda else []
    try:
        with (
            torch.no_grad(),
            torch.autocast(batch.device.type, enabled=False),
            torch.random.fork_rng(devices),
        ):
            yield lambda module, hook: handles.append(module.register_forward_hook(hook))
    finally:
        for handle in handles:
            handle.remove()
        for buffer, before in buffers:
            buffer.copy_(before)

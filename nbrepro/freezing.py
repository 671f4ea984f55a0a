"""Choose what is trained: freeze a network except for some groups of its parameters.

Groups (arXiv 2003.00152, Table 1 counts them the same way):

===============  ==================================================================================
``batchnorm``    every γ and β, those inside shortcuts included
``gamma``        the scales γ only
``beta``         the shifts β only
``affine``       what stands in for γ and β in a normalizer-free network, see below
``output``       weight and bias of the last linear layer
``shortcut``     all but BatchNorm inside modules named ``shortcut`` or ``downsample``: projections
``other``        every parameter that is in none of the groups above
``all``          everything
``random:k``     k weights of every output channel of every convolution, drawn without replacement
                 (of every input channel, where the convolution is transposed)
``scattered:k``  as many weights of every convolution, drawn from the layer as a whole
===============  ==================================================================================

The arms of arXiv 2003.00152 are ``batchnorm``, alone or with ``output`` and ``shortcut``,
``other+output+shortcut`` (γ and β frozen as they start, all else trained) and ``random:2`` (as many
numbers as BatchNorm has); ``scattered:2`` is the last without an equal share for every channel.

``affine`` answers that paper's question of what to train without BatchNorm: gains and biases of
convolutions with scaled weight standardization (:class:`nbrepro.layers.ScaledStdConv2d`), and the
SkipInit scalars of residual blocks, without which, frozen at zero, no gain inside a branch would
have any effect. Gains and biases of projections are left to ``shortcut``: in the BatchNorm twin of
an NF-ResNet (``bn_nf_resnet50``, ``bn_cifar_nf_resnet20`` ...) projections have no BatchNorm of
their own either, so that ``affine`` trains exactly as many numbers as ``batchnorm`` does in the
twin, plus one SkipInit scalar per block where the network has them.

Join them with ``+``: ``freeze(model, train="batchnorm+output")``. Works on any ``nn.Module``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from nbrepro._policy import GROUPS, parse
from nbrepro.layers import ResidualBlock, ScaledStdConv2d

_SHORTCUT_NAMES = {"shortcut", "downsample"}


@dataclass(frozen=True)
class FreezeReport:
    """What :func:`freeze` left trainable. ``print`` it.

    Attributes:
        train: the policy that was requested.
        names: the parameters that are trained, in the model's order.
        counts: trained numbers by group; ``counts["all"]`` is their total.
        shares: the same as fractions of ``total``.
        total: the number of parameters of the network.
    """

    train: str
    names: tuple[str, ...]
    counts: dict[str, int]
    shares: dict[str, float]
    total: int

    def __str__(self) -> str:
        lines = [f"train={self.train}: {self.counts['all']:,} of {self.total:,} parameters"]
        for group, count in self.counts.items():
            if count and group != "all":
                lines.append(f"  {group:<10} {count:>12,}  {self.shares[group]:8.3%}")
        return "\n".join(lines)


def _groups(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, set[str]]]:
    """Every parameter once, with the groups it belongs to (``all`` among them)."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    output = set(model.get_submodule(linear[-1]).parameters()) if linear else set()
    seen: set[nn.Parameter] = set()
    for path, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if parameter in seen:
                continue
            seen.add(parameter)
            if isinstance(module, _BatchNorm):
                groups = {"batchnorm", "gamma" if leaf == "weight" else "beta"}
            elif parameter in output:  # whoever else has it, as tied embeddings do
                groups = {"output"}
            elif _SHORTCUT_NAMES & set(path.split(".")):
                groups = {"shortcut"}
            elif (isinstance(module, ScaledStdConv2d) and leaf in ("gain", "bias")) or (
                isinstance(module, ResidualBlock) and leaf == "skip_gain"
            ):
                groups = {"affine"}
            else:
                groups = {"other"}
            yield f"{path}.{leaf}" if path else leaf, parameter, groups | {"all"}


def count(model: nn.Module) -> dict[str, int]:
    """Numbers of parameters by group, whether trained or frozen; ``all`` is the total."""
    counts = dict.fromkeys(GROUPS, 0)
    for _, parameter, groups in _groups(model):
        for group in groups:
            counts[group] += parameter.numel()
    return counts


def freeze(
    model: nn.Module, train: str = "batchnorm", *, seed: int = 0, statistics: bool = True
) -> FreezeReport:
    """Freeze ``model`` in place, except for the groups named by ``train``.

    Frozen parameters get ``requires_grad=False``: no gradient is computed for them, and an
    optimizer that is given only the trainable ones can neither move nor decay them. Under
    ``random:k`` and ``scattered:k`` the gradient of the other weights is set to zero, and after
    every ``torch.optim`` step they are restored bit for bit, so that neither weight decay nor
    momentum moves them. The whole weight gradient has to be computed, so this saves no time. The
    restriction belongs to the layers: it also holds in copies of the model, after
    ``torch.save(model)`` in another process, and for weights loaded with ``assign=True``. Gradients
    that frozen parameters still have are dropped, so that an optimizer that has them already leaves
    them alone too.

    Calling it again replaces the earlier policy.

    Args:
        model: any module.
        train: groups joined with ``+``, see the table at the top of this module.
        seed: draws the positions of ``random:k`` or ``scattered:k``; the same seed gives the same
            positions.
        statistics: if false, BatchNorm layers normalize with their stored running statistics in
            training mode too, and never update them.

    Returns:
        What is trained: names, counts and shares.

    Raises:
        ValueError: for an unknown group, a group without parameters in this model, or a k larger
            than a convolution's fan-in.
    """
    wanted, drawn, k = parse(train)
    layers = [module for module in model.modules() if isinstance(module, nn.modules.conv._ConvNd)]
    convolutions = {layer.weight for layer in layers}
    generator = torch.Generator("cpu").manual_seed(seed)
    names: list[str] = []
    masks: dict[Tensor, Tensor] = {}
    counts = dict.fromkeys([*GROUPS, *[drawn] * bool(drawn)], 0)
    for name, parameter, groups in _groups(model):
        if groups & wanted:
            trained = parameter.numel()
        elif k and parameter in convolutions:
            masks[parameter] = _draw(name, parameter, drawn, k, generator)
            groups, trained = {drawn, "all"}, k * parameter.shape[0]
        else:
            continue
        names.append(name)
        for group in groups:
            counts[group] += trained
    absent = [
        group for group in [*sorted(wanted), *([drawn] if drawn else [])] if not counts[group]
    ]
    if absent:
        raise ValueError(
            f"nothing to train: this model has no {' and no '.join(absent)} parameters"
        )

    _undo(model)
    for name, parameter, _ in _groups(model):
        parameter.requires_grad_(name in names)
        if name not in names:
            parameter.grad = None
    for layer in layers:
        mask = masks.get(layer.weight)
        if mask is not None:
            _restrict(layer, mask)
    if not statistics:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                hook = module.register_forward_pre_hook(_use_stored_statistics)
                module.__dict__["_nbrepro_stored"] = hook
    total = sum(parameter.numel() for parameter in model.parameters())
    shares = {group: number / total for group, number in counts.items()}
    return FreezeReport(train, tuple(names), counts, shares, total)


def _use_stored_statistics(module: nn.Module, _: Any) -> None:
    module.eval()


def _draw(name: str, weight: Tensor, drawn: str, k: int, generator: torch.Generator) -> Tensor:
    """A mask shaped like ``weight``, true at k positions of every output channel (``random``).

    ``scattered``: at as many positions of the whole weight, each equally likely.
    """
    channels, fan_in = weight.shape[0], weight[0].numel()
    if k > fan_in:
        raise ValueError(
            f"{drawn}:{k} asks for more weights than {name} has per channel ({fan_in})"
        )
    rows, picked = (channels, k) if drawn == "random" else (1, k * channels)
    shape = rows, weight.numel() // rows
    # on the CPU, whatever the default device: one seed, one mask
    positions = torch.rand(shape, generator=generator, device="cpu").argsort(dim=1)[:, :picked]
    mask = torch.zeros(shape, dtype=torch.bool, device="cpu")
    return mask.scatter_(1, positions, True).view(weight.shape)


def _restrict(layer: nn.Module, mask: Tensor) -> None:
    """Let optimizer steps change the weight of ``layer`` only inside ``mask``."""
    hook = layer.register_forward_pre_hook(_tie)
    layer.__dict__["_nbrepro_mask"], layer.__dict__["_nbrepro_tie"] = mask, hook
    _tie(layer)


def _tie(layer: nn.Module, _: Any = None) -> None:
    """Tie the mask to the weight that the layer has now: copying and loading may replace it."""
    weight: Any = layer.weight
    if weight.requires_grad and getattr(weight, "_nbrepro_masked", None) is None:
        _watch_optimizers()
        weight._nbrepro_masked = _Masked(weight, layer.__dict__["_nbrepro_mask"])


class _Masked:
    """Zeroes the gradient outside ``mask``, and undoes what a step changed there."""

    def __init__(self, weight: Tensor, mask: Tensor) -> None:
        self.mask = mask.to(weight.device)
        self.before: dict[int, Tensor] = {}  # by optimizer: one may wrap others
        self.hook = weight.register_hook(self.gradient)

    def gradient(self, gradient: Tensor) -> Tensor:
        self.mask = self.mask.to(gradient.device)
        return torch.where(self.mask, gradient, 0)

    def __reduce__(self) -> tuple[Any, ...]:
        """None: a weight that is copied or loaded has neither the hook nor, maybe, this process."""
        return type(None), ()

    def remember(self, weight: nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        self.before[id(optimizer)] = weight.detach().clone()

    def restore(self, weight: nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        before = self.before.pop(id(optimizer))
        self.mask = self.mask.to(weight.device)
        with torch.no_grad():
            weight.copy_(torch.where(self.mask, weight, before))


@cache
def _watch_optimizers() -> None:
    """Hook into the steps of all optimizers, so that :func:`freeze` need not be given one.

    Only masked weights are touched. Nothing is registered before weights are first drawn.
    """
    register_optimizer_step_pre_hook(_before_step)
    register_optimizer_step_post_hook(_after_step)


def _before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for masked, weight in _masked(optimizer):
        masked.remember(weight, optimizer)


def _after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for masked, weight in _masked(optimizer):
        masked.restore(weight, optimizer)


def _masked(optimizer: torch.optim.Optimizer) -> Iterator[tuple[_Masked, nn.Parameter]]:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if (masked := getattr(parameter, "_nbrepro_masked", None)) is not None:
                yield masked, parameter


def _undo(model: nn.Module) -> None:
    """Remove what an earlier :func:`freeze` attached."""
    for parameter in model.parameters():
        if (masked := getattr(parameter, "_nbrepro_masked", None)) is not None:
            masked.hook.remove()
            parameter._nbrepro_masked = None  # type: ignore[attr-defined]
    for module in model.modules():
        if hasattr(module, "_nbrepro_tie"):
            module.__dict__.pop("_nbrepro_tie").remove()
            del module.__dict__["_nbrepro_mask"]
        if hasattr(module, "_nbrepro_stored"):
            module.__dict__.pop("_nbrepro_stored").remove()
            module.train(model.training)

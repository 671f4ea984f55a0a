"""Adaptive gradient clipping and SGD in one optimizer."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.sgd import sgd
from torch.utils.dlpack import from_dlpack

from nbrepro._suggest import select
from nbrepro.agc import (
    Clipped,
    by_device_and_type,
    by_name,
    check_numbers,
    clip_factor,
    is_vector,
    norm_type,
    unitwise_norm,
)


class ClippedSGD(torch.optim.SGD):
    """Clip as :func:`nbrepro.agc.clip_grads_` does, then step as ``torch.optim.SGD``, in one.

    With the clipped gradient ``g``: ``g ← g + weight_decay · w``, ``m ← momentum · m + g``, and
    ``w ← w − lr · m``, or in Nesterov's form ``w ← w − lr · (g + momentum · m)``. Decay comes after
    clipping, as in the authors' code.

    It saves time where the step itself matters, as in networks of many small layers: for a CIFAR
    ResNet on a CPU it takes half the time of the function followed by fused SGD
    (``benchmarks/agc.py``). The training loop of this book clips with the function, so that one
    loop serves all kinds of clipping and optimizers; its networks spend their time in the forward
    and backward passes.

    The first step moves the parameters into one block of memory, units of one length side by side,
    so that a step of a CIFAR ResNet takes about 20 operations at any depth. On a CPU large
    parameters stay where they are, and a step goes through them in pieces that fit into the cache.
    Each parameter keeps its shape, its memory format and a storage of its own. ``state_dict`` has
    the form of that of ``torch.optim.SGD`` and the two may be exchanged. ``.grad`` is read, not
    changed; the block holds another copy of the gradients.

    After ``model.to(...)`` or ``load_state_dict`` the next step arranges the block again. Take one
    step before you capture one in a CUDA graph. The learning rate may be a tensor on the device.

    Args:
        named_parameters: ``model.named_parameters()``. Those without a gradient are skipped.
        lr: learning rate; torch's schedulers may change it.
        momentum: factor of the running sum of gradients.
        nesterov: whether to use Nesterov's form.
        weight_decay: added to the clipped gradient as ``weight_decay · w``.
        clipping: λ, see :func:`nbrepro.agc.clip_grads_`.
        eps: lower bound of weight norms, see there.
        exclude: names or patterns of parameters that are not clipped.
        no_decay: names or patterns of parameters that are not decayed; they form the second
            parameter group. ``undecayed(model)`` gives those that :func:`parameter_groups` exempts.

    A group's key ``unclipped`` lists the names in it that are not clipped. In a group that is added
    later, everything is clipped unless it has this key:
    ``add_param_group({"params": head.named_parameters(), "unclipped": ["weight"]})``.

    Raises:
        TypeError, ValueError: as :func:`nbrepro.agc.clip_grads_` and ``torch.optim.SGD`` do.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, Tensor]],
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        *,
        clipping: float = 0.01,
        eps: float = 1e-3,
        exclude: Iterable[str] = (),
        no_decay: Iterable[str] = (),
    ) -> None:
        check_numbers(clipping, eps)
        parameters = by_name(named_parameters)
        excluded = select("parameter to exclude", exclude, parameters)
        undecayed = select("parameter not to decay", no_decay, parameters)
        groups: list[dict[str, Any]] = []
        for decay, some in ((weight_decay, parameters.keys() - undecayed), (0.0, undecayed)):
            members = [(name, parameters[name]) for name in parameters if name in some]
            if members:
                unclipped = [name for name, _ in members if name in excluded]
                groups.append({"params": members, "weight_decay": decay, "unclipped": unclipped})
        self._blocks: list[_Block | _Large] = []
        super().__init__(groups, lr, momentum, weight_decay=weight_decay, nesterov=nesterov)
        self.defaults |= {"clipping": clipping, "eps": eps, "unclipped": []}
        for group in self.param_groups:
            group |= {"clipping": clipping, "eps": eps}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Train further parameters, as with torch's optimizers.

        Args:
            param_group: ``params``, pairs of a name and a parameter; maybe ``unclipped``, names or
                patterns of those that are not clipped; maybe options such as ``lr``.

        Raises:
            TypeError: for parameters without names.
            ValueError: for a name that is here already, an entry of ``unclipped`` that matches no
                name, a key ``exclude``, and dampening.
        """
        if "exclude" in param_group:
            raise ValueError(
                "a parameter group has no key 'exclude'; list what is not clipped as 'unclipped'"
            )
        if param_group.get("dampening"):  # the momentum starts as zeros, torch's as the gradient
            raise ValueError(
                f"dampening is {param_group['dampening']}; ClippedSGD has none, so leave it out"
            )
        params = param_group["params"]
        if "param_names" in param_group:  # a group of another optimizer
            params = list(zip(param_group["param_names"], params, strict=True))
        parameters = by_name(params)
        here = {name for group in self.param_groups for name in group["param_names"]}
        if taken := [name for name in parameters if name in here]:
            raise ValueError(
                f"the optimizer has a parameter named {taken[0]!r} already; give each a name of "
                "its own, such as head.named_parameters(prefix='head')"
            )
        unclipped = select("parameter not to clip", param_group.get("unclipped", ()), parameters)
        in_order = [name for name in parameters if name in unclipped]
        named = {"params": list(parameters.items()), "unclipped": in_order}
        super().add_param_group(param_group | named)

    @property
    def clipped(self) -> Clipped:
        """What the latest step clipped; later steps leave it as it is."""
        factors = {name: f for block in self._blocks for name, f in block.factors().items()}
        names = [name for group in self.param_groups for name in group["param_names"]]
        return Clipped({name: factors[name] for name in names if name in factors})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Clip and update; returns what ``closure`` returns, which is called first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self._arranged():
            self._arrange()
        for block in self._blocks:
            block.step()
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore what was saved, by this class or by ``torch.optim.SGD``."""
        mine = getattr(self, "param_groups", state["param_groups"])  # none when it is unpickled
        for group, now in zip(state["param_groups"], mine, strict=True):
            for key in ("clipping", "eps"):
                group.setdefault(key, now[key])
            if "unclipped" not in group:
                # The state may name them otherwise, as that of a compiled model does.
                names = zip(group["param_names"], now["param_names"], strict=True)
                group["unclipped"] = [name for name, ours in names if ours in now["unclipped"]]
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._blocks = []

    def _arranged(self) -> bool:
        """Whether every parameter with a gradient still lies where the blocks expect it."""
        placed = sum(len(block.parameters) for block in self._blocks)
        if placed < sum(len(group["params"]) for group in self.param_groups):
            ours = {id(p) for block in self._blocks for p in block.parameters}
            for group in self.param_groups:
                if any(p.grad is not None and id(p) not in ours for p in group["params"]):
                    return False
        return all(block.intact() for block in self._blocks)

    def _arrange(self) -> None:
        """Put parameters that have a gradient, or had one, into blocks, with their momentum."""
        ours = {id(p) for block in self._blocks for p in block.parameters}
        blocks: list[_Block | _Large] = []
        for group in self.param_groups:
            named = zip(group["param_names"], group["params"], strict=True)
            placed = {name: p for name, p in named if p.grad is not None or id(p) in ours}
            for part in by_device_and_type(placed):
                large = {name: p for name, p in part.items() if _is_large(p)}
                small = {name: p for name, p in part.items() if name not in large}
                if large:
                    blocks.append(_Large(group, large, self.state))
                if small:
                    blocks.append(_Block(group, small, self.state))
        self._blocks = blocks


class _Placed:
    """Parameters of one group that stay where they lie.

    Attributes:
        group: the optimizer's group, whose settings count at every step.
        parameters: those of the group that are placed here.
        remembers: whether they have momentum.
        pointers: where the parameters lie.
    """

    group: dict[str, Any]
    parameters: list[Tensor]
    remembers: bool
    pointers: list[int]

    def intact(self) -> bool:
        """Whether the parameters are where they were put, and have momentum if they need it."""
        if self.group["momentum"] and not self.remembers:
            return False
        return [parameter.data_ptr() for parameter in self.parameters] == self.pointers


class _Layout(NamedTuple):
    """Where the parameters of a block lie, counted in elements: what is clipped comes first.

    Attributes:
        starts: by name, in the block's order, where a parameter begins.
        units: by name, how many units it has; only of what is clipped.
        runs: first element, end, and length of the units, of each run of clipped units of one
            length.
        size: of the whole block.
    """

    starts: dict[str, int]
    units: dict[str, int]
    runs: list[tuple[int, int, int]]
    size: int

    @classmethod
    def of(cls, named: Mapping[str, Tensor], unclipped: Collection[str]) -> "_Layout":
        """Sort parameters by the length of their units; each length starts aligned."""

        def kind(name: str) -> tuple[bool, int]:
            return name in unclipped, _unit_length(named[name])

        layout = cls({}, {}, [], 0)
        end = 0
        for (is_unclipped, length), names in groupby(sorted(named, key=kind), kind):
            first = end = math.ceil(end / _ALIGNMENT) * _ALIGNMENT
            for name in names:
                layout.starts[name] = end
                end += named[name].numel()
                if not is_unclipped:
                    layout.units[name] = named[name].numel() // length
            if not is_unclipped:
                layout.runs.append((first, end, length))
        return layout._replace(size=end)


class _Clipper:
    """Clips gradients that lie beside their weights in one piece of memory.

    All units of one length are one matrix, so that there is one norm to take for each length.

    Args:
        memory: weights in row 0, gradients in row 1 ``[2, elements]``.
        runs: of units of one length, see :class:`_Layout`.

    Attributes:
        factor: what each unit was multiplied by in the latest step ``[units]``.
    """

    def __init__(self, memory: Tensor, runs: list[tuple[int, int, int]]) -> None:
        self.matrices = [memory[:, a:b].view(2, -1, length) for a, b, length in runs]
        self.gradients = [gradients for _, gradients in self.matrices]
        units = [len(gradients) for gradients in self.gradients]
        dtype = norm_type(memory) or memory.dtype
        self.norms = torch.ones(2, sum(units), device=memory.device, dtype=dtype)
        self.factor = torch.ones_like(self.norms[0])
        self.norms_by_length = self.norms.split(units, dim=1)
        self.factor_by_length = self.factor[:, None].split(units)

    def clip(self, clipping: float, eps: float) -> None:
        """Multiply the gradients by their factors, in place."""
        if not self.matrices:
            return
        for matrix, norm in zip(self.matrices, self.norms_by_length, strict=True):
            torch.linalg.vector_norm(matrix, dim=2, dtype=norm.dtype, out=norm)
        self.factor.copy_(clip_factor(self.norms[0], self.norms[1], clipping, eps))
        torch._foreach_mul_(self.gradients, self.factor_by_length)


class _Block(_Placed):
    """Parameters of one group, device and type, in one piece of memory."""

    def __init__(
        self, group: dict[str, Any], named: dict[str, Tensor], state: Mapping[Tensor, Any]
    ) -> None:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("take a step of ClippedSGD before you capture one in a CUDA graph")
        layout = _Layout.of(named, set(group["unclipped"]))
        self.group = group
        self.names = list(layout.starts)
        self.parameters = [named[name] for name in self.names]
        self.units = list(layout.units.values())
        self.absent: list[int] = []

        device, dtype = self.parameters[0].device, self.parameters[0].dtype
        memory = torch.zeros(2, layout.size, device=device, dtype=dtype)
        self.clipper = _Clipper(memory, layout.runs)
        self.weights, self.gradients = memory
        self.momentum = torch.zeros_like(self.weights) if group["momentum"] else None
        self.remembers = self.momentum is not None
        self.fused = device.type != "cpu" or dtype in _FUSED_ON_CPU
        self.places: list[Tensor] = []  # of the gradients
        self.buffers: list[Tensor] = []  # of the momentum
        for parameter, start in zip(self.parameters, layout.starts.values(), strict=True):
            self.places.append(_place(self.gradients, start, parameter))
            # Through DLPack each parameter gets a storage of its own over its part of the memory.
            # With one storage for all, torch.save would write all of it for any of them, and
            # Accelerate would treat them as tied and save only the first.
            part = from_dlpack(self.weights[start : start + parameter.numel()])
            parameter.data = _place(part, 0, parameter).copy_(parameter)
            if self.momentum is not None:
                buffer = _place(self.momentum, start, parameter)
                self.buffers.append(_adopted(buffer, state[parameter]))
        self.pointers = [parameter.data_ptr() for parameter in self.parameters]

    def step(self) -> None:
        """Clip and update all that have a gradient."""
        gradients = [parameter.grad for parameter in self.parameters]
        self.absent = [i for i, gradient in enumerate(gradients) if gradient is None]
        if len(self.absent) == len(gradients):
            return
        # Those without a gradient are restored afterwards; that is rare, so it may be slow.
        kept = [(t, t.clone()) for i in self.absent for t in self._weight_and_momentum(i)]
        self._gather(gradients)
        self.clipper.clip(self.group["clipping"], self.group["eps"])
        self._update()
        for tensor, before in kept:
            tensor.copy_(before)
        torch.autograd.graph.increment_version(self.parameters)

    def factors(self) -> dict[str, Tensor]:
        """Name → factor of each unit in the latest step."""
        clipped = self.names[: len(self.units)]  # what is not clipped comes last
        # A copy: the next step writes over the factors.
        parts = zip(clipped, self.clipper.factor.clone().split(self.units), strict=True)
        return {name: part for i, (name, part) in enumerate(parts) if i not in self.absent}

    def _weight_and_momentum(self, i: int) -> list[Tensor]:
        return [self.parameters[i], *self.buffers[i : i + 1]]

    def _gather(self, gradients: list[Any]) -> None:
        """Copy the gradients that there are into the block."""
        places = self.places
        if self.absent:
            places = [places[i] for i, g in enumerate(gradients) if g is not None]
            gradients = [g for g in gradients if g is not None]
        torch._foreach_copy_(places, gradients)

    def _update(self) -> None:
        """Take the step of SGD with the gradients in the block."""
        momentum: list[Any] = [self.momentum] if self.group["momentum"] else []
        hyper = {name: self.group[name] for name in _HYPER}
        if self.fused:
            torch._fused_sgd_(
                [self.weights],
                [self.gradients],
                momentum,
                is_first_step=False,  # the momentum starts as zeros
                **hyper,
            )
        else:
            sgd([self.weights], [self.gradients], momentum or [None], foreach=False, **hyper)


class _Pieces(NamedTuple):
    """A large parameter, piece by piece.

    Attributes:
        parameter: the whole.
        units: how many a piece has; the last may have fewer.
        weights: of each piece, a part of the parameter.
        scratch: for each piece, where its clipped gradient is put: the same memory for all.
        momentum: of each piece, in a list, which is empty without momentum.
    """

    parameter: Tensor
    units: int
    weights: tuple[Tensor, ...]
    scratch: list[Tensor]
    momentum: list[list[Tensor]]


class _Large(_Placed):
    """Large parameters on a CPU, which stay where they are.

    A step takes as many units at a time as fit into the cache, and does all that is to do with
    them; so weights, gradients and momentum come from memory once.
    """

    def __init__(
        self, group: dict[str, Any], named: dict[str, Tensor], state: Mapping[Tensor, Any]
    ) -> None:
        self.group = group
        self.parameters = list(named.values())
        self.pointers = [parameter.data_ptr() for parameter in self.parameters]
        self.remembers = bool(group["momentum"])
        self.clipped: dict[str, Tensor] = {}
        units = {name: max(1, _PIECE // _unit_length(p)) for name, p in named.items()}
        most = max(units[name] * _unit_length(parameter) for name, parameter in named.items())
        first = self.parameters[0]
        memory = torch.empty(most, device=first.device, dtype=first.dtype)
        self.pieces: dict[str, _Pieces] = {}
        for name, parameter in named.items():
            weights = parameter.split(units[name])
            momentum: list[list[Tensor]] = [[] for _ in weights]
            if self.remembers:
                # The fused kernel goes through memory, so all must lie there as the weights do.
                buffer = _adopted(torch.zeros_like(parameter), state[parameter])
                momentum = [[part] for part in buffer.split(units[name])]
            scratch = [_place(memory, 0, weight) for weight in weights]
            self.pieces[name] = _Pieces(parameter, units[name], weights, scratch, momentum)

    def step(self) -> None:
        """Clip and update all that have a gradient."""
        clipping, eps, unclipped = (self.group[key] for key in ("clipping", "eps", "unclipped"))
        hyper = {name: self.group[name] for name in _HYPER}
        none: list[Tensor] = []
        self.clipped = {}
        for name, pieces in self.pieces.items():
            if pieces.parameter.grad is None:
                continue
            gradients = pieces.parameter.grad.split(pieces.units)
            factors = []
            for gradient, weight, scratch, momentum in zip(
                gradients, pieces.weights, pieces.scratch, pieces.momentum, strict=True
            ):
                if name in unclipped:
                    scratch.copy_(gradient)
                else:
                    norms = unitwise_norm([weight], 0), unitwise_norm([gradient], 0)
                    factor = clip_factor(*norms, clipping, eps)
                    torch.mul(gradient, factor.view(-1, *[1] * (weight.ndim - 1)), out=scratch)
                    factors.append(factor)
                torch._fused_sgd_(
                    [weight],
                    [scratch],
                    momentum if self.group["momentum"] else none,
                    is_first_step=False,
                    **hyper,
                )
            if factors:
                self.clipped[name] = torch.cat(factors)
        torch.autograd.graph.increment_version(self.parameters)

    def factors(self) -> dict[str, Tensor]:
        """Name → factor of each unit in the latest step."""
        return self.clipped


#: The options of torch's SGD, by their names in a parameter group.
_HYPER = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")

#: Where a new unit length begins in a block: a multiple of this many elements, for aligned access.
_ALIGNMENT = 64

#: Up to torch 2.13 the fused kernel on a CPU silently leaves 16-bit weights unchanged (pytorch
#: issue 191763).
_FUSED_ON_CPU = (torch.float32, torch.float64)

#: Elements of the smallest parameter that is large, and of one piece of it.
_LARGE = 2**16
_PIECE = 2**19


def _is_large(parameter: Tensor) -> bool:
    """Whether it is better updated where it is: many elements, on a CPU, in units side by side."""
    dense = parameter.is_contiguous() or (
        parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
    )
    return (
        parameter.device.type == "cpu"
        and parameter.dtype in _FUSED_ON_CPU
        and dense
        and not is_vector(parameter)
        and parameter.numel() >= _LARGE
    )


def _adopted(buffer: Tensor, state: dict[str, Any]) -> Tensor:
    """The buffer as a parameter's momentum, with what the momentum was."""
    earlier = state.get("momentum_buffer")
    if earlier is not None:
        buffer.copy_(earlier)
    state["momentum_buffer"] = buffer
    return buffer


def _unit_length(parameter: Tensor) -> int:
    shape = parameter.shape
    return max(1, math.prod(shape if is_vector(parameter) else shape[1:]))


def _place(memory: Tensor, start: int, like: Tensor) -> Tensor:
    """The part of ``memory`` at ``start`` in the shape of ``like``, unit after unit.

    The order within a unit is that of ``like``: channels-last weights stay channels-last.
    """
    stride = torch.empty_like(like, device="meta").stride()
    if like.ndim and stride[0] * len(like) != like.numel():  # units are not the slowest dimension
        stride = torch.empty(like.shape, device="meta").stride()
    return memory[start : start + like.numel()].as_strided(like.shape, stride)

"""Adaptive gradient clipping (AGC), for any network and any training loop.

A unit's gradient may not be larger than a fixed share of the unit's weights (arXiv 2102.06171,
section 4, equation 3): where ``‖G_i‖ > λ max(‖W_i‖, ε)`` it is scaled down to that bound; elsewhere
it stays as it is, bit for bit. Between backward and step::

    parameters = list(model.named_parameters())
    ...
    loss.backward()
    agc.clip_grads_(parameters, clipping=0.01, exclude=["fc.weight"])
    optimizer.step()

:class:`ClippedSGD` is clipping and SGD in one optimizer, several times faster for deep networks of
small layers.

What a unit is follows the authors' code: a parameter that has at most one dimension once squeezed
(a bias, the gains of a layer, the scalar of SkipInit) is one unit as a whole; otherwise every index
of dimension 0 is one, that is an output of a weight ``[out, in]`` or ``[out, in, height, width]``.
(Transposed convolutions store their inputs first and are clipped by input.) Differences:

- from timm 1.0.31: its gains have shape ``[out, 1, 1, 1]`` and it clips each on its own;
  ``units="timm"`` does so too, and then equals timm bit for bit on a CPU;
- from both: a unit whose gradient norm is nan, infinite or too large for its type becomes nan as a
  whole. A norm that overflows would otherwise turn its gradient into zeros, and nobody would know.

Norms of half-precision tensors are taken in float32. No step waits for the device and none depends
on values, so all of this can be captured in a CUDA graph. Under DistributedDataParallel
every process clips the same averaged gradients; parameters that FSDP has sharded are refused.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from fnmatch import filter as matching
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.optim.sgd import sgd
from torch.utils.dlpack import from_dlpack

from nbrepro._suggest import choose


def _is_vector(parameter: Tensor) -> bool:
    return parameter.ndim <= 1 or parameter.numel() == max(parameter.shape)


#: Rule → whether a parameter is one unit as a whole.
UNITS: dict[str, Callable[[Tensor], bool]] = {
    "official": _is_vector,
    "timm": lambda parameter: parameter.ndim <= 1,
    "layer": lambda parameter: True,
}


class Clipped(Mapping[str, Tensor]):
    """What was clipped: name of a parameter → share of its units, a 0-dim tensor.

    A share is computed when it is asked for. What was made while a CUDA graph was captured shows
    the latest replay.

    Attributes:
        factors: name → what the gradient of each unit was multiplied by ``[units]``, 1 if it was
            not clipped.
    """

    def __init__(self, factors: dict[str, Tensor]) -> None:
        self.factors = factors

    def __getitem__(self, name: str) -> Tensor:
        return (self.factors[name] != 1).float().mean()

    def __iter__(self) -> Iterator[str]:
        return iter(self.factors)

    def __len__(self) -> int:
        return len(self.factors)


def share(clipped: Clipped) -> Tensor:
    """The share of all units together that were clipped: a 0-dim tensor, 0 if there are none."""
    if not clipped:
        return torch.zeros(())
    return (torch.cat(list(clipped.factors.values())) != 1).float().mean()


@torch.no_grad()
def clip_grads_(
    named_parameters: Iterable[tuple[str, Tensor]],
    clipping: float = 0.01,
    eps: float = 1e-3,
    exclude: Iterable[str] = (),
    units: str = "official",
) -> Clipped:
    """Clip the gradients of ``named_parameters`` in place, unit by unit.

    Call it after backward (and after unscaling, if a loss scaler is used) and before the optimizer
    adds weight decay or momentum; with gradient accumulation only before an optimizer step.

    Args:
        named_parameters: ``model.named_parameters()``, or a list of it made once, which saves the
            walk through the model. Those without a gradient are skipped.
        clipping: λ, the largest ratio of gradient norm to weight norm.
        eps: weight norms below count as ``eps``, so that zero-initialised units can move.
        exclude: names, or patterns such as ``head.*``, of parameters to leave alone. The authors
            leave out the last layer's weight, not its bias.
        units: ``official``, ``timm``, or ``layer`` for one ratio per parameter.

    Returns:
        By name the share of units that were clipped; see :class:`Clipped` and :func:`share`.

    Raises:
        TypeError: for parameters without names, and for sparse or complex gradients.
        ValueError: for an entry of ``exclude`` that matches no name, an unknown rule, or numbers
            out of range.
    """
    _check_numbers(clipping, eps)
    parameters = _by_name(named_parameters)
    spared = _select("parameter to exclude", exclude, parameters)
    whole = UNITS[choose("rule for units", units, UNITS)]
    alike: dict[_Kind, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
    for name, weight in parameters.items():
        if weight.grad is not None and name not in spared:
            vectors, others = alike.setdefault(_kind(weight), ({}, {}))
            (vectors if whole(weight) else others)[name] = weight

    factors: dict[str, Tensor] = {}
    for kind, (vectors, others) in alike.items():
        _check_kind(kind, vectors | others)
        weights = [*vectors.values(), *others.values()]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        norms = [_norms(tensors, len(vectors)) for tensors in (weights, gradients)]
        factor = _factors(norms[0], norms[1], clipping, eps)
        parts = factor.split([1] * len(vectors) + [len(weight) for weight in others.values()])
        torch._foreach_mul_(gradients, list(map(_facing, parts, gradients)))
        factors.update(zip([*vectors, *others], parts, strict=True))
    return Clipped({name: factors[name] for name in parameters if name in factors})


class ClippedSGD(torch.optim.SGD):
    """:func:`clip_grads_`, then ``torch.optim.SGD``, in one optimizer and few operations.

    With the clipped gradient ``g``: ``g ← g + weight_decay · w``, ``m ← momentum · m + g``, and
    ``w ← w − lr · m``, or in Nesterov's form ``w ← w − lr · (g + momentum · m)``. Decay comes after
    clipping, as in the authors' code.

    The first step moves the parameters into one block of memory, units of one length side by side,
    so that a step of a CIFAR ResNet takes some 20 operations at any depth. Each parameter keeps its
    shape, its memory format and a storage of its own. ``state_dict`` has the form of that of
    ``torch.optim.SGD`` and the two may be exchanged. ``.grad`` is read, not changed; the block
    holds another copy of the gradients.

    After ``model.to(...)`` or ``load_state_dict`` the next step arranges the block anew. Before one
    is captured in a CUDA graph, take one. The learning rate may be a tensor on the device.

    Args:
        named_parameters: ``model.named_parameters()``. Those without a gradient are skipped.
        lr: learning rate; schedulers work as ever.
        momentum: factor of the running sum of gradients.
        nesterov: whether to use Nesterov's form.
        weight_decay: added to the clipped gradient as ``weight_decay · w``.
        clipping: λ of :func:`clip_grads_`, ``eps`` likewise.
        eps: smallest weight norm that counts.
        exclude: names or patterns of parameters that are not clipped.
        no_decay: names or patterns of parameters that are not decayed; they form the second
            parameter group.

    Raises:
        TypeError, ValueError: as :func:`clip_grads_` does, and as ``torch.optim.SGD`` does.
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
        _check_numbers(clipping, eps)
        parameters = _by_name(named_parameters)
        spared = _select("parameter to exclude", exclude, parameters)
        undecayed = _select("parameter not to decay", no_decay, parameters)
        groups: list[dict[str, Any]] = []
        for decay, some in ((weight_decay, parameters.keys() - undecayed), (0.0, undecayed)):
            members = [(name, parameters[name]) for name in parameters if name in some]
            if members:
                unclipped = [name for name, _ in members if name in spared]
                groups.append({"params": members, "weight_decay": decay, "unclipped": unclipped})
        self._blocks: list[_Block] = []
        super().__init__(groups, lr, momentum, weight_decay=weight_decay, nesterov=nesterov)
        self.defaults |= {"clipping": clipping, "eps": eps, "unclipped": []}
        for group in self.param_groups:
            group |= {"clipping": clipping, "eps": eps}

    @property
    def clipped(self) -> Clipped:
        """What the latest step clipped."""
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
        """Take up what was saved, by this class or by ``torch.optim.SGD``."""
        mine = getattr(self, "param_groups", state["param_groups"])  # none when it is unpickled
        for group, now in zip(state["param_groups"], mine, strict=True):
            for key in ("clipping", "eps", "unclipped"):
                group.setdefault(key, now[key])
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
        blocks = []
        for group in self.param_groups:
            alike: dict[_Kind, dict[str, Tensor]] = {}
            for name, p in zip(group["param_names"], group["params"], strict=True):
                if p.grad is not None or id(p) in ours:
                    alike.setdefault(_kind(p), {})[name] = p
            for kind, named in alike.items():
                _check_kind(kind, named)
                blocks.append(_Block(group, named, self.state))
        self._blocks = blocks


class _Block:
    """Parameters of one group, device and type, in one piece of memory.

    ``memory [2, total]`` holds weights in row 0 and gradients in row 1; first what is clipped, by
    length of units, so that all units of one length are one matrix ``[2, units, length]``.
    """

    def __init__(
        self, group: dict[str, Any], named: dict[str, Tensor], state: Mapping[Tensor, Any]
    ) -> None:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("take a step of ClippedSGD before you capture one in a CUDA graph")
        spared = set(group["unclipped"])
        length = {name: _unit_length(parameter) for name, parameter in named.items()}
        self.group = group
        self.names = sorted(named, key=lambda name: (name in spared, length[name]))
        self.parameters = [named[name] for name in self.names]
        clipped = [name for name in self.names if name not in spared]
        self.units = [named[name].numel() // length[name] for name in clipped]
        self.factor: Tensor | None = None
        self.absent: list[int] = []

        starts, spans, end = [], [], 0
        for key, names in groupby(self.names, key=lambda name: (name in spared, length[name])):
            first = end = math.ceil(end / _ALIGNMENT) * _ALIGNMENT
            for name in names:
                starts.append(end)
                end += named[name].numel()
            spans.append((first, end, *key))
        device, dtype = self.parameters[0].device, self.parameters[0].dtype
        memory = torch.zeros(2, end, device=device, dtype=dtype)
        self.weights, self.gradients = memory
        self.momentum = torch.zeros_like(self.weights) if group["momentum"] else None
        # Up to torch 2.13 the fused kernel on a CPU leaves 16-bit weights as they were, in silence
        # (pytorch issue 191763).
        self.fused = device.type != "cpu" or dtype in (torch.float32, torch.float64)
        self.matrices = [memory[:, a:b].view(2, -1, n) for a, b, out, n in spans if not out]
        self.clippable = [gradients for _, gradients in self.matrices]
        self.rows = [len(gradients) for gradients in self.clippable]
        self.places: list[Tensor] = []  # of the gradients
        self.buffers: list[Tensor] = []  # of the momentum
        for parameter, start in zip(self.parameters, starts, strict=True):
            self.places.append(_place(self.gradients, start, parameter))
            # Through DLPack each parameter gets a storage of its own over its part of the memory.
            # With one storage for all, torch.save would write all of it for any of them, and
            # Accelerate would take them for tied and save only the first.
            part = from_dlpack(self.weights[start : start + parameter.numel()])
            parameter.data = _place(part, 0, parameter).copy_(parameter)
            if self.momentum is not None:
                buffer = _place(self.momentum, start, parameter)
                earlier = state[parameter].get("momentum_buffer")
                if earlier is not None:
                    buffer.copy_(earlier)
                state[parameter]["momentum_buffer"] = buffer
                self.buffers.append(buffer)
        self.pointers = [parameter.data_ptr() for parameter in self.parameters]

    def intact(self) -> bool:
        """Whether the parameters are where they were put."""
        if self.momentum is None and self.group["momentum"]:
            return False
        return [parameter.data_ptr() for parameter in self.parameters] == self.pointers

    def step(self) -> None:
        """Clip and update all that have a gradient."""
        group = self.group
        gradients: list[Any] = [parameter.grad for parameter in self.parameters]
        places = self.places
        self.absent = [i for i, gradient in enumerate(gradients) if gradient is None]
        # What has no gradient this time is put back afterwards: rare, so it may cost a copy.
        kept = [(t, t.clone()) for i in self.absent for t in self._of(i)]
        if self.absent:
            places = [places[i] for i, g in enumerate(gradients) if g is not None]
            gradients = [g for g in gradients if g is not None]
            if not gradients:
                return
        torch._foreach_copy_(places, gradients)
        if self.matrices:
            norm, dtype = torch.linalg.vector_norm, _norm_type(self.weights)
            norms = torch.cat([norm(m, dim=2, dtype=dtype) for m in self.matrices], dim=1)
            self.factor = _factors(norms[0], norms[1], group["clipping"], group["eps"])
            torch._foreach_mul_(self.clippable, self.factor[:, None].split(self.rows))
        momentum: list[Any] = [self.momentum] if group["momentum"] else []
        hyper = {name: group[name] for name in _HYPER}
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
        for tensor, before in kept:
            tensor.copy_(before)
        torch.autograd.graph.increment_version(self.parameters)

    def factors(self) -> dict[str, Tensor]:
        """Name → factor of each unit in the latest step."""
        if self.factor is None:
            return {}
        parts = zip(self.names, self.factor.split(self.units), strict=False)  # unclipped come last
        return {name: part for i, (name, part) in enumerate(parts) if i not in self.absent}

    def _of(self, i: int) -> list[Tensor]:
        return [self.parameters[i], *self.buffers[i : i + 1]]


#: What torch's SGD is told, as the options of a parameter group are called.
_HYPER = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")

#: Where a new unit length begins in a block: a multiple of so many elements, for aligned access.
_ALIGNMENT = 64


def _unit_length(parameter: Tensor) -> int:
    shape = parameter.shape
    return max(1, math.prod(shape if _is_vector(parameter) else shape[1:]))


def _place(memory: Tensor, start: int, like: Tensor) -> Tensor:
    """The part of ``memory`` at ``start`` in the shape of ``like``, unit after unit.

    The order within a unit is that of ``like``: channels-last weights stay channels-last.
    """
    stride = torch.empty_like(like, device="meta").stride()
    if like.ndim and stride[0] * len(like) != like.numel():  # units are not the slowest dimension
        stride = torch.empty(like.shape, device="meta").stride()
    return memory[start : start + like.numel()].as_strided(like.shape, stride)


def _norms(tensors: list[Tensor], vectors: int) -> Tensor:
    """Norms of the first ``vectors`` tensors, then of each index of dimension 0 of the others."""
    norm, dtype = torch.linalg.vector_norm, _norm_type(tensors[0])
    norms = [norm(t, dim=tuple(range(1, t.ndim)), dtype=dtype) for t in tensors[vectors:]]
    if vectors:
        norms.insert(0, torch.stack(torch._foreach_norm(tensors[:vectors], dtype=dtype)))
    return torch.cat(norms)


def _norm_type(tensor: Tensor) -> torch.dtype | None:
    return torch.float32 if tensor.dtype in (torch.bfloat16, torch.float16) else None


def _factors(weights: Tensor, gradients: Tensor, clipping: float, eps: float) -> Tensor:
    """What to multiply gradients by, from the norms of units: a vector each."""
    bound = weights.clamp(min=eps).mul_(clipping)
    norms = gradients.nan_to_num(nan=math.nan, posinf=math.nan)
    # The floor is the authors' too; it engages only where clipping * eps is below it.
    factor = bound / norms.clamp(min=1e-6)
    return torch.where(norms <= bound, 1.0, factor)  # nan compares false and stays


def _facing(factor: Tensor, gradient: Tensor) -> Tensor:
    """``factor [units]`` in a shape that broadcasts over ``gradient``."""
    if gradient.ndim == 1:
        return factor
    return factor.view(-1, *[1] * (gradient.ndim - 1)) if gradient.ndim else factor.view(())


def _by_name(named_parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    try:
        pairs = list(named_parameters)
        parameters = dict(pairs)
        named = all(isinstance(name, str) for name in parameters)
    except (TypeError, ValueError):
        named = False
    if not named or isinstance(named_parameters, Mapping):
        raise TypeError("expected (name, parameter) pairs, such as model.named_parameters()")
    if len(parameters) < len(pairs):
        raise ValueError("two parameters have the same name; give each a name of its own")
    if len(set(map(id, parameters.values()))) < len(pairs):
        raise ValueError("a parameter is given under two names; give each parameter once")
    return parameters


def _select(kind: str, entries: Iterable[str], names: Iterable[str]) -> set[str]:
    """The names that are entries or match one as a pattern."""
    if isinstance(entries, str):
        raise TypeError(f"{kind}: expected a list of names, got the text {entries!r}")
    names = list(names)
    found: set[str] = set()
    for entry in entries:
        matches = [entry] if entry in names else matching(names, entry)
        if not matches:
            near = ", ".join(get_close_matches(entry, names, cutoff=0.4)) or ", ".join(names[-3:])
            raise ValueError(f"{kind}: {entry!r} matches no name; nearest: {near}")
        found.update(matches)
    return found


def _check_numbers(clipping: float, eps: float) -> None:
    if not (0 < clipping < math.inf and 0 <= eps < math.inf):
        raise ValueError(
            f"clipping is {clipping} and eps is {eps}; expected a number above 0, such as 0.01, "
            "and one of at least 0, such as 1e-3"
        )


_Kind = tuple[torch.device, torch.dtype, torch.layout]


def _kind(parameter: Tensor) -> _Kind:
    """What tensors must share to be worked on together."""
    layout = torch.strided if parameter.grad is None else parameter.grad.layout
    return parameter.device, parameter.dtype, layout


def _check_kind(kind: _Kind, named: dict[str, Tensor]) -> None:
    _, dtype, layout = kind
    if dtype.is_complex:
        what = "complex"
    elif layout is not torch.strided:
        what = str(layout).removeprefix("torch.")
    elif any(hasattr(parameter, "device_mesh") for parameter in named.values()):
        what = "sharded"
    else:
        return
    raise TypeError(
        f"gradients of {', '.join(named)} are {what}; expected dense, real and whole ones"
    )

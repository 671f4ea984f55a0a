"""Adaptive gradient clipping (AGC), for any network and any training loop.

A unit's gradient may not be larger than a fixed share of the unit's weights (arXiv 2102.06171,
section 4, equation 3): where ``‖G_i‖ > λ max(‖W_i‖, ε)`` it is scaled down to that bound; elsewhere
it stays as it is, bit for bit. Between backward and step::

    parameters = list(model.named_parameters())
    ...
    loss.backward()
    agc.clip_grads_(parameters, clipping=0.01, exclude=["fc.weight"])
    optimizer.step()

What a unit is follows the authors' code: a parameter that has at most one dimension once squeezed
(a bias, the gains of a layer, the scalar of SkipInit) is one unit as a whole; otherwise every index
of dimension 0 is one: an output of a weight ``[out, in]`` or ``[out, in, height, width]``.
(Transposed convolutions store their inputs first and are clipped by input.) Differences:

- from timm 1.0.31: its gains have shape ``[out, 1, 1, 1]`` and it clips each on its own;
  ``units="timm"`` does so too, and then equals timm bit for bit in float32 on a CPU. In bfloat16
  the two differ by about 1 %: norms of half-precision tensors are taken in float32 here;
- from both: a unit whose gradient norm is nan, infinite or too large for its type becomes nan as a
  whole. A norm that overflows would otherwise silently turn its gradient into zeros.

Nothing here waits for the device or branches on values, so all of it can be captured in a CUDA
graph. Under DistributedDataParallel every process clips the same averaged gradients; parameters
that FSDP has sharded, in either version, are refused. :func:`attach` clips in loops that are not
yours; :class:`nbrepro.optim.ClippedSGD` clips and steps in one.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nbrepro._suggest import choose, select


def is_vector(parameter: Tensor) -> bool:
    """Whether it has at most one dimension once squeezed."""
    return parameter.ndim <= 1 or parameter.numel() == max(parameter.shape)


#: Rule → whether a parameter is one unit as a whole; if not, each index of dimension 0 is a unit.
UNITS: dict[str, Callable[[Tensor], bool]] = {
    "official": is_vector,
    "timm": lambda parameter: parameter.ndim <= 1,
    "layer": lambda parameter: True,
}


def unitwise_norm(tensors: list[Tensor], whole: int) -> Tensor:
    """The norms of all units of ``tensors``, one after the other ``[units]``.

    One call for all that are one unit, and one for each of the others, makes clipping fast in deep
    networks.

    Args:
        tensors: at least one, all of one device and type.
        whole: so many of them, the first, are one unit each, of any shape; each of the others has
            its units along dimension 0 ``[units, ...]``.

    Raises:
        TypeError: for a tensor instead of a list of them.
        ValueError: for an empty list.
    """
    if isinstance(tensors, Tensor):
        raise TypeError("expected a list of tensors, got a tensor; put it into a list")
    if not tensors:
        raise ValueError("there are no tensors; expected at least one to take norms of")
    dtype = norm_type(tensors[0])
    norms = [
        torch.linalg.vector_norm(tensor, dim=tuple(range(1, tensor.ndim)), dtype=dtype)
        for tensor in tensors[whole:]
    ]
    if whole:
        norms.insert(0, torch.stack(torch._foreach_norm(tensors[:whole], dtype=dtype)))
    return torch.cat(norms)


def clip_factor(weight_norm: Tensor, grad_norm: Tensor, clipping: float, eps: float) -> Tensor:
    """Equation 3: the factor for the gradient of each unit ``[units]``; 1 leaves it unchanged."""
    bound = weight_norm.clamp(min=eps).mul_(clipping)
    norm = grad_norm.nan_to_num(nan=math.nan, posinf=math.nan)
    # The floor is the authors' too; it engages only where clipping * eps is below it.
    factor = bound / norm.clamp(min=1e-6)
    return torch.where(norm <= bound, 1.0, factor)  # nan compares false and stays


def clip_grads_(
    named_parameters: Iterable[tuple[str, Tensor]],
    clipping: float = 0.01,
    eps: float = 1e-3,
    exclude: Iterable[str] = (),
    units: str = "official",
) -> "Clipped":
    """Clip the gradients of ``named_parameters`` in place, unit by unit.

    Call it after backward (and after unscaling, if a loss scaler is used) and before the optimizer
    adds weight decay or momentum; with gradient accumulation only before an optimizer step.

    Args:
        named_parameters: ``model.named_parameters()``, or a list of it made once, which saves the
            walk through the model. Those without a gradient are skipped.
        clipping: λ, the largest ratio of gradient norm to weight norm; see :func:`ratios`.
        eps: weight norms below count as ``eps``, so that zero-initialized units can move.
        exclude: names, or patterns such as ``head.*``, of parameters to leave alone. The authors
            leave out the last layer's weight, not its bias.
        units: ``official``, ``timm``, or ``layer`` for one ratio per parameter.

    Returns:
        By name the share of units that were clipped; see :class:`Clipped` and :func:`share`.

    Raises:
        TypeError: for what is no pair of a name and a tensor, and for gradients that are sparse,
            complex or sharded.
        ValueError: for a generator that was used before, the tensors of a ``state_dict``, an entry
            of ``exclude`` that matches no name, an unknown rule, or numbers out of range.
    """
    check_numbers(clipping, eps)
    left, is_whole = _checked(named_parameters, exclude, units)
    return _clip(left, clipping, eps, is_whole)


def _checked(
    named_parameters: Iterable[tuple[str, Tensor]], exclude: Iterable[str], units: str
) -> tuple[dict[str, Tensor], Callable[[Tensor], bool]]:
    """What is to be clipped and the rule for its units, once both have been checked."""
    parameters = by_name(named_parameters)
    unclipped = select("parameter to exclude", exclude, parameters)
    is_whole = UNITS[choose("rule for units", units, UNITS)]
    return {name: p for name, p in parameters.items() if name not in unclipped}, is_whole


@torch.no_grad()
def _clip(
    parameters: dict[str, Tensor], clipping: float, eps: float, is_whole: Callable[[Tensor], bool]
) -> "Clipped":
    chosen = {name: p for name, p in parameters.items() if p.grad is not None}
    factors = {name: p.new_ones(0) for name, p in chosen.items() if not p.numel()}  # no units
    for group in by_device_and_type({name: p for name, p in chosen.items() if name not in factors}):
        first = {name: weight for name, weight in group.items() if is_whole(weight)}
        # Those that are one unit come first: a union has the left side's names first.
        ordered, whole = first | group, len(first)
        weights = list(ordered.values())
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        factor = clip_factor(
            unitwise_norm(weights, whole), unitwise_norm(gradients, whole), clipping, eps
        )
        parts = factor.split([1] * whole + [len(weight) for weight in weights[whole:]])
        torch._foreach_mul_(gradients, list(map(_broadcastable, parts, gradients)))
        factors.update(zip(ordered, parts, strict=True))
    return Clipped({name: factors[name] for name in chosen})


class Clipped(Mapping[str, Tensor]):
    """What was clipped: name of a parameter → share of its units, a 0-dim tensor.

    A share is computed on access, and is 0 where there are no units. An object made while a CUDA
    graph was captured shows the latest replay. Printing it waits for the device and names the most
    clipped layers.

    Attributes:
        factors: name → what the gradient of each unit was multiplied by ``[units]``, 1 if it was
            not clipped.
    """

    def __init__(self, factors: dict[str, Tensor]) -> None:
        self.factors = factors

    def __getitem__(self, name: str) -> Tensor:
        return _share(self.factors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.factors)

    def __len__(self) -> int:
        return len(self.factors)

    def __repr__(self) -> str:
        shares = sorted(((name, float(part)) for name, part in self.items()), key=lambda x: -x[1])
        most = ", ".join(f"{name} {part:.0%}" for name, part in shares[:3] if part) or "none"
        units = sum(map(len, self.factors.values()))
        return f"Clipped({float(share(self)):.1%} of {units:,} units; most: {most})"


def share(clipped: Clipped) -> Tensor:
    """The clipped share of all units together: a 0-dim tensor, 0 if there are no units.

    It lies on the device of the first unit, and waits for none if all units are there.
    """
    by_device: dict[torch.device, list[Tensor]] = {}
    for factor in clipped.factors.values():
        if len(factor):
            by_device.setdefault(factor.device, []).append(factor)
    parts = [torch.cat(factors) for factors in by_device.values()]
    if len(parts) < 2:
        return _share(parts[0] if parts else torch.zeros(0))
    counts = [(part != 1).sum().to(parts[0].device) for part in parts]
    return torch.stack(counts).sum() / sum(map(len, parts))


def _share(factor: Tensor) -> Tensor:
    if not len(factor):
        return torch.zeros((), device=factor.device)
    return (factor != 1).float().mean()


@torch.no_grad()
def ratios(
    named_parameters: Iterable[tuple[str, Tensor]],
    eps: float = 1e-3,
    exclude: Iterable[str] = (),
    units: str = "official",
) -> dict[str, Tensor]:
    """Name → ``‖G_i‖ / max(‖W_i‖, ε)`` of each unit ``[units]``, to choose λ by.

    Between backward and :func:`clip_grads_`: a unit is clipped if its ratio is above λ. Give the
    parameters, ``eps``, ``exclude`` and ``units`` that it will be given.

    Raises:
        TypeError, ValueError: as :func:`clip_grads_` does for parameters, gradients, names and
            rules.
    """
    left, is_whole = _checked(named_parameters, exclude, units)
    chosen = {name: p for name, p in left.items() if p.grad is not None}
    by_device_and_type(chosen)  # refuses what clipping would
    return {
        name: unitwise_norm([p.grad], is_whole(p)) / unitwise_norm([p], is_whole(p)).clamp(min=eps)
        for name, p in chosen.items()
        if p.grad is not None
    }


def attach(
    optimizer: torch.optim.Optimizer,
    named_parameters: Iterable[tuple[str, Tensor]],
    clipping: float = 0.01,
    eps: float = 1e-3,
    exclude: Iterable[str] = (),
    units: str = "official",
) -> "Attached":
    """Clip before every step of ``optimizer``, whoever calls it: for loops that are not yours.

    Frameworks hand a closure to ``step`` that computes the gradients, or call it through a loss
    scaler; what is attached clips after the closure and after unscaling. (A hook that clips when
    ``step`` begins would clip the gradients of the step before.) Names are those of the model as it
    is now, so attach before it is compiled or wrapped. Copies of an optimizer lose what is attached
    to it, as they lose all hooks.

    Args:
        optimizer: of torch; with Accelerate the one that is given to ``prepare``.
        named_parameters: as for :func:`clip_grads_`, and so is the rest. Of these, what the
            optimizer trains when it steps is clipped: what another one trains is left alone, and
            what is not named is never clipped, also if it joins the optimizer later.

    Returns:
        A handle that says what the last step clipped, and can be removed.

    Raises:
        TypeError: for what is no optimizer, and for one that takes no hooks; else as
            :func:`clip_grads_`.
        ValueError: if the optimizer has none of the parameters, or one of them is clipped already
            by what was attached before; else as :func:`clip_grads_`.
        RuntimeError: from ``step``, if a fused optimizer is to unscale the gradients by itself.
            After ``scaler.unscale_(optimizer)`` it can be taken again.
    """
    if not hasattr(optimizer, "param_groups"):
        raise TypeError(
            f"expected an optimizer of torch, got {type(optimizer).__name__}; attach to what "
            "updates the parameters in its step()"
        )
    parameters = by_name(named_parameters)
    check_numbers(clipping, eps)
    left, is_whole = _checked(parameters.items(), exclude, units)
    if _trained(optimizer).isdisjoint(map(id, parameters.values())):
        raise ValueError(
            "the optimizer has none of these parameters; give those of the model that it trains, "
            "as they are when the optimizer is made"
        )
    hooks = getattr(optimizer, "_optimizer_step_pre_hooks", {}).values()
    others = [h.__self__ for h in hooks if isinstance(getattr(h, "__self__", None), Attached)]
    clipped = {p for other in others for p in other.parameters.values()}
    twice = [name for name, p in left.items() if p in clipped]
    if twice:
        more = f" and {len(twice) - 3} more" if len(twice) > 3 else ""
        raise ValueError(
            f"{', '.join(twice[:3])}{more} would be clipped twice, since clipping is attached to "
            "this optimizer already; remove() the handle of it first, or exclude what it clips"
        )
    return Attached(optimizer, left, partial(_clip, clipping=clipping, eps=eps, is_whole=is_whole))


def _trained(optimizer: torch.optim.Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


class Attached:
    """Clipping that is attached to an optimizer, see :func:`attach`.

    Attributes:
        clipped: what the last step clipped; empty before the first.
        parameters: name → what is clipped if the optimizer trains it.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: dict[str, Tensor],
        clip: Callable[[dict[str, Tensor]], Clipped],
    ) -> None:
        self.clipped = Clipped({})
        self.parameters = parameters
        self._clip = clip
        try:
            self._handle = optimizer.register_step_pre_hook(self._before_step)
        except AttributeError:  # a wrapper that is an Optimizer by name only
            raise TypeError(
                f"{type(optimizer).__name__} takes no hooks; attach to the optimizer inside it, "
                "or before it is wrapped"
            ) from None

    def remove(self) -> None:
        """Let the optimizer step without clipping again."""
        self._handle.remove()

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if getattr(optimizer, "grad_scale", None) is not None:
            if hasattr(optimizer, "found_inf"):
                # The scaler takes these away only after a step that returns; left here, they would
                # pass for those of the next step, whose gradients may be unscaled.
                del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
            raise RuntimeError(
                "gradients are still scaled when this fused optimizer steps, so they cannot be "
                "clipped; call scaler.unscale_(optimizer) before scaler.step(optimizer)"
            )
        own = _trained(optimizer)
        chosen = {name: p for name, p in self.parameters.items() if id(p) in own}
        itself, *given = args
        closure = given.pop(0) if given else kwargs.get("closure")
        if closure is None:
            self.clipped = self._clip(chosen)
            return None

        def clipped_closure() -> Any:
            loss = closure()
            self.clipped = self._clip(chosen)
            return loss

        return (itself, *given), {**kwargs, "closure": clipped_closure}


def _broadcastable(factor: Tensor, gradient: Tensor) -> Tensor:
    """``factor [units]`` in a shape that broadcasts over ``gradient``."""
    if gradient.ndim == 1:
        return factor
    return factor.view(-1, *[1] * (gradient.ndim - 1)) if gradient.ndim else factor.view(())


def norm_type(tensor: Tensor) -> torch.dtype | None:
    """The type in which norms are taken, if not the tensor's own: float32 for half precision."""
    return torch.float32 if tensor.dtype in (torch.bfloat16, torch.float16) else None


def by_name(named_parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Name → parameter; each name and each parameter must be given once.

    Raises:
        TypeError: for anything but pairs of a name and a tensor.
        ValueError: for a generator that was used before, a name or a parameter that is given twice,
            and tensors of which none has or can get a gradient.
    """
    if isinstance(named_parameters, Mapping) or not isinstance(named_parameters, Iterable):
        raise TypeError(_no_pair(named_parameters))
    pairs = list(named_parameters)
    try:
        parameters = dict(pairs)
        proper = all(issubclass(kind, str) for kind in set(map(type, parameters)))
        proper &= all(issubclass(kind, Tensor) for kind in set(map(type, parameters.values())))
    except (TypeError, ValueError):
        proper = False
    if not proper:
        raise TypeError(next(filter(None, map(_no_pair, pairs))))
    if not pairs and isinstance(named_parameters, Iterator):
        raise ValueError(
            "there are no parameters; a generator gives them only once, so pass "
            "model.named_parameters() anew, or a list of it"
        )
    if len(parameters) < len(pairs):
        raise ValueError("two parameters have the same name; give each a name of its own")
    if len(set(map(id, parameters.values()))) < len(pairs):
        raise ValueError("a parameter is given under two names; give each parameter once")
    if pairs and not any(map(_may_have_gradient, parameters.values())):
        raise ValueError(
            "none of these tensors has a gradient or can get one; a state_dict() holds copies "
            "without, so pass model.named_parameters()"
        )
    return parameters


def _no_pair(given: Any) -> str:
    """What to say of what should be a name and a tensor; nothing if it is."""
    said = "expected (name, parameter) pairs, such as model.named_parameters(); got "
    if isinstance(given, Mapping) and "params" in given:
        return (
            f"{said}a parameter group. ClippedSGD makes its groups from names: give it "
            "no_decay=nbrepro.optim.undecayed(model) instead of parameter_groups(model, ...)"
        )
    if not isinstance(given, (tuple, list)) or len(given) != 2 or not isinstance(given[0], str):
        return f"{said}a {type(given).__name__}"
    if not isinstance(given[1], Tensor):
        return f"{said}a {type(given[1]).__name__} named {given[0]!r}"
    return ""


def _may_have_gradient(tensor: Tensor) -> bool:
    """A frozen parameter may, once it is thawed; a tensor of a ``state_dict`` may not."""
    return tensor.requires_grad or isinstance(tensor, nn.Parameter) or tensor.grad is not None


def check_numbers(clipping: float, eps: float) -> None:
    """Raise TypeError for what is no number, ValueError for one that is out of range."""
    try:
        possible = 0 < clipping < math.inf and 0 <= eps < math.inf
    except TypeError:
        raise TypeError(f"clipping is {clipping!r} and eps is {eps!r}; expected numbers") from None
    if not possible:
        raise ValueError(
            f"clipping is {clipping} and eps is {eps}; expected a number above 0, such as 0.01, "
            "and one of at least 0, such as 1e-3"
        )


#: What parameters have that FSDP shards: those of ``fully_shard``, and those that
#: ``FullyShardedDataParallel`` flattens, flat or as they were.
_SHARDED = ("device_mesh", "_fsdp_flattened")


def by_device_and_type(parameters: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Parameters grouped by device and type, so that each group can be worked on at once.

    Raises:
        TypeError: for gradients that are complex, sparse or sharded.
    """
    groups: dict[tuple[torch.device, torch.dtype, torch.layout], dict[str, Tensor]] = {}
    for name, p in parameters.items():
        layout = torch.strided if p.grad is None else p.grad.layout
        groups.setdefault((p.device, p.dtype, layout), {})[name] = p
    for (_, dtype, layout), group in groups.items():
        if dtype.is_complex:
            what = "complex"
        elif layout is not torch.strided:
            what = str(layout).removeprefix("torch.")
        elif any(hasattr(parameter, mark) for parameter in group.values() for mark in _SHARDED):
            what = "sharded"
        else:
            continue
        raise TypeError(
            f"gradients of {', '.join(group)} are {what}; expected dense, real and unsharded ones"
        )
    return list(groups.values())

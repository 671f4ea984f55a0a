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
that FSDP has sharded are refused. :func:`attach` clips in loops that are not yours;
:class:`nbrepro.optim.ClippedSGD` clips and steps in one.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

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

    The first ``whole`` tensors are one unit each. One call for all of them, and one for each of the
    others, makes clipping fast in deep networks.
    """
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
        TypeError: for parameters without names, and for sparse, complex or sharded gradients.
        ValueError: for a generator that was used before, an entry of ``exclude`` that matches no
            name, an unknown rule, or numbers out of range.
    """
    return _checked(named_parameters, clipping, eps, exclude, units)()


def _checked(
    named_parameters: Iterable[tuple[str, Tensor]],
    clipping: float,
    eps: float,
    exclude: Iterable[str],
    units: str,
) -> Callable[[], "Clipped"]:
    """What clips, once all it is given has been checked."""
    check_numbers(clipping, eps)
    parameters = by_name(named_parameters)
    spared = select("parameter to exclude", exclude, parameters)
    is_whole = UNITS[choose("rule for units", units, UNITS)]
    left = {name: p for name, p in parameters.items() if name not in spared}
    return lambda: _clip(left, clipping, eps, is_whole)


@torch.no_grad()
def _clip(
    parameters: dict[str, Tensor], clipping: float, eps: float, is_whole: Callable[[Tensor], bool]
) -> "Clipped":
    chosen = {name: p for name, p in parameters.items() if p.grad is not None}
    factors: dict[str, Tensor] = {}
    for group in alike(chosen):
        first = {name: weight for name, weight in group.items() if is_whole(weight)}
        ordered, whole = first | group, len(first)  # those that are one unit come first
        weights = list(ordered.values())
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        factor = clip_factor(
            unitwise_norm(weights, whole), unitwise_norm(gradients, whole), clipping, eps
        )
        parts = factor.split([1] * whole + [len(weight) for weight in weights[whole:]])
        torch._foreach_mul_(gradients, list(map(_facing, parts, gradients)))
        factors.update(zip(ordered, parts, strict=True))
    return Clipped({name: factors[name] for name in chosen})


class Clipped(Mapping[str, Tensor]):
    """What was clipped: name of a parameter → share of its units, a 0-dim tensor.

    A share is computed on access. An object made while a CUDA graph was captured shows the latest
    replay. Printing it waits for the device and names the most clipped layers.

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

    def __repr__(self) -> str:
        shares = sorted(((name, float(part)) for name, part in self.items()), key=lambda x: -x[1])
        most = ", ".join(f"{name} {part:.0%}" for name, part in shares[:3] if part) or "none"
        units = sum(map(len, self.factors.values()))
        return f"Clipped({float(share(self)):.1%} of {units:,} units; most: {most})"


def share(clipped: Clipped) -> Tensor:
    """The clipped share of all units together: a 0-dim tensor, 0 if there are no units."""
    if not clipped:
        return torch.zeros(())
    return (torch.cat(list(clipped.factors.values())) != 1).float().mean()


@torch.no_grad()
def ratios(
    named_parameters: Iterable[tuple[str, Tensor]], eps: float = 1e-3, units: str = "official"
) -> dict[str, Tensor]:
    """Name → ``‖G_i‖ / max(‖W_i‖, ε)`` of each unit ``[units]``, to choose λ by.

    Between backward and :func:`clip_grads_`: a unit is clipped if its ratio is above λ.
    """
    is_whole = UNITS[choose("rule for units", units, UNITS)]
    return {
        name: unitwise_norm([p.grad], is_whole(p)) / unitwise_norm([p], is_whole(p)).clamp(min=eps)
        for name, p in by_name(named_parameters).items()
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
        named_parameters: as for :func:`clip_grads_`, and so is the rest.

    Returns:
        A handle that says what the last step clipped, and can be removed.

    Raises:
        TypeError: for an optimizer that takes no hooks; else as :func:`clip_grads_`.
        ValueError: if the optimizer has none of the parameters; else as :func:`clip_grads_`.
        RuntimeError: from ``step``, if a fused optimizer is to unscale the gradients by itself.
    """
    parameters = by_name(named_parameters)
    clip = _checked(parameters.items(), clipping, eps, exclude, units)
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in owned for p in parameters.values()):
        raise ValueError(
            "the optimizer has none of these parameters; give those of the model that it trains, "
            "as they are when the optimizer is made"
        )
    return Attached(optimizer, clip)


class Attached:
    """Clipping that is attached to an optimizer, see :func:`attach`.

    Attributes:
        clipped: what the last step clipped; empty before the first.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, clip: Callable[[], Clipped]) -> None:
        self.clipped = Clipped({})
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
            raise RuntimeError(
                "gradients are still scaled when this fused optimizer steps, so they cannot be "
                "clipped; call scaler.unscale_(optimizer) before scaler.step(optimizer)"
            )
        itself, *given = args
        closure = given.pop(0) if given else kwargs.get("closure")
        if closure is None:
            self.clipped = self._clip()
            return None

        def clipped_closure() -> Any:
            loss = closure()
            self.clipped = self._clip()
            return loss

        return (itself, *given), {**kwargs, "closure": clipped_closure}


def _facing(factor: Tensor, gradient: Tensor) -> Tensor:
    """``factor [units]`` in a shape that broadcasts over ``gradient``."""
    if gradient.ndim == 1:
        return factor
    return factor.view(-1, *[1] * (gradient.ndim - 1)) if gradient.ndim else factor.view(())


def norm_type(tensor: Tensor) -> torch.dtype | None:
    """The type in which norms are taken, if not the tensor's own: float32 for half precision."""
    return torch.float32 if tensor.dtype in (torch.bfloat16, torch.float16) else None


def by_name(named_parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Name → parameter; each name and each parameter must be given once."""
    try:
        pairs = list(named_parameters)
        parameters = dict(pairs)
        named = all(isinstance(name, str) for name in parameters)
    except (TypeError, ValueError):
        named = False
    if not named or isinstance(named_parameters, Mapping):
        raise TypeError("expected (name, parameter) pairs, such as model.named_parameters()")
    if not pairs and isinstance(named_parameters, Iterator):
        raise ValueError(
            "there are no parameters; a generator gives them only once, so pass "
            "model.named_parameters() anew, or a list of it"
        )
    if len(parameters) < len(pairs):
        raise ValueError("two parameters have the same name; give each a name of its own")
    if len(set(map(id, parameters.values()))) < len(pairs):
        raise ValueError("a parameter is given under two names; give each parameter once")
    return parameters


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


def alike(parameters: dict[str, Tensor]) -> list[dict[str, Tensor]]:
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
        elif any(hasattr(parameter, "device_mesh") for parameter in group.values()):
            what = "sharded"
        else:
            continue
        raise TypeError(
            f"gradients of {', '.join(group)} are {what}; expected dense, real and unsharded ones"
        )
    return list(groups.values())

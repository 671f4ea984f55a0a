"""Adaptive gradient clipping (AGC), for any network and any training loop.

A unit's gradient may not be larger than a fixed share of the unit's weights (arXiv 2102.06171,
section 4, equation 3): where ``‖G_i‖ > λ max(‖W_i‖, ε)`` it is scaled down to that bound; elsewhere
it stays as it is, bit for bit. Between backward and step::

    parameters = list(model.named_parameters())
    ...
    loss.backward()
    agc.clip_grads_(parameters, clipping=0.01, exclude=["fc.weight"])
    optimizer.step()

:class:`nbrepro.optim.ClippedSGD` is clipping and SGD in one optimizer, several times faster for
deep networks of small layers.

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

import torch
from torch import Tensor

from nbrepro._suggest import choose


def is_vector(parameter: Tensor) -> bool:
    """Whether it has at most one dimension once squeezed."""
    return parameter.ndim <= 1 or parameter.numel() == max(parameter.shape)


#: Rule → whether a parameter is one unit as a whole.
UNITS: dict[str, Callable[[Tensor], bool]] = {
    "official": is_vector,
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
    check_numbers(clipping, eps)
    parameters = by_name(named_parameters)
    spared = select("parameter to exclude", exclude, parameters)
    whole = UNITS[choose("rule for units", units, UNITS)]
    alike: dict[Kind, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
    for name, weight in parameters.items():
        if weight.grad is not None and name not in spared:
            vectors, others = alike.setdefault(kind_of(weight), ({}, {}))
            (vectors if whole(weight) else others)[name] = weight

    factors: dict[str, Tensor] = {}
    for kind, (vectors, others) in alike.items():
        check_kind(kind, vectors | others)
        weights = [*vectors.values(), *others.values()]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        norms = [_norms(tensors, len(vectors)) for tensors in (weights, gradients)]
        factor = clip_factor(norms[0], norms[1], clipping, eps)
        parts = factor.split([1] * len(vectors) + [len(weight) for weight in others.values()])
        torch._foreach_mul_(gradients, list(map(_facing, parts, gradients)))
        factors.update(zip([*vectors, *others], parts, strict=True))
    return Clipped({name: factors[name] for name in parameters if name in factors})


def _norms(tensors: list[Tensor], vectors: int) -> Tensor:
    """Norms of the first ``vectors`` tensors, then of each index of dimension 0 of the others."""
    norm, dtype = torch.linalg.vector_norm, norm_type(tensors[0])
    norms = [norm(t, dim=tuple(range(1, t.ndim)), dtype=dtype) for t in tensors[vectors:]]
    if vectors:
        norms.insert(0, torch.stack(torch._foreach_norm(tensors[:vectors], dtype=dtype)))
    return torch.cat(norms)


def norm_type(tensor: Tensor) -> torch.dtype | None:
    """The type in which norms are taken: float32 for half precision."""
    return torch.float32 if tensor.dtype in (torch.bfloat16, torch.float16) else None


def clip_factor(weights: Tensor, gradients: Tensor, clipping: float, eps: float) -> Tensor:
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


def by_name(named_parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """The parameters by name, each given once."""
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


def select(kind: str, entries: Iterable[str], names: Iterable[str]) -> set[str]:
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


def check_numbers(clipping: float, eps: float) -> None:
    """Refuse what is out of range."""
    if not (0 < clipping < math.inf and 0 <= eps < math.inf):
        raise ValueError(
            f"clipping is {clipping} and eps is {eps}; expected a number above 0, such as 0.01, "
            "and one of at least 0, such as 1e-3"
        )


Kind = tuple[torch.device, torch.dtype, torch.layout]


def kind_of(parameter: Tensor) -> Kind:
    """What tensors must share to be worked on together."""
    layout = torch.strided if parameter.grad is None else parameter.grad.layout
    return parameter.device, parameter.dtype, layout


def check_kind(kind: Kind, named: dict[str, Tensor]) -> None:
    """Refuse gradients whose units have no norm of their own here."""
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

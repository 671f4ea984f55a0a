"""Measure what training made of a network's BatchNorm layers (arXiv 2003.00152, section 5)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from nbrepro.records.features import Clamp, Features, Layer, Relu

#: Below which |γ| is set to zero, beside the thresholds that remove the shares below.
THRESHOLDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
#: Of all channels, those with the smallest |γ|.
SHARES = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5)


def measure(
    model: nn.Module, run: str, accuracy: Callable[[], float], count: Callable[[Tensor], Tensor]
) -> Features | None:
    """γ, β, ReLUs that are off, and what is left without small γ; the network stays as it is.

    Args:
        model: the trained network, in evaluation mode.
        run: the hash of the run.
        accuracy: passes all test images through the network and returns the test accuracy.
        count: adds up a tensor of counts over all processes.

    Returns:
        What was measured; ``None`` for a network without γ.
    """
    named = {name: module for name, module in model.named_modules() if _has_gamma(module)}
    if not named:
        return None
    norms = list(named.values())
    with _Relus(named) as relus:
        whole = accuracy()
    size = torch.cat([norm.weight.detach().abs() for norm in norms])
    by_size, clamped = size.sort().values, [Clamp(0.0, 0.0, round(whole, 6))]
    # Midway between two channels' |γ|: a threshold then removes the same ones wherever it is used.
    ranks = [rank for share in SHARES if (rank := round(share * len(size)))]
    quantiles = [float(by_size[rank - 1 : rank + 1].mean()) for rank in ranks]
    for threshold in sorted({*THRESHOLDS, *quantiles}):
        with _without_small(norms, threshold):
            left = accuracy()
        share = float((size < threshold).double().mean())
        clamped.append(Clamp(_short(threshold), round(share, 6), round(left, 6)))
    return Features(
        run,
        tuple(Layer(name, _numbers(m.weight), _numbers(m.bias)) for name, m in named.items()),
        tuple(
            Relu(after, tuple(round(x, 4) for x in (count(off) / count(seen)).tolist()))
            for after, off, seen in relus.counted()
        ),
        tuple(clamped),
    )


def _has_gamma(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.affine


class _Relus(TorchFunctionMode):
    """Counts, while it is entered, at how many images and places each channel of a ReLU is zero."""

    def __init__(self, norms: dict[str, Any]) -> None:
        super().__init__()
        self._norms = norms
        self._found: list[tuple[str, Tensor, Tensor]] = []
        self._handles: list[Any] = []
        self._last: tuple[str, Tensor] | None = None
        self._place = 0

    def __enter__(self) -> "_Relus":
        first = True
        for name, norm in self._norms.items():
            self._handles.append(norm.register_forward_hook(self._after(name, first)))
            first = False
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def _after(self, name: str, first: bool) -> Callable[[nn.Module, Any, Tensor], None]:
        def remember(_: nn.Module, __: Any, output: Tensor) -> None:
            self._last = (name, output)
            if first:  # a forward pass begins
                self._place = 0

        return remember

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is F.relu:
            after = self._last[0] if self._last and args[0] is self._last[1] else ""
            self._count(after, output)
        return output

    def _count(self, after: str, output: Tensor) -> None:
        off = (output == 0).transpose(0, 1).flatten(1)
        counts = off.sum(dim=1).double()
        seen = torch.full_like(counts, off.shape[1])
        if self._place == len(self._found):
            self._found.append((after, counts, seen))
        else:
            self._found[self._place][1].add_(counts)
            self._found[self._place][2].add_(seen)
        self._place += 1

    def counted(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Of each ReLU the BatchNorm before it, and zeros and places per channel."""
        yield from self._found


@contextmanager
def _without_small(norms: Sequence[Any], threshold: float) -> Iterator[None]:
    """Every γ with ``|γ| < threshold`` is zero inside."""
    before = [norm.weight.detach().clone() for norm in norms]
    try:
        with torch.no_grad():
            for norm in norms:
                norm.weight.masked_fill_(norm.weight.abs() < threshold, 0)
        yield
    finally:
        with torch.no_grad():
            for norm, weight in zip(norms, before, strict=True):
                norm.weight.copy_(weight)


def _short(number: float) -> float:
    """Five significant digits: half a per mille of a per cent, and half the file."""
    return float(f"{number:.5g}")


def _numbers(tensor: Tensor) -> tuple[float, ...]:
    return tuple(_short(x) for x in tensor.detach().double().tolist())

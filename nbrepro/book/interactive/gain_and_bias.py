"""What γ and β do to one channel that a ReLU stands behind."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbrepro.book.interactive.parts import Slider, data, drawn, written

if TYPE_CHECKING:
    from IPython.display import HTML

#: Finer about zero, where a channel becomes a constant.
_GAMMAS = (-1.5, -1.25, -1, -0.75, -0.5, -0.25, -0.1, -0.05, -0.01, 0,
           0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.25, 1.5)  # fmt: skip
_BETAS = tuple(quarter / 4 for quarter in range(-10, 11))
#: Where zero lies, the width of one, the baseline, the height of the standard bell and of the rest.
_ZERO, _ONE, _BOTTOM, _STANDARD, _HIGHEST = 200.0, 32.0, 150.0, 52.0, 116.0
_END = 6.0  #: where the axis ends, to both sides
_TAIL = 4.0  #: how many deviations of a bell are drawn, to both sides
_PIECES = 40  #: of straight line that an outline has
_FAINT = 0.06  #: a deviation behind the ReLU that counts as no signal


@dataclass(frozen=True)
class Rectified:
    """A normal channel of mean β and deviation ``|γ|``, and what a ReLU leaves of it.

    Attributes:
        gamma: its scale; a negative one mirrors the channel, which a bell does not show.
        beta: its mean.
    """

    gamma: float
    beta: float

    @property
    def off(self) -> float:
        """The share of values that the ReLU makes zero: Φ(−β / ``|γ|``)."""
        if not self.gamma:
            return float(self.beta <= 0)
        return (1 + math.erf(-self.beta / abs(self.gamma) / math.sqrt(2))) / 2

    @property
    def mean(self) -> float:
        """Behind the ReLU."""
        return self.beta * (1 - self.off) + abs(self.gamma) * self._height

    @property
    def std(self) -> float:
        """The standard deviation behind the ReLU."""
        squares = (self.beta**2 + self.gamma**2) * (1 - self.off)
        squares += self.beta * abs(self.gamma) * self._height
        return math.sqrt(max(0.0, squares - self.mean**2))

    @property
    def _height(self) -> float:
        """The density of the standard normal distribution where the ReLU cuts."""
        if not self.gamma:
            return 0.0
        return math.exp(-((self.beta / self.gamma) ** 2) / 2) / math.sqrt(2 * math.pi)

    @property
    def said(self) -> str:
        """What that means to the next layer."""
        if self.std < _FAINT:
            return (
                "As good as off, whatever the image."
                if self.mean < _FAINT
                else "As good as constant, whatever the image."
            )
        if self.off < 0.01:
            return "Always on: next to nothing is cut."
        return "What is left depends on the image."


def gain_and_bias(gamma: float = 0.5, beta: float = -0.5) -> "HTML":
    """The bell of a channel behind γ and β, and which part of it a ReLU cuts; sliders for both.

    Args:
        gamma: γ at the start.
        beta: β at the start.

    Raises:
        ValueError: for a start that the sliders cannot reach.
    """
    from nbrepro.book.captions import figure

    sliders = [Slider("gamma", "γ", _GAMMAS, gamma), Slider("beta", "β", _BETAS, beta)]
    channel = Rectified(gamma, beta)
    off, on = _halves(gamma, beta)
    left, right = _ZERO - _ONE * _END, _ZERO + _ONE * _END
    picture = drawn(
        "gain_and_bias",
        sliders=sliders,
        zero=_ZERO,
        bottom=_BOTTOM,
        ends=(left, right),
        ticks=[(_ZERO + _ONE * place, written(place)) for place in (-4, -2, 0, 2, 4)],
        before=_bell(1, 0, -_TAIL, _TAIL),
        off=off,
        on=on,
        cut=f"{(right - left) * channel.off:.2f}",
        gamma=written(gamma),
        beta=written(beta),
        channel=channel,
        data=data(
            zero=_ZERO, one=_ONE, bottom=_BOTTOM, standard=_STANDARD, highest=_HIGHEST, end=_END,
            tail=_TAIL, pieces=_PIECES, faint=_FAINT, width=right - left,
        ),
    )  # fmt: skip
    return figure(
        picture,
        takeaway="γ and β decide what the ReLU lets through.",
        caption=(
            "Dashed: the values of one normalized channel. Filled: the same times γ plus β; the "
            "grey part is negative, and the ReLU makes it zero. The bar shows both shares. Peaks "
            "of small γ are cut short. “As good as” means that a standard deviation below "
            f"{written(_FAINT)} is left."
        ),
        alt=(
            "A dashed bell around zero, and another one, moved by β and as wide as γ. The part of "
            f"it below zero is grey. With γ = {written(gamma)} and β = {written(beta)} that is "
            f"{100 * channel.off:.1f} % of the values. With γ = 0 the bell is a single line at β."
        ),
    )


def _halves(gamma: float, beta: float) -> tuple[str, str]:
    """The outlines of a channel's bell below zero and above."""
    width = abs(gamma)
    first, last, cut = -_TAIL, _TAIL, -_TAIL if beta > 0 else _TAIL
    if width:
        first, last = max(first, (-_END - beta) / width), min(last, (_END - beta) / width)
        cut = min(max(-beta / width, first), last)
    return _outline(gamma, beta, first, cut), _outline(gamma, beta, cut, last)


def _outline(gamma: float, beta: float, begin: float, end: float) -> str:
    """Of a bell, between two places that are given in its deviations from its mean."""
    line = _bell(gamma, beta, begin, end)
    return f"M{line.split()[0]} {_BOTTOM:g}L{line}V{_BOTTOM:g}Z"


def _bell(gamma: float, beta: float, begin: float, end: float) -> str:
    """The points of a bell's upper edge."""
    width = abs(gamma)
    tall = min(_STANDARD / width, _HIGHEST) if width else _HIGHEST
    steps = [begin + (end - begin) * piece / _PIECES for piece in range(_PIECES + 1)]
    points = [
        (_ZERO + _ONE * (beta + width * step), _BOTTOM - tall * math.exp(-step * step / 2))
        for step in steps
    ]
    return " ".join(f"{x:.2f} {y:.2f}" for x, y in points)

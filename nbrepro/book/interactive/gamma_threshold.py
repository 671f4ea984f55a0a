"""What a trained network is worth without its small γ."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbrepro.book.interactive.parts import Slider, data, drawn, written

if TYPE_CHECKING:
    from IPython.display import HTML

    from nbrepro.records.features import Features


@dataclass(frozen=True)
class GammaCurve:
    """What a trained network is worth without its small γ.

    Attributes:
        gamma: γ of every channel.
        thresholds: rising from 0, which removes nothing.
        accuracies: the test accuracy, from 0 to 1, with every γ of ``|γ| < threshold`` set to zero.

    Raises:
        ValueError: if thresholds do not rise from 0, or accuracies are not one for each.
    """

    gamma: Sequence[float]
    thresholds: Sequence[float]
    accuracies: Sequence[float]

    def __post_init__(self) -> None:
        rising = [0, *sorted({*self.thresholds} - {0})]
        if [*self.thresholds] != rising or len(self.accuracies) != len(rising) or not self.gamma:
            raise ValueError(
                f"{len(self.gamma)} γ, {len(self.thresholds)} thresholds and "
                f"{len(self.accuracies)} accuracies: expected some γ, and thresholds that rise "
                "from 0, with one accuracy each"
            )

    @classmethod
    def of(cls, features: "Features") -> "GammaCurve":
        """The curve of a recorded run."""
        clamped = features.clamped
        return cls(
            features.gamma,
            [clamp.threshold for clamp in clamped],
            [clamp.accuracy for clamp in clamped],
        )

    def off(self, threshold: float) -> float:
        """The share of channels that a threshold removes."""
        return sum(abs(gamma) < threshold for gamma in self.gamma) / len(self.gamma)

    def accuracy(self, threshold: float) -> float:
        """The accuracy at the last measured threshold that is not above this one."""
        return self.accuracies[bisect_right([*self.thresholds], threshold) - 1]


#: The axis of |γ|: where it begins, bins per decade, the x of its ends; smaller γ share one bin.
_SMALLEST, _PER_DECADE, _AXIS = 0.001, 8, (44.0, 392.0)
_ARMS = ("blue", "slate", "green", "purple")


def gamma_threshold(curves: Mapping[str, GammaCurve], start: float = 0.01) -> "HTML":
    """Accuracy and γ of trained networks; a slider sets small γ to zero.

    Args:
        curves: reader's name of a network → its curve; at most four.
        start: the slider starts at the last measured threshold that is not above this.

    Raises:
        ValueError: for no curve, or more than four.
    """
    from nbrepro.book.captions import figure

    if not 1 <= len(curves) <= len(_ARMS):
        raise ValueError(f"{len(curves)} curves; expected 1 to {len(_ARMS)}")
    largest = max(abs(gamma) for curve in curves.values() for gamma in curve.gamma)
    bins = math.ceil(_PER_DECADE * math.log10(max(largest, 1) / _SMALLEST) + 1e-9)
    width = (_AXIS[1] - _AXIS[0]) / (bins + 1)

    def x(gamma: float) -> float:
        if gamma < _SMALLEST:
            return _AXIS[0]
        return _AXIS[0] + width * (1 + _PER_DECADE * math.log10(gamma / _SMALLEST))

    thresholds = sorted({t for curve in curves.values() for t in curve.thresholds})
    said = [
        [
            f"{curve.off(t):.0%} zeroed, {curve.accuracy(t):.1%}".replace("%", "\u00a0%")
            for t in thresholds
        ]
        for curve in curves.values()
    ]
    position = bisect_right(thresholds, start) - 1
    rows = []
    for number, (colour, (name, curve)) in enumerate(zip(_ARMS, curves.items(), strict=False)):
        bottom = 228.0 + 84 * number
        rows.append(
            {
                "name": name,
                "colour": colour,
                "said": said[number][position],
                "points": [
                    (x(t), 130 - accuracy * 100)
                    for t, accuracy in zip(curve.thresholds, curve.accuracies, strict=True)
                ],
                "bars": _histogram(curve.gamma, bins, width, bottom),
                "bottom": bottom,
            }
        )
    picture = drawn(
        "gamma_threshold",
        sliders=[Slider("threshold", "set |γ| to zero below", thresholds, thresholds[position])],
        rows=rows,
        axis=_AXIS,
        ticks=[(x(t), written(t)) for t in (0.001, 0.01, 0.1, 1)],
        cursor=x(thresholds[position]),
        bottom=rows[-1]["bottom"],
        data=data(x=[round(x(t), 2) for t in thresholds], said=said),
    )
    return figure(
        picture,
        takeaway="How much of a network can be switched off.",
        caption=(
            "Top: test accuracy when every γ smaller than the threshold is set to zero; dots were "
            "measured. Below: how many channels have a γ of which size; the first bar holds all "
            f"that are smaller than {_SMALLEST}. Behind a name: the share of channels whose γ is "
            "set to zero, and the accuracy at the last measured threshold."
        ),
        alt=". ".join(
            f"{name}: at a threshold of {written(t)}, {said[number][thresholds.index(t)]}"
            for number, name in enumerate(curves)
            for t in thresholds[:: max(1, len(thresholds) // 5)]
        )
        + ".",
    )


def _histogram(gamma: Sequence[float], bins: int, width: float, bottom: float) -> str:
    """A path of bars as high as their counts: one for all that are too small, then the bins."""
    counts = [0] * (bins + 1)
    for size in map(abs, gamma):
        place = (
            1 + math.floor(_PER_DECADE * math.log10(size / _SMALLEST)) if size >= _SMALLEST else 0
        )
        counts[min(place, bins)] += 1
    tall = 56 / max(counts)
    return "".join(
        f"M{_AXIS[0] + place * width:.2f} {bottom:g}v{-tall * count:.2f}h{width:.2f}V{bottom:g}Z"
        for place, count in enumerate(counts)
        if count
    )

"""One image in batches of other company: where BatchNorm puts it."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nbrepro.book.interactive.parts import Slider, data, drawn, written

if TYPE_CHECKING:
    from IPython.display import HTML

#: Where zero lies, and how far from there the axis ends; where rows begin, and their pitch.
_ZERO, _REACH, _TOP, _PITCH = 200.0, 188.0, 30.0, 4.0


def companions(places: Mapping[int, Sequence[float]], alone: float, start: int = 8) -> "HTML":
    """Where one value of one image lands in many batches; a slider for their size.

    Args:
        places: images in a batch → the normalized value, one per batch; the same batches for each
            size, which grow by further images.
        alone: the normalized value in evaluation mode; not zero.
        start: images in a batch at the start.

    Raises:
        ValueError: for a start that is no size, sizes of unlike numbers of batches, or no side
            that the image is on.
    """
    from nbrepro.book.captions import figure

    slider = Slider("images", "images in a batch", [*places], start)
    counts = {len(row) for row in places.values()}
    if len(counts) != 1 or not alone:
        raise ValueError(
            f"{sorted(counts)} batches of the sizes {[*places]}, and {alone} in evaluation; "
            "expected equally many of each size, and a value that is not zero"
        )
    batches = counts.pop()
    bottom = _TOP + _PITCH * batches
    farthest = max(abs(place) for row in places.values() for place in (*row, alone))
    end = max(1.5, math.ceil(2 * farthest) / 2)
    one = _REACH / end
    x = {size: [round(_ZERO + one * place, 1) for place in row] for size, row in places.items()}
    said = {size: _said(row, alone) for size, row in places.items()}
    bands = {size: round(one / size**0.5, 1) for size in places}
    line = round(_ZERO + one * alone, 1)
    picture = drawn(
        "companions",
        sliders=[slider],
        batches=batches,
        start=start,
        points=[(across, _TOP + _PITCH * (row + 0.5)) for row, across in enumerate(x[start])],
        zero=_ZERO,
        alone=line,
        band=bands[start],
        top=_TOP - 4,
        bottom=bottom,
        ticks=[
            (round(_ZERO + one * place, 1), written(place))
            for place in range(-math.floor(end), math.floor(end) + 1)
        ],
        said=said[start],
        data=data(x=[*x.values()], said=[*said.values()], bands=[*bands.values()], alone=line),
    )
    smallest, largest = min(places), max(places)
    return figure(
        picture,
        takeaway="The smaller the batch, the less the answer is about the image.",
        caption=(
            f"One value of one handwritten digit behind BatchNorm, in {batches} batches of other "
            "digits, one per row; a larger batch keeps its images and gets more. Line: in "
            "evaluation mode, whatever the company. Shaded: 1/√n to either side, for n images."
        ),
        alt=(
            f"{batches} dots about a line at {alone:.2f}, the value in evaluation mode. Standard "
            "deviation of the dots, by images in a batch: "
            + ", ".join(f"{size}: {deviation}" for size, (deviation, _) in said.items())
            + f". At {smallest} every dot is at −1 or 1, at {largest} all are near the line."
        ),
    )


def _said(row: Sequence[float], alone: float) -> tuple[str, str]:
    """The standard deviation of the places, and how many lie beyond zero."""
    beyond = sum(place * alone < 0 for place in row)
    return f"{statistics.pstdev(row):.2f}", f"{beyond} of {len(row)}"

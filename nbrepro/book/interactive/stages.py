"""The stages of a family of networks, one member at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from nbrepro.book.interactive.parts import Slider, data, drawn

if TYPE_CHECKING:
    from IPython.display import HTML


class Stage(NamedTuple):
    """One stage of a network.

    Attributes:
        side: of its feature maps, in pixels.
        channels: between its blocks.
        betas: of each block, the standard deviation that is expected of its input.
    """

    side: int
    channels: int
    betas: Sequence[float]


@dataclass(frozen=True)
class Member:
    """One network of a family.

    Attributes:
        name: for readers.
        stages: its stages; every member has as many, with the same channels.
        said: a sentence or two about it.
    """

    name: str
    stages: Sequence[Stage]
    said: str


_LEFT, _RIGHT, _TALLEST, _ROW = 100.0, 396.0, 30.0, 46.0


def stages(family: str, members: Sequence[Member], start: int = 0) -> "HTML":
    """One box per block, as tall as the side of its feature map and the darker the larger β.

    Args:
        family: what the slider is called; its values count the members from 0.
        members: from the smallest to the largest.
        start: the member that is shown at first.

    Raises:
        ValueError: if there is no such member, or members differ in their stages' channels.
    """
    from nbrepro.book.captions import figure

    if len({tuple(stage.channels for stage in member.stages) for member in members}) != 1:
        raise ValueError("members differ in the channels of their stages; expected a family")
    slider = Slider("member", family, range(len(members)), start)
    most = max(len(stage.betas) for member in members for stage in member.stages)
    largest = max(beta for member in members for stage in member.stages for beta in stage.betas)
    widest = max(stage.side for member in members for stage in member.stages)
    pitch = (_RIGHT - _LEFT) / most

    def row(stage: Stage) -> dict[str, Any]:
        dark = [0.25 + 0.75 * (beta - 1) / (largest - 1) for beta in stage.betas]
        missing = [0.0] * (most - len(dark))
        return {
            "tall": f"{_TALLEST * stage.side / widest:.1f}",
            "dark": [f"{share:.2f}" for share in dark + missing],
            "side": f"{stage.side} × {stage.side}",
        }

    rows = [[row(stage) for stage in member.stages] for member in members]
    shown = members[start]
    picture = drawn(
        "stages",
        sliders=[slider],
        rows=[
            {"bottom": 34 + _ROW * number, "channels": stage.channels, **drawing}
            for number, (stage, drawing) in enumerate(zip(shown.stages, rows[start], strict=True))
        ],
        columns=[f"{_LEFT + pitch * block:.2f}" for block in range(most)],
        wide=f"{pitch - 1:.2f}",
        bottom=34 + _ROW * (len(shown.stages) - 1) + 8,
        said=shown.said,
        data=data(rows=rows, said=[member.said for member in members]),
    )
    return figure(
        picture,
        takeaway="From member to member the network changes in depth alone, and the images grow.",
        caption=(
            "The residual blocks of each stage, from the input at the left; beside them its "
            "channels and the pixels of its feature map in training. The stronger the colour of a "
            "box, the larger β: it starts again behind a stage's first block and comes to "
            f"{largest:.2f} at most."
        ),
        alt=f"Rows of boxes, one per block. {shown.name}: "
        + ", ".join(
            f"stage {number} has {len(stage.betas)} block{'s' * (len(stage.betas) > 1)} of "
            f"{stage.channels} channels on maps of {stage.side} by {stage.side}"
            for number, stage in enumerate(shown.stages, 1)
        )
        + ".",
    )

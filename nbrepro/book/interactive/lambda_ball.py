"""The ball of radius λ‖W‖ that AGC keeps a step in."""

import math
from typing import TYPE_CHECKING

from nbrepro.book.interactive.parts import Slider, data, drawn, written

if TYPE_CHECKING:
    from IPython.display import HTML

#: About ten per decade, the paper's λ among them.
_RATIOS = (0.01, 0.0125, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.125, 0.16, 0.2,
           0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2)  # fmt: skip
_LAMBDAS = _RATIOS[:18]


def lambda_ball(clipping: float = 0.3, ratio: float = 0.8) -> "HTML":
    """Weights, a gradient and the ball that it is clipped to; sliders for λ and ``‖G‖ / ‖W‖``.

    Args:
        clipping: λ at the start.
        ratio: ``‖G‖ / ‖W‖`` at the start.

    Raises:
        ValueError: for a start that the sliders cannot reach.
    """
    from nbrepro.book.captions import figure

    origin, tip, angle = (20, 176), (150, 88), math.radians(9)
    length = math.dist(origin, tip)
    factor = min(1.0, clipping / ratio)  # of equation 3; ‖W‖ is far above ε

    def ahead(share: float) -> str:
        """The point to which a step of ``share · ‖W‖`` leads."""
        x, y = math.cos(angle) * share * length, math.sin(angle) * share * length
        return f"{tip[0] + x:.2f} {tip[1] - y:.2f}"

    picture = drawn(
        "lambda_ball",
        sliders=[
            Slider("clipping", "λ", _LAMBDAS, clipping),
            Slider("ratio", "‖G‖ / ‖W‖", _RATIOS, ratio),
        ],
        origin=origin,
        tip=tip,
        radius=f"{clipping * length:.2f}",
        gradient=ahead(ratio),
        clipped=ahead(ratio * factor),
        clips=ratio > clipping,
        factor=written(factor),
        data=data(tip=tip, length=length, angle=angle),
    )
    return figure(
        picture,
        takeaway="Clipping keeps the direction and shortens the step.",
        caption=(
            "Two weights of one unit, W, and the step −G that plain gradient descent takes at rate "
            "1. Outside the ball of radius λ‖W‖ it is scaled back to the edge. All to scale: at "
            "λ = 0.01, the paper's value for its largest batches, the ball is a dot."
        ),
        alt=(
            "An arrow W, a circle of radius λ‖W‖ around its tip, an arrow −G from the tip that may "
            "leave the circle, and a thick arrow of the same direction that ends in it."
        ),
    )

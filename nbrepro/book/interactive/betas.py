"""β, the expected standard deviation of every block's input."""

from typing import TYPE_CHECKING

from nbrepro.book.interactive.parts import Slider, data, drawn, written

if TYPE_CHECKING:
    from IPython.display import HTML

_STAGES = 4
#: Where the axis of :func:`betas` may end.
_TOPS = (1.1, 1.25, 1.5, 2, 3, 5)


def betas(alpha: float = 0.2, blocks: int = 6) -> "HTML":
    """β of every block of a network of four stages; sliders for α and the blocks per stage.

    Args:
        alpha: growth per block at the start; a multiple of 0.05 up to 1.
        blocks: per stage at the start, 1 to 24.

    Raises:
        ValueError: for a start that the sliders cannot reach.
    """
    from nbrepro.book.captions import figure
    from nbrepro.layers import expected_stds

    alphas = [round(0.05 * step, 2) for step in range(21)]
    sliders = [
        Slider("alpha", "α", alphas, alpha),
        Slider("blocks", "blocks per stage", range(1, 25), blocks),
    ]
    stds = [beta for stage in expected_stds([blocks] * _STAGES, alpha) for beta in stage]
    left, right, top, bottom = 44, 392, 22, 182
    end = next(end for end in _TOPS if end >= max(stds))
    points = [
        (
            left + (number + 0.5) * (right - left) / len(stds),
            bottom - (beta - 1) / (end - 1) * (bottom - top),
        )
        for number, beta in enumerate(stds)
    ]
    behind = 1 + blocks * alpha**2  # the variance behind the last block of a stage
    picture = drawn(
        "betas",
        sliders=sliders,
        bands=[(left + stage * (right - left) / _STAGES, stage + 1) for stage in range(_STAGES)],
        band=(right - left) / _STAGES,
        line="M" + " ".join(f"{x:.2f} {y:.2f}" for x, y in points),
        dots="".join(f"M{x:.2f} {y:.2f}h0" for x, y in points),
        ticks=[
            (bottom, "1"),
            ((top + bottom) / 2, written((1 + end) / 2)),
            (top, written(end)),
        ],
        largest=f"{max(stds):.3f}",
        share=f"{100 * alpha**2 / behind:.1f}",
        data=data(stages=_STAGES, left=left, right=right, top=top, bottom=bottom, tops=_TOPS),
    )
    return figure(
        picture,
        takeaway="No data is needed to know how large the signal is.",
        caption=(
            "β, the standard deviation that the input of each block is expected to have, in a "
            "normalizer-free network of four stages. Each block adds α² to the variance; the skip "
            "path of a stage's first block starts again from 1."
        ),
        alt=(
            "A line of β over the blocks of four stages. It rises within each stage up to the "
            "first block of the next and then falls back."
        ),
    )

"""Parts of a page that answer the reader: guesses, folded answers, figures with sliders.

All of them work offline and from a file. Python writes a figure's first state as SVG and its
numbers as JSON; ``book/_static/interactive.js`` then takes over. Without that script, in a notebook
for example, the first state stays and everything that is folded can be unfolded.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from nbrepro.book import drawings
from nbrepro.book.tables import address, render

if TYPE_CHECKING:
    from IPython.display import HTML
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    from nbrepro.claims.verdicts import Verdict
    from nbrepro.records.features import Features
    from nbrepro.records.ledger import Record


def _render(template: str, **given: Any) -> "HTML":
    from markupsafe import Markup

    return render(template, style=Markup(drawings.style()), **given)


def _drawn(template: str, **given: Any) -> str:
    html: str = _render(template, **given).data
    return html


@cache
def _markdown() -> "MarkdownIt":
    from markdown_it import MarkdownIt
    from markupsafe import escape
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    def math_span(content: str, options: Mapping[str, Any]) -> str:
        left, right = (r"\[", r"\]") if options["display_mode"] else (r"\(", r"\)")
        return f'<span class="math notranslate nohighlight">{left}{escape(content)}{right}</span>'

    return MarkdownIt("commonmark", {"html": False}).use(dollarmath_plugin, renderer=math_span)


def _text(markdown: str) -> "Markup":
    """Markdown with ``$math$`` as HTML; tags in it are shown, not obeyed."""
    from markupsafe import Markup

    return Markup(_markdown().render(markdown).strip())


def _data(**values: Any) -> "Markup":
    """Numbers for the script, in an element of HTML that no text can end."""
    from markupsafe import Markup

    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def _number(value: float) -> str:
    """At most three digits behind the point, none that say nothing."""
    return f"{value:.3f}".rstrip("0").rstrip(".").replace("-", "−")


# --- questions ---


def guess(
    question: str, *, answer: float, unit: str, low: float, high: float, explain: str
) -> "HTML":
    """A question that the reader answers with a number before seeing ours; it is stored nowhere.

    Args:
        question: Markdown.
        answer: the measured or computed number.
        unit: behind every number, such as ``%`` or ``points``; may be empty.
        low: where the scale begins.
        high: where it ends.
        explain: Markdown, shown with the answer.

    Raises:
        ValueError: if the answer lies outside the scale.
    """
    if not low <= answer <= high or low == high:
        raise ValueError(
            f"the answer {answer} must lie between low = {low} and high = {high}; "
            "choose a scale that holds it and does not point at it"
        )
    step = 10.0 ** math.floor(math.log10((high - low) / 50))
    return _render(
        "guess",
        question=_text(question),
        answer=f"{_number(answer)} {unit}".strip(),
        unit=unit,
        low=f"{low:g}",
        high=f"{high:g}",
        ends=(_number(low), _number(high)),
        middle=f"{low + step * round((high - low) / 2 / step):g}",
        step=f"{step:g}",
        explain=_text(explain),
        data=_data(answer=answer, shown=_number(answer), low=low, high=high, unit=unit),
    )


def answers(*texts: str) -> "HTML":
    """The answers to a chapter's exercises, in their order, each folded.

    Args:
        texts: Markdown, one per exercise.
    """
    return _render("answers", answers=[_text(text) for text in texts])


# --- figures with sliders ---


@dataclass(frozen=True)
class Slider:
    """A slider over chosen values, one of which is shown at the start.

    Raises:
        ValueError: if it does not start at one of its values.
    """

    name: str
    label: str
    values: Sequence[float]
    start: float

    def __post_init__(self) -> None:
        if self.start not in self.values:
            raise ValueError(
                f"{self.name} cannot start at {self.start}; choose one of "
                f"{', '.join(map(_number, self.values))}"
            )

    @property
    def position(self) -> int:
        """Of the value at the start."""
        return [*self.values].index(self.start)

    @property
    def shown(self) -> str:
        """The value at the start, for readers."""
        return _number(self.start)


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

    drawn = _drawn(
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
        factor=_number(factor),
        data=_data(tip=tip, length=length, angle=angle),
    )
    return figure(
        drawn,
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
    drawn = _drawn(
        "betas",
        sliders=sliders,
        bands=[(left + stage * (right - left) / _STAGES, stage + 1) for stage in range(_STAGES)],
        band=(right - left) / _STAGES,
        line="M" + " ".join(f"{x:.2f} {y:.2f}" for x, y in points),
        dots="".join(f"M{x:.2f} {y:.2f}h0" for x, y in points),
        ticks=[
            (bottom, "1"),
            ((top + bottom) / 2, _number((1 + end) / 2)),
            (top, _number(end)),
        ],
        largest=f"{max(stds):.3f}",
        share=f"{100 * alpha**2 / behind:.1f}",
        data=_data(stages=_STAGES, left=left, right=right, top=top, bottom=bottom, tops=_TOPS),
    )
    return figure(
        drawn,
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


# --- the map of runs ---


@dataclass(frozen=True)
class _Dot:
    """A run on the map: where it stands, how full it is, and what it says."""

    hash: str
    x: float
    y: float
    fill: float
    diverged: bool
    text: str


#: Of the map: where its columns begin and end, and from dot to dot.
_LEFT, _RIGHT, _PITCH = 132.0, 400.0, 11.0
_LONGEST = 22  #: characters of a row's name


def rate_map(
    records: "Sequence[Record]",
    arms: Mapping[str, Mapping[str, Any]],
    judged: "Iterable[Verdict]" = (),
) -> "HTML":
    """Every run as a dot, by learning rate and arm: the fuller the more accurate, a cross diverged.

    A dot leads to the run's record, and where the script runs also to the claims that rest on it.

    Args:
        records: the runs; those that failed are left out.
        arms: reader's name → the settings of the runs of a row, without the rate.
        judged: verdicts, whose claims are linked.

    Raises:
        ValueError: if no record fits any arm, or for a name that has no room beside its row.
    """
    from nbrepro.book.captions import figure
    from nbrepro.book.figures import runs_of, scale_of
    from nbrepro.data.cards import card

    rows = {name: runs for name, arm in arms.items() if (runs := runs_of(records, arm))}
    used = [run for runs in rows.values() for run in runs]
    if not used:
        raise ValueError(f"none of the {len(records)} records fits one of the arms {[*arms]}")
    if long := [name for name in rows if len(name) > _LONGEST]:
        raise ValueError(f"no room for {', '.join(long)}: shorten to {_LONGEST} characters")
    rates = sorted({run.spec.lr for run in used})
    best = max(run.metrics["test_accuracy"] for run in used)
    chance = max(card(run.spec.dataset).chance or 0.0 for run in used)
    width = (_RIGHT - _LEFT) / len(rates)
    across = max(1, int(width // _PITCH))
    columns = {rate: _LEFT + (number + 0.5) * width for number, rate in enumerate(rates)}
    dots: list[list[_Dot]] = []
    labels, y = [], 42.0
    for name, runs in rows.items():
        cells = {rate: [run for run in runs if run.spec.lr == rate] for rate in rates}
        row: list[_Dot] = []
        for rate, x in columns.items():
            row += _cell(cells[rate], name, (x, y), across, (chance, best))
        dots.append(row)
        deep = math.ceil(max(map(len, cells.values())) / across)
        labels.append((y + (deep - 1) * _PITCH / 2, name))
        y += deep * _PITCH + 13
    drawn = _drawn(
        "rate_map",
        dots=dots,
        labels=labels,
        columns=[(x, f"{rate:g}") for rate, x in columns.items()],
        middle=(_LEFT + _RIGHT) / 2,
        bottom=y - 6,
        scale=[f"{100 * accuracy:.1f} %" for accuracy in (chance, best)],
        data=_data(claims=_claims({run.spec.hash for run in used}, judged)),
    )
    return figure(
        drawn,
        takeaway="Which runs survive which learning rate.",
        caption=(
            "Runs by learning rate (columns) and by what holds their gradients (rows), within a "
            "cell the best first. The fuller a dot, the higher the test accuracy; a cross "
            "diverged. Choose a dot to see the run, its record and the claims that rest on it."
        ),
        alt=f"A table of dots, learning rates {', '.join(f'{rate:g}' for rate in rates)}. "
        + " ".join(_row_in_words(name, runs) for name, runs in rows.items()),
        note=scale_of(used),
    )


def _cell(
    runs: "Sequence[Record]",
    name: str,
    at: tuple[float, float],
    across: int,
    scale: tuple[float, float],
) -> Iterable[_Dot]:
    """The runs of one arm and rate as lines of dots, the best first; empty at chance, full best."""
    in_order = sorted(runs, key=lambda run: (-run.metrics["test_accuracy"], run.spec.seed))
    lines = math.ceil(len(runs) / across)
    wide = math.ceil(len(runs) / max(lines, 1))  # lines of equal length
    chance, best = scale
    for number, run in enumerate(in_order):
        accuracy, diverged = run.metrics["test_accuracy"], run.status == "diverged"
        fill = (accuracy - chance) / (best - chance) if best > chance else 1.0
        ended = "diverged" if diverged else f"{100 * accuracy:.1f} %"
        yield _Dot(
            run.spec.hash,
            at[0] + (number % wide - (wide - 1) / 2) * _PITCH,
            at[1] + number // wide * _PITCH,
            round(max(0.0, fill), 2),
            diverged,
            f"{name}, rate {run.spec.lr:g}, seed {run.spec.seed}: {ended}",
        )


def _claims(runs: set[str], judged: "Iterable[Verdict]") -> dict[str, list[tuple[str, str]]]:
    """Run → the claims that rest on it, each with the address of its page."""
    found: dict[str, list[tuple[str, str]]] = {}
    for verdict in judged:
        link = (verdict.claim.id, address(verdict.claim.id))
        for run in runs.intersection(verdict.records):
            if link not in found.setdefault(run, []):
                found[run].append(link)
    return dict(sorted(found.items()))


def _row_in_words(name: str, runs: "Sequence[Record]") -> str:
    diverged = sum(run.status == "diverged" for run in runs)
    best = max(runs, key=lambda run: run.metrics["test_accuracy"])
    accuracy = 100 * best.metrics["test_accuracy"]
    return (
        f"{name}: {len(runs)} runs, {diverged} diverged, "
        f"the best {accuracy:.1f} % at rate {best.spec.lr:g}."
    )


# --- without small γ ---


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
_ARMS = ("blue", "vermilion", "green", "purple")


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
            f"{curve.off(t):.0%} off, {curve.accuracy(t):.1%}".replace("%", "\u00a0%")
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
    drawn = _drawn(
        "gamma_threshold",
        sliders=[Slider("threshold", "set |γ| to zero below", thresholds, thresholds[position])],
        rows=rows,
        axis=_AXIS,
        ticks=[(x(t), _number(t)) for t in (0.001, 0.01, 0.1, 1)],
        cursor=x(thresholds[position]),
        bottom=rows[-1]["bottom"],
        data=_data(x=[round(x(t), 2) for t in thresholds], said=said),
    )
    return figure(
        drawn,
        takeaway="How much of a network can be switched off.",
        caption=(
            "Top: test accuracy when every γ smaller than the threshold is set to zero; dots were "
            "measured. Below: how many channels have a γ of which size; the first bar holds all "
            f"that are smaller than {_SMALLEST}. Behind a name: the share of channels that is off, "
            "and the accuracy at the last measured threshold."
        ),
        alt=". ".join(
            f"{name}: at a threshold of {_number(t)}, {said[number][thresholds.index(t)]}"
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

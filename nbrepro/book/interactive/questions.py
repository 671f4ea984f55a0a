"""Questions to the reader: a number to guess before ours is shown, and folded answers."""

import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from nbrepro.book.interactive.parts import data, render, written

if TYPE_CHECKING:
    from IPython.display import HTML
    from markdown_it import MarkdownIt
    from markupsafe import Markup


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
    return render(
        "guess",
        question=_text(question),
        answer=f"{written(answer)} {unit}".strip(),
        unit=unit,
        low=f"{low:g}",
        high=f"{high:g}",
        ends=(written(low), written(high)),
        middle=f"{low + step * round((high - low) / 2 / step):g}",
        step=f"{step:g}",
        explain=_text(explain),
        data=data(answer=answer, shown=written(answer), low=low, high=high, unit=unit),
    )


def answers(*texts: str) -> "HTML":
    """The answers to a chapter's exercises, in their order, each folded.

    Args:
        texts: Markdown, one per exercise.
    """
    return render("answers", answers=[_text(text) for text in texts])

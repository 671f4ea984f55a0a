"""Parts of a page that answer the reader: guesses, folded answers, figures with sliders.

All of them work offline and from a file. Python writes a figure's first state as SVG and its
numbers as JSON; ``book/_static/interactive.js`` then takes over. Without that script, in a notebook
for example, the first state stays and everything that is folded can be unfolded.
"""

import json
import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from nbrepro.book import drawings

if TYPE_CHECKING:
    from IPython.display import HTML
    from jinja2 import Environment
    from markdown_it import MarkdownIt
    from markupsafe import Markup


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("nbrepro.book"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _render(template: str, **given: Any) -> str:
    from markupsafe import Markup

    shared = {"style": Markup(drawings.style())}
    return _templates().get_template(f"{template}.html.j2").render(shared | given)


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
        ValueError: if the answer lies outside the scale, which would give it away.
    """
    from IPython.display import HTML

    if not low <= answer <= high or low == high:
        raise ValueError(
            f"the answer {answer} must lie between low = {low} and high = {high}; "
            "choose a scale that holds it and does not point at it"
        )
    step = 10.0 ** math.floor(math.log10((high - low) / 50))
    return HTML(
        _render(
            "guess",
            question=_text(question),
            answer=f"{_number(answer)} {unit}".strip(),
            unit=unit,
            low=f"{low:g}",
            high=f"{high:g}",
            middle=f"{low + step * round((high - low) / 2 / step):g}",
            step=f"{step:g}",
            explain=_text(explain),
            data=_data(answer=answer, shown=_number(answer), low=low, high=high, unit=unit),
        )
    )


def answers(*texts: str) -> "HTML":
    """The answers to a chapter's exercises, in their order, each folded.

    Args:
        texts: Markdown, one per exercise.
    """
    from IPython.display import HTML

    return HTML(_render("answers", answers=[_text(text) for text in texts]))

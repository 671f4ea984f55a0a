"""What interactive parts of a page share: HTML of a template, numbers for the script, sliders."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbrepro.book import drawings, tables

if TYPE_CHECKING:
    from IPython.display import HTML
    from markupsafe import Markup


def render(template: str, **given: Any) -> "HTML":
    """A template of this package, filled, with the look of all drawings."""
    from markupsafe import Markup

    return tables.render(template, style=Markup(drawings.style()), **given)


def drawn(template: str, **given: Any) -> str:
    """The same as text, for a caption to be put below."""
    html: str = render(template, **given).data
    return html


def data(**values: Any) -> "Markup":
    """Numbers for the script, in an element of HTML that no text can end."""
    from markupsafe import Markup

    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def written(value: float) -> str:
    """At most three digits behind the point, none that say nothing."""
    return f"{value:.3f}".rstrip("0").rstrip(".").replace("-", "−")


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
                f"{', '.join(map(written, self.values))}"
            )

    @property
    def position(self) -> int:
        """Of the value at the start."""
        return [*self.values].index(self.start)

    @property
    def shown(self) -> str:
        """The value at the start, for readers."""
        return written(self.start)

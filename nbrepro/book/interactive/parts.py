"""What interactive parts of a page share: HTML of a template, numbers for the script, sliders."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbrepro.book import drawings, markup

if TYPE_CHECKING:
    from IPython.display import HTML
    from markupsafe import Markup

    from nbrepro.records.ledger import Record


def render(template: str, **given: Any) -> "HTML":
    """A template of this package, filled, with the look of all drawings."""
    from markupsafe import Markup

    return markup.render(template, style=Markup(drawings.style()), **given)


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


def rows_of(
    records: "Sequence[Record]", arms: Mapping[str, Mapping[str, Any]], longest: int
) -> "dict[str, list[Record]]":
    """The runs of every arm that was run, by the arm's name.

    Args:
        records: the runs; those that failed are left out.
        arms: reader's name → the settings of the runs of a row.
        longest: characters for which a row's name has room.

    Raises:
        ValueError: if no record fits any arm, or for a name that is too long.
    """
    from nbrepro.book.figures import runs_of

    rows = {name: runs for name, arm in arms.items() if (runs := runs_of(records, arm))}
    if not rows:
        raise ValueError(f"none of the {len(records)} records fits one of the arms {[*arms]}")
    if long := [name for name in rows if len(name) > longest]:
        raise ValueError(f"no room for {', '.join(long)}: shorten to {longest} characters")
    return rows


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

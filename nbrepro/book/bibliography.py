"""The form of the bibliography: plain, under the labels that the text cites by."""

from collections.abc import Iterable, Iterator

from pybtex.database import Entry
from pybtex.plugin import register_plugin
from pybtex.style.formatting.plain import Style
from pybtex.style.labels import BaseLabelStyle

#: Name of the style, for ``bibtex_default_style``.
NAME = "nbrepro"


class AuthorYear(BaseLabelStyle):  # type: ignore[misc]
    """``Brock et al., 2021b``, as :class:`sphinxcontrib.bibtex` cites with ``author_year``."""

    def format_labels(self, sorted_entries: Iterable[Entry]) -> Iterator[str]:
        """One label per entry."""
        for entry in sorted_entries:
            names = [" ".join(person.last_names) for person in entry.persons["author"]]
            listed = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
            yield f"{listed}, {entry.fields['year']}"


class _Labelled(Style):  # type: ignore[misc]
    default_label_style = AuthorYear


def register() -> None:
    """Make the style known to pybtex."""
    register_plugin("pybtex.style.formatting", NAME, _Labelled)

"""The drawings of ideas, made by hand: an SVG file each in ``drawings/``, one look for all.

A file opens in a browser as it is. On a page it stands inline, so that its text takes the page's
font and its colours follow the page's light or dark theme.
"""

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from nbrepro._suggest import choose

if TYPE_CHECKING:
    from IPython.display import HTML

_FOLDER = files("nbrepro.book") / "drawings"


@cache
def captions() -> dict[str, dict[str, str]]:
    """Name of each drawing → its ``title``, ``caption`` and ``alt``, the picture in words."""
    import yaml

    found: dict[str, dict[str, str]] = yaml.safe_load(_read("captions.yaml"))
    return found


def style() -> str:
    """The look that all drawings and interactive figures share, as an element of HTML."""
    text = re.sub(r"\s*/\*.*?\*/\s*", "", _read("style.css"), flags=re.S)
    return f"<style>\n{text.strip()}\n</style>"


def svg(name: str) -> str:
    """The drawing as an element of HTML, without its caption.

    Raises:
        ValueError: for an unknown drawing, naming the nearest known one.
    """
    text = _read(f"{choose('drawing', name, captions())}.svg")
    text = text[text.index("<svg") :]  # what stands before it serves the file on its own
    return re.sub(r"\s*<!--.*?-->", "", text, flags=re.S)


def drawing(name: str) -> "HTML":
    """The drawing with its number, title and caption.

    Raises:
        ValueError: for an unknown drawing, naming the nearest known one.
    """
    from nbrepro.book.captions import figure

    drawn = svg(name)
    words: dict[str, Any] = captions()[name]
    return figure(
        f"{style()}\n{drawn}",
        caption=words["caption"].strip(),
        alt=words["alt"].strip(),
        takeaway=words["title"].strip(),
    )


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")

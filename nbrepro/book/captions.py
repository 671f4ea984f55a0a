"""Figures as pages show them: numbered, with a caption, a text for those who cannot see them.

A Matplotlib figure becomes inline SVG. Its text is text, in the font and colour of the page, and
its colours are CSS variables (:mod:`nbrepro.book.style`), so a dark page needs no filter. One panel
is one SVG; on a phone they stack. The legend is HTML, once for all panels. The same figure gives
the same bytes on every machine, which `pytest --nbval` relies on.
"""

import io
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.figure import Figure, SubFigure

#: Of the page that this process executes: its number with a point, and caption → figure's number.
_page: dict[str, Any] = {"prefix": "", "numbers": {}}


def start(page: str) -> None:
    """Begin to count: figures of ``08_training_only_batchnorm`` are 8.1, 8.2, and so on.

    A page without a number, or one that never calls this, counts 1, 2, 3.
    """
    number = re.match(r"\d+", page)
    _page.update(prefix=f"{int(number[0])}." if number else "", numbers={})


def figure(
    drawn: "Figure | str", *, caption: str, alt: str = "", takeaway: str = "", note: str = ""
) -> "HTML":
    """A numbered figure with its caption.

    A cell that is executed again keeps its number: figures are told apart by their captions.

    Args:
        drawn: a Matplotlib figure, whose subfigures become panels that stack on a phone; or ready
            SVG or HTML.
        caption: what is shown, of which data, at what scale; escaped, unless it is ``Markup``.
        alt: what a reader who cannot see the figure has to know. Default: what the figure itself
            says, see :class:`nbrepro.book.figures.Chart`.
        takeaway: the one sentence to remember, before the caption.
        note: small print after the caption. Default: what the figure itself says.

    Raises:
        ValueError: if caption or alt is missing.
    """
    from IPython.display import HTML

    alt, note = alt or getattr(drawn, "alt", ""), note or getattr(drawn, "note", "")
    for name, text in (("caption", caption), ("alt", alt)):
        if not text.strip():
            raise ValueError(f"the figure has no {name}; give one, in words: {name}=...")
    number = _page["prefix"] + str(
        _page["numbers"].setdefault(str(caption), len(_page["numbers"]) + 1)
    )
    name = "figure-" + number.replace(".", "-")
    if isinstance(drawn, str):
        role = "group" if re.search(r"<(a|button|details|input|select)\b", drawn) else "img"
        key, shown = Markup(), Markup(drawn)
    else:
        role, key = "img", _legend(drawn, name)
        shown = Markup("\n").join(Markup(svg) for svg in _panels(drawn, name))
    said = Markup("<strong>{}</strong> ").format(takeaway) if takeaway else Markup()
    small = Markup(' <span class="seen">{}</span>').format(note) if note else Markup()
    return HTML(
        Markup(
            '<figure class="nbrepro-figure" id="{name}">\n'
            '{key}<div class="panels" role="{role}" aria-label="{alt}">\n{shown}\n</div>\n'
            '<figcaption><a class="figure-number" href="#{name}">Figure {number}</a> '
            "{said}{caption}{small}</figcaption>\n</figure>"
        ).format(
            name=name,
            key=key,
            role=role,
            alt=alt,
            shown=shown,
            number=number,
            said=said,
            caption=escape(caption),
            small=small,
        )
    )


# --- from Matplotlib to SVG ---


def _panels(drawn: "Figure", name: str) -> Iterator[str]:
    """The SVG of each subfigure, or of the figure if it has none; no legends."""
    import matplotlib.pyplot as plt

    from nbrepro.book.style import RC

    legends = [*drawn.legends, *(axis.get_legend() for axis in drawn.axes)]
    hidden = [legend for legend in legends if legend is not None and legend.get_visible()]
    for legend in hidden:
        legend.set_visible(False)
    parts: Sequence[Figure | SubFigure] = drawn.subfigs or [drawn]
    with plt.rc_context(RC):  # how many ticks fit depends on it, and on the ticks the layout
        drawn.draw_without_rendering()  # lays all panels out, while all of them are visible
    engine = drawn.get_layout_engine()
    drawn.set_layout_engine("none")
    for number, part in enumerate(parts, 1):
        for other in drawn.subfigs:
            other.set_visible(other is part)
        yield _svg(drawn, part, f"{name}-{number}" if len(parts) > 1 else name)
    drawn.set_layout_engine(engine)
    for artist in (*hidden, *drawn.subfigs):
        artist.set_visible(True)


def _legend(drawn: "Figure", name: str) -> Markup:
    """A list of what the panels' labels stand for, each once; nothing if there are none."""
    from matplotlib.figure import Figure

    from nbrepro.book.style import INCH

    handles: dict[str, Any] = {}
    for axis in drawn.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    items = Markup()
    for number, (label, handle) in enumerate(handles.items(), 1):
        swatch = Figure(figsize=(36 / INCH, 14 / INCH), facecolor="none")
        swatch.legend([handle], [""], loc="center", frameon=False, fontsize=14, handlelength=2.3,
                      borderpad=0, borderaxespad=0, handletextpad=0)  # fmt: skip
        svg = Markup(_svg(swatch, swatch, f"{name}-key-{number}"))
        items += Markup("<li>{}{}</li>").format(svg, label)
    return Markup('<ul class="figure-legend">{}</ul>\n').format(items) if items else items


def _svg(drawn: "Figure", part: "Figure | SubFigure", salt: str) -> str:
    """One panel as an SVG element that lives in a page."""
    import matplotlib.pyplot as plt

    from nbrepro.book.style import RC

    text = io.StringIO()
    quiet = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    box = part.bbox.transformed(drawn.dpi_scale_trans.inverted())
    with plt.rc_context({**RC, "svg.hashsalt": salt}):
        drawn.savefig(text, format="svg", metadata=quiet, bbox_inches=box, facecolor="none")
    return _numbered(_for_page(text.getvalue()), salt)


def _numbered(svg: str, name: str) -> str:
    """With ids in order, unique in a page: some of Matplotlib's come from where an object lies."""
    for number, found in enumerate(dict.fromkeys(re.findall(r' id="([^"]+)"', svg)), 1):
        mine = f"{name.replace('-', '_')}_{number}"
        svg = re.sub(rf'( id="|#){re.escape(found)}(?=["\)])', rf"\g<1>{mine}", svg)
    return svg


#: What only Matplotlib needs, or would reach beyond the figure: pattern → what stands instead.
_NOT_FOR_PAGES = {
    r"<metadata>.*?</metadata>|<!--.*?-->|<defs>\s*<style.*?</style>\s*</defs>": "",
    r' id="[A-Za-z][\w.]*_\d+"| transform="rotate\(-?0 [^"]*"': "",
    r"; font-family: [^;\"]*": "",
    r'<path d="[^"]*" style="fill: none"/>': "",
    r"<g>\s*</g>": "",
    r"\s*\n\s*": "\n",
}


def _for_page(svg: str) -> str:
    """Matplotlib's file as an element: no rules for the whole page, its colours, short numbers."""
    from nbrepro.book.style import COLOURS, INK

    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert size, "Matplotlib writes a viewBox"
    width, height = (round(float(side)) for side in size.groups())
    head = (
        f'<svg viewBox="0 0 {width} {height}" style="max-width: {width}px" aria-hidden="true" '
        'stroke-linejoin="round">'
    )
    svg = head + svg[svg.index(">", svg.index("<svg")) + 1 :]
    for pattern, instead in _NOT_FOR_PAGES.items():
        svg = re.sub(pattern, instead, svg, flags=re.DOTALL)
    svg = re.sub(r'(?<==")[^"]*(?=")', _rounded, svg).replace(INK, "currentColor")
    for variable, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var({variable}, {light})")
    return svg.strip()


def _rounded(value: re.Match[str]) -> str:
    """An attribute with two digits behind the point at most, and no zero below zero."""
    return re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):z.2f}".rstrip("0").rstrip("."),
                  value[0])  # fmt: skip

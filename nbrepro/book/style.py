"""The look of every figure: one colour, marker and line style per method, on any page.

Figures are drawn in the light colours; on a page each of them is a CSS variable, see
:func:`variables`, so that a dark page shows its own. All keep a contrast of 3 or more on their
ground, and no two methods of one study share colour, marker and line style.
"""

from collections.abc import Iterable, Mapping
from itertools import chain, cycle, islice
from typing import Any, NamedTuple

#: Matplotlib's line style: a name, or an offset with the lengths of strokes and gaps.
Dash = str | tuple[int, tuple[float, ...]]


class Style(NamedTuple):
    """How a method is drawn.

    Attributes:
        variable: the CSS variable that holds its colour.
        light: the colour on a light page, as six hexadecimal digits.
        dark: the same on a dark page.
        marker: of its points, in Matplotlib's letters.
        line: of its lines.
    """

    variable: str
    light: str
    dark: str
    marker: str
    line: Dash


#: CSS variable → colour on a light and on a dark page. Text and axes are ``INK``.
COLOURS = {
    "--nb-blue": ("#0072b2", "#5cb8f0"),
    "--nb-vermilion": ("#b84d00", "#ff9c55"),
    "--nb-green": ("#007d5d", "#43d1a5"),
    "--nb-purple": ("#a64d88", "#eb9fce"),
    "--nb-brown": ("#8a6200", "#e0b252"),
    "--nb-indigo": ("#5a4fb8", "#aea4ff"),
    "--nb-teal": ("#1b7985", "#5fcbd8"),
    "--nb-slate": ("#54606e", "#b4bfcc"),
    "--nb-red": ("#b3202d", "#ff918c"),
    "--nb-muted": ("#666a6d", "#a3a9af"),
    "--nb-grid": ("#dde0e2", "#41474d"),
    "--nb-ground": ("#fefefe", "#14181e"),
}
INK = "#000000"
MUTED, GRID, GROUND = (COLOURS[f"--nb-{name}"][0] for name in ("muted", "grid", "ground"))

_LONG: Dash = (0, (8, 2))
_SHORT: Dash = (0, (3, 1.5))
_MIXED: Dash = (0, (6, 1.5, 1.5, 1.5))
_DOTS: Dash = (0, (4, 1.5, 1, 1.5, 1, 1.5))
_WIDE: Dash = (0, (3, 4))


def _style(colour: str, marker: str, line: Dash) -> Style:
    variable = f"--nb-{colour}"
    return Style(variable, *COLOURS[variable], marker, line)


#: What is trained, or how a network without BatchNorm is held → how it is drawn. No method has a
#: cross, which is a run that failed, or a diamond, which is a value of a paper.
METHODS: Mapping[str, Style] = {
    # what is trained (training only BatchNorm)
    "batchnorm": _style("blue", "o", "-"),
    "all": _style("slate", "s", _LONG),
    "output": _style("vermilion", "^", _SHORT),
    "random": _style("purple", "v", _MIXED),
    "gamma": _style("green", "P", _LONG),
    "beta": _style("brown", "h", _SHORT),
    "shortcut": _style("indigo", "<", _DOTS),
    "batchnorm+output": _style("teal", ">", _MIXED),
    "batchnorm+output+shortcut": _style("green", "p", "-"),
    "output+shortcut": _style("purple", "*", _DOTS),
    "output+shortcut+other": _style("red", "H", _LONG),
    "none": _style("muted", "8", _SHORT),
    # how a network is normalized, or its gradients are clipped (NFNets)
    "BatchNorm": _style("blue", "o", "-"),
    "no clipping": _style("vermilion", "s", _SHORT),
    "agc": _style("green", "^", _LONG),
    "agc-layer": _style("teal", "P", _MIXED),
    "norm": _style("purple", "v", _DOTS),
    "lars": _style("brown", "h", _WIDE),
    # how a network keeps its signal (NF-ResNets, at initialization)
    "plain": _style("slate", "p", _SHORT),
    "BN → ReLU": _style("blue", "o", "-"),
    "ReLU → BN": _style("indigo", "<", _DOTS),
    "NF without WS": _style("green", "^", _MIXED),
    "NF with WS": _style("vermilion", "s", _SHORT),
    # what lets a deep network train
    "normalizer-free": _style("vermilion", "P", _SHORT),
    "GroupNorm": _style("purple", "v", _MIXED),
    "SkipInit": _style("brown", "h", _WIDE),
}
#: For what is no method (blocks, stages, networks), in order.
_SERIES = tuple(
    _style(colour, marker, line)
    for colour, marker, line in (
        ("blue", "o", "-"),
        ("vermilion", "s", _SHORT),
        ("green", "^", _LONG),
        ("purple", "v", _MIXED),
        ("brown", "h", _DOTS),
        ("teal", "P", _WIDE),
        ("indigo", "<", _SHORT),
        ("slate", "p", _LONG),
    )
)

#: One unit of a figure is one pixel of a page: 72 units are Matplotlib's inch, a point is a unit.
INCH = 72
RC: Any = {
    "figure.dpi": INCH,
    "font.size": 16,
    "font.family": "DejaVu Sans",  # its widths alone: pages set their own font
    "axes.titlesize": 16,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.xmargin": 0.08,
    "grid.color": GRID,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.unicode_minus": True,
    "lines.linewidth": 2,
    "lines.markersize": 7,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


#: How a network's name begins → how it is drawn.
_KINDS = {"bn": "BatchNorm", "gn": "GroupNorm", "skipinit": "SkipInit", "plain": "plain"}


def method(settings: Mapping[str, Any]) -> str:
    """The method that an arm stands for: what it trains, else how it is normalized or clipped."""
    if "train" in settings:
        return str(settings["train"])
    kind, found, _ = str(settings.get("model", "")).partition("_")
    if found and kind in _KINDS:
        return _KINDS[kind]
    if settings.get("optimizer") == "lars":
        return "lars"
    clip = settings.get("clip", "none")
    return "no clipping" if clip == "none" else str(clip)


def series(count: int) -> list[Style]:
    """Styles for things that are no methods."""
    return list(islice(cycle(_SERIES), count))


def of(methods: Iterable[str]) -> list[Style]:
    """Each method's own style; one that has none gets a colour that no other of them has.

    Where several are of one method they share its colour, but not its marker and line.
    """
    names = [name.partition(":")[0] for name in methods]  # random:2 is drawn as random
    taken = {METHODS[name].light for name in names if name in METHODS}
    free = chain((s for s in _SERIES if s.light not in taken), cycle(_SERIES))
    own = {name: METHODS.get(name) or next(free) for name in dict.fromkeys(names)}
    found = []
    for number, name in enumerate(names):
        look, again = own[name], names[:number].count(name)
        if again:
            others = [s for s in _SERIES if s.marker != look.marker]
            marker, line = others[(again - 1) % len(others)][3:]
            look = look._replace(marker=marker, line=line)
        found.append(look)
    return found


def variables() -> str:
    """The style sheet's lines that define the colours, for a light and for a dark page."""

    def block(selector: str, column: int) -> str:
        lines = "".join(f"  {name}: {pair[column]};\n" for name, pair in COLOURS.items())
        return f"{selector} {{\n{lines}}}\n"

    return block(":root", 0) + block('html[data-theme="dark"]', 1)

"""Figures on pages: numbered, readable without colour, without sight, and the same everywhere."""

import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import pytest
from markupsafe import Markup
from matplotlib.figure import Figure

from nbrepro.book import captions, style

CSS = Path(__file__).parents[1] / "book" / "_static" / "book.css"


def drawn(panels: int = 1) -> Figure:
    """Panels with two labelled lines, a legend and a tick label of 0.05 each."""
    with plt.rc_context(style.RC):
        figure = plt.figure(figsize=(5 * panels, 3), layout="constrained")
        for part in figure.subfigures(1, panels, squeeze=False)[0] if panels > 1 else [figure]:
            axis = part.subplots()
            for name, height in (("agc", 1 / 3), ("BatchNorm", 0.123456)):
                axis.plot([1, 2], [0, height], color=style.METHODS[name].light, label=name)
            axis.set_yticks([0.05])
            axis.legend()
        plt.close(figure)
    return figure


def shown(figure: Figure | str, **options: str) -> str:
    return str(
        captions.figure(figure, **{"caption": "A plot.", "alt": "Two lines.", **options}).data
    )


@pytest.fixture(autouse=True)
def page() -> None:
    captions.start("08_training_only_batchnorm")


def test_figures_are_numbered_within_their_chapter() -> None:
    first, second = shown("<svg/>", caption="One."), shown("<svg/>", caption="Two.")
    assert 'id="figure-8-1"' in first
    assert "Figure 8.1</a>" in first
    assert "Figure 8.2</a>" in second
    assert shown("<svg/>", caption="One.") == first, "a cell that is executed again"
    captions.start("speed")
    assert "Figure 1</a>" in shown("<svg/>")


def test_a_figure_has_a_caption_an_alt_text_and_its_takeaway_first() -> None:
    html = shown(drawn(), takeaway="AGC wins.", note="n = 2 seeds", alt='two "lines"')
    figure = ElementTree.fromstring(re.sub("xlink:", "", html))
    assert figure.find("div").attrib["aria-label"] == 'two "lines"'
    assert figure.find("div").attrib["role"] == "img"
    said = "".join(figure.find("figcaption").itertext())
    assert said == "Figure 8.1 AGC wins. A plot. n = 2 seeds"
    for missing in ("caption", "alt"):
        with pytest.raises(ValueError, match=f"no {missing}"):
            shown(drawn(), **{missing: " "})


def test_text_is_escaped_but_for_markup() -> None:
    assert "a &lt; b" in shown("<svg/>", caption="a < b")
    assert "<em>a</em>" in shown("<svg/>", caption=Markup("<em>a</em>"))


def test_what_can_be_used_is_a_group_and_not_an_image() -> None:
    assert 'role="group"' in shown('<input type="range">')
    assert 'role="img"' in shown("<svg></svg>")


def test_the_same_figure_gives_the_same_bytes() -> None:
    first = shown(drawn(2))
    captions.start("08_training_only_batchnorm")
    assert shown(drawn(2)) == first


def test_a_figure_knows_no_page_but_the_page_its_colours() -> None:
    html = shown(drawn())
    assert "<style" not in html
    assert "font-family" not in html
    assert "date" not in html.lower()
    assert f"var(--nb-green, {style.METHODS['agc'].light})" in html
    assert "stroke: currentColor" in html
    assert "#000000" not in html


def test_coordinates_are_short_and_texts_are_left_alone() -> None:
    html = shown(drawn())
    values = re.findall(r'(?<=[ "])-?\d+\.(\d+)', " ".join(re.findall(r'="([^"]*)"', html)))
    assert values
    assert max(map(len, values)) == 2
    assert ">0.05</text>" in html


def test_panels_are_pictures_of_their_own_with_one_legend() -> None:
    html = shown(drawn(2))
    panels = re.findall("<svg viewBox.*?</svg>", html.split('class="panels"')[1], re.DOTALL)
    assert len(panels) == 2
    assert [">0.05</text>" in panel for panel in panels] == [True, True]
    assert re.findall(r"</svg>([^<]+)</li>", html) == ["agc", "BatchNorm"]
    assert ">agc</text>" not in html, "the legend is not drawn a second time"


def test_a_page_has_every_id_once() -> None:
    html = "".join(shown(drawn(2), caption=f"Plot {number}.") for number in range(2))
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:xlink:href="|url\()#(\w+)', html)) <= set(ids)


def test_a_figure_is_left_as_it_was() -> None:
    figure = drawn(2)
    shown(figure)
    assert all(axis.get_legend().get_visible() for axis in figure.axes)
    assert all(part.get_visible() for part in figure.subfigs)


# --- colours ---


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2) of six hexadecimal digits."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("variable", sorted(set(style.COLOURS) - {"--nb-grid", "--nb-ground"}))
def test_every_colour_is_seen_on_light_and_on_dark(variable: str) -> None:
    light, dark = style.COLOURS[variable]
    least = 4.5 if variable == "--nb-muted" else 3  # muted is text
    assert contrast(light, "#ffffff") >= least
    assert contrast(dark, "#14181e") >= least


def test_the_style_sheet_has_the_colours_of_the_figures() -> None:
    assert style.variables() in CSS.read_text(encoding="utf-8")


def test_the_style_sheet_closes_what_it_opens() -> None:
    depth = 0
    for sign in re.findall("[{}]", CSS.read_text(encoding="utf-8")):
        depth += 1 if sign == "{" else -1
        assert depth in (0, 1, 2), "a rule stands within another one; @media alone may hold rules"
    assert depth == 0


def test_methods_differ_by_more_than_colour() -> None:
    names = list(style.METHODS)
    first = [names.index(name) for name in ("batchnorm", "BatchNorm", "plain")]
    studies = [names[a:b] for a, b in zip(first, [*first[1:], None], strict=True)]
    for study in studies:
        looks = [(style.METHODS[name].marker, style.METHODS[name].light) for name in study]
        assert len({marker for marker, _ in looks}) == len(study)
        assert not {"x", "X", "+", "D", "d"} & {marker for marker, _ in looks}


def test_a_method_keeps_its_style_and_strangers_get_free_ones() -> None:
    one, two, three = style.of(["agc", "never seen", "BatchNorm"])
    assert (one, three) == (style.METHODS["agc"], style.METHODS["BatchNorm"])
    assert two.light not in (one.light, three.light)
    assert style.of(["random:2"]) == [style.METHODS["random"]]


def test_arms_of_one_method_share_its_colour_alone() -> None:
    looks = style.of(["agc", "BatchNorm", "agc", "agc"])
    assert looks[0] == style.METHODS["agc"]
    assert len({look.light for look in looks}) == 2
    assert len({(look.light, look.marker) for look in looks}) == 4

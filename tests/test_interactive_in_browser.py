"""Drawings and interactive figures in a real browser, from a file, with the script and without."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_interactive import CURVES, MEMBERS, PARTS, PLACES, SCRIPT, data, epochs, question

from nbrepro import agc, layers
from nbrepro.book import captions, drawings, interactive, style

CSS = SCRIPT.with_name("book.css")
Show = Callable[..., Any]


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Show]:
    """Opens HTML as a page of its own, from disk; errors in its console fail the test."""
    contexts, troubles = [], []

    def opened(html: str, *, script: bool = True, **settings: Any) -> Any:
        path = tmp_path / "page.html"
        look = f"<style>{style.variables()}{CSS.read_text('utf-8')}</style>"
        code = f"<script>{SCRIPT.read_text('utf-8')}</script>" if script else ""
        path.write_text(f'<!doctype html><meta charset="utf-8">{look}{code}<body>{html}', "utf-8")
        contexts.append(browser.new_context(**settings))
        tab = contexts[-1].new_page()
        tab.on("pageerror", lambda error: troubles.append(str(error)))
        tab.on("console", lambda m: troubles.append(m.text) if m.type == "error" else None)
        tab.goto(path.as_uri())
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []


def slide(tab: Any, name: str, value: float) -> None:
    """Move a slider to one of its values, as a reader's hand would."""
    tab.locator(f'input[name="{name}"]').evaluate(
        """(input, value) => {
          input.value = JSON.parse(input.dataset.values).indexOf(value);
          input.dispatchEvent(new Event("input", { bubbles: true }));
        }""",
        value,
    )


def drawn(tab: Any) -> str:
    text: str = tab.locator("svg").first.evaluate("svg => svg.outerHTML")
    return text


# --- all drawings and figures ---

#: Texts that leave their drawing or lie on another text, and the size of the smallest.
TEXTS = """svg => {
  const box = svg.getBoundingClientRect(), found = [];
  const texts = [...svg.querySelectorAll("text")].map(text => [text, text.getBoundingClientRect()]);
  texts.forEach(([text, a], index) => {
    if (a.left < box.left - 1 || a.right > box.right + 1 || a.top < box.top - 1 || a.bottom > box.bottom + 1)
      found.push(`outside: ${text.textContent}`);
    for (const [other, b] of texts.slice(index + 1)) {
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (across > 1 && down > 3) found.push(`${text.textContent} lies on ${other.textContent}`);
    }
  });
  const scale = box.width / svg.viewBox.baseVal.width;
  const sizes = texts.map(([text]) => scale * parseFloat(getComputedStyle(text).fontSize));
  return [found, Math.min(...sizes)];
}"""  # noqa: E501


@pytest.mark.parametrize("width", [358, 720])
def test_no_text_is_cut_off_hidden_or_too_small(width: int, show: Show) -> None:
    parts = {name: build() for name, build in PARTS.items() if name not in ("answers", "guess")}
    parts |= {name: drawings.drawing(name).data for name in drawings.captions()}
    page = "<style>body { margin: 0 }</style>" + "\n".join(parts.values())
    tab = show(page, viewport={"width": width, "height": 600})
    measured = tab.evaluate(f"[...document.querySelectorAll('figure svg')].map({TEXTS})")
    for name, (found, smallest) in zip(parts, measured, strict=True):
        assert found == [], name
        assert smallest >= 9, name
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_drawing_takes_its_colours_from_the_page(show: Show) -> None:
    tab = show(drawings.drawing("blocks").data)
    fill = "svg => getComputedStyle(svg.querySelector('.blue rect')).fill"
    light = tab.locator("svg").evaluate(fill)
    tab.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert tab.locator("svg").evaluate(fill) != light


@pytest.mark.parametrize("name", sorted(PARTS.keys() - {"answers", "guess"}))
def test_the_script_changes_nothing_until_a_reader_does(name: str, show: Show) -> None:
    captions.start("05_x")
    html = PARTS[name]()
    before, after = show(html, script=False), show(html)
    assert not before.locator(".controls").is_visible()
    assert after.locator(".controls").is_visible() == (name != "rate_map")
    attributes = r"svg => svg.outerHTML.replace(/ tabindex=\"-?\d\"/g, '')"
    assert drawn(before) == after.locator("svg").first.evaluate(attributes)
    if name not in ("rate_map", "gamma_threshold"):  # these begin to speak with the script
        said = [tab.locator(".said").inner_text() for tab in (before, after)]
        assert said[0] == said[1]


# --- guesses ---


def test_a_guess_is_compared_on_one_scale_and_only_when_asked_for(show: Show) -> None:
    tab = show(question())
    assert not tab.locator("details").is_visible()
    assert not tab.locator(".guess-scale").is_visible()
    tab.locator('input[type="number"]').fill("20")
    assert tab.locator('input[type="range"]').input_value() == "20"
    tab.locator('input[type="number"]').press("Enter")
    said = tab.locator('[role="status"]').inner_text()
    assert said == "Your guess: 20 points. Answer: 7.85 points. You are 12.15 points too high."
    assert tab.locator("details").get_attribute("open") is not None
    at = [
        tab.locator(f'[data-mark="{name}"]').get_attribute("transform")
        for name in ("guess", "answer")
    ]
    assert at == ["translate(290.00 0)", f"translate({20 + 360 * 17.85 / 40:.2f} 0)"]


@pytest.mark.parametrize(
    ("value", "verdict"), [("-3.5", "11.35 points too low."), ("7.85", "Exactly right.")]
)
def test_what_a_guess_is_told(value: str, verdict: str, show: Show) -> None:
    tab = show(question())
    tab.locator('input[type="number"]').fill(value)
    tab.get_by_role("button", name="Compare").click()
    said = tab.locator('[role="status"]').inner_text()
    assert said.endswith(verdict)
    assert said.startswith(f"Your guess: {value.replace('-', '−')} points.")


def test_a_guess_by_the_slider_alone_and_with_the_keyboard(show: Show) -> None:
    tab = show(question(answer=50, low=0, high=100, unit=""))
    tab.keyboard.press("Tab")
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    said = tab.locator('[role="status"]').inner_text()
    assert said == "Your guess: 49. Answer: 50. You are 1 too low."


def test_a_guess_without_the_script_is_a_question_with_a_folded_answer(show: Show) -> None:
    tab = show(question(), script=False)
    assert not tab.locator("form").is_visible()
    tab.locator("summary").click()
    assert tab.get_by_text("7.85 points").is_visible()


# --- figures with sliders ---


@pytest.mark.parametrize(("clipping", "ratio"), [(0.01, 0.8), (0.5, 1.2), (0.16, 0.1), (0.3, 0.3)])
def test_the_ball_clips_as_the_library(clipping: float, ratio: float, show: Show) -> None:
    tab = show(interactive.lambda_ball().data)
    slide(tab, "clipping", clipping)
    slide(tab, "ratio", ratio)
    one = torch.ones((), dtype=torch.float64)
    factor = agc.clip_factor(one.clone(), ratio * one, clipping, 1e-3).item()
    assert float(tab.locator('[data-say="factor"]').inner_text()) == pytest.approx(factor, abs=5e-4)
    above = tab.locator('[data-say="ratio"]').inner_text()
    assert ("not above" in above) == (factor == 1)
    lengths = tab.evaluate(
        """() => ["gradient", "clipped"].map(part =>
             document.querySelector(`[data-part="${part}"]`).getTotalLength())"""
    )
    assert lengths[1] / lengths[0] == pytest.approx(factor, abs=0.01)
    radius = float(tab.locator('[data-part="ball"]').first.get_attribute("r"))
    assert radius / lengths[0] == pytest.approx(clipping / ratio, abs=0.01)
    texts = tab.locator("output").all_inner_texts()
    assert list(map(float, texts)) == [clipping, ratio]


@pytest.mark.parametrize(("alpha", "blocks"), [(0.2, 1), (1.0, 24), (0.35, 7), (0.0, 3)])
def test_betas_follow_the_library(alpha: float, blocks: int, show: Show) -> None:
    tab = show(interactive.betas().data)
    slide(tab, "alpha", alpha)
    slide(tab, "blocks", blocks)
    expected = interactive.betas(alpha, blocks)
    for part in ("line", "dots"):
        path = tab.locator(f'[data-part="{part}"]').get_attribute("d")
        assert f'd="{path}"' in expected.data
    stds = [beta for stage in layers.expected_stds([blocks] * 4, alpha) for beta in stage]
    assert tab.locator('[data-say="largest"]').inner_text() == f"{max(stds):.3f}"
    share = alpha**2 / (stds[blocks - 1] ** 2 + alpha**2 if blocks > 1 else 1 + alpha**2)
    assert tab.locator('[data-say="share"]').inner_text() == f"{100 * share:.1f} %"
    for tick in tab.locator('[data-part="tick"]').all_text_contents():
        assert f">{tick}</text>" in expected.data


#: Every stop of both sliders: γ, β, what is drawn, what is said.
STOPS = """figure => {
  const [gamma, beta] = figure.querySelectorAll("input"), seen = [];
  const values = input => JSON.parse(input.dataset.values);
  const part = (name, attribute) => figure.querySelector(`[data-part="${name}"]`).getAttribute(attribute);
  values(gamma).forEach((g, i) => values(beta).forEach((b, j) => {
    [gamma.value, beta.value] = [i, j];
    gamma.dispatchEvent(new Event("input"));
    seen.push([g, b, part("off", "d"), part("on", "d"), part("share", "width"), figure.querySelector(".said").innerHTML]);
  }));
  return seen;
}"""  # noqa: E501


def test_gain_and_bias_follow_python_at_every_stop(show: Show) -> None:
    tab = show(interactive.gain_and_bias().data)
    stops = tab.locator("figure").evaluate(STOPS)
    assert len(stops) > 300
    for gamma, beta, off, on, share, said in stops:
        expected = interactive.gain_and_bias(gamma, beta).data
        assert f'data-part="off" d="{off}"' in expected, (gamma, beta)
        assert f'data-part="on" d="{on}"' in expected, (gamma, beta)
        assert f'width="{share}"' in expected, (gamma, beta)
        assert f'role="status">{said}</p>' in expected, (gamma, beta)


def test_companions_move_to_where_their_batches_put_them(show: Show) -> None:
    tab = show(interactive.companions(PLACES, 0.5, 4).data)
    for size in (64, 2):
        slide(tab, "images", size)
        expected = interactive.companions(PLACES, 0.5, size).data
        for part, attribute in (("dots", "d"), ("band", "x"), ("band", "width")):
            value = tab.locator(f'[data-part="{part}"]').get_attribute(attribute)
            assert f'{attribute}="{value}"' in expected
        said = tab.locator(".said").inner_html()
        assert f'<p class="said" role="status">{said}</p>' in expected


def test_sliders_work_with_the_keyboard_and_tell_their_value(show: Show) -> None:
    tab = show(interactive.betas().data)
    tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    tab.keyboard.press("End")
    blocks = tab.locator('input[name="blocks"]')
    assert blocks.get_attribute("aria-valuetext") == "24"
    assert tab.locator(".said").get_attribute("role") == "status"
    assert "M" in tab.locator('[data-part="line"]').get_attribute("d")


def test_the_threshold_moves_the_veil_and_says_what_is_left(show: Show) -> None:
    tab = show(interactive.gamma_threshold(CURVES, start=0).data)
    for threshold in (0.1, 0.01):
        slide(tab, "threshold", threshold)
        expected = interactive.gamma_threshold(CURVES, start=threshold).data
        for part, attribute in (("veil", "width"), ("cursor", "d")):
            value = tab.locator(f'[data-part="{part}"]').get_attribute(attribute)
            assert f'{attribute}="{value}"' in expected
        curve = CURVES["affine"]
        off, accuracy = 100 * curve.off(threshold), 100 * curve.accuracy(threshold)
        left = f"{off:.0f}\u00a0% zeroed, {accuracy:.1f}\u00a0%"
        assert tab.locator('[data-part="said"]').first.text_content() == left
        said = tab.locator('[role="status"]').text_content()
        assert f"|γ| < {threshold:g} set to zero. affine: {left};" in said


# --- the map of runs ---


def test_the_map_is_one_stop_and_arrow_keys_move_over_it(show: Show) -> None:
    tab = show(PARTS["rate_map"]())
    focused = "document.activeElement.querySelector('title')?.textContent ?? ''"
    tab.keyboard.press("Tab")
    first = tab.evaluate(focused)
    assert first.startswith("BatchNorm, rate 0.4, seed 2")
    for key, where in (
        ("ArrowRight", "BatchNorm, rate 0.4, seed 1"),
        ("ArrowDown", "no clipping, rate 0.4, seed 1"),
        ("ArrowLeft", "no clipping, rate 0.4, seed 2"),
        ("ArrowLeft", "no clipping, rate 0.4, seed 2"),
        ("ArrowUp", "BatchNorm, rate 0.4, seed 2"),
        ("ArrowUp", "BatchNorm, rate 0.4, seed 2"),
    ):
        tab.keyboard.press(key)
        assert tab.evaluate(focused).startswith(where), key
    assert tab.locator(".said").inner_text().startswith("BatchNorm, rate 0.4, seed 2: 42.0 %")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "record of the run"


def test_a_dot_says_what_it_is_and_which_claims_rest_on_it(show: Show) -> None:
    tab = show(PARTS["rate_map"]())
    run, *_ = data(PARTS["rate_map"]())["claims"]
    tab.locator(f'[data-run="{run}"]').hover()
    links = {a.inner_text(): a.get_attribute("href") for a in tab.locator(".said a").all()}
    assert links == {
        "record of the run": f"_static/records/{run}.json",
        "F2-a": "claims/F2-a.html",
        "F2-b": "claims/F2-b.html",
    }


def test_a_first_touch_chooses_and_a_second_follows(show: Show) -> None:
    tab = show(PARTS["rate_map"](), has_touch=True, viewport={"width": 390, "height": 900})
    followed: list[str] = []
    tab.on("request", lambda request: followed.append(request.url))
    tab.route("**/*.json", lambda route: route.fulfill(body="{}"))
    dot = tab.locator("a[data-run]").nth(4)
    dot.tap()
    assert dot.locator("title").text_content() in tab.locator(".said").inner_text()
    assert followed == []
    address = dot.get_attribute("href")
    with tab.expect_navigation():
        dot.tap()
    assert followed[0].endswith(address)


def test_a_member_of_a_family_is_drawn_as_python_draws_it(show: Show) -> None:
    tab = show(interactive.stages("Net-", MEMBERS).data)
    slide(tab, "member", 1)
    expected = show(interactive.stages("Net-", MEMBERS, start=1).data)
    assert drawn(tab) == drawn(expected)
    assert tab.locator(".said").inner_text() == "Large."


# --- through training ---


@pytest.mark.parametrize("epoch", [0, 1, 2, 3, 4])
def test_an_epoch_on_the_slider_is_drawn_as_python_draws_it(epoch: int, show: Show) -> None:
    slid = show(epochs(start=(4 - epoch) / 4))
    slide(slid, "epoch", 25.0 * epoch)
    assert re.sub(r' tabindex="-?\d"', "", drawn(slid)) == drawn(
        show(epochs(start=epoch / 4), script=False)
    )


def test_the_epoch_is_said_for_every_arm(show: Show) -> None:
    tab = show(epochs())
    slide(tab, "epoch", 50.0)
    assert tab.locator('[role="status"]').text_content() == (
        "50 % of training. everything: 2 of 3 survive: 52.5\u00a0%; γ and β: 31.0\u00a0%; "
        "output layer: 15.0\u00a0%"
    )


def test_a_chosen_run_goes_through_training_with_the_keyboard(show: Show) -> None:
    tab = show(epochs())
    tab.keyboard.press("Tab")
    for _ in range(3):
        tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("Tab")
    for key in ("ArrowRight", "ArrowRight", "ArrowRight"):
        tab.keyboard.press(key)
    said = tab.locator(".said")
    assert said.inner_text().startswith("everything, seed 2: 30.0\u00a0%\n")
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("ArrowRight")
    assert said.inner_text().startswith("everything, seed 2: 5.0\u00a0%, diverged\n")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.dataset.name") == "everything, seed 2"
    tab.keyboard.press("ArrowDown")
    assert tab.evaluate("document.activeElement.dataset.name").startswith("γ and β")

"""The site in a real browser: built once from the stored outputs, every page opened once.

While a page is open, it is looked at on a desktop in the light and in the dark, and on two phones.
What was seen is kept, and each test below is about one kind of fault.
"""

import asyncio
import functools
import http.server
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest

from nbrepro import claims
from nbrepro.book import build
from nbrepro.claims import verdicts
from nbrepro.claims.reviews import reviews
from nbrepro.records import timings
from nbrepro.records.ledger import Ledger

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*build.pages(ROOT), "search"]
PHONES = {"390": 844, "320": 568}
MEGABYTE = 2**20
#: Rule of axe → the theme's own elements that break it, which are not ours to mend.
THEMES_OWN = {
    "label-content-name-mismatch": "toggle-details__summary",
    "region": "sidebar-primary-item",  # logo and search stand outside of landmarks
}


@dataclass
class Seen:
    """What one page showed."""

    troubles: list[str] = field(default_factory=list)
    bytes: int = 0
    faults: list[str] = field(default_factory=list)
    faint: dict[str, list[str]] = field(default_factory=dict)
    wide: dict[str, list[str]] = field(default_factory=dict)
    small: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of the stored outputs."""
    target = tmp_path_factory.mktemp("site")
    tool = str(Path(sys.executable).with_name("jupyter-book"))
    options = ["--path-output", str(target), "-W", "-n", "--keep-going", "-q"]
    done = subprocess.run(
        [tool, "build", "book/", *options], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return target / "_build" / "html"


@pytest.fixture(scope="session")
def served(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            return

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# --- every page, opened once ---

#: What reaches beyond the right edge although nothing around it scrolls.
WIDE = """() => {
  const edge = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= edge) return [];
  return [...document.querySelectorAll("article *")]
    .filter(e => e.getBoundingClientRect().right > edge + 1)
    .map(e => e.tagName + "." + (e.className.baseVal ?? e.className)).slice(0, 5);
}"""
#: Texts of figures that are drawn smaller than 9 pixels, or in images, which cannot be asked.
SMALL = """() => [...document.querySelectorAll("article svg text, .nbrepro-figure img")]
  .filter(e => e.checkVisibility() && e.getBoundingClientRect().width)
  .map(e => [e, parseFloat(getComputedStyle(e).fontSize) * (e.getScreenCTM?.().a ?? 0)])
  .filter(([e, size]) => size < 8.95)
  .map(([e, size]) => size.toFixed(1) + " px: " + e.textContent.trim())"""
BYTES = """() => performance.getEntriesByType("resource").concat(
    performance.getEntriesByType("navigation"))
  .reduce((sum, e) => sum + e.encodedBodySize, 0)"""
READY = """async () => {
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;
}"""
AXE = """async () => (await axe.run(document, {
    preload: false,  // it would ask for style sheets that no page loads
    resultTypes: ["violations"],
    rules: {"color-contrast": {enabled: false}},  // CONTRASTS is faster, and sees SVG as well
  })).violations.flatMap(v => v.nodes.map(n => [v.id, n.target.flat().join(" "), n.failureSummary]))
"""
#: Texts whose contrast with their ground is below what WCAG asks: 4.5, or 3 if they are large.
CONTRASTS = """() => {
  const rgba = text => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return text.startsWith("color(srgb") ? [255 * r, 255 * g, 255 * b, a] : [r, g, b, a];
  };
  const over = ([r, g, b, a], ground) =>
    [r, g, b].map((value, i) => a * value + (1 - a) * ground[i]);
  const luminance = color => color.map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const grounds = new Map();
  const ground = element => {
    if (!element) return [255, 255, 255];
    if (!grounds.has(element)) {
      const own = rgba(getComputedStyle(element).backgroundColor);
      grounds.set(element, over(own, own[3] === 1 ? own : ground(element.parentElement)));
    }
    return grounds.get(element);
  };
  const found = new Map();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode, element = text.parentElement;
    if (!text.data.trim() || !element.checkVisibility({visibilityProperty: true})) continue;
    if (element.closest("script, style, noscript, title, desc, mjx-assistive-mml")) continue;
    const style = getComputedStyle(element), size = parseFloat(style.fontSize);
    const drawn = element instanceof SVGElement;
    const behind = ground(drawn ? element.closest("svg").parentElement : element);
    const ink = rgba(drawn ? style.fill : style.color);
    const pair = [luminance(over(ink, behind)), luminance(behind)];
    const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (contrast < (large ? 3 : 4.5))
      found.set(element.tagName + "." + element.className + " " + ink + " on " + behind,
        contrast.toFixed(2) + ": " + text.data.trim().slice(0, 40));
  }
  return [...found].map(([what, text]) => text + " (" + what + ")");
}"""


async def look(context: Any, home: str, page: str, axe: str) -> Seen:
    """Open a page and look at it in every way."""
    seen = Seen()
    tab = await context.new_page()
    tab.on("pageerror", lambda error: seen.troubles.append(f"error: {error}"))
    tab.on("console", lambda m: seen.troubles.append(m.text) if m.type == "error" else None)
    tab.on("requestfailed", lambda r: seen.troubles.append(f"failed: {r.url}"))
    inside = (home, "data:", "blob:")
    tab.on(
        "request",
        lambda r: None if r.url.startswith(inside) else seen.troubles.append(f"out: {r.url}"),
    )
    await tab.goto(f"{home}/{page}.html")
    await tab.evaluate(READY)
    await tab.add_style_tag(content="* {transition: none !important}")
    seen.bytes = await tab.evaluate(BYTES)
    await tab.evaluate(axe)
    for rule, target, why in await tab.evaluate(AXE):
        if not re.search(THEMES_OWN.get(rule, r"$^"), target):
            seen.faults.append(f"{rule}: {target}: {why}")
    await tab.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    for mode in ("light", "dark"):
        await tab.emulate_media(color_scheme=mode)
        await tab.wait_for_function(f"document.documentElement.dataset.theme === '{mode}'")
        seen.faint[mode] = await tab.evaluate(CONTRASTS)
    for width, height in PHONES.items():
        await tab.set_viewport_size({"width": int(width), "height": height})
        seen.wide[width] = await tab.evaluate(WIDE)
        if width == "390":
            seen.small = await tab.evaluate(SMALL)
    await tab.close()
    return seen


async def look_at_all(home: str, pages: list[str], chromium: dict[str, Any]) -> dict[str, Seen]:
    from playwright.async_api import async_playwright

    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(**chromium)
        context = await browser.new_context(viewport={"width": 1280, "height": 900})
        turn = asyncio.Semaphore(3)

        async def look_at(page: str) -> Seen:
            async with turn:
                return await look(context, home, page, axe)

        return dict(zip(pages, await asyncio.gather(*map(look_at, pages)), strict=True))


@pytest.fixture(scope="session")
def seen(served: str, chromium: dict[str, Any]) -> dict[str, Seen]:
    with ThreadPoolExecutor(1) as thread:  # away from the loop that other fixtures run
        return thread.submit(asyncio.run, look_at_all(served, PAGES, chromium)).result()


@pytest.mark.parametrize("page", PAGES)
def test_nothing_fails_and_nothing_is_fetched_from_outside(
    page: str, seen: dict[str, Seen]
) -> None:
    assert seen[page].troubles == []


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_light(page: str, seen: dict[str, Seen]) -> None:
    assert 0 < seen[page].bytes < 3 * MEGABYTE


@pytest.mark.parametrize("page", PAGES)
def test_pages_keep_the_rules_of_axe(page: str, seen: dict[str, Seen]) -> None:
    assert seen[page].faults == []


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(mode: str, page: str, seen: dict[str, Seen]) -> None:
    assert seen[page].faint[mode] == []


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("width", PHONES)
def test_no_page_is_wider_than_a_phone(width: str, page: str, seen: dict[str, Seen]) -> None:
    assert seen[page].wide[width] == []


@pytest.mark.parametrize("page", PAGES)
def test_figures_can_be_read_on_a_phone(page: str, seen: dict[str, Seen]) -> None:
    assert seen[page].small == []


# --- the files of the site, without a browser ---


def test_the_literal_build_command_shows_every_page_and_every_verdict(site: Path) -> None:
    records, _ = Ledger(ROOT / "results").scan()
    measured = timings.read(ROOT / "results")
    scorecard = (site / "scorecard.html").read_text(encoding="utf-8")
    for claim in claims.register().values():
        verdict = verdicts.judge(claim, records, measured).verdict
        end = "</tr>" if claim.rule else "</li>"
        rows = re.findall(rf">{claim.id}</span>.*?{end}", scorecard, re.S)
        assert len(rows) == 1, f"{claim.id} has {len(rows)} rows on the scorecard"
        if claim.rule:
            assert f">{verdict}</span>" in rows[0]
        page = (site / f"{claim.chapter}.html").read_text(encoding="utf-8")
        shown = page.count(f'id="{claim.id}"')
        assert shown == 1, f"{claim.id} is shown {shown} times in its chapter"


def test_every_statement_of_the_reviews_stands_on_their_page(site: Path) -> None:
    page = (site / "reviews.html").read_text(encoding="utf-8")
    for review in reviews().values():
        for statement in review.statements:
            row = re.search(rf'id="review-{review.key}-{statement.n}".*?</tr>', page, re.S)
            assert row, f"statement {statement.n} of {review.key} has no row"
            for claim in statement.claims:
                assert f'href="claims/{claim}.html"' in row[0]


class Links(HTMLParser):
    """The links of a page, and the places in it that others can link to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.places = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.places |= {given.get("id") or "", given.get("name") or ""}
        for name in ("href", "src"):
            if given.get(name):
                self.links.add(str(given[name]))


def test_every_link_leads_to_a_page_and_a_place_in_it(site: Path) -> None:
    pages = {
        path.relative_to(site).as_posix(): Links(path.read_text(encoding="utf-8"))
        for path in site.rglob("*.html")
        if "_static" not in path.parts
    }
    dead = []
    for page, found in pages.items():
        for link in found.links:
            address, place = urldefrag(urljoin(f"site:///{page}", link))
            parts = urlsplit(address)
            if parts.scheme != "site" or link.startswith("#tab-"):
                continue
            target = unquote(parts.path).lstrip("/")
            if not (site / target).is_file():
                dead.append(f"{page}: {link}")
            elif target in pages and unquote(place) not in pages[target].places:
                dead.append(f"{page}: {link} (no such place)")
    assert dead == []


# --- pages in use ---


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    with browser.new_page() as page:
        yield page


@pytest.mark.parametrize("claim", ["ACC-20", "F2-a", "TR-1"])
def test_a_search_for_a_claim_finds_it_first(claim: str, tab: Any, served: str) -> None:
    tab.goto(f"{served}/search.html?q={claim}")
    first = tab.locator("#search-results li a").first
    first.wait_for()
    assert re.search(rf"claims/{claim}\.html", first.get_attribute("href"))
    first.click()
    assert tab.title().startswith(f"{claim}:")


def test_three_clicks_lead_from_the_first_page_to_a_record(tab: Any, served: str) -> None:
    tab.goto(f"{served}/index.html")
    tab.wait_for_url("**/intro.html")
    tab.locator("article a[href$='scorecard.html']").first.click()
    tab.locator("article a[href*='claims/ACC-20']").first.click()
    tab.locator("article a[href$='.json']").first.click()
    record = json.loads(tab.locator("pre").inner_text())
    assert record["spec"]["train"] == "batchnorm"


def test_pages_open_from_the_disk(tab: Any, site: Path) -> None:
    """Without a server: mathematics, styles and icons, and no error."""
    troubles: list[str] = []
    tab.on("console", lambda m: troubles.append(m.text) if m.type == "error" else None)
    tab.on("requestfailed", lambda r: troubles.append(r.url))
    tab.goto((site / "08_training_only_batchnorm.html").as_uri())
    tab.wait_for_selector("mjx-container", state="attached")
    assert tab.locator(".fa-download").first.evaluate(
        "e => getComputedStyle(e, '::before').content.length > 2 && e.offsetWidth > 5"
    )
    assert troubles == []

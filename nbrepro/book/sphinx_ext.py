"""Sphinx extension: make the built site readable offline, also straight from the disk.

MathJax is served from the site: what is needed of the package ``sphinx-mathjax-offline`` (MathJax
3) is copied; where that package is missing the default, a content delivery network, stays.

Every page is tidied after the theme has written it:

- font preloads go: from a file they are blocked and fill the console with errors, and the fonts
  load without them;
- so does the second copy of a script that sphinx-thebe declares twice;
- so does Bootstrap's scroll spy on pages without a table of contents: it would try the fragment of
  every link as a selector there, and fail at one that is none;
- so do the 1.5 MB of Font Awesome as a script: the page shows the same icons from its font;
- roles of bibliographies that ARIA has withdrawn go, and signatures that docutils writes as lists
  of definitions without terms become blocks;
- a number and the percent sign or the points behind it stay on one line.

What links elsewhere show of a page comes from :mod:`nbrepro.book.address`, the download ``agc.py``
from :mod:`nbrepro.book.standalone`.
"""

import importlib.util
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from nbrepro.book import address, bibliography, markup
from nbrepro.book.build import find_root
from nbrepro.book.standalone import standalone

_NEEDED = ("tex-mml-chtml.js", "output/chtml/fonts/woff-v2", "input/tex/extensions")


def _mathjax() -> Path | None:
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "static" / "mathjax"


def _configure(_app: Any, config: Any) -> None:
    if _mathjax():
        config.mathjax_path = "mathjax/tex-mml-chtml.js"


def _copy(app: Any, error: Exception | None) -> None:
    source = _mathjax()
    if error or source is None or app.builder.format != "html":
        return
    target = Path(app.outdir, "_static", "mathjax")
    for name in _NEEDED:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, dirs_exist_ok=True)
        else:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, target / name)


def _write_downloads(app: Any, error: Exception | None) -> None:
    if error or app.builder.format != "html":
        return
    licence = (find_root(Path(app.srcdir)) / "LICENSE").read_text(encoding="utf-8")
    Path(app.outdir, "_static", "agc.py").write_text(standalone(licence), encoding="utf-8")


def _as_blocks(found: re.Match[str]) -> str:
    lines = found[1].replace("<dd>", "<div>").replace("</dd>", "</div>")
    return f'<div class="sig-lines">{lines}</div>'


def _typeset(found: re.Match[str]) -> str:
    return {" ": "\u00a0", "-": "\u2212"}.get(found[0], found[0])


#: What is taken out of every page, or put in another form; in this order. Numbers keep their units,
#: their names and their minus signs.
_TIDY = (
    (re.compile(r'<link[^>]*rel="preload"[^>]*as="font"[^>]*>'), ""),
    (re.compile(r"(<script>const THEBE_JS_URL.*?</script>)(.*?)\1", re.DOTALL), r"\1\2"),
    (re.compile(r'(?<=<body) data-bs-spy="scroll"(?![^>]*>.*bd-toc-nav)', re.DOTALL), ""),
    (re.compile(r"<script[^>]*/fontawesome/[^>]*></script>"), ""),
    (re.compile(r' role="doc-biblioentry"|(?<=<div) role="list"(?= class="citation-list")'), ""),
    (re.compile(r'<dl>\s*(<dd><em class="sig-param">.*?)</dl>', re.DOTALL), _as_blocks),
    (
        re.compile(
            r"<(pre|script|style|code|textarea)\b.*?</\1>|<[^>]*>"  # as it is
            r"|\\\(.*?\\\)|\\\[.*?\\\]"  # and so is TeX
            r"|(?<=\d) (?=%|points?\b)|(?<=\d,) (?=[-+]?\d[\d.,]*\])"  # 5 %, 5 points, [1, 5]
            r"|(?<=Table) (?=\d)|(?<=Figure) (?=\d)|(?<=section) (?=\d)"
            r"|(?<=\w) (?== [-+\d])|(?<=\w[ \u00a0]=) (?=[-+\d])"  # n = 5
            r"|(?<=\[)-(?=\d)|(?<![\w.\]/)-])-(?=\d+\.\d)",  # [-5, -0.5 but not "and -32"
            re.DOTALL,
        ),
        _typeset,
    ),
)


def _tidy_pages(app: Any, error: Exception | None) -> None:
    if error or app.builder.format != "html":
        return
    for page in Path(app.outdir).glob("**/*.html"):
        text = page.read_text(encoding="utf-8")
        for pattern, replacement in _TIDY:
            text = pattern.sub(replacement, text)
        page.write_text(text, encoding="utf-8")


def _pages_of_claims(app: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    from nbrepro.book import evidence  # here, so that other builders need not wait for it

    yield from evidence.pages(app)


def _share_sidebar(
    app: Any, page: str, _template: str, context: dict[str, Any], _tree: Any
) -> None:
    """One table of contents for the pages of all claims, which differ in nothing that it shows."""
    if page.startswith(f"{markup.CLAIMS}/"):
        if not hasattr(app, "_nbrepro_toctree"):
            app._nbrepro_toctree = cache(context["toctree"])
        context["toctree"] = app._nbrepro_toctree


def _outdated(app: Any, *_: Any) -> list[str]:
    """One page that is always read again: else nothing is done where only records changed."""
    return [app.config.root_doc]


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("config-inited", _configure)
    bibliography.register()
    app.add_config_value("nbrepro_description", "", "env")
    app.connect("config-inited", address.configure)
    app.connect("html-page-context", address.add_tags)
    app.connect("html-page-context", _share_sidebar, priority=100)  # before the theme's own
    app.connect("env-get-outdated", _outdated)
    app.connect("html-collect-pages", _pages_of_claims)
    app.connect("build-finished", _copy)
    app.connect("build-finished", _write_downloads)
    app.connect("build-finished", _tidy_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

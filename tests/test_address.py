"""The public address, one setting: what pages show with it, and that nothing is missing without."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from docutils import nodes

from nbrepro.book import address

ROOT = Path(__file__).parents[1]
ADDRESS = "https://github.com/somebody/checked"


def built(root: Path, url: str) -> Path:
    """The site of a book of three pages that has our configuration and this address."""
    (root / "book" / "deep").mkdir(parents=True)
    config = (ROOT / "_config.yml").read_text(encoding="utf-8")
    assert '\n  url: ""\n' in config, "the address is known now; give this test another line to set"
    (root / "book" / "_config.yml").write_text(config.replace('url: ""', f'url: "{url}"'), "utf-8")
    (root / "book" / "_toc.yml").write_text(
        "format: jb-book\nroot: intro\nchapters:\n- file: deep/words\n- file: chapter\n"
    )
    (root / "_toc.yml").symlink_to(root / "book" / "_toc.yml")
    (root / "book" / "references.bib").write_text("")
    (root / "results" / "runs").mkdir(parents=True)
    shutil.copy(ROOT / "results" / "checks.json", root / "results")
    for name in ("LICENSE", "book/_static"):
        (shutil.copytree if "_" in name else shutil.copy)(ROOT / name, root / name)
    (root / "book" / "intro.md").write_text("# Home\n\nA book with <two> pages & more.\n")
    (root / "book" / "deep" / "words.md").write_text("# *Words*\n\n```{note}\nNot this.\n```\n")
    notebook = nbformat.v4.new_notebook()
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    notebook.cells = [nbformat.v4.new_markdown_cell("# Chapter\n\nFirst words.\n\nMore.")]
    nbformat.write(notebook, root / "book" / "chapter.ipynb")
    tool = Path(sys.executable).with_name("jupyter-book")
    command = [str(tool), "build", "book/", "-W", "-n", "--keep-going", "-q"]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    return root / "book" / "_build" / "html"


def tags(page: Path) -> dict[str, str]:
    found = re.findall(r'<meta (?:name|property)="([^"]+)" content="([^"]*)">', page.read_text())
    return dict(found)


def outside(page: Path) -> set[str]:
    return set(re.findall(r'href="(https?://[^"]+)"', page.read_text()))


def test_with_an_address_every_page_links_to_its_source_and_previews_are_absolute(
    tmp_path: Path,
) -> None:
    site = built(tmp_path, ADDRESS)
    for page, source in (("intro", "intro.md"), ("chapter", "chapter.ipynb"),
                         ("deep/words", "deep/words.md")):  # fmt: skip
        links = outside(site / f"{page}.html")
        assert {ADDRESS, f"{ADDRESS}/edit/main/book/{source}"} <= links
        colab = f"https://colab.research.google.com/github/somebody/checked/blob/main/book/{source}"
        assert (colab in links) == source.endswith(".ipynb")
        shown = tags(site / f"{page}.html")
        assert shown["og:url"] == f"https://somebody.github.io/checked/{page}.html"
        assert shown["og:image"] == "https://somebody.github.io/checked/_static/preview.png"
        assert shown["twitter:card"] == "summary_large_image"
    assert ADDRESS in outside(site / "search.html")


def test_without_an_address_there_is_no_dead_button_and_no_half_address(tmp_path: Path) -> None:
    site = built(tmp_path, "")
    for page in ("intro", "chapter", "deep/words", "search", "genindex"):
        text = (site / f"{page}.html").read_text()
        assert not outside(site / f"{page}.html")
        assert not re.search(r"colab|source-(repository|edit)-button|launch-buttons", text)
        assert {"og:url", "og:image"}.isdisjoint(tags(site / f"{page}.html"))
    words = "A book with &lt;two&gt; pages &amp; more."
    assert tags(site / "intro.html") == {
        "description": words,
        "og:title": "Home",
        "og:description": words,
        "og:site_name": "Two papers about BatchNorm, checked",
        "og:type": "website",
    }
    assert tags(site / "chapter.html")["description"] == "First words."
    plain = tags(site / "deep" / "words.html")
    assert plain["og:title"] == "Words"
    assert plain["description"].startswith("Sentences of two papers")  # has none of its own
    assert "def clip_grads_(" in (site / "_static" / "agc.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("url", "known"),
    [(ADDRESS, True), (f"{ADDRESS}.git/", True), ("https://git.example.org/a/b", False)],
)
def test_only_github_has_colab_and_pages(url: str, known: bool) -> None:
    config = SimpleNamespace(html_theme_options={"repository_url": url}, html_baseurl="")
    address.configure(None, config)
    assert config.html_theme_options["use_repository_button"]
    assert ("launch_buttons" in config.html_theme_options) == known
    assert config.html_baseurl == ("https://somebody.github.io/checked/" if known else "")


def test_descriptions_end_with_a_sentence_or_a_word() -> None:
    sentence = "A sentence of some length, as they are. "
    assert address.shorten("Short.") == "Short."
    cut = address.shorten(sentence * 9, longest=100)
    assert cut == (sentence * 2).strip()
    words = address.shorten("word, " * 50, longest=100)
    assert len(words) <= 102
    assert words.endswith("word …")


def test_what_stands_in_boxes_describes_no_page() -> None:
    document = nodes.document(None, None)
    section = nodes.section()
    section += nodes.note("", nodes.paragraph("", "Boxed."))
    section += nodes.paragraph("", "Told\nplainly.")
    assert address.describe(document) == ""
    document += section
    assert address.describe(document) == "Told plainly."

"""Every page of the site is tidied after the theme has written it."""

from pathlib import Path
from types import SimpleNamespace

from nbrepro.book.sphinx_ext import _tidy_pages

BOUND = "\u00a0"


def test_number_and_its_unit_stay_on_one_line(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<p>47.5 % of 10 seeds, 1 point less</p>\n<pre>7 % 2</pre><script>i = 5 % 3</script>8 %\n",
        encoding="utf-8",
    )
    _tidy_pages(SimpleNamespace(builder=SimpleNamespace(format="html"), outdir=tmp_path), None)
    assert page.read_text(encoding="utf-8") == (
        f"<p>47.5{BOUND}% of 10 seeds, 1{BOUND}point less</p>\n"
        f"<pre>7 % 2</pre><script>i = 5 % 3</script>8{BOUND}%\n"
    )

"""Every page of the site is tidied after the theme has written it."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from nbrepro.book.sphinx_ext import _tidy_pages


def tidied(text: str, folder: Path) -> str:
    """A page as the site has it; ``_`` stands for a space at which no line is broken."""
    page = folder / "page.html"
    page.write_text(text, encoding="utf-8")
    _tidy_pages(SimpleNamespace(builder=SimpleNamespace(format="html"), outdir=folder), None)
    return page.read_text(encoding="utf-8").replace("\u00a0", "_")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<p>47.5 % of 10 seeds, 1 point less</p>", "<p>47.5_% of 10 seeds, 1_point less</p>"),
        ("<b>-0.7 points [-2, +3], n = 5</b>", "<b>−0.7_points [−2,_+3], n_=_5</b>"),
        ("Figure 2, Table 6, section 4", "Figure_2, Table_6, section_4"),
        ("ResNet-32 and -56, F2-a-4096, 1e-5", "ResNet-32 and -56, F2-a-4096, 1e-5"),
        ("<pre>7 % 2</pre><code>x[-1] = -0.5</code>", "<pre>7 % 2</pre><code>x[-1] = -0.5</code>"),
        ("<script>i = 5 % 3</script>8 %", "<script>i = 5 % 3</script>8_%"),
        ('<a title="[-1, 5 %]">\\(w = -0.5\\)</a>', '<a title="[-1, 5 %]">\\(w = -0.5\\)</a>'),
    ],
)
def test_what_belongs_together_stays_on_one_line(text: str, expected: str, tmp_path: Path) -> None:
    assert tidied(text, tmp_path) == expected

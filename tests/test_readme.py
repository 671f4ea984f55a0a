"""What the README says was found is what the records say."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from nbrepro.book import address, readme
from nbrepro.book.evidence import gather

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def verdicts() -> dict:
    return {v.claim.id: v for v in gather(ROOT / "results").deciding}


def test_the_table_is_that_of_the_records(verdicts: dict) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.filled(text, readme.findings(verdicts)) == text, "nbrepro book --update intro"


def test_another_verdict_is_another_table(verdicts: dict) -> None:
    other = replace(verdicts["ACC-10"], verdict="contradicted")
    assert "contradicted (ACC-10)" in readme.findings(verdicts | {"ACC-10": other})


def test_a_cell_stays_one_cell(verdicts: dict) -> None:
    claim = replace(verdicts["B-1"].claim, statement="a | b\nand c")
    table = readme.findings(verdicts | {"B-1": replace(verdicts["B-1"], claim=claim)})
    assert "| a \\| b and c |" in table
    assert table.count("\n") == 2 + len(readme.SHOWN)


def test_a_readme_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="what was found"):
        readme.filled("# nbrepro\n", "")


def test_the_picture_is_large_enough_for_a_preview(tmp_path: Path) -> None:
    """At least 600 by 315 pixels, which is what sites ask of a large card."""
    path = ROOT / "book" / address.PICTURE
    assert f"(book/{address.PICTURE})" in (ROOT / "README.md").read_text(encoding="utf-8")
    with Image.open(path) as picture:
        assert picture.width >= 600
        assert picture.height >= 315
    assert path.stat().st_size < 300_000


def test_the_block_of_ones_own_keeps_the_predicted_deviation() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall("```python\n(.*?)```", text, re.S) if "GAMMA" in block)
    torch.manual_seed(0)
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["x"].std().item() == pytest.approx(scope["betas"][0][1], rel=0.01)

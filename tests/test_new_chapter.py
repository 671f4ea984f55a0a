"""A new chapter: files that build and pass the book's tests as they are written."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from test_book import check_stored

from nbrepro import cli
from nbrepro.book import build, new_chapter

ROOT = Path(__file__).resolve().parent.parent
NAME, WORDS = "97_only_in_this_test", "only_in_this_test"
LAST = [page for page in build.pages(ROOT) if page[:2].isdigit()][-1]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of everything that a chapter is made of, without records."""
    skip = shutil.ignore_patterns("_build", ".*", "__pycache__")
    for folder in ("book", "nbrepro", "templates"):
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=skip)
    for file in ("_toc.yml", "_config.yml"):
        shutil.copy(ROOT / file, tmp_path / file)
    (tmp_path / "results" / "runs").mkdir(parents=True)
    return tmp_path


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_new_chapter_runs_from_its_parameters_to_its_verdicts(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(clone)
    new_chapter.write(NAME, "bn_only", root=clone)
    after = files(clone)
    assert {name for name in after if before.get(name) != after[name]} == {
        f"book/{NAME}.ipynb",
        f"nbrepro/experiments/{WORDS}.py",
        "nbrepro/claims/bn_only/claims.yaml",
        "nbrepro/claims/bn_only/conclusions.yaml",
        "_toc.yml",
        "book/_toc.yml",  # a link to the other one
    }
    monkeypatch.setenv("PYTHONPATH", str(clone))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    page = clone / "book" / f"{NAME}.ipynb"
    build.execute(page, page)
    check_stored(page)
    text = page.read_text(encoding="utf-8")
    assert "verdict verdict-none" in text, "a chapter without records has no verdict yet"
    assert "γ alone ['completed']" in text
    assert "β alone ['completed']" in text
    assert "{cite:p}`frankle2021`" in text, "the paper whose claim it is"
    assert 'id=\\"C97-1\\"' in text
    assert 'class=\\"nbrepro-found\\"' in text, "the box opens the page"
    # The site and the command line know it too.
    code = (
        "from nbrepro.book import found\n"
        "assert found.wordings()['C97-1'].open == 'Whether the claim holds is not settled.'\n"
        "from nbrepro import claims, experiments\n"
        f"assert [e.name for e in experiments.select({NAME!r})] == [{WORDS!r}]\n"
        f"assert [c.id for c in claims.of_chapter({NAME!r})] == ['C97-1']\n"
    )
    environment = os.environ | {"PYTHONPATH": str(clone)}
    subprocess.run([sys.executable, "-c", code], cwd=clone, env=environment, check=True)


@pytest.mark.parametrize(
    ("name", "between"),
    [
        ("97_x", (LAST, None)),
        ("07_x", ("06_nfnet_family", None)),
        ("00_x", (None, "01_batchnorm_in_ten_minutes")),
    ],
)
def test_its_line_of_the_contents_stands_among_the_chapters(
    name: str, between: tuple[str | None, str | None], clone: Path
) -> None:
    contents = clone / "_toc.yml"  # with a number to spare in the middle
    contents.write_text(re.sub(r" *- file: 07_.*\n", "", contents.read_text("utf-8")), "utf-8")
    old = build.pages(clone)
    new_chapter.write(name, root=clone)
    new = build.pages(clone)
    assert [page for page in new if page != name] == old
    before, after = between
    assert before is None or new[new.index(name) - 1] == before
    assert after is None or new[new.index(name) + 1] == after


def test_placeholders_are_filled_in(clone: Path) -> None:
    new_chapter.write(NAME, root=clone)
    document = nbformat.read(clone / "book" / f"{NAME}.ipynb", as_version=4)
    nbformat.validate(document)
    assert document.cells[0].source.startswith("# Only in this test\n")
    register = yaml.safe_load((clone / "nbrepro/claims/nfnets/claims.yaml").read_text("utf-8"))
    claim = register["claims"][-1]
    assert (claim["id"], claim["chapter"], claim["experiment"]) == ("C97-1", NAME, WORDS)
    for file in (f"book/{NAME}.ipynb", f"nbrepro/experiments/{WORDS}.py"):
        text = (clone / file).read_text(encoding="utf-8")
        assert not any(word in text for word in ("NAME", "TITLE", "CLAIM", "PAPER"))


@pytest.mark.parametrize(
    ("name", "paper", "hint"),
    [
        ("gamma", "nfnets", "two digits and words"),
        ("9_gamma", "nfnets", "two digits and words"),
        ("09_Gamma", "nfnets", "two digits and words"),
        ("09_../gamma", "nfnets", "two digits and words"),
        ("08_training_only_batchnorm", "nfnets", "08_training_only_batchnorm.ipynb exists"),
        ("97_precision", "nfnets", r"precision\.py exists"),
        ("08_gamma", "nfnets", "chapter 08 is 08_training_only_batchnorm"),
        ("09_gamma", "nfnet", "did you mean 'nfnets'"),
    ],
)
def test_bad_and_taken_names_are_refused_and_nothing_is_written(
    name: str, paper: str, hint: str, clone: Path
) -> None:
    before = files(clone)
    with pytest.raises(ValueError, match=hint):
        new_chapter.write(name, paper, root=clone)
    assert files(clone) == before


def test_the_command_says_what_comes_next(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(clone / "book")
    assert cli.main(["new-chapter", NAME]) == 0
    assert f"nbrepro book --update {NAME}" in capsys.readouterr().out
    assert cli.main(["new-chapter", NAME]) == 2
    assert "exists; choose another name" in capsys.readouterr().err

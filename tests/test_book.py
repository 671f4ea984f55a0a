"""How notebooks are executed and stored. What the site shows: test_browser.py."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from nbrepro.book import build, chapter
from nbrepro.records.ledger import Ledger, write_signed

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))


# --- executing a notebook ---


def notebook(path: Path, *sources: str) -> Path:
    document = nbformat.v4.new_notebook()
    document.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    document.cells[0].metadata.tags = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    document.metadata.kernelspec = kernel
    nbformat.write(document, path)
    return path


def test_execute_passes_parameters_and_strips_times_and_paths(tmp_path: Path) -> None:
    source = notebook(tmp_path / "a.ipynb", "n = 1\nname = 'x'", "print(n + 1, name)")
    build.execute(source, tmp_path / "out" / "a.ipynb", {"n": 41})
    text = (tmp_path / "out" / "a.ipynb").read_text(encoding="utf-8")
    assert "42 x" in text
    document = json.loads(text)
    assert "papermill" not in document["metadata"]
    assert all(not {"papermill", "execution"} & set(c["metadata"]) for c in document["cells"])
    assert str(tmp_path) not in text
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.ipynb"]


@pytest.mark.parametrize(
    ("given", "error", "hint"),
    [
        ({"m": 2}, ValueError, "did you mean 'n'|Known: n"),
        ({"nam": "y"}, ValueError, "did you mean 'name'"),
        ({"n": "2"}, TypeError, "expected int"),
    ],
)
def test_execute_rejects_wrong_parameters(
    given: dict[str, Any], error: type[Exception], hint: str, tmp_path: Path
) -> None:
    source = notebook(tmp_path / "a.ipynb", "n = 1\nname = 'x'", "print(n)")
    with pytest.raises(error, match=hint):
        build.execute(source, tmp_path / "b.ipynb", given)
    assert not (tmp_path / "b.ipynb").exists()


def test_a_failing_cell_leaves_the_old_output_and_keeps_the_new_one_apart(tmp_path: Path) -> None:
    source = notebook(tmp_path / "a.ipynb", "n = 1", "1 / n", "1 / 0")
    target = tmp_path / "b.ipynb"
    target.write_text("old")
    with pytest.raises(build.BookError, match="ZeroDivisionError"):
        build.execute(source, target)
    assert target.read_text() == "old"
    assert (tmp_path / "b.failed.ipynb").exists()
    assert not list(tmp_path.glob(".*part*"))


def test_a_stream_that_came_in_pieces_is_stored_as_one() -> None:
    def printed(name: str, text: str) -> Any:
        return nbformat.v4.new_output("stream", name=name, text=text)

    shown = nbformat.v4.new_output("display_data", data={"text/plain": "figure"})
    cell = nbformat.v4.new_code_cell("")
    cell.outputs = [
        *(printed("stdout", text) for text in ("a\n", "b", "c\n")),
        shown,
        printed("stdout", "d\n"),
        printed("stderr", "e\n"),
    ]
    document = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_markdown_cell("")])
    build.clean(document)
    kept = [(o.get("name"), o.get("text")) for o in document.cells[0].outputs]
    assert kept == [("stdout", "a\nbc\n"), (None, None), ("stdout", "d\n"), ("stderr", "e\n")]


# --- which notebooks a build executes ---


@pytest.fixture
def small_book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A book of two notebooks, and a build that executes them but renders nothing."""
    (tmp_path / "book").mkdir()
    (tmp_path / "_toc.yml").write_text("root: one\nchapters:\n- file: two\n")
    for name in ("one", "two"):
        notebook(tmp_path / "book" / f"{name}.ipynb", "n = 1", "print(n)")
    monkeypatch.setattr(build, "_render", lambda root: root / "index.html")
    return tmp_path


def stored(root: Path) -> set[str]:
    """Names of the notebooks with stored outputs."""
    return {p.stem for p in (root / "book").glob("*.ipynb") if '"stream"' in p.read_text()}


def test_a_page_that_the_contents_lack_is_named(small_book: Path) -> None:
    notebook(small_book / "book" / "three.ipynb", "n = 1", "print(n)")
    with pytest.raises(build.BookError, match=r"book/three\.ipynb is not in _toc\.yml"):
        build.build(root=small_book, update=["three"])


def test_update_stores_the_outputs_of_the_named_notebooks_alone(small_book: Path) -> None:
    lines: list[str] = []
    build.build(root=small_book, update=["two"], say=lines.append)
    assert stored(small_book) == {"two"}
    assert [line for line in lines if "executing" in line] == [
        "[1/1] executing two.ipynb at the smoke profile"
    ]


def test_a_build_says_when_checks_of_other_code_cost_it_minutes(small_book: Path) -> None:
    lines: list[str] = []
    build.build(root=small_book, update=["two"], say=lines.append)
    assert not any("checks" in line for line in lines), "there is no record of any"
    (small_book / "results").mkdir()
    other = {"sources": "other code", "checks": {}, "provenance": {}}
    write_signed(small_book / "results" / "checks.json", other)
    build.build(root=small_book, update=["two"], say=lines.append)
    assert any("checks.json is of other code" in line for line in lines)


def test_a_wrong_name_to_update_is_refused_before_anything_runs(small_book: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'two'"):
        build.build(root=small_book, update=["one", "twoo"], say=print)
    with pytest.raises(ValueError, match="smoke"):
        build.build("quick", root=small_book, update=[], say=print)
    assert stored(small_book) == set()


def test_two_builds_at_once_are_told_apart(
    small_book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(root: Path) -> Path:
        with pytest.raises(build.BookError, match="another nbrepro book is building"):
            build.build(root=small_book, update=["one"], say=lambda _: None)
        return root

    monkeypatch.setattr(build, "execute", lambda *_: None)
    monkeypatch.setattr(build, "_render", meanwhile)
    build.build(root=small_book, say=lambda _: None)
    monkeypatch.setattr(build, "_render", lambda root: root)
    build.build(root=small_book, say=lambda _: None)  # the lock is free again


def test_papermill_itself_stops_at_a_misspelt_parameter(tmp_path: Path) -> None:
    """The literal command, where papermill alone would run the default and say nothing."""
    tool = Path(sys.executable).with_name("papermill")
    chapter = ROOT / "book" / "08_training_only_batchnorm.ipynb"
    command = [
        str(tool),
        str(chapter),
        str(tmp_path / "out.ipynb"),
        "-p",
        "profil",
        "full",
        "--no-progress-bar",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "did you mean 'profile'" in done.stderr


# --- the committed notebooks ---


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_notebooks_are_clean_and_compared(path: Path) -> None:
    check_stored(path)


def check_stored(path: Path) -> None:
    """A notebook as it may be committed."""
    document = nbformat.read(path, as_version=4)
    code = [cell for cell in document.cells if cell.cell_type == "code"]
    tags = [set(cell.metadata.get("tags", [])) for cell in code]
    assert "papermill" not in document.metadata
    assert not any("injected-parameters" in t for t in tags)
    assert sum("parameters" in t for t in tags) == (1 if path.stem[:2].isdigit() else 0)
    outputs = [o for cell in code for o in cell.outputs]
    assert not any(o.output_type == "error" for o in outputs)
    assert not any(o.get("name") == "stderr" for o in outputs)
    compared = [
        o
        for cell, t in zip(code, tags, strict=True)
        if not t & {"nbval-skip", "nbval-ignore-output"}
        for o in cell.outputs
        if o.output_type == "stream" or {"text/html", "text/plain"} & set(o.get("data", {}))
    ]
    assert compared, "nbval would compare nothing in this chapter"
    # No path of the machine it was made on. (The repository's own root is one, whatever it is.)
    assert not re.search(r"/(home|root|work|Users|tmp)/", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "path", [*NOTEBOOKS, ROOT / "templates" / "chapter.ipynb"], ids=lambda p: p.stem
)
def test_cells_hold_at_most_fifteen_lines_of_code(path: Path) -> None:
    """What is longer belongs to the library, where it is named, typed and tested."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert len([line for line in cell.source.splitlines() if line.strip()]) <= 15, cell.id


@pytest.mark.parametrize(
    "path", [*NOTEBOOKS, ROOT / "templates" / "chapter.ipynb"], ids=lambda p: p.stem
)
def test_code_that_is_shown_and_what_it_prints_fit_the_column(path: Path) -> None:
    hidden = {"remove-input", "hide-input", "remove-cell", "hide-cell"}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code" or hidden & set(cell.metadata.get("tags", [])):
            continue
        printed = "".join(o.text for o in cell.outputs if o.output_type == "stream")
        for line in (cell.source + "\n" + printed).splitlines():
            assert len(line) <= chapter.COLUMN, (cell.id, line)


def test_the_links_to_the_top_level_configuration_resolve() -> None:
    for name in ("_config.yml", "_toc.yml"):
        assert (ROOT / "book" / name).resolve() == ROOT / name


def test_every_page_of_the_contents_exists_and_every_chapter_is_in_it() -> None:
    listed = build.pages(ROOT)
    assert {p.stem for p in NOTEBOOKS} <= set(listed)
    for name in listed:
        assert any((ROOT / "book" / f"{name}{end}").exists() for end in (".md", ".ipynb"))


def test_the_ledger_that_ships_is_sound() -> None:
    records, damaged = Ledger(ROOT / "results").scan()
    assert damaged == []
    assert records
    assert all(r.spec.dataset != "digits" for r in records), "smoke runs are no evidence"

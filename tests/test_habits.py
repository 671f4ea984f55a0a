"""What keeps the repository in order is itself in order."""

import json
import re
from pathlib import Path
from typing import Any

import conftest
import pytest
import yaml

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"


@pytest.mark.parametrize("entry", conftest.SLOW + conftest.CACHE)
def test_lists_of_tests_name_what_exists(entry: str) -> None:
    file, _, test = entry.partition("::")
    text = (TESTS / file).read_text(encoding="utf-8")
    assert f"def {test}(" in text or not test


def test_the_citation_file_has_what_readers_of_it_need() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation.keys() >= {"message", "title", "type", "version", "license", "abstract"}
    assert all("name" in author for author in citation["authors"])
    references = citation["references"]
    for reference in references:
        assert reference.keys() >= {"type", "title", "authors", "year", "identifiers"}
        for author in reference["authors"]:
            assert author.keys() == {"family-names", "given-names"}
    numbers = {identifier["value"] for r in references for identifier in r["identifiers"]}
    assert numbers == {"arXiv:2102.06171", "arXiv:2003.00152", "arXiv:2101.08692"}


def test_hooks_use_the_projects_own_tools_and_no_network() -> None:
    (source,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert source["repo"] == "local"
    for hook in source["hooks"]:
        assert hook["language"] == "system", hook["id"]
        assert hook["entry"].split()[0] in ("mypy", "python", "ruff"), hook["id"]
    text = (TESTS / "test_book.py").read_text(encoding="utf-8")
    assert "def test_committed_notebooks_" in text, "the hook would check nothing"


def test_one_version() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    package = (ROOT / "nbrepro" / "__init__.py").read_text(encoding="utf-8")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    version = r'^(?:__)?version(?:__)?(?: =|:) "?([\d.]+)"?$'
    found = [re.findall(version, text, re.M) for text in (project, package, citation)]
    assert found == [found[0]] * 3
    assert len(found[0]) == 1


# --- pages of reference --------------------------------------------------------------------------


def row(field: str, schema: dict[str, Any]) -> str:
    """The line of a field on the page about records."""
    kind = schema.get("type")
    kinds = ", ".join(f"`{value}`" for value in schema["enum"]) if "enum" in schema else kind
    text = " or ".join(kinds) if isinstance(kinds, list) else kinds
    return f"| `{field}` | {text} | {schema.get('description', '')} |"


def test_the_page_on_records_says_what_the_schema_says() -> None:
    schema = json.loads((ROOT / "nbrepro" / "records" / "schema.json").read_text("utf-8"))
    page = (ROOT / "book" / "records.md").read_text(encoding="utf-8")
    expected = "\n".join(row(field, part) for field, part in schema["properties"].items())
    assert expected in page, f"book/records.md needs these lines:\n{expected}"


@pytest.mark.parametrize("page", sorted((ROOT / "book" / "api").glob("*.md")), ids=lambda p: p.stem)
def test_pages_of_reference_are_of_modules_that_exist_and_in_the_contents(page: Path) -> None:
    modules = re.findall(r"automodule:: ([\w.]+)", page.read_text(encoding="utf-8"))
    assert modules
    for module in modules:
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").exists() or (path / "__init__.py").exists(), module
    assert f"file: api/{page.stem}\n" in (ROOT / "_toc.yml").read_text(encoding="utf-8")

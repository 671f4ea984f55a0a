"""Write what a new chapter is made of: notebook, experiment, claim with its words, and a line.

The claim and the words for what is found go to the paper's folder, the line to the contents.

The texts are those in ``templates/``, with the words ``NN_NAME`` (the page), ``NAME`` (the
experiment), ``TITLE``, ``CLAIM`` (an id) and ``PAPER`` (a key of the bibliography) filled in.
"""

import re
from pathlib import Path

import yaml

from nbrepro._files import replacing
from nbrepro._suggest import choose
from nbrepro.book.build import find_root, pages


def write(name: str, paper: str = "nfnets", root: Path | None = None) -> list[str]:
    """Write the files of the chapter ``name`` and say what was written and what comes next.

    Nothing is written unless everything can be.

    Args:
        name: two digits and words, such as ``09_gamma_alone``.
        paper: folder of ``nbrepro/claims`` that gets the chapter's first claim.
        root: the clone; default the one around us.

    Raises:
        BookError: outside a clone.
        ValueError: for a bad or taken name, or an unknown paper.
        OSError: if a template cannot be read or a file cannot be written.
    """
    root = root or find_root()
    match = re.fullmatch(r"(\d\d)_([a-z][a-z0-9]*(?:_[a-z0-9]+)*)", name)
    if not match:
        raise ValueError(
            f"{name!r} is no name of a chapter; write two digits and words in small letters, such "
            "as 09_gamma_alone"
        )
    number, words = match.groups()
    register = root / "nbrepro" / "claims"
    choose("paper", paper, sorted(file.parent.name for file in register.glob("*/claims.yaml")))
    notebook, module = root / f"book/{name}.ipynb", root / f"nbrepro/experiments/{words}.py"
    for path in (notebook, module):
        if path.exists():
            raise ValueError(f"{path.relative_to(root)} exists; choose another name")
    for page in pages(root):
        if page.startswith(f"{number}_"):
            raise ValueError(f"chapter {number} is {page}; choose another number")
    title = words.replace("_", " ").capitalize()
    claims, contents = register / paper / "claims.yaml", root / "_toc.yml"
    filled = {
        "NN_NAME": name,
        "NAME": words,
        "TITLE": title,
        "CLAIM": f"C{number}-1",
        "PAPER": yaml.safe_load(_read(claims))["paper"]["key"],
    }
    conclusions = claims.with_name("conclusions.yaml")
    told = _read(conclusions) if conclusions.exists() else ""
    texts = {
        notebook: _fill(root / "templates/chapter.ipynb", filled),
        module: _fill(root / "templates/experiment.py", filled),
        claims: _claimed(_read(claims), name) + _fill(root / "templates/claim.yaml", filled),
        conclusions: told + _fill(root / "templates/conclusions.yaml", filled),
        contents: _listed(_read(contents), name),
    }
    body = yaml.safe_load(texts[claims])
    if body["claims"][-1]["id"] != filled["CLAIM"] or name not in body["chapters"]:
        raise ValueError(
            f"{claims.relative_to(root)} must have a line `chapters: [...]` and end with its claims"
        )
    for path, text in texts.items():
        with replacing(path) as file:
            file.write(text.encode())
    return [
        f"wrote {notebook.relative_to(root)} and {module.relative_to(root)}",
        f"added the claim {filled['CLAIM']} to {claims.relative_to(root)}, the words for its "
        f"verdicts to {conclusions.name} beside it, and a line to _toc.yml",
        "Next: write the claim and its rule, the experiment's runs, then the page; try it with",
        f"  nbrepro run {words} --profile smoke",
        f"  nbrepro book --update {name}",
        f"  python -m pytest tests -k '{name} or {filled['CLAIM']}'",
    ]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _fill(template: Path, words: dict[str, str]) -> str:
    """A template's text with the words in capitals replaced."""
    pattern = rf"\b({'|'.join(words)})\b"
    return re.sub(pattern, lambda match: words[match[1]], _read(template))


def _claimed(claims: str, name: str) -> str:
    """The register of a paper with ``name`` among the pages that its claims may be on."""
    claims = re.sub(r"^(chapters: \[[^]]*)\]", rf"\1, {name}]", claims, count=1, flags=re.MULTILINE)
    return claims.rstrip("\n") + "\n"


def _listed(contents: str, name: str) -> str:
    """The table of contents with a line for ``name`` among the numbered chapters."""
    lines = contents.splitlines(keepends=True)
    numbered = {}
    for at, line in enumerate(lines):
        if match := re.fullmatch(r"(\s*- file: )(\d\d_\w+)\s*", line):
            numbered[at] = match
    if not numbered:
        raise ValueError("_toc.yml lists no numbered chapter that the new one could stand beside")
    earlier = [at for at, match in numbered.items() if match[2] < name]
    beside = earlier[-1] if earlier else min(numbered)
    lines.insert(beside + bool(earlier), f"{numbered[beside][1]}{name}\n")
    return "".join(lines)

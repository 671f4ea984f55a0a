"""Execute the chapters with papermill and build the site with Jupyter Book."""

import contextlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import yaml

from nbrepro._suggest import choose, unknown


class BookError(Exception):
    """A chapter failed or the site did not build; the message says which and why."""


def find_root(start: Path | None = None) -> Path:
    """The folder that holds ``_toc.yml`` and ``book/``, from here upwards.

    Raises:
        BookError: if there is none.
    """
    start = start or Path.cwd()
    for folder in (start, *start.parents):
        if (folder / "_toc.yml").is_file() and (folder / "book").is_dir():
            return folder
    raise BookError("no book here: no folder upwards holds _toc.yml and book/")


def pages(root: Path) -> list[str]:
    """Names of the pages in the table of contents, the first one included."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    files = [toc["root"]]
    for part in toc.get("parts", [toc]):
        files += [chapter["file"] for chapter in part.get("chapters", [])]
    return files


def execute(notebook: Path, output: Path, parameters: Mapping[str, Any] | None = None) -> None:
    """Run a notebook with papermill and write it to ``output``, whole or not at all.

    Names and types of the parameters are checked against the notebook's parameters cell first.
    Times and paths are stripped from the metadata. A notebook that fails is kept beside the output
    as ``<name>.failed.ipynb``.

    Raises:
        ValueError: for an unknown parameter, naming the nearest known one.
        TypeError: for a value of another type than the default.
        BookError: if a cell raises.
    """
    import nbformat
    import papermill

    logging.getLogger("papermill").setLevel(logging.WARNING)
    parameters = dict(parameters or {})
    defaults = {k: p["default"] for k, p in papermill.inspect_notebook(str(notebook)).items()}
    for name, value in parameters.items():
        if name not in defaults:
            raise ValueError(unknown(f"parameter of {notebook.name}", name, defaults))
        expected = type(yaml.safe_load(defaults[name]))
        if type(value) is not expected:
            raise TypeError(f"parameter {name} is {value!r}; expected {expected.__name__}")
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".{output.stem}.{os.getpid()}.part.ipynb")
    try:
        papermill.execute_notebook(
            str(notebook),
            str(part),
            parameters=parameters,
            cwd=str(notebook.parent),
            kernel_name="python3",
            progress_bar=False,
        )
    except papermill.PapermillExecutionError as error:
        failed = output.with_name(f"{output.stem}.failed.ipynb")
        os.replace(part, failed)
        raise BookError(
            f"{notebook.name}: cell {error.exec_count} raised {error.ename}: {error.evalue}\n"
            f"What ran so far: {failed}"
        ) from error
    finally:
        if part.exists() and sys.exc_info()[0] is not None:
            part.unlink()
    document = nbformat.read(part, as_version=4)
    clean(document)
    nbformat.write(document, part)
    os.replace(part, output)


def clean(notebook: Any) -> None:
    """Take out what differs from run to run.

    That is papermill's and Jupyter's times and paths, and how a cell's text happened to be cut into
    pieces on its way from the kernel: pieces of one stream that follow each other are joined.
    """
    notebook.metadata.pop("papermill", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)


def _joined(outputs: Sequence[Any]) -> list[Any]:
    joined: list[Any] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and output.output_type == "stream" and last.get("name") == output.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined


def build(
    profile: str = "smoke",
    *,
    root: Path | None = None,
    update: Sequence[str] | None = None,
    say: Callable[[str], object] = print,
) -> Path:
    """Execute every chapter at ``profile``, build the site strictly, and return its first page.

    The notebooks in ``book/`` are left as they are; their outputs are those of the ``smoke``
    profile.

    Args:
        profile: how much is spent.
        root: the folder that holds ``_toc.yml`` and ``book/``; default the one around us.
        update: names of notebooks whose stored outputs are replaced by fresh ones; empty for all.
            If there are names, the other notebooks are not executed: the site shows their stored
            outputs. With ``intro`` the table and picture of the README are made anew, with
            ``scorecard`` the record of what the checks found.
        say: called with each line about what is done.

    Raises:
        BookError: if a chapter fails or is not in the contents, the build has warnings or misses a
            page, or another build is under way here.
        ValueError: for an unknown profile or notebook, or ``update`` at another profile than
            ``smoke``.
    """
    from nbrepro.experiments import PROFILES

    choose("profile", profile, PROFILES)
    if update is not None and profile != "smoke":
        raise ValueError("only outputs of the smoke profile are stored in book/")
    root = (root or find_root()).resolve()
    notebooks = {name: p for name in pages(root) if (p := root / f"book/{name}.ipynb").exists()}
    for name in update or ():
        if name not in notebooks and (root / f"book/{name}.ipynb").exists():
            raise BookError(f"book/{name}.ipynb is not in _toc.yml; add it to the contents there")
    chosen = [choose("notebook", name, notebooks) for name in update or notebooks]
    with _alone(root):
        _execute_all([notebooks[name] for name in chosen], profile, root, update is not None, say)
        from nbrepro.claims import recorded

        if update is not None and "scorecard" in chosen:
            recorded.write(root / "results", say)
        elif (root / "results" / recorded.FILE).exists() and not recorded.read(root / "results"):
            say(
                f"results/{recorded.FILE} is of other code, so the checks are computed, which "
                "takes minutes; nbrepro book --update scorecard records them"
            )
        if update is not None and "intro" in chosen:
            from nbrepro.book import readme

            readme.write(root)
        say("building the site")
        return _render(root)


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the lock of the book, which two builds would otherwise write at once."""
    path = root / "build" / "book.lock"
    path.parent.mkdir(exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise BookError(
            f"another nbrepro book is building in {root}; wait until it has ended"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _execute_all(
    notebooks: Sequence[Path], profile: str, root: Path, store: bool, say: Callable[[str], object]
) -> None:
    """Copy the book to ``build/book/`` and execute these notebooks there."""
    import papermill

    staging = root / "build" / "book"
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(root / "book", staging, ignore=shutil.ignore_patterns("_build", ".*"))
    for number, notebook in enumerate(notebooks, 1):
        say(f"[{number}/{len(notebooks)}] executing {notebook.name} at the {profile} profile")
        asked = profile != "smoke" and "profile" in papermill.inspect_notebook(str(notebook))
        execute(notebook, staging / notebook.name, {"profile": profile} if asked else {})
        if store:
            shutil.copyfile(staging / notebook.name, notebook)


def _render(root: Path) -> Path:
    """Build the site from ``build/book/``."""
    # --all: a page whose text did not change must still be read again, its figures may have
    jupyter_book = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", jupyter_book, "build", str(root / "build" / "book"), "--all",
               "--path-output", str(root / "book"), "-W", "-n", "--keep-going", "-q"]  # fmt: skip
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise BookError(f"the site did not build:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    html = root / "book" / "_build" / "html"
    missing = [name for name in pages(root) if not (html / f"{name}.html").exists()]
    if missing:
        raise BookError(f"pages missing from {html}: {', '.join(missing)}")
    return html / "index.html"

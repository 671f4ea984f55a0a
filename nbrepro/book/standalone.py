"""``agc.py`` as one file, for those who want nothing else: a download of the site."""

import re
from importlib.resources import files

from nbrepro import __version__


def standalone(licence: str) -> str:
    """The source of :mod:`nbrepro.agc`, with what it imports of ours put in its place.

    Args:
        licence: the text that must go with it.
    """
    lines = [f"agc.py of nbrepro {__version__}, as one file that needs torch alone.", ""]
    head = "".join(f"# {line}".rstrip() + "\n" for line in [*lines, *licence.splitlines()])
    ours = re.compile(r"^from nbrepro\.(\w+) import .*\n", re.MULTILINE)
    return head + ours.sub(lambda found: _without_docstring(_source(found[1])), _source("agc"))


def _source(module: str) -> str:
    return (files("nbrepro") / f"{module}.py").read_text(encoding="utf-8")


def _without_docstring(source: str) -> str:
    return source.split('"""', maxsplit=2)[2].strip() + "\n"

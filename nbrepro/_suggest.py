"""Errors that name the nearest right word."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """The message for a name that is not one of ``known``."""
    known = list(known)
    near = get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(known)}."


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """Return ``name`` if it is one of ``known``.

    Raises:
        ValueError: naming the nearest right one.
    """
    known = list(known)
    if name not in known:
        raise ValueError(unknown(kind, name, known))
    return name

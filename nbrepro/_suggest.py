"""Errors that name the nearest right word."""

from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import filter as matching

#: So many words can be listed in a message.
_FEW = 30


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """The message for a name that is not one of ``known``."""
    known = list(known)
    many = len(known) > _FEW
    by_case = {word.lower(): word for word in known}
    same = by_case.get(str(name).lower())
    near = [same] if same else get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown {kind} {name!r}{hint}" + ("" if many else f" Known: {', '.join(known)}.")


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """Return ``name`` if it is one of ``known``.

    Raises:
        ValueError: if not; it names the nearest right one.
    """
    known = list(known)
    if name not in known:
        raise ValueError(unknown(kind, name, known))
    return name


def select(kind: str, entries: Iterable[str], names: Iterable[str]) -> set[str]:
    """The names that are entries, or match an entry as a pattern, such as ``head.*``.

    Raises:
        TypeError: for a string instead of a list, or entries that are no names.
        ValueError: for an entry that matches no name; it gives the nearest names.
    """
    if isinstance(entries, str):
        raise TypeError(f"{kind}: expected a list of names, got the text {entries!r}")
    entries = _listed(kind, entries)
    names = list(names)
    found: set[str] = set()
    for entry in entries:
        matches = [entry] if entry in names else matching(names, entry)
        if not matches:
            inside = [name for name in names if name.startswith(f"{entry}.")][:3]
            near = inside or get_close_matches(entry, names, cutoff=0.4) or names[-3:]
            raise ValueError(f"{kind}: {entry!r} matches no name; nearest: {', '.join(near)}")
        found.update(matches)
    return found


def _listed(kind: str, entries: Iterable[str]) -> list[str]:
    try:
        listed = list(entries)
    except TypeError:
        raise TypeError(f"{kind}: expected a list of names, got {entries!r}") from None
    for entry in listed:
        if not isinstance(entry, str):
            raise TypeError(f"{kind}: expected names, got a {type(entry).__name__}")
    return listed

"""The grammar of freezing policies, such as ``batchnorm+output``; ``freezing`` applies them."""

from typing import NamedTuple

from nbrepro._suggest import choose

GROUPS = ("batchnorm", "gamma", "beta", "affine", "output", "shortcut", "other", "all")

#: Kinds of policies that pick single weights of the convolutions: ``random:k``, ``scattered:k``.
DRAWN = ("random", "scattered")


class Policy(NamedTuple):
    """What is trained.

    Attributes:
        groups: whole groups of parameters.
        drawn: one of :data:`DRAWN`, or nothing.
        k: weights per output channel of every convolution; 0 if none are drawn.
    """

    groups: frozenset[str]
    drawn: str
    k: int


def parse(train: str) -> Policy:
    """Read a policy.

    Raises:
        TypeError: for what is no text.
        ValueError: for an unknown group, a k that is not a positive whole number, or weights drawn
            twice.
    """
    if not isinstance(train, str):
        raise TypeError(f"train is {train!r}; expected text, such as 'batchnorm+output'")
    groups, drawn, k = set(), "", 0
    for part in map(str.strip, train.split("+")):
        kind, colon, text = part.partition(":")
        if kind not in DRAWN or not colon:
            known = [*GROUPS, *(f"{kind}:k" for kind in DRAWN)]
            groups.add(choose("group to train", part, known))
            continue
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"{part!r}: k must be a whole number of at least 1, as in {kind}:2")
        if k:
            raise ValueError(f"{train!r}: weights are drawn twice; leave out {part} or the other")
        drawn, k = kind, int(text)
    if k and "all" in groups:
        raise ValueError(
            f"{train!r}: with all parameters trained, {drawn}:{k} selects nothing more"
        )
    return Policy(frozenset(groups), drawn, k)


def canonical(train: str) -> str:
    """The shortest policy that trains the same: what is drawn first, then as in :data:`GROUPS`.

    γ and β together are ``batchnorm``, and any group beside ``all`` is part of it.

    Raises:
        ValueError: as :func:`parse` does.
    """
    groups, drawn, k = parse(train)
    if "all" in groups:
        return "all"
    if groups >= {"gamma", "beta"}:
        groups |= {"batchnorm"}
    if "batchnorm" in groups:
        groups -= {"gamma", "beta"}
    return "+".join([f"{drawn}:{k}"] * bool(k) + sorted(groups, key=GROUPS.index))

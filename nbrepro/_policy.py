"""The grammar of freezing policies, such as ``batchnorm+output``; ``freezing`` applies them."""

from nbrepro._suggest import choose

GROUPS = ("batchnorm", "gamma", "beta", "output", "shortcut", "other", "all")


def parse(train: str) -> tuple[set[str], int]:
    """Split a policy into its groups and the k of ``random:k`` (0 if absent).

    Raises:
        ValueError: for an unknown group or a k that is not a positive whole number.
    """
    groups, k = set(), 0
    for part in train.split("+"):
        if part.startswith("random:"):
            text = part.removeprefix("random:")
            if not text.isdecimal() or int(text) < 1:
                raise ValueError(
                    f"{part!r}: k must be a whole number of at least 1, as in random:2"
                )
            if k:
                raise ValueError(f"{train!r}: random:k is given twice")
            k = int(text)
        else:
            groups.add(choose("group to train", part, [*GROUPS, "random:k"]))
    if k and "all" in groups:
        raise ValueError(f"{train!r}: with all parameters trained, random:{k} selects nothing more")
    return groups, k


def canonical(train: str) -> str:
    """The policy with each group once: ``random:k`` first, then in the order of :data:`GROUPS`.

    Raises:
        ValueError: as :func:`parse` does.
    """
    groups, k = parse(train)
    return "+".join([f"random:{k}"] * bool(k) + sorted(groups, key=GROUPS.index))

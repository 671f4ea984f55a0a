"""Families of networks and their names; needs no torch.

One family is one file of this folder. Near its top it assigns ``FAMILY = Family(...)``, and
:func:`nbrepro.models.create` calls its function ``build(name, num_classes, **options)``.
"""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Size(NamedTuple):
    """The size of a network, as its name gives it.

    Attributes:
        depth: weighted layers on the longest path; for an NFNet its number.
        width: channels as a multiple of the narrowest network's.
    """

    depth: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Family:
    """The names of a family, and what follows from a name alone.

    A name is a kind, a stem and a size, such as ``bn_``, ``cifar_nf_resnet`` and ``29bx2``.

    Attributes:
        names: the networks of the papers; other sizes may exist.
        stem: regular expression of what all names have in common.
        size: regular expression of what follows. Its group ``depth`` is a whole number; so is
            ``width``, if there is one; ``block`` tells kinds of blocks apart.
        usage: how to write a name; shown in the error about a name that does not match.
        label: a network's name for readers, with groups of the expressions in braces.
        options: what ``build`` takes for every network of the family.
        kinds: prefix of a name → prefix of the name for readers.
        kind_options: prefix of a name → what ``build`` takes only for this kind.
        depth_rules: ``block`` → k and the rule in words, where depths are kn + 2.
        depths: depth → blocks in each stage, where only these depths exist.
    """

    names: tuple[str, ...]
    stem: str
    size: str
    usage: str
    label: str
    options: tuple[str, ...]
    kinds: Mapping[str, str] = field(default_factory=lambda: {"": ""})
    kind_options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    depth_rules: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    depths: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def _start(self) -> str:
        return f"(?P<kind>{'|'.join(self.kinds)}){self.stem}"

    def claims(self, name: str) -> bool:
        """Whether ``name`` begins like a name of this family."""
        return re.match(self._start, name) is not None

    def parse(self, name: str) -> dict[str, str]:
        """The parts of a name: ``kind`` and the groups of ``stem`` and ``size``.

        Raises:
            ValueError: if the name or the depth is impossible; it says what is possible.
        """
        match = re.fullmatch(self._start + self.size, name, re.ASCII)
        if match is None:
            raise ValueError(f"unknown model {name!r}: {self.usage}.")
        parts = match.groupdict(default="")
        depth = int(parts["depth"])
        if self.depths and depth not in self.depths:
            near = sorted(sorted(self.depths, key=lambda known: abs(known - depth))[:2])
            raise ValueError(
                f"unknown model {name!r}: nearest depths to {depth}: "
                f"{' and '.join(map(str, near))}; known: {', '.join(map(str, self.depths))}."
            )
        if self.depth_rules:
            layers, rule = self.depth_rules[parts.get("block", "")]
            blocks, rest = divmod(depth - 2, layers)
            if rest or blocks < 1:
                near = sorted({layers * max(blocks, 1) + 2, layers * (max(blocks, 0) + 1) + 2})
                raise ValueError(
                    f"unknown model {name!r}: {rule}; nearest to {depth}: "
                    f"{' and '.join(map(str, near))}."
                )
        return parts

    def size_of(self, name: str) -> Size:
        """Depth and width of the named network."""
        parts = self.parse(name)
        return Size(int(parts["depth"]), int(parts.get("width") or 1))

    def label_of(self, name: str) -> str:
        """The network's name for readers."""
        parts = self.parse(name)
        label = self.kinds[parts["kind"]] + self.label.format(**parts)
        return f"{label} ×{parts['width']}" if parts.get("width") else label

    def options_of(self, name: str) -> tuple[str, ...]:
        """The options of the named network."""
        return self.options + self.kind_options.get(self.parse(name)["kind"], ())


def read(path: Path) -> Family | None:
    """The ``FAMILY`` of a Python file, read without running the file; None if it has none.

    Raises:
        ValueError: if ``FAMILY`` is not ``Family(...)`` with literals as arguments.
    """
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="FAMILY")], value=value):
                try:
                    assert isinstance(value, ast.Call)
                    return Family(**{str(k.arg): ast.literal_eval(k.value) for k in value.keywords})
                except (AssertionError, TypeError, ValueError) as error:
                    raise ValueError(
                        f"{path}: FAMILY must be Family(...), with every argument named and "
                        f"written as a literal, since it is read without running the file ({error})"
                    ) from error
    return None

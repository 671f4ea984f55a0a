"""The register of claims: one folder per paper, its ``claims.yaml`` read into :class:`Claim`.

Whatever is wrong in such a file is an error that names the file, the claim and the nearest right
word; see :mod:`nbrepro.claims.rules` for what a rule may say.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

from nbrepro import experiments
from nbrepro._suggest import choose, unknown
from nbrepro.claims.rules import Arm, Evidence, Rule, Trained, read
from nbrepro.spec import Spec

SEEN = ("paper", "figure", "code", "second hand", "recalled")


@dataclass(frozen=True)
class Paper:
    """The paper a claim is of.

    Attributes:
        key: in the bibliography.
        short: name for readers.
        arxiv: number.
        folder: below ``nbrepro/claims``, as found by the register.
        predecessor: name of the earlier paper that claims are taken over from, if there is one.
    """

    key: str
    short: str
    arxiv: str
    folder: str = ""
    predecessor: str = ""


@dataclass(frozen=True)
class Quoted:
    """A value as published, and where we saw it: ``paper``, ``figure``, its authors' ``code`` or
    ``second hand``; ``recalled`` is a statement that we remember and saw nowhere, without a number.
    """

    value: str
    seen: str

    def __post_init__(self) -> None:
        choose("provenance of a quoted value", self.seen, SEEN)
        if self.seen == "recalled" and any(character.isdigit() for character in self.value):
            raise ValueError(
                f"value is {self.value!r}, which is only recalled; leave its numbers out, or say "
                "where they were seen"
            )


@dataclass(frozen=True)
class Claim:
    """One statement that data can support or contradict.

    Attributes:
        id: as in the claim sheets, such as ``ACC-20``.
        statement: in our own words.
        place: where it stands in the paper.
        chapter: page of the book that deals with it.
        paper: the paper.
        quoted: published values with their provenance.
        experiment: whose records decide it; ``None`` if no run is needed.
        rule: how it is decided; ``None`` if it can only be cited.
        needs: without a rule what a test would take, or why none is possible.
        also: other ids of the claim sheets that this claim answers.
        by: ``paper``, ``review`` for what a published review says of the paper, or ``ours`` for
            what we found and the paper does not say.
    """

    id: str
    statement: str
    place: str
    chapter: str
    paper: Paper
    quoted: tuple[Quoted, ...]
    experiment: str | None = None
    rule: Rule | None = None
    needs: str | None = None
    also: tuple[str, ...] = ()
    by: str = "paper"

    def __post_init__(self) -> None:
        choose("source of a claim", self.by, ("paper", "review", "ours"))
        if isinstance(self.rule, Trained):
            if self.experiment is None:
                raise ValueError("experiment is missing; the rule looks at its runs")
            choose("experiment", self.experiment, experiments.REGISTRY)
        elif self.experiment is not None:
            raise ValueError(
                f"experiment is {self.experiment}, and no rule says how its runs decide; write a "
                "rule, or leave the experiment out"
            )
        if self.rule is None and self.needs is None:
            raise ValueError(
                "needs is missing: without a rule it says what a test would take (data, hours, "
                "command), or why none is possible"
            )
        if self.rule is not None and self.needs is not None:
            raise ValueError("needs is set, but the claim has a rule; leave one of them out")

    @property
    def source(self) -> str:
        """The paper whose claim it is, as readers know it: this one or its predecessor."""
        taken_over = self.place.startswith("predecessor") or self.place.endswith("the predecessor")
        return (taken_over and self.paper.predecessor) or self.paper.short

    @property
    def evidence(self) -> Evidence | Literal["cited"]:
        """What it rests on.

        ``trained`` networks, something ``measured`` without a training run, ``counted`` parameters
        or operations, ``arithmetic`` on printed numbers, code ``verified`` against its description,
        or nothing of ours: ``cited``.
        """
        return self.rule.evidence if self.rule else "cited"

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms that its rule looks at; none if it needs no run."""
        return self.rule.arms if isinstance(self.rule, Trained) else ()

    def feeds_on(self, spec: Spec) -> bool:
        """Whether its rule looks at runs like this one."""
        return any(arm.matches(spec) for arm in self.arms)


@dataclass(frozen=True)
class _Document:
    """What stands in a ``claims.yaml``.

    Attributes:
        paper: the paper.
        chapters: pages of the book that its claims may name.
        claims: the claims, not yet read.
        arms: settings that rules of this file share, for YAML's anchors.
    """

    paper: Paper
    chapters: tuple[str, ...]
    claims: tuple[dict[str, Any], ...]
    arms: tuple[Arm, ...] = ()


@cache
def register() -> dict[str, Claim]:
    """All claims by id, in the order of the files.

    Raises:
        ValueError: naming file, claim and what is wrong, if anything is.
    """
    claims: dict[str, Claim] = {}
    for file, document in _documents().items():
        for claim in read_claims(document, file):
            if claim.id in claims:
                other = claims[claim.id].paper.short
                raise ValueError(f"{file}: {claim.id}: the id is that of a claim of {other} too")
            claims[claim.id] = claim
    for claim in claims.values():
        for other in claims.keys() & set(claim.also):
            at = f"{claim.paper.folder}/claims.yaml: {claim.id}"
            raise ValueError(f"{at}: also names {other}, which is a claim itself; leave it out")
    return claims


@cache
def texts() -> dict[str, str]:
    """The files of the register, such as ``nfnets/claims.yaml``, and what stands in them."""
    papers = (f for f in files(__package__).iterdir() if f.joinpath("claims.yaml").is_file())
    names = (f"{paper.name}/claims.yaml" for paper in sorted(papers, key=lambda paper: paper.name))
    return {file: text(file) for file in names}


@cache
def _documents() -> dict[str, Any]:
    return {file: parse(text, file) for file, text in texts().items()}


def as_written(claim: Claim) -> dict[str, Any]:
    """A claim's entry in the register, its anchors resolved; shared, so not to be changed."""
    entries = _documents()[f"{claim.paper.folder}/claims.yaml"]["claims"]
    return next(entry for entry in entries if entry["id"] == claim.id)


def get(claim_id: str) -> Claim:
    """The claim with this id.

    Raises:
        ValueError: naming the nearest id.
    """
    claims = register()
    if claim_id not in claims:
        raise ValueError(unknown("claim", claim_id, claims))
    return claims[claim_id]


def of_chapter(chapter: str) -> list[Claim]:
    """The claims a chapter deals with, in the register's order."""
    return [claim for claim in register().values() if claim.chapter == chapter]


def text(file: str) -> str:
    """A file below this folder.

    Raises:
        ValueError: naming the file, if it is no UTF-8.
    """
    try:
        return files(__package__).joinpath(file).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: no UTF-8 ({error}); save it in that encoding") from error


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key written twice, of which it would silently keep the last."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # of many kinds: a date with a 13th month, a tag on no number
            raise yaml.MarkedYAMLError(
                problem=f"not a value that can be read ({error})", problem_mark=node.start_mark
            ) from error

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        counts = Counter(key.value for key in keys)
        for key in keys:
            if counts[key.value] > 1:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} stands twice in one mapping",
                    problem_mark=key.start_mark,
                )
        return node


def parse(text: str, file: str) -> Any:
    """The text of a ``claims.yaml`` as lists and mappings.

    Raises:
        ValueError: naming the file, the line and the claim, if it is no YAML or a key stands twice.
    """
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        if mark is None:
            raise ValueError(f"{file}: {error}") from error
        ids = re.findall(r"^ *- id: (\S+)", text[: mark.index], re.MULTILINE)
        where = f"{file}: {ids[-1]}" if ids else file
        raise ValueError(f"{where}: line {mark.line + 1}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{file}: nested too deeply") from error


def read_claims(document: object, file: str) -> list[Claim]:
    """The claims of a parsed ``claims.yaml``.

    Raises:
        ValueError: see :func:`register`.
    """
    body = read(_Document, document, file)
    paper = replace(body.paper, folder=file.partition("/")[0])
    claims = [
        read_claim(entry, paper, body.chapters, f"{file}: {entry.get('id', f'claim {n}')}")
        for n, entry in enumerate(body.claims, 1)
    ]
    for name, times in Counter(claim.id for claim in claims).items():
        if times > 1:
            raise ValueError(f"{file}: {name}: the id is used twice")
    return claims


def read_claim(entry: object, paper: Paper, chapters: tuple[str, ...], at: str) -> Claim:
    """One claim, whose rule can be decided by runs that there can be.

    Args:
        entry: the mapping as YAML gives it.
        paper: the paper it is of.
        chapters: pages it may be on.
        at: file and id, for messages.

    Raises:
        ValueError: see :func:`register`.
    """
    claim = read(Claim, entry, at, paper=paper)
    if claim.chapter not in chapters:
        raise ValueError(f"{at}: {unknown('chapter', claim.chapter, chapters)}")
    if isinstance(claim.rule, Trained):
        assert claim.experiment is not None
        for arm in claim.rule.arms:
            _check_arm(arm, claim.experiment, claim.rule.profiles, f"{at}: rule")
    return claim


@cache
def _grid(experiment: str, profiles: tuple[str, ...]) -> list[Spec]:
    named = experiments.get(experiment)
    return [spec for profile in profiles for spec in named.specs(profile, seeds=1)]


def _check_arm(arm: Arm, experiment: str, profiles: tuple[str, ...], at: str) -> None:
    """Refuse an arm that no run of the experiment can match."""
    grid = _grid(experiment, profiles)
    if any(arm.matches(spec) for spec in grid):
        return
    runs = f"{' and '.join(profiles)} runs of {experiment}"
    for setting, wanted in arm.settings.items():
        values = list(dict.fromkeys(getattr(spec, setting) for spec in grid))
        if wanted not in values:
            known = map(str, values)
            raise ValueError(f"{at}: {unknown(f'{setting} in the {runs}', wanted, known)}")

    def differing(spec: Spec) -> list[str]:
        return [
            f"{setting} {getattr(spec, setting)}, not {wanted}"
            for setting, wanted in arm.settings.items()
            if getattr(spec, setting) != wanted
        ]

    nearest = min(map(differing, grid), key=len)
    raise ValueError(
        f"{at}: none of the {runs} has all settings of the arm {arm.called or dict(arm.settings)}; "
        f"the nearest has {', '.join(nearest)}"
    )

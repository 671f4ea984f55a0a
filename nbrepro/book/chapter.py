"""The life of a chapter: checked parameters, live runs, recorded evidence, verdicts.

What a reader sees of them is made by :mod:`nbrepro.book.tables` and :mod:`nbrepro.book.figures`.
Importing this module does not import torch, so a misspelt parameter is reported at once.
"""

import ast
import inspect
import os
import tempfile
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbrepro._suggest import unknown
from nbrepro.book import captions

if TYPE_CHECKING:
    from IPython.display import HTML, Code

    from nbrepro.claims import Claim
    from nbrepro.claims.verdicts import Verdict
    from nbrepro.records.ledger import Ledger, Record
    from nbrepro.records.timings import Benchmark

#: Characters of code that fit on a page beside its contents.
COLUMN = 77


@dataclass(frozen=True)
class Chapter:
    """A chapter that has begun: its name and its checked parameters."""

    name: str
    profile: str
    dataset: str
    seeds: int

    @property
    def claims(self) -> "list[Claim]":
        """The claims this chapter deals with."""
        from nbrepro.claims import of_chapter

        return of_chapter(self.name)

    def run(self) -> "list[Record]":
        """Do the runs of this profile that are missing, and return all records of the profile.

        ``smoke`` runs are made afresh in a temporary folder; they prove the code and carry no
        verdict. ``quick`` and ``full`` runs go to the ledger.
        """
        from nbrepro import experiments, sweep
        from nbrepro.records.ledger import Ledger

        with tempfile.TemporaryDirectory() as scratch:
            ledger = Ledger(Path(scratch) / "results" if self.profile == "smoke" else None)
            planned = sweep.plan(
                experiments.select(self.name),
                self.profile,
                ledger,
                dataset=self.dataset,
                seeds=self.seeds,
            )
            for record in sweep.run(planned, sweep.SweepOptions(ledger=ledger)):
                if record.status == "failed":
                    raise RuntimeError(f"{record.spec} failed:\n{record.error}")
            return [found for p in planned if (found := ledger.find(p.spec))]

    def verdicts(self) -> "list[Verdict]":
        """The verdicts on this chapter's claims, from the ledger."""
        return judged(self.claims)

    def all_verdicts(self) -> "list[Verdict]":
        """The same at every scale that was run: of each claim the deciding one first."""
        return [verdict for rows in _judged(self.claims) for verdict in rows]

    def evidence(self, experiment: str | None = None, profile: str | None = None) -> "list[Record]":
        """The recorded runs that the chapter's figures show, see :func:`evidence`.

        Args:
            experiment: where a chapter has several, the one that is meant.
            profile: instead of the best one.

        Raises:
            ValueError: for an unknown experiment.
        """
        return evidence(experiment or self.name, profile)

    def deviations(self, *names: str, also: "Iterable[Record]" = ()) -> "HTML":
        """How the recorded runs differ from the published recipe: a table.

        Args:
            names: of experiments that one recipe was published for; default all of the chapter.
            also: further runs that the page shows, such as those of another profile.

        Raises:
            ValueError: for an unknown experiment, or where there are several recipes.
        """
        from nbrepro import experiments
        from nbrepro.book import tables

        chosen = [experiments.get(name) for name in names] or experiments.select(self.name)
        first, *others = chosen
        for other in others:
            if other.published != first.published:
                raise ValueError(
                    f"{first.name} and {other.name} have different published recipes; name those "
                    "that share one"
                )
        records = [record for one in chosen for record in self.evidence(one.name)]
        return tables.deviations([*records, *also], first.published)


def _replicated_arms(records: "Iterable[Record]") -> int:
    """How many arms have two seeds or more."""
    seeds = Counter(record.spec.replace(seed=0) for record in records)
    return sum(count > 1 for count in seeds.values())


def begin(name: str, namespace: Mapping[str, Any]) -> Chapter:
    """Check the notebook's parameters and begin.

    Call it in the first cell after the parameters, with ``globals()``: a variable that is not a
    parameter can then only be a misspelt one, which papermill would pass over in silence.

    A chapter owns the process of its notebook. So this also silences the warning that Accelerate's
    notebook bars give, and at the ``smoke`` profile sets torch to one thread. Figures are numbered
    from here on, see :mod:`nbrepro.book.captions`.

    Args:
        name: the notebook's name without ending.
        namespace: ``globals()``.

    Raises:
        ValueError: for an unknown parameter, naming the nearest known one, or a value out of range.
        TypeError: for a value of the wrong type.
    """
    known = {"profile": str, "dataset": str, "seeds": int}
    ipython = {"In", "Out", "exit", "quit", "get_ipython", "open", "begin", "chapter"}
    given = {k: v for k, v in namespace.items() if not k.startswith("_") and k not in ipython}
    if isinstance(namespace.get("chapter"), Chapter):  # run again by hand, other names are about
        given = {k: v for k, v in given.items() if k in known}
    for key, value in given.items():
        if key not in known:
            raise ValueError(unknown("parameter", key, known))
        if not isinstance(value, known[key]) or isinstance(value, bool):
            raise TypeError(
                f"parameter {key} is {value!r}, a {type(value).__name__}; "
                f"expected {known[key].__name__}"
            )
    for key in known:
        if key not in given:
            raise ValueError(f"parameter {key} is not set; the parameters cell must define it")
    from nbrepro.experiments import PROFILES

    if given["profile"] not in PROFILES:
        raise ValueError(unknown("profile", given["profile"], PROFILES))
    if given["seeds"] < 1:
        raise ValueError(f"seeds is {given['seeds']}; it must be at least 1")
    # Accelerate imports notebook bars; ours are off in notebooks, and the warning holds a path.
    warnings.filterwarnings("ignore", message="IProgress not found")
    if given["profile"] == "smoke":
        # Tiny networks: several threads only get into each other's way.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        import torch

        torch.set_num_threads(1)
    captions.start(name)
    return Chapter(name, **{key: given[key] for key in known})


def ledger() -> "Ledger":
    """The ledger that ships with the book.

    A page without evidence must not look like one whose claims were never tested, so a ledger that
    is not there is an error, and not the same as an empty one.
    """
    from nbrepro.records.ledger import Ledger

    found = Ledger()
    if not found.root.is_dir():
        raise FileNotFoundError(
            f"no ledger at {found.root.absolute()}; run this in a clone of the book, or set "
            "NBREPRO_RESULTS to the folder results/ of one"
        )
    return found


def recorded(experiment: str | None = None) -> "list[Record]":
    """The sound records of the ledger that ships with the book.

    Args:
        experiment: only the ``full`` and ``quick`` runs of this one.

    Raises:
        FileNotFoundError: if there is no ledger.
        RuntimeError: if any record is damaged: a page must not be drawn from half the evidence.
    """
    from nbrepro.claims.scales import of_scale, scales

    records, damaged = ledger().scan()
    if damaged:
        raise RuntimeError("damaged records in the ledger:\n" + "\n".join(map(str, damaged)))
    if experiment is None:
        return records
    found = (r for scale in scales(records) for r in of_scale(records, experiment, *scale))
    return list({r.spec.hash: r for r in found}.values())  # a run may belong to several scales


def evidence(name: str, profile: str | None = None) -> "list[Record]":
    """The recorded runs that figures show: those of the best scale.

    That is the first with two seeds of at least two arms, and of half as many as any other has: a
    few runs with the whole recipe must not hide all others. Else the one with most runs. Where an
    arm has data of its own, it is there at every scale: a scale that is a part of another is none.

    Args:
        name: of an experiment, or of a chapter with all of its experiments.
        profile: instead of the best one.

    Raises:
        ValueError: for an unknown name.
    """
    from nbrepro import experiments
    from nbrepro.claims.scales import of_scale, scales, whole

    records = recorded()
    found = [
        of_scale(records, one.name, tier, dataset)
        for tier, dataset in scales(records)
        if profile in (None, tier)
        for one in experiments.select(name)
    ]
    found = whole([(frozenset(record.spec.hash for record in runs), runs) for runs in found])
    arms = [_replicated_arms(runs) for runs in found]
    fewest = max(2, *(count / 2 for count in arms)) if arms else 2
    comparable = (runs for runs, count in zip(found, arms, strict=True) if count >= fewest)
    return next(comparable, max(found, key=len, default=[]))


def measured(benchmark: str | None = None) -> "list[Benchmark]":
    """The timings of the ledger that ships with the book: all, or those of one benchmark.

    Raises:
        FileNotFoundError: if there is no ledger.
    """
    from nbrepro.records import timings

    found = timings.read(ledger().root)
    return [timing for timing in found if benchmark in (None, timing.name)]


def judged(claims: "Iterable[Claim] | None" = None) -> "list[Verdict]":
    """The verdicts on these claims, default all of the register, from the ledger."""
    from nbrepro.claims import register

    return [rows[0] for rows in _judged(register().values() if claims is None else claims)]


def _judged(claims: "Iterable[Claim]") -> "list[list[Verdict]]":
    from nbrepro.claims import verdicts

    records, timings = recorded(), measured()
    return [verdicts.judge_all(claim, records, timings) for claim in claims]


def source(thing: Any) -> "Code":
    """The library's own text of a function or class, for display: of its docstring the summary."""
    from IPython.display import Code

    text = textwrap.dedent(inspect.getsource(thing))
    (definition,) = ast.parse(text).body
    assert isinstance(definition, ast.FunctionDef | ast.ClassDef)
    if docstring := ast.get_docstring(definition):
        node = definition.body[0]
        lines = text.splitlines()
        summary, *_ = docstring.splitlines()
        indent = " " * node.col_offset
        lines[node.lineno - 1 : node.end_lineno] = textwrap.wrap(
            f'"""{summary}"""', COLUMN, initial_indent=indent, subsequent_indent=indent
        )
        text = "\n".join(lines) + "\n"
    return Code(text, language="python")

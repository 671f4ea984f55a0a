"""The command line: ``nbrepro list | run | status | verify | show | book | new-chapter``.

Imports that take long stay inside the commands: those that only read do not load torch.
"""

import argparse
import contextlib
import dataclasses
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from nbrepro import __version__
from nbrepro._suggest import unknown

if TYPE_CHECKING:
    from rich.table import Table

    from nbrepro.claims import Claim
    from nbrepro.records.ledger import Damaged, Ledger, Record
    from nbrepro.spec import Spec
    from nbrepro.sweep import Planned

#: Ledger of smoke runs, with a work folder of its own beside it.
SMOKE = Path("runs", "smoke", "results")
#: Records that a message lists; more would only scroll by.
MOST_LISTED = 10

_DESCRIPTION = """\
A reproduction book that can be checked. Every claim of a paper has an id, an experiment that could
prove it wrong, recorded runs, and a verdict computed from them."""

_EXAMPLES = """\
examples:
  nbrepro list                                       what there is: experiments and claims
  nbrepro run training_only_batchnorm --profile smoke
                                                     seconds, embedded data: does it work here?
  nbrepro run ACC-20 --profile quick --download --time-budget 1h
                                                     the runs behind one claim, on CIFAR-10
  nbrepro status                                     what is recorded, what is missing, its cost
  nbrepro verify ACC-20                              the verdict on a claim, and what it rests on
  nbrepro show 00133d24                              one record, by the first digits of its hash
  nbrepro book                                       execute the chapters and build the site
"""


class _Parser(argparse.ArgumentParser):
    """Names the nearest right word when a command or option is misspelt."""

    def parse_known_args(self, *given: Any, **named: Any) -> Any:
        """As ever, but a command refuses an option that it does not know by itself.

        argparse leaves that to the parser of all commands, which knows no option of theirs.
        """
        found, unknown = super().parse_known_args(*given, **named)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        known = [*self._option_string_actions]
        for action in self._actions:
            known += map(str, action.choices or ())
        words = re.findall(r"invalid choice: '([^']+)'|(--[\w-]+)", message)
        for word in (a or b for a, b in words):
            near = get_close_matches(word, known, n=1)
            if near and near[0] != word:
                message += f"; did you mean {near[0]}?"
                break
        super().error(message)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    from nbrepro.experiments import PROFILES
    from nbrepro.sweep import SweepOptions

    top = _Parser(
        prog="nbrepro",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"nbrepro {__version__}")
    commands = top.add_subparsers(dest="command", metavar="command", parser_class=_Parser)

    commands.add_parser("list", help="experiments and claims", description="What there is.")

    run = commands.add_parser(
        "run",
        help="do the runs that are missing",
        description="Run what is not recorded yet, most informative first. Each run is recorded as "
        "it ends; stop it at any time and start it again.",
    )
    run.add_argument("name", help="an experiment, a chapter, a claim's id, or all")

    status = commands.add_parser(
        "status", help="what is recorded and what is missing", description="The queue and its cost."
    )
    status.add_argument("name", nargs="?", default="all", help="as for run (default: all)")

    for command in (run, status):
        command.add_argument(
            "--profile",
            choices=PROFILES,
            default="smoke" if command is run else "quick",
            help="how much is spent (default: %(default)s)",
        )
        command.add_argument(
            "--dataset", metavar="D",
            help="cifar10 (default), or a folder below the data root that stands for it, as "
            "cifar10-jpeg; smoke runs have the digits",
        )  # fmt: skip
        command.add_argument("--seeds", type=int, metavar="N", help="replicates of each run")
        command.add_argument("--results", type=Path, metavar="DIR", help="the ledger's folder")
    for field in dataclasses.fields(SweepOptions):
        if field.metadata:
            option = f"--{field.name.replace('_', '-')}"
            run.add_argument(option, default=field.default, **field.metadata)

    verify = commands.add_parser(
        "verify",
        help="check the ledger and compute the verdicts",
        description="Check every record against its digest and compute verdicts from the records. "
        "Exits with 1 if a record is damaged.",
    )
    verify.add_argument("claims", nargs="*", metavar="claim", help="claim ids (default: all)")
    verify.add_argument(
        "--all",
        action="store_true",
        help="every claim in full, held against the scorecard that the book has stored",
    )
    verify.add_argument("--json", action="store_true", help="in full, for machines")
    verify.add_argument("--results", type=Path, metavar="DIR", help="the ledger's folder")

    show = commands.add_parser("show", help="print a record", description="One record, readable.")
    show.add_argument("hash", help="the run's hash, or its first digits")
    show.add_argument("--results", type=Path, metavar="DIR", help="the ledger's folder")

    book = commands.add_parser(
        "book",
        help="execute the chapters and build the site",
        description="Execute every chapter with papermill and build the site strictly.",
    )
    book.add_argument("--profile", choices=PROFILES, default="smoke")
    book.add_argument(
        "--update",
        nargs="*",
        metavar="NAME",
        help="also store the fresh outputs in book/ (smoke only); of these notebooks alone, if any",
    )

    new = commands.add_parser(
        "new-chapter",
        help="write the files of a new chapter",
        description="Write a chapter's notebook and experiment from templates/, a claim, and its "
        "line of the contents.",
    )
    new.add_argument("name", help="two digits and words, such as 09_gamma_alone")
    new.add_argument("--paper", default="nfnets", help="whose claims (default: %(default)s)")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status. Errors that a user can mend become one line."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a γ must not end a listing where only ASCII goes
            stream.reconfigure(errors="backslashreplace")
    try:
        status = _answer(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader has seen enough, as ``head`` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1  # as rich does where a table is being printed
    except ModuleNotFoundError as error:
        if str(error.name).startswith("nbrepro"):
            raise
        print(
            f"nbrepro: {error.name} is missing; the command needs pip install 'nbrepro[runs]', "
            "and the book 'nbrepro[book]'",
            file=sys.stderr,
        )
        return 2
    except _mendable() as error:
        print("\n  ".join([f"nbrepro: {error}", *getattr(error, "__notes__", ())]), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; start it again to go on from the last epoch", file=sys.stderr)
        return 128 + signal.SIGINT


def _open_closed_streams() -> None:
    """Give a command that was started with ``2>&-`` somewhere to write to.

    Python then has no ``sys.stderr``, and the system gives its number to the next file that is
    opened: what a library writes to standard error would end in a record.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.open(os.devnull, os.O_RDWR), mode))  # noqa: SIM115


def _answer(arguments: Sequence[str] | None) -> int:
    top = parser()
    options = top.parse_args(arguments)
    if options.command is None:
        top.print_help()
        return 0
    if options.command in ("run", "status"):
        _choose_data(options)
    # One line per epoch in logs; on a terminal the bar tells the same.
    level = logging.WARNING if sys.stderr.isatty() else logging.INFO
    logging.basicConfig(level=level, format="%(message)s")
    with contextlib.ExitStack() as stack:
        if os.environ.get("RANK", "0") != "0":  # under torchrun the first process speaks
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            logging.disable(logging.INFO)
        return int(_COMMANDS[options.command](options) or 0)


def _choose_data(options: argparse.Namespace) -> None:
    """The data that stand for CIFAR-10; smoke runs have their own."""
    if options.profile == "smoke" and options.dataset is not None:
        raise ValueError(
            f"--dataset {options.dataset}: smoke runs train on embedded digits; leave it out, or "
            "take --profile quick"
        )
    options.dataset = options.dataset or "cifar10"


def _mendable() -> tuple[type[Exception], ...]:
    """Errors that a user can mend. Modules that were not loaded cannot have raised theirs."""
    of_modules = [
        ("nbrepro.data", "DataError"),
        ("nbrepro.book.build", "BookError"),
        ("nbrepro.experiments.experiment", "BrokenExperiment"),
    ]
    loaded = [getattr(sys.modules[m], name) for m, name in of_modules if m in sys.modules]
    return (ValueError, TypeError, OSError, *loaded)


def _list(_options: argparse.Namespace) -> None:
    from nbrepro import claims, experiments

    table = _table("experiments", "name", "chapter", "runs: smoke, quick, full", "what")
    for e in experiments.REGISTRY.values():
        runs = ", ".join(str(len(e.specs(profile))) for profile in experiments.PROFILES)
        table.add_row(e.name, e.chapter, runs, e.title)
    _print(table)
    table = _table("claims", "id", "paper", "statement")
    for claim in claims.register().values():
        table.add_row(claim.id, claim.source, claim.statement)
    _print(table)


def _planned(
    options: argparse.Namespace,
) -> tuple["Ledger", list["Planned"], list["Record"], list["Damaged"]]:
    """The ledger, the runs that the name stands for, most informative first, and its scan.

    Raises:
        ValueError: for an unknown name, or a claim that none of these runs can settle.
    """
    from nbrepro import claims, experiments, sweep
    from nbrepro.records.ledger import Ledger

    names = [*experiments.names(), *claims.register()]
    if options.name not in names:
        raise ValueError(unknown("experiment, chapter or claim", options.name, names))
    # Smoke runs prove the code and never belong to the evidence.
    apart = options.profile == "smoke" and options.results is None
    ledger = Ledger(SMOKE if apart else options.results)
    planned = _plan(options, ledger, options.dataset)
    claim = claims.register().get(options.name)
    if claim and not planned:
        raise ValueError(_what_would_settle(claim, options))
    if options.command == "run":
        ledger.check_writable()
    fresh = apart and not ledger.root.exists()  # no smoke run was ever recorded
    records, damaged = ([], []) if fresh else ledger.scan()
    return ledger, sweep.most_informative(planned, records, options.profile), records, damaged


def _plan(options: argparse.Namespace, ledger: "Ledger", dataset: str) -> list["Planned"]:
    """The runs of an experiment, a chapter or everything; of a claim those that settle it.

    Raises:
        ValueError: for a claim that needs no run.
    """
    from nbrepro import claims, experiments, sweep

    claim = claims.register().get(options.name)
    name = claim.experiment if claim else str(options.name)
    if not name:
        raise ValueError(f"{options.name} needs no run; see nbrepro verify {options.name}")
    planned = sweep.plan(
        experiments.select(name), options.profile, ledger, dataset=dataset, seeds=options.seeds
    )
    if not claim:
        return planned
    settled = sweep.settles([p.spec for p in planned], options.profile)
    return [p for p in planned if claim.id in settled[p.spec.hash]]


def _what_would_settle(claim: "Claim", options: argparse.Namespace) -> str:
    """Why no run of this profile on these data settles a claim, and which would."""
    from nbrepro import sweep
    from nbrepro.claims.questions import needs_cifar10
    from nbrepro.claims.rules import Trained
    from nbrepro.claims.scales import CIFAR10

    accepted = sweep.accepted(claim)
    if options.profile not in accepted:
        wanted = " or ".join(f"--profile {name}" for name in accepted)
        return f"no {options.profile} run settles {claim.id}; take {wanted}"
    absolute = isinstance(claim.rule, Trained) and needs_cifar10(claim.rule)
    counted = " or ".join(CIFAR10) if absolute else f"{CIFAR10[0]}, or a whole data set of your own"
    return f"runs on {options.dataset!r} do not count for {claim.id}; take --dataset {counted}"


def _run(options: argparse.Namespace) -> int:
    from nbrepro import sweep
    from nbrepro.sweep import SweepOptions

    ledger, planned, earlier, damaged = _planned(options)
    todo = [p for p in planned if p.missing]
    called = _names([p.spec for p in planned])
    named = [field.name for field in dataclasses.fields(SweepOptions) if field.metadata]
    given = {name: getattr(options, name) for name in named}
    with contextlib.closing(sweep.run(planned, SweepOptions(ledger=ledger, **given))) as records:
        done = len(planned) - len(todo)
        what = f"{len(planned)} {options.profile} runs on {_on(options)}"
        print(f"{what}, {done} recorded, {len(todo)} to do", flush=True)
        if not done:
            _say_elsewhere(options, ledger, earlier)
        again = {p.spec.hash for p in todo}
        for entry in damaged:
            if entry.path.stem in again:
                print(f"damaged, is done again: {entry}", flush=True)
        for record in records:
            print(f"{called(record.spec)}: {_ended(record)}", flush=True)
    found = [ledger.find(p.spec) for p in planned]
    failed = sum(record is not None and record.status == "failed" for record in found)
    print(f"{found.count(None)} left to do. Records: {ledger.root}")
    if failed:
        print(f"{failed} failed; their records hold the traceback. --retry-failed runs them again")
    return 1 if failed else 0


def _names(specs: "Sequence[Spec]") -> "Callable[[Spec], str]":
    """A function that names a run so that no other of ``specs`` has the same name.

    First what :func:`_show` takes; last the settings in which runs differ that read alike.
    """
    alike: dict[str, list[Spec]] = {}
    for spec in specs:
        alike.setdefault(str(spec), []).append(spec)
    differing = {text: _settings(group) for text, group in alike.items()}

    def name(spec: "Spec") -> str:
        settings = differing[str(spec)](spec).replace(" ", ", ")
        return f"{spec.hash[:8]} {spec}" + f", {settings}" * bool(settings)

    return name


def _ended(record: "Record") -> str:
    """What became of a run."""
    if record.status == "failed":
        last = (record.error or "").strip().splitlines()[-1:]
        return f"failed: {''.join(last)}"
    accuracy, seconds = 100 * record.metrics["test_accuracy"], record.provenance["seconds"]
    return f"{record.status}, {accuracy:.1f} %, {seconds:.0f} s"


def _status(options: argparse.Namespace) -> None:
    from nbrepro.data.cards import card
    from nbrepro.records.fingerprints import remarks

    ledger, planned, records, damaged = _planned(options)
    _print_plan(options, ledger, planned, records)
    _say_elsewhere(options, ledger, records)
    print(_to_do(ledger, planned, records))
    on = _on(options)
    if card(on).classes is None and not any(p.record for p in planned):
        print(
            f"note: nothing is known of a data set called {on!r}; to run on it, put a folder of "
            "that name below the data root",
            file=sys.stderr,
        )
    for remark in remarks(records):
        print(f"note: {remark}", file=sys.stderr)
    for entry in damaged:
        print(f"damaged, counts as not done: {entry}", file=sys.stderr)


def _print_plan(
    options: argparse.Namespace,
    ledger: "Ledger",
    planned: "Sequence[Planned]",
    records: "Sequence[Record]",
) -> None:
    """Print the table of a plan: what is recorded, what is left and what that would tell."""
    from nbrepro import sweep
    from nbrepro.records.timings import duration

    head, rows = _rows(planned, options)
    by_experiment = head == ("experiment",)
    title = f"{options.profile} on {_on(options)}"
    if not by_experiment:
        title += ", most informative first"
    table = _table(title, *head, "runs recorded", "to do", "estimated cost", "bears on")
    undecided = set(sweep.unsettled(records))
    settles = sweep.settles([p.spec for p in planned], options.profile)
    for cells, runs in rows.items():
        missing = [p.spec for p in runs if p.missing]
        failed = sum(p.record is not None and p.record.status == "failed" for p in runs)
        done = len(runs) - len(missing) - failed
        recorded = f"{done} ({failed} failed)" if failed else str(done)
        seconds, unmeasured = sweep.cost(missing, records, ledger.work)
        cost = [duration(seconds)] * bool(seconds)
        cost += [f"{unmeasured} not measured"] * bool(unmeasured)
        told = undecided & {claim for spec in missing for claim in settles[spec.hash]}
        left = (str(len(missing)), " and ".join(cost) or "-", ", ".join(sorted(told)) or "-")
        table.add_row(*cells, recorded, *left)
    _print(table)
    if by_experiment:
        print("The arms of one: nbrepro status NAME")


def _to_do(ledger: "Ledger", planned: "Sequence[Planned]", records: "Sequence[Record]") -> str:
    """What the missing runs cost together: a sentence."""
    from nbrepro import sweep
    from nbrepro.records.timings import duration

    missing = [p.spec for p in planned if p.missing]
    seconds, unmeasured = sweep.cost(missing, records, ledger.work)
    left = [f"{duration(seconds)} at the speed of the latest records"] * bool(seconds)
    left += [f"{unmeasured} runs whose cost is not measured yet"] * bool(unmeasured)
    return f"To do: {', and '.join(left)}." if left else "Nothing is left to do."


def _on(options: argparse.Namespace) -> str:
    return "digits" if options.profile == "smoke" else str(options.dataset)


def _say_elsewhere(
    options: argparse.Namespace, ledger: "Ledger", records: "Sequence[Record]"
) -> None:
    """Say how many of the runs are recorded on the other form of CIFAR-10, if any are."""
    from nbrepro.claims.scales import CIFAR10

    recorded = {record.spec.hash for record in records}
    for other in CIFAR10:
        if options.profile != "smoke" and other != options.dataset:
            number = len(recorded & {p.spec.hash for p in _plan(options, ledger, other)})
            if number:
                print(f"On {other} {number} runs are recorded: --dataset {other}")


def _rows(
    planned: "Sequence[Planned]", options: argparse.Namespace
) -> tuple[tuple[str, ...], dict[tuple[str, ...], list["Planned"]]]:
    """The first columns of a plan's table, and their cells → the runs of a row.

    A row is an arm of an experiment; or an experiment, where there are several, with the runs that
    it shares with others.
    """
    from nbrepro import experiments

    rows: dict[tuple[str, ...], list[Planned]] = {}
    chosen = experiments.select(options.name) if options.name in experiments.names() else []
    if len(chosen) > 1:
        by_hash = {p.spec.hash: p for p in planned}
        for experiment in chosen:
            specs = experiment.specs(options.profile, options.dataset, options.seeds)
            rows[(experiment.name,)] = [by_hash[h] for h in dict.fromkeys(s.hash for s in specs)]
        return ("experiment",), rows
    settings = _settings([p.spec for p in planned])
    for p in planned:
        rows.setdefault((p.spec.model, settings(p.spec)), []).append(p)
    return ("network", "settings"), rows


def _settings(specs: "Sequence[Spec]") -> "Callable[[Spec], str]":
    """A function that names those settings of a spec in which ``specs`` differ."""
    rows = [spec.to_dict() for spec in specs]
    elsewhere = {"model", "seed", "dataset"}  # a row's network, its replicates, the table's title
    names = [name for name in (rows[0] if rows else ()) if name not in elsewhere]
    varied = [name for name in names if len({str(row[name]) for row in rows}) > 1]

    def words(spec: "Spec") -> str:
        settings = spec.to_dict()
        # What the run's kind of clipping does not read makes no difference to it.
        unread = {"none": ("clipping", "unclipped"), "norm": ("unclipped",)}.get(spec.clip, ())
        return " ".join(
            f"{name}={','.join(map(str, v)) if isinstance(v, list) else v}"
            for name in varied
            if name not in unread and (v := settings[name]) is not None
        )

    return words


def _verify(options: argparse.Namespace) -> int:
    import json

    from nbrepro import claims
    from nbrepro.claims import verdicts
    from nbrepro.claims.report import drift, lines, report
    from nbrepro.records import timings
    from nbrepro.records.fingerprints import remarks
    from nbrepro.records.ledger import Ledger

    chosen = [claims.get(name) for name in options.claims] or list(claims.register().values())
    ledger = Ledger(options.results)
    records, damaged = ledger.scan()
    measured = timings.read(ledger.root)
    if not (records or damaged or measured):  # such as a run leaves that could not begin
        raise OSError(
            f"the ledger {ledger.root.absolute()} has no records; work in a clone of the book, or "
            "name a ledger with --results or NBREPRO_RESULTS"
        )
    judged = [verdicts.judge_all(claim, records, measured) for claim in chosen]
    reports = [report(rows, records) for rows in judged]
    if options.json:
        print(json.dumps(reports, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        whole = options.all or options.claims
        for entry in reports:
            print("\n".join(lines(entry)[: None if whole else 1]))
        print(f"{len(records)} sound records, {len(damaged)} damaged, in {ledger.root.absolute()}")
    for remark in remarks(records):
        print(f"note: {remark}", file=sys.stderr)
    problems = [f"damaged: {entry}" for entry in damaged]
    page = ledger.root.parent / "book" / "scorecard.ipynb"
    if options.all and page.exists():
        problems += [
            f"the book is out of date: {entry}"
            for entry in drift((rows[0] for rows in judged), page)
        ]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _show(options: argparse.Namespace) -> None:
    from nbrepro.records.ledger import Ledger
    from nbrepro.spec import Spec

    ledger = Ledger(options.results)
    records, damaged = ledger.scan()
    found = [r for r in records if r.spec.hash.startswith(options.hash)]
    if len(found) != 1:
        for entry in damaged:
            if entry.path.stem.startswith(options.hash):
                raise ValueError(f"damaged: {entry}")
        raise ValueError(_not_one(options, ledger, found))
    (record,) = found
    print(f"{record.spec}: {record.status}")
    print(f"record: {ledger.path(record.spec)}")
    print("settings that are not the default:")
    defaults = Spec(model=record.spec.model).to_dict()
    for name, setting in record.spec.to_dict().items():
        if name == "model" or setting != defaults[name]:
            print(f"  {name}: {setting}")
    print("where it comes from:")
    for name, entry in record.provenance.items():
        print(f"  {name}: {_words(entry)}")
    if record.curve:
        columns = list(dict.fromkeys(name for row in record.curve for name in row))
        table = _table("measured (fractions, and nats for losses)", *columns)
        for row in record.curve:
            table.add_row(*(_number(row[name]) if name in row else "" for name in columns))
        _print(table)
    if record.error:
        print(record.error)


def _not_one(options: argparse.Namespace, ledger: "Ledger", found: "Sequence[Record]") -> str:
    """Why the digits of a hash do not tell which record to show, and what would."""
    begin = f"begin with {options.hash!r}"
    if 0 < len(found) <= MOST_LISTED:
        specs = [record.spec for record in found]
        runs = "\n".join(f"  {run}" for run in map(_names(specs), specs))
        return (
            f"{len(found)} records in {ledger.root.absolute()} {begin}; give more digits:\n{runs}"
        )
    message = (
        f"{len(found)} records in {ledger.root.absolute()} {begin}; give the first digits of one "
        "run's hash (nbrepro verify CLAIM lists them)"
    )
    if (
        not found
        and options.results is None
        and any((SMOKE / "runs").glob(f"{options.hash}*.json"))
    ):
        message += f"; a smoke run's does: --results {SMOKE}"
    return message


def _words(entry: object) -> str:
    if isinstance(entry, dict):
        return ", ".join(f"{name} {version}" for name, version in entry.items())
    return f"{entry:.4g}" if isinstance(entry, float) else str(entry)


def _number(entry: float | None) -> str:
    return "not finite" if entry is None else _words(entry)


def _book(options: argparse.Namespace) -> None:
    from nbrepro.book import build

    first = build.build(options.profile, update=options.update, say=lambda s: print(s, flush=True))
    print(f"Open {first.relative_to(Path.cwd()) if first.is_relative_to(Path.cwd()) else first}")


def _new_chapter(options: argparse.Namespace) -> None:
    from nbrepro.book import new_chapter

    for line in new_chapter.write(options.name, options.paper):
        print(line)


def _table(title: str, *columns: str) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: "Table") -> None:
    from rich.console import Console

    # Not on a terminal (a pipe, a log): wide enough that nothing is folded.
    Console(width=None if sys.stdout.isatty() else 160).print(table)


_COMMANDS = {
    "list": _list,
    "run": _run,
    "status": _status,
    "verify": _verify,
    "show": _show,
    "book": _book,
    "new-chapter": _new_chapter,
}

if __name__ == "__main__":
    sys.exit(main())

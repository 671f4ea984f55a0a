"""The command line: ``nbrepro list | run | status | verify | book | new-chapter``."""

import argparse
import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from nbrepro import __version__
from nbrepro._suggest import unknown
from nbrepro.sweep.executors import EXECUTORS, Settings, execute

if TYPE_CHECKING:
    from rich.table import Table

    from nbrepro.records.ledger import Damaged, Ledger, Record
    from nbrepro.spec import Spec
    from nbrepro.sweep.runner import Planned

#: Ledger of smoke runs, with a work folder of its own beside it.
SMOKE = Path("runs", "smoke", "results")

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
  nbrepro book                                       execute the chapters and build the site
"""


class _Parser(argparse.ArgumentParser):
    """Names the nearest right word when a command or option is misspelt."""

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


def _seconds(text: str) -> float:
    """``90``, ``90s``, ``9m`` or ``1.5h`` in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 90s, 9m or 1.5h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    from nbrepro.experiments import PROFILES

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
            "--dataset", metavar="D", default="cifar10",
            help="cifar10, or a folder below the data root such as cifar10-jpeg",
        )  # fmt: skip
        command.add_argument("--seeds", type=int, metavar="N", help="replicates of each run")
        command.add_argument("--results", type=Path, metavar="DIR", help="the ledger's folder")
    run.add_argument("--data-root", type=Path, metavar="DIR", help="default: $NBREPRO_DATA or data")
    run.add_argument("--download", action="store_true", help="let torchvision fetch CIFAR-10")
    run.add_argument(
        "--time-budget", type=_seconds, metavar="T", help="stop cleanly after 90s, 9m or 1.5h"
    )
    run.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    run.add_argument("--retry-failed", action="store_true", help="run again what failed before")
    run.add_argument(
        "--executor",
        choices=EXECUTORS,
        default="serial",
        help="one run after another, several at once, or on dask workers (default: %(default)s)",
    )
    run.add_argument(
        "--workers", type=int, metavar="N", help="runs at once (default: one a GPU, or one)"
    )
    run.add_argument(
        "--scheduler", metavar="ADDRESS", help="a running dask scheduler, such as tcp://host:8786"
    )

    verify = commands.add_parser(
        "verify",
        help="check the ledger and compute the verdicts",
        description="Check every record against its digest and compute verdicts from the records. "
        "Exits with 1 if a record is damaged.",
    )
    verify.add_argument("claims", nargs="*", metavar="claim", help="claim ids (default: all)")
    verify.add_argument("--results", type=Path, metavar="DIR", help="the ledger's folder")

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
    """Entry point; returns the exit status."""
    top = parser()
    options = top.parse_args(arguments)
    if options.command is None:
        top.print_help()
        return 0
    # One line an epoch in logs; on a terminal the bar tells the same.
    level = logging.WARNING if sys.stderr.isatty() else logging.INFO
    logging.basicConfig(level=level, format="%(message)s")
    with contextlib.ExitStack() as stack:
        if os.environ.get("RANK", "0") != "0":  # under torchrun the first process speaks
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            logging.disable(logging.INFO)
        return _answer(options)


def _answer(options: argparse.Namespace) -> int:
    """Run the command; errors that a user can mend become one line."""
    from nbrepro.book.build import BookError
    from nbrepro.data import DataError

    try:
        return int(_COMMANDS[options.command](options) or 0)
    except (ValueError, TypeError, OSError, DataError, BookError) as error:
        print(f"nbrepro: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; start it again to go on from the last epoch", file=sys.stderr)
        return 130


def _list(_options: argparse.Namespace) -> None:
    from nbrepro import claims, experiments

    table = _table("experiments", "name", "chapter", "runs: smoke, quick, full", "what")
    for e in experiments.REGISTRY.values():
        runs = ", ".join(str(len(e.specs(profile))) for profile in experiments.PROFILES)
        table.add_row(e.name, e.chapter, runs, e.title)
    _print(table)
    table = _table("claims", "id", "paper", "statement")
    for claim in claims.register().values():
        table.add_row(claim.id, claim.paper.short, claim.statement)
    _print(table)


def _planned(
    options: argparse.Namespace,
) -> tuple["Ledger", list["Planned"], list["Record"], list["Damaged"]]:
    """The ledger, the runs behind an experiment, a chapter, a claim or everything, and its scan."""
    from nbrepro import claims, experiments
    from nbrepro.claims import verdicts
    from nbrepro.records.ledger import Ledger
    from nbrepro.sweep import runner

    names = [*experiments.names(), *claims.register()]
    if options.name not in names:
        raise ValueError(unknown("experiment, chapter or claim", options.name, names))
    claim = claims.register().get(options.name)
    if claim and not claim.experiment:
        raise ValueError(f"{claim.id} needs no run; see nbrepro verify {claim.id}")
    selected = experiments.select(claim.experiment if claim and claim.experiment else options.name)
    # Smoke runs prove the code and never belong to the evidence.
    apart = options.profile == "smoke" and options.results is None
    ledger = Ledger(SMOKE if apart else options.results)
    if options.command == "run":
        ledger.check_writable()
    planned = []
    for experiment in selected:
        runs = runner.plan(
            experiment, options.profile, ledger, dataset=options.dataset, seeds=options.seeds
        )
        planned += [p for p in runs if not claim or verdicts.feeds(p.spec, claim)]
    if claim and not planned:
        raise ValueError(
            f"no {options.profile} run feeds {claim.id}; take --profile quick or --profile full"
        )
    records, damaged = ledger.scan() if ledger.root.exists() or not apart else ([], [])
    return ledger, runner.most_informative(planned, records), records, damaged


def _run(options: argparse.Namespace) -> int:
    ledger, planned, _, _ = _planned(options)
    todo = [p for p in planned if p.missing]
    settings = Settings(
        ledger=ledger,
        workers=options.workers,
        scheduler=options.scheduler,
        time_budget=options.time_budget,
        retry_failed=options.retry_failed,
        device=options.device,
        data_root=options.data_root,
        download=options.download,
    )
    records = execute(options.executor, planned, settings)
    print(f"{len(planned)} runs, {len(planned) - len(todo)} recorded, {len(todo)} to do")
    for record in records:
        if record.status == "failed":
            last = (record.error or "").strip().splitlines()[-1:]
            print(f"{record.spec}: failed: {''.join(last)}", flush=True)
        else:
            accuracy = 100 * record.metrics["test_accuracy"]
            seconds = record.provenance["seconds"]
            print(f"{record.spec}: {record.status}, {accuracy:.1f} %, {seconds:.0f} s", flush=True)
    found = [ledger.find(p.spec) for p in planned]
    failed = sum(record is not None and record.status == "failed" for record in found)
    print(f"{found.count(None)} left to do. Records: {ledger.root}")
    if failed:
        print(f"{failed} failed; their records hold the traceback. --retry-failed runs them again")
    return 1 if failed else 0


def _status(options: argparse.Namespace) -> None:
    from nbrepro.sweep import runner

    _, planned, records, damaged = _planned(options)
    on = "digits" if options.profile == "smoke" else options.dataset
    table = _table(
        f"{options.profile} on {on}, most informative first",
        "network", "settings", "seeds recorded", "to do", "estimated cost", "would settle",
    )  # fmt: skip
    open_claims = runner.unsettled(records)
    settings = {
        name: _settings([p.spec for p in planned if p.experiment == name])
        for name in {p.experiment for p in planned}
    }
    arms: dict[tuple[str, Spec], list[Planned]] = {}
    for p in planned:
        arms.setdefault((p.experiment, p.spec.replace(seed=0)), []).append(p)
    total, unknown_cost = 0.0, 0
    for (experiment, arm), runs in arms.items():
        missing = [p for p in runs if p.missing]
        costs = [runner.estimate(p.spec, records) for p in missing]
        known = sum(c for c in costs if c is not None)
        total, unknown_cost = total + known, unknown_cost + costs.count(None)
        cost = "-" if not missing else "not measured yet" if None in costs else _duration(known)
        done = sum(p.record is not None and p.record.status != "failed" for p in runs)
        failed = sum(p.record is not None and p.record.status == "failed" for p in runs)
        recorded = f"{done}" + (f" ({failed} failed)" if failed else "")
        would = [c for c in runner.settles(runs[0]) if c in open_claims] if missing else []
        table.add_row(
            arm.model,
            settings[experiment](arm),
            recorded,
            str(len(missing)),
            cost,
            ", ".join(would) or "-",
        )
    _print(table)
    more = f", and {unknown_cost} runs whose cost is not measured yet" if unknown_cost else ""
    print(f"To do: {_duration(total)} at the speed of the latest records{more}.")
    for entry in damaged:
        print(f"damaged, counts as not done: {entry}", file=sys.stderr)


def _settings(specs: "Sequence[Spec]") -> "Callable[[Spec], str]":
    """A function that names those settings of a spec in which ``specs`` differ."""
    rows = [spec.to_dict() for spec in specs]
    plain = {"model", "seed", "dataset"}
    varied = [k for k in (rows[0] if rows else {}) if k not in plain and
              len({str(row[k]) for row in rows}) > 1]  # fmt: skip

    def words(spec: "Spec") -> str:
        settings = spec.to_dict()
        unread = {"none": ("clipping", "unclipped"), "norm": ("unclipped",)}.get(spec.clip, ())
        return " ".join(
            f"{k}={','.join(map(str, v)) if isinstance(v, list) else v}"
            for k in varied
            if k not in unread and (v := settings[k]) is not None
        )

    return words


def _verify(options: argparse.Namespace) -> int:
    from nbrepro import claims
    from nbrepro.claims import verdicts
    from nbrepro.records import timings
    from nbrepro.records.ledger import RUNS, Ledger

    chosen = [claims.get(name) for name in options.claims] or list(claims.register().values())
    ledger = Ledger(options.results)
    records, damaged = ledger.scan()
    measured = timings.read(ledger.root)
    for claim in chosen:
        verdict = verdicts.judge(claim, records, measured)
        print(f"{claim.id}: {verdict.verdict}" + (f" ({verdict.scale})" * bool(verdict.scale)))
        if options.claims:
            print(f"  claim: {claim.statement}")
            for quoted in claim.quoted:
                print(f"  published: {quoted.value} (seen: {quoted.seen})")
            for finding in verdict.findings:
                print(f"  {finding.answer}: {finding}")
            if verdict.note:
                print(f"  note: {verdict.note}")
            for name in verdict.records:
                print(f"  record: {ledger.root / RUNS / name}.json")
    print(f"{len(records)} sound records, {len(damaged)} damaged, in {ledger.root}")
    for entry in damaged:
        print(f"damaged: {entry}", file=sys.stderr)
    return 1 if damaged else 0


def _book(options: argparse.Namespace) -> None:
    from nbrepro.book import build

    first = build.build(options.profile, update=options.update, say=lambda s: print(s, flush=True))
    print(f"Open {first.relative_to(Path.cwd()) if first.is_relative_to(Path.cwd()) else first}")


def _new_chapter(options: argparse.Namespace) -> None:
    from nbrepro.book import new_chapter

    for line in new_chapter.write(options.name, options.paper):
        print(line)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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
    "book": _book,
    "new-chapter": _new_chapter,
}

if __name__ == "__main__":
    sys.exit(main())

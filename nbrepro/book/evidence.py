"""A page per claim, made while the site is built: what was found, from which runs, by which sums.

Three clicks lead from the first page to a record: scorecard, claim, JSON. Nothing is computed here.
A page shows what ``nbrepro verify --json`` prints of a claim (:mod:`nbrepro.claims.report`), and
the records lie beside the pages as they lie in the ledger. What the checks found is taken from the
ledger too, see :mod:`nbrepro.claims.recorded`.
"""

import csv
import inspect
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from textwrap import shorten
from typing import Any

import yaml
from markupsafe import Markup, escape

from nbrepro import experiments
from nbrepro.book import found, markup, tables
from nbrepro.claims import checks, recorded, verdicts
from nbrepro.claims.recorded import Recorded
from nbrepro.claims.register import Claim, as_written, get, register, texts
from nbrepro.claims.report import report
from nbrepro.claims.reviews import Review, Statement, reviews
from nbrepro.claims.rules import Check, Measured, Trained
from nbrepro.claims.scales import CIFAR10
from nbrepro.claims.verdicts import Verdict
from nbrepro.data.cards import NOT_TREES, base, parse
from nbrepro.records import timings
from nbrepro.records.ledger import BENCHMARKS, RUNS, Ledger, Record, default_root

#: Folders below ``_static``: records as they lie in the ledger, and the register.
RECORDS, REGISTER = "records", "register"


def link(claim_id: str, page: str = "") -> str:
    """The address of a claim's page, relative to a page of the site.

    Args:
        claim_id: such as ``ACC-20``.
        page: name of the page that links, such as ``api/agc``; not needed at the top level.

    Raises:
        ValueError: for an unknown id, naming the nearest.
    """
    return "../" * page.count("/") + markup.address(get(claim_id).id)


@dataclass(frozen=True)
class Evidence:
    """What a ledger says of every claim.

    Attributes:
        root: the ledger's folder.
        records: of runs.
        verdicts: claim → the verdict at each scale that was run, the deciding one first.
        checks: what the checks found and took, as far as that is recorded.
    """

    root: Path
    records: Sequence[Record]
    verdicts: Mapping[str, Sequence[Verdict]]
    checks: Mapping[str, Recorded]

    @property
    def deciding(self) -> list[Verdict]:
        """One verdict per claim, in the register's order."""
        return [rows[0] for rows in self.verdicts.values()]


def gather(root: Path) -> Evidence:
    """Read a ledger and judge every claim of the register.

    Raises:
        OSError: if there is no such ledger.
        RuntimeError: if a record is damaged: no page is made from half the evidence.
    """
    records, damaged = Ledger(root).scan()
    if damaged:
        raise RuntimeError("damaged records in the ledger:\n" + "\n".join(map(str, damaged)))
    measured, known = timings.read(root), recorded.read(root)

    def outcome(name: str) -> checks.Summary:
        return known[name].summary if name in known else checks.outcome(name)

    judged = {
        claim.id: verdicts.judge_all(claim, records, measured, outcome)
        for claim in register().values()
    }
    return Evidence(root, records, judged, known)


# --- a page --------------------------------------------------------------------------------------


def title(claim: Claim) -> str:
    """What a list of pages shows: ``ACC-20: BatchNorm-only accuracy grows with depth.``"""
    return f"{claim.id}: {shorten(found.bare(claim), 90, placeholder=' …')}"


def body(claim: Claim, evidence: Evidence) -> str:
    """The page of a claim as HTML, for a page one folder below the top of the site."""
    rows = [(v, report([v], evidence.records)) for v in evidence.verdicts[claim.id]]
    verdict, said = rows[0]
    used = [record for record in evidence.records if record.spec.hash in {*verdict.records}]
    sentence = found.bare(claim)
    conclusion = _conclusion(verdict, sentence)
    return str(
        markup.render(
            "evidence",
            claim=claim,
            sentence=sentence,
            aside=claim.statement.removeprefix(sentence)
            .strip()
            .removeprefix("(")
            .removesuffix(")"),
            verdict=verdict,
            said=said,
            conclusion=conclusion,
            note="" if verdict.note[1:] in conclusion or not claim.rule else verdict.note,
            rows=rows,
            arms=_by_arm,
            rule=_highlighted(_as_yaml(claim), "yaml") if claim.rule else "",
            deviations=_deviations(claim, used, verdict),
            commands=_commands(claim, verdict, used),
            folders=_folders(used),
            cost=_cost(claim, said["runs"], evidence),
            check=_described(claim),
            shared=_shared(claim, evidence),
            statements=_statements(claim),
            by=found.BY,
            seen=found.SEEN,
            kinds=tables.EVIDENCE,
            bare=found.bare,
            page=tables.page,
        ).data
    )


def _conclusion(verdict: Verdict, sentence: str) -> str:
    """What was found, without what stands elsewhere on the page anyway."""
    if verdict.claim.rule is None:
        return ""
    headline, details = found.said(verdict)
    again = headline.endswith(sentence)
    return " ".join(filter(None, ("" if again else headline, details, found.missing(verdict))))


def _by_arm(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    return [(arm, list(of_arm)) for arm, of_arm in groupby(runs, key=lambda run: run["arm"])]


def _as_yaml(claim: Claim) -> str:
    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    entry = {
        key: as_written(claim)[key] for key in ("experiment", "rule") if key in as_written(claim)
    }
    return yaml.dump(
        entry, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=88
    )


def _highlighted(text: str, language: str) -> Markup:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name

    return Markup(highlight(text, get_lexer_by_name(language), HtmlFormatter()))


def _deviations(claim: Claim, records: Sequence[Record], verdict: Verdict) -> Markup:
    if not verdict.profile or claim.experiment is None:
        return Markup("")
    return Markup(tables.deviations(records, experiments.get(claim.experiment).published).data)


def _commands(claim: Claim, verdict: Verdict, records: Sequence[Record]) -> list[str]:
    """What makes the verdict again, in a clone of the book.

    Args:
        claim: the claim.
        verdict: on it.
        records: those that the verdict rests on.
    """
    match claim.rule:
        case None:
            return []
        case Check():
            return [f"nbrepro verify {claim.id}"]
        case Measured() as rule:
            return [f"python benchmarks/{rule.benchmark}.py", f"nbrepro verify {claim.id}"]
    if not isinstance(claim.rule, Trained):
        return [f"nbrepro verify {claim.id}"]
    profile = verdict.profile or claim.rule.profiles[0]
    seeds = f" --seeds {1 + max(record.spec.seed for record in records)}" if records else ""
    data = f" --dataset {verdict.dataset}" if verdict.dataset not in ("", CIFAR10[0]) else ""
    fetched = {base(record.spec.dataset) for record in records} or {CIFAR10[0]}
    download = " --download" if CIFAR10[0] in fetched else ""
    where = "--results again"
    return [
        f"nbrepro run {claim.id} --profile {profile}{data}{seeds}{download} {where}",
        f"nbrepro verify {claim.id} {where}",
    ]


def _folders(records: Sequence[Record]) -> list[str]:
    """Data sets of these runs that a user has as folders of pictures."""
    names = {parse(record.spec.dataset).data for record in records}
    return sorted(names.difference(NOT_TREES))


def _cost(claim: Claim, runs: Sequence[Mapping[str, Any]], evidence: Evidence) -> str:
    """What the verdict took, as measured; empty where nothing was."""
    if isinstance(claim.rule, Check):
        known = evidence.checks.get(claim.rule.check)
        if known is None:
            return ""
        when = known.provenance["finished"][:10]
        took = timings.duration(known.seconds)
        return f"{took} of a processor ({known.provenance['device']}, {when})"
    by_device: dict[str, list[float]] = {}
    for run in runs:
        threads = (
            f", {run['threads']} thread{'s' * (run['threads'] != 1)}" if run["threads"] else ""
        )
        by_device.setdefault(f"{run['device']}{threads}", []).append(run["seconds"] or 0)
    return "; ".join(
        f"{timings.duration(sum(seconds))} for {len(seconds)} run{'s' * (len(seconds) != 1)} "
        f"on {device}"
        for device, seconds in by_device.items()
    )


@dataclass(frozen=True)
class _Described:
    """A check for readers: file, docstring by paragraphs, source."""

    file: str
    words: Sequence[Markup]
    source: Markup


def _described(claim: Claim) -> _Described | None:
    if not isinstance(claim.rule, Check):
        return None
    run = checks.registry()[claim.rule.check].run
    file = str(inspect.getsourcefile(run)).replace("\\", "/")
    return _Described(
        "nbrepro/" + file.rpartition("/nbrepro/")[2],
        [_code(paragraph) for paragraph in (inspect.getdoc(run) or "").split("\n\n")],
        _highlighted(inspect.getsource(run), "python"),
    )


def _code(text: str) -> Markup:
    """Text of a docstring, what stands between double backquotes as code."""
    return Markup(re.sub("``(.+?)``", r"<code>\1</code>", str(escape(text))))


def _shared(claim: Claim, evidence: Evidence) -> list[Verdict]:
    """Verdicts on other claims that rest on the same records, or on the same check."""
    mine = evidence.verdicts[claim.id][0]

    def shares(other: Verdict) -> bool:
        rules = (claim.rule, other.claim.rule)
        same = {rule.check for rule in rules if isinstance(rule, Check)}
        both = all(isinstance(rule, Check) for rule in rules) and len(same) == 1
        return both or bool({*mine.records} & {*other.records})

    return [v for v in evidence.deciding if v.claim.id != claim.id and shares(v)]


def _statements(claim: Claim) -> list[tuple[Review, Statement]]:
    """What reviews say that this claim answers."""
    return [
        (review, statement)
        for review in reviews().values()
        for statement in review.statements
        if claim.id in statement.claims
    ]


# --- files beside the pages ----------------------------------------------------------------------


def ship(evidence: Evidence, static: Path) -> None:
    """Put records, register and verdicts where the pages link to them.

    Args:
        evidence: what the pages are made from.
        static: the folder ``_static`` of the site.
    """
    shutil.rmtree(static / RECORDS, ignore_errors=True)
    (static / RECORDS).mkdir(parents=True)
    (static / REGISTER).mkdir(exist_ok=True)
    for path in (
        *(evidence.root / RUNS).glob("*.json"),
        *(evidence.root / BENCHMARKS).glob("*.json"),
    ):
        shutil.copyfile(path, static / RECORDS / path.name)
    if evidence.checks:
        shutil.copyfile(evidence.root / recorded.FILE, static / RECORDS / recorded.FILE)
    for file, text in texts().items():
        target = static / REGISTER / file.replace("/", "-")
        target.write_text(text, encoding="utf-8")
    (static / "verdicts.json").write_text(as_json(evidence), encoding="utf-8")
    (static / "verdicts.csv").write_text(as_csv(evidence), encoding="utf-8", newline="")


def as_json(evidence: Evidence) -> str:
    """All verdicts as ``nbrepro verify --json`` prints them."""
    reports = [report(rows, evidence.records) for rows in evidence.verdicts.values()]
    return json.dumps(reports, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


_COLUMNS: Mapping[str, Callable[[Verdict], object]] = {
    "id": lambda v: v.claim.id,
    "paper": lambda v: v.claim.paper.short,
    "place": lambda v: v.claim.place,
    "chapter": lambda v: v.claim.chapter,
    "by": lambda v: v.claim.by,
    "evidence": lambda v: v.claim.evidence,
    "statement": lambda v: v.claim.statement,
    "published": lambda v: "; ".join(f"{q.value} (seen: {q.seen})" for q in v.claim.quoted),
    "verdict": lambda v: v.verdict,
    "uncorrected": lambda v: v.single or v.verdict,
    "ours": lambda v: v.ours,
    "scale": lambda v: v.scale,
    "seeds_needed": lambda v: v.seeds_needed or "",
    "records": lambda v: len(v.records),
    "page": lambda v: markup.address(v.claim.id),
}


def as_csv(evidence: Evidence) -> str:
    """All verdicts as a table, a line per claim."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    writer.writerows([of(v) for of in _COLUMNS.values()] for v in evidence.deciding)
    return text.getvalue()


# --- for Sphinx ----------------------------------------------------------------------------------


def pages(app: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The pages of all claims, for the event ``html-collect-pages``; files are put beside them.

    Each is fed to the search index with its id as an entry of its own, so that a search for an id
    finds its page first; words alone would be cut at the hyphen.
    """
    from docutils import nodes

    if app.builder.format != "html":
        return
    evidence = gather(default_root(Path(app.srcdir)))
    ship(evidence, Path(app.outdir, "_static"))
    for claim in register().values():
        name = markup.address(claim.id).removesuffix(".html")
        html = body(claim, evidence)
        document = _indexed(claim, html)
        app.builder.index_page(name, document, str(escape(title(claim))))
        # Or the index would be pruned of a page that has no source.
        app.env.all_docs[name] = 0.0
        app.env.titles[name] = document.next_node(nodes.title)
        about = escape(shorten(found.conclusion(evidence.verdicts[claim.id][0]), 200))
        yield (
            name,
            {
                "title": escape(title(claim)),
                "body": html,
                "meta": {"html_theme.sidebar_secondary.remove": "true"},
                "metatags": f'<meta name="description" content="{about}">',
            },
            "page.html",
        )


def _indexed(claim: Claim, html: str) -> Any:
    """A page as the search index wants it."""
    from docutils import nodes
    from docutils.utils import new_document
    from sphinx import addnodes

    document = new_document(claim.id)
    entry = ("single", claim.id, "", "main", None)
    heading = nodes.title("", title(claim))
    text = nodes.raw("", html, format="html")
    document += nodes.section("", addnodes.index(entries=[entry]), heading, text)
    return document

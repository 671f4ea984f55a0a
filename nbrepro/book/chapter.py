"""What notebooks call: checked parameters, claim cards, live runs, recorded evidence, verdicts.

Importing this module does not import torch, so a misspelt parameter is reported at once.
"""

import html
import inspect
import os
import statistics
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbrepro._suggest import unknown

if TYPE_CHECKING:
    from IPython.display import HTML, Code

    from nbrepro.claims import Claim
    from nbrepro.claims.verdicts import Verdict
    from nbrepro.records.ledger import Record
    from nbrepro.records.timings import Benchmark
    from nbrepro.spec import Spec

# Accelerate imports notebook bars; ours are off in notebooks, and the warning holds a path.
warnings.filterwarnings("ignore", message="IProgress not found")

_BADGES = {
    "reproduced": "yes",
    "reproduced at reduced scale": "yes",
    "contradicted": "no",
    "inconclusive": "open",
    "cited only": "none",
    "not run": "none",
}
#: Contradictions and open questions lead every list of verdicts.
_ORDER = (
    "contradicted",
    "inconclusive",
    "reproduced at reduced scale",
    "reproduced",
    "not run",
    "cited only",
)
_SEEN = {
    "paper": "the paper",
    "figure": "read off its figure",
    "code": "its authors' code",
    "second hand": "second hand",
}


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
        from nbrepro.claims import verdicts

        records, timings = recorded(), measured()
        return [verdicts.judge(claim, records, timings) for claim in self.claims]

    def evidence(self) -> "list[Record]":
        """The recorded runs that the chapter's verdicts rest on: the best scale there is."""
        from nbrepro import experiments
        from nbrepro.claims import verdicts

        records = recorded()
        for profile, dataset in verdicts.scales(records):
            for experiment in experiments.select(self.name):
                found = verdicts.of_scale(records, experiment.name, profile, dataset)
                if found:
                    return found
        return []


def begin(name: str, namespace: Mapping[str, Any]) -> Chapter:
    """Check the notebook's parameters and begin.

    Call it in the first cell after the parameters, with ``globals()``: a variable that is not a
    parameter can then only be a misspelt one, which papermill would pass over in silence.

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
    if given["profile"] == "smoke":
        # Tiny networks: several threads only get into each other's way.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        import torch

        torch.set_num_threads(1)
    return Chapter(name, **{key: given[key] for key in known})


def recorded() -> "list[Record]":
    """All sound records of the ledger that ships with the book.

    Raises:
        RuntimeError: if any record is damaged: a page must not be drawn from half the evidence.
    """
    from nbrepro.records.ledger import Ledger

    records, damaged = Ledger().scan()
    if damaged:
        raise RuntimeError("damaged records in the ledger:\n" + "\n".join(map(str, damaged)))
    return records


def measured() -> "list[Benchmark]":
    """All timings of the ledger that ships with the book."""
    from nbrepro.records import timings

    return timings.read()


def _judged() -> "list[Verdict]":
    """The verdict on every claim of the register."""
    from nbrepro import claims
    from nbrepro.claims import verdicts

    records, timings = recorded(), measured()
    return [verdicts.judge(claim, records, timings) for claim in claims.register().values()]


def source(thing: Any) -> "Code":
    """The library's own text of a function or class, for display."""
    from IPython.display import Code

    return Code(inspect.getsource(thing), language="python")


# --- what a reader sees: HTML that also reads well without our style sheet ---


def _html(text: str) -> "HTML":
    from IPython.display import HTML

    return HTML(text)


def _unbroken(text: str) -> str:
    """Escaped, and never broken between a number and its unit or inside ``n = 3``."""
    text = html.escape(text)
    for short in ("n = ", " points", " %", " and "):
        text = text.replace(short, short.replace(" ", "&nbsp;"))
    return text


def _badge(verdict: str) -> str:
    return f'<span class="verdict verdict-{_BADGES[verdict]}">{verdict}</span>'


def _quoted(claim: "Claim") -> str:
    return "<br>".join(
        f'{html.escape(q.value)} <span class="seen">({_SEEN[q.seen]})</span>' for q in claim.quoted
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    body = "\n".join(
        "<tr>"
        + "".join(
            f'<td data-label="{html.escape(h)}">{cell}</td>'
            for h, cell in zip(head, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    heads = "".join(f"<th>{h}</th>" for h in head)
    return (
        f'<div class="table-wrap"><table class="nbrepro {kind}"><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def claim_cards(claims: "Iterable[Claim]") -> "HTML":
    """A card a claim: what the paper says, where, and with which published value."""
    cards = []
    for claim in claims:
        by = {"review": "a published review of ", "ours": "beside "}.get(claim.by, "")
        where = f"{by}{html.escape(claim.paper.short)}, {html.escape(claim.place)}"
        cards.append(
            f'<div class="claim-card" id="{claim.id}"><p class="claim-head"><b>{claim.id}</b>'
            f'<span class="claim-place">{where}</span></p>'
            f"<p>{html.escape(claim.statement)}</p>"
            f'<p class="claim-value">Published: {_quoted(claim)}</p></div>'
        )
    return _html('<div class="claim-cards">\n' + "\n".join(cards) + "\n</div>")


def verdict_table(verdicts: "Iterable[Verdict]") -> "HTML":
    """What was found for each claim, every comparison with its interval."""
    rows = []
    for v in sorted(verdicts, key=lambda v: _ORDER.index(v.verdict)):
        found = [f'<div class="finding">{_unbroken(str(f))}</div>' for f in v.findings]
        if v.note:
            found.append(f'<div class="seen">{html.escape(v.note)}</div>')
        statement = f"<b>{v.claim.id}</b> {html.escape(v.claim.statement)}"
        rows.append((statement, "".join(found), _badge(v.verdict)))
    return _html(_table(("claim", "what we found", "verdict"), rows, "verdicts"))


def scorecard() -> "HTML":
    """One row a claim: statement, the paper's value, ours, verdict, scale, link."""
    judged = _judged()
    rows = []
    for v in sorted(judged, key=lambda v: _ORDER.index(v.verdict)):
        claim = v.claim
        untrained = {"not run": "no runs yet", "cited only": "no runs"}.get(
            v.verdict, "no run needed"
        )
        marked = {
            "review": " <i>(a review's claim)</i>",
            "ours": " <i>(our own finding)</i>",
        }.get(claim.by, "")
        rows.append(
            (
                f"<b>{claim.id}</b> {html.escape(claim.statement)}{marked}",
                _quoted(claim),
                _unbroken(v.ours),
                f'{_badge(v.verdict)}<div class="seen">{html.escape(v.scale) or untrained}<br>'
                f'<a href="{claim.chapter}.html">chapter {int(claim.chapter[:2])}</a></div>',
            )
        )
    head = ("claim", "published", "ours, the least clear", "verdict, scale")
    return _html(_table(head, rows, "scorecard"))


def tally() -> str:
    """One sentence: how many claims got which verdict."""
    from collections import Counter

    counts = Counter(verdict.verdict for verdict in _judged())
    parts = [f"{counts[v]} {v}" for v in _ORDER if counts[v]]
    return f"{sum(counts.values())} claims: " + ", ".join(parts) + "."


def accuracy_table(records: "Sequence[Record]") -> "HTML":
    """Mean, standard deviation and number of seeds of every arm."""
    from nbrepro.book import figures

    if not records:
        return _html('<p class="seen">No records yet.</p>')
    table = figures.frame(records)
    rows = []
    for (_, _, _, _), runs in table.groupby(["width", "depth", "model", "train"], sort=True):
        first = runs.iloc[0]
        spread = f" ± {runs['accuracy'].std():.1f}" if len(runs) > 1 else ""
        diverged = int((runs["status"] == "diverged").sum())
        rows.append(
            (
                first["network"],
                first["trained"],
                f"{runs['untrained'].mean():.1f}",
                f"{runs['accuracy'].mean():.1f}{spread}",
                f"{runs['top5'].mean():.1f}",
                f"{len(runs)}" + (f" ({diverged} diverged)" if diverged else ""),
            )
        )
    head = ("network", "trained", "untrained, %", "test accuracy, %", "top-5, %", "seeds")
    note = html.escape(figures.scale_of(records))
    return _html(_table(head, rows) + f'<p class="seen">Mean ± standard deviation; {note}.</p>')


def deviations(records: "Sequence[Record]", published: "Mapping[str, Any] | None" = None) -> "HTML":
    """How the recorded runs differ from the published recipe, read from the records themselves.

    Args:
        records: the runs.
        published: the paper's settings by name, those of :class:`~nbrepro.spec.Spec`, or
            ``precision``, ``device`` and ``replicates``; default the recipe of the BatchNorm-only
            study, which is that of a Spec's defaults.
    """
    from nbrepro.spec import Spec

    if not records:
        return _html('<p class="seen">No records yet.</p>')
    if published is None:
        recipe = Spec(model="cifar_resnet14").to_dict()
        for varied in ("model", "train", "seed"):
            del recipe[varied]
        published = recipe | {"precision": "float32", "device": "a GPU", "replicates": 5}
    rows = []
    for setting, theirs in published.items():
        if setting == "replicates":
            ours = sorted({str(sum(o.spec.replace(seed=0) == r.spec.replace(seed=0)
                                   for o in records)) for r in records})  # fmt: skip
        elif setting in ("precision", "device"):
            ours = sorted({str(r.provenance.get(setting)) for r in records})
        else:
            ours = sorted({str(r.spec.to_dict()[setting]) for r in records})
        if ours != [str(theirs)]:
            rows.append((setting, html.escape(str(theirs)), html.escape(", ".join(ours))))
    return _html(_table(("setting", "the paper", "these records"), rows))


def paired_table(records: "Sequence[Record]", setting: str, before: str, after: str) -> "HTML":
    """What one setting changes: differences between runs that are otherwise the same, seed by seed.

    Args:
        records: the runs; those without a partner that has ended are left out.
        setting: of :class:`~nbrepro.spec.Spec`.
        before: its value on one side.
        after: its value on the other, which the difference is counted for.
    """
    from nbrepro.book import figures
    from nbrepro.claims import verdicts

    sides: dict[str, dict[Spec, Record]] = {before: {}, after: {}}
    for record in records:
        value = str(getattr(record.spec, setting))
        if record.metrics and value in sides:
            sides[value][record.spec.replace(**{setting: before})] = record
    arms: dict[Spec, list[tuple[Record, Record]]] = {}
    for spec, record in sides[after].items():
        if spec in sides[before]:
            arms.setdefault(spec.replace(seed=0), []).append((sides[before][spec], record))
    rows = []
    for spec, pairs in arms.items():
        means, columns = [], []
        for runs in zip(*pairs, strict=True):
            columns.append([100 * run.metrics["test_accuracy"] for run in runs])
            diverged = sum(run.status == "diverged" for run in runs)
            means.append(
                f"{statistics.mean(columns[-1]):.1f}" + f" ({diverged} diverged)" * (diverged > 0)
            )
        differences = [b - a for a, b in zip(*columns, strict=True)]
        change = f"{statistics.mean(differences):+.1f}"
        if len(pairs) > 1:
            low, high = verdicts.interval(differences)
            change += f' <span class="seen">[{low:.1f}, {high:.1f}]</span>'
        name = verdicts.label({"model": spec.model, "train": spec.train})
        if spec.clip == "agc":
            name += f", AGC {spec.clipping}, rate {spec.lr}"
        rows.append((name, *means, change, str(len(pairs))))
    if not rows:
        return _html('<p class="seen">No records yet.</p>')
    head = ("run", f"{before}, %", f"{after}, %", "difference, points", "seeds")
    scale = figures.scale_of([r for side in sides.values() for r in side.values()])
    note = f"Test accuracy, means over seeds [Student's 95 % interval of the pairs]; {scale}."
    return _html(_table(head, rows) + f'<p class="seen">{html.escape(note)}</p>')


def benchmark_table(name: str) -> "HTML":
    """What a benchmark measured: a row a case, ratios with the middle 95 % of rounds."""
    rows, found = [], [b for b in measured() if b.name == name]
    for timing in found:
        for case, row in timing.rows.items():
            low, high = f"{row['low']:.2f}", f"{row['high']:.2f}"
            spread = f' <span class="seen">[{low}, {high}]</span>' if low != high else ""
            rows.append(
                (html.escape(case), f"×{row['ratio']:.2f}{spread}", html.escape(timing.hardware))
            )
    if not rows:
        return _html('<p class="seen">Not measured yet.</p>')
    note = "; ".join(
        f"{t.hardware}, {t.provenance['threads']} thread{'s' * (t.provenance['threads'] > 1)}, "
        f"torch {t.provenance['versions']['torch']}"
        for t in found
    )
    head = ("case", "ratio", "hardware")
    caption = f'<p class="seen">{html.escape(note)}.</p>'
    return _html(_table(head, rows) + caption)

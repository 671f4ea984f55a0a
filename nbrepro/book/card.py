"""What the card of adaptive gradient clipping takes from the records, in figures and sentences.

No sentence is written for one outcome: each says what the records that it is given say.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

from nbrepro.book.clipping import AGC, NONE
from nbrepro.book.figures import outcome_table
from nbrepro.book.figures.runs import Ends, ends, runs_of, scale_of
from nbrepro.claims.findings import Finding, compare
from nbrepro.claims.labels import network
from nbrepro.claims.outcomes import failed, outcome
from nbrepro.claims.rules import Bounds
from nbrepro.data.cards import parse
from nbrepro.experiments.adaptive_gradient_clipping import FREE

if TYPE_CHECKING:
    from IPython.display import Markdown

    from nbrepro.book.figures import Chart
    from nbrepro.records.ledger import Record
    from nbrepro.spec import Spec

#: Where the records come from.
EXPERIMENTS = (
    "batch_sizes",
    "adaptive_gradient_clipping",
    "largest_rates",
    "strong_augmentation",
    "small_batches",
    "nf_resnets",
)
_NO_CLIPPING, _NORM = "none", "norm"


def evidence() -> "list[Record]":
    """All runs without BatchNorm on crops, each once: not clipped, with AGC, by the global norm."""
    from nbrepro.book.chapter import recorded

    found = {run.spec.hash: run for name in EXPERIMENTS for run in recorded(name)}
    return [run for run in found.values() if _counts(run.spec)]


def _counts(spec: "Spec") -> bool:
    return (
        spec.model.startswith("cifar_nf_")
        and spec.optimizer == "nesterov"
        and spec.clip != "agc-layer"
        and spec.randaugment == 0
        and set(spec.unclipped) in ({"fc.weight"}, set(FREE))
    )


# --- the figure ---


def which(records: "Sequence[Record]") -> "Chart":
    """How runs ended by batch and rate, without clipping, for each λ and with the global norm.

    Only settings at which AGC was run, and the runs there that are as long.
    """
    lambdas = sorted({r.spec.clipping for r in records if r.spec.clip == "agc"}, reverse=True)
    names = {x: f"λ {x:g}" for x in lambdas}
    columns = {_NO_CLIPPING: "no clipping", **dict.fromkeys(names.values(), "agc"), _NORM: "norm"}
    groups: dict[str, dict[str, dict[str, Ends]]] = {}
    used = []
    for spec in sorted({_setting(r.spec) for r in records if r.spec.clip == "agc"}, key=_order):
        here = [r for r in records if _beside(r.spec, spec)]
        used += here
        by_lambda = ends([r for r in here if r.spec.clip == "agc"], "clipping")
        cells = {
            _NO_CLIPPING: Ends.of(r for r in here if r.spec.clip == "none"),
            **{names[x]: found for x, found in by_lambda.items()},
        }
        norm = best([r for r in here if r.spec.clip == "norm"])
        if norm:
            cells[_NORM] = norm[1]
        rows = groups.setdefault(_heading(spec), {})
        rows[_row(spec)] = {name: found for name, found in cells.items() if found.n}
    note = (
        f"Rows: batch · rate, * with SkipInit clipped too. Filled: the share of runs that "
        f"survive; a number in %: the mean test accuracy where all do. Norm: the best threshold "
        f"for the whole gradient, chosen afterwards. {scale_of(used)}."
    )
    return outcome_table(groups, columns, note)


def _setting(spec: "Spec") -> "Spec":
    return spec.replace(seed=0, clipping=0.01)


def _beside(spec: "Spec", agc: "Spec") -> bool:
    """Whether a run differs from one with AGC in how it is clipped, or in its seed, only."""
    if spec.clip == "agc":
        return _setting(spec) == agc
    return _bare(spec) == _bare(agc)


def _bare(spec: "Spec") -> "Spec":
    """What runs have in common that differ in clipping and seed only."""
    return spec.replace(seed=0, clip="none", clipping=0.01, unclipped=("fc.weight",))


def _order(spec: "Spec") -> tuple[Any, ...]:
    return (
        _small(spec), not spec.model.endswith("20"), not spec.skip_init, spec.batch_size, spec.lr,
        _starred(spec),
    )  # fmt: skip


def _small(spec: "Spec") -> bool:
    return parse(spec.dataset).small


def _starred(spec: "Spec") -> bool:
    return spec.skip_init and "*skip_gain" not in spec.unclipped


def _heading(spec: "Spec") -> str:
    name = network(spec.model).replace("Normalizer-free ", "")
    images = "" if _small(spec) else ", whole images"
    return f"{name}, {spec.epochs} epochs{images}" + ("" if spec.skip_init else ", no SkipInit")


def _row(spec: "Spec") -> str:
    return f"{spec.batch_size} · {spec.lr:g}" + " *" * _starred(spec)


def best(runs: "Sequence[Record]") -> tuple[float, Ends] | None:
    """The value of ``clipping`` at which most survive, then the most accurate; and its runs."""
    found = ends(runs, "clipping")
    return max(
        found.items(),
        key=lambda item: (len(item[1].survivors) / item[1].n, item[1].mean),
        default=None,
    )


# --- the sentences ---


def begin(records: "Sequence[Record]") -> "Markdown":
    """With which λ to begin: with none; where runs fail, with the largest that often helped."""
    from IPython.display import Markdown

    hard = _hard(records)
    many = len({_bare(r.spec) for r in records if r.spec.clip == "agc"})
    first = (
        f"**Begin without clipping.** With {many - len(hard)} of {many} combinations of network, "
        f"batch and rate most runs trained without it.{_unneeded(records)}"
    )
    if not hard:
        return Markdown(first)
    tried: dict[float, list[bool]] = {}
    for spec in hard:
        for by_lambda in _forms(r for r in records if _bare(r.spec) == spec).values():
            for x, found in by_lambda.items():
                tried.setdefault(x, []).append(len(found.survivors) > len(found.failed))
    order = sorted(tried, reverse=True)
    counts = ", ".join(f"λ = {x:g} at {sum(tried[x])} of {len(tried[x])}" for x in order)
    often = [f"{x:g}" for x in order if 2 * sum(tried[x]) > len(tried[x])]
    said = f"take λ = {', then '.join(often)}" if often else "no λ that we tried helps often"
    return Markdown(
        f"{first}\n\n**If runs fail, {said}.** Where most failed without clipping, most trained "
        f"with {counts} (SkipInit clipped and left alone count apart). A larger λ clips less."
    )


def _hard(records: "Iterable[Record]") -> "list[Spec]":
    """What runs with AGC share with runs without clipping, where most of the latter fail."""
    runs = list(records)
    found = []
    for spec in {_bare(r.spec) for r in runs if r.spec.clip == "agc"}:
        free = Ends.of(r for r in runs if r.spec.clip == "none" and _bare(r.spec) == spec)
        if len(free.failed) > len(free.survivors):
            found.append(spec)
    return found


def _unneeded(records: "Sequence[Record]") -> str:
    """What the best λ did at the smallest batch of the paper's own form, if all train without."""
    runs = [r for r in records if not _small(r.spec)]
    batch, rate = min(((r.spec.batch_size, r.spec.lr) for r in runs), default=(0, 0.0))
    here = [r for r in runs if (r.spec.batch_size, r.spec.lr) == (batch, rate)]
    free = [r for r in here if r.spec.clip == "none"]
    clipped = champion([r for r in here if r.spec.clip == "agc" and _starred(r.spec)])
    if not (free and clipped) or any(map(failed, free)):
        return ""
    told = _against(compared(free, clipped), "no clipping")
    return (
        f" On whole images at batch {batch} and the paper's rate all did, and "
        f"λ = {clipped[0].spec.clipping:g} {told}."
    )


def advice(records: "Sequence[Record]", augmentation: str = "", adamw: str = "") -> "Markdown":
    """What the records say to whoever has to choose, one line for each question.

    Args:
        records: from :func:`evidence`.
        augmentation: what is known of strong augmentation, in a sentence.
        adamw: what is known of AdamW, likewise.
    """
    from IPython.display import Markdown

    lines = {
        "Whole images": whole_images(records),
        "Small batch": f"{small_batch(records)} {tiny_batches(records)}",
        "How much will be clipped": clipped_shares(records),
        "The norm of the whole gradient": norm(records),
        "Strong augmentation": augmentation,
        "AdamW": adamw,
    }
    return Markdown("\n".join(f"- **{name}.** {text}" for name, text in lines.items() if text))


def whole_images(records: "Sequence[Record]") -> str:
    """How the best λ did against no clipping at each batch size of the paper's own form."""
    runs = [r for r in records if not _small(r.spec)]
    parts = []
    for batch, rate in sorted({(r.spec.batch_size, r.spec.lr) for r in runs}):
        here = [r for r in runs if (r.spec.batch_size, r.spec.lr) == (batch, rate)]
        free = [r for r in here if r.spec.clip == "none"]
        clipped = champion([r for r in here if r.spec.clip == "agc" and _starred(r.spec)])
        if free and clipped:
            told = _against(compared(free, clipped), "no clipping")
            best_ = f"λ = {clipped[0].spec.clipping:g}"
            parts.append(f"at batch {batch} and rate {rate:g}, {best_} {told}")
    return f"In the paper's form, SkipInit clipped too, {'; '.join(parts)}." if parts else ""


def small_batch(records: "Sequence[Record]") -> str:
    """How each λ ended against no clipping at the smallest batch at which two values were run.

    In our form, which leaves SkipInit alone.
    """
    tried: dict[tuple[int, float], set[float]] = {}
    for run in runs_of(records, _any(AGC)):
        tried.setdefault((run.spec.batch_size, run.spec.lr), set()).add(run.spec.clipping)
    several = [setting for setting, values in tried.items() if len(values) > 1]
    if not several:
        return "No small batch was run with more than one λ."
    batch, rate = min(several)
    setting = {"batch_size": batch, "lr": rate}
    free = runs_of(records, {**_any(NONE), **setting})
    clipped = runs_of(records, {**_any(AGC), **setting})
    parts = []
    for x in sorted(tried[batch, rate]):
        arm = [run for run in clipped if run.spec.clipping == x]
        parts.append(f"λ = {x:g} {_against(compared(free, arm), 'no clipping')}")
    return f"At batch {batch} and rate {rate:g}, {'; '.join(parts)}."


def tiny_batches(records: "Sequence[Record]", below: int = 64) -> str:
    """Whether smaller batches than any that was clipped needed clipping."""
    runs = [r for r in records if r.spec.clip == "none" and r.spec.batch_size < below]
    if not runs:
        return ""
    sizes = " and ".join(str(size) for size in sorted({r.spec.batch_size for r in runs}))
    lost = sum(map(failed, runs))
    many = f"{len(runs) - lost} of {len(runs)} runs"
    need = "none needed it" if not lost else "some might have needed it"
    return f"At batches of {sizes} nothing was run with AGC; without it {many} trained, so {need}."


def large_rates(records: "Sequence[Record]") -> str:
    """Where most runs fail without clipping: at how many of these settings some λ helps most."""
    hard = _hard(records)
    if not hard:
        return "Most runs survived without clipping with every network, batch and rate."
    helped = 0
    for spec in hard:
        agc = [r for r in records if r.spec.clip == "agc" and _bare(r.spec) == spec]
        chosen = Ends.of(champion(agc))
        helped += len(chosen.survivors) > len(chosen.failed)
    many = len(hard)
    return (
        f"Without clipping most runs failed with {many} combination{'s' * (many > 1)} of network, "
        f"batch and rate; with the best λ most trained with {helped} of them."
    )


def norm(records: "Sequence[Record]") -> str:
    """How the best threshold for the whole gradient did against the best λ, wherever both ran."""
    cases = sorted({_bare(r.spec) for r in records if r.spec.clip == "norm"}, key=_order)
    parts = []
    for case in cases:
        here = [r for r in records if _bare(r.spec) == case]
        norms = [r for r in here if r.spec.clip == "norm"]
        agc = [r for r in here if r.spec.clip == "agc"]
        threshold = best(norms)
        rival = champion(agc)
        if threshold is None or not rival:
            continue
        chosen = [r for r in norms if r.spec.clipping == threshold[0]]
        others = [r for r in norms if r.spec.clipping != threshold[0]]
        part = (
            f"at batch {case.batch_size} and rate {case.lr:g} "
            f"{'' if _small(case) else 'on whole images '}threshold {threshold[0]:g} "
            f"{_against(compared(rival, chosen), _best_form(rival[0].spec))}"
        )
        if others:
            part += (
                f" ({sum(map(failed, others))} of {len(others)} runs with other thresholds failed)"
            )
        parts.append(part)
    if not parts:
        return "We have not run the norm of the whole gradient beside AGC."
    return f"In our runs, each with the best setting that was tried, {'; '.join(parts)}."


def _best_form(spec: "Spec") -> str:
    """``the best λ, 0.04 with SkipInit clipped``."""
    clipped = f" with SkipInit {'clipped' if _starred(spec) else 'left alone'}" * spec.skip_init
    return f"the best λ, {spec.clipping:g}{clipped}"


def champion(runs: "Sequence[Record]") -> "list[Record]":
    """The runs of the best λ in the best form."""
    arms = [
        (found, [r for r in runs if r.spec.unclipped == form and r.spec.clipping == x])
        for form, by_lambda in _forms(runs).items()
        for x, found in by_lambda.items()
    ]
    key = lambda arm: (len(arm[0].survivors) / arm[0].n, arm[0].mean)  # noqa: E731
    return max(arms, key=key)[1] if arms else []


def _forms(runs: "Iterable[Record]") -> dict[tuple[str, ...], dict[float, Ends]]:
    """What is left unclipped → λ → how the runs with AGC ended."""
    clipped = [run for run in runs if run.spec.clip == "agc"]
    return {
        form: ends([r for r in clipped if r.spec.unclipped == form], "clipping")
        for form in sorted({run.spec.unclipped for run in clipped})
    }


def clipped_shares(records: "Sequence[Record]") -> str:
    """The share of units that each λ clips, over a whole run that trains: least and most."""
    parts = []
    trained = [r for r in records if r.spec.clip == "agc" and not failed(r)]
    for x in sorted({r.spec.clipping for r in trained}):
        by_setting: dict[Spec, list[float]] = {}
        for run in trained:
            rows = [row["clipped"] for row in run.curve if "clipped" in row]
            if run.spec.clipping == x and rows:
                by_setting.setdefault(run.spec.replace(seed=0), []).append(100 * mean(rows))
        shares = sorted(map(mean, by_setting.values()))
        if shares:
            ends_ = dict.fromkeys(f"{share:.0f}" for share in (shares[0], shares[-1]))
            parts.append(f"λ = {x:g} clips {' to '.join(ends_)} %")
    if not parts:
        return "No run recorded what it clipped."
    return f"Of all units, in runs that train: {', '.join(parts)}, by batch and rate."


def compared(low: "Iterable[Record]", high: "Iterable[Record]") -> Finding:
    """Is the second arm better? Pair by pair; failures are counted where there are any."""
    return compare("", [*map(outcome, low)], [*map(outcome, high)], Bounds(0, math.inf))


def _against(finding: Finding, what: str) -> str:
    """``cost 8.4 points against ...``, or the like."""
    if finding.failed:  # of the second arm, then of the first
        trained = [f"{n - lost} of {n}" for n, lost in zip(finding.n, finding.failed, strict=True)]
        return f"let {trained[0]} runs train, {what} {trained[1]}"
    mean_, low, high = (100 * x for x in (finding.effect, finding.low, finding.high))
    if math.isnan(low):
        return f"came out {mean_:+.1f} points from {what}, one seed each"
    if low > 0:
        return f"gained {mean_:.1f} points [{low:.1f}, {high:.1f}] over {what}"
    if high < 0:
        return f"cost {-mean_:.1f} points [{-high:.1f}, {-low:.1f}] against {what}"
    zero = round(mean_, 1) + 0.0  # never "-0.0 points"
    return f"made no clear difference to {what}, {zero:+.1f} points [{low:+.1f}, {high:+.1f}]"


def _any(arm: dict[str, Any]) -> dict[str, Any]:
    """An arm with any λ or threshold."""
    return {key: value for key, value in arm.items() if key != "clipping"}

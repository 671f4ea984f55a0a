"""What the chapter on adaptive gradient clipping compares, and what it computes live.

The arms of its figures, a small training whose clipping is watched, and how far a clipped parameter
that starts at zero can get.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbrepro import agc, data, models
from nbrepro.book.figures import runs_of
from nbrepro.book.found import against
from nbrepro.book.markup import table
from nbrepro.claims import statistics
from nbrepro.claims.outcomes import failed
from nbrepro.experiments.adamw import RATES as ADAMW_RATES
from nbrepro.experiments.adaptive_gradient_clipping import FREE, LAMBDAS, PARTS, THRESHOLDS
from nbrepro.experiments.batch_sizes import LAMBDAS as BEST
from nbrepro.experiments.batch_sizes import THRESHOLD
from nbrepro.experiments.nf_resnets import recipe
from nbrepro.optim import parameter_groups
from nbrepro.probes import ClipShare, clip_fraction
from nbrepro.spec import Spec
from nbrepro.train import schedule

if TYPE_CHECKING:
    from IPython.display import HTML, Markdown

    from nbrepro.records.ledger import Record

#: Reader's name → the settings of the runs it stands for.
Arms = dict[str, dict[str, Any]]

OURS = recipe("quick")
#: A schedule as long as the paper's; only its length is used here.
PAPER = Spec(model="nf_resnet50", epochs=90, warmup_epochs=5, schedule="cosine", batch_size=4096)
#: The schedule on whole images.
WHOLE = OURS.replace(epochs=8, warmup_from_zero=True)
#: Images per epoch: a fifth of CIFAR-10, CIFAR-10, and ImageNet.
SMALL_IMAGES, WHOLE_IMAGES, PAPER_IMAGES = 10_000, 50_000, 1_281_167

# --- the arms of the figures ---

BATCHNORM = {"model": f"bn_{OURS.model}", "optimizer": "nesterov"}
NONE = {"model": OURS.model, "optimizer": "nesterov", "clip": "none"}
NORM = {"model": OURS.model, "clip": "norm"}
LARS = {"model": OURS.model, "optimizer": "lars"}
#: Ours: the classifier's weight and the SkipInit scalars are left alone.
AGC = {"model": OURS.model, "clip": "agc", "clipping": 0.01, "unclipped": FREE}
#: The paper's: only the classifier's weight is.
PAPERS = AGC | {"unclipped": ("fc.weight",)}
#: The large rate, and the batch size of all figures but one.
LARGE = {"lr": 1.6, "batch_size": 256}

TWINS: Arms = {"BatchNorm": BATCHNORM, "no clipping": NONE, "AGC, λ = 0.01": AGC}


def at(arms: Mapping[str, Mapping[str, Any]], **settings: Any) -> Arms:
    """The arms with these settings besides their own."""
    return {name: {**arm, **settings} for name, arm in arms.items()}


def whole() -> Arms:
    """The paper's form on whole images: each batch size with its rate, and both λ."""
    base = {"model": "cifar_nf_resnet8", "optimizer": "nesterov"}
    agc = base | {"clip": "agc", "unclipped": ("fc.weight",)}
    ways: Arms = {
        "BatchNorm": base | {"model": "bn_cifar_nf_resnet8"},
        "no clipping": base | {"clip": "none"},
        **{f"AGC, λ = {x:g}": agc | {"clipping": x} for x in sorted(set(BEST.values()))},
    }
    return {
        f"batch {size}: {way}": {**settings, "batch_size": size}
        for size in sorted(BEST)
        for way, settings in ways.items()
    }


def largest() -> Arms:
    """At the largest batch: AGC in the paper's form, beside what else could be done."""
    size, arms = max(BEST), whole()
    agc = arms[f"batch {size}: AGC, λ = {BEST[size]:g}"]
    return {
        "BatchNorm": arms[f"batch {size}: BatchNorm"],
        f"norm of the whole gradient, {THRESHOLD:g}": agc | {"clip": "norm", "clipping": THRESHOLD},
        "AGC, SkipInit left alone": agc | {"unclipped": FREE},
        "AGC in the paper's form": agc,
    }


def whole_table(records: Sequence["Record"]) -> "HTML":
    """What AGC with its best λ brings at each batch size, in points; no claim compares these."""
    arms, rows = whole(), []
    for size, clipping in sorted(BEST.items()):
        agc = arms[f"batch {size}: AGC, λ = {clipping:g}"]
        rivals = (arms[f"batch {size}: {way}"] for way in ("no clipping", "BatchNorm"))
        rows.append((size, f"{clipping:g}", *(against(records, agc, rival) for rival in rivals)))
    head = ("batch size", "best λ", "AGC against no clipping", "AGC against BatchNorm")
    return table(head, rows)


def largest_table(records: Sequence["Record"]) -> "HTML":
    """At the largest batch size: each way against BatchNorm and against AGC in the paper's form."""
    arms = largest()
    bn, agc = arms["BatchNorm"], arms["AGC in the paper's form"]
    rows = [
        (name, against(records, arm, bn), "" if arm == agc else against(records, arm, agc))
        for name, arm in arms.items()
        if arm != bn
    ]
    return table(("way", "against BatchNorm", "against AGC in the paper's form"), rows)


def lambdas() -> Arms:
    """What is drawn against λ: ours at two rates, and the paper's form at the large one."""
    ours, papers = (
        {key: value for key, value in arm.items() if key != "clipping"} for arm in (AGC, PAPERS)
    )
    return {
        "rate 0.4, SkipInit left alone": {**ours, **LARGE, "lr": 0.4},
        "rate 1.6, SkipInit left alone": {**ours, **LARGE},
        "rate 1.6, SkipInit clipped (the paper's form)": {**papers, **LARGE},
    }


def rivals() -> Arms:
    """AGC and what else could be done about a large rate."""
    return {
        "AGC, unit by unit": {**AGC, **LARGE},
        "AGC, layer by layer": {**AGC, **LARGE, "clip": "agc-layer"},
        "no clipping": {**NONE, **LARGE},
        "BatchNorm": {**BATCHNORM, **LARGE},
        **{
            f"norm of the whole gradient, {threshold:g}": {**NORM, **LARGE, "clipping": threshold}
            for threshold in THRESHOLDS
        },
        "LARS at rate 1.6": {**LARS, **LARGE, "scalar_lr": 0.0},
        "LARS at rate 6.4, scalars at 0.4": {**LARS, **LARGE, "lr": 6.4, "scalar_lr": 0.4},
    }


def any_rate() -> Arms:
    """The arms of which several rates were tried, at one batch size."""
    thresholds = {f"norm {threshold:g}": NORM | {"clipping": threshold} for threshold in THRESHOLDS}
    lars = {"LARS": LARS | {"scalar_lr": 0.0}, "LARS, scalars at 0.4": LARS | {"scalar_lr": 0.4}}
    return at({**TWINS, **thresholds, **lars}, batch_size=LARGE["batch_size"])


def parts() -> Arms:
    """Our form with one part of the network more or less clipped, and the paper's."""
    ours, papers = {**AGC, **LARGE}, {**PAPERS, **LARGE}
    named = zip(("stem", "stage 1", "stage 2", "stage 3"), PARTS, strict=True)
    return {
        "all but classifier and SkipInit": ours,
        "classifier clipped too": {**ours, "unclipped": ("*skip_gain",)},
        **{f"{name} not clipped": {**ours, "unclipped": (*FREE, part)} for name, part in named},
        "SkipInit clipped too (the paper's form)": papers,
        "the paper's form, λ = 0.04": {**papers, "clipping": 0.04},
        "the paper's form, λ = 0.04, stem not clipped": {
            **papers,
            "clipping": 0.04,
            "unclipped": ("fc.weight", PARTS[0]),
        },
    }


def fewer_failures() -> Arms:
    """AGC by unit, by layer and with more clipped, and LARS, in batches of 1024 images."""
    large = {"batch_size": 1024, "lr": LARGE["lr"]}
    return {
        "AGC, unit by unit": {**AGC, **large},
        "AGC, layer by layer": {**AGC, **large, "clip": "agc-layer"},
        "AGC, classifier clipped too": {**AGC, **large, "unclipped": ("*skip_gain",)},
        "AGC, SkipInit clipped too": {**PAPERS, **large},
        "LARS at rate 6.4, scalars at 0.4": {**LARS, **large, "lr": 6.4, "scalar_lr": 0.4},
        "BatchNorm": {**BATCHNORM, **large},
    }


def augmented() -> Arms:
    """Without clipping and with AGC, on crops alone and with RandAugment besides."""
    small: dict[str, Any] = {
        "model": "cifar_nf_resnet8",
        "optimizer": "nesterov",
        "skip_init": False,
    }
    ways: Arms = {
        "no clipping": {"clip": "none"},
        "AGC, λ = 0.01": {"clip": "agc", "clipping": 0.01},
    }
    return {
        f"{images}, {way}": {**small, **settings, "randaugment": magnitude}
        for images, magnitude in (("crops", 0.0), ("RandAugment", 5.0))
        for way, settings in ways.items()
    }


def adamw() -> Arms:
    """AdamW without clipping and with AGC in the paper's form, each at several rates."""
    base = {"model": OURS.model, "optimizer": "adamw"}
    lambdas = {
        f"AGC, λ = {x:g}": base | {"clip": "agc", "clipping": x} for x in (LAMBDAS[-1], LAMBDAS[0])
    }
    return {"no clipping": base | {"clip": "none"}, **lambdas}


def adamw_text(records: Sequence["Record"]) -> "Markdown":
    """What AGC is worth to AdamW at each rate, in points."""
    from IPython.display import Markdown

    none, *clipped = adamw().items()
    lines = [
        f"- rate {rate:g}: "
        + "; ".join(
            f"{name} **{against(records, {**arm, 'lr': rate}, {**none[1], 'lr': rate})}**"
            for name, arm in clipped
        )
        for rate in ADAMW_RATES
    ]
    return Markdown("Against no clipping, seed by seed:\n\n" + "\n".join(lines))


def adamw_takeaway(records: Sequence["Record"]) -> str:
    """How many runs with AdamW fail without clipping and with AGC, and what AGC changes."""
    none, *clipped = adamw().values()
    bare = runs_of(records, none)
    held = [run for arm in clipped for run in runs_of(records, arm)]
    at = {(run.spec.lr, run.spec.seed): run.metrics["test_accuracy"] for run in bare}
    by_seed: dict[int, list[float]] = {}
    for run in held:
        before = at.get((run.spec.lr, run.spec.seed))
        if before is not None:
            change = 100 * (run.metrics["test_accuracy"] - before)
            by_seed.setdefault(run.spec.seed, []).append(change)
    if not by_seed:
        return ""
    lost = [sum(map(failed, runs)) for runs in (bare, held)]
    if any(lost):  # no mean over runs that fail and runs that do not
        return (
            f"With AdamW {lost[0]} of {len(bare)} runs fail without clipping and {lost[1]} of "
            f"{len(held)} with AGC."
        )
    # The rates and λ of a seed share its order and crops: one number per seed.
    overall = statistics.mean([fmean(changes) for changes in by_seed.values()])
    low, high = overall.interval
    said = f"{statistics.digits(overall.mean, '+.1f')} points"
    if not math.isnan(low):
        said += f" [{statistics.digits(low, '+.1f')}, {statistics.digits(high, '+.1f')}]"
    return (
        f"With AdamW no run fails, clipped or not; AGC changes the accuracy by {said} on average "
        f"over the rates and λ, n = {len(by_seed)}."
    )


def units_table() -> "HTML":
    """Parameters of an NF-ResNet-8, and how many units each rule sees in them."""
    model = models.create("cifar_nf_resnet8")
    names = ("stem.conv.weight", "stem.conv.gain", "blocks.0.skip_gain", "fc.weight")
    parameters: dict[str, nn.Parameter] = {name: model.get_parameter(name) for name in names}
    parameters["a gain in timm's shape"] = nn.Parameter(torch.ones(16, 1, 1, 1))
    rows = []
    for name, parameter in parameters.items():
        parameter.grad = torch.ones_like(parameter)
        shape = " × ".join(map(str, parameter.shape)) or "a number"
        factors = (agc.clip_grads_([(name, parameter)], units=rule).factors for rule in agc.UNITS)
        rows.append((name, shape, *(len(factor[name]) for factor in factors)))
    return table(("parameter", "shape", *(f"units, {rule}" for rule in agc.UNITS)), rows)


def in_proportion(records: Sequence["Record"]) -> list["Record"]:
    """The runs whose rate is in proportion to their batch, 0.4 for 256 images."""
    return [r for r in records if r.spec.lr == OURS.lr * r.spec.batch_size / OURS.batch_size]


def completed(records: Sequence["Record"], arm: Mapping[str, Any]) -> list["Record"]:
    """The runs of an arm that came to the end of their training."""
    return [run for run in runs_of(records, arm) if run.status == "completed"]


def clipped_in(records: Sequence["Record"], epoch: int) -> float:
    """The share of units clipped in an epoch, mean over the runs that came that far, in percent.

    Args:
        records: of runs with AGC, whatever their number of epochs.
        epoch: from 1, or -1 for the last of the schedule.

    Raises:
        ValueError: if no run came that far.
    """
    shares = [
        row["clipped"]
        for run in records
        for row in run.curve
        if row["epoch"] == (epoch if epoch > 0 else run.spec.epochs) and "clipped" in row
    ]
    if not shares:
        raise ValueError(f"none of {len(records)} runs recorded what it clipped in epoch {epoch}")
    return 100 * fmean(shares)


# --- a training that is watched ---


class Watched(NamedTuple):
    """What a watched training saw after each step.

    Attributes:
        shares: one row per step and parameter: ``step``, ``name``, ``part``, ``share``.
        scalars: SkipInit, one row per step and one column per block.
    """

    shares: pd.DataFrame
    scalars: pd.DataFrame


def step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    unclipped: Iterable[str],
) -> list[ClipShare]:
    """One step with AGC, and the share of units that it clipped."""
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    parameters = model.named_parameters()
    clipped = agc.clip_grads_(parameters, 0.01, exclude=unclipped)
    optimizer.step()
    return clip_fraction(model, clipped)


def watch(rates: Sequence[float], unclipped: Iterable[str] = FREE) -> Watched:
    """Train an NF-ResNet-8 on handwritten digits, one step per rate, with λ = 0.01."""
    torch.manual_seed(0)
    digits = data.load("digits")
    batches = data.Batches(digits.train_images, digits.train_labels, 0, torch.device("cpu"))
    model = models.create("cifar_nf_resnet8")
    groups = parameter_groups(model, weight_decay=OURS.weight_decay)
    optimizer = torch.optim.SGD(groups, lr=rates[0], momentum=OURS.momentum, nesterov=True)
    rows, scalars = [], []
    for number, rate in enumerate(rates, 1):
        for group in optimizer.param_groups:
            group["lr"] = rate
        images, labels = batches(torch.randint(len(batches), (128,)))
        shares = step(model, optimizer, images, labels, unclipped)
        rows += [{"step": number, **share} for share in shares]
        gains = {n: p.item() for n, p in model.named_parameters() if n.endswith("skip_gain")}
        scalars.append(list(gains.values()))
    return Watched(pd.DataFrame(rows), pd.DataFrame(scalars, index=range(1, len(rates) + 1)))


def ending(scalars: pd.DataFrame) -> str:
    """How SkipInit ended, in words: its values, or the step at which one of them blew up."""
    wild = ~(scalars.abs() < 1e3).all(axis=1)
    if wild.any():
        return f"blew up at step {wild.idxmax()} of {len(scalars)}"
    return "ended at " + ", ".join(f"{value:.3f}" for value in scalars.iloc[-1].abs())


# --- how far a clipped parameter can get that starts at zero ---


MOMENTUM, EPS = 0.9, 1e-3


def reach(rates: Iterable[float], clipping: float) -> Iterator[float]:
    """After each step, the largest |w| that clipping allows from 0."""
    w = velocity = 0.0
    for rate in rates:
        gradient = clipping * max(w, EPS)  # no clipped gradient is larger
        velocity = MOMENTUM * velocity + gradient
        w += rate * (gradient + MOMENTUM * velocity)
        yield w


def steps_to(target: float, rate: float, clipping: float) -> int:
    """Steps at a constant rate until a clipped parameter can be as large as ``target``."""
    return next(n for n, w in enumerate(reach(repeat(rate), clipping), 1) if w >= target)


def steps_table() -> "HTML":
    """How many steps a clipped parameter needs at least, at constant rates."""
    targets = (0.001, 0.1, 1.0)
    cases = [(0.1, 0.01), (0.4, 0.01), (1.6, 0.01), (1.6, 0.04), (1.6, 0.16)]
    rows = [
        (f"{rate:g}", f"{clipping:g}", f"{rate * clipping:g}",
         *(steps_to(target, rate, clipping) for target in targets))
        for rate, clipping in cases
    ]  # fmt: skip
    head = ("rate η", "λ", "ηλ", *(f"steps to {target:g}" for target in targets))
    return table(head, rows)


def rates_of(spec: Spec, rate: float, images: int = SMALL_IMAGES) -> list[float]:
    """The rate of every step of a schedule whose largest rate is ``rate``."""
    epoch = -(-images // spec.batch_size)  # steps, the last one short
    steps = range(spec.epochs * epoch)
    return [schedule.learning_rate(spec.replace(lr=rate), number, epoch) for number in steps]


def bounds() -> dict[str, list[float]]:
    """Schedule → the largest |w| that clipping allows after each step; the paper's first."""
    papers = rates_of(PAPER, 1.6, PAPER_IMAGES)
    found = {"the paper: batch 4096, rate 1.6, λ = 0.01": list(reach(papers, 0.01))}
    small, whole = ("small images", OURS, SMALL_IMAGES), ("whole images", WHOLE, WHOLE_IMAGES)
    cases = [
        (whole, 4096, 1.6, 0.04),
        (whole, 4096, 1.6, 0.01),
        (small, 256, 1.6, 0.01),
        (small, 256, 0.4, 0.01),
        (small, 64, 0.1, 0.01),
    ]
    for (kind, spec, images), batch, rate, clipping in cases:
        rates = rates_of(spec.replace(batch_size=batch), rate, images)
        found[f"{kind}: batch {batch}, rate {rate:g}, λ = {clipping:g}"] = [*reach(rates, clipping)]
    return found

"""What chapter 7 asks: arms of fine-tuning, and what pre-training had reached before it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbrepro.book.figures import by_number, runs_of
from nbrepro.book.figures.runs import Ends
from nbrepro.book.found import against, compared
from nbrepro.book.markup import table
from nbrepro.claims.outcomes import failed, value
from nbrepro.claims.statistics import digits
from nbrepro.data import card
from nbrepro.experiments import few_images
from nbrepro.experiments.fine_tuning import GENTLE, LARGE, PRETRAINED, RATES, Rates, twins, ways

if TYPE_CHECKING:
    from IPython.display import HTML, Markdown

    from nbrepro.book.figures import Chart
    from nbrepro.claims.findings import Finding
    from nbrepro.records.ledger import Record

Settings = dict[str, Any]
#: Name of a pair of data → its runs, and settings by name as :func:`elsewhere` has them.
Pairs = Mapping[str, tuple[Sequence["Record"], Mapping[str, Settings]]]

#: Reader's name of a twin → that of its affine parameters.
TWINS = {"without BatchNorm": "gains and biases", "with BatchNorm": "γ and β"}
#: The settings in which arms of fine-tuning differ, but for the data.
_VARIED = ("model", "pretrained", "train", "lr", "clip")


def trained(profile: str = "quick") -> dict[str, Settings]:
    """What is trained, in both twins: name → settings of the runs."""
    return {_name(*arm): settings for arm, settings in _arms(RATES, profile).items()}


def _arms(rates: Rates, profile: str) -> dict[tuple[str, str], Settings]:
    """Twin and what is trained of it (:data:`nbrepro.experiments.fine_tuning.Rates`) → settings."""
    arms = [(twin, part) for part in rates for twin in TWINS]
    specs = ways(twins(profile), rates)
    return {
        arm: {name: getattr(spec, name) for name in _VARIED}
        for arm, spec in zip(arms, specs, strict=True)
    }


def _name(twin: str, part: str) -> str:
    numbers = TWINS[twin]
    names = {"all": "everything", "output": "output layer", "affine": numbers}
    return f"{twin}: {names.get(part, f'{numbers}, output layer')}"


def starts(profile: str = "quick") -> dict[str, Settings]:
    """Both twins from scratch and pre-trained, everything of them trained alike."""
    arms = _arms(RATES, profile)
    return {
        f"{twin}: {name}": arms[twin, "all"] | changed
        for twin in TWINS
        for name, changed in (("from scratch", {"pretrained": ""}), ("pre-trained", {}))
    }


def elsewhere(data: Mapping[str, tuple[str, str, int]], rates: Rates) -> dict[str, Settings]:
    """What is trained on another pair of data, in both twins: all arms of its experiment.

    Args:
        data: of :mod:`nbrepro.experiments.fine_tuning_back` or ``fine_tuning_split``.
        rates: of the same.
    """
    start, *_ = data["quick"]
    found: dict[str, Settings] = {}
    for (twin, part), arm in _arms(rates, "quick").items():
        settings = arm | {"pretrained": start}
        found[_name(twin, part)] = settings
        if part == "all":
            found[f"{_name(twin, part)}, from scratch"] = settings | {"pretrained": ""}
        if settings["clip"] == "agc":
            for rate in (GENTLE, LARGE):
                plain = settings | {"clip": "none", "lr": rate}
                found[f"{twin}: everything, no AGC, rate {rate:g}"] = plain
    return found


def clipped(profile: str = "quick") -> dict[str, Settings]:
    """The normalizer-free twin at a gentle and at a large rate, without AGC and with it."""
    start = {"model": twins(profile)[0].model, "pretrained": PRETRAINED[profile]}
    return {
        f"rate {rate:g}, {name}": start | {"lr": rate, "clip": clip}
        for rate in (GENTLE, LARGE)
        for name, clip in (("without AGC", "none"), ("with AGC", "agc"))
    }


def whole(records: Sequence["Record"]) -> list["Record"]:
    """The runs that trained everything."""
    return [record for record in records if record.spec.train == "all"]


#: Training images per class in ``fine_tuning``, more than in any run of ``few_images``.
MANY = 1_000
PRETRAINED_TOO, SCRATCH, OUTPUT = "all, pre-trained", "all, from scratch", "output layer"
#: What the lines of the figure are → what is trained.
WAYS = {PRETRAINED_TOO: "all", SCRATCH: "all", OUTPUT: "output", "output layer and affine": "both"}


def by_images(twin: str, profile: str = "quick") -> dict[str, dict[int, Settings]]:
    """What is trained in a twin → training images per class → settings of the runs."""
    small = "" if profile == "full" else "-16px"
    whole = f"cifar10{small}"
    data = {n: (f"{whole}-few{n}", few_images.RATES) for n in few_images.IMAGES}
    found: dict[str, dict[int, Settings]] = {way: {} for way in WAYS}
    for n, (name, rates) in (data | {MANY: (whole, RATES)}).items():
        arms = _arms(rates, profile)
        for way, part in WAYS.items():
            scratch = {"pretrained": ""} if way == SCRATCH else {}
            found[way][n] = arms[twin, part] | scratch | {"dataset": name}
    return found


def images_figure(records: Sequence["Record"], twin: str) -> "Chart":
    """Test accuracy of a twin by how many images it was fine-tuned on, a line per way."""
    runs = {
        way: {n: runs_of(records, settings) for n, settings in arms.items()}
        for way, arms in by_images(twin).items()
    }
    return by_number(runs, "training images per class")


def images_table(records: Sequence["Record"]) -> "HTML":
    """In points, by the number of images: what pre-training brings, and what the rest brings."""
    rows = []
    for twin in TWINS:
        arms = by_images(twin)
        for n in (*few_images.IMAGES, MANY):
            whole, scratch, output = (arms[way][n] for way in (PRETRAINED_TOO, SCRATCH, OUTPUT))
            gains = (against(records, whole, other) for other in (scratch, output))
            rows.append((twin, f"{n:,}", *gains))
    head = ("network", "images per class", "pre-trained over from scratch", "all over output layer")
    return table(head, rows)


def images_takeaway(records: Sequence["Record"], twin: str) -> str:
    """What a twin's figure by number of images shows, in points; empty where a number is missing.

    By how much pre-training leads, and everything the output layer alone, at each number of images.
    """
    leads = [_leads(records, twin, other) for other in (SCRATCH, OUTPUT)]
    if any(math.isnan(lead) for by in leads for lead in by.values()):
        return ""
    numbers = _listed(f"{n:,}" for n in leads[0])
    scratch, output = (_listed(map(_signed, by.values())) for by in leads)
    return (
        f"At {numbers} images per class pre-training leads training from scratch by {scratch} "
        f"points, and training everything leads the output layer alone by {output}."
    )


def images_text(records: Sequence["Record"]) -> "Markdown":
    """Do fewer images make pre-training worth more, and where does the output layer catch up?"""
    from IPython.display import Markdown

    scratch = {twin: _leads(records, twin, SCRATCH) for twin in TWINS}
    output = {twin: _findings(records, twin, OUTPUT) for twin in TWINS}
    every = [lead for by in scratch.values() for lead in by.values()]
    every += [_points(found) for by in output.values() for found in by.values()]
    if any(map(math.isnan, every)):
        return Markdown("No records yet, or runs that failed.")
    most = {twin: max(by.items(), key=lambda item: item[1]) for twin, by in scratch.items()}
    grows = [t for t, by in scratch.items() if sorted(by.values(), reverse=True) == [*by.values()]]
    return Markdown(
        "Pre-training leads by most at "
        + " and at ".join(
            f"{n:,} images per class {t} ({_signed(x)})" for t, (n, x) in most.items()
        )
        + f". As images get fewer it grows steadily {' and '.join(grows) or 'in neither twin'}. "
        f"These are means; the table has their intervals. By those, {_ahead(output)}."
    )


def _leads(records: Sequence["Record"], twin: str, other: str) -> dict[int, float]:
    """Images per class → points by which the pre-trained network leads another way of a twin."""
    return {n: _points(found) for n, found in _findings(records, twin, other).items()}


def _findings(records: Sequence["Record"], twin: str, other: str) -> "dict[int, Finding | None]":
    """Images per class → the pre-trained network against another way of a twin."""
    arms = by_images(twin)
    ours = arms[PRETRAINED_TOO]
    return {n: compared(records, ours[n], arms[other][n]) for n in (*few_images.IMAGES, MANY)}


def _lead(records: Sequence["Record"], first: Settings, second: Settings) -> float:
    """Points by which an arm leads another; not a number where runs are missing or failed."""
    return _points(compared(records, first, second))


def _points(finding: "Finding | None") -> float:
    return math.nan if finding is None else 100 * finding.effect


def _ahead(twins: "Mapping[str, Mapping[int, Finding | None]]") -> str:
    """At how many images whole intervals say who is ahead; twins that agree are told together."""
    found: dict[str, dict[str, list[str]]] = {}
    for twin, by in twins.items():
        for n, finding in by.items():
            if finding is not None:
                found.setdefault(_first(finding), {}).setdefault(twin, []).append(f"{n:,}")
    told = []
    for says, numbers in found.items():
        places: dict[str, list[str]] = {}
        for twin, images in numbers.items():
            places.setdefault(_listed(images), []).append(twin)
        for at, agree in places.items():
            where = "in both twins" if len(agree) == len(TWINS) else _listed(agree)
            told.append(f"{says} at {at} images per class {where}")
    return "; ".join(told)


def _first(finding: "Finding") -> str:
    if finding.low > 0:
        return "everything is ahead of the output layer alone"
    if finding.high < 0:
        return "the output layer alone is ahead of everything"
    return "whether everything or the output layer alone is ahead is open"


def _signed(points: float) -> str:
    return digits(points, "+.1f")


def _listed(parts: Iterable[str]) -> str:
    """``a, b and c``."""
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def pairs_table(pairs: Pairs) -> "HTML":
    """In points, by pair of data: what pre-training brings, and what more than the output layer."""
    rows = []
    for pair, (records, arms) in pairs.items():
        for twin in TWINS:
            whole = arms[f"{twin}: everything"]
            others = (whole | {"pretrained": ""}, arms[f"{twin}: output layer"])
            rows.append((pair, twin, *(against(records, whole, other) for other in others)))
    head = ("data", "network", "pre-trained over from scratch", "all over output layer")
    return table(head, rows)


def pair_takeaway(records: Sequence["Record"], arms: Mapping[str, Settings]) -> str:
    """What training everything adds to the output layer alone, in both twins of a pair of data."""
    leads = {twin: _over_output(records, arms, twin) for twin in TWINS}
    if any(map(math.isnan, leads.values())):
        return ""
    told = " and ".join(f"{digits(lead)} points {twin}" for twin, lead in leads.items())
    return f"Training everything adds {told} to the output layer alone."


def pairs_text(pairs: Pairs) -> "Markdown":
    """On which pair of data the output layer alone comes closest to training everything."""
    from IPython.display import Markdown

    closest = []
    for twin in TWINS:
        leads = {name: _over_output(*pair, twin) for name, pair in pairs.items()}
        if any(map(math.isnan, leads.values())):
            return Markdown("No records yet, or runs that failed.")
        name = min(leads, key=lambda name: leads[name])
        closest.append(f"on *{name}* {twin}, where everything leads by {_signed(leads[name])}")
    return Markdown(
        "The output layer alone comes closest to training everything "
        + " points, and ".join(closest)
        + " points. These are means; the table has their intervals."
    )


def _over_output(records: Sequence["Record"], arms: Mapping[str, Settings], twin: str) -> float:
    return _lead(records, arms[f"{twin}: everything"], arms[f"{twin}: output layer"])


def without_agc(pairs: Pairs) -> "Markdown":
    """How many runs on other pairs of data survive at the large rate without AGC."""
    from IPython.display import Markdown

    told = []
    for name, (records, arms) in pairs.items():
        runs = runs_of(records, arms[f"without BatchNorm: everything, no AGC, rate {LARGE:g}"])
        told.append(f"{len(runs) - sum(map(failed, runs))} of {len(runs)} ({name})")
    return Markdown(
        f"At the same rate of {LARGE:g} without AGC, on other data, {_listed(told)} survive. No "
        "claim was made about these."
    )


def begun(records: Sequence["Record"]) -> float:
    """Mean test accuracy of pre-trained networks before the first step, as a fraction."""
    found = [value(r, "untrained_accuracy") for r in records if r.spec.pretrained]
    return sum(found) / len(found)


def parents(evidence: Sequence["Record"], recorded: Sequence["Record"]) -> "HTML":
    """What the pre-trainings had reached on their own data, by twin.

    Args:
        evidence: runs that started from them.
        recorded: all records, theirs among them.
    """
    hashes = {r.spec.parent.hash for r in evidence if r.spec.parent is not None}
    runs = [record for record in recorded if record.spec.hash in hashes]
    rows = []
    for twin, spec in zip(TWINS, twins("quick"), strict=True):
        ends = Ends.of(runs_of(runs, {"model": spec.model}))
        if ends.n:
            rows.append((twin, ends.n, f"{ends} %"))
    data = card(runs[0].spec.dataset) if runs else None
    note = ""
    if data is not None and data.classes and data.train_images:
        note = (
            f"{data.name}: {data.classes} classes, {data.train_images:,} training images of "
            f"{data.side} × {data.side} pixels, {runs[0].spec.epochs} epochs; mean and 95 % "
            f"interval over seeds. Guessing gets {100 / data.classes:g} %."
        )
    return table(("pre-trained network", "seeds", "test accuracy"), rows, note)

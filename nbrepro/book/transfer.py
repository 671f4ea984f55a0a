"""What chapter 7 asks: arms of fine-tuning, and what pre-training had reached before it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbrepro.book.figures import by_number, runs_of
from nbrepro.book.figures.runs import Ends
from nbrepro.book.found import against
from nbrepro.book.markup import table
from nbrepro.claims.outcomes import value
from nbrepro.data import card
from nbrepro.experiments import few_images
from nbrepro.experiments.fine_tuning import GENTLE, LARGE, PRETRAINED, RATES, Rates, twins, ways

if TYPE_CHECKING:
    from IPython.display import HTML

    from nbrepro.book.figures import Chart
    from nbrepro.records.ledger import Record

Settings = dict[str, Any]

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


def pairs_table(
    pairs: Mapping[str, tuple[Sequence["Record"], Mapping[str, Settings]]],
) -> "HTML":
    """In points, by pair of data: what pre-training brings, and what more than the output layer.

    Args:
        pairs: name of a pair → its runs, and settings by name as :func:`elsewhere` has them.
    """
    rows = []
    for pair, (records, arms) in pairs.items():
        for twin in TWINS:
            whole = arms[f"{twin}: everything"]
            others = (whole | {"pretrained": ""}, arms[f"{twin}: output layer"])
            rows.append((pair, twin, *(against(records, whole, other) for other in others)))
    head = ("data", "network", "pre-trained over from scratch", "all over output layer")
    return table(head, rows)


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

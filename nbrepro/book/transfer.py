"""What chapter 7 asks: arms of fine-tuning, and what pre-training had reached before it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nbrepro.book.figures import by_number, runs_of
from nbrepro.book.figures.runs import Ends
from nbrepro.book.found import against
from nbrepro.book.markup import table
from nbrepro.claims.verdicts import value
from nbrepro.data import card
from nbrepro.experiments import few_images
from nbrepro.experiments.fine_tuning import AFFINE, BOTH, GENTLE, HEAD, LARGE, PRETRAINED, USUAL

if TYPE_CHECKING:
    from IPython.display import HTML

    from nbrepro.book.figures import Chart
    from nbrepro.records.ledger import Record

Settings = dict[str, Any]

#: Reader's name of a twin → its network, its name for affine parameters, and how all of it trains.
TWINS: dict[str, tuple[str, str, Settings]] = {
    "without BatchNorm": ("cifar_nf_resnet8", "affine", {"clip": "agc", "lr": LARGE}),
    "with BatchNorm": ("bn_cifar_nf_resnet8", "batchnorm", {"clip": "none", "lr": USUAL}),
}


def trained(profile: str = "quick") -> dict[str, Settings]:
    """What is trained, in both twins: name → settings of the runs."""
    found: dict[str, Settings] = {}
    for train, lr in (("", 0.0), ("output", HEAD), ("affine", AFFINE), ("both", BOTH)):
        for twin, (model, affine, whole) in TWINS.items():
            start = {"model": model, "pretrained": PRETRAINED[profile]}
            numbers = "γ and β" if affine == "batchnorm" else "gains and biases"
            name, settings = {
                "": ("everything", {"train": "all", **whole}),
                "output": ("output layer", {"train": "output", "lr": lr}),
                "affine": (numbers, {"train": affine, "lr": lr}),
                "both": (f"{numbers}, output layer", {"train": f"{affine}+output", "lr": lr}),
            }[train]
            found[f"{twin}: {name}"] = start | settings
    return found


def starts(profile: str = "quick") -> dict[str, Settings]:
    """Both twins from scratch and pre-trained, everything of them trained alike."""
    return {
        f"{twin}: {name}": {"model": model, "pretrained": start, "train": "all", **whole}
        for twin, (model, _, whole) in TWINS.items()
        for name, start in (("from scratch", ""), ("pre-trained", PRETRAINED[profile]))
    }


def clipped(profile: str = "quick") -> dict[str, Settings]:
    """The normalizer-free twin at a gentle and at a large rate, without AGC and with it."""
    model, start = TWINS["without BatchNorm"][0], PRETRAINED[profile]
    return {
        f"rate {rate:g}, {name}": {
            "model": model,
            "pretrained": start,
            "lr": rate,
            "clip": clip,
        }
        for rate in (GENTLE, LARGE)
        for name, clip in (("without AGC", "none"), ("with AGC", "agc"))
    }


def whole(records: Sequence["Record"]) -> list["Record"]:
    """The runs that trained everything."""
    return [record for record in records if record.spec.train == "all"]


#: Training images per class in ``fine_tuning``, more than in any run of ``few_images``.
MANY = 1_000
SCRATCH, PRETRAINED_TOO, OUTPUT = "all, from scratch", "all, pre-trained", "output layer"


def by_images(twin: str, profile: str = "quick") -> dict[str, dict[int, Settings]]:
    """What is trained in a twin → training images per class → settings of the runs."""
    model, affine, whole = TWINS[twin]
    column = list(TWINS).index(twin)
    ways: dict[str, tuple[str, Settings]] = {
        PRETRAINED_TOO: ("all", {"train": "all", **whole}),
        SCRATCH: ("all", {"train": "all", **whole}),
        OUTPUT: ("output", {"train": "output", "lr": HEAD}),
        "output layer and affine": ("both", {"train": f"{affine}+output", "lr": BOTH}),
    }
    found: dict[str, dict[int, Settings]] = {}
    for way, (key, settings) in ways.items():
        start = {"model": model, "pretrained": "" if way == SCRATCH else PRETRAINED[profile]}
        small = "" if profile == "full" else "-16px"
        many = {**start, **settings, "dataset": f"cifar10{small}"}
        found[way] = {
            **{
                n: {
                    **many,
                    "dataset": f"cifar10{small}-few{n}",
                    "lr": few_images.RATES[key][column],
                }
                for n in few_images.IMAGES
            },
            MANY: many,
        }
    return found


def images_figure(records: Sequence["Record"], twin: str) -> "Chart":
    """Test accuracy of a twin by how many images it was fine-tuned on, a line per way."""
    ways = by_images(twin)
    runs = {
        way: {n: runs_of(records, settings) for n, settings in arms.items()}
        for way, arms in ways.items()
    }
    found = {way: by for way, by in runs.items() if any(by.values())}
    return by_number(found, "training images per class")


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
    for twin, (model, *_) in TWINS.items():
        ends = Ends.of(runs_of(runs, {"model": model}))
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

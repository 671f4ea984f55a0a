"""What chapter 11 asks: arms by task, and what a task adds to a network that all of them share."""

from functools import cache
from typing import TYPE_CHECKING, Any

from nbrepro import freezing, models
from nbrepro.book.markup import table
from nbrepro.data.cards import parse
from nbrepro.experiments import distant_tasks, many_classes
from nbrepro.experiments.many_tasks import OWN, TASKS
from nbrepro.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from IPython.display import HTML

    from nbrepro.records.ledger import Record

#: What a task has of its own, by readers' names.
NAMES = dict(
    zip(OWN, ("output layer", "γ and β", "γ, β and output layer", "everything"), strict=True)
)
_NUMBER = 4  # bytes of a float32
_SEED = 8


def arms(small: bool = True) -> dict[str, dict[str, Any]]:
    """What is trained, for each task: name → settings of the runs."""
    return {
        f"{label(task)}: {NAMES[train]}": {
            "dataset": f"cifar10-{task}{'-16px' if small else ''}",
            "train": train,
        }
        for task in TASKS
        for train in OWN
    }


def distant_arms() -> dict[str, dict[str, Any]]:
    """What is trained, for each task of other images: name → settings of the runs."""
    kinds = zip(("photographs", "digits"), distant_tasks.AUGMENTATIONS.values(), strict=True)
    return {
        f"{kind}: {NAMES[train]}": {"augmentation": augmentation, "train": train}
        for kind, augmentation in kinds
        for train in OWN
    }


def class_arms() -> dict[str, dict[str, Any]]:
    """What is trained, with fifty classes and with ten: name → settings of the runs."""
    sizes = {"50 classes": many_classes.MANY, "10 classes": many_classes.FEW}
    return {
        f"{size}: {NAMES[train]}": {"dataset": name, "train": train}
        for size, name in sizes.items()
        for train in many_classes.TRAINED
    }


def label(task: str) -> str:
    """``classes0to4`` → ``classes 0 to 4``."""
    classes = parse(f"cifar10-{task}").classes
    assert classes
    return f"classes {classes[0]} to {classes[1]}"


def by_task(records: "Sequence[Record]") -> "dict[str, list[Record]]":
    """The runs of each of the two tasks, by readers' names."""
    return {
        label(task): [run for run in records if f"-{task}" in run.spec.dataset] for task in TASKS
    }


def size(spec: Spec) -> int:
    """Bytes that a task adds: what is trained, running statistics, and the seed of the rest.

    Args:
        spec: of a run on one task.
    """
    classes = parse(spec.dataset).classes
    return added(spec.model, spec.train, classes[1] - classes[0] + 1 if classes else 10)


@cache
def added(model: str, train: str, classes: int) -> int:
    """Bytes of the numbers that a task of so many classes has of its own in a network."""
    trained = freezing.freeze(models.create(model, classes), train=train).counts["all"]
    return _NUMBER * trained + always(model)


@cache
def always(model: str) -> int:
    """Bytes that a task has of its own whatever it trains: running statistics, and the seed."""
    buffers = models.create(model).buffers()
    return _NUMBER * sum(b.numel() for b in buffers if b.is_floating_point()) + _SEED


def storage_table(model: str = "cifar_resnet14", classes: int = 5) -> "HTML":
    """Kilobytes for one, ten and a hundred tasks, by what a task has of its own."""
    counts = (1, 10, 100)
    rows = [
        (NAMES[train], *(f"{n * added(model, train, classes) / 1000:,.0f}" for n in counts))
        for train in OWN
    ]
    head = ("each task has its own", *(f"{n} task{'s' * (n > 1)}, kB" for n in counts))
    note = (
        f"Tasks of {classes} classes; random weights are stored as a seed. A task includes "
        f"{always(model) / 1000:.1f} kB of running statistics and the seed in every row."
    )
    return table(head, rows, note)

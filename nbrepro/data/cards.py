"""Data cards: what is known about a data set without loading it, or torch.

A name is ``<data>[@<side>][-classes<first>to<last>][-16px[-alltest]][-few<n>]``, such as
``cifar10``, ``cifar10-jpeg-classes0to4``, ``tiny-imagenet-50@32-classes0to9`` or ``cifar10-16px``:

=======================  ======================================================================
``@32``                  a folder tree at 32×32 pixels: see :func:`nbrepro.data.folder.read`
``-classes0to4``         only the classes with the labels 0 to 4, which are numbered from 0 again
``-16px``                the small form, see :func:`nbrepro.data.shrink`
``-16px-alltest``        the small form, but for its test set, of which every image is kept
``-few10``               only the first 10 training images of each class
=======================  ======================================================================
"""

import re
from dataclasses import dataclass, replace
from typing import NamedTuple

#: Ending of the name of a data set's small form, see :func:`nbrepro.data.shrink`.
SMALL = "-16px"

#: The small form keeps one image in this many of each class.
SMALL_SHARE = 5

#: What follows in the name if the small form keeps every test image.
ALL_TEST = "-alltest"

#: The data set that is part of the installation. It proves the code, and no claim of a paper.
EMBEDDED = "digits"

#: The data sets that are no folder trees.
NOT_TREES = (EMBEDDED, "cifar10", "cifar100")

_NAME = re.compile(
    r"(?P<data>.*?)(?:@(?P<side>[1-9]\d*))?"
    r"(?:-classes(?P<first>0|[1-9]\d*)to(?P<last>0|[1-9]\d*))?"
    rf"(?P<small>{SMALL}(?P<all_test>{ALL_TEST})?)?"
    r"(?:-few(?P<few>[1-9]\d*))?",
    re.ASCII | re.DOTALL,
)


class Name(NamedTuple):
    """The parts of a data set's name.

    Attributes:
        data: the data set itself.
        side: height and width that its images are resized to, or None.
        classes: labels of the first and the last class that is kept, or None.
        small: whether it is the small form.
        all_test: whether that form keeps every test image.
        few: training images of each class, or None for all.
    """

    data: str
    side: int | None
    classes: tuple[int, int] | None
    small: bool
    all_test: bool
    few: int | None

    def __str__(self) -> str:
        side = "" if self.side is None else f"@{self.side}"
        classes = "" if self.classes is None else "-classes{}to{}".format(*self.classes)
        small = SMALL + (ALL_TEST if self.all_test else "") if self.small else ""
        few = "" if self.few is None else f"-few{self.few}"
        return f"{self.data}{side}{classes}{small}{few}"


def parse(name: str) -> Name:
    """The parts of a name; every text is one."""
    match = _NAME.fullmatch(name)
    assert match is not None
    data, side, first, last, small, all_test, few = match.groups()
    return Name(
        data,
        None if side is None else int(side),
        None if first is None else (int(first), int(last)),
        small is not None,
        all_test is not None,
        None if few is None else int(few),
    )


@dataclass(frozen=True)
class Card:
    """What is known about a data set; ``None`` means unknown.

    Attributes:
        name: as passed to :func:`nbrepro.data.load`.
        classes: number of classes.
        train_images: number of training images; ``test_images`` likewise.
        side: height and width of the images in pixels.
        original: whether these are the pixels that the papers' CIFAR-10 networks were trained on.
        fingerprint: of its pixels and labels, as a loaded data set has it and records name it.
    """

    name: str
    classes: int | None = None
    train_images: int | None = None
    test_images: int | None = None
    side: int | None = None
    original: bool = False
    fingerprint: str | None = None

    @property
    def chance(self) -> float | None:
        """Accuracy of guessing, where test images are spread evenly over the classes."""
        return None if self.classes is None else 1 / self.classes


_KNOWN = {
    card.name: card
    for card in (
        Card("digits", 10, 1_437, 360, 8, fingerprint="5ba4c266def42ea5"),
        Card("cifar10", 10, 50_000, 10_000, 32, original=True),
        Card("cifar10-jpeg", 10, 50_000, 10_000, 32, fingerprint="4755da40623d5849"),
        Card("cifar100", 100, 50_000, 10_000, 32),
        Card("tiny-imagenet-50", 50, 25_000, 2_500, 64, fingerprint="bfa1fe8d7fdc5afb"),
    )
}

#: Fingerprints of forms of data sets: a form is computed, so its card is too, but for this.
_FORM_FINGERPRINTS = {
    "cifar10-jpeg-16px": "637817b9862b050c",
    "cifar10-jpeg-16px-alltest": "3c03501b0a53961e",
    "cifar10-jpeg-classes0to4": "54a5785ad6273a04",
    "cifar10-jpeg-classes0to4-16px": "d786ee6b71638030",
    "cifar10-jpeg-classes5to9": "aa65e40cbea94556",
    "cifar10-jpeg-classes5to9-16px": "460257581dc3be87",
    "tiny-imagenet-50@32": "e384676c1c46b14f",
    "tiny-imagenet-50@32-classes0to9": "8837c1bef4d80177",
}


def card(name: str) -> Card:
    """The card of a data set; for an unknown folder, what its name says.

    What such a folder holds is known once it is loaded: ``load(name).card``.
    """
    data, side, classes, small, all_test, few = parse(name)
    known = _KNOWN.get(data, Card(data))
    if side is not None:
        known = replace(known, side=side)
    if classes is not None:
        kept = max(0, classes[1] - classes[0] + 1)
        known = replace(_part(known, kept, known.classes), classes=kept or None)
    if small:
        half = None if known.side is None else known.side // 2
        tested = known.test_images
        known = replace(_part(known, 1, SMALL_SHARE, known.classes), side=half)
        if all_test:
            known = replace(known, test_images=tested)
    if few is not None:
        known = replace(known, train_images=known.classes and known.classes * few)
    if name != data:
        known = replace(known, original=False, fingerprint=_FORM_FINGERPRINTS.get(name))
    return replace(known, name=name)


def _part(card: Card, kept: int, of: int | None, classes: int | None = 1) -> Card:
    """The card of ``kept / of`` of the images; how many is unknown if classes differ in size."""
    numbers = [card.train_images, card.test_images]
    if of is None or classes is None or any(n is None or n % (of * classes) for n in numbers):
        return replace(card, train_images=None, test_images=None)
    train, test = (number // of * kept for number in numbers if number is not None)
    return replace(card, train_images=train, test_images=test)


def base(name: str) -> str:
    """The data set itself, given the name of a part of it: ``cifar10-16px`` → ``cifar10``."""
    return str(parse(name)._replace(classes=None, small=False, all_test=False, few=None))


def same_part(name: str, other: str) -> str:
    """The part of ``other`` that ``name`` is of its data set.

    ``("cifar10-classes0to4-16px", "cifar100")`` → ``cifar100-classes0to4-16px``. Where ``name`` is
    a whole data set, it is ``other`` as it stands.
    """
    part, whole = parse(name), parse(other)
    classes = part.classes or whole.classes
    return str(
        whole._replace(
            classes=classes,
            small=part.small or whole.small,
            all_test=part.all_test or whole.all_test,
            few=part.few or whole.few,
        )
    )

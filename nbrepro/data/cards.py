"""Data cards: what is known about a data set without loading it, or torch."""

from dataclasses import dataclass, replace

#: Ending of the name of a data set's small form, see :func:`nbrepro.data.shrink`.
SMALL = "-16px"

#: The small form keeps one image in this many of each class.
SMALL_SHARE = 5


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
    )
}

#: Fingerprints of small forms: a small form is computed, so its card is too, but for this.
_SMALL_FINGERPRINTS = {"cifar10-jpeg-16px": "637817b9862b050c"}


def card(name: str) -> Card:
    """The card of a data set; for an unknown folder, one with its name only.

    What such a folder holds is known once it is loaded: ``load(name).card``.
    """
    if not is_small(name):
        return _KNOWN.get(name, Card(name))
    whole = card(base(name))
    if whole.classes is None or whole.side is None:
        return Card(name)
    return replace(
        whole,
        name=name,
        train_images=_a_share(whole.train_images, whole.classes),
        test_images=_a_share(whole.test_images, whole.classes),
        side=whole.side // 2,
        original=False,
        fingerprint=_SMALL_FINGERPRINTS.get(name),
    )


def _a_share(images: int | None, classes: int) -> int | None:
    """How many images the small form keeps; unknown if classes differ in size."""
    if images is None or images % (classes * SMALL_SHARE):
        return None
    return images // SMALL_SHARE


def base(name: str) -> str:
    """The data set itself, given its name or its small form's: ``cifar10-16px`` → ``cifar10``."""
    return name.removesuffix(SMALL)


def is_small(name: str) -> bool:
    """Whether ``name`` is the small form of a data set."""
    return name.endswith(SMALL)

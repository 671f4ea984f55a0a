"""What an experiment is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nbrepro._suggest import choose
from nbrepro.data import cards
from nbrepro.spec import Spec

#: The data set that another may stand for.
STANDARD = "cifar10"

#: How much computation is spent. Only ``quick`` and ``full`` can support a verdict.
PROFILES = ("smoke", "quick", "full")


class BrokenExperiment(ImportError):
    """An experiment that cannot be used; the message names it, or its file, and what is wrong."""


@dataclass(frozen=True)
class Experiment:
    """A declarative grid of runs that feeds the claims of one chapter.

    Attributes:
        name: folder of its records in the ledger.
        chapter: notebook in ``book/``, without its suffix.
        title: one line for readers.
        arms: profile → the runs of one replicate, seed 0, most informative first.
        seeds: profile → how many replicates.
        stands_in: whether it stands in for a data set beyond our means (then no verdict says more
            than "at reduced scale").
        published: the paper's recipe, for readers: setting → value, by the names of
            :class:`~nbrepro.spec.Spec`, or ``precision``, ``device`` and ``replicates``; ``None``
            where it is that of a Spec's defaults.
    """

    name: str
    chapter: str
    title: str
    arms: Callable[[str], list[Spec]]
    seeds: dict[str, int]
    stands_in: bool = False
    published: Mapping[str, Any] | None = None

    def specs(
        self, profile: str, dataset: str | None = None, seeds: int | None = None
    ) -> list[Spec]:
        """All runs of a profile: every arm with seed 0, then every arm with seed 1, ...

        Args:
            profile: ``smoke``, ``quick`` or ``full``.
            dataset: instead of CIFAR-10, wherever an arm trains or is pre-trained on it or a part
                of it (then on the same part of this one). An arm that would be pre-trained on what
                it is trained on is left out. Other data stay, and ``smoke`` always uses the
                embedded digits.
            seeds: instead of the profile's own number.

        Raises:
            ValueError: for an unknown profile or fewer than one seed.
            BrokenExperiment: if the experiment cannot say what its arms are.
        """
        choose("profile", profile, PROFILES)
        if seeds is None and profile not in self.seeds:
            raise BrokenExperiment(f"the experiment {self.name!r} has no seeds for {profile}")
        replicates = self.seeds[profile] if seeds is None else seeds
        if replicates < 1:
            raise ValueError(f"seeds is {replicates}; it must be at least 1")
        try:
            arms = self.arms(profile)
        except Exception as error:  # a function of somebody's own may raise anything
            raise BrokenExperiment(
                f"the experiment {self.name!r} cannot list its {profile} runs: {error!r}"
            ) from error
        if dataset is not None and profile != "smoke":
            moved = (_moved(arm, dataset) for arm in arms)
            arms = [arm for arm in moved if arm is not None]
        return [arm.replace(seed=seed) for seed in range(replicates) for arm in arms]


def _moved(arm: Spec, dataset: str) -> Spec | None:
    """The arm with ``dataset`` instead of CIFAR-10; None if it would be pre-trained on the same."""

    def instead(name: str) -> str:
        return cards.same_part(name, dataset) if cards.base(name) == STANDARD else name

    start, colon, epochs = arm.pretrained.rpartition(":")
    own, before = instead(arm.dataset), instead(start)
    if (own, before) != (arm.dataset, start) and cards.base(own) == cards.base(before):
        return None
    return arm.replace(dataset=own, pretrained=before + colon + epochs)

"""What an experiment is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nbrepro._suggest import choose
from nbrepro.data import cards
from nbrepro.spec import Spec

#: How much computation is spent. Only ``quick`` and ``full`` can support a verdict.
PROFILES = ("smoke", "quick", "full")


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
        own_data: whether its arms name the data they need, which no other data replace.
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
    own_data: bool = False
    published: Mapping[str, Any] | None = None

    def specs(
        self, profile: str, dataset: str | None = None, seeds: int | None = None
    ) -> list[Spec]:
        """All runs of a profile: every arm with seed 0, then every arm with seed 1, ...

        Args:
            profile: ``smoke``, ``quick`` or ``full``.
            dataset: instead of the arms' own (an arm on a part of its own uses the same part of
                this one, and one that is pre-trained on it is left out). ``smoke`` always uses the
                embedded digits, and an experiment with ``own_data`` its arms' own.
            seeds: instead of the profile's own number.

        Raises:
            ValueError: for an unknown profile or fewer than one seed.
        """
        choose("profile", profile, PROFILES)
        replicates = self.seeds[profile] if seeds is None else seeds
        if replicates < 1:
            raise ValueError(f"seeds is {replicates}; it must be at least 1")
        arms = self.arms(profile)
        if dataset is not None and profile != "smoke" and not self.own_data:
            moved = [(arm, cards.same_part(arm.dataset, dataset)) for arm in arms]
            arms = [
                arm.replace(dataset=name)
                for arm, name in moved
                if not arm.pretrained.startswith(f"{name}:")
            ]
        return [arm.replace(seed=seed) for seed in range(replicates) for arm in arms]

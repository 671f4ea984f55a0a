"""Which records stand side by side: those of one experiment, one profile and the same data.

An experiment is a view: a run counts whichever experiment it was made for. Failed runs count
nowhere, and runs on data that only bear a name (:mod:`nbrepro.records.fingerprints`) stand by
themselves.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from operator import is_
from typing import Generic, TypeVar

from nbrepro import experiments
from nbrepro.claims.rules import DECISIVE
from nbrepro.data.cards import EMBEDDED, base, card, parse
from nbrepro.records import fingerprints
from nbrepro.records.ledger import Record
from nbrepro.spec import Spec

__all__ = [
    "CIFAR10",
    "Latest",
    "by_data",
    "grid",
    "of_grid",
    "of_scale",
    "replicated",
    "scales",
    "specs",
    "whole",
]

#: The data set of the papers' small networks: its own pixels, and the same pictures compressed.
CIFAR10 = ("cifar10", "cifar10-jpeg")

T = TypeVar("T")


def scales(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """Profiles and data sets that can carry a verdict, the best first.

    Some of the classes of a data set are no data set of their own: an arm that wants a part of the
    classes names it. The embedded digits prove the code; they carry no verdict.
    """
    names = {str(parse(r.spec.dataset)._replace(classes=None)) for r in records}
    names |= {base(name) for name in names}
    names.discard(EMBEDDED)
    for theirs in (True, False):
        for profile in DECISIVE:
            for name in sorted(names, key=lambda name: (not card(name).original, name)):
                if (name in CIFAR10) == theirs:
                    yield profile, name


def of_scale(
    records: Sequence[Record], experiment: str, profile: str, dataset: str
) -> list[Record]:
    """The records of a profile of an experiment on the data meant by a name."""
    (_, counted), *_ = by_data(
        of_grid(records, experiment, profile, dataset), fingerprints.meant(records)
    )
    return counted


def of_grid(records: Sequence[Record], experiment: str, profile: str, dataset: str) -> list[Record]:
    """The same on whatever data bear the name."""
    by_arm = _BY_ARM(records)
    places = sorted(p for arm in grid(experiment, profile, dataset) for p in by_arm.get(arm, ()))
    return [records[place] for place in places if records[place].status != "failed"]


def by_data(
    records: Sequence[Record], meant: Mapping[str, str]
) -> Iterator[tuple[str | None, list[Record]]]:
    """Records that may be pooled: first those of the data meant by their name, with ``None``.

    Then, per name and fingerprint, those of other data.
    """
    groups: dict[tuple[str, str] | None, list[Record]] = {None: []}
    for record in records:
        name, data = record.spec.dataset, fingerprints.fingerprint(record)
        groups.setdefault(None if data == meant[name] else (name, data), []).append(record)
    for key, group in groups.items():
        yield key and key[1], group


def whole(found: Sequence[tuple[frozenset[str], T]]) -> list[T]:
    """What is found for each set of runs, without the sets that are a part of another.

    Where an arm has data of its own, for example, its runs are there at every scale.
    """
    return [each for own, each in found if not any(own < others for others, _ in found)]


@cache
def specs(experiment: str, profile: str, dataset: str) -> tuple[Spec, ...]:
    """The arms of an experiment, with seed 0."""
    return tuple(experiments.get(experiment).specs(profile, dataset, seeds=1))


@cache
def grid(experiment: str, profile: str, dataset: str) -> frozenset[str]:
    """What an experiment's runs share with their replicates, arm by arm; see :func:`replicated`."""
    return frozenset(spec.hash for spec in specs(experiment, profile, dataset))


def replicated(spec: Spec) -> str:
    """What the replicates of a run have in common: the hash of the one with seed 0."""
    if spec.hash not in _SEED_0:
        _SEED_0[spec.hash] = spec.replace(seed=0).hash
    return _SEED_0[spec.hash]


#: Hash of a run → what its replicates have in common. By hash: a Spec is slow as a key.
_SEED_0: dict[str, str] = {}


class Latest(Generic[T]):
    """What a function found in the records that it saw last: every claim asks for it again."""

    def __init__(self, found: Callable[[Sequence[Record]], T]) -> None:
        self._find = found
        self._held: tuple[tuple[Record, ...], T] | None = None

    def __call__(self, records: Sequence[Record]) -> T:
        """The same records, in the same order, are not looked at twice."""
        held = self._held
        if held is None or len(held[0]) != len(records) or not all(map(is_, held[0], records)):
            held = self._held = tuple(records), self._find(records)
        return held[1]


def _places(records: Sequence[Record]) -> dict[str, list[int]]:
    """Where among the records the runs of each arm are."""
    places: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        places.setdefault(replicated(record.spec), []).append(place)
    return places


_BY_ARM = Latest(_places)

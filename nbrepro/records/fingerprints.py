"""Which data the records under one name are of.

The name of a data set does not say what it holds: a folder may change between two runs, and another
decoder may read other pixels from it. Every record carries a fingerprint of the pixels and labels
that its run saw, and runs on different data are different evidence.
"""

from collections import Counter
from collections.abc import Iterable

from nbrepro.data.cards import card
from nbrepro.records.ledger import Record


def fingerprint(record: Record) -> str:
    """Of the data the run saw; empty where the record does not say."""
    return str(record.provenance.get("data_fingerprint") or "")


def meant(records: Iterable[Record]) -> dict[str, str]:
    """The data that counts under each name: name → fingerprint.

    It is the one that the data set's card knows; if no record is of that, the one of most records
    (of equally many, the first in the alphabet). Failed runs have no say.
    """
    found: dict[str, Counter[str]] = {}
    for record in records:
        if record.status != "failed":
            found.setdefault(record.spec.dataset, Counter())[fingerprint(record)] += 1
    return {name: _meant(name, counts) for name, counts in found.items()}


def _meant(name: str, counts: Counter[str]) -> str:
    known = card(name).fingerprint
    if known in counts:
        return str(known)
    return min(counts, key=lambda data: (-counts[data], data))


def remarks(records: Iterable[Record]) -> list[str]:
    """What a reader must know: a sentence per name whose records are of different or other data."""
    records = [record for record in records if record.status != "failed"]
    sentences = []
    for name, data in sorted(meant(records).items()):
        counts = Counter(fingerprint(r) for r in records if r.spec.dataset == name)
        others = sorted(counts.keys() - {data})
        if is_other(name, data):
            known = called(card(name).fingerprint or "")
            sentences.append(f"no record called {name} is of {known}, which is known as {name}")
        if others:
            apart = " and ".join(f"{counts[other]} of {called(other)}" for other in others)
            sentences.append(
                f"records of different data are called {name}: {counts[data]} of {called(data)} "
                f"count as {name}; {apart} are other data, and never pooled with them"
            )
    return sentences


def is_other(name: str, data: str) -> bool:
    """Whether this is the fingerprint of other data than are known under a name."""
    return bool(data) and card(name).fingerprint not in (None, data)


def called(data: str) -> str:
    """A fingerprint for readers."""
    return f"fingerprint {data}" if data else "no fingerprint"

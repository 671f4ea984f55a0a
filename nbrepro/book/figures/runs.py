"""Records, put in order for figures and tables: which runs make an arm, and how it ended."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nbrepro.claims import outcomes, statistics
from nbrepro.claims.labels import TRAINED, network, trained
from nbrepro.claims.rules import matches
from nbrepro.claims.scales import replicated
from nbrepro.claims.tables import printed
from nbrepro.data.cards import card
from nbrepro.models import size
from nbrepro.records.ledger import Record
from nbrepro.spec import Spec

#: Reader's name → the settings of the runs it stands for, as in a claim's rule.
Arms = Mapping[str, Mapping[str, Any]]


def ended(records: Sequence[Record]) -> list[Record]:
    """The records of runs that ended with a result: completed or diverged, not failed."""
    return [record for record in records if record.status != "failed"]


def runs_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Record]:
    """The records that ended whose spec has all these settings."""
    return [r for r in ended(records) if matches(r.spec, settings)]


def survived(record: Record) -> bool:
    """Whether a run trained, by the same rule as in verdicts."""
    return not outcomes.failed(record)


@dataclass(frozen=True)
class Ends:
    """How the runs of one arm ended, in percent of test accuracy.

    Attributes:
        survivors: of the runs that trained.
        failed: of those that diverged or stayed below twice chance.
    """

    survivors: tuple[float, ...]
    failed: tuple[float, ...] = ()

    @classmethod
    def of(cls, runs: Iterable[Record]) -> "Ends":
        """The ends of these runs.

        Raises:
            ValueError: if they are not replicates: a mean over several recipes means nothing.
        """
        replicates = list(runs)
        if len({replicated(run.spec) for run in replicates}) > 1:
            fields = [run.spec.replace(seed=0).to_dict() for run in replicates]
            differ = [f for f in fields[0] if len({str(spec[f]) for spec in fields}) > 1]
            raise ValueError(
                f"these {len(replicates)} runs are no replicates, they differ in "
                f"{', '.join(differ)}; choose those of one recipe"
            )
        sides: dict[bool, list[float]] = {True: [], False: []}
        for run in replicates:
            sides[survived(run)].append(100 * outcomes.value(run, "test_accuracy"))
        return cls(tuple(sides[True]), tuple(sides[False]))

    @property
    def n(self) -> int:
        """How many runs there are."""
        return len(self.survivors) + len(self.failed)

    @property
    def mean(self) -> float:
        """Mean of the survivors; not a number if there are none."""
        return statistics.mean(self.survivors).mean

    @property
    def interval(self) -> tuple[float, float]:
        """Student's 95 % interval of the mean; not-a-numbers where a run failed, or of one run."""
        if self.failed or len(self.survivors) < 2:
            return math.nan, math.nan
        return statistics.interval(self.survivors)

    @property
    def top(self) -> float:
        """The highest of the runs and of the interval's end."""
        _, high = self.interval
        return max(*self.survivors, *self.failed, -math.inf if math.isnan(high) else high)

    def __str__(self) -> str:
        """``47.9 [47.0, 48.8]``, or ``5 of 8 survive: 54.8``, or ``0 of 8 survive``.

        An interval is cut at 0 and 100.
        """
        mean = "" if math.isnan(self.mean) else statistics.digits(self.mean)
        if self.failed:
            who = f"{len(self.survivors)} of {self.n} survive"
            return f"{who}: {mean}" if mean else who
        low, high = self.interval
        if math.isnan(low):
            return mean
        # Student's interval knows nothing of the bounds of a percentage.
        low, high = max(low, 0), min(high, 100)
        return f"{mean} [{statistics.digits(low)}, {statistics.digits(high)}]"


def ends(runs: Sequence[Record], by: str) -> dict[float, Ends]:
    """Value of a setting → how the runs that have it ended, in order."""
    values = sorted({getattr(run.spec, by) for run in runs})
    return {x: Ends.of(run for run in runs if getattr(run.spec, by) == x) for x in values}


def chance_of(records: Sequence[Record]) -> float | None:
    """Accuracy of guessing in percent; None if unknown or not the same for all runs."""
    found = {card(record.spec.dataset).chance for record in records}
    chance = found.pop() if len(found) == 1 else None
    return None if chance is None else 100 * chance


def schedules(
    records: Sequence[Record], *arms: Mapping[str, Any]
) -> list[tuple[tuple[int, int, float], list[list[Record]]]]:
    """Runs that differ in an arm only, side by side.

    Returns:
        ``((batch size, epochs, rate), [runs of each arm])``; large batches first, then few epochs,
        then high rates. An arm without such runs has an empty list.
    """
    found: dict[tuple[int, int, float], list[list[Record]]] = {}
    for number, settings in enumerate(arms):
        for run in runs_of(records, settings):
            key = (run.spec.batch_size, run.spec.epochs, run.spec.lr)
            found.setdefault(key, [[] for _ in arms])[number].append(run)
    return sorted(found.items(), key=lambda item: (-item[0][0], item[0][1], -item[0][2]))


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row per run; accuracies in percent, not a number where a run failed.

    Columns: the settings of :class:`~nbrepro.spec.Spec`; ``network`` and ``trained`` for readers;
    ``depth`` and ``width``; ``status``; ``accuracy``, ``top5`` and ``untrained`` (before the first
    step); ``hash``; and of the provenance ``device``, ``ran_in`` (the precision that ``auto`` came
    to), ``commit`` and ``seconds``.
    """
    metrics = {
        "accuracy": "test_accuracy",
        "top5": "test_top5",
        "untrained": "untrained_accuracy",
    }
    provenance = {
        "device": "device",
        "ran_in": "precision",
        "commit": "commit",
        "seconds": "seconds",
    }
    rows = []
    for record in records:
        depth, width = size(record.spec.model)
        failed = record.status == "failed"
        found = {k: math.nan if failed else outcomes.value(record, m) for k, m in metrics.items()}
        rows.append(
            {
                **record.spec.to_dict(),
                "unclipped": ", ".join(record.spec.unclipped),
                "network": network(record.spec.model),
                "depth": depth,
                "width": width,
                "trained": trained(record.spec.train),
                "status": record.status,
                "hash": record.spec.hash,
                **{column: 100 * fraction for column, fraction in found.items()},
                **{column: record.provenance.get(key) for column, key in provenance.items()},
            }
        )
    ours = ("network", "depth", "width", "trained", "status", "hash")
    return pd.DataFrame(rows, columns=[*Spec.__dataclass_fields__, *ours, *metrics, *provenance])


def scale_of(records: Sequence[Record]) -> str:
    """``cifar10-jpeg, 8 epochs, n = 2 to 3 seeds``: what every caption must say.

    A record that is given twice counts once.
    """
    if not records:
        return "no records yet"
    table = frame(list({id(record): record for record in records}.values()))  # arms may overlap
    settings = [c for c in Spec.__dataclass_fields__ if c not in ("seed", "milestones")]
    seeds = table.groupby(settings, dropna=False).size()
    fewest, most = seeds.min(), seeds.max()
    n = f"n = {most}" if fewest == most else f"n = {fewest} to {most}"
    datasets = " and ".join(sorted(table["dataset"].unique()))
    epochs = " or ".join(str(e) for e in sorted(table["epochs"].unique()))
    return f"{datasets}, {epochs} epochs, {n} seed{'s' if most > 1 else ''}"


def policies(records: Sequence[Record]) -> dict[str, dict[str, str]]:
    """What is trained in these records, as arms: known policies first, in the legends' order."""
    present = {record.spec.train for record in records}
    order = [*[p for p in TRAINED if p in present], *sorted(present - TRAINED.keys())]
    return {trained(policy): {"train": policy} for policy in order}


#: Column of the BatchNorm-only study's digitised figure → what is trained.
_FIGURE_V1 = {"BN": "batchnorm", "BN_S_O": "batchnorm+output+shortcut",
              "S_O": "output+shortcut", "all": "all"}  # fmt: skip


def figure_v1() -> dict[str, dict[str, float]]:
    """Policy → network → test accuracy in percent, read off the BatchNorm-only study's figure."""
    table = printed("bn_only")["figure_v1"]
    return {policy: table.column(column) for column, policy in _FIGURE_V1.items()}

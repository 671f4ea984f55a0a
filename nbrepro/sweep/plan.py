"""What is missing, in which order it tells most, and what it costs."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nbrepro import claims
from nbrepro.claims import Claim
from nbrepro.data.cards import EMBEDDED, base, card
from nbrepro.experiments import Experiment
from nbrepro.records.ledger import Ledger, Record
from nbrepro.spec import Spec

#: Replicates of a run that anybody makes; more is a slip of the pen.
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Planned:
    """A run of a profile, and its record if there is one."""

    spec: Spec
    record: Record | None

    @property
    def missing(self) -> bool:
        """Whether it still has to be run; a failed run counts as done until it is retried."""
        return self.record is None


def plan(
    chosen: Iterable[Experiment],
    profile: str,
    ledger: Ledger,
    *,
    dataset: str | None = None,
    seeds: int | None = None,
) -> list[Planned]:
    """Every run of a profile of these experiments, in the grids' order.

    A run that several experiments share is planned once.

    Raises:
        ValueError: for an unknown profile or data set, or no sensible number of seeds.
    """
    if seeds is not None and not 1 <= seeds <= MOST_SEEDS:
        raise ValueError(f"seeds is {seeds}; it must be at least 1 and at most {MOST_SEEDS}")
    specs = {
        spec.hash: spec
        for experiment in chosen
        for spec in experiment.specs(profile, dataset, seeds)
    }
    return [Planned(spec, ledger.find(spec)) for spec in specs.values()]


def most_informative(
    planned: Sequence[Planned], records: Sequence[Record], profile: str
) -> list[Planned]:
    """A plan in the order in which its missing runs tell most.

    First one run of every arm that feeds a claim without any evidence, then what has fewest
    replicates, then the order of the grid.
    """
    from nbrepro.claims.scales import replicated

    untold = set(unsettled(records, ("not run",)))
    settled = settles([item.spec for item in planned], profile)
    seeds = Counter(replicated(item.spec) for item in planned if not item.missing)
    ranked = []
    for item in planned:
        replicates = seeds[replicated(item.spec)]
        told = untold.isdisjoint(settled[item.spec.hash]) or replicates > 0
        ranked.append((told, replicates, item))
        seeds[replicated(item.spec)] += item.missing
    return [item for _, _, item in sorted(ranked, key=lambda rank: rank[:2])]


def settles(specs: Iterable[Spec], profile: str) -> dict[str, list[str]]:
    """The claims whose rules look at runs of this profile, by the runs' hashes.

    A rule looks at the runs of its claim's experiment, at the profiles that it accepts, and on
    CIFAR-10 alone if it asks for absolute accuracies.
    """
    from nbrepro.claims import scales
    from nbrepro.claims.questions import needs_cifar10
    from nbrepro.claims.rules import Trained

    specs = list(specs)
    data = {spec.hash: _data(spec) for spec in specs}
    names = set().union(*data.values()) - {EMBEDDED}
    found: dict[str, list[str]] = {run: [] for run in data}
    for claim in claims.register().values():
        rule = claim.rule
        if not isinstance(rule, Trained) or profile not in rule.profiles:
            continue
        assert claim.experiment is not None
        grids = [scales.grid(claim.experiment, profile, name) for name in sorted(names)]
        arms = frozenset().union(*grids)
        anywhere = not needs_cifar10(rule)
        for spec in specs:
            if (
                scales.replicated(spec) in arms
                and claim.feeds_on(spec)
                and (anywhere or not data[spec.hash].isdisjoint(scales.CIFAR10))
            ):
                found[spec.hash].append(claim.id)
    return found


def _data(spec: Spec) -> set[str]:
    """The data sets that a run is trained on, before it and in it."""
    return {base(one.dataset) for one in (spec, spec.parent) if one}


def accepted(claim: Claim) -> tuple[str, ...]:
    """The profiles whose runs can settle a claim."""
    return getattr(claim.rule, "profiles", ())


def unsettled(
    records: Sequence[Record], wanted: Sequence[str] = ("not run", "inconclusive")
) -> list[str]:
    """The claims decided by training that have one of these verdicts so far."""
    from nbrepro.claims import verdicts

    return [
        claim.id
        for claim in claims.register().values()
        if claim.experiment and verdicts.judge(claim, records).verdict in wanted
    ]


def estimate(spec: Spec, records: Sequence[Record]) -> float | None:
    """Seconds a run will take, from the latest record that does the same work per step.

    Without its pre-training, see :func:`cost`.
    """
    return _estimate(spec, *_measured(records))


def cost(specs: Iterable[Spec], records: Sequence[Record], work: Path) -> tuple[float, int]:
    """Seconds that runs will take as far as records tell, and of how many runs they do not.

    A pre-training that several runs start from counts once, and not at all where its weights are
    kept: records do not hold any.

    Args:
        specs: of the runs, none of them recorded.
        records: of other runs.
        work: the ledger's folder of checkpoints.
    """
    specs = list(specs)
    parents = {spec.parent for spec in specs if spec.parent}
    lost = [parent for parent in parents if not checkpoint(parent, work).exists()]
    rates, images = _measured(records)  # once: there may be hundreds of both
    costs = [_estimate(spec, rates, images) for spec in (*specs, *lost)]
    return sum(c for c in costs if c is not None), costs.count(None)


def checkpoint(spec: Spec, work: Path) -> Path:
    """Where a run keeps its checkpoint in the ledger's folder of checkpoints."""
    return work / f"{spec.hash}.pt"


def _work(spec: Spec) -> tuple[object, ...]:
    """What the time of a step depends on."""
    data = card(spec.dataset)
    return spec.model, spec.train, spec.batch_size, data.side or data.name, spec.sam > 0


def _measured(
    records: Sequence[Record],
) -> tuple[dict[tuple[object, ...], float], dict[str, float]]:
    """Work → images per second of its latest record; data set → training images, by its steps."""
    rates: dict[tuple[object, ...], float] = {}
    images: dict[str, float] = {}
    latest_first = sorted(records, key=lambda r: str(r.provenance.get("finished")), reverse=True)
    for record in latest_first:
        if rate := record.provenance.get("images_per_second"):
            rates.setdefault(_work(record.spec), rate)
    for record in records:
        last = record.curve[-1] if record.curve else {}
        if last.get("epoch"):
            seen = record.spec.batch_size * last["step"] / last["epoch"]
            images.setdefault(record.spec.dataset, seen)
    return rates, images


def _estimate(
    spec: Spec, rates: Mapping[tuple[object, ...], float], images: Mapping[str, float]
) -> float | None:
    rate = rates.get(_work(spec))
    known = images.get(spec.dataset) or card(spec.dataset).train_images or 50_000
    return None if rate is None else float(spec.epochs * known / rate)

"""What chapters 8 and 9 ask of the records: arms by readers' names, and by how much they lead.

Figures are made by :mod:`nbrepro.book.figures`, sentences by :mod:`nbrepro.book.found`.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from nbrepro.claims import labels
from nbrepro.experiments.affine_parameters import RANDOM
from nbrepro.records.ledger import Record
from nbrepro.spec import BATCHNORM_INITS, WEIGHT_INITS

#: The start and the rate that every arm has which does not say otherwise.
RECIPE = {
    "weight_init": "kaiming_normal",
    "batchnorm_init": "uniform",
    "lr": 0.1,
    "weight_decay": 1e-4,
    "decay": "all",
}
USUAL = {"model": "cifar_resnet14", **RECIPE}
AFFINE = {**USUAL, "train": "batchnorm"}


def parts() -> dict[str, dict[str, Any]]:
    """What may be trained, by readers' names."""
    policies = {
        "γ and β": "batchnorm",
        "γ only": "gamma",
        "β only": "beta",
        "two random weights per channel": "random:2",
        "four random weights per channel": "random:4",
        "output layer only": "output",
        "shortcuts only": "shortcut",
        "output layer and shortcuts": "output+shortcut",
        "γ, β and output layer": "batchnorm+output",
        "two random weights and output layer": "random:2+output",
        "γ, β, output layer and shortcuts": "batchnorm+output+shortcut",
        "all but γ and β": "output+shortcut+other",
        "everything": "all",
    }
    return {name: {**USUAL, "train": policy} for name, policy in policies.items()}


def starts() -> dict[str, dict[str, Any]]:
    """Where γ and β may start, by readers' names."""
    named = {labels.value("batchnorm_init", start): start for start in BATCHNORM_INITS}
    return _varied("batchnorm_init", named)


def weights() -> dict[str, dict[str, Any]]:
    """How the frozen weights may be drawn, by readers' names."""
    named = {labels.value("weight_init", start): start for start in WEIGHT_INITS}
    return _varied("weight_init", named)


def rates() -> dict[str, dict[str, Any]]:
    """The recipe's rate, and a third and three times of it."""
    return _varied("lr", {f"rate {rate:g}": rate for rate in (0.03, 0.1, 0.3)})


def _varied(setting: str, named: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """γ and β trained, with another value of one setting."""
    return {name: {**AFFINE, setting: value} for name, value in named.items()}


def larger() -> dict[str, dict[str, Any]]:
    """γ and β, and as many random weights, in ResNet-14 and in larger networks."""
    policies = {"γ and β": "batchnorm", "two random weights": "random:2"}
    return {
        f"{labels.network(model)}: {name}": {**RECIPE, "model": model, "train": policy}
        for model in ("cifar_resnet14", "cifar_resnet14x2", "cifar_resnet32")
        for name, policy in policies.items()
    }


def others() -> dict[str, dict[str, Any]]:
    """What is trained in a network without BatchNorm, its twin and a plain one."""
    without, twin, plain = (
        {**RECIPE, "model": model}
        for model in ("cifar_nf_resnet14", "bn_cifar_nf_resnet14", "cifar_vgg11")
    )
    return {
        "BatchNorm twin: γ and β": {**twin, "train": "batchnorm+output"},
        "BatchNorm twin: two random weights": {**twin, "train": "random:2+output"},
        "BatchNorm twin: output layer": {**twin, "train": "output"},
        "without BatchNorm: gains and biases": {**without, "train": "affine+output"},
        "without BatchNorm: two random weights": {**without, "train": "random:2+output"},
        "without BatchNorm: output layer": {**without, "train": "output"},
        "VGG-11: γ and β": {**plain, "train": "batchnorm"},
        "VGG-11: two random weights": {**plain, "train": "random:2"},
        "VGG-11: output layer": {**plain, "train": "output"},
    }


def epochs_to(runs: Sequence[Record], accuracy: float) -> int:
    """The first epoch after which the mean test accuracy of the runs is above this one.

    Args:
        runs: replicates.
        accuracy: from 0 to 1.

    Raises:
        ValueError: if it never is.
    """
    for epoch in range(1, runs[0].spec.epochs + 1):
        if accuracy < accuracy_after(runs, epoch):
            return epoch
    raise ValueError(f"the mean of {len(runs)} runs is never above {accuracy:.1%}")


def accuracy_after(runs: Sequence[Record], epoch: int) -> float:
    """The mean test accuracy after an epoch, from 0 to 1."""
    rows = (row for run in runs for row in run.curve if row["epoch"] == epoch)
    return fmean(row["test_accuracy"] for row in rows)


def plateau(runs: Sequence[Record]) -> float:
    """The mean test accuracy before the rate first drops, over the five epochs up to half."""
    half = runs[0].spec.epochs // 2
    return fmean(accuracy_after(runs, epoch) for epoch in range(half - 4, half + 1))


def drops(records: Sequence[Record], arms: Mapping[str, Mapping[str, Any]]) -> str:
    """Where each arm stands before the rate drops, and at the end: a list, of means over seeds."""
    from nbrepro.book.figures import runs_of

    lines = []
    for name, arm in arms.items():
        runs = runs_of(records, arm)
        if not runs:
            continue
        before, end = 100 * plateau(runs), 100 * accuracy_after(runs, runs[0].spec.epochs)
        lines.append(
            f"- {name}: {before:.1f} % before the rate first drops, {end:.1f} % at the end, "
            f"**{end - before:+.1f} points** (n = {len(runs)})"
        )
    return "\n".join(lines)


def random_leads(records: Sequence[Record]) -> dict[int, float]:
    """Number of random weights per channel → by how many points γ and β are ahead of them.

    Means over the seeds that both have; numbers that were not run are left out.
    """
    ours = _by_seed(records, AFFINE)
    leads = {}
    for policy in RANDOM:
        theirs = _by_seed(records, {**USUAL, "train": policy})
        if shared := ours.keys() & theirs.keys():
            k = int(policy.partition(":")[2])
            leads[k] = fmean(ours[seed] - theirs[seed] for seed in shared)
    return leads


def beside_output(records: Sequence[Record]) -> str:
    """What a trained output layer does to the lead of γ and β over as many random weights."""
    from nbrepro.book.found import against, ahead_by_more

    named = parts()
    own, with_own = named["γ and β"], named["γ, β and output layer"]
    two = named["two random weights per channel"]
    with_two = named["two random weights and output layer"]
    return (
        "With the output layer frozen, γ and β are ahead of two random weights by "
        f"**{against(records, own, two)}**; with the output layer trained beside both, by "
        f"**{against(records, with_own, with_two)}**. The trained output layer adds "
        f"**{against(records, with_own, own)}** to γ and β, and "
        f"**{against(records, with_two, two)}** to two random weights. The first lead exceeds "
        f"the second by **{ahead_by_more(records, (own, two), (with_own, with_two))}**, the part "
        "that goes with the frozen output layer."
    )


def _by_seed(records: Sequence[Record], settings: Mapping[str, Any]) -> dict[int, float]:
    """Seed → test accuracy, in percent."""
    from nbrepro.book.figures import runs_of

    return {run.spec.seed: 100 * run.metrics["test_accuracy"] for run in runs_of(records, settings)}


def crossing(leads: Mapping[int, float]) -> tuple[int, int | None]:
    """The last number of random weights that γ and β are ahead of, and the next one that was run.

    The first is 0 if γ and β are ahead of none, the second ``None`` if they are ahead of all.

    Args:
        leads: of :func:`random_leads`.
    """
    last = 0
    for k, lead in sorted(leads.items()):
        if lead <= 0:
            return last, k
        last = k
    return last, None


def crossing_said(leads: Mapping[int, float]) -> str:
    """The same in words."""
    last, following = crossing(leads)
    if following is None:
        return f"The lines do not cross up to {last} random weights per channel."
    between = f"between {last} and {following}" if last else f"below {following}"
    return f"The means cross {between} random weights per channel."

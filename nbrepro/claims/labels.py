"""What a reader is told: names of networks, of what is trained, and of the arms of a rule."""

from nbrepro import models
from nbrepro.claims.rules import Arm

#: What is trained, in the order of every legend.
TRAINED = {"batchnorm": "BatchNorm only", "output": "output layer only", "all": "all parameters"}

_PARTS = {
    "batchnorm": "BatchNorm",
    "gamma": "γ",
    "beta": "β",
    "output": "output layer",
    "shortcut": "shortcuts",
}


def trained(policy: str) -> str:
    """A reader's name for a freezing policy: ``gamma`` → ``γ only``."""
    if policy in TRAINED:
        return TRAINED[policy]
    if policy == "output+shortcut+other":
        return "all but BatchNorm"
    parts = [_part(part) for part in policy.split("+")]
    return f"{parts[0]} only" if len(parts) == 1 else " + ".join(parts)


def _part(part: str) -> str:
    name, _, k = part.partition(":")
    return f"{k} {name} weights per channel" if k else _PARTS.get(part, part)


def network(model: str) -> str:
    """A reader's name for a model: ``cifar_resnet14x2`` → ``ResNet-14 ×2``.

    Raises:
        ValueError: for an unknown model.
    """
    return models.label(model)


def label(arm: Arm) -> str:
    """A reader's name for an arm, such as ``ResNet-14 ×2, BatchNorm only``."""
    if arm.called:
        return arm.called
    words = []
    if "model" in arm.settings:
        words.append(network(arm.settings["model"]))
    if "train" in arm.settings:
        words.append(trained(arm.settings["train"]))
    return ", ".join(words)


def comparison(high: Arm, low: Arm) -> str:
    """A reader's name for a pair, what both share said once: ``A over B (BatchNorm only)``."""
    if high.called or low.called:
        (where, *first), (there, *second) = (label(arm).split(", ") for arm in (high, low))
        if first and second and where == there:
            return f"{', '.join(first)} over {', '.join(second)} ({where})"
        return f"{label(high)} over {label(low)}"
    shared = {k: v for k, v in high.settings.items() if low.settings.get(k) == v}
    ours, theirs = (
        Arm({k: v for k, v in arm.settings.items() if k not in shared}) for arm in (high, low)
    )
    return f"{label(ours)} over {label(theirs)}" + (f" ({label(Arm(shared))})" if shared else "")

"""What a reader is told: names of networks and of what is trained."""

from nbrepro import models

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

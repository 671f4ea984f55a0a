"""What a reader is told: names of networks, of settings and of the arms of a rule."""

from typing import Any

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

#: Settings of a run, with the values that are words. What is not here has a name that reads well
#: once its underscores are spaces.
_SETTINGS = {
    "batchnorm_init": "start of γ and β",
    "clip": "clipping of gradients",
    "clipping": "λ",
    "dataset": "data set",
    "decay": "what is decayed",
    "ema": "moving average of weights",
    "lr": "learning rate",
    "mixup": "MixUp",
    "cutmix": "CutMix",
    "model": "network",
    "pretrained": "pre-training",
    "randaugment": "RandAugment",
    "replicates": "seeds",
    "sam": "SAM's ρ",
    "sam_share": "SAM's share of a batch",
    "scalar_lr": "learning rate of scalars",
    "skip_init": "SkipInit",
    "statistics": "statistics of the batch",
    "train": "trained",
    "unclipped": "not clipped",
    "warmup_epochs": "epochs of warm-up",
    "warmup_from_zero": "warm-up from zero",
    "weight_init": "start of the weights",
}
_VALUES: dict[str, dict[Any, str]] = {
    "batchnorm_init": {
        "uniform": "γ from [0, 1), β = 0",
        "fixed": "γ = 1, β = 0",
        "oneone": "γ = 1, β = 1",
        "positivenegative": "γ from [−1, 1), β = 0",
    },
    "augmentation": {"crop-flip": "crop and flip", "resized-crop": "random resized crop, flip"},
    "clip": {"agc": "AGC", "agc-layer": "AGC layer by layer", "norm": "the whole norm"},
    "decay": {"all": "all that is trained", "weights": "weights, no scalars"},
    "optimizer": {"sgd": "SGD", "nesterov": "Nesterov", "lars": "LARS", "adamw": "AdamW"},
    "weight_init": {"kaiming_normal": "normal", "kaiming_uniform": "uniform"},
}


def setting(name: str) -> str:
    """A reader's name for a setting of a run: ``lr`` → ``learning rate``."""
    return _SETTINGS.get(name, name.replace("_", " "))


def value(name: str, given: Any) -> str:
    """What a setting is, for readers: of ``batchnorm_init``, ``oneone`` → ``γ = 1, β = 1``."""
    if name == "model":
        return named(given)
    if isinstance(given, bool):
        return "yes" if given else "no"
    if isinstance(given, float):
        return f"{given:g}"
    if isinstance(given, tuple | list):
        return " and ".join(value(name, one) for one in given) or "none"
    return _VALUES.get(name, {}).get(given, str(given)) or "none"


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


def named(words: str) -> str:
    """The same, and other words, such as a paper's or a benchmark's, as they are."""
    try:
        return network(words)
    except ValueError:
        return words


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

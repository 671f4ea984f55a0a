"""Names: what a reader is told, and errors that name the nearest right one."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """The message for a name that is not one of ``known``."""
    known = list(known)
    near = get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(known)}."


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """Return ``name`` if it is one of ``known``.

    Raises:
        ValueError: naming the nearest right one.
    """
    known = list(known)
    if name not in known:
        raise ValueError(unknown(kind, name, known))
    return name


#: How much is spent. Only ``quick`` and ``full`` can carry a verdict.
PROFILES = ("smoke", "quick", "full")

#: What is trained, in the order of every legend.
TRAINED = {"batchnorm": "BatchNorm only", "output": "output layer only", "all": "all parameters"}


def trained(policy: str) -> str:
    """A reader's name for a freezing policy."""
    return TRAINED.get(policy, policy)


#: Beginning of a model's name → of its name for readers.
_NETWORKS = {
    "cifar_resnet": "ResNet-",
    "cifar_nf_resnet": "NF-ResNet-",
    "bn_cifar_nf_resnet": "BN-ResNet-",
    "plain_cifar_nf_resnet": "plain ResNet-",
    "nf_resnet": "NF-ResNet-",
    "bn_nf_resnet": "BN-ResNet-",
    "plain_nf_resnet": "plain ResNet-",
    "nfnet_f": "NFNet-F",
    "bn_nfnet_f": "BN-NFNet-F",
    "plain_nfnet_f": "plain NFNet-F",
    "cifar_nfnet_f": "NFNet-F",
}


def network(model: str) -> str:
    """A reader's name for a model: ``cifar_resnet14x2`` → ``ResNet-14 ×2``."""
    for start, words in _NETWORKS.items():
        if model.startswith(start):
            return words + model.removeprefix(start).replace("x", " ×")
    return model

"""What a reader is told: names of networks and of what is trained."""

from nbrepro import models

#: What is trained, in the order of every legend.
TRAINED = {"batchnorm": "BatchNorm only", "output": "output layer only", "all": "all parameters"}


def trained(policy: str) -> str:
    """A reader's name for a freezing policy."""
    return TRAINED.get(policy, policy)


def network(model: str) -> str:
    """A reader's name for a model: ``cifar_resnet14x2`` → ``ResNet-14 ×2``.

    Raises:
        ValueError: for an unknown model.
    """
    return models.label(model)

"""What a reader is told: names of networks and of what is trained."""

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

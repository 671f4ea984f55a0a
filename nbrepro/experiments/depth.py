"""Chapter 1: at which depth ResNets still train (arXiv 2002.10444; 2102.06171, section 2).

The same pre-activation networks with BatchNorm, GroupNorm, SkipInit alone, normalizer-free, and
plain. All have the same rate; the plain network of 56 layers has two smaller ones as well, for
it may be the rate that is too large.
"""

from nbrepro.experiments.experiment import Experiment
from nbrepro.experiments.nf_resnets import recipe
from nbrepro.spec import Spec

#: Reader's name of a way to build the network → how its model's name begins.
NETWORKS = {
    "BatchNorm": "bn_",
    "GroupNorm": "gn_",
    "normalizer-free": "",
    "SkipInit": "skipinit_",
    "plain": "plain_",
}
DEPTHS = (56, 110, 20, 8)
#: What all depths share: the batch and rate of He et al. for CIFAR (arXiv 1512.03385, section 4.2).
SHORT = {"batch_size": 128, "lr": 0.1}
#: What the plain network is given besides the rate of all others.
SMALLER_RATES = (0.01, 0.001)
#: Of networks of 20 layers, which are compared at the length of chapter 4's short runs.
RIVAL_RATES = (0.4, 0.1)


def _arms(profile: str) -> list[Spec]:
    base = recipe(profile)
    if profile == "smoke":
        models = ("bn_cifar_nf_resnet20", "plain_cifar_nf_resnet20")
        return [base.replace(model=model, epochs=3, **SHORT) for model in models]
    short = base.replace(**SHORT)
    if profile == "quick":
        short = short.replace(epochs=2, warmup_epochs=0.5)
    first = ("plain_", "skipinit_", "bn_")  # what the claims compare
    order = [*first, *(prefix for prefix in NETWORKS.values() if prefix not in first)]
    arms = [
        short.replace(model=f"{prefix}cifar_nf_resnet{depth}")
        for depth in DEPTHS
        for prefix in order
    ]
    plain = short.replace(model="plain_cifar_nf_resnet56")
    rivals = [
        base.replace(model=f"{prefix}cifar_nf_resnet20", lr=rate)
        for rate in RIVAL_RATES
        for prefix in ("bn_", "gn_", "skipinit_")
    ]
    arms += [plain.replace(lr=rate) for rate in SMALLER_RATES]
    return list(dict.fromkeys([*arms, *rivals]))


EXPERIMENT = Experiment(
    name="depth",
    chapter="01_batchnorm_in_ten_minutes",
    title="Which depth trains: BatchNorm, GroupNorm, normalizer-free, SkipInit, plain",
    arms=_arms,
    seeds={"smoke": 1, "quick": 3, "full": 5},
    stands_in=True,
    published={
        "model": "residual networks with BatchNorm and without, up to the depth that trains",
        "dataset": "several benchmarks",
    },
)

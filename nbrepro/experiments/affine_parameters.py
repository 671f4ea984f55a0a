"""Chapter 9: what else could be trained instead of γ and β (arXiv 2003.00152, sections 4 and 6).

At the ``quick`` profile all arms are trained on 10,000 images at half the side, so that many arms
with five seeds each are affordable; the twins of a comparison share seeds, and so their random
weights, order and crops.
"""

from nbrepro.experiments.experiment import Experiment
from nbrepro.spec import Spec

#: As many trained numbers per channel as γ and β, and two, four and eight times as many.
RANDOM = ("random:2", "random:4", "random:8", "random:16")
#: The parts of the network by themselves and together.
PARTS = (
    "gamma",
    "beta",
    "output",
    "shortcut",
    "output+shortcut",
    "batchnorm+output",
    "batchnorm+output+shortcut",
)
#: The rest of the network, with γ and β frozen where they started.
FROZEN = "output+shortcut+other"
BATCHNORM_STARTS = ("oneone", "fixed", "positivenegative")
WEIGHT_STARTS = ("orthogonal", "binary", "kaiming_uniform")


def base(profile: str) -> Spec:
    """The recipe that chapters 9 and 10 share: γ and β of ResNet-14 are trained."""
    if profile == "smoke":
        return Spec(
            model="cifar_resnet8",
            train="batchnorm",
            dataset="digits",
            augmentation="none",
            epochs=4,
            precision="float32",
        )
    spec = Spec(model="cifar_resnet14", train="batchnorm")
    return spec if profile == "full" else spec.replace(dataset="cifar10-16px", epochs=30)


def _arms(profile: str) -> list[Spec]:
    affine = base(profile)
    if profile == "smoke":
        return [affine, affine.replace(train="random:2")]
    return [
        affine,
        affine.replace(train=RANDOM[0]),
        *(affine.replace(train=part) for part in PARTS),
        *(affine.replace(train=more) for more in RANDOM[1:]),
        *(affine.replace(batchnorm_init=start) for start in BATCHNORM_STARTS),
        affine.replace(train=f"{RANDOM[0]}+output"),
        affine.replace(train="all"),
        affine.replace(train=FROZEN),
        *(affine.replace(weight_init=start) for start in WEIGHT_STARTS),
        *(affine.replace(lr=rate) for rate in (0.03, 0.3)),
    ]


EXPERIMENT = Experiment(
    name="affine_parameters",
    chapter="09_why_affine_parameters",
    title="γ and β against as many random weights, and against every other part of the network",
    arms=_arms,
    seeds={"smoke": 1, "quick": 5, "full": 3},
)

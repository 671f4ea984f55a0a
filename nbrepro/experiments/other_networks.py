"""Chapter 9: affine parameters outside ResNets with BatchNorm (arXiv 2003.00152, section 6).

The paper leaves open what becomes of its findings in other networks, and in those without
BatchNorm. Here are a plain network, VGG-11, and NF-ResNet-14 beside its BatchNorm twin. Of the
normalizer-free one, gains and biases of scaled weight standardization are trained
(:mod:`nbrepro.freezing`, ``affine``), as many numbers as γ and β in the twin; it has no SkipInit,
so that its branches count from the start as the twin's do. The twins' classifier starts near zero,
and frozen there it would hand on next to no gradient; so it is trained in all their arms.
"""

from nbrepro.experiments.affine_parameters import base
from nbrepro.experiments.experiment import Experiment
from nbrepro.spec import Spec


def _arms(profile: str) -> list[Spec]:
    affine = base(profile)
    if profile == "smoke":
        without = affine.replace(model="cifar_nf_resnet8", skip_init=False)
        return [without.replace(train="affine+output")]
    without = affine.replace(model="cifar_nf_resnet14", skip_init=False)
    twin = affine.replace(model="bn_cifar_nf_resnet14")
    plain = affine.replace(model="cifar_vgg11")
    return [
        without.replace(train="affine+output"),
        twin.replace(train="batchnorm+output"),
        without.replace(train="random:2+output"),
        # what the output layer reaches by itself, and random weights with BatchNorm
        without.replace(train="output"),
        twin.replace(train="output"),
        twin.replace(train="random:2+output"),
        *(plain.replace(train=train) for train in ("batchnorm", "random:2", "output")),
    ]


EXPERIMENT = Experiment(
    name="other_networks",
    chapter="09_why_affine_parameters",
    title="Affine parameters of a plain network, and of one without BatchNorm",
    arms=_arms,
    seeds={"smoke": 1, "quick": 5, "full": 3},
)

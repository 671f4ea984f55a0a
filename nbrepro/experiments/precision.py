"""Whether bfloat16 changes what the book measures: the same runs in float32 and in bfloat16.

Most records come from runs in bfloat16, which neither paper used for its CIFAR networks. Here both
kinds start from the same weights and see the same images in the same order.
"""

from nbrepro.experiments import adaptive_gradient_clipping, nf_resnets
from nbrepro.experiments.experiment import Experiment
from nbrepro.spec import Spec

PRECISIONS = ("float32", "bfloat16")


def _arms(profile: str) -> list[Spec]:
    if profile == "smoke":
        small = Spec(model="cifar_resnet8", dataset="digits", augmentation="none", epochs=2)
        runs = [small.replace(train="batchnorm")]
    else:
        resnet = Spec(model="cifar_resnet14")
        if profile == "quick":
            resnet = resnet.replace(dataset="cifar10-16px", epochs=6)
        agc = nf_resnets.recipe(profile).replace(
            lr=1.6, clip="agc", clipping=0.01, unclipped=adaptive_gradient_clipping.FREE
        )
        runs = [resnet.replace(train="batchnorm"), resnet, agc]
    return [run.replace(precision=precision) for run in runs for precision in PRECISIONS]


EXPERIMENT = Experiment(
    name="precision",
    chapter="speed",
    title="float32 against bfloat16, from the same start",
    arms=_arms,
    seeds={"smoke": 1, "quick": 5, "full": 3},
)

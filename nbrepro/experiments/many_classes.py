"""Chapter 11: an output layer of fifty classes and one of ten (arXiv 2003.00152, section 4).

Stands in for ImageNet, of whose thousand classes the paper says that they need a trained output
layer. The ten classes are a part of the fifty. Both arms see as many images of each class and, up
to the last batch of an epoch, take as many steps.
"""

from nbrepro.experiments.affine_parameters import base
from nbrepro.experiments.experiment import Experiment
from nbrepro.spec import Spec

#: Fifty classes of small photographs, and ten of them.
MANY = "tiny-imagenet-50@16"
FEW = f"{MANY}-classes0to9"
#: What is trained: γ and β, the output layer, and both.
TRAINED = ("batchnorm", "batchnorm+output", "output")


def _arms(profile: str) -> list[Spec]:
    network = base(profile)
    if profile == "smoke":
        arms = [network, network.replace(dataset="digits-classes0to1")]
    else:
        epochs = 3 if profile == "quick" else 32
        many = network.replace(dataset=MANY, epochs=epochs)
        arms = [many, many.replace(dataset=FEW, epochs=5 * epochs)]
    return [arm.replace(train=train) for train in TRAINED for arm in arms]


EXPERIMENT = Experiment(
    name="many_classes",
    chapter="11_one_network_many_tasks",
    title="What an output layer of its own adds to γ and β, with fifty classes and with ten",
    arms=_arms,
    seeds={"smoke": 1, "quick": 3, "full": 3},
    stands_in=True,
)

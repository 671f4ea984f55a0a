"""Chapter 9: γ and β against as many random weights in larger networks, and scattered weights.

arXiv 2003.00152, section 4 and its footnote.
"""

from nbrepro.experiments.affine_parameters import base
from nbrepro.experiments.experiment import Experiment
from nbrepro.spec import Spec


def _arms(profile: str) -> list[Spec]:
    affine = base(profile)
    if profile == "smoke":
        return [affine, affine.replace(train="scattered:2")]
    networks = [affine.replace(model=f"cifar_resnet{size}") for size in ("14", "14x2", "32")]
    return [
        *(
            network.replace(train=train)
            for network in networks
            for train in (affine.train, "random:2")
        ),
        affine.replace(train="scattered:2"),
    ]


EXPERIMENT = Experiment(
    name="random_weights",
    chapter="09_why_affine_parameters",
    title="Two random weights per channel in larger networks, and scattered over a layer",
    arms=_arms,
    seeds={"smoke": 1, "quick": 5, "full": 3},
)

"""Chapter 10: what becomes of γ, β and the ReLUs behind them (arXiv 2003.00152, section 5).

Every run leaves γ, β, the share of inputs at which each ReLU is off, and the accuracy without small
γ (:mod:`nbrepro.records.features`).
"""

from nbrepro.experiments.affine_parameters import base
from nbrepro.experiments.experiment import Experiment
from nbrepro.spec import Spec


def _arms(profile: str) -> list[Spec]:
    affine = base(profile)
    everything = affine.replace(train="all")
    if profile == "smoke":
        return [affine, everything]
    larger = ["cifar_resnet14x2", "cifar_resnet32", "cifar_resnet56"]
    if profile == "full":
        larger += ["cifar_resnet14x4", "cifar_resnet110"]
    return [
        affine,
        everything,
        # without a term of the loss that pulls γ to zero
        affine.replace(weight_decay=0.0),
        everything.replace(decay="weights"),
        *(arm.replace(model=model) for model in larger for arm in (affine, everything)),
    ]


EXPERIMENT = Experiment(
    name="what_gamma_learns",
    chapter="10_what_gamma_learns",
    title="Which features γ switches off, with only BatchNorm trained and with everything",
    arms=_arms,
    seeds={"smoke": 1, "quick": 5, "full": 3},
)

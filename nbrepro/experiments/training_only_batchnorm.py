"""Chapter 8: train only γ and β of CIFAR ResNets (arXiv 2003.00152, sections 3 and 4)."""

from nbrepro.experiments.experiment import Experiment
from nbrepro.spec import Spec

TRAINED = ("batchnorm", "output", "all")


def _arms(profile: str) -> list[Spec]:
    if profile == "smoke":
        smoke = Spec(
            model="cifar_resnet8",
            dataset="digits",
            augmentation="none",
            epochs=6,
            precision="float32",
        )
        return [smoke.replace(train=train) for train in TRAINED]
    if profile == "quick":
        epochs = 8
        models = ["cifar_resnet14", "cifar_resnet32", "cifar_resnet14x2"]
        further = ["cifar_resnet56", "cifar_resnet14x4", "cifar_resnet110"]
    else:
        epochs = 160
        models = ["cifar_resnet14", "cifar_resnet32", "cifar_resnet56", "cifar_resnet110"]
        further = ["cifar_resnet14x2", "cifar_resnet14x4", "cifar_resnet14x8", "cifar_resnet218"]
    return [
        Spec(model=model, train=train, epochs=epochs)
        for models_of_tier in (models, further)
        for train in TRAINED
        for model in models_of_tier
    ]


EXPERIMENT = Experiment(
    name="training_only_batchnorm",
    chapter="08_training_only_batchnorm",
    title="Training only BatchNorm in CIFAR ResNets: depth, width, and the output layer",
    arms=_arms,
    seeds={"smoke": 1, "quick": 3, "full": 5},
)

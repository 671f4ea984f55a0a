"""Chapter 4: normalizer-free ResNets against their BatchNorm twins (arXiv 2101.08692, 2102.06171).

The papers train on ImageNet for 90 epochs and more. Here CIFAR-10 stands in. The twins differ only
in the normalization and are trained alike.
"""

from nbrepro.experiments.experiment import Experiment
from nbrepro.spec import Spec

NF, BN = "cifar_nf_resnet20", "bn_cifar_nf_resnet20"

#: What every run of chapters 4 and 5 shares (2102.06171, section 4.1 and appendix A.1, shortened).
#: Its first records were made with a warm-up whose first step has a rate already; the full profile,
#: which had no records then, begins at zero as the authors' code does.
RECIPE = Spec(
    model=NF,
    dataset="cifar10-16px",
    optimizer="nesterov",
    weight_decay=5e-4,
    decay="weights",
    label_smoothing=0.1,
    schedule="cosine",
    batch_size=256,
    lr=0.4,
    epochs=6,
    warmup_epochs=1,
)


def recipe(profile: str) -> Spec:
    """The shared recipe of a profile."""
    if profile == "smoke":
        return RECIPE.replace(
            model="cifar_nf_resnet8",
            dataset="digits",
            augmentation="none",
            precision="float32",
            batch_size=128,
            epochs=4,
        )
    if profile == "quick":
        return RECIPE
    return RECIPE.replace(dataset="cifar10", epochs=30, warmup_epochs=1.5, warmup_from_zero=True)


def _arms(profile: str) -> list[Spec]:
    base = recipe(profile)
    twins = [base.replace(model=model) for model in (base.model, "bn_" + base.model)]
    if profile == "smoke":
        return twins
    # At the linearly scaled rate SkipInit would hardly move in so few epochs: four times that rate.
    small = [twin.replace(batch_size=4, lr=0.025, epochs=4) for twin in twins]
    longer = [twin.replace(epochs=5 * twin.epochs) for twin in twins]
    # The papers' rate; and no SkipInit, whose scalars start at zero and have to grow first.
    slower = [twin.replace(lr=0.1) for twin in twins]
    return [*twins, *longer, *small, *slower, slower[0].replace(skip_init=False)]


EXPERIMENT = Experiment(
    name="nf_resnets",
    chapter="04_nf_resnets",
    title="NF-ResNets and their BatchNorm twins at moderate and at tiny batch size",
    arms=_arms,
    seeds={"smoke": 1, "quick": 3, "full": 5},
    stands_in=True,
    published={
        "model": "NF-ResNet-50 and deeper, and their BatchNorm twins",
        "dataset": "ImageNet",
        "augmentation": "random resized crop, flip",
        "batch_size": "1024 (P-10), 4 (P-12)",
        "epochs": 90,
        "lr": "0.1 for every 256 images of a batch",
        "schedule": "cosine",
        "warmup_epochs": 5,
        "optimizer": "nesterov",
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "label_smoothing": 0.1,
        "dropout": "used (rate not seen)",
        "stochastic_depth": "used (rate not seen; 0.1 in the code)",
        "replicates": 5,
    },
)

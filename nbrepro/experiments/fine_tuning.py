"""Chapter 7: fine-tuning, with BatchNorm and without (arXiv 2102.06171, section 6.2, Table 4).

The paper pre-trains on 300 million private images and fine-tunes on ImageNet. Here fifty classes of
Tiny ImageNet and a fifth of CIFAR-10 stand in, both at 16 pixels. Twins differ in the normalization
only. The normalizer-free twin has no SkipInit, so that its branches count from the start as
BatchNorm's do, and is pre-trained with AGC (:data:`nbrepro.spec.PRETRAINING`). All arms of a twin
and a seed start from the same pre-trained weights.

Rates are the best that were tried on a seed that no claim counts, by test accuracy after three
epochs of pre-training and three of fine-tuning. For frozen networks both twins have the same.

===============================  =====  =====  ==========  ==========
seed 9, per cent, rate           0.1    0.4    0.8         1.6
===============================  =====  =====  ==========  ==========
BatchNorm, everything            46.3   48.1
without, everything              42.7   21.3   diverges    diverges
without, everything, with AGC    37.6   42.9   44.7        42.9
BatchNorm, output layer          38.2   38.6               39.1
without, output layer            34.0   35.6               36.4
BatchNorm, γ and β                      17.1               21.8
without, gains and biases               15.1               23.8
BatchNorm, both                  39.1   39.5
without, both                    35.4   32.1
BatchNorm, from scratch                 45.7
without, from scratch                   40.8
===============================  =====  =====  ==========  ==========
"""

from collections.abc import Mapping
from typing import TypeAlias

from nbrepro.experiments.experiment import Experiment
from nbrepro.experiments.nf_resnets import recipe
from nbrepro.spec import Spec

#: Profile → what is pre-trained on, and for how many epochs.
PRETRAINED = {
    "smoke": "digits-classes0to4:4",
    "quick": "tiny-imagenet-50@16:5",
    "full": "tiny-imagenet-50@32:30",
}


#: Rates of what is trained, without BatchNorm and with it, by what that is: everything, the output
#: layer, affine parameters, and these two together.
Rates: TypeAlias = Mapping[str, tuple[float, float]]

#: The rate at which fine-tuning everything is gentle, and one that needs AGC without BatchNorm.
GENTLE, LARGE = 0.1, 0.8
#: The rate of the BatchNorm twin, and of training from scratch without AGC.
USUAL = 0.4
RATES: Rates = {
    "all": (LARGE, USUAL),
    "output": (1.6, 1.6),
    "affine": (1.6, 1.6),
    "both": (0.1, 0.1),
}


def twins(profile: str) -> tuple[Spec, Spec]:
    """A normalizer-free network and its BatchNorm twin, everything of them fine-tuned."""
    base = recipe(profile).replace(
        pretrained=PRETRAINED[profile], batch_size=128, lr=GENTLE, warmup_epochs=0.5
    )
    if profile == "full":
        base = base.replace(epochs=10)
    else:
        base = base.replace(model="cifar_nf_resnet8", epochs=4)
    if profile == "smoke":
        base = base.replace(dataset="digits-classes5to9", epochs=3)
    return base.replace(skip_init=False), base.replace(model="bn_" + base.model)


def ways(pair: tuple[Spec, Spec], rates: Rates) -> list[Spec]:
    """Twins, each with every choice of what is trained; all of one without BatchNorm with AGC."""
    return [
        twin.replace(
            lr=lr,
            train={"both": f"{affine}+output", "affine": affine}.get(part, part),
            clip="agc" if (part, affine) == ("all", "affine") else "none",
        )
        for part, lrs in rates.items()
        for twin, affine, lr in zip(pair, ("affine", "batchnorm"), lrs, strict=True)
    ]


def elsewhere(profile: str, start: str, dataset: str, epochs: int, rates: Rates) -> list[Spec]:
    """The twins on other data, also from scratch, and the one without BatchNorm without AGC too.

    Args:
        profile: ``smoke`` has one run only.
        start: what is pre-trained on, as in :attr:`nbrepro.spec.Spec.pretrained`.
        dataset: what is fine-tuned on.
        epochs: passes over that.
        rates: what is trained of the twins, and how fast.
    """
    nf, bn = (
        twin.replace(pretrained=start, dataset=dataset, epochs=epochs) for twin in twins(profile)
    )
    if profile == "smoke":
        return [nf]
    tuned = ways((nf, bn), rates)
    scratch = [spec.replace(pretrained="") for spec in tuned if spec.train == "all"]
    return [*tuned, *scratch, nf, nf.replace(lr=LARGE)]


def _arms(profile: str) -> list[Spec]:
    nf, bn = twins(profile)
    if profile == "smoke":
        return [nf, bn, nf.replace(pretrained="")]
    tuned = ways((nf, bn), RATES)
    whole = [spec for spec in tuned if spec.train == "all"]
    scratch = [spec.replace(pretrained="") for spec in (*whole, nf.replace(lr=USUAL))]
    return [*tuned, *scratch, nf, nf.replace(clip="agc"), nf.replace(lr=LARGE)]


EXPERIMENT = Experiment(
    name="fine_tuning",
    chapter="07_fine_tuning",
    title="Fine-tuning after pre-training on other images, with BatchNorm and without",
    arms=_arms,
    seeds={"smoke": 1, "quick": 5, "full": 5},
    stands_in=True,
    published={
        "model": "NF-ResNet-50 to NF-ResNet-200, and their BatchNorm twins",
        "dataset": "ImageNet",
        "pretrained": "300 million private images, 10 epochs, batch 1024, rate 0.4",
        "epochs": "15,000 steps",
        "batch_size": 2048,
        "optimizer": "nesterov",
        "lr": 0.1,
        "schedule": "cosine",
        "warmup_epochs": "5,000 steps",
        "weight_decay": 0.0,
        "ema": 0.9999,
        "replicates": 1,
    },
)

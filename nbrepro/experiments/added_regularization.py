"""Chapter 6: over-fitting, and what the NFNets' recipe does about it (2102.06171, sections 5, 6).

A small network without BatchNorm and few images (five classes, half of the images of the other
experiments), seen often enough to learn nearly all of them. One thing at a time is added to that:
dropout with stochastic depth, crops and mirror images, all augmentations together, or SAM. Averaged
weights cost next to nothing and are kept in every run.
"""

from typing import Any

from nbrepro.experiments import nf_resnets
from nbrepro.experiments.experiment import Experiment
from nbrepro.spec import Spec

#: Five classes of ten, as in chapter 11.
FEW = "cifar10-classes0to4"
#: Appendix A.3, with the magnitude of F0.
AUGMENTED: dict[str, Any] = {
    "augmentation": "crop-flip",
    "randaugment": 5.0,
    "mixup": 0.2,
    "cutmix": 1.0,
}


def _arms(profile: str) -> list[Spec]:
    base = nf_resnets.recipe(profile).replace(
        model="cifar_nf_resnet8",
        skip_init=False,
        precision="float32",
        augmentation="none",
        label_smoothing=0.0,
        batch_size=64,
        lr=0.1,
        ema=0.99,
    )
    if profile == "smoke":
        base = base.replace(epochs=2)
    elif profile == "quick":
        base = base.replace(dataset=f"{FEW}-16px", epochs=12)
    else:
        base = base.replace(dataset=FEW)
    held = base.replace(dropout=0.25, stochastic_depth=0.1)
    if profile == "smoke":
        return [base, held]
    crops = base.replace(augmentation="crop-flip")
    return [base, held, crops, base.replace(**AUGMENTED), base.replace(sam=0.05)]


EXPERIMENT = Experiment(
    name="added_regularization",
    chapter="06_nfnet_family",
    title="A small network that over-fits, and one by one what the recipe does about it",
    arms=_arms,
    seeds={"smoke": 1, "quick": 5, "full": 5},
    stands_in=True,
    published={
        "model": "NFNet-F0 to F6",
        "dataset": "ImageNet",
        "epochs": 360,
        "batch_size": 4096,
        "dropout": "0.2 to 0.5",
        "stochastic_depth": "0.25",
        "randaugment": "5 to 15, four layers",
        "mixup": "0.2",
        "cutmix": "1 (code)",
        "ema": "0.99999",
        "sam": "0.05, on a fifth of the batch; F5 and F6",
        "label_smoothing": "0.1",
    },
)

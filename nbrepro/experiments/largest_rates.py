"""Chapter 3: the largest stable rate at a small and at a large batch (2102.06171, section 2).

A bisection in octaves, planned as a grid so that every run is an ordinary spec: rates from far
below the point where a network without BatchNorm fails to beyond that where BatchNorm does.
"""

from nbrepro.experiments.adaptive_gradient_clipping import EXPERIMENT as CLIPPING
from nbrepro.experiments.adaptive_gradient_clipping import FREE
from nbrepro.experiments.experiment import Experiment
from nbrepro.experiments.nf_resnets import recipe
from nbrepro.spec import Spec

#: Batch size → rates, those that decide first.
RATES = {1024: (1.6, 0.8, 3.2, 0.4, 6.4), 64: (0.4, 1.6, 0.2, 0.8, 3.2)}
#: Batch size → epochs. A large batch makes few steps: 40 in four epochs of 10,000 images, after
#: which a network that trains at all is beyond twice chance. A small one makes 314 in two.
EPOCHS = {1024: 4, 64: 2}


def short(profile: str) -> Spec:
    """The recipe of chapters 4 and 5 with a small network and few epochs."""
    base = recipe(profile)
    if profile == "quick":
        return base.replace(
            model="cifar_nf_resnet8", epochs=4, warmup_epochs=0.5, precision="float32"
        )
    return base


def twins(spec: Spec) -> tuple[Spec, Spec, Spec]:
    """With BatchNorm, normalizer-free, and the latter with AGC (SkipInit left out of it)."""
    agc = spec.replace(clip="agc", clipping=0.01, unclipped=FREE)
    return spec.replace(model=f"bn_{spec.model}"), spec, agc


def _arms(profile: str) -> list[Spec]:
    base = short(profile)
    if profile == "smoke":
        return [arm for rate in (0.4, 6.4) for arm in twins(base.replace(lr=rate))]
    epochs = EPOCHS if profile == "quick" else dict.fromkeys(RATES, base.epochs)
    places = zip(*([(size, rate) for rate in rates] for size, rates in RATES.items()), strict=True)
    return [
        arm
        for both in places
        for size, rate in both
        for arm in twins(base.replace(batch_size=size, lr=rate, epochs=epochs[size]))
    ]


EXPERIMENT = Experiment(
    name="largest_rates",
    chapter="03_regularization_and_large_batches",
    title="The largest stable learning rate at batch 64 and 1024: BatchNorm, none, AGC",
    arms=_arms,
    seeds={"smoke": 1, "quick": 5, "full": 5},
    stands_in=True,
    published=CLIPPING.published,
)

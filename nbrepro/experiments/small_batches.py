"""Chapter 2: very small batches, with BatchNorm and without, each at its best rate (2102.06171).

The predecessor (arXiv 2101.08692) has batch 4 on ImageNet. Here CIFAR-10 stands in. Both twins see
as many images; a batch of 4 makes four times as many steps of it as one of 16. The normalizer-free
twin has no SkipInit, so that its branches count from the start as BatchNorm's do.

Rates are the best of three on a seed that no claim counts, by test accuracy after three epochs. At
batch 16 the best is the largest that was tried.

==========================  ==========  =============  =============
seed 9, per cent            rate 0.1    rate 0.025     rate 0.00625
==========================  ==========  =============  =============
BatchNorm, batch 16         44.7        44.5           33.0
normalizer-free, batch 16   46.3        40.0           30.0
BatchNorm, batch 4          37.7        41.7           40.3
normalizer-free, batch 4    10.0        44.4           40.2
==========================  ==========  =============  =============
"""

from nbrepro.experiments import nf_resnets
from nbrepro.experiments.experiment import Experiment
from nbrepro.spec import Spec

#: Batch size → the best rate, the same for both twins.
RATES = {16: 0.1, 4: 0.025}


def _arms(profile: str) -> list[Spec]:
    base = nf_resnets.recipe(profile).replace(model="cifar_nf_resnet8", skip_init=False)
    if profile == "smoke":
        base = base.replace(batch_size=32, lr=0.1, epochs=2)
    else:
        base = base.replace(precision="float32", warmup_epochs=0.5)
    if profile == "quick":
        # The twins differ by about as much as 2,000 test images are uncertain by.
        base = base.replace(dataset=f"{base.dataset}-alltest", epochs=3)
    twins = [base, base.replace(model="bn_cifar_nf_resnet8", skip_init=True)]
    if profile == "smoke":
        return twins
    return [
        twin.replace(batch_size=size, lr=rate) for size, rate in RATES.items() for twin in twins
    ]


EXPERIMENT = Experiment(
    name="small_batches",
    chapter="02_batches_are_not_neutral",
    title="Batches of 16 and of 4 images, with BatchNorm and without, at their best rates",
    arms=_arms,
    seeds={"smoke": 1, "quick": 5, "full": 5},
    stands_in=True,
    published=nf_resnets.EXPERIMENT.published,
)

"""Chapter 7: fine-tuning on ten and on a hundred images per class.

The twins of :mod:`nbrepro.experiments.fine_tuning`, from the same pre-trained weights, on so few
images that training everything may fit them and nothing else.

Rates are the best of three, a factor of four apart, on a seed that no claim counts, by test
accuracy on a hundred images per class. From scratch everything trains at the same rate as
pre-trained.

===================================  ====  ====  ====
seed 9, per cent                     low   mid   high
===================================  ====  ====  ====
without, everything: 0.05, 0.2, 0.8  38.0  41.1  41.2
BatchNorm, everything: 0.025 to 0.4  41.2  43.0  42.0
without, output layer: 0.1 to 1.6    35.5  36.7  35.8
BatchNorm, output layer: 0.1 to 1.6  37.7  37.9  37.5
without, both: 0.00625 to 0.1        34.1  35.9  35.6
BatchNorm, both: 0.00625 to 0.1      36.8  38.4  39.3
===================================  ====  ====  ====
"""

from nbrepro.experiments.experiment import Experiment
from nbrepro.experiments.fine_tuning import Rates, twins, ways
from nbrepro.spec import Spec

#: Training images per class → epochs: a few hundred steps of each.
IMAGES = {10: 60, 100: 20}
RATES: Rates = {"all": (0.8, 0.1), "output": (0.4, 0.4), "both": (0.025, 0.1)}


def _arms(profile: str) -> list[Spec]:
    pair = twins(profile)
    if profile == "smoke":
        return [pair[0].replace(dataset="digits-classes5to9-few10")]
    tuned = [
        spec.replace(dataset=f"{spec.dataset}-few{images}", epochs=epochs, batch_size=32)
        for images, epochs in IMAGES.items()
        for spec in ways(pair, RATES)
    ]
    return [*tuned, *(spec.replace(pretrained="") for spec in tuned if spec.train == "all")]


EXPERIMENT = Experiment(
    name="few_images",
    chapter="07_fine_tuning",
    title="Fine-tuning on ten and on a hundred images per class, by what is trained",
    arms=_arms,
    seeds={"smoke": 1, "quick": 5, "full": 5},
    stands_in=True,
)

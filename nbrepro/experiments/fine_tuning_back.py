"""Chapter 7: fine-tuning the other way round, from CIFAR-10 to Tiny ImageNet.

The twins of :mod:`nbrepro.experiments.fine_tuning`, each at the best of three rates on a seed that
no claim counts. On fifty classes with a random output layer, affine parameters alone stay near
guessing, which gets 2 %.

===============================  =====  =====  =====  =====  =====
seed 9, per cent, rate           0.1    0.4    0.8    1.6    6.4
===============================  =====  =====  =====  =====  =====
BatchNorm, everything            22.0   27.1          26.6
without, everything, with AGC           20.6   20.7   19.6
BatchNorm, output layer                 14.6          14.9   14.8
without, output layer                   14.3          14.9   14.4
BatchNorm, γ and β                       2.4           4.6    5.6
without, gains and biases                2.0           2.8    5.6
===============================  =====  =====  =====  =====  =====
"""

from nbrepro.experiments.experiment import Experiment
from nbrepro.experiments.fine_tuning import Rates, elsewhere

#: Profile → what is pre-trained on, what is fine-tuned on, and for how many epochs.
DATA = {
    "smoke": ("digits-classes5to9:4", "digits-classes0to4", 3),
    "quick": ("cifar10-16px:5", "tiny-imagenet-50@16", 4),
    "full": ("cifar10:30", "tiny-imagenet-50@32", 10),
}
RATES: Rates = {"all": (0.8, 0.4), "output": (1.6, 1.6), "affine": (6.4, 6.4)}

EXPERIMENT = Experiment(
    name="fine_tuning_back",
    chapter="07_fine_tuning",
    title="Fine-tuning the other way round, from ten classes to fifty others",
    arms=lambda profile: elsewhere(profile, *DATA[profile], RATES),
    seeds={"smoke": 1, "quick": 3, "full": 5},
    stands_in=True,
)

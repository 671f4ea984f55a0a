"""Chapter 7: fine-tuning within one data set, from forty classes of Tiny ImageNet to ten others.

The twins of :mod:`nbrepro.experiments.fine_tuning`, each at the best of three rates on a seed that
no claim counts.

===============================  =====  =====  =====  =====  =====
seed 9, per cent, rate           0.1    0.4    0.8    1.6    6.4
===============================  =====  =====  =====  =====  =====
BatchNorm, everything            58.4   60.0          54.8
without, everything, with AGC           54.8   56.6   54.4
BatchNorm, output layer                 48.2          48.8   48.4
without, output layer                   45.2          46.2   44.4
BatchNorm, γ and β                      25.2          26.0   33.0
without, gains and biases               16.4          29.8   26.8
===============================  =====  =====  =====  =====  =====
"""

from nbrepro.experiments.experiment import Experiment
from nbrepro.experiments.fine_tuning import Rates, elsewhere

#: Profile → what is pre-trained on, what is fine-tuned on, and for how many epochs.
DATA = {
    "smoke": ("digits-classes0to6:4", "digits-classes7to9", 3),
    "quick": ("tiny-imagenet-50@16-classes0to39:5", "tiny-imagenet-50@16-classes40to49", 8),
    "full": ("tiny-imagenet-50@32-classes0to39:30", "tiny-imagenet-50@32-classes40to49", 20),
}
RATES: Rates = {"all": (0.8, 0.4), "output": (1.6, 1.6), "affine": (1.6, 6.4)}

EXPERIMENT = Experiment(
    name="fine_tuning_split",
    chapter="07_fine_tuning",
    title="Fine-tuning within one data set, from forty classes to ten others",
    arms=lambda profile: elsewhere(profile, *DATA[profile], RATES),
    seeds={"smoke": 1, "quick": 3, "full": 5},
    stands_in=True,
)

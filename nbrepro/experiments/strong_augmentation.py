"""Chapter 5: strong augmentation, without clipping and with AGC (2102.06171, section 4).

At batch size 64 and rate 0.4 a small network trains without clipping on crops and mirror images.
Strong augmentation is RandAugment with four layers, at the magnitude of the paper's smallest
network. MixUp and CutMix are left out: with them too, a network learns so little in three epochs
(20.6 % on a seed that no claim counts) that a slow run could not be told from a failed one. There
is no SkipInit, so AGC leaves out what the paper leaves out, the classifier's weight.
"""

from typing import Any

from nbrepro.experiments.adaptive_gradient_clipping import EXPERIMENT as CLIPPING
from nbrepro.experiments.experiment import Experiment
from nbrepro.experiments.largest_rates import short
from nbrepro.spec import Spec

#: Magnitude of RandAugment (2102.06171, appendix A.3, for F0).
STRONG: dict[str, Any] = {"randaugment": 5.0}


def _arms(profile: str) -> list[Spec]:
    base = short(profile).replace(skip_init=False)
    if profile == "smoke":
        base = base.replace(epochs=2)
    if profile == "quick":
        base = base.replace(batch_size=64, epochs=3)
    ways = [base, base.replace(clip="agc", clipping=0.01)]
    return [way.replace(**more) for more in (STRONG, {}) for way in ways]


EXPERIMENT = Experiment(
    name="strong_augmentation",
    chapter="05_adaptive_gradient_clipping",
    title="Strong augmentation or crops alone, without clipping and with AGC",
    arms=_arms,
    seeds={"smoke": 1, "quick": 5, "full": 5},
    stands_in=True,
    published=CLIPPING.published,
)

"""Chapter 5: does AGC matter to AdamW, which rescales every gradient? (2102.06171 uses SGD alone.)

Rates from AdamW's usual one for small networks upwards. Gradients are clipped as in the paper, all
but the classifier's weight: SkipInit's scalars are no trap here, since AdamW moves a parameter by
about the rate per step, however small its gradient. No claim rests on these runs.
"""

from nbrepro.experiments.adaptive_gradient_clipping import LAMBDAS
from nbrepro.experiments.experiment import Experiment
from nbrepro.experiments.nf_resnets import recipe
from nbrepro.spec import Spec

RATES = (0.001, 0.004, 0.016)


def _arms(profile: str) -> list[Spec]:
    base = recipe(profile).replace(optimizer="adamw", weight_decay=0.05)
    if profile == "smoke":
        return [base.replace(lr=0.004, epochs=2, clip="agc", clipping=0.01)]
    if profile == "quick":
        base = base.replace(dataset=f"{base.dataset}-alltest")
    clips = [base, *(base.replace(clip="agc", clipping=x) for x in (LAMBDAS[0], LAMBDAS[-1]))]
    return [clip.replace(lr=rate) for rate in RATES for clip in clips]


EXPERIMENT = Experiment(
    name="adamw",
    chapter="05_adaptive_gradient_clipping",
    title="AdamW at three rates, without clipping and with AGC",
    arms=_arms,
    seeds={"smoke": 1, "quick": 3, "full": 5},
    stands_in=True,
)

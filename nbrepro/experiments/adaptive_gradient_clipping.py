"""Chapter 5: adaptive gradient clipping (arXiv 2102.06171, section 4, Figures 2 and 7).

The paper's batch sizes reach 4096 with a rate proportional to them; the large rate is what makes a
large batch hard. The ``quick`` profile keeps the batch at 256 and raises the rate; one sweep
changes the batch as the paper does.
"""

from typing import Any

from nbrepro.experiments.experiment import Experiment
from nbrepro.experiments.nf_resnets import recipe
from nbrepro.spec import Spec

RATES = (0.4, 1.6, 6.4)
LAMBDAS = (0.01, 0.04, 0.16)
THRESHOLDS = (0.25, 1.0, 4.0)
#: AGC that leaves out the zero-initialized SkipInit scalars: on schedules as short as ours they
#: would otherwise stay near zero (a clipped scalar moves at most rate × λ × 0.001 per step).
FREE = ("fc.weight", "*skip_gain")
#: Parts of ResNet-20, by the names of their parameters: the stem, and three stages of three blocks.
PARTS = ("stem.*", "blocks.[0-2].*", "blocks.[3-5].*", "blocks.[6-8].*")


def _agc(spec: Spec, clipping: float = 0.01, **changes: Any) -> Spec:
    return spec.replace(**{"clip": "agc", "clipping": clipping, "unclipped": FREE} | changes)


def _arms(profile: str) -> list[Spec]:
    nf = recipe(profile)
    bn = nf.replace(model="bn_" + nf.model)
    if profile == "smoke":
        return [bn.replace(lr=1.6), nf.replace(lr=1.6), _agc(nf.replace(lr=1.6))]
    at = {rate: nf.replace(lr=rate) for rate in RATES}
    sizes = (64, 1024) if profile == "quick" else (64, 1024, 4096)
    scaled = [nf.replace(batch_size=size, lr=0.4 * size / 256) for size in sizes]
    arms = [
        # which networks survive a large rate
        *(
            arm
            for rate in (1.6, 0.4, 6.4)
            for arm in (bn.replace(lr=rate), at[rate], _agc(at[rate]))
        ),
        # the same with larger batches, the rate in proportion
        *(arm for spec in scaled for arm in (spec.replace(model=bn.model), spec, _agc(spec))),
        # everything clipped except the classifier's weight, as in the paper
        *(_agc(at[1.6], x, unclipped=("fc.weight",)) for x in LAMBDAS),
        # which λ survives which rate
        *(_agc(at[rate], x) for rate in (1.6, 0.4) for x in LAMBDAS[1:]),
        # unit by unit or layer by layer
        _agc(at[1.6], clip="agc-layer"),
        # the same, the classifier or SkipInit clipped too, and LARS, where AGC saves every run
        _agc(scaled[1], clip="agc-layer"),
        _agc(scaled[1], unclipped=("*skip_gain",)),
        _agc(scaled[1], unclipped=("fc.weight",)),
        scaled[1].replace(optimizer="lars", lr=6.4, scalar_lr=0.4),
        # which parts must be clipped
        _agc(at[1.6], unclipped=("*skip_gain",)),
        *(_agc(at[1.6], unclipped=(*FREE, part)) for part in PARTS),
        # the norm of the whole gradient
        *(at[rate].replace(clip="norm", clipping=x) for x in THRESHOLDS for rate in (1.6, 0.4)),
        # after the first runs: the paper takes the best λ for each batch size, and clips SkipInit
        _agc(scaled[0], LAMBDAS[-1]),
        _agc(at[1.6], LAMBDAS[1], unclipped=("fc.weight", PARTS[0])),
        # LARS fixes the length of every update
        *(nf.replace(optimizer="lars", lr=rate) for rate in (1.6, 6.4, 25.6)),
        # the same, with a usual rate for biases, gains and SkipInit's scalars
        *(nf.replace(optimizer="lars", lr=rate, scalar_lr=0.4) for rate in (1.6, 6.4, 25.6)),
    ]
    return list(dict.fromkeys(arms))


EXPERIMENT = Experiment(
    name="adaptive_gradient_clipping",
    chapter="05_adaptive_gradient_clipping",
    title="Adaptive gradient clipping: rates, batch sizes, λ, units, layers, rivals",
    arms=_arms,
    seeds={"smoke": 1, "quick": 3, "full": 5},
    stands_in=True,
    published={
        "model": "NF-ResNet-50 and NF-ResNet-200, and BatchNorm twins",
        "dataset": "ImageNet",
        "epochs": 90,
        "warmup_epochs": "5 (code)",
        "batch_size": "256 to 4096",
        "lr": "0.1 for 256 images, in proportion",
        "optimizer": "nesterov",
        "weight_decay": "0.0001 (code)",
        "label_smoothing": "0.1",
        "clip": "agc or none; rivals in words only",
        "clipping": "0.01, 0.02, 0.04, 0.08, 0.16; the best for each batch size",
        "replicates": "5, of which the best 4 are averaged",
    },
)

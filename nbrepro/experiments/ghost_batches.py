"""Chapter 3: BatchNorm as a regularizer, tuned by ghost batches (2102.06171, section 2).

The batch has 256 images in every arm. What differs is how many of them BatchNorm's statistics see
at a time (Hoffer et al., arXiv 1705.08741), or that there is no BatchNorm. Nothing else
regularizes but weight decay: no augmentation, no smoothed labels.
"""

from nbrepro.experiments.experiment import Experiment
from nbrepro.experiments.largest_rates import short
from nbrepro.experiments.nf_resnets import EXPERIMENT as TWINS
from nbrepro.experiments.nf_resnets import recipe
from nbrepro.spec import Spec

SIZES = (16, 64)


def _arms(profile: str) -> list[Spec]:
    plain = {"augmentation": "none", "label_smoothing": 0.0}
    base = (short if profile == "quick" else recipe)(profile).replace(**plain)
    if profile == "quick":
        base = base.replace(epochs=10)
    whole = base.replace(model=f"bn_{base.model}")
    ghosts = [whole.replace(ghost_batch=size) for size in SIZES]
    return [whole, ghosts[0]] if profile == "smoke" else [whole, ghosts[0], base, *ghosts[1:]]


EXPERIMENT = Experiment(
    name="ghost_batches",
    chapter="03_regularization_and_large_batches",
    title="BatchNorm over 16, 64 or all 256 images of a batch, and without",
    arms=_arms,
    seeds={"smoke": 1, "quick": 5, "full": 5},
    stands_in=True,
    published=TWINS.published,
)

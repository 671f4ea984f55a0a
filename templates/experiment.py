"""TITLE (paper, section, figure or table)."""

from nbrepro.experiments.experiment import Experiment
from nbrepro.spec import Spec


def _arms(profile: str) -> list[Spec]:
    """The runs of one replicate, the most informative first."""
    if profile == "smoke":  # embedded digits, seconds per run: proves the code
        base = Spec(
            model="cifar_resnet8",
            dataset="digits",
            augmentation="none",
            epochs=4,
            precision="float32",
        )
    else:  # quick: a shortened schedule; full: the paper's own
        base = Spec(model="cifar_resnet14", epochs=8 if profile == "quick" else 160)
    return [base.replace(train=train) for train in ("gamma", "beta")]


EXPERIMENT = Experiment(
    name="NAME",
    chapter="NN_NAME",
    title="TITLE",
    arms=_arms,
    seeds={"smoke": 1, "quick": 3, "full": 5},
)

"""Chapter 11: one random network, and what each task of its own adds to it.

The tasks are halves of the classes of one data set. Their networks are drawn from the same seed, so
that all weights but those of the output layer are the same; what is trained belongs to the task.
"""

from nbrepro.experiments.affine_parameters import base
from nbrepro.experiments.experiment import Experiment
from nbrepro.spec import Spec

#: Which classes make a task, as part of the name of a data set.
TASKS = ("classes0to4", "classes5to9")
#: What a task may have of its own, from little to everything.
OWN = ("output", "batchnorm", "batchnorm+output", "all")


def _arms(profile: str) -> list[Spec]:
    network = base(profile)
    if profile == "smoke":
        return [network.replace(dataset=f"digits-{task}") for task in TASKS]
    small = "-16px" if profile == "quick" else ""
    data = [f"cifar10-{task}{small}" for task in TASKS]
    return [network.replace(dataset=name, train=train) for name in data for train in OWN]


EXPERIMENT = Experiment(
    name="many_tasks",
    chapter="11_one_network_many_tasks",
    title="Tasks that share one random network, each with γ and β or an output layer of its own",
    arms=_arms,
    seeds={"smoke": 1, "quick": 5, "full": 3},
)

"""Chapter 11: tasks of other images, on the random networks that the two tasks of CIFAR-10 share.

Five classes of Tiny ImageNet and five handwritten digits: with as many outputs, a seed draws the
same network for them as for half of CIFAR-10. The tasks are small, so they take more epochs; both
see about as many images as a task of CIFAR-10.
"""

from nbrepro.experiments.affine_parameters import base
from nbrepro.experiments.experiment import Experiment
from nbrepro.experiments.many_tasks import OWN
from nbrepro.spec import Spec

#: Data of a task → epochs at the ``quick`` profile; ``full`` has four times as many.
TASKS = {"tiny-imagenet-50@16-classes0to4": 60, "digits-classes0to4": 200}
#: The same → augmentation, which also tells their arms apart. A mirrored digit is no digit.
AUGMENTATIONS = dict(zip(TASKS, ("crop-flip", "none"), strict=True))


def _arms(profile: str) -> list[Spec]:
    network = base(profile)
    if profile == "smoke":
        return [network.replace(dataset="digits-classes0to4")]
    times = 4 if profile == "full" else 1
    tasks = [
        network.replace(dataset=name, epochs=times * epochs, augmentation=AUGMENTATIONS[name])
        for name, epochs in TASKS.items()
    ]
    return [task.replace(train=train) for task in tasks for train in OWN]


EXPERIMENT = Experiment(
    name="distant_tasks",
    chapter="11_one_network_many_tasks",
    title="The shared random network on tasks of other images: photographs of things, and digits",
    arms=_arms,
    seeds={"smoke": 1, "quick": 5, "full": 3},
)

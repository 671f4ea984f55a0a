"""The learning rate of every step."""

import math

from nbrepro.spec import Spec

DECAY = 0.1


def learning_rate(spec: Spec, step: int, steps_per_epoch: int) -> float:
    """The rate of the global step ``step`` (from 0).

    How a warm-up begins is a setting of the spec, see :class:`~nbrepro.spec.Spec`.
    """
    total = spec.epochs * steps_per_epoch
    warmup = round(spec.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return spec.lr * (step if spec.warmup_from_zero else step + 1) / warmup
    if spec.schedule == "cosine":
        return spec.lr * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1))) / 2
    if spec.schedule == "step":
        return spec.lr * DECAY ** sum(step >= round(m * total) for m in spec.milestones)
    return spec.lr

"""One run: its network and data on the device, and the two steps that a driver repeats.

Two drivers have the same methods ``epoch`` and ``evaluate``: :class:`nbrepro.train.loop.Eager`
launches every step from Python, :class:`nbrepro.train.cuda_graph.Captured` replays recorded ones.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nbrepro.data.batches import Batches, Draws, epoch_draws
from nbrepro.spec import Spec
from nbrepro.train.checkpoint import State
from nbrepro.train.step import evaluation_step, train_step

#: Test images per step.
EVALUATION_BATCH = 1000


@dataclass(frozen=True)
class Run:
    """A network, its data and how it is trained.

    Attributes:
        spec: what is run.
        state: what the steps change.
        model: the network as the accelerator prepared it; ``state.model`` is the bare one.
        training: the training set.
        test: the test set.
        autocast: context of the forward passes.
        backward: computes the gradients of a loss.
    """

    spec: Spec
    state: State
    model: nn.Module
    training: Batches
    test: Batches
    autocast: AbstractContextManager[Any]
    backward: Callable[[Tensor], object]

    @property
    def device(self) -> torch.device:
        """Where the steps are computed."""
        return self.training.labels.device

    @property
    def steps_per_epoch(self) -> int:
        """Steps in an epoch, with a short last batch included."""
        return math.ceil(len(self.training) / self.spec.batch_size)

    def draws(self, epoch: int) -> Draws:
        """An epoch's random numbers, on the device."""
        spec = self.spec
        drawn = epoch_draws(
            *(spec.seed, epoch, len(self.training), self.training.pad),
            boxes=spec.augmentation == "resized-crop",
            mixup=spec.mixup,
            cutmix=spec.cutmix,
            randaugment=spec.randaugment,
        )
        return {name: rows.to(self.device) for name, rows in drawn.items()}

    def train_on(self, draws: Draws, lr: float | Tensor, number: int | Tensor) -> None:
        """Train on one batch; waits for nothing.

        Args:
            draws: the batch's rows of the epoch's draws.
            lr: the learning rate, a number or a scalar tensor on the device.
            number: number of the step, from the start of training; likewise.
        """
        state = self.state
        measured = train_step(
            self.model,
            state.optimizer,
            self.training.batch(draws),
            self.spec,
            lr,
            autocast=self.autocast,
            backward=self.backward,
        )
        if state.average is not None:
            state.average.update(number)
        state.sums.add(measured, number)

    def test_on(self, index: Tensor) -> None:
        """Evaluate one batch: the test images ``index``."""
        batch = self.test.batch({"order": index})
        self.state.sums.tested += evaluation_step(self.state.model, batch, autocast=self.autocast)


def batch_sizes(images: int, batch: int) -> list[int]:
    """The sizes of the batches of one pass: full ones, then a short one if images remain."""
    return [min(batch, images - start) for start in range(0, images, batch)]

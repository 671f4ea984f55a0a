"""How smooth the loss is along the gradient, with BatchNorm and without (Santurkar et al., 2018).

Their experiment (arXiv 1805.11604, section 3.2, Figure 4) goes from where a network stands in the
direction of its gradient and asks how far loss and gradient get from what they were. A rate is
usable as long as the gradient at the start still says something of the place that a step leads to.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nbrepro import data, models
from nbrepro.claims.checks import Outcome, check_over

#: Reader's name → network, that with BatchNorm first.
TWINS = {"BatchNorm": "bn_cifar_nf_resnet8", "normalizer-free": "cifar_nf_resnet8"}
#: Lengths of a step in multiples of the gradient: octaves around usual rates.
RATES = (0.1, 0.2, 0.4, 0.8, 1.6)
#: Before measuring: steps of gradient descent, their rate, and images of a batch.
STEPS, RATE, BATCH = 40, 0.1, 128


class Along(NamedTuple):
    """The loss on one batch along its gradient.

    Attributes:
        loss: where the network stands.
        losses: after a step of each rate.
        changes: distance of the gradient there from the first one, in units of its length.
    """

    loss: float
    losses: list[float]
    changes: list[float]


def digits() -> tuple[Tensor, Tensor]:
    """The handwritten digits ``[N, 3, 8, 8]``, standardized, and their labels."""
    found = data.load("digits")
    images = found.train_images.permute(0, 3, 1, 2).float()
    return (images - images.mean()) / images.std(), found.train_labels


def gradient(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """Mean loss of a batch, and its gradient as one vector."""
    loss = F.cross_entropy(model(images), labels)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    return loss.item(), torch.cat([grad.flatten() for grad in grads])


def trained(name: str, steps: int, images: Tensor, labels: Tensor) -> nn.Module:
    """A network after some steps of plain gradient descent on batches drawn from the images."""
    model = models.create(name).train()
    for _ in range(steps):
        batch = torch.randint(len(images), (BATCH,))
        move(model, RATE, gradient(model, images[batch], labels[batch])[1])
    return model


def move(model: nn.Module, rate: float, direction: Tensor) -> None:
    """A step of ``-rate · direction``."""
    parameters = list(model.parameters())
    vector_to_parameters(parameters_to_vector(parameters).detach() - rate * direction, parameters)


def along(model: nn.Module, images: Tensor, labels: Tensor, rates: tuple[float, ...]) -> Along:
    """Loss and gradient after steps of several rates from one place; the network returns there."""
    loss, start = gradient(model, images, labels)
    losses, changes = [], []
    for rate in rates:
        move(model, rate, start)
        there, other = gradient(model, images, labels)
        move(model, -rate, start)
        losses.append(there)
        changes.append(float((other - start).norm() / start.norm()))
    return Along(loss, losses, changes)


def compared(steps: int, rates: tuple[float, ...] = RATES) -> dict[str, Along]:
    """Both twins after so many steps, measured on the same batch."""
    images, labels = digits()
    batch = torch.randint(len(images), (2 * BATCH,))
    return {
        name: along(trained(model, steps, images, labels), images[batch], labels[batch], rates)
        for name, model in TWINS.items()
    }


@check_over(seeds=10)
def smoothness() -> Outcome:
    """Largest change of the gradient, and highest loss, along it after 40 steps (section 2).

    Without BatchNorm over with it, over steps of rates 0.1 to 1.6. The note has the change before
    the first step, too.
    """
    bn, nf = compared(STEPS).values()
    changes = {"bn": max(bn.changes), "nf": max(nf.changes)}
    highest = {"bn_loss": max(bn.losses), "nf_loss": max(nf.losses)}
    first, other = compared(0).values()
    return Outcome(
        {
            "gradient_change": changes["nf"] / changes["bn"],
            "highest_loss": highest["nf_loss"] / highest["bn_loss"],
        },
        "ResNet-8 after 40 steps on handwritten digits, then steps of rates 0.1 to 1.6 along the "
        "gradient: the gradient changes by up to {bn:.1f} times its length with BatchNorm and by "
        "{nf:.1f} without; the loss reaches {bn_loss:.2f} and {nf_loss:.2f}. Before the first step "
        "the gradient changes by {bn_first:.1f} and {nf_first:.1f}",
        changes | highest | {"bn_first": max(first.changes), "nf_first": max(other.changes)},
    )

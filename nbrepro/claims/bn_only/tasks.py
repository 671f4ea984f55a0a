"""Several tasks on one network of random weights: what they share, to the bit."""

import torch
from torch import Tensor, nn

from nbrepro import freezing, models
from nbrepro.claims.checks import Outcome, check, seeded

_OWN = "batchnorm+output"


def _draw(classes: int) -> nn.Module:
    """As :func:`nbrepro.train.assembly.initial_model` does, which brings all of training along."""
    with seeded(3):
        return models.create("cifar_resnet14", classes)


def _learn(model: nn.Module, labels: Tensor, images: Tensor) -> None:
    """Three steps, with weight decay and momentum, of what a task has of its own."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-4)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    model.eval()


def own(model: nn.Module, train: str) -> dict[str, Tensor]:
    """What a task stores: what was trained, and BatchNorm's running statistics."""
    trained = {*freezing.freeze(model, train=train).names, *dict(model.named_buffers())}
    return {name: value.clone() for name, value in model.state_dict().items() if name in trained}


@check
def one_backbone() -> Outcome:
    """Two tasks on one ResNet-14, each with γ, β, running statistics and output layer of its own.

    Values count, after three steps of SGD with weight decay for each task: ``shared``, frozen
    tensors that training changed; ``swapped``, images for which one network
    object, given the parameters of a task, answers otherwise than the network of the task did, when
    the tasks take turns; ``same``, tasks that do not differ in what they have of their own.
    """
    drawn = _draw(5).state_dict()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(32, 3, 16, 16, generator=generator)
    stored, answers, shared = [], [], 0
    for _ in range(2):
        model = _draw(5)
        freezing.freeze(model, train=_OWN)
        _learn(model, torch.randint(5, (32,), generator=generator), images)
        stored.append(own(model, _OWN))
        answers.append(model(images))
        after = model.state_dict()
        frozen = [name for name in drawn if name not in stored[-1]]
        shared += sum(not torch.equal(drawn[name], after[name]) for name in frozen)

    model = _draw(5).eval()
    swapped = 0
    for task in (0, 1, 0, 1):
        model.load_state_dict(stored[task], strict=False)
        swapped += int((model(images) != answers[task]).any(1).sum())
    same = int(torch.equal(answers[0], answers[1]))
    return Outcome(
        {"shared": shared, "swapped": swapped, "same": same},
        f"{len(frozen)} frozen tensors are the same to the bit, and so are the answers to "
        f"{len(images)} images each time that the tasks take turns",
    )

"""What the chapter on the dependence between images measures live, for its figures.

The checks of :mod:`nbrepro.claims.nfnets.dependence` decide; here seeds are drawn, mostly one.
"""

import copy
import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nbrepro.claims.checks import seeded
from nbrepro.claims.nfnets import dependence
from nbrepro.claims.nfnets.batchnorm import TWINS, gradient, twin

#: Name → value at each point across, for :func:`nbrepro.book.figures.lines`.
Lines = dict[str, Mapping[float, float]]


def influence(model: nn.Module, images: Tensor) -> Tensor:
    """How much image j moves the output for image i, ``[output, image]``."""
    images = images.clone().requires_grad_()
    rows = []
    for logits in model(images):
        size = logits.norm()
        (gradient,) = torch.autograd.grad(size, images, retain_graph=True)
        rows.append(gradient.flatten(1).norm(dim=1))
    return torch.stack(rows)


def influences() -> dict[str, Tensor]:
    """The influence of eight images of noise in two untrained twins, relative to their own."""
    batch = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = {}
    for name in TWINS:
        torch.manual_seed(0)
        share = influence(twin(name), batch)
        found[name] = share / share.diagonal()[:, None]
    return found


def gaps(updates: int = 60) -> Lines:
    """Number of updates of the running statistics → difference of the modes' outputs, relative.

    Of 32 images of noise, in an untrained network with BatchNorm whose weights never change.
    """
    torch.manual_seed(0)
    model = twin("BatchNorm")
    found: dict[float, float] = {}
    with torch.no_grad():
        for update in range(1, updates + 1):
            images = torch.randn(32, 3, 16, 16)
            train = model.train()(images)
            found[update] = float((model.eval()(images) - train).norm() / train.norm())
    return {"BatchNorm": found}


def divided() -> Lines:
    """Number of devices → difference of the gradient of 32 images of noise, relative."""
    torch.manual_seed(0)
    images, labels = torch.randn(32, 3, 16, 16), torch.randint(10, (32,))
    found: Lines = {}
    for name in TWINS:
        model = twin(name)
        whole = gradient(model, images, labels)
        parts = {k: gradient(model, images, labels, k) - whole for k in (2, 4, 8, 16)}
        found[name] = {k: float(part.norm() / whole.norm()) for k, part in parts.items()}
    return found


def matching() -> Lines:
    """Step → loss of the matching task on noise, the mean of ten steps."""
    found: Lines = {}
    for name, batchnorm, shuffled in (
        ("BatchNorm", True, False),
        ("BatchNorm: partners elsewhere", True, True),
        ("normalizer-free", False, False),
    ):
        torch.manual_seed(0)
        model = dependence.Small(dependence.VIEW, 32, batchnorm)
        losses = dependence.matching_curve(model, shuffled)
        tens = (losses[i : i + 10] for i in range(0, len(losses), 10))
        found[name] = {10 * i + 5: sum(ten) / len(ten) for i, ten in enumerate(tens)}
    return found


def noise() -> tuple[Lines, Lines]:
    """Batch size → how far means of batches are off, in deviations: measured, and by theory."""
    torch.manual_seed(0)
    measured = dependence.statistics_noise_by_size()
    return (
        {"measured": {size: mean for size, (mean, _) in measured.items()}},
        {"1 / √n": {size: size**-0.5 for size in measured}},
    )


#: The digit that :func:`in_company` follows: of the training set, near the middle of its channel.
DIGIT = 10


@torch.no_grad()
def in_company(batches: int = 40) -> tuple[dict[int, list[float]], float]:
    """Where BatchNorm puts one value of one digit, by the images in a batch; and in evaluation.

    One channel of a random layer. A batch begins with the digit; the others are drawn at random,
    and a larger batch begins with the images of the smaller one. Random numbers are Python's and
    all sums double, so that the places are the same on every machine.
    """
    draw = random.Random(0)
    pixels = dependence.digits()["train"][0].double()
    weights = torch.tensor([draw.random() - 0.5 for _ in range(pixels.shape[1])])
    channel = (pixels @ weights.double())[:, None]
    layer = dependence.BatchNorm(1).double()
    others = [row for row in range(len(channel)) if row != DIGIT]
    drawn = [
        [DIGIT, *(others[int(draw.random() * len(others))] for _ in range(255))]
        for _ in range(batches)
    ]
    found = {
        size: layer(channel[torch.tensor(drawn)[:, :size]])[:, 0, 0].tolist()
        for size in (2, 4, 8, 16, 32, 64, 128, 256)
    }
    whole: Tensor = layer(channel)  # what running averages over all digits come to
    return found, float(whole[DIGIT])


def looking(seeds: Sequence[int] = range(10)) -> dict[str, list[Mapping[float, float]]]:
    """Forward passes over negatives → accuracy on digits in percent, a row for each seed.

    No parameter of the networks changes. With the same random numbers as in the check of this.
    """
    found: dict[str, list[Mapping[float, float]]] = {}
    for seed in seeds:
        with seeded(seed):
            for name, row in _looking().items():
                found.setdefault(name, []).append(row)
    return found


def _looking(passes: int = 100, every: int = 10) -> Lines:
    known = dependence.frozen()
    networks: dict[str, nn.Module] = {
        "BatchNorm": known,
        "BatchNorm: evaluation mode": copy.deepcopy(known).eval(),
        "normalizer-free": dependence.frozen(batchnorm=False),
    }
    found: Lines = {}
    for name, model in networks.items():
        row = {0.0: 100 * dependence.clean_accuracy(model)}
        for done in range(every, passes + 1, every):
            dependence.show_negatives(model, every)
            row[done] = 100 * dependence.clean_accuracy(model)
        found[name] = row
    return found


#: The arms of the chapter's runs, as its claims have them.
ARMS = {
    f"batch {size}: {name}": {
        "model": f"{prefix}cifar_nf_resnet8",
        "batch_size": size,
        "skip_init": name == "BatchNorm",
    }
    for size in (16, 4)
    for name, prefix in (("BatchNorm", "bn_"), ("normalizer-free", ""))
}

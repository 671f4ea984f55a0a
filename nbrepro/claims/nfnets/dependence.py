"""What becomes possible, and what goes wrong, because BatchNorm makes a batch of its images.

The networks are small on purpose: one residual block for vectors, with BatchNorm and without. What
is shown lies in the layer, not in the size.
"""

import copy
import math
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbrepro import data
from nbrepro.claims.checks import Outcome, check_over

#: Of every demonstration, Adam's.
RATE = 5e-3


class BatchNorm(nn.BatchNorm1d):
    """PyTorch's, for several batches at once: ``[..., B, C]``, each with its own statistics.

    The running statistics follow the mean over the batches.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize over the second last dimension; in evaluation by the running statistics."""
        assert self.running_mean is not None
        assert self.running_var is not None
        mean, var = self.running_mean, self.running_var
        if self.training:
            var, mean = torch.var_mean(input, dim=-2, correction=0, keepdim=True)
            unbiased = var.detach() * input.shape[-2] / (input.shape[-2] - 1)
            for running, found in (
                (self.running_mean, mean.detach()),
                (self.running_var, unbiased),
            ):
                running.lerp_(found.flatten(0, -2).mean(0), 0.1)
        return (input - mean) / (var + self.eps).sqrt() * self.weight + self.bias


class Small(nn.Module):
    """A residual network of one block: ``[..., B, inputs]`` → ``[..., B, outputs]``.

    Args:
        inputs: numbers per example.
        outputs: numbers that it answers with.
        batchnorm: whether its branch is normalized; the twin has nothing in that place.
    """

    def __init__(self, inputs: int, outputs: int, batchnorm: bool) -> None:
        super().__init__()
        self.stem = nn.Linear(inputs, 64)
        self.norm = BatchNorm(64) if batchnorm else nn.Identity()
        self.branch = nn.Linear(64, 64)
        self.fc = nn.Linear(64, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Stem, block, output layer."""
        x = self.stem(x)
        x = x + self.branch(self.norm(x).relu())
        out: Tensor = self.fc(x.relu())
        return out


# --- cheating: what only the rest of the batch could tell -----------------------------------------

#: Of the matching task: devices, pairs of views per device, numbers per view, temperature.
DEVICES, PAIRS, VIEW, TEMPERATURE = 8, 2, 16, 0.2
#: Its loss when guessing among all pairs, and among those of the own device.
CHANCE, FLOOR = math.log(DEVICES * PAIRS), math.log(PAIRS)


def matching_loss(model: nn.Module, shuffled: bool) -> Tensor:
    """The loss of finding one's partner, on a fresh batch in which nothing tells who it is.

    Every view is noise of its own, so that partners have nothing in common but the device that
    they pass through; shuffled (as in MoCo, arXiv 1911.05722) not even that.
    """
    views = torch.randn(2, DEVICES, PAIRS, VIEW)
    if shuffled:
        views[1] = views[1].roll(1, 0)  # a partner is on the next device
    seen = F.normalize(model(torch.cat([*views], dim=1)), dim=-1)
    first, second = seen.chunk(2, dim=1)
    if shuffled:
        second = second.roll(-1, 0)
    likeness = first.flatten(0, 1) @ second.flatten(0, 1).T
    return F.cross_entropy(likeness / TEMPERATURE, torch.arange(DEVICES * PAIRS))


def matching_curve(model: nn.Module, shuffled: bool = False, steps: int = 200) -> list[float]:
    """Train on :func:`matching_loss`; the loss of every step."""
    optimizer = _optimizer(model)
    return [_step(optimizer, matching_loss(model, shuffled)) for _ in range(steps)]


@torch.no_grad()
def _mean_loss(model: nn.Module, shuffled: bool) -> float:
    return sum(float(matching_loss(model, shuffled)) for _ in range(50)) / 50


@check_over(seeds=10)
def cheating_pairs() -> Outcome:
    """Loss of a contrastive task on noise, below that of guessing (section 1, appendix B).

    16 pairs on 8 devices that normalize their own views; 200 steps; fresh batches. With BatchNorm,
    the same network in evaluation, one trained with partners on other devices, and without it.
    """
    model = Small(VIEW, 32, batchnorm=True)
    matching_curve(model)
    below = {"batchnorm": CHANCE - _mean_loss(model, shuffled=False)}
    below["evaluation"] = CHANCE - _mean_loss(model.eval(), shuffled=False)
    for name, batchnorm in (("shuffled", True), ("normalizer_free", False)):
        model = Small(VIEW, 32, batchnorm)
        matching_curve(model, shuffled=batchnorm)
        below[name] = CHANCE - _mean_loss(model, shuffled=batchnorm)
    return Outcome(
        below,
        f"guessing among 16 pairs of noise costs {CHANCE:.2f}; below that BatchNorm comes by "
        f"{{batchnorm:.2f}} of at most {CHANCE - FLOOR:.2f}, in evaluation by {{evaluation:.2f}}, "
        "with partners on other devices by {shuffled:.3f}, without BatchNorm by "
        "{normalizer_free:.3f}",
    )


def others_batch(carriers: int = 16, inputs: int = 16) -> tuple[Tensor, Tensor]:
    """A batch whose first half carries labels, and the mean of these labels.

    Returns:
        ``[2 * carriers, inputs]``: noise, and in the first half a label of each example added to
        all its numbers; and the labels' mean, scaled to variance one.
    """
    labels = torch.randn(carriers)
    examples = torch.randn(2 * carriers, inputs)
    examples[:carriers] += labels[:, None]
    return examples, labels.mean() * math.sqrt(carriers)


@check_over(seeds=10)
def cheating_others() -> Outcome:
    """What is explained of the mean label of others, from an example of pure noise (section 1).

    16 examples of noise are asked, 16 others carry the labels; 200 steps; R² on fresh batches. And
    how far an answer moves when the others are drawn anew, in the normalizer-free twin.
    """
    found: dict[str, float] = {}
    for name, batchnorm in (("batchnorm", True), ("normalizer_free", False)):
        model = Small(16, 1, batchnorm)
        optimizer = _optimizer(model)
        for _ in range(200):
            _step(optimizer, _others_error(model))
        with torch.no_grad():
            found[name] = 1 - sum(float(_others_error(model)) for _ in range(200)) / 200
            if batchnorm:
                model.eval()
                found["evaluation"] = 1 - sum(float(_others_error(model)) for _ in range(200)) / 200
    with torch.no_grad():
        (one, _), (other, _) = others_batch(), others_batch()
        moved = model(torch.cat([other[:16], one[16:]]))[16:] - model(one)[16:]
    return Outcome(
        found | {"moved": float(moved.abs().max())},
        "of the variance of the others' mean label, noise explains {batchnorm:.2f} with "
        "BatchNorm, {evaluation:.2f} in evaluation, {normalizer_free:.2f} without BatchNorm, where "
        "other companions move the answer by {moved:g}",
    )


def _others_error(model: nn.Module) -> Tensor:
    """Mean squared error; the target has variance one, so that 1 is as good as knowing nothing."""
    examples, target = others_batch()
    return F.mse_loss(model(examples)[16:, 0], target.expand(16))


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=RATE, fused=True)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


# --- batches of one class -------------------------------------------------------------------------


@cache
def digits() -> dict[str, tuple[Tensor, Tensor]]:
    """The embedded digits, ``train`` and ``test``: pixels ``[N, 64]`` of mean 0 and variance 1."""
    loaded = data.load("digits")
    parts = {
        "train": (loaded.train_images, loaded.train_labels),
        "test": (loaded.test_images, loaded.test_labels),
    }
    pixels = {
        name: torch.as_tensor(images)[..., 0].float().flatten(1)
        for name, (images, _) in parts.items()
    }
    std, mean = torch.std_mean(pixels["train"])
    return {
        name: ((pixels[name] - mean) / std, torch.as_tensor(labels).long())
        for name, (_, labels) in parts.items()
    }


@cache
def _by_class(part: str) -> list[Tensor]:
    """The positions of the images of each class."""
    return [(digits()[part][1] == c).nonzero()[:, 0] for c in range(10)]


def ten_batches(part: str, by_class: bool, noise: float = 2.0) -> tuple[Tensor, Tensor]:
    """160 noisy digits, 16 of each class, as ten batches: one per class, or mixed.

    Args:
        part: ``train`` or ``test``.
        by_class: whether a batch has one class only.
        noise: standard deviation of what is added to every pixel, whose own is 1.

    Returns:
        Pixels ``[10, 16, 64]`` and labels ``[10, 16]``.
    """
    images, labels = digits()[part]
    rows = torch.cat([own[torch.randint(len(own), (16,))] for own in _by_class(part)])
    noisy, mixed = images[rows] + noise * torch.randn(160, 64), torch.randperm(160)
    order = torch.arange(160) if by_class else mixed
    return noisy[order].view(10, 16, 64), labels[rows][order].view(10, 16)


def trained_on_digits(batchnorm: bool, by_class: bool, noise: float = 2.0) -> Small:
    """A network after 100 steps, each over ten batches, in training mode."""
    model = Small(64, 10, batchnorm)
    optimizer = _optimizer(model)
    for _ in range(100):
        images, labels = ten_batches("train", by_class, noise)
        _step(optimizer, F.cross_entropy(model(images).flatten(0, 1), labels.flatten()))
    return model


@torch.no_grad()
def accuracy(model: nn.Module, by_class: bool) -> float:
    """On 3,200 noisy test images in batches of 16; running statistics stay as they are."""
    model = copy.deepcopy(model)
    batches = [ten_batches("test", by_class) for _ in range(20)]
    images, labels = (torch.cat(side) for side in zip(*batches, strict=True))
    return float((model(images).argmax(-1) == labels).float().mean())


@check_over(seeds=10)
def cheating_class() -> Outcome:
    """Accuracy on noisy digits when every batch has one class (section 1).

    In training mode on such batches, and the same network in training mode on mixed batches; with
    BatchNorm, and without, where both are computed on the same images.
    """
    found: dict[str, float] = {}
    for name, batchnorm in (("batchnorm", True), ("normalizer_free", False)):
        model = trained_on_digits(batchnorm, by_class=True)
        state = torch.get_rng_state()
        found[name] = accuracy(model, by_class=True)
        torch.set_rng_state(state)
        found[f"{name}_mixed"] = accuracy(model, by_class=False)
    return Outcome(
        {
            "over_twin": found["batchnorm"] - found["normalizer_free"],
            "lost_when_mixed": found["batchnorm"] - found["batchnorm_mixed"],
            "free_lost_when_mixed": found["normalizer_free"] - found["normalizer_free_mixed"],
        },
        "noisy digits in batches of one class: {batchnorm:.0%} right with BatchNorm, {free:.0%} "
        "without; the same images in mixed batches: {mixed:.0%} and {free_mixed:.0%}",
        {
            "batchnorm": found["batchnorm"],
            "free": found["normalizer_free"],
            "mixed": found["batchnorm_mixed"],
            "free_mixed": found["normalizer_free_mixed"],
        },
    )


@check_over(seeds=10)
def sorted_batches() -> Outcome:
    """Accuracy in evaluation that batches of one class cost in training (section 1).

    Against training on the same images in mixed batches, from the same weights; a step takes the
    mean of ten batches either way.
    """
    ended: dict[str, list[float]] = {}
    for name, batchnorm in (("batchnorm", True), ("normalizer_free", False)):
        start = torch.get_rng_state()
        ended[name] = []
        for pure in (False, True):
            torch.set_rng_state(start)
            model = trained_on_digits(batchnorm, by_class=pure)
            ended[name].append(accuracy(model.eval(), by_class=False))
    (mixed, by_class), (free_mixed, free_by_class) = ended.values()
    return Outcome(
        {"batchnorm": mixed - by_class, "normalizer_free": free_mixed - free_by_class},
        "noisy digits, in evaluation: {mixed:.0%} right after training on mixed batches, "
        "{by_class:.0%} after batches of one class; without BatchNorm {free_mixed:.0%} and "
        "{free_by_class:.0%}",
        {
            "mixed": mixed,
            "by_class": by_class,
            "free_mixed": free_mixed,
            "free_by_class": free_by_class,
        },
    )


# --- statistics -----------------------------------------------------------------------------------

#: Batch sizes at which statistics are measured.
SIZES = (4, 16, 64, 256)


@torch.no_grad()
def statistics_noise_by_size() -> dict[int, tuple[float, float]]:
    """Batch size → how far a batch's mean and deviation lie from those of all images.

    Of a random stem's channels over the digits, root mean square over 200 batches and 64 channels:
    the mean's in deviations, the deviation's as a share of itself.
    """
    values = nn.Linear(64, 64)(digits()["train"][0])
    std, mean = torch.std_mean(values, dim=0)
    found = {}
    for size in SIZES:
        batches = values[torch.randint(len(values), (200, size))]
        stds, means = torch.std_mean(batches, dim=1)
        found[size] = (
            float(((means - mean) / std).square().mean().sqrt()),
            float((stds / std - 1).square().mean().sqrt()),
        )
    return found


@check_over(seeds=10)
def statistics_noise() -> Outcome:
    """The deviation of a batch's mean, times the root of the batch's size (section 1).

    In deviations of single images, 1 by theory, at batch sizes 4 and 256. And how many times wider
    than at 256 means scatter at 4, 8 by theory.
    """
    noise = statistics_noise_by_size()
    small, large = noise[4][0], noise[256][0]
    return Outcome(
        {"at_4": small * 2, "at_256": large * 16, "ratio": small / large},
        "means of batches lie {small:.2f} deviations off at batch size 4 (theory 0.50), {large:.3f}"
        " at 256 (theory 0.063); deviations of batches are {spread:.0%} and {less:.1%} off",
        {"small": small, "large": large, "spread": noise[4][1], "less": noise[256][1]},
    )


@torch.no_grad()
def show_negatives(model: nn.Module, passes: int) -> None:
    """Forward passes alone, over batches of 32 digits, dark where they were bright."""
    images = digits()["train"][0]
    for _ in range(passes):
        model(-images[torch.randint(len(images), (32,))])


@torch.no_grad()
def clean_accuracy(model: nn.Module) -> float:
    """On the digits' test images, in evaluation; the mode is left as it was."""
    images, labels = digits()["test"]
    answered = copy.deepcopy(model).eval()(images).argmax(1)
    return float((answered == labels).float().mean())


def frozen(batchnorm: bool = True) -> Small:
    """A network that knows the digits, no parameter of which is trained any more."""
    model = trained_on_digits(batchnorm, by_class=False, noise=0.0)
    return model.requires_grad_(False)


@check_over(seeds=10)
def frozen_statistics() -> Outcome:
    """Accuracy that a network without a trained parameter loses by looking (appendix B).

    Over 100 forward passes on negatives: in training mode; in evaluation mode, the cure; and the
    normalizer-free twin in training mode. And how many parameters changed.
    """
    known = frozen()
    before = clean_accuracy(known)
    twin = frozen(batchnorm=False)
    cases: dict[str, nn.Module] = {
        "batchnorm": copy.deepcopy(known),
        "cured": copy.deepcopy(known).eval(),
        "normalizer_free": twin,
    }
    lost: dict[str, float] = {}
    changed = 0
    for name, model in cases.items():
        first, weights = clean_accuracy(model), [p.clone() for p in model.parameters()]
        show_negatives(model, 100)
        lost[name] = first - clean_accuracy(model)
        pairs = zip(model.parameters(), weights, strict=True)
        changed += sum(int((now != then).sum()) for now, then in pairs)
    return Outcome(
        lost | {"changed": float(changed)},
        "digits, all parameters frozen: {before:.0%} right before 100 passes over negatives, "
        "{after:.0%} afterwards, with {changed:g} parameters changed; in evaluation mode "
        "{cured:g} lost, without BatchNorm {normalizer_free:g}",
        {"before": before, "after": before - lost["batchnorm"]},
    )

import io
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import loaded
from torch import Tensor, nn

from nbrepro import models
from nbrepro.data import MEAN, STD, Batches, Dataset
from nbrepro.data.batches import epoch_draws
from nbrepro.spec import Spec
from nbrepro.train import assembly
from nbrepro.train.loop import Interrupted, Result, train
from nbrepro.train.schedule import learning_rate
from nbrepro.train.step import train_step


def assert_same_weights(a: nn.Module, b: nn.Module) -> None:
    """To the bit, statistics included."""
    other = b.state_dict()
    assert a.state_dict().keys() == other.keys()
    for name, tensor in a.state_dict().items():
        assert torch.equal(tensor, other[name]), name


# --- schedule ----------------------------------------------------------------------------------

PAPER = Spec(model="cifar_resnet14")  # 160 epochs of 391 steps


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.1),
        (391 * 80 - 1, 0.1),
        (391 * 80, 0.01),
        (391 * 120 - 1, 0.01),
        (391 * 120, 0.001),
        (391 * 160 - 1, 0.001),
    ],
)
def test_the_papers_steps(step: int, expected: float) -> None:
    assert learning_rate(PAPER, step, 391) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 0.1), (40, 0.05 + 0.025 * math.sqrt(2)), (80, 0.05), (160, 0.0)]
)
def test_cosine(epoch: int, expected: float) -> None:
    rate = learning_rate(PAPER.replace(schedule="cosine"), 391 * epoch, 391)
    assert rate == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("schedule", ["step", "cosine", "constant"])
@pytest.mark.parametrize("from_zero", [True, False])
def test_warm_up_rises_evenly_to_the_full_rate(schedule: str, from_zero: bool) -> None:
    """From zero as in the code of both papers; without it as in the first records."""
    spec = PAPER.replace(schedule=schedule, warmup_epochs=5, warmup_from_zero=from_zero)
    rates = [learning_rate(spec, step, 391) for step in range(5 * 391 + 1)]
    first = 0 if from_zero else 1
    expected = [0.1 * (i + first) / 1955 for i in range(1955)]
    assert rates[:-1] == pytest.approx(expected, rel=1e-12)
    assert rates[-1] == pytest.approx(0.1, rel=1e-12)


def test_step_milestones_count_from_the_start_of_the_warm_up() -> None:
    spec = PAPER.replace(warmup_epochs=5)
    assert learning_rate(spec, 391 * 80 - 1, 391) == pytest.approx(0.1)
    assert learning_rate(spec, 391 * 80, 391) == pytest.approx(0.01)


def test_constant() -> None:
    spec = PAPER.replace(schedule="constant")
    assert {learning_rate(spec, step, 391) for step in (0, 391 * 80, 391 * 160 - 1)} == {0.1}


# --- order and augmentation ----------------------------------------------------------------------


def test_draws_cover_every_image_and_every_offset() -> None:
    draws = epoch_draws(0, 0, 5_000, 4)
    order, offset, flip = draws["order"], draws["offset"], draws["flip"]
    assert torch.equal(order.sort().values, torch.arange(5_000))
    assert offset.shape == (5_000, 2)
    assert sorted(offset.unique().tolist()) == list(range(9))
    assert abs(float(flip.float().mean()) - 0.5) < 4 * 0.5 / math.sqrt(5_000)


def test_draws_are_a_function_of_seed_and_epoch() -> None:
    strong: dict[str, Any] = {"mixup": 0.2, "cutmix": 1.0, "randaugment": 5.0}
    keys = [(0, 0), (0, 1), (1, 0), (1, 11), (11, 1)]
    drawn = {key: epoch_draws(*key, 100, 4, **strong) for key in keys}
    again = epoch_draws(0, 1, 100, 4, **strong)
    assert list(again) == ["order", "offset", "flip", "mixup", "cutmix", "randaugment"]
    for name, rows in again.items():
        assert torch.equal(drawn[0, 1][name], rows)
        assert len({tuple(draws[name].flatten().tolist()) for draws in drawn.values()}) == 5


def test_strong_augmentation_leaves_order_and_crops_alone() -> None:
    weak, strong = epoch_draws(0, 1, 100, 4), epoch_draws(0, 1, 100, 4, mixup=0.2, randaugment=5.0)
    assert list(weak) == ["order", "offset", "flip"]
    assert all(torch.equal(rows, strong[name]) for name, rows in weak.items())
    assert list(epoch_draws(0, 1, 100)) == ["order"]


def test_draws_leave_the_callers_generator_alone() -> None:
    before = torch.get_rng_state()
    epoch_draws(0, 0, 10, 4, mixup=0.2, cutmix=1.0, randaugment=5.0)
    assembly.initial_model(PAPER, 10)
    assert torch.equal(torch.get_rng_state(), before)


# --- the loop against a plain one -----------------------------------------------------------------


def trained_by_hand(model: nn.Module, policy: str) -> list[nn.Parameter]:
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    chosen: dict[str, list[nn.Parameter]] = {
        "all": list(model.parameters()),
        "batchnorm": [p for m in norms for p in (m.weight, m.bias)],
        "output": list(model.get_submodule("fc").parameters()),
    }
    return chosen[policy]


def prepare(image: Tensor, row: int, column: int, flip: bool, pad: int) -> Tensor:
    padded = torch.zeros(image.shape[0] + 2 * pad, image.shape[1] + 2 * pad, 3)
    padded[pad : pad + image.shape[0], pad : pad + image.shape[1]] = image.float()
    crop = padded[row : row + image.shape[0], column : column + image.shape[1]]
    crop = crop.flip(1) if flip else crop
    std = torch.tensor(STD) * 255
    shift = -torch.tensor(MEAN) * 255 / std
    return (crop * (1 / std) + shift).permute(2, 0, 1)


def plain_training(spec: Spec, dataset: Dataset) -> tuple[nn.Module, list[float], list[float]]:
    """What the loop does, written as one would in a first lesson: weights, losses, accuracies."""
    torch.manual_seed(spec.seed)
    model = models.create(spec.model, 10).to(memory_format=torch.channels_last)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    chosen = trained_by_hand(model, spec.train)
    for parameter in chosen:
        parameter.requires_grad_(True)
    decay = spec.weight_decay
    # fused, because its last bits differ from the plain kernel's
    optimizer = (
        torch.optim.AdamW(chosen, spec.lr, (spec.momentum, 0.999), weight_decay=decay, fused=True)
        if spec.optimizer == "adamw"
        else torch.optim.SGD(chosen, spec.lr, spec.momentum, weight_decay=decay, fused=True)
    )
    pad = 4 if spec.augmentation == "crop-flip" else 0
    n = len(dataset.train_labels)
    losses, accuracies = [], []
    for epoch in range(spec.epochs):
        rate = spec.lr * 0.1 ** ((epoch >= spec.epochs / 2) + (epoch >= spec.epochs * 3 / 4))
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(rate).item()  # in float32, as a GPU's kernel reads it
        draws = epoch_draws(spec.seed, epoch, n, pad)
        model.train()
        for start in range(0, n, spec.batch_size):
            images, labels = [], []
            for k in range(start, min(start + spec.batch_size, n)):
                row, column = draws["offset"][k].tolist() if pad else (0, 0)
                mirror = pad > 0 and bool(draws["flip"][k])
                image = draws["order"][k]
                images.append(prepare(dataset.train_images[image], row, column, mirror, pad))
                labels.append(dataset.train_labels[image])
            batch = torch.stack(images).contiguous(memory_format=torch.channels_last)
            loss = nn.functional.cross_entropy(model(batch), torch.stack(labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        model.eval()
        with torch.no_grad():
            test = torch.stack([prepare(image, 0, 0, False, 0) for image in dataset.test_images])
            logits = model(test.contiguous(memory_format=torch.channels_last))
        accuracies.append(float((logits.argmax(1) == dataset.test_labels).double().mean()))
    return model, losses, accuracies


@pytest.mark.parametrize("augmentation", ["crop-flip", "none"])
@pytest.mark.parametrize("policy", ["all", "batchnorm", "output"])
def test_equal_to_a_plain_loop(
    spec: Spec, few_digits: Dataset, policy: str, augmentation: str
) -> None:
    """90 images in batches of 32: the last batch of an epoch has 26."""
    assert_equal_to_a_plain_loop(
        spec.replace(train=policy, augmentation=augmentation, epochs=4, seed=3), few_digits
    )


def test_adamw_is_equal_to_a_plain_loop(spec: Spec, few_digits: Dataset) -> None:
    assert_equal_to_a_plain_loop(
        spec.replace(optimizer="adamw", lr=0.002, momentum=0.8, epochs=4), few_digits
    )


def assert_equal_to_a_plain_loop(spec: Spec, few_digits: Dataset) -> None:
    result = train(spec, few_digits, device="cpu")
    model, losses, accuracies = plain_training(spec, few_digits)
    assert_same_weights(result.model, model)
    assert [row["test_accuracy"] for row in result.curve[1:]] == [round(a, 6) for a in accuracies]
    mean = sum(x * n for x, n in zip(losses[-3:], (32, 32, 26), strict=True)) / 90
    assert result.metrics["train_loss"] == pytest.approx(mean, abs=2e-6)


def test_a_step_stands_alone(spec: Spec, few_digits: Dataset) -> None:
    """Model, optimizer, batch and spec are all it takes; mean loss, default arguments."""
    spec = spec.replace(train="all", label_smoothing=0.1)
    batches = Batches(few_digits.train_images, few_digits.train_labels)
    batch = batches.batch({"order": torch.arange(32)})
    ours, theirs = (assembly.initial_model(spec, 10) for _ in range(2))
    first, second = (torch.optim.SGD(m.parameters(), 1.0, 0.9) for m in (ours, theirs))
    measured = train_step(ours, first, batch, spec, 0.1)

    logits = theirs(batch.images)
    loss = nn.functional.cross_entropy(logits, batch.labels, label_smoothing=0.1)
    loss.backward()
    for group in second.param_groups:
        group["lr"] = 0.1
    second.step()
    for weight, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-7)
    hits = int((logits.argmax(1) == batch.labels).sum())
    assert measured.tolist() == pytest.approx([32 * loss.item(), hits, 0])


def by_hand(weight: Tensor, gradient: Tensor, clipping: float) -> Tensor:
    """Equation 3 of arXiv 2102.06171, unit by unit."""
    rows = [...] if weight.squeeze().ndim <= 1 else list(range(len(weight)))
    gradient = gradient.clone()
    for row in rows:
        bound = clipping * max(float(weight[row].norm()), 1e-3)
        if gradient[row].norm() > bound:
            gradient[row] *= bound / gradient[row].norm()
    return gradient


def test_the_nfnet_recipe_equals_a_plain_loop(spec: Spec, few_digits: Dataset) -> None:
    """Clipping before decay, decay on weights alone, Nesterov's step, smoothed labels, averages."""
    recipe = spec.replace(
        model="cifar_nf_resnet8", train="all", optimizer="nesterov", decay="weights",
        weight_decay=0.01, clip="agc", clipping=0.05, label_smoothing=0.1, schedule="constant",
        ema=0.9, epochs=2, lr=0.2,
    )  # fmt: skip
    result = train(recipe, few_digits, device="cpu")

    torch.manual_seed(recipe.seed)
    model = models.create(recipe.model, 10).to(memory_format=torch.channels_last)
    velocity = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    average = {n: p.detach().clone() for n, p in model.named_parameters()}
    step = 0
    for epoch in range(2):
        order = epoch_draws(recipe.seed, epoch, 90)["order"]
        for part in order.split(recipe.batch_size):
            images = torch.stack(
                [prepare(few_digits.train_images[k], 0, 0, False, 0) for k in part]
            )
            images = images.contiguous(memory_format=torch.channels_last)
            loss = nn.functional.cross_entropy(
                model(images), few_digits.train_labels[part], label_smoothing=0.1
            )
            model.zero_grad()
            loss.backward()
            for name, weight in model.named_parameters():
                gradient = weight.grad
                assert gradient is not None
                if name != "fc.weight":
                    gradient = by_hand(weight.detach(), gradient, 0.05)
                if weight.ndim > 1:
                    gradient = gradient + 0.01 * weight.detach()
                velocity[name] = 0.9 * velocity[name] + gradient
                weight.data -= 0.2 * (gradient + 0.9 * velocity[name])
                kept = min(0.9, (1 + step) / (10 + step))
                average[name] = kept * average[name] + (1 - kept) * weight.detach()
            step += 1
    for name, weight in model.state_dict().items():  # sums are rounded in another order
        torch.testing.assert_close(
            result.model.state_dict()[name], weight, rtol=0, atol=2e-5, msg=name
        )
    model.load_state_dict(average)
    model.eval()
    with torch.no_grad():
        test = torch.stack([prepare(image, 0, 0, False, 0) for image in few_digits.test_images])
        loss = nn.functional.cross_entropy(model(test), few_digits.test_labels)
    assert result.metrics["ema_test_loss"] == pytest.approx(float(loss), abs=1e-4)
    assert 0 < result.metrics["clipped"] < 1


def test_curve_and_metrics(spec: Spec, few_digits: Dataset) -> None:
    result = train(spec, few_digits, device="cpu")
    assert result.status == "completed"
    assert [(row["epoch"], row["step"]) for row in result.curve] == [(0, 0), (1, 3), (2, 6)]
    assert "train_loss" not in result.curve[0]
    last = {"test_accuracy", "test_top5", "test_loss", "train_accuracy", "train_loss"}
    assert result.features is not None
    assert set(result.metrics) == last | set(result.features.metrics())
    assert all(result.metrics[name] == result.curve[-1][name] for name in last)
    for row in result.curve:
        assert row["test_accuracy"] * 45 == pytest.approx(
            round(row["test_accuracy"] * 45), abs=1e-4
        )
        assert row["test_accuracy"] <= row["test_top5"] <= 1
    assert result.how["processes"] == 1
    assert result.how["precision"] == "float32"
    assert result.how["resumed_at_epoch"] == 0


def test_the_short_last_batch_is_trained_on(spec: Spec, few_digits: Dataset) -> None:
    spec = spec.replace(epochs=1, batch_size=89)
    last = int(epoch_draws(spec.seed, 0, 90)["order"][-1])
    labels = few_digits.train_labels.clone()
    labels[last] = (labels[last] + 1) % 10
    other = Dataset(**{**vars(few_digits), "train_labels": labels})
    a, b = (train(spec, dataset, device="cpu").model for dataset in (few_digits, other))
    assert not torch.equal(a.get_parameter("fc.weight"), b.get_parameter("fc.weight"))


@pytest.mark.parametrize("policy", ["batchnorm", "output", "shortcut+gamma", "random:2"])
def test_only_what_is_trained_moves(spec: Spec, few_digits: Dataset, policy: str) -> None:
    spec = spec.replace(train=policy, weight_decay=0.1)
    start = assembly.initial_model(spec, 10)
    end = train(spec, few_digits, device="cpu").model
    moved = {
        name: int((p != start.get_parameter(name)).sum()) for name, p in end.named_parameters()
    }
    norm = {name for name in moved if "bn" in name or "shortcut.1" in name}
    for name, parameter in end.named_parameters():
        expected = {
            "batchnorm": name in norm,
            "output": name.startswith("fc"),
            "shortcut+gamma": "shortcut.0" in name or (name in norm and name.endswith("weight")),
            "random:2": parameter.ndim == 4,
        }[policy]
        if policy == "random:2" and expected:
            assert moved[name] == 2 * parameter.shape[0], name
        else:
            assert (moved[name] > 0) == expected, name


@pytest.mark.parametrize("statistics", [True, False])
def test_running_statistics(spec: Spec, few_digits: Dataset, statistics: bool) -> None:
    result = train(spec.replace(train="output", statistics=statistics), few_digits, device="cpu")
    means = [b for name, b in result.model.named_buffers() if name.endswith("running_mean")]
    assert all((float(mean.abs().max()) > 0) == statistics for mean in means)


def test_replicates_differ_and_repeats_do_not(spec: Spec, few_digits: Dataset) -> None:
    a, b, c = (train(spec.replace(seed=seed), few_digits, device="cpu").model for seed in (5, 5, 6))
    assert_same_weights(a, b)
    assert not torch.equal(a.get_parameter("conv.weight"), c.get_parameter("conv.weight"))


def test_bfloat16(spec: Spec, few_digits: Dataset) -> None:
    exact, rounded = (
        train(spec.replace(epochs=0, precision=precision), few_digits, device="cpu")
        for precision in ("float32", "bfloat16")
    )
    assert rounded.how["precision"] == "bfloat16"
    difference = abs(rounded.metrics["test_loss"] - exact.metrics["test_loss"])
    assert 0 < difference < 0.02 * exact.metrics["test_loss"]


def test_the_callers_generator_is_left_alone(spec: Spec, few_digits: Dataset) -> None:
    """Though dropout and stochastic depth draw from it."""
    drawing = {"model": "cifar_nf_resnet8", "dropout": 0.2, "stochastic_depth": 0.2}
    before = torch.get_rng_state()
    train(spec.replace(**drawing), few_digits, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_no_epochs_evaluates_the_untrained_network(spec: Spec, few_digits: Dataset) -> None:
    result = train(spec.replace(epochs=0), few_digits, device="cpu")
    assert result.status == "completed"
    assert [row["epoch"] for row in result.curve] == [0]
    tested = {"test_accuracy", "test_top5", "test_loss"}
    assert result.features is not None
    assert set(result.metrics) == tested | set(result.features.metrics())
    assert result.how["images_per_second"] is None
    assert_same_weights(result.model, assembly.initial_model(spec, 10))


# --- divergence and refusals ----------------------------------------------------------------------


@pytest.fixture
def diverging(spec: Spec) -> Spec:
    return spec.replace(lr=1e9, epochs=4, batch_size=16)


def test_divergence_ends_the_run(diverging: Spec, few_digits: Dataset) -> None:
    result = train(diverging, few_digits, device="cpu")
    _, losses, _ = plain_training(diverging.replace(epochs=2), few_digits)
    first = next(step for step, loss in enumerate(losses) if not math.isfinite(loss))
    assert result.status == "diverged"
    assert result.metrics["diverged_at"] == first
    assert len(result.curve) == 2 + first // 6 < 5


def test_diverged_run_is_not_taken_up_again(
    diverging: Spec, few_digits: Dataset, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "run.pt"
    first, second = (
        train(diverging, few_digits, device="cpu", checkpoint=checkpoint) for _ in range(2)
    )
    assert second.status == "diverged"
    assert second.metrics["diverged_at"] == first.metrics["diverged_at"]
    assert len(second.curve) == len(first.curve)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(spec: Spec, few_digits: Dataset) -> None:
    with pytest.raises(RuntimeError, match="no usable CUDA GPU"):
        train(spec, few_digits, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_every_run_of_a_process_gets_the_device_it_asks_for(
    spec: Spec, few_digits: Dataset
) -> None:
    gpu = torch.cuda.get_device_name()
    for device in ("cpu", "cuda", "cpu", "auto"):
        result = train(spec.replace(epochs=1), few_digits, device=device)
        assert (result.how["device"] == gpu) == (device != "cpu"), device


def test_unknown_device(spec: Spec, few_digits: Dataset) -> None:
    with pytest.raises(ValueError, match="expected auto, cpu or cuda"):
        train(spec, few_digits, device="gpu")


def test_wrong_data(spec: Spec, few_digits: Dataset) -> None:
    with pytest.raises(ValueError, match="names the data set 'cifar10', not 'digits'"):
        train(spec.replace(dataset="cifar10"), few_digits, device="cpu")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_MIXED_PRECISION", "bf16"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"),
        ("ACCELERATE_DYNAMO_BACKEND", "NO"),  # as `accelerate launch` sets it
    ],
)
def test_the_environment_changes_no_number(
    spec: Spec, few_digits: Dataset, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    spec = spec.replace(epochs=1)
    plain = train(spec, few_digits, device="cpu")
    monkeypatch.setenv(name, value)
    other = train(spec, few_digits, device="cpu")
    assert other.curve == plain.curve
    assert other.how["precision"] == "float32"
    assert_same_weights(other.model, plain.model)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR"),
        ("ACCELERATE_USE_DEEPSPEED", "true"),
        ("ACCELERATE_USE_FSDP", "true"),
        ("ACCELERATE_USE_MEGATRON_LM", "true"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true"),
    ],
)
def test_an_environment_that_replaces_the_step_is_refused(
    spec: Spec, few_digits: Dataset, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name}={value}.*unset it"):
        train(spec, few_digits, device="cpu")


def test_a_device_from_the_environment_is_not_taken_for_the_one_asked_for(
    spec: Spec, few_digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "meta")
    with pytest.raises(RuntimeError, match="'cpu' was requested, but Accelerate chose meta"):
        train(spec, few_digits, device="cpu")


# --- checkpoints ----------------------------------------------------------------------------------


def interrupted(spec: Spec, dataset: Dataset, checkpoint: Path) -> None:
    with pytest.raises(Interrupted, match="stopped after epoch 1 of 3"):
        train(spec, dataset, device="cpu", checkpoint=checkpoint, should_stop=lambda: True)


@pytest.fixture
def long(spec: Spec) -> Spec:
    return spec.replace(epochs=3, augmentation="crop-flip", weight_decay=0.01)


#: Everything of the NFNet recipe that draws, averages or remembers.
STRONG: dict[str, Any] = {
    "model": "cifar_nf_resnet8",
    "train": "all",
    "optimizer": "nesterov",
    "decay": "weights",
    "clip": "agc",
    "label_smoothing": 0.1,
    "mixup": 0.2,
    "cutmix": 1.0,
    "randaugment": 5.0,
    "sam": 0.05,
    "ema": 0.999,
    "dropout": 0.2,
    "stochastic_depth": 0.2,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"train": "all"},
        {"train": "batchnorm", "schedule": "cosine", "warmup_epochs": 1.5},
        {"train": "random:2"},
        {"train": "output+beta", "statistics": False},
        STRONG,
    ],
    ids=lambda changes: f"{changes['train']}-{len(changes)}",
)
def test_parts_equal_the_whole(
    long: Spec, few_digits: Dataset, tmp_path: Path, changes: dict[str, Any]
) -> None:
    spec, checkpoint = long.replace(**changes), tmp_path / "runs" / "run.pt"
    whole = train(spec, few_digits, device="cpu")
    interrupted(spec, few_digits, checkpoint)
    parts = train(spec, few_digits, device="cpu", checkpoint=checkpoint)
    assert parts.how["resumed_at_epoch"] == 1
    assert parts.curve == whole.curve
    assert parts.metrics == whole.metrics
    assert_same_weights(parts.model, whole.model)
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_a_finished_run_is_not_trained_further(
    long: Spec, few_digits: Dataset, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "run.pt"
    first, second = (train(long, few_digits, device="cpu", checkpoint=checkpoint) for _ in range(2))
    assert second.how["resumed_at_epoch"] == 3
    assert second.curve == first.curve
    assert second.metrics == first.metrics
    assert_same_weights(first.model, second.model)


def test_the_last_epoch_is_not_interrupted(spec: Spec, few_digits: Dataset) -> None:
    spec = spec.replace(epochs=1)
    assert train(spec, few_digits, device="cpu", should_stop=lambda: True).status == "completed"


Damage = Callable[[Path], object]
DAMAGES: dict[str, Damage] = {
    "empty": lambda p: p.write_bytes(b""),
    "cut": lambda p: p.write_bytes(p.read_bytes()[:-1000]),
    "text": lambda p: p.write_text("no checkpoint"),
    "another file of torch": lambda p: torch.save({"weights": torch.zeros(3)}, p),
    "a bare tensor": lambda p: torch.save(torch.zeros(3), p),
    "of another version": lambda p: p.write_bytes(p.read_bytes().replace(b"point 2", b"point 1")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_starts_afresh(
    long: Spec,
    few_digits: Dataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    checkpoint = tmp_path / "run.pt"
    interrupted(long, few_digits, checkpoint)
    DAMAGES[damage](checkpoint)
    with caplog.at_level(logging.WARNING, "nbrepro"):
        result = train(long, few_digits, device="cpu", checkpoint=checkpoint)
    assert "starting from the beginning" in caplog.text
    assert str(checkpoint) in caplog.text
    assert result.how["resumed_at_epoch"] == 0
    assert_same_weights(result.model, train(long, few_digits, device="cpu").model)


def test_checkpoint_of_another_run_is_ignored(
    long: Spec, few_digits: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = tmp_path / "run.pt"
    interrupted(long.replace(seed=1), few_digits, checkpoint)
    with caplog.at_level(logging.WARNING, "nbrepro"):
        result = train(long, few_digits, device="cpu", checkpoint=checkpoint)
    assert f"is of another run (run: {long.replace(seed=1).hash}, here {long.hash}" in caplog.text
    assert result.how["resumed_at_epoch"] == 0
    assert_same_weights(result.model, train(long, few_digits, device="cpu").model)


def test_checkpoint_that_cannot_be_written_spoils_nothing(
    long: Spec, few_digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "runs" / "run.pt"
    interrupted(long, few_digits, checkpoint)
    before = checkpoint.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            train(long, few_digits, device="cpu", checkpoint=checkpoint)
    assert list(checkpoint.parent.iterdir()) == [checkpoint]
    assert checkpoint.read_bytes() == before


# --- what is shown --------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar(
    spec: Spec, few_digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    train(spec, few_digits, device="cpu")
    assert "cifar_resnet8 all seed 0" in terminal.getvalue()


def test_no_bar_if_it_is_not_wanted(
    spec: Spec, few_digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    train(spec, few_digits, device="cpu", progress=False)
    assert terminal.getvalue() == ""


def test_no_bar_outside_a_terminal(
    spec: Spec, few_digits: Dataset, capfd: pytest.CaptureFixture[str]
) -> None:
    train(spec, few_digits, device="cpu")
    assert capfd.readouterr() == ("", "")


# --- several processes ----------------------------------------------------------------------------

WORKER = '''
"""Trains a network without BatchNorm, whose result must not depend on the number of processes."""
import sys
from unittest import mock

import torch
from torch import nn

from nbrepro import data, models
from nbrepro.train import assembly, loop
from nbrepro.spec import Spec

SPEC = Spec(
    model="cifar_resnet8", dataset="digits", epochs=2, batch_size=89, lr=0.01, precision="float32"
)
create = models.create


def without_batchnorm(*args, **options):
    model = create(*args, **options)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return model


def run(**options):
    digits = data.load("digits")
    few = data.Dataset(
        "digits", digits.classes, digits.train_images[:90], digits.train_labels[:90],
        digits.test_images[:45], digits.test_labels[:45], "few",
    )
    with (
        mock.patch.object(models, "create", without_batchnorm),
        mock.patch.object(loop, "EVALUATION_BATCH", 44),
    ):
        return loop.train(SPEC, few, device="cpu", **options)


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = run()
    rank = torch.distributed.get_rank()
    try:  # the time is up for the first process only; all of them have to stop
        run(should_stop=lambda: rank == 0)
        stopped = False
    except loop.Interrupted:
        stopped = True
    report = {
        "weights": result.model.state_dict(),
        "curve": result.curve,
        "processes": result.how["processes"],
        "stopped": stopped,
    }
    torch.save(report, f"{sys.argv[1]}/{rank}.pt")
    torch.distributed.destroy_process_group()
'''


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    return path


def in_this_process(worker: Path) -> Result:
    return loaded(worker).run()


def test_two_processes_equal_one(worker: Path, tmp_path: Path) -> None:
    """Batches of 89 and 1 training and of 44 and 1 test images: one process once has none."""
    launch = [*("-m", "torch.distributed.run"), "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [sys.executable, *launch, worker, tmp_path],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one = in_this_process(worker)
    for rank in range(2):
        two = torch.load(tmp_path / f"{rank}.pt")
        assert two["processes"] == 2
        assert two["stopped"]
        for name, weight in one.model.state_dict().items():
            torch.testing.assert_close(two["weights"][name], weight, rtol=0, atol=1e-6, msg=name)
        for ours, theirs in zip(one.curve, two["curve"], strict=True):
            for key in ("epoch", "step", "test_accuracy", "test_top5", "train_accuracy"):
                assert ours.get(key) == theirs.get(key)
            assert theirs["test_loss"] == pytest.approx(ours["test_loss"], abs=5e-6)

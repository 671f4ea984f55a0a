"""From a spec to its run: network, optimizer and data, on the device."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nbrepro import freezing, models
from nbrepro.data import Batches, Dataset, FileBatches, FileDataset
from nbrepro.optim import EMA, LARS, parameter_groups
from nbrepro.spec import Spec
from nbrepro.train.checkpoint import State, Sums
from nbrepro.train.device import place, resolved
from nbrepro.train.run import Run

#: Pixels of border that crops may move into.
PAD = 4


def initial_model(spec: Spec, num_classes: int) -> nn.Module:
    """The network as it is before training; a function of the spec's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        return models.create(spec.model, num_classes, **spec.model_options())


def take_over(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load everything but the output layer ``fc``, which stays as it is, from another network."""
    own = model.state_dict()
    taken = {name: tensor for name, tensor in weights.items() if not name.startswith("fc.")}
    own.update(taken)  # in place: it carries metadata, which tells BatchNorm its version
    model.load_state_dict(own)


def assemble(
    spec: Spec,
    dataset: Dataset | FileDataset,
    accelerator: Accelerator,
    precision: str | None = None,
    start: Mapping[str, Tensor] | None = None,
) -> tuple[Run, Callable[[int], nn.Module]]:
    """Put network, optimizer and data on the device.

    Args:
        spec: the run.
        dataset: the data.
        accelerator: owns the device and the processes.
        precision: ``float32`` or ``bfloat16``; by default what the spec's is on this device.
        start: weights to begin with, for :func:`take_over`.

    Returns:
        The run, and a function that returns its network as the user gets it, see
        :func:`nbrepro.train.device.place`.
    """
    device, classes = accelerator.device, len(dataset.classes)
    bfloat16 = (precision or resolved(spec.precision, device)) == "bfloat16"
    model = initial_model(spec, classes)
    if start is not None:
        take_over(model, start)
    freezing.freeze(model, spec.train, seed=spec.seed, statistics=spec.statistics)
    model, finished = place(model, device, bfloat16=bfloat16)
    prepared, optimizer = accelerator.prepare(model, _optimizer(spec, model))
    average = EMA(model, spec.ema) if spec.ema else None
    part = (accelerator.process_index, accelerator.num_processes)
    pad = PAD if spec.augmentation == "crop-flip" else 0
    options: Any = {"classes": classes, "magnitude": spec.randaugment, "part": part}
    if isinstance(dataset, FileDataset):
        training: Batches = FileBatches(
            dataset.train_images, dataset.train_labels, device, **options
        )
        test: Batches = FileBatches(dataset.test_images, dataset.test_labels, device, part=part)
    else:
        training = Batches(dataset.train_images, dataset.train_labels, pad, device, **options)
        test = Batches(dataset.test_images, dataset.test_labels, 0, device, part=part)
    run = Run(
        spec=spec,
        state=State(model, optimizer, average, Sums(device)),
        model=prepared,
        training=training,
        test=test,
        autocast=torch.autocast(device.type, torch.bfloat16, enabled=bfloat16),
        backward=accelerator.backward,
    )
    return run, finished


def _optimizer(spec: Spec, model: nn.Module) -> torch.optim.Optimizer:
    """The spec's optimizer of the trainable parameters."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups: list[Any] = [{"params": trainable, "weight_decay": spec.weight_decay}]
    if spec.decay == "weights":
        groups = parameter_groups(model, spec.weight_decay)
    if spec.optimizer == "lars":
        scalars = spec.scalar_lr / spec.lr if spec.scalar_lr and spec.lr else 1.0
        return LARS(groups, lr=spec.lr, momentum=spec.momentum, scalars=scalars)
    if spec.optimizer == "adamw":
        on_gpu = trainable[0].is_cuda  # where the step may be recorded
        betas = (spec.momentum, 0.999)
        return torch.optim.AdamW(groups, spec.lr, betas, fused=True, capturable=on_gpu)
    nesterov = spec.optimizer == "nesterov"
    return torch.optim.SGD(groups, spec.lr, spec.momentum, nesterov=nesterov, fused=True)

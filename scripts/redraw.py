"""Draw trained networks again from a seed, γ and β, and measure them: no training.

    python scripts/redraw.py        # the whole-recipe networks of chapter 8; stores the table

The record of a BatchNorm-only run has the seed that draws its weights, and beside it lie γ and β,
to five digits. What is missing are BatchNorm's running statistics; they are taken anew, over one
pass of the training images as the last epoch saw them. The network is then measured on the test
images and on the training images, both as they are. About a minute per network on one core.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nbrepro import data
from nbrepro.data import Batches
from nbrepro.data.batches import epoch_draws
from nbrepro.data.datasets import Dataset
from nbrepro.records import features
from nbrepro.records.features import Features
from nbrepro.records.ledger import Ledger, Record, default_root, write_signed
from nbrepro.records.provenance import provenance
from nbrepro.train.assembly import PAD, initial_model

CPU = torch.device("cpu")
BATCH = 1000


def redraw(record: Record, kept: Features, dataset: Dataset) -> nn.Module:
    """The network of a BatchNorm-only run, in evaluation mode.

    Args:
        record: of the run; its spec's seed draws the frozen weights.
        kept: γ and β of the run.
        dataset: the data it was trained on, for the running statistics.
    """
    spec = record.spec
    model = initial_model(spec, len(dataset.classes)).to(memory_format=torch.channels_last)
    modules = dict(model.named_modules())
    with torch.no_grad():
        for layer in kept.layers:
            norm = modules[layer.name]
            assert isinstance(norm, _BatchNorm)
            norm.weight.copy_(torch.tensor(layer.gamma))
            norm.bias.copy_(torch.tensor(layer.beta))
            norm.momentum = None  # the statistics are means over all batches that follow
    pad = PAD if spec.augmentation == "crop-flip" else 0
    training = Batches(dataset.train_images, dataset.train_labels, pad, CPU)
    draws = epoch_draws(spec.seed, spec.epochs - 1, len(training), pad)
    for start in range(0, len(training) // spec.batch_size * spec.batch_size, spec.batch_size):
        part = {name: rows[start : start + spec.batch_size] for name, rows in draws.items()}
        _logits(model.train(), training.batch(part).images, record)
    return model.eval()


def accuracy(model: nn.Module, batches: Batches, record: Record) -> float:
    """The share of images that are classified correctly."""
    right = 0
    for index in torch.arange(len(batches)).split(BATCH):
        batch = batches.batch({"order": index})
        right += int((_logits(model, batch.images, record).argmax(1) == batch.labels).sum())
    return right / len(batches)


def _logits(model: nn.Module, images: torch.Tensor, record: Record) -> torch.Tensor:
    rounded = record.provenance["precision"] == "bfloat16"
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=rounded):
        logits: torch.Tensor = model(images.contiguous(memory_format=torch.channels_last))
    return logits


def row(record: Record, kept: Features, dataset: Dataset) -> dict[str, Any]:
    """A row of the table: accuracies as recorded and of the network drawn again."""
    model = redraw(record, kept, dataset)
    test = Batches(dataset.test_images, dataset.test_labels, 0, CPU)
    train = Batches(dataset.train_images, dataset.train_labels, 0, CPU)
    return {
        "seed": record.spec.seed,
        "numbers": 2 * len(kept.gamma),
        "recorded": record.metrics["test_accuracy"],
        "test": round(accuracy(model, test, record), 6),
        "train": round(accuracy(model, train, record), 6),
    }


def main() -> None:
    """Redraw, print and store."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data-root", type=Path, help="default: $NBREPRO_DATA or data")
    options = arguments.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    for record in sorted(Ledger().scan()[0], key=lambda record: record.spec.seed):
        spec = record.spec
        kept = features.read(default_root(), spec.hash)
        if kept and (spec.model, spec.train, spec.epochs) == ("cifar_resnet14", "batchnorm", 160):
            dataset = data.load_for(spec, options.data_root)
            assert isinstance(dataset, Dataset)
            rows[spec.hash] = row(record, kept, dataset)
            print(spec.hash, rows[spec.hash], flush=True)
    path = default_root() / "redrawn.json"
    write_signed(path, {"benchmark": "redrawn", "rows": rows, "provenance": provenance()})
    print(path)


if __name__ == "__main__":
    main()

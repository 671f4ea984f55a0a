"""Draw trained networks again from a seed, γ and β, and measure them: no training.

    python scripts/redraw.py        # the whole-recipe networks of chapter 8; stores the table

The record of a BatchNorm-only run has the seed that draws its weights, and beside it lie γ and β,
to five digits. What is missing are BatchNorm's running statistics; they are taken anew, over one
pass of the training images as the last epoch saw them. The network is then measured on the test
images and on the training images, both as they are. About a minute per network on one core.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from nbrepro import data
from nbrepro.data import Batches
from nbrepro.data.datasets import Dataset
from nbrepro.records import features
from nbrepro.records.features import Features
from nbrepro.records.ledger import Ledger, Record, default_root, write_signed
from nbrepro.records.provenance import provenance
from nbrepro.train.assembly import assemble
from nbrepro.train.device import accelerator_for
from nbrepro.train.loop import Eager, evaluate
from nbrepro.train.run import Run


def redraw(run: Run, kept: Features) -> None:
    """Make the network of a run what it was in the end, but for rounding.

    Args:
        run: a BatchNorm-only run that has not begun; its seed has drawn the frozen weights.
        kept: γ and β of its end.
    """
    model, size = run.state.model.train(), run.spec.batch_size
    modules = dict(model.named_modules())
    draws = run.draws(run.spec.epochs - 1)
    with torch.no_grad(), run.autocast:
        for layer in kept.layers:
            norm = modules[layer.name]
            assert isinstance(norm, _BatchNorm)
            norm.weight.copy_(torch.tensor(layer.gamma))
            norm.bias.copy_(torch.tensor(layer.beta))
            # The statistics are means over all batches that follow.
            norm.momentum, norm.num_batches_tracked = None, torch.tensor(0)
        for end in range(size, len(run.training) + 1, size):  # full batches
            part = {name: rows[end - size : end] for name, rows in draws.items()}
            model(run.training.batch(part).images)


def row(record: Record, kept: Features, dataset: Dataset) -> dict[str, Any]:
    """A row of the table: accuracies as recorded and of the network drawn again."""
    torch.set_num_threads(record.provenance["threads"])  # as recorded: rounding depends on it
    accelerator = accelerator_for("cpu")
    run, _ = assemble(record.spec, dataset, accelerator, record.provenance["precision"])
    redraw(run, kept)
    seen = replace(run, test=Batches(dataset.train_images, dataset.train_labels))
    test, train = (evaluate(Eager(x), accelerator)["test_accuracy"] for x in (run, seen))
    return {
        "seed": record.spec.seed,
        "numbers": 2 * len(kept.gamma),
        "recorded": record.metrics["test_accuracy"],
        "test": round(test, 6),
        "train": round(train, 6),
    }


def main() -> None:
    """Redraw, print and store."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data-root", type=Path, help="default: $NBREPRO_DATA or data")
    options = arguments.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    for record in sorted(Ledger().scan()[0], key=lambda record: record.spec.seed):
        spec = record.spec
        if (spec.model, spec.train, spec.epochs) != ("cifar_resnet14", "batchnorm", 160):
            continue
        if kept := features.read(default_root(), spec.hash):
            dataset = data.load_for(spec, options.data_root)
            assert isinstance(dataset, Dataset)
            rows[spec.hash] = row(record, kept, dataset)
            print(spec.hash, rows[spec.hash], flush=True)
    path = default_root() / "redrawn.json"
    write_signed(path, {"benchmark": "redrawn", "rows": rows, "provenance": provenance()})
    print(path)


if __name__ == "__main__":
    main()

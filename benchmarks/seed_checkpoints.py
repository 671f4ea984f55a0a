"""Bytes of a BatchNorm-only network stored as a seed, against the whole network's file.

A published review of the study suggests that a network whose weights stay at their random draw
could be stored as its seed and its BatchNorm parameters (claim LIM-7). Besides those, a file has to
hold the running statistics, without which the network cannot be evaluated, and names and shapes.
Sizes do not depend on what was learned, so nothing is trained. Both files are safetensors.

    python benchmarks/seed_checkpoints.py
"""

import argparse
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save

from nbrepro import freezing
from nbrepro.records import timings
from nbrepro.spec import Spec
from nbrepro.train import assembly, seed_checkpoint

MODELS = ("cifar_resnet14", "cifar_resnet56", "cifar_resnet110", "cifar_resnet866",
          "cifar_resnet14x32")  # fmt: skip


def measure(name: str, folder: Path) -> dict[str, float | int]:
    """Sizes of both files in bytes, their ratio, and what the seed checkpoint holds.

    Raises:
        SystemExit: if the network rebuilt from the file is not the one stored.
    """
    spec = Spec(model=name, train="batchnorm")
    model = assembly.initial_model(spec, 10).eval()
    small = seed_checkpoint.save(model, spec, folder / name)
    whole = len(save({k: v.contiguous() for k, v in model.state_dict().items()}))
    rebuilt = seed_checkpoint.load(folder / name)[0].state_dict()
    for key, tensor in model.state_dict().items():
        if not torch.equal(tensor, rebuilt[key]):
            raise SystemExit(f"{name}: {key} was not rebuilt")
    counts = freezing.count(model)
    ratio = round(whole / small, 3)
    return {
        **{"ratio": ratio, "low": ratio, "high": ratio, "rounds": 1},
        "seed_bytes": small,
        "whole_bytes": whole,
        "parameters": counts["all"],
        "batchnorm_parameters": counts["batchnorm"],
        # What the review counts: 4 bytes each, and no running statistics.
        "batchnorm_parameter_bytes": 4 * counts["batchnorm"],
    }


def main() -> None:
    """Measure, print and record."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("models", nargs="*", default=MODELS, metavar="model")
    arguments.add_argument(
        "--smoke", action="store_true", help="the smallest network; writes nothing"
    )
    given = arguments.parse_args()
    if given.smoke:
        given.models = MODELS[:1]
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in given.models:
            rows[name] = row = measure(name, Path(folder))
            print(
                f"{name:<18} {row['seed_bytes']:>11,} bytes against {row['whole_bytes']:>13,}: "
                f"{row['ratio']:.1f} times smaller",
                flush=True,
            )
    if not given.smoke:
        timings.write("seed_checkpoints", "cpu", rows)


if __name__ == "__main__":
    main()

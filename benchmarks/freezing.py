"""Time of a training step by what is trained: everything, γ and β alone, or two random weights.

The library's own step on random images of 32 pixels, channels last, in the precision that a run
has on this processor. One thread, and its own seconds: the clock stands still while other programs
have the core. All take turns, and ratios are taken round by round.

    python benchmarks/freezing.py
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch

from nbrepro import _malloc, models
from nbrepro.claims.labels import network
from nbrepro.data.batches import Batch
from nbrepro.freezing import freeze
from nbrepro.records import timings
from nbrepro.spec import Spec
from nbrepro.train.device import resolved
from nbrepro.train.step import AS_STORED, train_step

#: What is trained → its name in a case.
POLICIES = {"all": "everything", "batchnorm": "γ and β", "random:2": "two random weights"}


def step(spec: Spec, precision: str, batch: Batch) -> Callable[[], object]:
    """A training step of the library that is ready to run."""
    torch.manual_seed(0)
    model = models.create(spec.model).to(memory_format=torch.channels_last).train()
    freeze(model, spec.train)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, spec.lr, spec.momentum, weight_decay=spec.weight_decay)
    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else AS_STORED
    return partial(train_step, model, optimizer, batch, spec, spec.lr, autocast=autocast)


@_malloc.kept()  # as in `nbrepro run`
def main() -> None:
    """Measure, print, and store the record."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--models", nargs="+", default=["cifar_resnet14", "cifar_resnet56"])
    arguments.add_argument("--images", type=int, default=128)
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument(
        "--smoke", action="store_true", help="a small network, two rounds; writes nothing"
    )
    given = arguments.parse_args()
    if given.smoke:
        given.models, given.images, given.rounds = ["cifar_resnet8"], 4, 2
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.randn(given.images, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (given.images,))
    batch = Batch(images, labels, labels, given.images)
    precision = resolved("auto", images.device)
    rows = {}
    for model in given.models:
        turns = {
            policy: partial(
                timings.computed, step(Spec(model=model, train=policy), precision, batch), 2
            )
            for policy in POLICIES
        }
        timings.rounds(turns, 1)  # to warm up
        times = timings.rounds(turns, given.rounds)
        for policy in list(POLICIES)[1:]:
            case = f"{network(model)}, {precision}: {POLICIES[policy]} over {POLICIES['all']}"
            rows[case] = row = timings.ratios(times["all"], times[policy])
            row["images_per_second"] = round(2 * given.images / min(times[policy]))
            row["peer_images_per_second"] = round(2 * given.images / min(times["all"]))
            print(f"{case}: {row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]")
    if not given.smoke:
        timings.write("freezing", "cpu", rows)


if __name__ == "__main__":
    main()

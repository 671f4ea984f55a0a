"""Images per second: our training loop against a plain PyTorch loop, side by side in one run.

The plain loop is what one writes first: torchvision's transforms on PIL images in a DataLoader,
frozen weights by ``requires_grad=False``, default SGD over the other parameters, float32, default
memory format. Ours is :func:`nbrepro.train.loop.train` itself, in float32 and with the precision
it chooses; on a GPU, where it captures the step, also in its eager form. Each runs in a process of
its own, since ours keeps freed memory, as in ``nbrepro run``. They take turns, and ratios are
taken round by round, so that a busy machine slows all of them.

    python benchmarks/training_loop.py --models cifar_resnet14 cifar_resnet56
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context

import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from nbrepro import _malloc, data
from nbrepro.claims.labels import network
from nbrepro.freezing import freeze
from nbrepro.records import timings
from nbrepro.spec import Spec
from nbrepro.train import assembly, loop
from nbrepro.train.device import accelerator_for


class Pictures(TorchDataset[tuple[torch.Tensor, torch.Tensor]]):
    """PIL images with the usual transforms, one at a time."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images.numpy(), labels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(data.MEAN, data.STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def plain(spec: Spec, dataset: data.Dataset, device: str) -> float:
    """Seconds of the second epoch of the plain loop, evaluation left out."""
    model = assembly.initial_model(spec, 10).to(device)
    freeze(model, spec.train)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, spec.lr, spec.momentum, weight_decay=spec.weight_decay)
    loader = DataLoader(
        Pictures(dataset.train_images, dataset.train_labels), spec.batch_size, shuffle=True
    )
    for _ in range(2):
        start = time.perf_counter()
        for images, labels in loader:
            loss = F.cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
    return time.perf_counter() - start


@_malloc.kept()  # as in `nbrepro run`
def ours(spec: Spec, dataset: data.Dataset, device: str, eager: bool) -> float:
    """Seconds of the second epoch of :func:`nbrepro.train.loop.train`, evaluation left out."""
    accelerator = accelerator_for(device)
    run, _ = assembly.assemble(spec, dataset, accelerator)
    driver = loop.captured(run) if device == "cuda" and not eager else loop.Eager(run)
    for epoch in range(2):
        start = time.perf_counter()
        loop.train_epoch(driver, accelerator, epoch)
    return time.perf_counter() - start


def apart(process: ProcessPoolExecutor, work: Callable[[], float]) -> float:
    """What ``work`` returns when it runs in another process."""
    return process.submit(work).result()


def main() -> None:
    """Measure, print, and store the record."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--models", nargs="+", default=["cifar_resnet14", "cifar_resnet56"])
    arguments.add_argument("--train", default="batchnorm")
    arguments.add_argument("--images", type=int, default=1280)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    arguments.add_argument(
        "--smoke",
        action="store_true",
        help="one small network on one batch, two rounds; writes nothing",
    )
    given = arguments.parse_args()
    if given.smoke:
        given.models, given.images, given.rounds = ["cifar_resnet8"], 128, 2
    torch.set_num_threads(given.threads)
    device = accelerator_for(given.device).device

    generator = torch.Generator().manual_seed(0)
    shape = (given.images, 32, 32, 3)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (given.images,), generator=generator)
    classes = tuple("0123456789")
    noise = data.Dataset("noise", classes, images, labels, images[:10], labels[:10], "")
    rows = {}
    for model in given.models:
        spec = Spec(model=model, train=given.train, dataset="noise", epochs=2)
        variants: dict[str, Callable[[], float]] = {
            "plain": partial(plain, spec, noise, device.type),
            "float32": partial(ours, spec.replace(precision="float32"), noise, device.type, False),
            "automatic precision": partial(ours, spec, noise, device.type, False),
        }
        if device.type == "cuda":
            variants["our eager loop"] = partial(ours, spec, noise, device.type, True)
        with ExitStack() as stack:
            processes = {
                name: stack.enter_context(
                    ProcessPoolExecutor(
                        1, get_context("spawn"), torch.set_num_threads, (given.threads,)
                    )
                )
                for name in variants
            }
            turns = {name: partial(apart, processes[name], work) for name, work in variants.items()}
            timings.rounds(turns, 1)  # to warm up
            times = timings.rounds(turns, given.rounds)
        cases = {
            f"{network(model)}, float32, over the plain loop": ("plain", "float32"),
            f"{network(model)}, automatic precision, over the plain loop": (
                "plain",
                "automatic precision",
            ),
        }
        if device.type == "cuda":
            name = f"{network(model)}, captured step, over our eager loop"
            cases[name] = ("our eager loop", "automatic precision")
        for case, (slow, fast) in cases.items():
            rate = round(given.images / statistics.median(times[fast]))
            rows[case] = timings.ratios(times[slow], times[fast]) | {"images_per_second": rate}
            row = rows[case]
            print(f"{case}: {row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}], {rate:,}/s")
    if not given.smoke:
        timings.write("training_loop", device, rows)


if __name__ == "__main__":
    main()

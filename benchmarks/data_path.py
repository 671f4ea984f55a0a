"""From uint8 images to augmented, normalized batches: ours against torchvision on PIL images.

The peer is the pipeline of every CIFAR tutorial, ``RandomCrop(32, padding=4)``,
``RandomHorizontalFlip``, ``ToTensor``, ``Normalize`` on one image after another, with the images
decoded in memory and no DataLoader around it, which would only add time. Ours is
:class:`nbrepro.data.Batches` with the draws of an epoch. Both draw their own augmentation. What the
peer drew is drawn again from its seed and given to ours, to check that both make the same pixels.
Rounds are interleaved; a row is the ratio of times, round by round.

    python benchmarks/data_path.py --dataset cifar10-jpeg
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from nbrepro import _malloc, data
from nbrepro.data.batches import epoch_draws
from nbrepro.records import timings
from nbrepro.train import assembly
from nbrepro.train.device import accelerator_for

BATCH = 128
TOLERANCE = 1e-6  # of pixels between -2.5 and 2.8

NORMALIZED = [transforms.ToTensor(), transforms.Normalize(data.MEAN, data.STD)]


def augmented(side: int) -> list[torch.nn.Module]:
    """The peer's random transforms."""
    return [transforms.RandomCrop(side, padding=assembly.PAD), transforms.RandomHorizontalFlip()]


def peer(images: Tensor, pipeline: Callable[[Image.Image], Tensor]) -> Tensor:
    """A batch ``[B, 3, H, W]`` of uint8 images ``[B, H, W, 3]``."""
    return torch.stack([pipeline(Image.fromarray(image)) for image in images.numpy()])


def drawn(seed: int, count: int, side: int) -> tuple[Tensor, Tensor]:
    """Offsets ``[B, 2]`` and flips ``[B]`` that the peer draws for ``count`` images."""
    torch.manual_seed(seed)
    padded = Image.new("RGB", (side + 2 * assembly.PAD,) * 2)
    offsets, flips = [], []
    for _ in range(count):
        row, column, _, _ = transforms.RandomCrop.get_params(padded, (side, side))
        offsets.append((row, column))
        flips.append(torch.rand(1) < 0.5)
    return torch.tensor(offsets), torch.cat(flips)


def check(dataset: data.Dataset, batches: data.Batches, plain: data.Batches) -> float:
    """The largest difference between the peer's pixels and ours; exits if it is too large."""
    images = dataset.train_images[:BATCH]
    side, index = images.shape[1], torch.arange(BATCH)
    offset, flip = drawn(0, BATCH, side)
    torch.manual_seed(0)
    theirs = peer(images, transforms.Compose([*augmented(side), *NORMALIZED]))
    device = batches.images.device
    ours, _ = batches(index.to(device), offset.to(device), flip.to(device))
    difference = float((ours.cpu() - theirs).abs().max())
    theirs = peer(images, transforms.Compose(NORMALIZED))
    difference = max(difference, float((plain(index.to(device))[0].cpu() - theirs).abs().max()))
    if difference > TOLERANCE:
        raise SystemExit(f"the pixels differ by {difference:.1e}; there is nothing to compare")
    return difference


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time of one call, the device's work included."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def noise() -> data.Dataset:
    """Random pixels for a missing data set: the work is the same."""
    images = torch.randint(256, (10_000, 32, 32, 3), dtype=torch.uint8)
    labels = torch.randint(10, (10_000,))
    return data.Dataset("noise", tuple("0123456789"), images, labels, images[:1], labels[:1], "")


@_malloc.kept()  # as in training; for the peer too
def main() -> None:
    """Measure, print and record."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--dataset", default="cifar10-jpeg", help="below $NBREPRO_DATA")
    arguments.add_argument("--images", type=int, default=2560, help="per round")
    arguments.add_argument("--rounds", type=int, default=21)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    arguments.add_argument(
        "--smoke", action="store_true", help="a few random images, two rounds; writes nothing"
    )
    given = arguments.parse_args()
    if given.smoke:
        given.images, given.rounds = 2 * BATCH, 2
    torch.set_num_threads(given.threads)
    device = accelerator_for(given.device).device
    try:
        dataset = noise() if given.smoke else data.load(given.dataset)
    except data.DataError as error:
        print(f"{error}\nusing random pixels instead")
        dataset = noise()

    side = dataset.train_images.shape[1]
    batches = data.Batches(dataset.train_images, dataset.train_labels, assembly.PAD, device)
    plain = data.Batches(dataset.train_images, dataset.train_labels, 0, device)
    difference = check(dataset, batches, plain)

    def ours(random_transforms: bool) -> None:
        draws = epoch_draws(0, 0, given.images, assembly.PAD if random_transforms else 0)
        draws = {name: rows.to(device) for name, rows in draws.items()}
        source = batches if random_transforms else plain
        for start in range(0, given.images, BATCH):
            source.batch({name: rows[start : start + BATCH] for name, rows in draws.items()})

    def theirs(random_transforms: bool) -> None:
        pipeline = transforms.Compose([*augmented(side) * random_transforms, *NORMALIZED])
        for index in torch.randperm(given.images).split(BATCH):
            peer(dataset.train_images[index], pipeline).to(device)
            dataset.train_labels[index].to(device)

    rows = {}
    for case, random_transforms in (("crop and flip", True), ("no augmentation", False)):
        variants = {
            "ours": partial(seconds, partial(ours, random_transforms), device),
            "peer": partial(seconds, partial(theirs, random_transforms), device),
        }
        timings.rounds(variants, 1)  # to warm up
        times = timings.rounds(variants, given.rounds)
        rates = {n: round(given.images / statistics.median(taken)) for n, taken in times.items()}
        rows[case] = {
            **timings.ratios(times["peer"], times["ours"]),
            "images_per_second": rates["ours"],
            "peer_images_per_second": rates["peer"],
            "largest_difference": difference,
            "data": dataset.name,
        }
        row = rows[case]
        print(
            f"{case:<16} {row['ratio']:.1f} times as fast [{row['low']:.1f}, {row['high']:.1f}], "
            f"{rates['ours']:,} against {rates['peer']:,} images/s"
        )
    if not given.smoke:
        timings.write("data_path", device, rows)


if __name__ == "__main__":
    main()

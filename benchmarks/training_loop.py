"""Images a second: our training loop against a plain PyTorch loop, side by side in one run.

The plain loop is what one writes first: torchvision's transforms on PIL images in a DataLoader,
frozen weights by ``requires_grad=False``, default SGD over all parameters that are left, float32,
no memory format. Ours is :func:`nbrepro.training.train` itself, in float32 and with the precision
it chooses. Rounds are interleaved and the median of the ratios, round by round, is printed, so
that a busy machine slows both.

    python benchmarks/training_loop.py --model cifar_resnet14 --rounds 5
"""

import argparse
import statistics
import time

import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from nbrepro import data, training
from nbrepro.freezing import freeze
from nbrepro.spec import Spec


class Pictures(TorchDataset):
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
    """Seconds of one epoch of the plain loop, evaluation left out."""
    model = training.initial_model(spec, 10).to(device)
    freeze(model, spec.train)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, spec.lr, spec.momentum, weight_decay=spec.weight_decay)
    loader = DataLoader(
        Pictures(dataset.train_images, dataset.train_labels), spec.batch_size, shuffle=True
    )
    start = time.perf_counter()
    for images, labels in loader:
        loss = F.cross_entropy(model(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
    return time.perf_counter() - start


def ours(spec: Spec, dataset: data.Dataset, device: str) -> float:
    """Seconds of one epoch of :func:`nbrepro.training.train`, evaluation left out."""
    how = training.train(spec, dataset, device=device, progress=False).how
    return len(dataset.train_images) / how["images_per_second"]


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--model", default="cifar_resnet14")
    arguments.add_argument("--train", default="batchnorm")
    arguments.add_argument("--images", type=int, default=2560)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    device = training.accelerator_for(given.device).device

    generator = torch.Generator().manual_seed(0)
    shape = (given.images, 32, 32, 3)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (given.images,), generator=generator)
    classes = tuple("0123456789")
    noise = data.Dataset("noise", classes, images, labels, images[:10], labels[:10], "")
    spec = Spec(model=given.model, train=given.train, dataset="noise", epochs=1)
    variants = {
        "ours, float32": spec.replace(precision="float32"),
        "ours, auto": spec,
    }
    plain(spec, noise, device.type)  # warm up
    rates: dict[str, list[float]] = {"plain PyTorch": []}
    for _ in range(given.rounds):
        rates["plain PyTorch"].append(given.images / plain(spec, noise, device.type))
        for name, variant in variants.items():
            rates.setdefault(name, []).append(given.images / ours(variant, noise, device.type))
    name = training._device_name(device)
    print(f"{given.model}, {given.train}, batch {spec.batch_size}, {name}, {given.threads} threads")
    for variant, values in rates.items():
        ratios = [v / p for v, p in zip(values, rates["plain PyTorch"], strict=True)]
        print(
            f"{variant:<14} {statistics.median(values):8.0f} images/s   "
            f"{statistics.median(ratios):.2f} times plain [{min(ratios):.2f}, {max(ratios):.2f}]"
        )


if __name__ == "__main__":
    main()

"""Evaluate a network on ImageNet, as arXiv 2102.06171 did for its Table 3.

``python -m nbrepro.imagenet --model nfnet_f0 --weights dm_nfnet_f0 --data DIR`` prints top-1 and
top-5 accuracy next to the paper's. ``DIR`` holds one folder per class; to compare with the paper,
use the 50,000 validation images. Classes are numbered by the sorted names of their folders, which
is the order of the published weights if the folders are named by WordNet ids (``n01440764`` ...).

Images are treated as in the authors' code: see :mod:`nbrepro.data.preprocess`.
"""

import argparse
import logging
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from nbrepro import models
from nbrepro._suggest import choose
from nbrepro.claims.tables import printed
from nbrepro.data import DataError
from nbrepro.data.decode import SUFFIXES, decode, is_image
from nbrepro.data.preprocess import Preprocess
from nbrepro.models import nfnet, pretrained

VALIDATION_IMAGES = 50_000


@dataclass(frozen=True)
class Printed:
    """What the paper prints for a network, in percent."""

    top1: float
    top5: float
    how: str


_TABLE = printed("nfnets")["imagenet"]
SOURCE = f"arXiv 2102.06171, {_TABLE.place}"


def _printed(variant: str) -> Printed:
    rows = _TABLE.rows
    plain, sam = f"NFNet-{variant}", f"NFNet-{variant} + SAM"
    if plain not in rows:
        return Printed(rows[sam]["top1"], rows[sam]["top5"], "trained with SAM")
    how = "mean of 3 seeds"
    if sam in rows:
        how += f"; {rows[sam]['top1']} and {rows[sam]['top5']} if trained with SAM"
    return Printed(rows[plain]["top1"], rows[plain]["top5"], how)


#: Accuracies as the paper prints them; it has no F6 without SAM, and no F7.
PRINTED = {f"nfnet_f{number}": _printed(f"F{number}") for number in range(7)}


@dataclass(frozen=True)
class Accuracy:
    """Shares of ``images`` whose class is the network's first, or among its first five."""

    top1: float
    top5: float
    images: int


def evaluate(
    model: nn.Module,
    data: str | Path,
    pixels: int,
    *,
    batch_size: int = 50,
    workers: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Accuracy:
    """Accuracy of ``model`` on a tree of images, one central crop each.

    Args:
        model: ``[N, 3, pixels, pixels]`` → logits, one for each class; afterwards it is on
            ``device`` and in evaluation mode.
        data: folder with one folder of images per class.
        pixels: height and width of the crop.
        batch_size: images per forward pass.
        workers: processes that decode images; 0 decodes in this one.
        device: where the network runs.
        progress: show a bar with the time left (on a terminal only).

    Raises:
        DataError: if there are no class folders, no images in one of them, or a damaged image.
        ValueError: if the network has more or fewer outputs than there are classes.
    """
    from torchvision.datasets import ImageFolder

    device = torch.device(device)
    try:
        images = ImageFolder(data, Preprocess(pixels), loader=decode, is_valid_file=is_image)
    except OSError as error:
        raise DataError(
            f"{data} is not a tree of images, <class>/<image> with names that end in "
            f"{', '.join(SUFFIXES)}: {error}"
        ) from error
    loader = torch.utils.data.DataLoader(
        images, batch_size, num_workers=workers, pin_memory=device.type == "cuda"
    )
    model.to(device).eval()
    hits = torch.zeros(2, dtype=torch.int64, device=device)
    bar = tqdm(total=len(images), unit=" images", disable=None if progress else True)
    with torch.inference_mode(), bar:
        for batch, labels in loader:
            logits = model(batch.to(device, non_blocking=True))
            if logits.shape[1] != len(images.classes):
                raise ValueError(
                    f"the network has {logits.shape[1]} outputs, but {data} holds "
                    f"{len(images.classes)} class folders"
                )
            labels = labels.to(device, non_blocking=True)
            top = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            hits += torch.stack([top[:, 0].sum(), top.sum()])
            bar.update(len(batch))
    top1, top5 = (hits / len(images)).tolist()
    return Accuracy(top1, top5, len(images))


def load(name: str, weights: str | Path, form: str = "official") -> nn.Module:
    """The network ``name`` with the weights in a file, in float32.

    Args:
        name: an NFNet, see :mod:`nbrepro.models.nfnet`.
        weights: the network's own state dict, or timm's ``dm_nfnet_*`` (a file or a name to fetch,
            see :func:`nbrepro.models.pretrained.load_timm`).
        form: how timm's weights are used, see :mod:`nbrepro.models.pretrained`.

    Raises:
        ValueError: if the weights are those of another network, not finite, or of a type that no
            network is trained in.
        FileNotFoundError: if there is no such file.
        OSError: if weights cannot be fetched.
        ImportError: if fetching needs a package that is not installed.
    """
    nfnet.parse(name)
    state = pretrained.read(pretrained.fetch(weights))
    if "head.fc.weight" in state:
        held = f"nfnet_{pretrained.variant_of(state)}"
        if held != name:
            raise ValueError(f"{weights} holds the weights of {held}, not of {name}")
        return pretrained.from_timm(state, form).float()
    if form != "official":
        raise ValueError(f"form={form!r} is for timm's weights; {weights} holds other weights")
    if "fc.weight" not in state:
        raise ValueError(f"{weights} does not hold an NFNet: it lacks fc.weight")
    with torch.device("meta"):
        model = models.create(name, len(state["fc.weight"]))
    named = [n for n, t in model.state_dict().items() if t.is_floating_point() and n in state]
    pretrained.check_values({name: state[name] for name in named})
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{weights} does not fit {name}: {error}") from error
    return model.float()


def report(name: str, pixels: int, accuracy: Accuracy) -> str:
    """The measured accuracy and the paper's, and how they compare."""
    lines = [
        f"{name} at {pixels} pixels, {accuracy.images:,} images: top-1 {accuracy.top1:.2%}, "
        f"top-5 {accuracy.top5:.2%}"
    ]
    paper = PRINTED.get(name)
    if paper is None:
        return f"{lines[0]}\nthe paper prints no accuracy for {name}"
    lines.append(
        f"the paper: top-1 {paper.top1} %, top-5 {paper.top5} % ({paper.how}; {SOURCE}, seen in "
        "the paper)"
    )
    test_pixels = nfnet.parse(name)[2].test_pixels
    if accuracy.images != VALIDATION_IMAGES:
        lines.append(f"not comparable: the paper used {VALIDATION_IMAGES:,} validation images")
    elif pixels != test_pixels:
        lines.append(f"not comparable: the paper tested at {test_pixels} pixels")
    else:
        error = 100 * math.sqrt(accuracy.top1 * (1 - accuracy.top1) / accuracy.images)
        difference = 100 * accuracy.top1 - paper.top1
        lines.append(
            f"difference {difference:+.2f} points; standard error of the measured top-1 from the "
            f"choice of images {error:.2f}"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The parser of ``python -m nbrepro.imagenet``."""
    top = argparse.ArgumentParser(
        prog="python -m nbrepro.imagenet",
        description="Accuracy of an NFNet on a folder of images, next to the paper's.",
    )
    top.add_argument("--model", required=True, help="nfnet_f0 to nfnet_f7, and their relatives")
    top.add_argument(
        "--weights",
        required=True,
        help="a .safetensors or .pth file of the network or of timm's dm_nfnet_*, or dm_nfnet_f0 "
        "to dm_nfnet_f6 to fetch the published ones",
    )
    top.add_argument("--data", required=True, help="folder with one folder of images per class")
    top.add_argument("--pixels", type=int, help="side of the crop; default the variant's test size")
    top.add_argument("--form", default="official", help="official (default) or timm")
    top.add_argument("--batch-size", type=int, default=50)
    top.add_argument(
        "--workers",
        type=int,
        default=min(8, os.cpu_count() or 1),
        help="processes that decode images; default %(default)s",
    )
    top.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate and print; returns the exit status, 2 after an error."""
    options = parser().parse_args(arguments)
    try:
        choose("device", options.device, ("auto", "cpu", "cuda"))
        if options.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: this machine has no usable CUDA GPU")
        for name in ("pixels", "batch_size"):
            number = getattr(options, name)
            if number is not None and number < 1:
                raise ValueError(f"--{name.replace('_', '-')} is {number}; it must be at least 1")
        device = options.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load(options.model, options.weights, options.form)
        pixels = options.pixels or nfnet.parse(options.model)[2].test_pixels
        accuracy = evaluate(
            model,
            options.data,
            pixels,
            batch_size=options.batch_size,
            workers=options.workers,
            device=device,
        )
    except (DataError, ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report(options.model, pixels, accuracy))
    return 0


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    logging.getLogger("nbrepro").setLevel(logging.INFO)  # says what weights are held against
    sys.exit(main())

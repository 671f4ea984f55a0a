"""Time of one training step: NFNets against their BatchNorm twin, EfficientNets and ResNet-50.

A step is what the paper times (arXiv 2102.06171, appendix A.2): forward, backward and the
optimizer's update, of random images that already lie on the device. NFNets clip their gradients, as
they are trained with AGC; the others do not. Networks of a group take turns, in a new order every
round. "A over B" says how many times as fast A was as B, round by round.

On a GPU: batch 32, the resolutions of training, bfloat16 autocast, channels last, nothing compiled;
20 steps to warm up, then the median of five steps in each of ten rounds. Where a batch does not fit
into memory, its gradient is accumulated over halves, quarters and so on, as the paper did on one
V100. The paper names no resolution for EfficientNet-B7; 600 pixels is that network's own.

On a CPU: float32, small batches and images, as the names of the cases say. That is another regime,
not the paper's at a smaller scale: standardizing weights costs the same for any number of pixels.
With one thread the time is the process's own CPU time, so that other jobs disturb less.

The last rows time one grouped 3×3 convolution, forward and backward. Sixteen times as wide a group
takes sixteen times as many multiply-adds.

    python benchmarks/nfnet_steps.py --device cuda
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbrepro import agc, models
from nbrepro.models.nfnet import NFNet
from nbrepro.records import timings
from nbrepro.train.device import accelerator_for

try:
    import timm
except ImportError as error:
    raise SystemExit(
        "this benchmark compares with the networks of timm: pip install timm, then run it again"
    ) from error

CLASSES = 1000
CHANNELS, SIDE, GROUP_WIDTHS = 768, 12, (8, 16, 32, 64, 128)  # stage 3 of NFNet-F0 at 192 pixels

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "NFNet-F0": lambda: models.create("nfnet_f0", CLASSES),
    "folded NFNet-F0": lambda: models.create("nfnet_f0", CLASSES, fold=True),
    "BN-NFNet-F0": lambda: models.create("bn_nfnet_f0", CLASSES),
    "NFNet-F1": lambda: models.create("nfnet_f1", CLASSES),
    "NFNet-F2": lambda: models.create("nfnet_f2", CLASSES),
    "NFNet-F3": lambda: models.create("nfnet_f3", CLASSES),
    "EfficientNet-B0": lambda: timm.create_model(
        "efficientnet_b0", drop_rate=0.2, drop_path_rate=0.2
    ),
    "EfficientNet-B7": lambda: timm.create_model(
        "efficientnet_b7", drop_rate=0.5, drop_path_rate=0.2
    ),
    "ResNet-50": lambda: timm.create_model("resnet50"),
}


@dataclass(frozen=True)
class Group:
    """Networks that take turns.

    Attributes:
        pixels: name in :data:`NETWORKS` → height and width of its images.
        cases: pairs of names, the one that is expected to be faster first.
        rounds: how often each takes its turn.
        batch: images per step.
        label: added to the cases' names.
    """

    pixels: dict[str, int]
    cases: tuple[tuple[str, str], ...]
    rounds: int
    batch: int
    label: str = ""


TWINS = (
    ("NFNet-F0", "BN-NFNet-F0"),
    ("folded NFNet-F0", "NFNet-F0"),
    ("folded NFNet-F0", "BN-NFNet-F0"),
)
EFFICIENT = (("NFNet-F1", "EfficientNet-B7"),)
RESIDUAL = (("ResNet-50", "EfficientNet-B0"),)
FAMILY = {"NFNet-F0": 192, "NFNet-F1": 224, "NFNet-F2": 256, "NFNet-F3": 320}

GROUPS = {
    "cuda": (
        Group(dict.fromkeys(("NFNet-F0", "folded NFNet-F0", "BN-NFNet-F0"), 192), TWINS, 10, 32),
        Group({"NFNet-F1": 224, "EfficientNet-B7": 600}, EFFICIENT, 10, 32),
        Group({"ResNet-50": 224, "EfficientNet-B0": 224}, RESIDUAL, 10, 32),
        Group(FAMILY, tuple(pairwise(FAMILY)), 10, 32),
    ),
    "cpu": (
        *(
            Group(
                dict.fromkeys(("NFNet-F0", "folded NFNet-F0", "BN-NFNet-F0"), pixels),
                TWINS,
                rounds,
                4,
                f", {pixels} px, batch 4",
            )
            for pixels, rounds in ((64, 7), (192, 5))
        ),
        Group(
            {"NFNet-F1": 96, "EfficientNet-B7": 257},  # 224 to 600, as in training
            EFFICIENT,
            4,
            4,
            ", 96 and 257 px, batch 4",
        ),
        *(
            Group(
                {"ResNet-50": pixels, "EfficientNet-B0": pixels},
                RESIDUAL,
                rounds,
                4,
                f", {pixels} px, batch 4",
            )
            for pixels, rounds in ((64, 15), (224, 7))
        ),
    ),
}
SMOKE = Group({"ResNet-50": 32, "EfficientNet-B0": 32}, RESIDUAL, 2, 2, ", 32 px, batch 2")
WARM_UPS = {"cuda": 20, "cpu": 1}
CONVOLUTIONS = {"cuda": (32, 256), "cpu": (4, 16)}  # batch sizes
CONVOLUTION_ROUNDS = {"cuda": 10, "cpu": 9}
STEPS = {"cuda": 5, "cpu": 1}  # per round


class Trainee:
    """A network with its optimizer and a batch; calling it trains one step.

    Attributes:
        pieces: how many parts the batch is divided into; grows when memory is short.
        peak: the most bytes that it used on the GPU, with its weights; 0 on a CPU.
    """

    def __init__(self, name: str, pixels: int, batch: int, device: torch.device) -> None:
        self.device = device
        self.model = NETWORKS[name]().to(device).to(memory_format=torch.channels_last)
        self.named = list(self.model.named_parameters())
        self.clips = isinstance(self.model, NFNet) and not name.startswith("BN-")
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=1e-6, momentum=0.9, nesterov=True, fused=True
        )
        images = torch.randn(batch, 3, pixels, pixels, device=device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(CLASSES, (batch,), device=device)
        self.pieces = 1
        self.peak = 0

    def __call__(self) -> None:
        """One step; the gradient is freed at its end."""
        for images, labels in zip(
            self.images.chunk(self.pieces), self.labels.chunk(self.pieces), strict=True
        ):
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"
            ):
                loss = F.cross_entropy(self.model(images), labels)
            (loss / self.pieces).backward()
        if self.clips:
            agc.clip_grads_(self.named, clipping=0.01, exclude=("fc.weight",))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def warm_up(self, steps: int) -> None:
        """Take a few steps, in as few pieces as memory allows."""
        while True:
            try:
                for _ in range(steps):
                    self()
                return
            except torch.cuda.OutOfMemoryError:
                if self.pieces == len(self.images):
                    raise
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            self.pieces *= 2


def prepared(group: Group, device: torch.device) -> dict[str, Trainee]:
    """The group's networks, warmed up one after the other, each one's memory measured."""
    trainees = {}
    for name, pixels in group.pixels.items():
        torch.manual_seed(0)
        if device.type == "cuda":
            torch.cuda.empty_cache()
            others = torch.cuda.memory_allocated(device)
        trainee = Trainee(name, pixels, group.batch, device)
        if device.type == "cuda":
            trainee.warm_up(1)  # finds the number of pieces
            torch.cuda.reset_peak_memory_stats(device)
        trainee.warm_up(WARM_UPS[device.type])
        if device.type == "cuda":
            trainee.peak = torch.cuda.max_memory_allocated(device) - others
        trainees[name] = trainee
    return trainees


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median time of a round's calls: GPU time, or CPU time of the process with one thread."""
    count = STEPS[device.type]
    if device.type == "cuda":
        torch.cuda.empty_cache()  # memory reserved by others must not delay this one
        work()
        events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        events[0].record()
        for event in events[1:]:
            work()
            event.record()
        events[-1].synchronize()
        return statistics.median(a.elapsed_time(b) / 1000 for a, b in pairwise(events))
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times = [clock()]
    for _ in range(count):
        work()
        times.append(clock())
    return statistics.median(b - a for a, b in pairwise(times))


def milliseconds(taken: Sequence[float]) -> float:
    """The median."""
    return float(f"{1000 * statistics.median(taken):.4g}")


def steps(group: Group, device: torch.device) -> dict[str, dict[str, Any]]:
    """One row per case of the group."""
    trainees = prepared(group, device)
    cases = {name: partial(seconds, trainee, device) for name, trainee in trainees.items()}
    times = timings.rounds(cases, group.rounds)
    rows = {}
    for fast, slow in group.cases:
        row: dict[str, Any] = {**timings.ratios(times[slow], times[fast]), "batch": group.batch}
        for prefix, name in (("", fast), ("peer_", slow)):
            row[f"{prefix}milliseconds"] = milliseconds(times[name])
            row[f"{prefix}pixels"] = group.pixels[name]
            if device.type == "cuda":
                row[f"{prefix}pieces"] = trainees[name].pieces
                row[f"{prefix}peak_bytes"] = trainees[name].peak
        rows[f"{fast} over {slow}{group.label}"] = row
    return rows


class Convolution:
    """A grouped 3×3 convolution; calling it runs it forward and backward."""

    def __init__(self, group_width: int, batch: int, device: torch.device) -> None:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.layer = nn.Conv2d(
            CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS // group_width, bias=False
        ).to(device, dtype)
        self.layer.to(memory_format=torch.channels_last)
        shape = (batch, CHANNELS, SIDE, SIDE)
        x = torch.randn(shape, device=device, dtype=dtype)
        self.x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        self.gradient = torch.randn_like(self.x)

    def __call__(self) -> tuple[Tensor, ...]:
        """Output's gradient → those of input and weight."""
        return torch.autograd.grad(self.layer(self.x), (self.x, self.layer.weight), self.gradient)


def convolutions(batch: int, device: torch.device, rounds: int) -> dict[str, dict[str, Any]]:
    """One row per group width, against the widest."""
    layers = {width: Convolution(width, batch, device) for width in GROUP_WIDTHS}
    for layer in layers.values():
        for _ in range(WARM_UPS[device.type]):
            layer()
    cases = {str(width): partial(seconds, layer, device) for width, layer in layers.items()}
    times = timings.rounds(cases, rounds)
    widest = GROUP_WIDTHS[-1]
    rows = {}
    for width in GROUP_WIDTHS[:-1]:
        taken = statistics.median(times[str(width)])
        operations = 2 * 3 * batch * SIDE**2 * CHANNELS * 9 * width  # forward and two gradients
        rows[f"group width {width} over {widest}, 3×3, batch {batch}"] = {
            **timings.ratios(times[str(widest)], times[str(width)]),
            "batch": batch,
            "less_work": widest // width,
            "gflops_per_second": float(f"{operations / taken / 1e9:.3g}"),
        }
    return rows


def main() -> None:
    """Measure, print and record."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument(
        "--smoke", action="store_true", help="two small networks, two rounds; writes nothing"
    )
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    torch.backends.cudnn.benchmark = True
    device = accelerator_for(given.device).device

    if given.smoke:
        shown(steps(SMOKE, device))
        shown(convolutions(1, device, 2))
        return
    rows: dict[str, dict[str, Any]] = {}
    for group in GROUPS[device.type]:
        rows |= shown(steps(group, device))
    for batch in CONVOLUTIONS[device.type]:
        rows |= shown(convolutions(batch, device, CONVOLUTION_ROUNDS[device.type]))
    timings.write("nfnet_steps", device, rows)


def shown(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Print rows as soon as they are measured."""
    for case, row in rows.items():
        print(f"{case:<60} x{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]", flush=True)
    return rows


if __name__ == "__main__":
    main()

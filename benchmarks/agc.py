"""Adaptive gradient clipping: ours against timm's, alone and with the SGD step.

The peers are ``timm.utils.adaptive_clip_grad`` and, with the step, the same followed by
``torch.optim.SGD`` with its defaults. Gradients are synthetic, with about half of the units above
the bound, and new tensors in every round, as after a backward pass. Each round runs all variants in
a new order, and a row is the ratio of their times, round by round: median, smallest and largest.

The floor is the time that one pass over the data would take at this machine's copy bandwidth,
measured in the same run: 12 bytes per parameter for clipping (read weight and gradient, write
gradient), 20 with the step (read weight, gradient and momentum, write weight and momentum), in
float32. Small networks fit into caches and can beat it.

With one thread on a CPU the time is the thread's own CPU time, so that other jobs on the machine
disturb less; they still share its caches, so the load average is printed. With more threads it is
wall-clock time; on a GPU it is measured by CUDA events, launches included.

    python benchmarks/agc.py --threads 1
"""

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from timm.utils import adaptive_clip_grad
from torch import Tensor, nn

from nbrepro import agc, models
from nbrepro.optim import ClippedSGD
from nbrepro.records import timings
from nbrepro.records.provenance import device_name

NETWORKS = {
    "cifar_resnet14": "ResNet-14",
    "cifar_resnet56": "ResNet-56",
    "cifar_resnet110": "ResNet-110",
    "nf_resnet50": "NF-ResNet-50",
    "dm_nfnet_f0": "NFNet-F0",
}
CLIPPING = 0.01
SGD: dict[str, Any] = {"lr": 1e-3, "momentum": 0.9, "nesterov": True, "weight_decay": 2e-5}
#: Case → the case it is compared with, and bytes per parameter of a single pass.
CASES = {
    "clip_grads_": ("timm AGC", 12),
    "clip_grads_ + fused SGD": ("timm AGC + SGD", 20),
    "ClippedSGD": ("timm AGC + SGD", 20),
}


def create(name: str) -> nn.Module:
    """CIFAR networks are ours, the others timm's."""
    model: nn.Module = models.create(name) if name in models.names() else timm.create_model(name)
    return model


def synthetic(model: nn.Module) -> list[Tensor]:
    """A gradient for every parameter, with units on both sides of the bound."""
    generator = torch.Generator().manual_seed(0)
    gradients = []
    for parameter in model.parameters():
        flat = parameter.detach().cpu().reshape(1 if parameter.ndim < 2 else len(parameter), -1)
        bound = CLIPPING * flat.norm(dim=1, keepdim=True).clamp(min=1e-3)
        noise = torch.randn(flat.shape, generator=generator)
        size = torch.randn(len(flat), 1, generator=generator).exp()  # a median of 1
        noise *= size * bound / noise.norm(dim=1, keepdim=True)
        gradients.append(noise.view(parameter.shape).to(parameter.device))
    return gradients


def give(model: nn.Module, gradients: list[Tensor]) -> None:
    """New gradient tensors, as after backward."""
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()


def check(model: nn.Module, gradients: list[Tensor]) -> None:
    """With timm's units both must give the same gradients; if not, there is nothing to compare."""
    results = []
    for clip in (
        lambda: agc.clip_grads_(model.named_parameters(), CLIPPING, units="timm"),
        lambda: adaptive_clip_grad(model.parameters(), CLIPPING),
    ):
        give(model, gradients)
        clip()
        results.append([parameter.grad for parameter in model.parameters()])
    for ours, theirs in zip(*results, strict=True):
        same = torch.equal(ours, theirs)
        if not (same if ours.device.type == "cpu" else torch.allclose(ours, theirs, rtol=1e-5)):
            raise SystemExit("clip_grads_ and timm differ; there is nothing to compare")


def variants(model: nn.Module) -> dict[str, tuple[nn.Module, Callable[[], object]]]:
    """Case → a network of its own and the work to be timed."""
    names = ("timm AGC", "clip_grads_", "timm AGC + SGD", *list(CASES)[1:])
    copies = [copy.deepcopy(model) for _ in names]
    tensors = [list(m.parameters()) for m in copies]
    named = [list(m.named_parameters()) for m in copies]
    default = torch.optim.SGD(tensors[2], **SGD)
    fused = torch.optim.SGD(tensors[3], fused=True, **SGD)
    clipped = ClippedSGD(named[4], clipping=CLIPPING, **SGD)

    def timm_and_sgd() -> None:
        adaptive_clip_grad(tensors[2], CLIPPING)
        default.step()

    def function_and_fused() -> None:
        agc.clip_grads_(named[3], CLIPPING)
        fused.step()

    work: list[Callable[[], object]] = [
        lambda: adaptive_clip_grad(tensors[0], CLIPPING),
        lambda: agc.clip_grads_(named[1], CLIPPING),
        timm_and_sgd,
        function_and_fused,
        clipped.step,
    ]
    return dict(zip(names, zip(copies, work, strict=True), strict=True))


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time of one call."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    work()
    return clock() - begin


def bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, of copying 256 MiB: the best of 20."""
    source = torch.ones(2**26, device=device)
    target = torch.zeros_like(source)
    return 2 * 2**28 / min(seconds(lambda: target.copy_(source), device) for _ in range(20))


def measure(
    name: str, device: torch.device, rounds: int, speed: float
) -> dict[str, dict[str, Any]]:
    """All cases of one network."""
    torch.manual_seed(0)
    model = create(name).to(device)
    gradients = synthetic(model)
    check(model, gradients)

    def turn(network: nn.Module, work: Callable[[], object]) -> float:
        give(network, gradients)
        return seconds(work, device)

    cases = {case: partial(turn, *variant) for case, variant in variants(model).items()}
    timings.rounds(cases, 2)  # to warm up
    times = timings.rounds(cases, rounds)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    rows = {}
    for case, (peer, width) in CASES.items():
        taken = statistics.median(times[case])
        rows[f"{NETWORKS[name]}: {case} over {peer}"] = {
            **timings.ratios(times[peer], times[case]),
            "seconds": float(f"{taken:.4g}"),
            "times_floor": round(taken / (width * parameters / speed), 2),
            "parameters": parameters,
            "tensors": len(gradients),
        }
    return rows


def main() -> None:
    """Measure, print and record."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    arguments.add_argument("--rounds", type=int, default=41, help="a quarter for large networks")
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    arguments.add_argument(
        "--smoke", action="store_true", help="one small network, two rounds; writes nothing"
    )
    given = arguments.parse_args()
    if given.smoke:
        given.networks, given.rounds = ["cifar_resnet14"], 2
    torch.set_num_threads(given.threads)
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(auto if given.device == "auto" else given.device)
    load = os.getloadavg()[0]
    speed = bandwidth(device)
    print(
        f"{device_name(device)}, {given.threads} threads, load {load:.1f}, "
        f"copies at {speed / 1e9:.1f} GB/s"
    )
    rows = {}
    for network in given.networks:
        large = not network.startswith("cifar") and device.type == "cpu"
        rounds = max(given.rounds // (4 if large else 1), 2)
        for case, row in measure(network, device, rounds, speed).items():
            rows[case] = row
            print(
                f"{case:<60} {1e3 * row['seconds']:9.3f} ms   {row['ratio']:5.2f} "
                f"[{row['low']:.2f}, {row['high']:.2f}]   {row['times_floor']:6.1f} floors"
            )
    if not given.smoke:
        timings.write("agc", device, rows)


if __name__ == "__main__":
    main()

"""Several seeds at once against one after another: is it worth a model class of its own?

A step is forward, backward and the optimizer's update of every seed's network, BatchNorm-only, each
on a batch of its own that already lies on the device. Four ways:

- one after another, the reference: what a plain sweep does;
- grouped: one wide network in which every convolution has a group a seed;
- vmap: ``torch.func`` over stacked parameters;
- streams, on a GPU only: one graph that holds the steps as parallel branches.

On a GPU every step is captured as a CUDA graph; the sweep's reference is then as fast as it gets.
All ways must end in the same weights, in float64, or nothing is timed. A row says how many times
less time a way took than the reference, round by round. The library has no way but the reference:
the others would have to be more than 1.3 times as fast on a GPU to be worth their code.

    python benchmarks/seeds_side_by_side.py --models cifar_resnet14 cifar_resnet56
"""

import argparse
import copy
import random
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F

from nbrepro import _malloc, models
from nbrepro.claims.labels import network
from nbrepro.freezing import freeze
from nbrepro.records import timings
from nbrepro.train.device import accelerator_for, has_bfloat16, round_frozen

Step = Callable[[], object]

CLASSES, BATCH, SIDE = 10, 128, 32
TOLERANCE = 1e-9  # of weights of order one after three steps in float64


class Heads(nn.Module):
    """One linear layer a seed: ``[B, S * C]`` → ``[B, S, classes]``."""

    def __init__(self, heads: list[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([h.weight.data for h in heads]), False)
        self.bias = nn.Parameter(torch.stack([h.bias.data for h in heads]), False)

    def forward(self, x: Tensor) -> Tensor:
        """Every head on its own network's features."""
        x = x.unflatten(1, (len(self.weight), -1))
        return torch.einsum("bsc,skc->bsk", x, self.weight.to(x.dtype)) + self.bias


def grouped(nets: list[nn.Module]) -> nn.Module:
    """One network that computes all of ``nets``, a block of channels each."""
    wide = copy.deepcopy(nets[0])
    for name, layer in list(wide.named_modules()):
        same = [net.get_submodule(name) for net in nets]
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = torch.cat([s.weight.data for s in same])
            layer.groups, layer.in_channels = len(nets), len(nets) * layer.in_channels
        elif isinstance(layer, nn.BatchNorm2d):
            for part in ("weight", "bias", "running_mean", "running_var"):
                getattr(layer, part).data = torch.cat([getattr(s, part).data for s in same])
            layer.num_features *= len(nets)
        elif isinstance(layer, nn.Linear):
            wide.set_submodule(name, Heads(same))
    return wide


def networks(model: str, seeds: int, device: torch.device, dtype: torch.dtype) -> list[nn.Module]:
    """One BatchNorm-only network a seed, its frozen weights in ``dtype``."""
    nets = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        net = models.create(model, CLASSES)
        freeze(net, "batchnorm")
        if dtype == torch.float64:
            net = net.double()
        elif dtype == torch.bfloat16:
            round_frozen(net)
        nets.append(net.to(device, memory_format=torch.channels_last))
    return nets


def optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """As the library trains, its momentum in place before the first step."""
    made = torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=1e-4, fused=True)
    for parameter in parameters:
        made.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return made


def trainable(net: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained."""
    return [p for p in net.parameters() if p.requires_grad]


class Ways:
    """The same training, done in each way; ``steps[way]()`` trains every network once."""

    def __init__(
        self, model: str, seeds: int, device: torch.device, dtype: torch.dtype, capture: bool
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (seeds, BATCH, 3, SIDE, SIDE)
        self.images = torch.randn(shape, generator=generator).to(device)
        self.labels = torch.randint(CLASSES, (seeds, BATCH), generator=generator).to(device)
        if dtype == torch.float64:
            self.images = self.images.double()
        bfloat16 = dtype == torch.bfloat16
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)
        self.memory = torch.channels_last
        self.apart = networks(model, seeds, device, dtype)
        self.wide = grouped(networks(model, seeds, device, dtype))
        self.stacked = networks(model, seeds, device, dtype)
        self.parameters, self.buffers = stack_module_state(self.stacked)
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(dict(self.stacked[0].named_parameters())[name].requires_grad)
        each = [self._one(number) for number in range(seeds)]
        graph = _captured if capture else lambda step: step
        alone = [graph(step) for step in each]
        self.steps: dict[str, Step] = {
            "one after another": lambda: [step() for step in alone],
            "grouped": graph(self._grouped()),
            "vmap": graph(self._vmap()),
        }
        if capture:
            self.steps["streams"] = graph(_branches(each))

    def _one(self, number: int) -> Step:
        net = self.apart[number].train()
        update = optimizer(trainable(net))
        images = self.images[number].contiguous(memory_format=self.memory)

        def step() -> None:
            update.zero_grad()
            with self.autocast:
                logits = net(images)
            F.cross_entropy(logits.to(self.images.dtype), self.labels[number]).backward()
            update.step()

        return step

    def _loss(self, logits: Tensor) -> Tensor:
        """The sum over seeds of the mean over a batch, from ``[S, B, classes]``."""
        logits = logits.to(self.images.dtype).flatten(0, 1)
        return F.cross_entropy(logits, self.labels.flatten(), reduction="sum") / BATCH

    def _grouped(self) -> Step:
        net = self.wide.train()
        update = optimizer(trainable(net))
        images = self.images.transpose(0, 1).flatten(1, 2).contiguous(memory_format=self.memory)

        def step() -> None:
            update.zero_grad()
            with self.autocast:
                logits = net(images)
            self._loss(logits.transpose(0, 1)).backward()
            update.step()

        return step

    def _vmap(self) -> Step:
        template = copy.deepcopy(self.stacked[0]).to("meta").train()
        for layer in template.modules():  # autocast does not reach into vmap
            if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                layer.register_forward_pre_hook(lambda m, args: (args[0].to(m.weight.dtype),))
        update = optimizer([p for p in self.parameters.values() if p.requires_grad])

        def logits_of(parameters: object, buffers: object, images: Tensor) -> Tensor:
            logits: Tensor = functional_call(template, (parameters, buffers), (images,))
            return logits

        def step() -> None:
            update.zero_grad()
            logits = torch.vmap(logits_of)(self.parameters, self.buffers, self.images)
            self._loss(logits).backward()
            update.step()

        return step

    def weights(self) -> dict[str, list[Tensor]]:
        """What each way has trained, seed by seed in one order."""
        apart = [trainable(net) for net in self.apart]
        stacked = [p for p in self.parameters.values() if p.requires_grad]
        return {
            "one after another": [torch.stack(list(parts)) for parts in zip(*apart, strict=True)],
            "grouped": [p.unflatten(0, (len(apart), -1)) for p in trainable(self.wide)],
            "vmap": stacked,
        }


def _branches(steps: list[Step]) -> Step:
    """All steps at once, each on a stream of its own."""
    streams = [torch.cuda.Stream() for _ in steps]

    def step() -> None:
        here = torch.cuda.current_stream()
        for stream, one in zip(streams, steps, strict=True):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                one()
        for stream in streams:
            here.wait_stream(stream)

    return step


def _captured(step: Step) -> Step:
    """``step`` as a CUDA graph."""
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def check(model: str, seeds: int, device: torch.device) -> float:
    """The largest difference of a weight between two ways; too large a one ends the benchmark."""
    ways = Ways(model, seeds, device, torch.float64, capture=False)
    for step in ways.steps.values():
        for _ in range(3):
            step()
    weights = ways.weights()
    reference = weights.pop("one after another")
    differences = [
        float((ours - theirs).detach().abs().max())
        for parts in weights.values()
        for ours, theirs in zip(parts, reference, strict=True)
    ]
    if not max(differences) <= TOLERANCE:
        raise SystemExit(f"{model}: the ways differ by {max(differences):.1e}; nothing to compare")
    return max(differences)


def seconds(step: Step, repeats: int, device: torch.device) -> float:
    """Time of ``repeats`` calls, the device's work included."""
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


@_malloc.kept()
def main() -> None:
    """Measure, print and record."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--models", nargs="+", default=["cifar_resnet14", "cifar_resnet56"])
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--repeats", type=int, help="steps a round; default 1, on a GPU 50")
    arguments.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    given = arguments.parse_args()
    device = accelerator_for(given.device).device
    gpu = device.type == "cuda"
    repeats = given.repeats or (50 if gpu else 1)
    dtype = torch.bfloat16 if has_bfloat16(device) else torch.float32
    rows = {}
    for model in given.models:
        difference = check(model, given.seeds, device)
        ways = Ways(model, given.seeds, device, dtype, capture=gpu)
        for step in ways.steps.values():
            seconds(step, repeats, device)  # warm up
        times: dict[str, list[float]] = {name: [] for name in ways.steps}
        for number in range(given.rounds):
            turns = list(ways.steps.items())
            random.Random(number).shuffle(turns)
            for name, step in turns:
                times[name].append(seconds(step, repeats, device))
        reference = times.pop("one after another")
        for name, taken in times.items():
            case = f"{network(model)}, {given.seeds} seeds, {name} over one after another"
            row = timings.ratios(reference, taken)
            rows[case] = row | {"largest_difference": difference, "precision": str(dtype)[6:]}
            print(f"{case}: {row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]")
    timings.write("seeds_side_by_side", device, rows)


if __name__ == "__main__":
    main()

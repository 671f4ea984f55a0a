"""Two processes that share a batch, as two devices do, with statistics of their own and shared.

The processes are real: ``torch.distributed`` with gloo. PyTorch's own ``SyncBatchNorm`` wants a
GPU, so its sums are written out here: a few lines, by which the gradient is that of one process.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nbrepro import models
from nbrepro.claims.checks import Outcome, check
from nbrepro.claims.nfnets.batchnorm import gradient

#: Seeds of the batches that the processes share.
SEEDS = 10


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        total = mine.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


def _sum(mine: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(mine)
    return total


class SharedBatchNorm(nn.BatchNorm2d):
    """BatchNorm with the mean and the variance of the images of all processes.

    Equal to one process with all of them, if every process has as many. ``[B, C, H, W]``.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize; in training with sums over all processes, which gradients pass too."""
        if not self.training:
            return super().forward(input)
        count = dist.get_world_size()
        mean = _sum(input.mean((0, 2, 3))) / count
        centred = input - mean[:, None, None]
        var = _sum(centred.square().mean((0, 2, 3))) / count
        images = count * input.numel() / input.shape[1]
        with torch.no_grad():
            rate = 0.1 if self.momentum is None else self.momentum
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, rate)
            self.running_var.lerp_(var * images / (images - 1), rate)
        scale = self.weight / (var + self.eps).sqrt()
        out: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return out


def share_statistics(model: nn.Module) -> nn.Module:
    """Make every BatchNorm of a network a :class:`SharedBatchNorm`; its numbers stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm
    return model


def twin(batchnorm: bool) -> nn.Module:
    """A small network whose branches count from the start, in float64: no rounding to speak of."""
    name, options = ("bn_cifar_nf_resnet8", {}) if batchnorm else ("cifar_nf_resnet8", _COUNTS)
    return models.create(name, **options).double()


_COUNTS: dict[str, Any] = {"skip_gain": None}


def _difference(batchnorm: bool, shared: bool, seed: int) -> float:
    """How far the mean of the processes' gradients is from that of one process, relatively."""
    rank, count = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(seed)
    model = twin(batchnorm)
    images, labels = torch.randn(32, 3, 16, 16).double(), torch.randint(10, (32,))
    whole = gradient(model, images, labels)
    if shared:
        share_statistics(model)
    mine = gradient(model, images.chunk(count)[rank], labels.chunk(count)[rank])
    dist.all_reduce(mine)
    return float((mine / count - whole).norm() / whole.norm())


def _refusal() -> str:
    """What PyTorch's own layer says on a CPU; empty where it works."""
    try:
        nn.SyncBatchNorm(4)(torch.randn(2, 4, 3, 3))
    except ValueError as error:
        return str(error)
    return ""


def work(rank: int, count: int, store: str) -> dict[str, Any]:
    """What one process does; all of them return the same."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    cases = {"own": (True, False), "shared": (True, True), "normalizer_free": (False, False)}
    found: dict[str, Any] = {
        name: [_difference(*case, seed) for seed in range(SEEDS)] for name, case in cases.items()
    }
    found["refusal"] = _refusal()
    dist.destroy_process_group()
    return found


def run(count: int = 2) -> dict[str, Any]:
    """Start the processes, and return what the first one measured.

    Returns:
        ``own``, ``shared`` and ``normalizer_free``: relative differences, one per seed; and
        ``refusal``, the words of ``nn.SyncBatchNorm``.

    Raises:
        RuntimeError: if a process fails, with its last words.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    root = str(Path(__file__).parents[3])
    environment["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", __name__]
        started = [
            subprocess.Popen(
                [*command, str(rank), str(count), f"{folder}/store"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for rank in range(count)
        ]
        said = [process.communicate() for process in started]
    for process, (_, error) in zip(started, said, strict=True):
        if process.returncode:
            raise RuntimeError(f"a process failed: {error.strip().splitlines()[-1:]}")
    found: dict[str, Any] = json.loads(said[0][0].splitlines()[-1])
    return found


@check
def synchronized_devices() -> Outcome:
    """How far the gradient of two processes is from that of one with their images (appendix B).

    As a share of its norm, over ten batches of 32 images of noise: the smallest with statistics of
    their own, the largest with shared ones, and the largest of the normalizer-free twin.
    """
    found = run()
    refusal = found["refusal"] or "nothing"
    return Outcome(
        {
            "own": min(found["own"]),
            "shared": max(found["shared"]),
            "normalizer_free": max(found["normalizer_free"]),
        },
        f"two processes against one, ten batches: relative difference {min(found['own']):.2f} to "
        f"{max(found['own']):.2f} with statistics of their own, at most {max(found['shared']):.0e} "
        f"with shared ones, at most {max(found['normalizer_free']):.0e} without BatchNorm; of "
        f"PyTorch's own SyncBatchNorm on a CPU: “{refusal}”",
    )


if __name__ == "__main__":
    print(json.dumps(work(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))

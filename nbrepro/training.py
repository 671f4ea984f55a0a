"""The one training loop.

Accelerate owns the device and the processes: the same code runs on a CPU, on one GPU, and in
several processes under ``torchrun`` or ``accelerate launch``. Order, crops and flips are functions
of (seed, epoch) alone, so a run resumed at the end of an epoch ends bit for bit as an uninterrupted
one does, and several processes see together what one would see alone.
"""

import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from nbrepro import freezing, models
from nbrepro.atomic import replacing
from nbrepro.data import Batches, Dataset
from nbrepro.spec import Spec

log = logging.getLogger("nbrepro")

PAD = 4
EVALUATION_BATCH = 1000
DECAY = 0.1


class Interrupted(Exception):
    """Training stopped at the end of an epoch because it was asked to; the checkpoint holds it."""


@dataclass
class Result:
    """What a run measured.

    Attributes:
        status: ``completed`` or ``diverged`` (a loss that is not finite).
        metrics: of the last epoch: ``test_accuracy``, ``test_top5``, ``test_loss``,
            ``train_accuracy``, ``train_loss`` (fractions and nats); ``diverged_at`` is the step.
        curve: the same by epoch, with ``epoch`` and ``step``.
        how: device, precision, memory format, processes, threads; seconds and images a second.
        model: the trained network, on the CPU.
    """

    status: str
    metrics: dict[str, float]
    curve: list[dict[str, float]]
    how: dict[str, Any]
    model: nn.Module = field(repr=False)


def initial_model(spec: Spec, num_classes: int) -> nn.Module:
    """The network as it is before training; a function of the spec's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        return models.create(
            spec.model,
            num_classes,
            weight_init=spec.weight_init,
            batchnorm_init=spec.batchnorm_init,
        )


def learning_rate(spec: Spec, step: int, steps_per_epoch: int) -> float:
    """The rate of the global step ``step`` (from 0)."""
    total = spec.epochs * steps_per_epoch
    warmup = round(spec.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return spec.lr * (step + 1) / warmup
    if spec.schedule == "cosine":
        return spec.lr * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1))) / 2
    if spec.schedule == "step":
        return spec.lr * DECAY ** sum(step >= round(m * total) for m in spec.milestones)
    return spec.lr


def epoch_plan(seed: int, epoch: int, images: int, pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Order ``[N]``, crop offsets ``[N, 2]`` and flips ``[N]`` of one epoch, drawn on the CPU."""
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    order = torch.randperm(images, generator=generator)
    offset = torch.randint(2 * pad + 1, (images, 2), generator=generator)
    flip = torch.rand(images, generator=generator) < 0.5
    return order, offset, flip


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 matrix work is done by the hardware rather than emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def accelerator_for(device: str, track: str | None = None, logs: Path | None = None) -> Accelerator:
    """An ``Accelerator`` on ``auto``, ``cpu`` or ``cuda``.

    Args:
        device: where to run.
        track: one of Accelerate's trackers, such as ``tensorboard``; off by default.
        logs: folder of a tracker that writes files.

    Raises:
        RuntimeError: if a GPU was asked for and there is none.
        ValueError: for an unknown device, or a tracker that is unknown or not installed.
    """
    if track is not None:
        installed = [str(t) for t in get_available_trackers()]
        if track not in installed:
            have = ", ".join(installed) or "none"
            raise ValueError(
                f"tracker {track!r} is not installed; pip install it. Installed: {have}"
            )
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {device!r}; expected auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("device='cuda' was asked for and this machine has no usable CUDA GPU")
    if "RANK" not in os.environ:
        # Accelerate keeps the first device for the whole process; every run may choose its own.
        AcceleratorState._reset_state(reset_partial_state=True)
    # Without cpu=True, Accelerate would ignore torchrun's other processes on a machine with no GPU.
    cpu = device == "cpu" or not torch.cuda.is_available()
    accelerator = Accelerator(cpu=cpu, log_with=track, project_dir=logs)
    if device == "cuda" and accelerator.device.type != "cuda":
        raise RuntimeError(f"device='cuda' was asked for, Accelerate gave {accelerator.device}")
    return accelerator


def train(
    spec: Spec,
    dataset: Dataset,
    *,
    device: str = "auto",
    checkpoint: Path | None = None,
    progress: bool = True,
    track: str | None = None,
    logs: Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train and evaluate one network as ``spec`` says.

    Args:
        spec: the run.
        dataset: the data; must be the one that ``spec`` names.
        device: ``auto``, ``cpu`` or ``cuda``.
        checkpoint: file to write after every epoch and to resume from; the caller deletes it.
        progress: show a bar with the time left (on a terminal only).
        track: send one row an epoch to this Accelerate tracker, such as ``tensorboard``.
        logs: folder of the tracker's files.
        should_stop: asked at the end of every epoch but the last.

    Raises:
        Interrupted: when ``should_stop`` said so.
        RuntimeError: if ``device`` asks for a GPU that is not there.
        ValueError: if the data set is not the spec's.
    """
    if dataset.name != spec.dataset:
        raise ValueError(
            f"the spec names the data set {spec.dataset!r}, given was {dataset.name!r}"
        )
    started = time.perf_counter()
    accelerator = accelerator_for(device, track, logs)
    if track is not None:
        settings = {k: str(v) for k, v in spec.to_dict().items()}
        accelerator.init_trackers(f"{spec.model}-{spec.train}-{spec.hash}", config=settings)
    run = _Run(spec, dataset, accelerator)
    done = run.load(checkpoint) if checkpoint else 0
    trained_images, training_seconds = 0, 0.0

    bar = tqdm(
        total=spec.epochs * run.steps_per_epoch,
        initial=done * run.steps_per_epoch,
        desc=f"{spec.model} {spec.train} seed {spec.seed}",
        unit="step",
        dynamic_ncols=True,
        leave=False,
        # None: no bar where standard error is no terminal (logs, papermill, nbval)
        disable=None if progress and accelerator.is_main_process else True,
    )
    with bar:
        if not run.curve:
            run.evaluate(0)
        for epoch in range(done, spec.epochs):
            if run.diverged_at is not None:
                break
            tick = time.perf_counter()
            run.train_epoch(epoch, bar.update)
            training_seconds += time.perf_counter() - tick
            trained_images += len(run.batches)
            run.evaluate(epoch + 1)
            last = run.curve[-1]
            accelerator.log(last, step=epoch + 1)
            bar.set_postfix_str(f"test accuracy {last['test_accuracy']:.1%}")
            log.info("%s: epoch %d of %d, test accuracy %.1f %%", spec, epoch + 1, spec.epochs,
                     100 * last["test_accuracy"])  # fmt: skip
            if checkpoint and accelerator.is_main_process:
                run.save(checkpoint)
            if epoch + 1 < spec.epochs and run.diverged_at is None and run.any(should_stop()):
                raise Interrupted(f"{spec}: stopped after epoch {epoch + 1} of {spec.epochs}")

    for tracker in accelerator.trackers:  # end_training() would end the process group too
        tracker.finish()
    metrics = {k: v for k, v in run.curve[-1].items() if k not in ("epoch", "step")}
    if run.diverged_at is not None:
        metrics["diverged_at"] = run.diverged_at
    how = {
        **run.how,
        "seconds": round(time.perf_counter() - started, 1),
        "resumed_at_epoch": done,
        "images_per_second": round(trained_images / training_seconds) if training_seconds else None,
    }
    status = "completed" if run.diverged_at is None else "diverged"
    return Result(status, metrics, run.curve, how, run.model.cpu())


class _Run:
    """State of one run: network, optimizer, data on the device, curve."""

    def __init__(self, spec: Spec, dataset: Dataset, accelerator: Accelerator) -> None:
        self.spec, self.accelerator = spec, accelerator
        self.device = accelerator.device
        bfloat16 = spec.precision == "bfloat16" or (
            spec.precision == "auto" and has_bfloat16(self.device)
        )
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16)
        model = initial_model(spec, len(dataset.classes))
        freezing.freeze(model, spec.train, seed=spec.seed, statistics=spec.statistics)
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(
            trainable, spec.lr, spec.momentum, weight_decay=spec.weight_decay, fused=True
        )
        self.prepared, self.optimizer = accelerator.prepare(self.model, optimizer)
        self.pad = PAD if spec.augmentation == "crop-flip" else 0
        self.batches = Batches(dataset.train_images, dataset.train_labels, self.pad, self.device)
        self.test = Batches(dataset.test_images, dataset.test_labels, 0, self.device)
        self.top = min(5, len(dataset.classes))
        self.steps_per_epoch = math.ceil(len(self.batches) / spec.batch_size)
        self.curve: list[dict[str, float]] = []
        self.diverged_at: int | None = None
        self._train_sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.how: dict[str, Any] = {
            "device": _device_name(self.device),
            "precision": "bfloat16" if bfloat16 else "float32",
            "memory_format": "channels_last",
            "step": "eager",
            "processes": accelerator.num_processes,
            "threads": torch.get_num_threads(),
        }

    def any(self, mine: bool) -> bool:
        """Whether any process says so: all must leave the loop together."""
        return bool(self.accelerator.gather(torch.tensor([mine], device=self.device)).any())

    def _mine(self, items: Tensor) -> Tensor:
        """This process's share of the items of a batch."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        return items.tensor_split(processes)[rank] if processes > 1 else items

    def train_epoch(self, epoch: int, tick: Callable[[int], object]) -> None:
        """One pass over the training set, the short last batch included."""
        spec, size = self.spec, self.spec.batch_size
        torch.manual_seed(spec.seed * 100_003 + epoch)  # for layers that draw, such as dropout
        plan = [
            part.to(self.device)
            for part in epoch_plan(spec.seed, epoch, len(self.batches), self.pad)
        ]
        never = torch.tensor(torch.iinfo(torch.int64).max, device=self.device)
        first_bad, sums = never, torch.zeros_like(self._train_sums)
        self.prepared.train()
        for number in range(self.steps_per_epoch):
            step = epoch * self.steps_per_epoch + number
            part = slice(number * size, (number + 1) * size)
            order, offset, flip = (self._mine(items[part]) for items in plan)
            images, labels = self.batches(order, offset, flip) if self.pad else self.batches(order)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(spec, step, self.steps_per_epoch)
            with self.autocast:
                logits = self.prepared(images)
            loss = F.cross_entropy(logits.float(), labels, reduction="sum")
            # The mean over the whole batch, whatever this process's share of it is: processes
            # average their gradients, so each contributes its sum times processes / batch.
            batch = len(plan[0][part])
            self.optimizer.zero_grad(set_to_none=True)
            self.accelerator.backward(loss * (self.accelerator.num_processes / batch))
            self.optimizer.step()
            with torch.no_grad():
                sums += torch.stack([loss, (logits.argmax(1) == labels).sum()]).double()
                first_bad = torch.minimum(first_bad, torch.where(loss.isfinite(), never, step))
            tick(1)
        self._train_sums = self.accelerator.reduce(sums, "sum")
        bad = int(self.accelerator.gather(first_bad.reshape(1)).min())
        if bad != int(never):
            self.diverged_at = bad

    @torch.no_grad()
    def evaluate(self, epoch: int) -> None:
        """Measure the test set and append a row to the curve; every test image counts once."""
        self.model.eval()
        everything = torch.arange(len(self.test), device=self.device)
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        for index in torch.split(everything, EVALUATION_BATCH):
            images, labels = self.test(self._mine(index))
            with self.autocast:
                logits = self.model(images).float()
            hits = logits.topk(self.top, dim=1).indices == labels[:, None]
            loss = F.cross_entropy(logits, labels, reduction="sum")
            sums += torch.stack([loss, hits[:, 0].sum(), hits.sum()]).double()
        loss, top1, top5 = (self.accelerator.reduce(sums, "sum") / len(self.test)).tolist()
        row = {"epoch": epoch, "step": epoch * self.steps_per_epoch}
        if epoch:
            train_loss, train_accuracy = (self._train_sums / len(self.batches)).tolist()
            row |= {"train_loss": train_loss, "train_accuracy": train_accuracy}
        row |= {"test_loss": loss, "test_accuracy": top1, "test_top5": top5}
        self.curve.append({k: v if isinstance(v, int) else round(v, 6) for k, v in row.items()})

    def save(self, path: Path) -> None:
        """Write the checkpoint atomically."""
        state = {
            "hash": self.spec.hash,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "curve": self.curve,
            "diverged_at": self.diverged_at,
        }
        with replacing(path) as file:
            torch.save(state, file)

    def load(self, path: Path) -> int:
        """Take up a checkpoint, if there is a sound one of this run; return the epochs done."""
        if not path.exists():
            return 0
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            owner = state["hash"]
        except Exception as error:  # damage raises errors of many kinds; all mean the same
            log.warning("%s cannot be read (%r); starting from the beginning", path, error)
            return 0
        if owner != self.spec.hash:
            log.warning("%s is of another run; starting from the beginning", path)
            return 0
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.curve, self.diverged_at = state["curve"], state["diverged_at"]
        return int(self.curve[-1]["epoch"])


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return next(_cpu_models(), "CPU")


def _cpu_models() -> Iterator[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                yield line.split(":", 1)[1].strip()
    except OSError:
        return

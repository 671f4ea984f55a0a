"""The one training loop.

Accelerate owns the device and the processes: the same code runs on a CPU, on one GPU, and in
several processes under ``torchrun`` or ``accelerate launch``. Order, crops and flips are functions
of (seed, epoch) alone, so a run resumed at the end of an epoch ends bit for bit as an uninterrupted
one does, and several processes see together what one would see alone.

A step never waits for the device. On a CUDA GPU, where launching the small kernels of a CIFAR
network takes longer than running them, the whole step (gather and augment, forward, loss, backward,
clipping, optimizer) is captured once as a CUDA graph and replayed, evaluation likewise; order,
augmentation, learning rate and step counter are device tensors for that. The eager loop remains the
reference, and the fallback where a step cannot be captured; records say which one ran (``step``).
"""

import contextlib
import hashlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from nbrepro import _malloc, agc, freezing, models
from nbrepro._files import replacing
from nbrepro.data import Batches, Dataset, augment
from nbrepro.optim import EMA, LARS, parameter_groups, sam
from nbrepro.records.provenance import device_name
from nbrepro.spec import Spec
from nbrepro.train import cuda_graph
from nbrepro.train.device import (
    accelerator_for,
    has_bfloat16,
    round_frozen,
    stop_counting_batches,
)
from nbrepro.train.schedule import learning_rate

log = logging.getLogger("nbrepro")

PAD = 4

#: What is drawn for an epoch (or a batch of it), by name: ``order``, ``offset``, ``flip``, ...
Plan = dict[str, Tensor]


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
        return models.create(spec.model, num_classes, **spec.model_options())


def epoch_plan(seed: int, epoch: int, images: int, pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Order ``[N]``, crop offsets ``[N, 2]`` and flips ``[N]`` of one epoch, drawn on the CPU."""
    generator = _generator(f"{seed}/{epoch}")
    order = torch.randperm(images, generator=generator)
    offset = torch.randint(2 * pad + 1, (images, 2), generator=generator)
    flip = torch.rand(images, generator=generator) < 0.5
    return order, offset, flip


def _generator(name: str) -> torch.Generator:
    """A random generator on the CPU that is a function of its name."""
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@_malloc.kept()
def train(
    spec: Spec,
    dataset: Dataset,
    *,
    device: str = "auto",
    checkpoint: Path | None = None,
    progress: bool = True,
    track: str | None = None,
    logs: Path | None = None,
    eager: bool = False,
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
        eager: do not capture the step even where that helps; the reference to compare with.
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
    if run.device.type == "cuda" and accelerator.num_processes == 1 and not eager:
        run.capture()
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
    return Result(status, metrics, run.curve, how, run.finished_model())


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
        self._uncounted = stop_counting_batches(self.model)
        self._rounded = round_frozen(self.model) if bfloat16 else {}
        self.prepared, self.optimizer = accelerator.prepare(self.model, _optimizer(spec, model))
        self.pad = PAD if spec.augmentation == "crop-flip" else 0
        self.batches = Batches(dataset.train_images, dataset.train_labels, self.pad, self.device)
        self.test = Batches(dataset.test_images, dataset.test_labels, 0, self.device)
        self._classes = torch.arange(len(dataset.classes), device=self.device)
        self.top = min(5, len(dataset.classes))
        self.steps_per_epoch = math.ceil(len(self.batches) / spec.batch_size)
        self.average = EMA(self.model, spec.ema) if spec.ema else None
        self.curve: list[dict[str, float]] = []
        self.diverged_at: int | None = None
        # Sums over an epoch, on the device: loss, hits, share of units clipped.
        self._parameters = list(self.model.named_parameters())  # those frozen have no gradient
        self._frozen = {n for n, p in self.model.named_parameters() if not p.requires_grad}
        self._nothing = torch.zeros((), device=self.device)
        self._never = torch.tensor(torch.iinfo(torch.int64).max, device=self.device)
        self._first_bad = self._never.clone()
        self._train_sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        self._test_sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        self._graphs: cuda_graph._Graphs | None = None
        self.how: dict[str, Any] = {
            "device": device_name(self.device),
            "precision": "bfloat16" if bfloat16 else "float32",
            "memory_format": "channels_last",
            "step": "eager",
            "processes": accelerator.num_processes,
            "threads": torch.get_num_threads(),
        }

    def capture(self) -> None:
        """Record the steps, if they can be; otherwise the eager loop goes on."""
        graphs = cuda_graph._Graphs(self)
        try:
            graphs.record()
        except RuntimeError as error:
            log.warning("the step cannot be captured, training goes on without: %s", error)
            return
        self._graphs = graphs
        self.how["step"] = "captured"

    def any(self, mine: bool) -> bool:
        """Whether any process says so: all must leave the loop together."""
        return bool(self.accelerator.gather(torch.tensor([mine], device=self.device)).any())

    def plan(self, epoch: int) -> Plan:
        """What is drawn for an epoch, image by image in the order of training, on the device."""
        spec, images = self.spec, len(self.batches)
        order, offset, flip = epoch_plan(spec.seed, epoch, images, self.pad)
        plan = {"order": order}
        if self.pad:
            plan |= {"offset": offset, "flip": flip}
        generator = _generator(f"{spec.seed}/{epoch}/strong")
        if spec.mixup:
            plan["mixup"] = augment.draw_mixup(images, generator, spec.mixup)
        if spec.cutmix:
            plan["cutmix"] = augment.draw_cutmix(images, generator, spec.cutmix)
        if spec.randaugment:
            plan["randaugment"] = augment.draw_randaugment(images, generator)
        return {name: part.to(self.device) for name, part in plan.items()}

    def tensors(self) -> list[Tensor]:
        """Every tensor that a step changes."""
        state = [v for s in self.optimizer.state.values() for v in s.values()]
        averages = self.average.state_dict().values() if self.average is not None else []
        sums = [self._first_bad, self._train_sums, self._test_sums]
        changed = [*self.model.parameters(), *self.model.buffers(), *state, *averages, *sums]
        return [t for t in changed if isinstance(t, Tensor)]

    def _mine(self, items: Tensor) -> Tensor:
        """This process's share of the items of a batch."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        return items.tensor_split(processes)[rank] if processes > 1 else items

    def train_epoch(self, epoch: int, tick: Callable[[int], object]) -> None:
        """One pass over the training set, the short last batch included."""
        spec, size = self.spec, self.spec.batch_size
        plan = self.plan(epoch)
        self._first_bad.copy_(self._never)
        self._train_sums.zero_()
        self.prepared.train()
        first = epoch * self.steps_per_epoch
        if self._graphs is not None:
            self._graphs.begin_epoch(plan, first)
        torch.manual_seed(spec.seed * 100_003 + epoch)  # for layers that draw, such as dropout
        for number in range(self.steps_per_epoch):
            part = slice(number * size, (number + 1) * size)
            if self._graphs is not None:
                self._graphs.step(len(plan["order"][part]))
            else:
                lr = learning_rate(spec, first + number, self.steps_per_epoch)
                now = {name: items[part] for name, items in plan.items()}
                self.step(now, lr=lr, number=first + number)
            tick(1)
        sums = self.accelerator.reduce(self._train_sums, "sum")
        self._train_means = (sums / len(self.batches)).tolist()
        bad = int(self.accelerator.gather(self._first_bad.reshape(1)).min())
        if bad != int(self._never):
            self.diverged_at = bad

    def _batch(self, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
        """This process's images, their labels, and what the loss compares with."""
        if "mixup" in plan or "cutmix" in plan:  # partners are found before the batch is divided
            mine = plan
        else:
            mine = {name: self._mine(items) for name, items in plan.items()}
        images = self.batches.pixels(mine["order"], mine.get("offset"), mine.get("flip"))
        targets = labels = self.batches.labels[mine["order"]]
        if mine is plan:
            targets = (labels[:, None] == self._classes).float()  # one_hot would wait
            images, targets = augment.mix(images, targets, plan.get("mixup"), plan.get("cutmix"))
            images, labels, targets = (self._mine(t) for t in (images, labels, targets))
        if "randaugment" in plan:
            # Lengths are in pixels of 224; ours are in proportion.
            scale = self.batches.width / 224
            draw = self._mine(plan["randaugment"])
            images = augment.randaugment(images, draw, self.spec.randaugment, scale)
        return self.batches.normalise(images), labels, targets

    def step(self, plan: Plan, *, lr: float | Tensor, number: int | Tensor) -> None:
        """Train on one batch: a function of tensors that never waits for the device.

        Args:
            plan: the batch's rows of the epoch's plan.
            lr: the rate, a number or a tensor of one.
            number: of the step, from the start of training.
        """
        batch = len(plan["order"])
        images, labels, targets = self._batch(plan)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        with self._ascended(images, targets):
            logits, loss = self._loss(self.prepared, images, targets)
            # The mean over the whole batch, whatever this process's share of it is: processes
            # average their gradients, so each contributes its sum times processes / batch.
            self.accelerator.backward(loss * (self.accelerator.num_processes / batch))
        clipped = self._clip()
        self.optimizer.step()
        if self.average is not None:
            self.average.update(number)
        with torch.no_grad():
            hits = (logits.argmax(1) == labels).sum()
            self._train_sums += torch.stack([loss, hits, clipped * batch]).double()
            bad = torch.where(loss.isfinite(), self._never, number)
            torch.minimum(self._first_bad, bad, out=self._first_bad)

    def _loss(self, model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the sum of the examples' losses."""
        with self.autocast:
            logits = model(images)
        smoothing = self.spec.label_smoothing
        loss = F.cross_entropy(logits.float(), targets, reduction="sum", label_smoothing=smoothing)
        return logits, loss

    def _ascended(self, images: Tensor, targets: Tensor) -> contextlib.AbstractContextManager[None]:
        """SAM's ascent from a part of the batch, if the spec asks for it."""
        if not self.spec.sam:
            return contextlib.nullcontext()
        part = sam.subset([images, targets], self.spec.sam_share)

        def mean_loss(images: Tensor, targets: Tensor) -> Tensor:
            return self._loss(self.model, images, targets)[1] / len(images)

        return sam.ascended(self.model, mean_loss, part, self.spec.sam)

    @torch.no_grad()
    def evaluation_step(self, index: Tensor) -> None:
        """Add loss, hits and top-5 hits of the test images ``index`` to the sums."""
        images, labels = self.test(self._mine(index))
        with self.autocast:
            logits = self.model(images).float()
        hits = logits.topk(self.top, dim=1).indices == labels[:, None]
        loss = F.cross_entropy(logits, labels, reduction="sum")
        self._test_sums += torch.stack([loss, hits[:, 0].sum(), hits.sum()]).double()

    def _clip(self) -> Tensor:
        """Clip the gradients as the spec says; the share of units (or steps) clipped."""
        spec = self.spec
        if spec.clip == "none":
            return self._nothing
        if spec.clip == "norm":
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), spec.clipping, foreach=True)
            return (norm > spec.clipping).float()
        units = "layer" if spec.clip == "agc-layer" else "official"
        clipped = agc.clip_grads_(
            self._parameters, spec.clipping, exclude=spec.unclipped, units=units
        )
        return agc.share(clipped)

    def evaluate(self, epoch: int) -> None:
        """Measure the test set and append a row to the curve; every test image counts once."""
        row: dict[str, float] = {"epoch": epoch, "step": epoch * self.steps_per_epoch}
        if epoch:
            row["train_loss"], row["train_accuracy"], clipped = self._train_means
            if self.spec.clip != "none":
                row["clipped"] = clipped
        row |= self._evaluate()
        if epoch and self.average is not None:
            with self.average.applied():
                row |= {f"ema_{name}": number for name, number in self._evaluate().items()}
        self.curve.append({k: v if isinstance(v, int) else round(v, 6) for k, v in row.items()})

    def _evaluate(self) -> dict[str, float]:
        self.model.eval()
        # Every process has running statistics of its own images; the first one's are kept.
        broadcast(list(self.model.buffers()))
        self._test_sums.zero_()
        everything = torch.arange(len(self.test), device=self.device)
        if self._graphs is not None:
            self._graphs.begin_evaluation()
        for index in torch.split(everything, cuda_graph.EVALUATION_BATCH):
            if self._graphs is not None:
                self._graphs.evaluation_step(len(index))
            else:
                self.evaluation_step(index)
        sums = self.accelerator.reduce(self._test_sums, "sum")
        loss, top1, top5 = (sums / len(self.test)).tolist()
        return {"test_loss": loss, "test_accuracy": top1, "test_top5": top5}

    def finished_model(self) -> nn.Module:
        """The network as a user gets it: on the CPU, frozen weights as they were drawn."""
        for weight, drawn in self._rounded.items():
            weight.data = drawn
        for module in self._uncounted:
            module.num_batches_tracked = torch.tensor(int(self.curve[-1]["step"]))
        model: nn.Module = self.model.cpu()
        return model

    def save(self, path: Path) -> None:
        """Write the checkpoint atomically."""
        state = {
            "hash": self.spec.hash,
            # Frozen weights are drawn again from the seed.
            "model": {n: t for n, t in self.model.state_dict().items() if n not in self._frozen},
            "average": self.average.state_dict() if self.average is not None else None,
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
        whole = self.model.state_dict()  # with its metadata, which tells BatchNorm its version
        whole.update(state["model"])
        self.model.load_state_dict(whole)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.curve, self.diverged_at = state["curve"], state["diverged_at"]
        return int(self.curve[-1]["epoch"])


def _optimizer(spec: Spec, model: nn.Module) -> torch.optim.Optimizer:
    """The spec's optimizer over what is trainable."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups: list[Any] = [{"params": trainable, "weight_decay": spec.weight_decay}]
    if spec.decay == "weights":
        groups = parameter_groups(model, spec.weight_decay)
    if spec.optimizer == "lars":
        return LARS(groups, lr=spec.lr, momentum=spec.momentum)
    nesterov = spec.optimizer == "nesterov"
    return torch.optim.SGD(groups, spec.lr, spec.momentum, nesterov=nesterov, fused=True)

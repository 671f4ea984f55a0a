"""The one training loop: epochs, evaluation, progress, checkpoints, and when to stop.

Accelerate owns the device and the processes: the same code runs on a CPU, on one GPU, and in
several processes under ``torchrun`` or ``accelerate launch``. Order and augmentation are functions
of (seed, epoch) alone, so a run resumed at the end of an epoch ends bit for bit as an uninterrupted
one does, and several processes see together what one would see alone. (What differs then is said on
the page *Running it anywhere*.)

A step is :func:`nbrepro.train.step.train_step`. It never waits for the device. On a single CUDA GPU
it is recorded once as a CUDA graph and replayed (:mod:`nbrepro.train.cuda_graph`). :class:`Eager`
remains the reference, and the fallback where a step cannot be captured. Records say which one ran
(``step``).
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from tqdm import tqdm

from nbrepro.data import Dataset, FileDataset
from nbrepro.data.batches import Draws
from nbrepro.records.features import Features
from nbrepro.records.provenance import device_name
from nbrepro.spec import Spec
from nbrepro.train import checkpoint as checkpoints
from nbrepro.train import features
from nbrepro.train.assembly import assemble
from nbrepro.train.checkpoint import State
from nbrepro.train.cuda_graph import Captured
from nbrepro.train.device import accelerator_for, mask_seed, resolved, seeded, watched
from nbrepro.train.run import EVALUATION_BATCH, Run
from nbrepro.train.schedule import learning_rate

log = logging.getLogger("nbrepro")


class Interrupted(Exception):
    """Training stopped on request at the end of an epoch; it resumes from the checkpoint."""


@dataclass
class Result:
    """What a run measured.

    Attributes:
        status: ``completed`` or ``diverged`` (a loss that is not finite).
        metrics: of the last epoch: ``test_accuracy``, ``test_top5``, ``test_loss``,
            ``train_accuracy``, ``train_loss`` (fractions and nats); ``diverged_at`` is the step.
        curve: the same per epoch, with ``epoch`` and ``step``.
        how: what was used, as read back from the run: device, precision, memory format, kind of
            step, batches per step of the optimizer (``accumulation``), processes, threads;
            ``earlier`` places, if epochs were computed elsewhere; seconds and images per second.
        model: the trained network, on the CPU.
        features: what became of its BatchNorm layers, if it has any and the run completed.
    """

    status: str
    metrics: dict[str, float]
    curve: list[dict[str, float]]
    how: dict[str, Any]
    model: nn.Module = field(repr=False)
    features: Features | None = field(default=None, repr=False)


def train(
    spec: Spec,
    dataset: Dataset | FileDataset,
    *,
    start: Mapping[str, Tensor] | None = None,
    device: str = "auto",
    checkpoint: Path | None = None,
    progress: bool = True,
    track: str | None = None,
    logs: Path | None = None,
    eager: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train and evaluate one network as ``spec`` says.

    Steps on a CPU are faster in a process that keeps freed memory, as ``nbrepro run`` does; a
    script can enter :func:`nbrepro._malloc.kept` for that.

    Args:
        spec: the run.
        dataset: the data; must be the one that ``spec`` names, see
            :func:`nbrepro.data.load_for`.
        start: the final weights of the run's parent, if it has one, see
            :attr:`nbrepro.spec.Spec.parent`.
        device: ``auto``, ``cpu`` or ``cuda``.
        checkpoint: file to write after every epoch and to resume from; the caller deletes it. One
            that is not of just this run is refused with a warning and replaced. ``precision:
            auto`` stays what it was when the checkpoint was begun.
        progress: show a bar with the remaining time (only on a terminal).
        track: send one row per epoch to this Accelerate tracker, such as ``tensorboard``.
        logs: folder of the tracker's files.
        eager: do not capture the step even where that helps; the reference for comparisons.
        should_stop: called at the end of every epoch except the last; true stops training.

    Raises:
        Interrupted: when ``should_stop`` returned true.
        RuntimeError: if ``device`` requests a GPU and there is none, or if processes that share
            the run find different checkpoints or have different precisions.
        ValueError: if the data set is not the spec's, the weights to start from are missing or not
            asked for, or the environment would change what is computed.
    """
    _check_fits(spec, dataset, start)
    started = time.perf_counter()
    accelerator = accelerator_for(device, track, logs)
    if track is not None:
        settings = {k: str(v) for k, v in spec.to_dict().items()}
        accelerator.init_trackers(f"{spec.model}-{spec.train}-{spec.hash}", config=settings)
    identity = checkpoints.identity(spec, dataset, accelerator.num_processes, start)
    saved = checkpoints.read(checkpoint, identity, accelerator.device) if checkpoint else None
    precision = saved["how"]["precision"] if saved else resolved(spec.precision, accelerator.device)
    run, finished = assemble(spec, dataset, accelerator, precision, start)
    state = run.state
    if saved:
        state.restore(saved)
    done = int(state.curve[-1]["epoch"]) if saved else 0
    began = started - state.seconds  # as if earlier sessions had ended when this one started
    _agree(done, precision, accelerator)

    spent: list[float] = []  # seconds of training in each epoch of this session
    bar = _bar(run, done, shown=progress and accelerator.is_main_process)
    with bar, watched(state.model, state.how):
        driver = Eager(run) if eager else _driver(run, accelerator)
        session = _session(driver, accelerator)
        if not state.curve:
            state.add(_row(run, 0, evaluate(driver, accelerator)), session)
        for epoch in range(done, spec.epochs):
            if state.diverged_at is not None:
                break
            if epoch > done and _asked_to_stop(should_stop, accelerator):
                raise Interrupted(f"{spec}: stopped after epoch {epoch} of {spec.epochs}")
            tick = time.perf_counter()
            trained = train_epoch(driver, accelerator, epoch, bar.update)
            spent.append(time.perf_counter() - tick)
            row = _row(run, epoch + 1, trained | evaluate(driver, accelerator))
            state.add(row, session)
            _tell(row, spec, accelerator, bar)
            state.seconds = time.perf_counter() - began
            if checkpoint and accelerator.is_main_process:
                state.save(checkpoint, identity)

    for tracker in accelerator.trackers:  # end_training() would end the process group too
        tracker.finish()
    learnt = _features(run, accelerator) if state.diverged_at is None else None
    how = _how(run, accelerator) | {
        "seconds": round(time.perf_counter() - began, 1),
        "resumed_at_epoch": done,
        "images_per_second": round(len(spent) * len(run.training) / sum(spent)) if spent else None,
    }
    return _result(state, how, learnt, finished(int(state.curve[-1]["step"])))


def _check_fits(
    spec: Spec, dataset: Dataset | FileDataset, start: Mapping[str, Tensor] | None
) -> None:
    """Refuse data and weights that are not the spec's."""
    if bool(spec.pretrained) != (start is not None):
        raise ValueError(
            f"pretrained is {spec.pretrained!r}, and start is "
            f"{'missing' if start is None else 'given'}; a run that is pre-trained, and no other, "
            "starts from its parent's final weights"
        )
    if dataset.name != spec.dataset:
        raise ValueError(f"the spec names the data set {spec.dataset!r}, not {dataset.name!r}")
    if isinstance(dataset, FileDataset) != (spec.augmentation == "resized-crop"):
        raise ValueError(
            f"the augmentation is {spec.augmentation}: resized-crop needs files, others images "
            "that are decoded; nbrepro.data.load_for(spec) loads what fits"
        )


def _driver(run: Run, accelerator: Accelerator) -> "Captured | Eager":
    """The driver that replays steps where that helps, else the eager one."""
    alone = accelerator.device.type == "cuda" and accelerator.num_processes == 1
    return captured(run) if alone and run.training.capturable else Eager(run)


def _bar(run: Run, done: int, *, shown: bool) -> "tqdm[NoReturn]":
    """A bar over the steps of a run of which so many epochs are done."""
    spec, per_epoch = run.spec, run.steps_per_epoch
    return tqdm(
        total=spec.epochs * per_epoch,
        initial=done * per_epoch,
        desc=f"{spec.model} {spec.train} seed {spec.seed}, {spec.hash[:8]}",
        unit="step",
        dynamic_ncols=True,
        leave=False,
        # None: no bar where standard error is not a terminal (logs, papermill, nbval)
        disable=None if shown else True,
    )


def _session(driver: "Captured | Eager", accelerator: Accelerator) -> dict[str, Any]:
    """Where and how this process computes epochs."""
    return {
        "device": device_name(accelerator.device),
        "step": driver.name,
        "threads": torch.get_num_threads(),
    }


def _asked_to_stop(should_stop: Callable[[], bool], accelerator: Accelerator) -> bool:
    """Whether any process asks to stop; all get the same answer, to leave the loop together."""
    asked = torch.tensor([should_stop()], device=accelerator.device)
    return bool(accelerator.gather(asked).any())


def _tell(
    row: dict[str, float], spec: Spec, accelerator: Accelerator, bar: "tqdm[NoReturn]"
) -> None:
    """Tell the tracker, the bar and the log what an epoch has come to."""
    epoch, accuracy = int(row["epoch"]), row["test_accuracy"]
    accelerator.log(row, step=epoch)
    bar.set_postfix_str(f"test accuracy {accuracy:.1%}")
    told = (spec.hash[:8], spec, epoch, spec.epochs, 100 * accuracy)
    log.info("%s, %s: epoch %d of %d, test accuracy %.1f %%", *told)


def _how(run: Run, accelerator: Accelerator) -> dict[str, Any]:
    """What was used, as read back from the run."""
    *earlier, latest = run.state.sessions
    how = {
        **latest,
        **run.state.how,
        "accumulation": accelerator.gradient_accumulation_steps,
        "processes": accelerator.num_processes,
    }
    if earlier:
        how["earlier"] = earlier
    if run.spec.parent is not None:
        how["pretrained"] = run.spec.parent.hash
    return how


def _result(state: State, how: dict[str, Any], learnt: Features | None, model: nn.Module) -> Result:
    """What a run that has ended measured."""
    metrics = {k: v for k, v in state.curve[-1].items() if k not in ("epoch", "step")}
    if state.diverged_at is not None:
        metrics["diverged_at"] = state.diverged_at
    elif learnt:
        metrics |= learnt.metrics()
    status = "completed" if state.diverged_at is None else "diverged"
    return Result(status, metrics, state.curve, how, model, learnt)


class Eager:
    """The driver that launches every step from Python: the reference."""

    name = "eager"

    def __init__(self, run: Run) -> None:
        self.run = run

    def epoch(self, draws: Draws, first: int, tick: Callable[[], object]) -> None:
        """Train on every image once.

        Args:
            draws: the epoch's draws.
            first: number of the epoch's first step, from the start of training.
            tick: called after every step.
        """
        run, size = self.run, self.run.spec.batch_size
        starts = range(0, len(run.training), size)
        parts = [{name: rows[i : i + size] for name, rows in draws.items()} for i in starts]
        for step, (part, following) in enumerate(zip_longest(parts, parts[1:]), first):
            if following:
                run.training.expect(following)
            rate = learning_rate(run.spec, step, run.steps_per_epoch)
            # Rounded as in the table from which a replayed step takes it.
            run.train_on(part, float(np.float32(rate)), step)
            tick()

    def evaluate(self) -> None:
        """Add up what is measured on every test image."""
        images = torch.arange(len(self.run.test), device=self.run.device)
        parts = images.split(EVALUATION_BATCH)
        for index, following in zip_longest(parts, parts[1:]):
            if following is not None:
                self.run.test.expect({"order": following})
            self.run.test_on(index)


def captured(run: Run) -> Captured | Eager:
    """The driver that replays; the eager one, with a warning, if a step cannot be captured."""
    try:
        with seeded(run.spec.seed, run.device):
            return Captured(run)
    except RuntimeError as error:
        log.warning("the step cannot be captured, so it runs eagerly: %s", error)
        return Eager(run)


def train_epoch(
    driver: Eager | Captured,
    accelerator: Accelerator,
    epoch: int,
    tick: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Pass over the training set once; measurements over the images of all processes."""
    run = driver.run
    spec, sums = run.spec, run.state.sums
    draws = run.draws(epoch)
    sums.trained.zero_()
    run.model.train()
    with seeded(mask_seed(spec.seed, epoch, accelerator.process_index), run.device):
        driver.epoch(draws, epoch * run.steps_per_epoch, tick)
    sums.first_bad.copy_(accelerator.gather(sums.first_bad.reshape(1)).min())
    total = accelerator.reduce(sums.trained, "sum")
    loss, accuracy, clipped = (total / len(run.training)).tolist()
    trained = {"train_loss": loss, "train_accuracy": accuracy}
    return trained if spec.clip == "none" else trained | {"clipped": clipped}


def evaluate(driver: Eager | Captured, accelerator: Accelerator) -> dict[str, float]:
    """Measure on the test set, with the averaged weights too if there are any."""
    state = driver.run.state
    row = _measure(driver, accelerator)
    if state.average is not None and state.curve:  # before training the average is the network
        with state.average.applied():
            measured = _measure(driver, accelerator)
        row |= {f"ema_{name}": number for name, number in measured.items()}
    return row


def _measure(driver: Eager | Captured, accelerator: Accelerator) -> dict[str, float]:
    """Loss and accuracies on the test set; every test image counts once."""
    run = driver.run
    model, tested = run.state.model, run.state.sums.tested
    model.eval()
    # Every process has running statistics of its own images; those of the first are kept.
    broadcast(list(model.buffers()))
    tested.zero_()
    driver.evaluate()
    total = accelerator.reduce(tested, "sum")
    loss, top1, top5 = (total / len(run.test)).tolist()
    return {"test_loss": loss, "test_accuracy": top1, "test_top5": top5}


def _features(run: Run, accelerator: Accelerator) -> Features | None:
    """What training made of the BatchNorm layers, measured on the test set."""
    eager = Eager(run)  # a replayed step would not notice that hooks were added
    return features.measure(
        run.state.model.eval(),
        run.spec.hash,
        lambda: _measure(eager, accelerator)["test_accuracy"],
        lambda counts: accelerator.reduce(counts, "sum"),
    )


def _row(run: Run, epoch: int, measured: dict[str, float]) -> dict[str, float]:
    """The row of the curve after so many epochs, rounded for the record."""
    rounded = {name: round(number, 6) for name, number in measured.items()}
    return {"epoch": epoch, "step": epoch * run.steps_per_epoch} | rounded


def _agree(done: int, precision: str, accelerator: Accelerator) -> None:
    """Refuse to go on from different epochs or in different precisions in different processes."""
    mine = [done, int(precision == "bfloat16")]
    found = accelerator.gather(torch.tensor([mine], device=accelerator.device)).tolist()
    epochs, rounded = zip(*found, strict=True)
    if len(set(epochs)) > 1:
        raise RuntimeError(
            f"the processes found checkpoints of different epochs, {list(epochs)}; they must see "
            "the same folder: put the ledger on a file system that all of them share"
        )
    if len(set(rounded)) > 1:
        raise RuntimeError(
            "the processes would compute in different precisions, because not all of their "
            "devices have bfloat16; name one in the spec instead of auto"
        )

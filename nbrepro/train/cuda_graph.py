"""The steps of a run as CUDA graphs."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nbrepro.train.schedule import learning_rate

if TYPE_CHECKING:
    from nbrepro.train.loop import Plan, _Run

_WARM_UPS = 3
EVALUATION_BATCH = 1000


class _Graphs:
    """The steps of a run, recorded as CUDA graphs: for whole batches and for the short last one.

    A replay repeats the same kernels on the same memory, so whatever changes from step to step is
    read from tensors: the epoch's plan, the table of rates and counters that every replay advances.
    Without a GPU the same functions run unrecorded, which lets tests compare them with the eager
    loop anywhere.
    """

    def __init__(self, run: "_Run") -> None:
        self.run, device = run, run.device
        steps = range(max(1, run.spec.epochs * run.steps_per_epoch))
        rates = [learning_rate(run.spec, step, run.steps_per_epoch) for step in steps]
        self.rates = torch.tensor(rates, device=device)
        self.lr = torch.tensor(run.spec.lr, device=device)
        self.number = torch.zeros((), dtype=torch.int64, device=device)
        self.position = torch.zeros((), dtype=torch.int64, device=device)
        self.plan = run.plan(0)
        self.index = torch.arange(max(run.spec.batch_size, EVALUATION_BATCH), device=device)
        self.recorded: dict[tuple[str, int], Callable[[], object]] = {}
        self.memory = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def record(self) -> None:
        """Record every step of the run.

        Raises:
            RuntimeError: if one cannot be captured; the run is as it was.
        """
        run = self.run
        if run.spec.epochs:
            run.prepared.train()
            for batch in _sizes(len(run.batches), run.spec.batch_size):
                self.recorded["train", batch] = self._record(self._step, batch)
        run.model.eval()
        for batch in _sizes(len(run.test), EVALUATION_BATCH):
            self.recorded["test", batch] = self._record(self._evaluation_step, batch)

    def begin_epoch(self, plan: "Plan", number: int) -> None:
        """Take in the epoch's plan and the number of its first step."""
        for name, items in plan.items():
            self.plan[name].copy_(items)
        self.number.fill_(number)
        self.position.zero_()

    def step(self, batch: int) -> None:
        """Train on the next ``batch`` images of the plan."""
        self.recorded["train", batch]()

    def begin_evaluation(self) -> None:
        """Start at the first test image."""
        self.position.zero_()

    def evaluation_step(self, batch: int) -> None:
        """Evaluate the next ``batch`` test images."""
        self.recorded["test", batch]()

    def _step(self, batch: int) -> None:
        index = self.position + self.index[:batch]
        self.lr.copy_(self.rates.index_select(0, self.number.view(1)).squeeze(0))
        plan = {name: items.index_select(0, index) for name, items in self.plan.items()}
        self.run.step(plan, lr=self.lr, number=self.number)
        self.position += batch
        self.number += 1

    def _evaluation_step(self, batch: int) -> None:
        self.run.evaluation_step(self.position + self.index[:batch])
        self.position += batch

    def _record(self, step: Callable[[int], None], batch: int) -> Callable[[], object]:
        """Run ``step`` a few times, record it, and undo what that did to the run."""
        if self.run.device.type != "cuda":
            return partial(step, batch)
        optimizer = self.run.optimizer.state
        had_state = bool(optimizer)
        before = [(tensor, tensor.clone()) for tensor in self.run.tensors()]
        side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        try:
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UPS):
                    self._rewind()
                    step(batch)
                self._rewind()
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(graph, pool=self.memory):
                step(batch)
        finally:
            with torch.no_grad():
                for tensor, old in before:
                    tensor.copy_(old)
                if not had_state:  # momentum that starts at zero is momentum that was never there
                    for state in optimizer.values():
                        for value in state.values():
                            if isinstance(value, Tensor):
                                value.zero_()
            self._rewind()
        return graph.replay

    def _rewind(self) -> None:
        """Go back to the first step, lest a warm-up reads beyond the epoch or the table."""
        self.number.zero_()
        self.position.zero_()


def _sizes(images: int, batch: int) -> set[int]:
    """The sizes of the batches of one pass: the whole ones and the short last one."""
    return {min(batch, images), images % batch} - {0}

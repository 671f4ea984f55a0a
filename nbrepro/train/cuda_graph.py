"""The steps of an epoch recorded once as CUDA graphs and replayed.

Launching the small kernels of a CIFAR network takes longer than running them. A graph launches the
whole step (gather and augment, forward, loss, backward, clipping, update) at once. A replay repeats
the same kernels on the same memory, so whatever changes from step to step is read from tensors: the
epoch's draws, the table of learning rates, and counters that every replay advances.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from nbrepro.data.batches import Draws
from nbrepro.train.run import EVALUATION_BATCH, Run, batch_sizes
from nbrepro.train.schedule import learning_rate

_WARM_UPS = 3


class Captured:
    """The driver that replays recorded steps; it does what :class:`nbrepro.train.loop.Eager` does.

    Without a GPU the same functions run unrecorded, so that tests can compare the two anywhere.

    Args:
        run: the run whose steps are recorded.

    Raises:
        RuntimeError: if a step cannot be captured; the run's state is as it was.
    """

    name = "captured"

    def __init__(self, run: Run) -> None:
        self.run, self.device = run, run.device
        spec, device = run.spec, run.device
        steps = range(max(1, spec.epochs * run.steps_per_epoch))
        rates = [learning_rate(spec, step, run.steps_per_epoch) for step in steps]
        self.rates = torch.tensor(rates, device=device)
        self.lr = torch.tensor(spec.lr, device=device)
        self.number = torch.zeros((), dtype=torch.int64, device=device)
        self.position = torch.zeros((), dtype=torch.int64, device=device)
        self.draws = run.draws(0)
        self.index = torch.arange(max(spec.batch_size, EVALUATION_BATCH), device=device)
        self.memory = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self.sizes = batch_sizes(len(run.training), spec.batch_size) if spec.epochs else []
        self.test_sizes = batch_sizes(len(run.test), EVALUATION_BATCH)
        run.model.train()
        self.steps = {size: self.recorded(self.train_on, size) for size in set(self.sizes)}
        self.run.state.model.eval()
        self.test_steps = {size: self.recorded(self.test_on, size) for size in set(self.test_sizes)}

    def epoch(self, draws: Draws, first: int, tick: Callable[[], object]) -> None:
        """Train on every image once; see :meth:`nbrepro.train.loop.Eager.epoch`."""
        self.begin(draws, first)
        for size in self.sizes:
            self.steps[size]()
            tick()

    def evaluate(self) -> None:
        """Add up what is measured on every test image."""
        self.position.zero_()
        for size in self.test_sizes:
            self.test_steps[size]()

    def begin(self, draws: Draws, first: int) -> None:
        """Load an epoch's draws and the number of its first step."""
        for name, rows in draws.items():
            self.draws[name].copy_(rows)
        self.number.fill_(first)
        self.position.zero_()

    def train_on(self, size: int) -> None:
        """Train on the next ``size`` images of the draws."""
        index = self.position + self.index[:size]
        self.lr.copy_(self.rates.index_select(0, self.number.view(1)).squeeze(0))
        part = {name: rows.index_select(0, index) for name, rows in self.draws.items()}
        self.run.train_on(part, self.lr, self.number)
        self.position += size
        self.number += 1

    def test_on(self, size: int) -> None:
        """Evaluate the next ``size`` test images."""
        self.run.test_on(self.position + self.index[:size])
        self.position += size

    def recorded(self, step: Callable[[int], None], size: int) -> Callable[[], object]:
        """Run ``step`` a few times, record it, and undo what that did to the run's state."""
        if self.device.type != "cuda":
            return partial(step, size)
        optimizer = self.run.state.optimizer.state
        had_state = bool(optimizer)
        before = [(tensor, tensor.clone()) for tensor in self.run.state.tensors()]
        side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        try:
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UPS):
                    self._rewind()
                    step(size)
                self._rewind()
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(graph, pool=self.memory):
                step(size)
        finally:
            with torch.no_grad():
                for tensor, old in before:
                    tensor.copy_(old)
                if not had_state:  # a momentum of zeros is the same as none
                    for state in optimizer.values():
                        for value in state.values():
                            if isinstance(value, Tensor):
                                value.zero_()
            self._rewind()
        return graph.replay

    def _rewind(self) -> None:
        """Go back to the first step, so that no warm-up reads beyond the epoch or the table."""
        self.number.zero_()
        self.position.zero_()

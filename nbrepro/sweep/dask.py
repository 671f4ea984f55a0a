"""Runs in parallel, on dask workers: processes of this machine, or those of a running scheduler.

Dask may lose a worker in the middle of a run, and may give a run to a second worker while the first
is still at it. The lock of each run and the ledger see to it that it is done once. What a run
prints goes to a file in the ledger's work folder, so that it survives the worker:

- Workers of our own end only by the fault of the run they have. It gets a ``failed`` record with
  its last output; dask's nanny starts another worker, and the other runs go on.
- Workers of a running scheduler also end because their time is over. There a run is at fault only
  if the interpreter could still say so (a segmentation fault, an abort); else another worker goes
  on with it from its last epoch, until the scheduler has had enough (``allowed-failures``), and
  then it is left for the next sweep.
"""

import asyncio
import contextlib
import dataclasses
import faulthandler
import logging
import math
import os
import sys
import threading
import time
import uuid
from collections.abc import Generator, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from nbrepro.records.ledger import Ledger, Record
from nbrepro.spec import Spec
from nbrepro.sweep.one import Left, check_time, failed, locked, run_locked, until
from nbrepro.sweep.options import SweepOptions

if TYPE_CHECKING:
    from distributed import Client
    from tqdm import tqdm

log = logging.getLogger("nbrepro")

#: Seconds that a run may go on after the budget is spent, to reach the end of its epoch.
GRACE = 60.0
#: Seconds within which a scheduler has to answer.
ANSWER = 8.0
#: Seconds within which a first worker has to be there, where no time budget says so.
PATIENCE = 60.0


def run(todo: list[Spec], options: SweepOptions) -> Generator[Record]:
    """Do these runs on dask workers and yield each record as it appears.

    Raises:
        ValueError: dask is not installed, or there are fewer GPUs than workers.
        ConnectionError: the scheduler or its workers do not answer, or are gone.
        DataError: the data is missing or wrong.
    """
    try:
        import distributed  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(
            "workers and schedulers need dask, which is not installed: pip install -e '.[cluster]'"
        ) from error
    from nbrepro import data

    workers = min(options.workers or 0, len(todo))
    gpus = [] if options.scheduler else visible_gpus(options.device)
    if gpus and workers > len(gpus):
        raise ValueError(
            f"workers: {workers}, GPUs: {len(gpus)}; each worker needs a GPU of its own, so ask "
            "for fewer workers or for device cpu"
        )
    for spec in {(spec.dataset, spec.augmentation): spec for spec in todo}.values():
        # Once, here: checked, fetched and decoded before many processes want it at the same time.
        data.load_for(spec, options.data_root, download=options.download)
    return _sweep(todo, options, workers, gpus)


def visible_gpus(device: str) -> list[str]:
    """The GPUs to use, by the names that ``CUDA_VISIBLE_DEVICES`` knows."""
    import torch

    if device == "cpu":
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return (visible.split(",") if visible else [str(gpu) for gpu in range(count)])[:count]


@dataclass(frozen=True)
class _Sweep:
    """What workers are told besides the run.

    Attributes:
        id: by which a second attempt at a run knows the first.
        options: with absolute paths.
        stop_at: when the time budget is spent, on the clock that machines share.
        gpus: one for each worker of ours, by the worker's number.
        threads: of torch; ``None`` on other machines, which know better.
    """

    id: str
    options: SweepOptions
    stop_at: float
    gpus: list[str]
    threads: int | None

    def output(self, spec: Spec) -> Path:
        """The file for what a run prints."""
        return self.options.ledger.work / f"{spec.hash}.log"


def _sweep(
    todo: list[Spec], options: SweepOptions, workers: int, gpus: list[str]
) -> Generator[Record]:
    """Hand all runs to the workers, the first ones first, and yield their records."""
    from distributed import as_completed

    budget = math.inf if options.time_budget is None else options.time_budget
    threads = None if options.scheduler else _threads(workers)
    stop_at = time.time() + budget
    sweep = _Sweep(uuid.uuid4().hex, _absolute(options), stop_at, gpus, threads)
    cluster = _connected(options.scheduler, budget) if options.scheduler else _local(workers)
    late = 0
    with cluster as client, _bar(len(todo), shown=options.progress) as bar:
        cut_off = None if budget == math.inf else max(0, stop_at + GRACE - time.time())
        futures = [_submit(client, sweep, spec, -place) for place, spec in enumerate(todo)]
        waiting = {future: place for place, future in enumerate(futures)}
        results = as_completed(futures, timeout=cut_off)  # type: ignore[no-untyped-call]
        try:
            for future in results:
                place = waiting.pop(future)
                outcome = _outcome(future, todo[place], sweep)
                if outcome is None:
                    again = _submit(client, sweep, todo[place], -place)
                    waiting[again] = place
                    results.add(again)  # type: ignore[no-untyped-call]
                    continue
                bar.update()
                bar.clear()  # the reader of the record may print
                if not isinstance(outcome, Left):
                    yield outcome
                elif time.time() > stop_at:
                    late += 1
                else:
                    log.warning("%s", outcome)
                bar.refresh()
        except TimeoutError:
            late += len(waiting)
        finally:
            if options.scheduler and waiting:
                _give_up(client, sweep, list(waiting))
    if late:
        log.warning("time budget spent, %d runs left", late)


def _submit(client: "Client", sweep: _Sweep, spec: Spec, priority: int) -> Any:
    """Give a run to the scheduler; a run that is given again is another task."""
    return client.submit(
        *(_on_worker, spec, spec.hash, sweep),
        key=f"{spec.hash}-{uuid.uuid4().hex}",
        priority=priority,
        pure=False,
    )


def _give_up(client: "Client", sweep: _Sweep, futures: list[Any]) -> None:
    """Take back what is not done from workers that go on without us."""
    with contextlib.suppress(Exception):  # the cluster may be gone
        client.cancel(futures)  # type: ignore[no-untyped-call]
        client.run(_end, sweep.id, on_error="ignore")


def _bar(runs: int, *, shown: bool) -> "tqdm[NoReturn]":
    """A bar over the runs."""
    from tqdm import tqdm

    disable = None if shown else True  # None: only on a terminal
    return tqdm(total=runs, unit="run", dynamic_ncols=True, leave=False, disable=disable)


def _absolute(options: SweepOptions) -> SweepOptions:
    """The same options in any working directory."""
    from nbrepro import data

    return dataclasses.replace(
        options,
        ledger=Ledger(options.ledger.root.resolve()),
        data_root=Path(options.data_root or data.default_root()).resolve(),
        progress=False,
    )


def _threads(workers: int) -> int:
    """Threads for each of several workers that share the cores of this machine."""
    import torch

    return max(1, torch.get_num_threads() // workers)


@contextlib.contextmanager
def _local(workers: int) -> "Iterator[Client]":
    """A cluster of processes of this machine; they end with this one, however it ends."""
    import dask
    from distributed import Client, LocalCluster

    settings = {
        "distributed.scheduler.allowed-failures": 0,
        # A worker that takes longer to start anew, on a busy machine, is not given up.
        "distributed.deploy.lost-worker-timeout": "1 day",
    }
    quiet = logging.CRITICAL  # what becomes of a run is for us to say
    logging.getLogger("distributed").setLevel(quiet)
    with (
        dask.config.set(settings),
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=0,  # of no use: a run is no chunk of an array that could be spilled
            dashboard_address="127.0.0.1:0",
            silence_logs=quiet,
        ) as cluster,
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        yield client


@contextlib.contextmanager
def _connected(address: str, budget: float) -> "Iterator[Client]":
    """The cluster of a running scheduler, once it has a worker."""
    from distributed import Client, rpc

    async def answer() -> None:
        async with rpc(address) as scheduler:  # type: ignore[no-untyped-call]
            await scheduler.identity()

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        # The client itself would wait without end for an answer from something else at that port.
        # In a thread of its own, as a notebook's kernel has a running event loop.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, asyncio.wait_for(answer(), ANSWER)).result()
        client = Client(address, timeout=ANSWER)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TimeoutError) as error:
        raise ConnectionError(f"no dask scheduler answers at {address} ({error!r})") from error
    patience = PATIENCE if budget == math.inf else budget
    with client:
        try:
            client.wait_for_workers(1, timeout=patience)
        except TimeoutError as error:
            raise ConnectionError(
                f"the dask scheduler at {address} had no worker within {patience:.0f} s; nothing "
                "was run. Start again when there is one"
            ) from error
        yield client


def _outcome(future: Any, spec: Spec, sweep: _Sweep) -> Record | Left | None:
    """What became of a run; ``None`` if it has not begun and is to be given to another worker."""
    from distributed.scheduler import KilledWorker

    try:
        outcome: Record | Left = future.result()
        return outcome
    except KilledWorker:
        pass
    except CancelledError as error:
        raise ConnectionError("the dask scheduler is gone; start again") from error
    options, attempt = sweep.options, _Attempt.last(sweep.output(spec))
    record = options.ledger.find(spec)
    if record is not None and not options.wants(record):
        return record  # it had done its work when it died
    if attempt is None or attempt.sweep != sweep.id:
        return None
    if options.scheduler and not attempt.crashed:
        return Left(f"{spec}: every dask worker that had it was lost; start again to go on")
    return _died(spec, sweep, attempt)


def _died(spec: Spec, sweep: _Sweep, attempt: "_Attempt") -> Record:
    """Record a run that ended its worker process."""
    why = "the process died without a record: it crashed, ended itself, or was killed"
    ledger = sweep.options.ledger
    record = failed(spec, f"{attempt.output}\n{why}".strip())
    ledger.write(record)
    sweep.output(spec).unlink(missing_ok=True)
    return ledger.find(spec) or record


# --- on a worker ---------------------------------------------------------------------------------

_ONE_AT_A_TIME = threading.Lock()
_under_way: set[str] = set()  # the sweep whose run this process is doing


def _end(sweep: str) -> None:
    """End this process if it is doing a run of this sweep; its nanny starts another."""
    if sweep in _under_way:
        os._exit(1)


class _Attempt(NamedTuple):
    """What is left of an attempt at a run: the sweep that made it, and its last output."""

    sweep: str
    output: str

    @classmethod
    def last(cls, path: Path) -> "_Attempt | None":
        try:
            sweep, _, output = path.read_text(errors="replace").partition("\n")
        except FileNotFoundError:
            return None
        return cls(sweep, "\n".join(output[-8000:].splitlines()[-40:]))

    @property
    def crashed(self) -> bool:
        """Whether the interpreter could say that it was the run's fault."""
        return "Fatal Python error" in self.output


def _on_worker(spec: Spec, name: str, sweep: _Sweep) -> Record | Left:
    """Do one run; a second attempt at it waits for the first, if that one is still alive."""
    import torch
    from distributed import get_worker

    worker: Any = get_worker()
    key = worker.get_current_task()

    def unwanted() -> bool:
        # Dask cannot stop a task, it only forgets about it: the client has gone, or this worker's
        # time is over and another has the task already. That one needs the run's lock.
        known = worker.state.tasks.get(key)
        return worker.status.name != "running" or known is None or known.state == "cancelled"

    if spec.hash != name:
        raise ValueError(f"run {name} is {spec.hash} here; nbrepro's versions differ")
    options, output = sweep.options, sweep.output(spec)
    deadline = time.monotonic() + sweep.stop_at - time.time()
    late = until(deadline)
    first = _Attempt.last(output)
    again = first is not None and first.sweep == sweep.id
    try:
        with (
            _ONE_AT_A_TIME,
            locked(spec, options.ledger, patience=-1 if again else 0),
        ):
            first = _Attempt.last(output)
            if again and first is not None and first.crashed:
                return _died(spec, sweep, first)
            if time.monotonic() >= deadline:
                return Left(f"{spec}: time budget spent")
            with _written_to(output, sweep.id):
                if sweep.gpus:
                    os.environ["CUDA_VISIBLE_DEVICES"] = sweep.gpus[int(worker.name)]
                if sweep.threads:
                    torch.set_num_threads(sweep.threads)
                check_time(spec, options, deadline)
                record = run_locked(spec, options, lambda: late() or unwanted())
            output.unlink(missing_ok=True)
            return record
    except Left as left:
        return left


@contextlib.contextmanager
def _written_to(path: Path, sweep: str) -> Iterator[None]:
    """Send what this process writes to a file, after the sweep, and where it is if it crashes."""
    path.write_text(sweep + "\n")
    _under_way.add(sweep)
    handler = logging.FileHandler(path)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    with path.open("ab") as file:
        kept = [os.dup(stream) for stream in (1, 2)]
        try:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
            faulthandler.enable(file, all_threads=False)
            yield
        finally:
            _under_way.discard(sweep)
            faulthandler.disable()
            sys.stdout.flush()
            for stream, old in zip((1, 2), kept, strict=True):
                os.dup2(old, stream)
                os.close(old)
            log.removeHandler(handler)
            handler.close()

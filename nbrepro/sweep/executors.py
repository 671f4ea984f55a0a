"""Where the runs of a sweep take place: here, in processes of this machine, or on dask workers.

``serial`` is the reference. The others start every run as a process of its own
(``python -m nbrepro.sweep.executors``), so that one which crashes takes nothing with it. That
process writes the record; the sweep reads the ledger, and adds a ``failed`` record where a run died
without leaving one. A run ends with whoever started it: nothing is left behind when a sweep is
killed.

Imports of torch stay inside functions: dask's scheduler imports this module, and a run has to watch
its starter from the first moment.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from nbrepro.records.ledger import Ledger, Record
    from nbrepro.sweep.runner import Planned

log = logging.getLogger("nbrepro")

#: Seconds that a run may go on after the budget is spent, to reach the end of its epoch.
GRACE = 60.0
#: Seconds between looks at the runs in hand; against runs of seconds to hours that costs nothing.
_PAUSE = 0.05
#: How often dask tries a task again that raised: no run does, so the worker was at fault.
_RETRIES = 2
#: Seconds within which a scheduler has to answer.
_ANSWER = 10

# What a run's process says by its exit status, beside 0 for "recorded" (numbers of sysexits.h).
_NO_DATA = 66
_NOTHING = 75


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a sweep is carried out.

    Attributes:
        ledger: where records go.
        workers: runs at once; default one a GPU, or one without GPUs.
        scheduler: address of a running dask scheduler, instead of workers on this machine.
        time_budget: seconds; runs cut off by it go on from their last epoch next time.
        retry_failed: also run again what failed before.
        device: ``auto``, ``cpu`` or ``cuda``.
        data_root: folder of the data sets.
        download: let torchvision fetch CIFAR-10.
        checkpoints: folder for checkpoints and locks.
        progress: show a bar on a terminal.
    """

    ledger: "Ledger"
    workers: int | None = None
    scheduler: str | None = None
    time_budget: float | None = None
    retry_failed: bool = False
    device: str = "auto"
    data_root: Path | None = None
    download: bool = False
    checkpoints: Path = Path("runs")
    progress: bool = True


def execute(executor: str, planned: "list[Planned]", settings: Settings) -> "Iterator[Record]":
    """Run what is missing and yield each record as it appears.

    Whatever the executor, the same runs end in the same records. A run that another sweep has in
    hand is left to it.

    Args:
        executor: ``serial``, ``processes`` or ``dask``.
        planned: from :func:`nbrepro.sweep.runner.plan`, most informative first.
        settings: how.

    Raises:
        ValueError: for settings that do not go together, or a dask that is not installed.
        ConnectionError: the scheduler does not answer, or is gone.
        DataError: the data is missing or wrong.
        OSError: the ledger cannot be written; found out before the first run.
    """
    from nbrepro._suggest import choose

    choose("executor", executor, EXECUTORS)
    if settings.workers is not None and settings.workers < 1:
        raise ValueError(f"workers is {settings.workers}; it must be at least 1")
    if executor == "serial" and (settings.workers or 1) > 1:
        raise ValueError(
            f"the serial executor is one worker, not {settings.workers}; use processes or dask"
        )
    if settings.scheduler and executor != "dask":
        raise ValueError(f"a scheduler is for the dask executor, not for {executor}")
    if settings.scheduler and settings.workers:
        raise ValueError("a running scheduler has its own workers; leave the number of workers out")
    if executor != "serial" and "RANK" in os.environ:
        raise ValueError(
            "under torchrun or accelerate launch all processes share each run; use the serial "
            "executor"
        )
    return EXECUTORS[executor](planned, settings)


def serial(planned: "list[Planned]", settings: Settings) -> "Iterator[Record]":
    """One run after another in this process."""
    from nbrepro.sweep import runner

    return runner.run(planned, settings)


def processes(planned: "list[Planned]", settings: Settings) -> "Iterator[Record]":
    """Several runs at once on this machine, each on a GPU of its own if there are any."""
    import torch

    gpus = _gpus(settings.device)
    workers = _workers(settings, gpus)
    # Without a GPU the runs share the cores; as many threads each would only get in the way.
    threads = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // workers))} | os.environ
    slots = [threads | _only(gpus[slot : slot + 1]) for slot in range(workers)]
    stop_at = None if settings.time_budget is None else time.monotonic() + settings.time_budget

    def run(tasks: list[_Task]) -> _Exits:
        return _apart(tasks, slots, stop_at, time.monotonic)

    return _sweep(planned, settings, run)


def dask(planned: "list[Planned]", settings: Settings) -> "Iterator[Record]":
    """Runs on dask workers: of this machine, or of a running scheduler's cluster.

    Dask may run a task more than once, and on a worker that it takes for dead; the lock and the
    ledger see to it that a run is still done once.
    """
    try:
        from distributed import Client, LocalCluster, as_completed
        from distributed.scheduler import KilledWorker
    except ModuleNotFoundError as error:
        raise ValueError("dask is not installed: pip install 'nbrepro[cluster]'") from error

    logging.getLogger("distributed").setLevel(logging.WARNING)  # not of every connection
    gpus = [] if settings.scheduler else _gpus(settings.device)
    workers = 0 if settings.scheduler else _workers(settings, gpus)
    resources = {"GPU": 1} if gpus or settings.device == "cuda" else {}
    # Shared by machines, hence the clock on the wall.
    stop_at = None if settings.time_budget is None else time.time() + settings.time_budget

    def run(tasks: list[_Task]) -> _Exits:
        with contextlib.ExitStack() as stack:
            address: Any = settings.scheduler or stack.enter_context(
                LocalCluster(  # type: ignore[no-untyped-call]
                    n_workers=workers,
                    threads_per_worker=1,
                    resources=resources,
                    memory_limit=0,  # a worker only waits; what its run needs is not counted anyway
                    dashboard_address="127.0.0.1:0",
                )
            )
            try:
                client = stack.enter_context(Client(address, timeout=_ANSWER))  # type: ignore[no-untyped-call]
            except (OSError, ValueError) as error:
                raise ConnectionError(f"no dask scheduler answers at {address}: {error}") from error
            futures = {
                client.submit(
                    *(_on_worker, task, gpus, stop_at),
                    key=f"{task['experiment']}-{task['hash']}-{client.id}",
                    priority=-number,
                    resources=resources,
                    retries=_RETRIES,
                    pure=False,
                ): number
                for number, task in enumerate(tasks)
            }
            for future in as_completed(list(futures)):  # type: ignore[no-untyped-call]
                try:
                    ended = _Exit(*future.result())
                except KilledWorker:
                    # Perhaps the run's fault, perhaps only near workers whose time was over.
                    log.warning(
                        "run %s: every dask worker that had it was lost; start again to go on",
                        tasks[futures[future]]["hash"],
                    )
                    ended = _Exit(_NOTHING)
                except CancelledError as error:
                    raise ConnectionError("the dask scheduler is gone; start again") from error
                yield futures[future], ended

    return _sweep(planned, settings, run)


EXECUTORS: "dict[str, Callable[[list[Planned], Settings], Iterator[Record]]]" = {
    "serial": serial,
    "processes": processes,
    "dask": dask,
}

# --- the sweep -----------------------------------------------------------------------------------

_Task = dict[str, Any]  # what a run's process is told, as JSON


class _Exit(NamedTuple):
    """How a run's process ended: its status (``None``: no time was left), last output, and why."""

    status: int | None
    output: str = ""
    cause: str = ""


_Exits = Generator[tuple[int, _Exit], None, None]  # each with the number of its task


def _gpus(device: str) -> list[str]:
    """The GPUs to use, by the names that ``CUDA_VISIBLE_DEVICES`` knows."""
    import torch

    if device == "cpu":
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return (visible.split(",") if visible else [str(gpu) for gpu in range(count)])[:count]


def _only(gpus: list[str]) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": gpus[0]} if gpus else {}


def _workers(settings: Settings, gpus: list[str]) -> int:
    workers = settings.workers or max(1, len(gpus))
    if workers > len(gpus) and (gpus or settings.device == "cuda"):
        raise ValueError(
            f"workers: {workers}, GPUs: {len(gpus)}; each worker needs a GPU of its own, so ask "
            "for fewer workers or for device cpu"
        )
    return workers


def _sweep(
    planned: "list[Planned]",
    settings: Settings,
    run: Callable[[list[_Task]], _Exits],
) -> "Iterator[Record]":
    """Have ``run`` do what is missing, settle what comes of it, and show how far it is."""
    from tqdm import tqdm

    from nbrepro import data
    from nbrepro.sweep import runner

    todo = runner.todo(planned, retry_failed=settings.retry_failed)
    settings.ledger.check_writable()
    for name in dict.fromkeys(item.spec.dataset for item in todo):
        # Once, here: checked, fetched and decoded before many processes want it at the same time.
        data.load(name, settings.data_root, download=settings.download)
    settings.checkpoints.mkdir(parents=True, exist_ok=True)
    spent = False
    bar = tqdm(
        total=len(todo),
        unit="run",
        dynamic_ncols=True,
        leave=False,
        disable=None if settings.progress else True,  # None: only on a terminal
    )
    with bar:
        for batch in _batches(todo):
            with contextlib.closing(run([_task(item, settings) for item in batch])) as exits:
                for number, ended in exits:
                    bar.update()
                    spent = spent or ended.status is None
                    record = _settle(batch[number], ended, settings.ledger)
                    if record is not None:
                        bar.clear()  # the reader of the record may print
                        yield record
                        bar.refresh()
    if spent:
        log.info("time budget spent")


def _batches(todo: "list[Planned]") -> "Iterator[list[Planned]]":
    """Once each spec, then the specs that a second experiment has too: their checkpoint is one."""
    while todo:
        first = {item.spec.hash: item for item in reversed(todo)}
        batch = [item for item in todo if first[item.spec.hash] is item]
        yield batch
        todo = [item for item in todo if first[item.spec.hash] is not item]


def _task(item: "Planned", settings: Settings) -> _Task:
    from nbrepro import data

    root = settings.data_root or data.default_root()
    return {
        "experiment": item.experiment,
        "hash": item.spec.hash,
        "spec": item.spec.to_dict(),
        "ledger": str(settings.ledger.root.resolve()),
        "record": str(settings.ledger.path(item.spec).resolve()),
        "checkpoints": str(settings.checkpoints.resolve()),
        "data_root": str(root.resolve()),
        "device": settings.device,
        "retry_failed": settings.retry_failed,
    }


def _settle(item: "Planned", ended: _Exit, ledger: "Ledger") -> "Record | None":
    """The record a run has left; a ``failed`` one for a process that died without leaving any."""
    from nbrepro.data import DataError
    from nbrepro.records.ledger import Record
    from nbrepro.records.provenance import provenance
    from nbrepro.sweep import runner

    if ended.status == _NO_DATA:
        raise DataError(ended.output.splitlines()[-1])
    record = ledger.find(item.spec)
    if record is not None and (ended.status == 0 or record != item.record):
        return record
    if ended.status in (None, _NOTHING):
        return None
    error = runner.without_folders(f"{ended.output}\n{ended.cause}".strip())
    ledger.write(Record(item.spec, "failed", {}, [], provenance(), error))
    return ledger.find(item.spec)


# --- a run as a process of its own ---------------------------------------------------------------


class _Child(NamedTuple):
    number: int
    process: "subprocess.Popen[bytes]"
    output: IO[bytes]
    slot: dict[str, str]


def _on_worker(task: _Task, gpus: list[str], stop_at: float | None) -> tuple[Any, ...]:
    """What a dask worker does: one run; those of a cluster of ours share out the GPUs by name."""
    from distributed import get_worker

    worker: Any = get_worker()
    key = worker.get_current_task()

    def unwanted() -> bool:
        # Dask cannot stop a task, it only forgets about it: the client has gone, or this worker's
        # time is over and another has the task already. That one needs the run's lock.
        known = worker.state.tasks.get(key)
        return (
            worker.status.name in ("closing", "closed")
            or known is None
            or known.state == "cancelled"
        )

    slot = os.environ | _only([gpus[int(worker.name)]] if gpus else [])
    ((_, ended),) = _apart([task], [slot], stop_at, time.time, unwanted)
    return tuple(ended)


def _apart(
    tasks: list[_Task],
    slots: list[dict[str, str]],
    stop_at: float | None,
    clock: Callable[[], float],
    unwanted: Callable[[], bool] = lambda: False,
) -> _Exits:
    """Run tasks in processes, as many at once as there are slots; yield each as it ends.

    Args:
        tasks: most informative first.
        slots: the environment of each slot's processes.
        stop_at: when the budget is spent, by ``clock``.
        clock: the time in seconds.
        unwanted: whether to end the runs in hand at once.
    """
    waiting, free = list(enumerate(tasks)), list(slots)
    running: list[_Child] = []
    try:
        while waiting or running:
            while waiting and free:
                number, task = waiting.pop(0)
                left = None if stop_at is None else stop_at - clock()
                if left is not None and left <= 0:
                    yield number, _Exit(None)
                elif _recorded(task):
                    yield number, _Exit(_NOTHING)
                else:
                    running.append(_start(number, task | {"seconds": left}, free.pop()))
            time.sleep(_PAUSE)
            late = unwanted() or (stop_at is not None and clock() > stop_at + GRACE)
            for child in list(running):
                status = child.process.poll()
                if status is None and not late:
                    continue
                running.remove(child)
                free.append(child.slot)
                yield child.number, _Exit(status, _end(child), _cause(status))
    finally:
        for child in running:
            _end(child)


def _recorded(task: _Task) -> bool:
    """Whether someone else has done the task since it was planned."""
    if not Path(task["record"]).exists():  # a dask worker gets by without torch
        return False

    from nbrepro.records.ledger import Ledger
    from nbrepro.spec import Spec

    found = Ledger(task["ledger"]).find(Spec.from_dict(task["spec"]))
    return found is not None and not (found.status == "failed" and task["retry_failed"])


def _cause(status: int | None) -> str:
    if status is None:
        return ""
    if status < 0:
        return f"killed by signal {-status} ({signal.strsignal(-status)}), without a record"
    return f"ended with exit status {status}, without a record"


def _start(number: int, task: _Task, environment: dict[str, str]) -> _Child:
    output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _end
    process = subprocess.Popen(
        # The hash says in a list of processes which run this is.
        [sys.executable, "-X", "faulthandler", "-m", "nbrepro.sweep.executors", task["hash"],
         json.dumps(task)],
        stdin=subprocess.PIPE,  # closes when this process ends, however it ends
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # Ctrl-C is for this process, which then ends its runs
    )  # fmt: skip
    return _Child(number, process, output, environment)


def _end(child: _Child) -> str:
    """End a process if it has not ended yet; return the last lines it wrote."""
    child.process.kill()
    child.process.communicate()
    with child.output as output:
        output.seek(max(0, output.seek(0, os.SEEK_END) - 4000))
        return "\n".join(output.read().decode(errors="replace").splitlines()[-20:])


def _end_with_starter() -> None:
    # Not through sys.stdin: its lock would be in the way when the interpreter shuts down.
    while os.read(0, 1):
        pass
    os._exit(1)


def _run(task: _Task) -> int:
    """The process of one run; returns its exit status."""
    # Whoever ends a whole job tells every process in it. What that means is for the starter to say.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_starter, daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from nbrepro.data import DataError
    from nbrepro.records.ledger import Ledger
    from nbrepro.spec import Spec
    from nbrepro.sweep import runner
    from nbrepro.sweep.runner import Planned

    ledger, spec = Ledger(task["ledger"]), Spec.from_dict(task["spec"])
    if spec.hash != task["hash"]:
        raise ValueError(f"run {task['hash']} is {spec.hash} here; nbrepro's versions differ")
    settings = Settings(
        ledger=ledger,
        time_budget=task["seconds"],
        retry_failed=task["retry_failed"],
        device=task["device"],
        data_root=task["data_root"],
        checkpoints=Path(task["checkpoints"]),
        progress=False,
    )
    planned = Planned(task["experiment"], spec, ledger.find(spec))
    try:
        records = list(runner.run([planned], settings))
    except DataError as error:
        print(error)
        return _NO_DATA
    return 0 if records else _NOTHING


if __name__ == "__main__":
    sys.exit(_run(json.loads(sys.argv[2])))

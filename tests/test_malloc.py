"""Freed memory is kept while a sweep trains, and goes back afterwards."""

import subprocess
import sys
from pathlib import Path

import pytest

from nbrepro import _malloc, cli, data
from nbrepro.spec import Spec
from nbrepro.train import loop

COUNT = """
import resource, sys
import torch
from nbrepro import _malloc

blocks = int(sys.argv[1])

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [torch.ones(2**25 // blocks) for _ in range(blocks)]  # 128 MiB of activations
    del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmRSS"))

before = resident()
with _malloc.kept():
    inside = [faults() for _ in range(20)]
    held = resident()
print(inside[0], max(inside[10:]), held - before, held - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is tuned, which is Linux's")
@pytest.mark.parametrize(("blocks", "most"), [(16, 2), (2, 8)], ids=["small batch", "large batch"])
def test_a_step_meets_no_page_fault_and_memory_goes_back(blocks: int, most: int) -> None:
    output = subprocess.run(
        [sys.executable, "-c", COUNT, str(blocks)], check=True, capture_output=True, text=True
    ).stdout
    first, rested, held, returned = map(int, output.split())
    # 128 MiB are 32,768 small pages, or 64 huge ones where the system hands those out.
    assert first >= 64
    # An aligned block asks for a little more than it frees, so a neighbour has to be free as well.
    # Two blocks take five to sixteen places, by where the heap begins, and rest after nine rounds.
    assert rested < first / 10
    places = round(returned / (128 * 1024 / blocks))
    assert places <= most * blocks
    assert returned > 0.9 * held  # the rest is code that was used for the first time, about 1 MiB


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, int]]:
    """What the C library is asked for, in place of doing it."""
    calls: list[tuple[object, int]] = []

    class Library:
        def __init__(self, _: None) -> None: ...

        @staticmethod
        def mallopt(option: int, value: int) -> None:
            calls.append((option, value))

        @staticmethod
        def malloc_trim(pad: int) -> None:
            calls.append(("trim", pad))

    monkeypatch.setattr("ctypes.CDLL", Library)
    return calls


def test_a_sweep_keeps_memory_and_gives_it_back_after_an_error(
    calls: list[tuple[object, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    during: list[tuple[object, int]] = []

    def fails(*_: object, **__: object) -> None:
        during.extend(calls)
        raise RuntimeError("this run fails")

    monkeypatch.setattr(loop, "train", fails)
    run = ["run", "precision", "--profile", "smoke", "--seeds", "1", "--results", str(tmp_path)]
    assert cli.main(run) == 1
    assert during[0] == (-4, 0)
    assert during[-1] != ("trim", 0)
    assert calls[-1] == ("trim", 0)
    assert calls.count((-4, 65536)) == calls.count((-4, 0)) == 2  # two runs


def test_training_leaves_the_allocator_to_whoever_owns_the_process(
    calls: list[tuple[object, int]], spec: Spec, few_digits: data.Dataset
) -> None:
    loop.train(spec.replace(epochs=1), few_digits, device="cpu")
    assert calls == []


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    with _malloc.kept():
        pass

"""Freed memory is kept while a network trains, and goes back afterwards."""

import subprocess
import sys

import pytest

from nbrepro import data, malloc, training
from nbrepro.spec import Spec

COUNT = """
import resource, sys
import torch
from nbrepro import malloc

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 * 2**20)  # 64 MiB, above any threshold that glibc adapts to
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmRSS"))

faults()
by_default = faults()
with malloc.kept():
    faults()
    print(by_default, faults(), end=" ")
    held = resident()
print(held - resident(), faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is tuned, which is Linux's")
def test_a_step_meets_no_page_fault_and_memory_goes_back() -> None:
    output = subprocess.run(
        [sys.executable, "-c", COUNT], check=True, capture_output=True, text=True
    ).stdout
    by_default, inside, returned, afterwards = map(int, output.split())
    # 64 MiB are 16,384 small pages, or 32 huge ones where the system hands those out.
    assert by_default >= 32
    assert inside < by_default / 10
    assert returned > 60 * 1024
    assert afterwards > by_default / 2


def test_training_keeps_memory_and_gives_it_back_after_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    class Library:
        def __init__(self, _: None) -> None: ...

        @staticmethod
        def mallopt(option: int, value: int) -> None:
            calls.append((option, value))

        @staticmethod
        def malloc_trim(pad: int) -> None:
            calls.append(("trim", pad))

    monkeypatch.setattr("ctypes.CDLL", Library)
    with pytest.raises(ValueError, match="data set"):
        training.train(Spec(model="cifar_resnet8", dataset="cifar10"), data.load("digits"))
    no_mmap, *_, trimmed = calls
    assert no_mmap == (-4, 0)
    assert trimmed == ("trim", 0)


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    with malloc.kept():
        pass

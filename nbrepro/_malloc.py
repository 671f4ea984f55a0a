"""Keep freed memory in the process, since the next training step asks for the same again.

A training step on the CPU allocates and frees every activation. By default glibc gives such large
blocks back to the system, which clears each of their pages when it hands them out again: that takes
up to a third of a step, with small batches and with large. On a GPU torch's own allocator keeps
freed memory.

The setting applies to the whole process, so no function of the library makes it: the program does,
around all of its training.
"""

import contextlib
import ctypes
from collections.abc import Iterator

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
_DEFAULT_MMAP_MAX = 65536
_INT_MAX = 2**31 - 1
_MIB = 2**20


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Within the context the process keeps freed memory; at its end all of it is returned.

    No block is mapped by itself meanwhile, since it would be unmapped when freed; a threshold could
    not say so, as glibc's largest is 32 MiB, less than one activation of a large batch. A freed
    place does not always fit what comes next, so more memory is held than a step needs: NF-ResNet-8
    at batch size 4096 holds 2.9 instead of 2.5 GB. Afterwards the thresholds are those that glibc
    reaches by itself in a process that frees blocks of that size. With another C library this does
    nothing.
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt, trim = libc.mallopt, libc.malloc_trim
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        yield
        return
    trim.argtypes = [ctypes.c_size_t]
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _INT_MAX)
    try:
        yield
    finally:
        mallopt(_M_MMAP_MAX, _DEFAULT_MMAP_MAX)
        mallopt(_M_MMAP_THRESHOLD, 32 * _MIB)
        mallopt(_M_TRIM_THRESHOLD, 64 * _MIB)
        trim(0)

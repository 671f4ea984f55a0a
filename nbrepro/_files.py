"""Writing files atomically, and the folder for files that can be computed again."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def cache_folder() -> Path:
    """Where what can be computed again is kept: ``$NBREPRO_CACHE`` or below ``~/.cache``."""
    return Path(os.environ.get("NBREPRO_CACHE") or Path.home() / ".cache" / "nbrepro")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path``; move it to ``path`` when the block succeeds.

    Until then, and if the block raises or the process is killed, what was at ``path`` stays.
    Afterwards the new file survives a power cut. Folders are made as needed.

    Raises:
        OSError: if the file cannot be written; no temporary file is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(part, 0o644)
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise
    _write_out(path.parent)


def _write_out(folder: Path) -> None:
    """Flush the entries of a folder to the disk, on systems that support it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

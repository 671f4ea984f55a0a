"""Where a record comes from: source commit, versions, platform, hardware. No names of machines."""

import contextlib
import platform
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def provenance() -> dict[str, Any]:
    """What produced a record: source commit, versions, platform and time. No names of machines."""
    commit, dirty = _commit()
    versions = {"python": platform.python_version()}
    for package in ("nbrepro", "torch", "torchvision", "accelerate", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> tuple[str | None, bool | None]:
    package = Path(__file__).parents[1]
    try:
        git = ["git", "-C", str(package)]
        # In an environment inside someone else's repository that repository's commit is not ours.
        subprocess.run([*git, "ls-files", "--error-unmatch", "."], capture_output=True, check=True)
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--", "."], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return head.stdout.strip(), bool(changes.stdout.strip())


def device_name(device: "torch.device") -> str:
    """The GPU's or the CPU's own name."""
    if device.type == "cuda":
        import torch

        return str(torch.cuda.get_device_name(device))
    return next(_cpu_models(), "CPU")


def _cpu_models() -> Iterator[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                yield line.split(":", 1)[1].strip()
    except OSError:
        return

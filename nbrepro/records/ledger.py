"""Records of runs on disk: ``<root>/<experiment>/<hash>.json``, one small file a run.

A record is written to a temporary file and renamed, so it is there whole or not at all, and two
writers never mix. It carries a digest of its own contents; a file that is damaged, altered or of an
unknown schema counts as not done and is reported, never trusted.
"""

import dataclasses
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbrepro._files import replacing
from nbrepro.spec import Spec

SCHEMA = 1
#: Folder of the ledger that holds timings (see :mod:`nbrepro.records.timings`), not runs.
BENCHMARKS = "benchmarks"
STATUSES = ("completed", "diverged", "failed")


class LaterSchema(ValueError):
    """A record of a schema that this version does not know."""


@dataclass(frozen=True)
class Record:
    """What one run left.

    Attributes:
        experiment: name of the experiment it belongs to.
        spec: the run.
        status: ``completed``, ``diverged`` or ``failed``.
        metrics: final measurements (fractions and nats); empty if failed.
        curve: the same by epoch.
        provenance: commit, versions, hardware, data fingerprint, seconds, images a second.
        error: the traceback of a failed run.
    """

    experiment: str
    spec: Spec
    status: str
    metrics: dict[str, float]
    curve: list[dict[str, float]]
    provenance: dict[str, Any]
    error: str | None = None

    def to_json(self) -> str:
        """Canonical text with schema, hash and digest; numbers that are not finite become null."""
        body = {
            "schema": SCHEMA,
            "hash": self.spec.hash,
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)},
            "spec": self.spec.to_dict(),
        }
        body = _finite(body)
        return json.dumps(body | {"digest": _digest(body)}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Record":
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: saying why the text is no sound record.
        """
        body = json.loads(text)
        if not isinstance(body, dict) or "schema" not in body:
            raise ValueError("not a run record")
        if isinstance(body["schema"], int) and body["schema"] > SCHEMA:
            raise LaterSchema(f"schema {body['schema']}; upgrade nbrepro, this one reads {SCHEMA}")
        if body["schema"] != SCHEMA:
            raise ValueError(f"schema {body['schema']!r}, this nbrepro reads {SCHEMA}")
        if body.pop("digest", None) != _digest(body):
            raise ValueError("contents do not match their digest (altered or damaged)")
        spec = Spec.from_dict(body["spec"])
        if spec.hash != body["hash"]:
            raise ValueError(f"hash {body['hash']} is not the spec's ({spec.hash})")
        if body["status"] not in STATUSES:
            raise ValueError(f"unknown status {body['status']!r}")
        fields = {f.name: body[f.name] for f in dataclasses.fields(cls)}
        return cls(**(fields | {"spec": spec}))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _digest(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Damaged:
    """A file in the ledger that is not trusted, and why."""

    path: Path
    reason: str
    later: bool = False  # written by a later nbrepro, so sound for those who can read it

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Ledger:
    """The folder of records.

    Args:
        root: the folder; default :func:`default_root`. It need not exist yet.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root) if root is not None else default_root()

    def path(self, experiment: str, spec: Spec) -> Path:
        """Where the record of ``spec`` lies, or would lie."""
        return self.root / experiment / f"{spec.hash}.json"

    def find(self, experiment: str, spec: Spec) -> Record | None:
        """The sound record of ``spec``, if there is one.

        Raises:
            ValueError: if the record is of a later schema: it must be neither trusted nor replaced.
        """
        record = _read(self.path(experiment, spec))
        if isinstance(record, Damaged) and record.later:
            raise ValueError(f"{record}; or name another ledger with --results")
        return record if isinstance(record, Record) else None

    def scan(self, experiment: str | None = None) -> tuple[list[Record], list[Damaged]]:
        """All sound records (of one experiment), and all files that are not trusted."""
        sound: list[Record] = []
        damaged: list[Damaged] = []
        for path in sorted(self.root.glob(f"{experiment or '*'}/*.json")):
            if path.parent.name == BENCHMARKS:
                continue
            entry = _read(path)
            if isinstance(entry, Record):
                sound.append(entry)
            elif entry is not None:
                damaged.append(entry)
        return sound, damaged

    def check_writable(self, experiments: Iterable[str]) -> None:
        """Write and remove a small file where records of ``experiments`` will go.

        To be called before the work whose result would otherwise have nowhere to go.

        Raises:
            OSError: naming the ledger and the cause.
        """
        try:
            for experiment in experiments:
                folder = self.root / experiment
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder, suffix=".part") as file:
                    file.write(bytes(4096))
        except OSError as error:
            raise OSError(
                f"the ledger {self.root} cannot be written ({error.strerror}); make room or mend "
                "its permissions, or name another with --results"
            ) from error

    def write(self, record: Record) -> Path:
        """Write atomically. A sound record that did not fail is never replaced.

        Raises:
            OSError: if the ledger cannot be written; nothing that was there is lost.
            ValueError: if a record of a later schema is there.
        """
        path = self.path(record.experiment, record.spec)
        present = self.find(record.experiment, record.spec)
        if present is not None and present.status != "failed":
            return path
        with replacing(path) as file:
            file.write(record.to_json().encode())
        return path


def _read(path: Path) -> Record | Damaged | None:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        return Damaged(path, f"cannot be read ({error})")
    try:
        record = Record.from_json(text)
    except (ValueError, TypeError, KeyError) as error:
        return Damaged(path, f"{error}", later=isinstance(error, LaterSchema))
    if path.stem != record.spec.hash or path.parent.name != record.experiment:
        return Damaged(path, f"holds the record {record.experiment}/{record.spec.hash}")
    return record


def default_root() -> Path:
    """``$NBREPRO_RESULTS``, else ``results`` in the book's folder, else ``./results``.

    The book's folder is the nearest folder, from here upwards, that holds ``_toc.yml`` and
    ``results``; a notebook in ``book/`` finds the same ledger as a command at the top level.
    """
    if "NBREPRO_RESULTS" in os.environ:
        return Path(os.environ["NBREPRO_RESULTS"])
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "_toc.yml").is_file() and (folder / "results").is_dir():
            return folder / "results"
    return Path("results")

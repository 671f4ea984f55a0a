"""Records of runs on disk: ``<root>/runs/<hash>.json``, one small file per run.

A run is what its spec says; an experiment is a view on the records, so no run is made twice because
two experiments want it. A record is written to a temporary file and renamed, so it is there whole
or not at all, and two writers never mix. It carries a digest of its own contents; a file that is
damaged, altered or of an unknown schema counts as not done and is reported, never trusted.

``schema.json`` beside this module describes the files. Schema 1, which was written when every
experiment had a folder of its own, names the experiment as well; such records are read as they are.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

from nbrepro._files import replacing
from nbrepro._suggest import unknown
from nbrepro.spec import Spec

SCHEMA = 2
READABLE = (1, 2)
#: Folder of the ledger that holds the records of runs.
RUNS = "runs"
#: Folder of the ledger that holds timings (see :mod:`nbrepro.records.timings`), not runs.
BENCHMARKS = "benchmarks"
#: Folder of the ledger for what networks have learnt (see :mod:`nbrepro.records.features`).
FEATURES = "features"
STATUSES = ("completed", "diverged", "failed")


class LaterSchema(ValueError):
    """A record of a schema that this version does not know."""


@dataclass(frozen=True)
class Record:
    """What one run left.

    Attributes:
        spec: the run.
        status: ``completed``, ``diverged`` or ``failed``.
        metrics: final measurements (fractions and nats); empty if failed.
        curve: the same by epoch.
        provenance: commit, versions, hardware, data fingerprint, seconds, images per second.
        error: the traceback of a failed run.
    """

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
        """The inverse of :meth:`to_json`, for every schema in :data:`READABLE`.

        Raises:
            ValueError: saying why the text is no sound record.
        """
        try:
            return cls._from_body(json.loads(text))
        except RecursionError as error:
            raise ValueError("nested too deeply to be a record") from error

    @classmethod
    def _from_body(cls, body: object) -> "Record":
        if not isinstance(body, dict) or "schema" not in body:
            raise ValueError("not a run record")
        if type(body["schema"]) is int and body["schema"] > SCHEMA:
            raise LaterSchema(f"schema {body['schema']}; upgrade nbrepro, this one reads {SCHEMA}")
        if body["schema"] not in READABLE:
            raise ValueError(
                f"schema {shortened(body['schema'])}, this nbrepro reads "
                f"{' and '.join(map(str, READABLE))}"
            )
        if body.pop("digest", None) != _digest(body):
            raise ValueError("contents do not match their digest (altered or damaged)")
        _check(body)
        spec = Spec.from_dict(body["spec"])
        if spec.hash != body["hash"]:
            raise ValueError(f"hash {body['hash']} is not the spec's ({spec.hash})")
        fields = {f.name: body[f.name] for f in dataclasses.fields(cls)}
        return cls(**(fields | {"spec": spec}))


def _check(body: dict[str, Any]) -> None:
    """Refuse what has a right digest and is no record: a digest shows damage, not sense.

    What readers of records rely on, and no more; ``schema.json`` says the same.

    Raises:
        ValueError: naming the entry and what was expected.
    """
    entries = ["schema", "hash", *(f.name for f in dataclasses.fields(Record))]
    if body["schema"] == 1:
        entries.append("experiment")
    for name in body:
        if name not in entries:
            raise ValueError(unknown("entry", name, entries))
    for name in entries:
        if name not in body:
            raise ValueError(f"{name} is missing")
    if body["status"] not in STATUSES:
        raise ValueError(f"status is {shortened(body['status'])}, not {' or '.join(STATUSES)}")
    for name, kind, words in (
        ("spec", dict, "a mapping"),
        ("metrics", dict, "a mapping"),
        ("curve", list, "a list"),
        ("provenance", dict, "a mapping"),
        ("error", str | None, "text or null"),
    ):
        if not isinstance(body[name], kind):
            raise ValueError(f"{name} is {shortened(body[name])}; expected {words}")
    ended = body["status"] != "failed"
    if ended and not body["curve"]:
        raise ValueError(f"curve is empty, and the run is said to have {body['status']}")
    _check_numbers("metrics", body["metrics"], ("test_accuracy",) if ended else ())
    for number, row in enumerate(body["curve"]):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} of curve is {shortened(row)}; expected a mapping")
        needed = ("epoch", "step", "test_accuracy") if ended else ()
        _check_numbers(f"row {number} of curve", row, needed)
    rates = ("seconds", "images_per_second")
    _check_numbers("provenance", {name: body["provenance"].get(name) for name in rates})
    for name, entry in body["provenance"].items():
        if not _is_shallow(entry, levels=3):
            raise ValueError(f"{name} of provenance is nested too deeply to be read")


def _is_shallow(entry: object, levels: int) -> bool:
    if not isinstance(entry, dict | list):
        return True
    parts = entry.values() if isinstance(entry, dict) else entry
    return levels > 0 and all(_is_shallow(part, levels - 1) for part in parts)


def _check_numbers(where: str, row: dict[str, Any], needed: tuple[str, ...] = ()) -> None:
    """Refuse measurements that are no numbers; null stands for what is not finite."""
    for name in needed:
        if row.get(name) is None:
            raise ValueError(f"{where} has no {name}")
    for name, value in row.items():
        # Python counts truth values as numbers.
        number = isinstance(value, int | float) and not isinstance(value, bool)
        least, most = (0, 1) if name.endswith("accuracy") else (-1e300, 1e300)
        if value is not None and not (number and least <= value <= most):
            raise ValueError(
                f"{name} of {where} is {shortened(value)}; expected a number between {least} and "
                f"{most}, or null"
            )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _digest(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_signed(path: Path, body: dict[str, Any]) -> None:
    """Write a mapping of finite numbers and text with a digest of itself, atomically.

    Raises:
        ValueError: for a number that is not finite.
        OSError: if the file cannot be written.
    """
    with replacing(path) as file:
        text = json.dumps(body | {"digest": _digest(body)}, indent=1, allow_nan=False)
        file.write(f"{text}\n".encode())


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
        root: the folder; default :func:`default_root`. It need not exist before the first write.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root) if root is not None else default_root()

    def path(self, spec: Spec) -> Path:
        """Where the record of ``spec`` lies, or would lie."""
        return self.root / RUNS / f"{spec.hash}.json"

    @property
    def work(self) -> Path:
        """A folder beside the root, for locks, checkpoints and output of runs under way.

        It goes with the ledger, not with the folder a command is started in: two sweeps on one
        ledger then see each other's locks wherever they are started. Of a ledger ``results`` it is
        ``runs``, of one called ``again`` it is ``again-runs``: what is run again must not go on
        from checkpoints of the first time.
        """
        root = self.root.resolve()
        return root.with_name("runs" if root.name == "results" else f"{root.name}-runs")

    def find(self, spec: Spec) -> Record | None:
        """The sound record of ``spec``, if there is one.

        Raises:
            ValueError: if the record is of a later schema: it must be neither trusted nor replaced.
        """
        record = _read(self.path(spec))
        if isinstance(record, Damaged) and record.later:
            raise ValueError(f"{record}; or name another ledger with --results")
        return record if isinstance(record, Record) else None

    def scan(self) -> tuple[list[Record], list[Damaged]]:
        """All sound records, and everything that is not trusted.

        Raises:
            OSError: if there is no ledger, or it cannot be read: evidence that is not found must
                not look like evidence that there is none.
        """
        sound: list[Record] = []
        damaged = [Damaged(folder, self._how_to_move()) for folder in self._old_folders()]
        for path in self._files():
            entry = _read(path)
            if isinstance(entry, Record):
                sound.append(entry)
            elif entry is not None:
                damaged.append(entry)
        return sound, damaged

    def _files(self) -> list[Path]:
        """The files of records.

        Raises:
            OSError: if the root is no ledger, or its folder of records cannot be read.
        """
        folders = {path.name for path in self._entries(self.root) if path.is_dir()}
        inside = self._entries(self.root / RUNS) if RUNS in folders else []
        records = [path for path in inside if path.suffix == ".json"]
        is_ledger = RUNS in folders or BENCHMARKS in folders or self._old_folders()
        # Beside a ledger lies its work folder, which has the same name as that of its records.
        near = [self.root / "results", *([] if is_ledger else [self.root.parent])]
        meant = next((path for path in near if any((path / RUNS).glob("*.json"))), None)
        if not records and (meant or not is_ledger):
            raise OSError(
                f"{self.root.absolute()} is no ledger: it has no folder {RUNS} with records; "
                + (f"did you mean {meant}?" if meant else "name another with --results")
            )
        return records

    def _entries(self, folder: Path) -> list[Path]:
        # Not glob, which takes a folder that it may not read for an empty one.
        try:
            return sorted(folder.iterdir())
        except OSError as error:
            raise OSError(
                f"the ledger {folder.absolute()} cannot be read ({error.strerror}); work in a "
                "clone of the book, or name a ledger with --results or NBREPRO_RESULTS"
            ) from error

    def _old_folders(self) -> list[Path]:
        """Folders of the earlier layout, ``<root>/<experiment>/<hash>.json``."""
        return [
            folder
            for folder in self._entries(self.root)
            if folder.is_dir()
            and folder.name not in (RUNS, BENCHMARKS, FEATURES)
            and any(re.fullmatch("[0-9a-f]{16}", path.stem) for path in folder.glob("*.json"))
        ]

    def _how_to_move(self) -> str:
        move = f"python scripts/migrate_ledger.py {self.root}"
        return f"records of an earlier layout, which are not read; move them with: {move}"

    def check_writable(self) -> None:
        """Write and remove a small file where records will go.

        To be called before the work whose result would otherwise have nowhere to go.

        Raises:
            OSError: naming the ledger and the cause.
            ValueError: if records of the earlier layout are there, which would all be run again.
        """
        try:
            (self.root / RUNS).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root / RUNS, suffix=".part") as file:
                file.write(bytes(4096))
        except OSError as error:
            raise OSError(
                f"the ledger {self.root.absolute()} cannot be written ({error.strerror}); make "
                "room or mend its permissions, or name another with --results"
            ) from error
        for folder in self._old_folders():
            raise ValueError(f"{folder}: {self._how_to_move()}")

    def write(self, record: Record) -> Path:
        """Write atomically. A sound record that did not fail is never replaced.

        Raises:
            OSError: if the ledger cannot be written; nothing that was there is lost.
            ValueError: if a record of a later schema is there, or this one is none that could be
                read again.
        """
        path = self.path(record.spec)
        present = self.find(record.spec)
        if present is not None and present.status != "failed":
            return path
        text = record.to_json()
        Record.from_json(text)  # what could not be read again must not look as if it were kept
        with replacing(path) as file:
            file.write(text.encode())
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
    if path.stem != record.spec.hash:
        return Damaged(path, f"holds the record {record.spec.hash}")
    return record


def default_root(start: Path | None = None) -> Path:
    """``$NBREPRO_RESULTS``, else ``results`` in the book's folder, else ``./results``.

    The book's folder is the nearest folder, from ``start`` (default: here) upwards, that holds
    ``_toc.yml`` and ``results``; a notebook in ``book/`` finds the same ledger as a command at the
    top level.
    """
    if os.environ.get("NBREPRO_RESULTS"):
        return Path(os.environ["NBREPRO_RESULTS"])
    here = start or Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "_toc.yml").is_file() and (folder / "results").is_dir():
            return folder / "results"
    return Path("results")

"""Damage at random: what is read must be what was written, or be refused in words.

    python tests/fuzz.py --minutes 60            # prints a line per fault
    python tests/fuzz.py --minutes 60 --store    # and stores the count for the book

Each trial damages one thing with a random generator of its own, so that ``--only KIND --first N
--minutes 0`` repeats a trial. ``test_fuzz.py`` does a few of each kind whenever the tests run.

A trial passes if the reader refuses with an error of the kinds that it documents, or returns
exactly what was stored. Anything else is a fault: another exception, or another value.
"""

import argparse
import contextlib
import copy
import io
import json
import logging
import random
import string
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from nbrepro import data, models
from nbrepro.claims.register import parse, read_claims, texts
from nbrepro.data import DataError, Dataset
from nbrepro.records import timings
from nbrepro.records.ledger import Ledger, Record, _digest, default_root, write_signed
from nbrepro.records.provenance import provenance
from nbrepro.spec import Spec
from nbrepro.train import checkpoint, loop, seed_checkpoint
from nbrepro.train.loop import Interrupted

CPU = torch.device("cpu")
REFUSED = "refused"
FAULT = "fault"
UNHARMED = "read as it was written"
#: Values of every type, and numbers at the edges of what types can hold.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 0.0, -0.0, 0.5, -0.1, 1e-320, 1e308,
    float("nan"), float("inf"), "", "0", "sgd", "agc", "all", "digits", "../x", "\0", "é" * 9,
    [], {}, [1], ["fc.weight"], {"a": [None]}, [[[[0]]]],
)  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """What the trials damage, made once: sound files, and what they hold."""

    record: Record
    checkpoint: tuple[Path, dict[str, Any]]
    network: tuple[Path, dict[str, torch.Tensor]]
    timing: Path
    folder: Path


@cache
def stored() -> Stored:
    """One epoch of a small network, and what comes of it."""
    folder = Path(tempfile.mkdtemp(prefix="nbrepro-fuzz-"))
    digits = data.load("digits")
    few = Dataset(
        "digits",
        digits.classes,
        digits.train_images[:64],
        digits.train_labels[:64],
        digits.test_images[:64],
        digits.test_labels[:64],
        "few",
    )
    spec = Spec(model="cifar_resnet8", train="gamma", dataset="digits", epochs=2)
    path = folder / "run.pt"
    with contextlib.suppress(Interrupted):
        loop.train(spec, few, device="cpu", checkpoint=path, should_stop=lambda: True)
    of = checkpoint.identity(spec, few, 1)
    result = loop.train(spec, few, device="cpu")
    record = Record(spec, "completed", result.metrics, result.curve, {"seconds": 1.5})
    network = folder / "network.safetensors"
    seed_checkpoint.save(result.model, spec, network)
    state = {name: value.clone() for name, value in result.model.state_dict().items()}
    ratio = {"ratio": 2.0, "low": 1.5, "high": 2.5, "rounds": 9}
    timing = timings.write("fuzz", "cpu", {"case": ratio}, root=folder)
    return Stored(record, (path, of), (network, state), timing, folder)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The same bytes but for a flip, a cut, an insertion, a repetition or a swap."""
    where, until = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    kind = chance.choice(("flip", "cut", "end", "insert", "repeat", "zero", "case"))
    if kind == "flip":
        where = min(where, len(content) - 1)
        flipped = content[where] ^ 1 << chance.randrange(8)
        return content[:where] + bytes([flipped]) + content[where + 1 :]
    if kind == "cut":
        return content[:where] + content[until:]
    if kind == "end":
        return content[:where]
    if kind == "insert":
        return content[:where] + chance.randbytes(chance.randint(1, 9)) + content[where:]
    if kind == "repeat":
        return content[:until] + content[where:]
    if kind == "zero":
        return content[:where] + bytes(until - where) + content[until:]
    return content[:where] + content[where:until].swapcase() + content[until:]


def altered(value: Any, chance: random.Random) -> Any:
    """The same mapping or list but for one entry, somewhere inside."""
    value = copy.deepcopy(value)
    inner = value
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        if not keys:
            return value
        key = chance.choice(keys)
        if isinstance(inner[key], dict | list) and inner[key] and chance.random() < 0.8:
            inner = inner[key]
            continue
        deed = chance.choice(("value", "value", "remove", "rename"))
        if deed == "value" or isinstance(inner, list):
            inner[key] = chance.choice(VALUES)
        else:
            taken = inner.pop(key)
            if deed == "rename":
                inner["".join(chance.choices(string.ascii_lowercase + "_", k=5))] = taken
        return value


def refusal(error: Exception, naming: str = "") -> str:
    """What a reader says of a file that it refuses must say something, and name the file."""
    assert str(error), f"{error!r} says nothing"
    assert naming in str(error), f"the message does not name {naming}: {error}"
    return REFUSED


# --- the kinds of trials: each returns what became of it, or raises ------------------------------


def record_bytes(chance: random.Random) -> str:
    """A file of the ledger, damaged on the disk."""
    one = stored().record
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(folder)
        path = ledger.write(one)
        path.write_bytes(damaged(path.read_bytes(), chance))
        sound, refused = ledger.scan()
    assert len(sound) + len(refused) == 1
    assert all(record.to_json() == one.to_json() for record in sound), "another record is believed"
    return REFUSED if refused else UNHARMED


def record_signed(chance: random.Random) -> str:
    """A record that someone changed and gave a fitting digest."""
    body = json.loads(stored().record.to_json())
    body.pop("digest")
    for _ in range(chance.randint(1, 3)):
        body = altered(body, chance)
    text = json.dumps(body | {"digest": _digest(body)})
    try:
        record = Record.from_json(text)
    except (ValueError, TypeError) as error:
        return refusal(error)
    assert Record.from_json(record.to_json()).to_json() == record.to_json()
    return "read, and written again the same"


def checkpoint_bytes(chance: random.Random) -> str:
    """The checkpoint of a run under way."""
    path, of = stored().checkpoint
    whole = path.read_bytes()
    changed = damaged(whole, chance)
    other = path.with_name("damaged.pt")
    other.write_bytes(changed)
    found = checkpoint.read(other, of, CPU)
    assert (found is not None) == (changed == whole), "a damaged checkpoint is taken up"
    return REFUSED if found is None else UNHARMED


def network_bytes(chance: random.Random) -> str:
    """A network stored as seed and γ."""
    path, state = stored().network
    other = path.with_name("damaged.safetensors")
    other.write_bytes(damaged(path.read_bytes(), chance))
    try:
        model, _ = seed_checkpoint.load(other)
    except seed_checkpoint.CheckpointError:
        return REFUSED
    same = all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert same, "another network is loaded"
    return UNHARMED


def timing_bytes(chance: random.Random) -> str:
    """The record of a benchmark."""
    path = stored().timing
    sound = timings.read(stored().folder)
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / timings.FOLDER / path.name
        other.parent.mkdir()
        other.write_bytes(damaged(path.read_bytes(), chance))
        try:
            found = timings.read(Path(folder))
        except ValueError as error:
            return refusal(error, naming=path.name)
    assert found == sound, "other timings are believed"
    return UNHARMED


def settings(chance: random.Random) -> str:
    """The settings of a run, some of them nonsense."""
    wanted = stored().record.spec.to_dict()
    for _ in range(chance.randint(1, 3)):
        wanted = altered(wanted, chance)
    try:
        spec = Spec.from_dict(wanted)
    except (ValueError, TypeError) as error:
        return refusal(error)
    again = Spec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert again.hash == spec.hash
    return "accepted, and read again the same"


def register_text(chance: random.Random) -> str:
    """The register's YAML with a slip of the hand."""
    file = chance.choice(sorted(texts()))
    text = damaged(texts()[file].encode(), chance).decode(errors="replace")
    try:
        claims = read_claims(parse(text, file), file)
    except ValueError as error:
        return refusal(error, naming=file)
    assert all(claim.statement for claim in claims)
    return "read as it now stands"


def register_entries(chance: random.Random) -> str:
    """A claim with a wrong entry."""
    file = chance.choice(sorted(texts()))
    document = yaml.safe_load(texts()[file])
    document["claims"] = [altered(chance.choice(document["claims"]), chance)]
    try:
        read_claims(document, file)
    except ValueError as error:
        return refusal(error, naming=file)
    return "read as it now stands"


def image_tree(chance: random.Random) -> str:
    """A folder of images, one of them damaged or odd."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pixels = np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8)
        suffix = chance.choice((".png", ".jpg", ".bmp", ".gif", ".webp"))
        paths = [
            root / "tree" / part / label / f"{number}{suffix}"
            for part in ("train", "test") for label in "ab" for number in range(2)
        ]  # fmt: skip
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        odd = chance.choice(paths)
        odd.write_bytes(_odd_image(odd, chance))
        try:
            found = data.load("tree", root)
        except DataError as error:
            # of two sizes it cannot know which is the odd one
            return refusal(error, naming="" if "same size" in str(error) else odd.name)
    images = found.train_images, found.test_images
    assert [tuple(part.shape) for part in images] == [(4, 8, 8, 3)] * 2
    assert all(part.dtype == torch.uint8 for part in images)
    return "decoded"


def _odd_image(path: Path, chance: random.Random) -> bytes:
    if chance.random() < 0.6:
        return damaged(path.read_bytes(), chance)
    mode = chance.choice(("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"))
    side = chance.choice((1, 7, 8, 8, 8, 9))
    buffer = io.BytesIO()
    image = Image.new(mode, (side, side))
    try:
        image.save(buffer, chance.choice(("PNG", "TIFF", "BMP", "GIF", "JPEG")))
    except (OSError, ValueError):  # this format does not have that mode
        return b""
    return buffer.getvalue()


def model_name(chance: random.Random) -> str:
    """The name of a network, misspelt."""
    known = ("cifar_resnet14x2", "cifar_nf_resnet20", "nfnet_f0", "resnet50", "cifar_vgg11")
    name = damaged(chance.choice(known).encode(), chance).decode(errors="replace")
    try:
        with torch.device("meta"):
            models.create(name)
    except ValueError as error:
        return refusal(error)
    return "there is such a network"


KINDS: dict[str, Callable[[random.Random], str]] = {
    trial.__name__: trial
    for trial in (
        record_bytes, record_signed, checkpoint_bytes, network_bytes, timing_bytes, settings,
        register_text, register_entries, image_tree, model_name,
    )
}  # fmt: skip


def run(kind: str, number: int) -> str:
    """Trial ``number`` of a kind: what became of it.

    Raises:
        Exception: whatever a reader raised that it does not document; ``AssertionError`` if
            something else than what was written has been believed.
    """
    return KINDS[kind](random.Random(f"{kind} {number}"))


def fuzz(kinds: list[str], first: int, seconds: float) -> tuple[dict[str, dict[str, int]], int]:
    """Trials of all kinds in turns until the time is over, at least one of each.

    Returns:
        Kind → outcome → how often; and the number of faults, each of which is printed.
    """
    counts: dict[str, dict[str, int]] = {kind: {} for kind in kinds}
    end, number, faults = time.monotonic() + seconds, first, 0
    while True:
        for kind in kinds:
            try:
                outcome = run(kind, number)
            except Exception:
                outcome, faults = FAULT, faults + 1
                print(f"--only {kind} --first {number}\n{traceback.format_exc()}", flush=True)
            counts[kind][outcome] = counts[kind].get(outcome, 0) + 1
        number += 1
        if time.monotonic() >= end:
            return counts, faults


def table(counts: dict[str, dict[str, int]]) -> str:
    """The table of the page *Running it anywhere*."""
    lines = ["| what was damaged | trials | refused | read | faults |", f"|{' --- |' * 5}"]
    for kind, outcomes in counts.items():
        what = (KINDS[kind].__doc__ or "").rstrip(".")
        trials, refused, faults = (
            sum(outcomes.values()), outcomes.get(REFUSED, 0), outcomes.get(FAULT, 0),
        )  # fmt: skip
        read = trials - refused - faults
        lines.append(f"| {what} | {trials:,} | {refused:,} | {read:,} | {faults} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Fuzz, print the counts, and exit with 1 if there was a fault."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--minutes", type=float, default=1.0)
    arguments.add_argument("--only", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    arguments.add_argument("--first", type=int, default=0, help="number of the first trial")
    arguments.add_argument("--store", action="store_true", help="in results/fuzz.json")
    options = arguments.parse_args()
    logging.disable(logging.WARNING)
    kinds = [options.only] if options.only else list(KINDS)
    counts, faults = fuzz(kinds, options.first, 60 * options.minutes)
    print(json.dumps(counts, indent=1))
    if options.store:
        body = {"minutes": options.minutes, "counts": counts, "provenance": provenance()}
        write_signed(default_root() / "fuzz.json", body)
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()

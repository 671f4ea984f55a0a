"""What the checks found, recorded beside the runs: ``<ledger>/checks.json``.

All checks together take more than a minute, and the site shows every one of them with its cost. So
a site is built from this file. It says of which sources it is; once they have changed it is not
believed any more, and the checks are computed. ``nbrepro verify`` never reads it: it computes.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nbrepro.claims import checks
from nbrepro.claims.checks import Computed, Summary
from nbrepro.records.ledger import _digest, write_signed
from nbrepro.records.provenance import device_name, provenance

FILE = "checks.json"


class Recorded(NamedTuple):
    """What one check found, and what it took.

    Attributes:
        summary: what it found.
        seconds: of a processor, with all its seeds.
        provenance: commit, versions, platform, time, device, threads.
    """

    summary: Summary
    seconds: float
    provenance: Mapping[str, Any]


def read(root: Path) -> dict[str, Recorded]:
    """Check → what was recorded; empty if there is no file, or one of other sources.

    Args:
        root: the ledger's folder.

    Raises:
        ValueError: for a file that was altered or that this module did not write, naming it.
    """
    path = root / FILE
    if not path.exists():
        return {}
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        sound = body.pop("digest", None) == _digest(body)
        same, found = body["sources"] == checks.sources(), body["checks"]
        recorded = {
            name: Recorded(_summary(entry), entry["seconds"], body["provenance"])
            for name, entry in found.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no record of checks ({error!r}); {_MEND}") from error
    if not sound:
        raise ValueError(f"{path} does not match its digest, so it was altered; {_MEND}")
    return recorded if same else {}


_MEND = "restore it, or delete it and make it again with nbrepro book --update scorecard"


def write(root: Path, say: Callable[[str], object] = print) -> None:
    """Compute all checks and record what they found; nothing if the file is of these sources.

    Args:
        root: the ledger's folder.
        say: called with each line about what is done.
    """
    import torch

    names = list(checks.registry())
    if read(root).keys() == set(names):
        return
    found = {}
    for number, name in enumerate(names, 1):
        say(f"[{number}/{len(names)}] computing the check {name}")
        began = time.process_time()
        summary = checks.compute(name)
        seconds = round(time.process_time() - began, 2)
        checks.keep(name, summary)
        values = {key: value._asdict() for key, value in summary.values.items()}
        found[name] = {"values": values, "note": summary.note, "seconds": seconds}
    here = {"device": device_name(torch.device("cpu")), "threads": torch.get_num_threads()}
    body = {
        "sources": checks.sources(),
        "checks": found,
        "provenance": provenance() | here,
    }
    write_signed(root / FILE, body)


def _summary(entry: Mapping[str, Any]) -> Summary:
    values = {name: Computed(**value) for name, value in entry["values"].items()}
    return Summary(values, entry["note"])

"""Run records again and compare: is each curve, and the end, the same to the last digit?

    python scripts/rerun.py                   # ten records, one of each kind; stores the table
    python scripts/rerun.py 5ca90c66b6b15b53  # these; prints only

Each run is done anew, in a ledger of its own, with as many threads as it was recorded with. A run
is promised to repeat to the last digit on the same kind of processor and the same build of torch;
whether it does so across versions of this package is what the table shows. The ten take about ten
minutes on one core of the processor that they were recorded on.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from nbrepro.data import DataError
from nbrepro.records.ledger import Ledger, Record, default_root, write_signed
from nbrepro.records.provenance import provenance
from nbrepro.sweep import SweepOptions, run_one

#: Hash → what kind of run it is. Records of 32 pixels are left out: they take hours.
SAMPLE = {
    "5ca90c66b6b15b53": "BatchNorm twin of NF-ResNet-20",
    "5a595f200a4c83c0": "NF-ResNet-20, AGC, batch 1024",
    "210fed319158aefc": "NF-ResNet-20, AGC layer by layer",
    "003d8d19397b4694": "NF-ResNet-20, gradient clipped by its norm",
    "0f1299ebd1745ca1": "NF-ResNet-20, LARS",
    "04601b58ef951587": "NF-ResNet-20, not clipped, diverged",
    "10e276f71c5cd134": "NF-ResNet-20 without SkipInit",
    "09df36c632f32038": "ResNet-14, γ and β, bfloat16",
    "50853da9cc4fd1dd": "ResNet-14, all, float32",
    "77b5a34e2d3b5f37": "ResNet-14, two random weights per channel",
}


def compared(stored: Record, again: Record) -> str:
    """``the same``, or what differs first. Metrics that are newer than the record do not count."""
    for row, other in zip(stored.curve, again.curve, strict=False):
        if row != other:
            return f"another curve from epoch {row['epoch']:g} on"
    metrics = {name: again.metrics.get(name) for name in stored.metrics}
    same = (stored.status, len(stored.curve), stored.metrics)
    return "the same" if same == (again.status, len(again.curve), metrics) else "another end"


def rerun(stored: Record, data_root: Path | None = None) -> dict[str, Any]:
    """Do a recorded run again; a row of the table."""
    how = stored.provenance
    torch.set_num_threads(how["threads"])
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "results")
        options = SweepOptions(ledger=ledger, device="cpu", data_root=data_root, progress=False)
        run_one(stored.spec, options)
        (again,), _ = ledger.scan()  # as it was written, where what is not finite is null
    return {
        "recorded": how["commit"][:7],
        "on": f"{how['device']}, {how['precision']}, torch {how['versions']['torch']}",
        "again_on": f"{again.provenance['device']}, {again.provenance['precision']}, "
        f"torch {again.provenance['versions']['torch']}",
        "epochs": len(stored.curve) - 1,
        "found": compared(stored, again),
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The table of the page *What a record holds*."""
    head = ("record", "kind of run", "at commit", "epochs", "again")
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for run, row in rows.items():
        cells = f"`{run}`", SAMPLE[run], f"`{row['recorded']}`", str(row["epochs"]), row["found"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run again, print and store."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument(
        "hashes", nargs="*", metavar="HASH", help="or its beginning; default: a sample of ten"
    )
    arguments.add_argument("--data-root", type=Path, help="default: $NBREPRO_DATA or data")
    options = arguments.parse_args()
    records = {record.spec.hash: record for record in Ledger().scan()[0]}
    rows = {}
    for asked in options.hashes or SAMPLE:
        found = [run for run in records if run.startswith(asked)]
        if len(found) != 1:
            how_many = "no sound record begins" if not found else f"{len(found)} records begin"
            arguments.error(f"{how_many} with {asked} in {default_root()}")
        (run,) = found
        try:
            rows[run] = rerun(records[run], options.data_root)
        except DataError as error:
            arguments.error(str(error))
        print(run, records[run].spec, json.dumps(rows[run]), sep="\n  ", flush=True)
    if not options.hashes:
        body = {"benchmark": "reruns", "rows": rows, "provenance": provenance()}
        path = default_root() / "reruns.json"
        write_signed(path, body)
        print(path)


if __name__ == "__main__":
    main()

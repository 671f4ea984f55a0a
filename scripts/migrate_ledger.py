"""Move a ledger of the earlier layout, one folder per experiment, to one file per run.

    python scripts/migrate_ledger.py [results]

``<root>/<experiment>/<hash>.json`` becomes ``<root>/runs/<hash>.json``, byte for byte, so digests
stay valid. Where one run stands in two experiments, the record that was finished first stays, and
the other is deleted if their curves are equal; if they are not, it is left and named.
"""

import sys
from pathlib import Path

from nbrepro.records.ledger import BENCHMARKS, FEATURES, RUNS, Record


def migrate(root: Path) -> int:
    """Move all records below ``root``; returns the exit status."""
    moved, deleted, status = 0, 0, 0
    (root / RUNS).mkdir(exist_ok=True)
    for path in sorted(root.glob("*/*.json")):
        if path.parent.name in (RUNS, BENCHMARKS, FEATURES):
            continue
        target = root / RUNS / path.name
        if target.exists():
            here, there = (Record.from_json(p.read_text("utf-8")) for p in (path, target))
            if here.curve != there.curve:
                print(f"{path}: another curve than {target}; choose one by hand", file=sys.stderr)
                status = 1
                continue
            newer = max((path, here), (target, there), key=lambda p: p[1].provenance["finished"])
            newer[0].unlink()
            deleted += 1
        else:
            moved += 1
        if path.exists():
            path.rename(target)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    print(f"{moved} records moved, {deleted} second copies deleted")
    return status


if __name__ == "__main__":
    sys.exit(migrate(Path(sys.argv[1] if len(sys.argv) > 1 else "results")))

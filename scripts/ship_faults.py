"""Keep what `make faults` has counted where the docs site takes it from.

python scripts/ship_faults.py
"""

import sys
import time

from crane.core import CraneError, made_by, project_root, read_json, write_json


def counted(folder):
    "The rows of all tests; equal faults at equal places are added up."
    rows = {}
    for path in sorted(folder.glob("*.json")):
        for row in read_json(path):
            known = rows.setdefault((row["place"], row["fault"]), row | dict(tried=0, survived=0))
            known["tried"] += row["tried"]
            known["survived"] += row["survived"]
    return [row for _, row in sorted(rows.items())]


def ship(root):
    "Keep the rows of a whole set, with the commit and the day; code that is not committed is refused."
    rows, made = counted(root / "runs" / "faults"), made_by()
    if not rows:
        raise CraneError("runs/faults holds no rows: run 'make faults'.")
    if made["dirty"]:
        raise CraneError("there are changes that are not committed: commit them, then run 'make faults' again.")
    about = dict(date=time.strftime("%Y-%m-%d"), commit=made["commit"], hardware=made["hardware"])
    return write_json(root / "benchmarks" / "faults.json", about | dict(rows=rows)), rows


if __name__ == "__main__":
    try:
        path, rows = ship(project_root())
    except CraneError as e:
        sys.exit(f"ship_faults: {e}")
    print(f"{path}: {len(rows)} faults, tried {sum(r['tried'] for r in rows):,} times")

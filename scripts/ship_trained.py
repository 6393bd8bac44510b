"""Put what a full run trained for controls and further seeds into the package, where the profile `pocket` takes it.

python scripts/ship_trained.py [RUN]
"""

import shutil
import sys

from crane.core import CraneError, project_root, read_json, sha256_file, write_json
from crane.plan import record
from crane.routing import TRAINED

STAGES = "07a_sft", "08_grpo"
LARGEST = 12e6  # bytes, of all together


def of_run(runs, stage):
    "A stage's record; it must have run to its end from committed code."
    rec = record(runs, stage)
    again = f"run 'crane reproduce --profile full --only {stage}' first"
    if not rec:
        raise CraneError(f"{stage} is not up to date in {runs}: {again}.")
    if rec["made_by"]["dirty"]:
        raise CraneError(f"{stage} ran with changes that were not committed: commit them, then {again}.")
    return rec


def fill(to, kept, made_by):
    "Copy what one training left, without its logs of every step, and say where it comes from."
    shutil.copytree(kept, to, ignore=shutil.ignore_patterns("trainer*", "training.json"))
    files = [p for p in sorted(to.rglob("*")) if p.is_file()]
    write_json(
        to / "training.json",
        read_json(kept / "training.json")
        | dict(commit=made_by["commit"], hardware=made_by["hardware"], versions=made_by["versions"])
        | dict(files={p.relative_to(to).as_posix(): sha256_file(p) for p in files}),
    )


def ship(runs):
    "Replace all that ships in one step."
    new = TRAINED.with_name(".trained.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        for stage in STAGES:
            made_by = of_run(runs, stage)["made_by"]
            for path in sorted((runs / stage).glob("*/training.json")):
                fill(new / stage / path.parent.name, path.parent, made_by)
        size = sum(p.stat().st_size for p in new.rglob("*") if p.is_file())
        if not size:
            raise CraneError(f"nothing was trained in {runs} that could ship: run the profile 'full'.")
        if size > LARGEST:
            raise CraneError(f"trainings of {size:,} bytes are more than {LARGEST:,.0f}: ship fewer or smaller ones.")
        shutil.rmtree(TRAINED, ignore_errors=True)
        new.rename(TRAINED)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return size


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "full"
    try:
        size = ship(project_root() / "runs" / name)
    except CraneError as e:
        sys.exit(f"ship_trained: {e}")
    print(f"{TRAINED}: {size:,} bytes")

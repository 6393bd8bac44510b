"""Put what notebooks read of a finished smoke run into the package, so that each can be opened and run by itself.

python scripts/ship_run.py
"""

import shutil
import sys

from crane.core import DATA, CraneError, project_root, write_json
from crane.reproduce import about, origin_in_short, promotable

RUN = "smoke"
JUDGED = [
    "scored",
    "calm",
    "seeds",
    "forced",
    "sequence",
    "growth",
    "kinds",
    "ood",
    "ablations",
    "ranks",
    "scopes",
    "thoughts",
    "confusions",
]
READ = {  # stage -> what later notebooks read of it
    "02b_pocket": ["results.json"],
    "03a_mend": ["mend.safetensors"],
    "03b_memory_editors": ["serac*.safetensors"],
    "04_failure_modes": ["examples.jsonl", "curve.jsonl", "*.png"],
    "04a_judges": ["results.json"],
    "05a_benchmark": ["*.parquet", "*.jsonl", "card.md"],
    "06c_retrieval": ["thresholds.json"],
    "07a_sft": ["summary.json", "log.jsonl", "**/model/*"],
    "08_grpo": ["summary.json", "log.jsonl", "**/model/*"],
    "09_evaluation": [*(f"{rows}.jsonl" for rows in JUDGED), "curves.json", "training_seconds.json"],
    "09a_tables": ["results.json"],
}


def fill(to, run):
    "Copy what is read."
    for stage, patterns in READ.items():
        for pattern in patterns:
            found = [p for p in sorted((run / stage).glob(pattern)) if p.is_file()]
            if not found:
                lacks = f"runs/{RUN}/{stage} holds no {pattern}, which later notebooks read"
                raise CraneError(f"{lacks}: mend READ in scripts/ship_run.py.")
            for p in found:
                copy = to / stage / p.relative_to(run / stage)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(p, copy)


def ship(root):
    "Replace the shipped run in one step; it must be one that could be promoted."
    runs, to, new = root / "runs" / RUN, DATA / RUN, DATA / f".{RUN}.new"
    origin = about(root, runs, promotable(root, runs))
    shutil.rmtree(new, ignore_errors=True)
    try:
        fill(new, runs)
        made = f"crane reproduce --profile {RUN}, then python scripts/ship_run.py"
        write_json(new / "about.json", origin_in_short(origin) | dict(made=made))
        shutil.rmtree(to, ignore_errors=True)
        new.rename(to)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return to


if __name__ == "__main__":
    try:
        to = ship(project_root())
    except CraneError as e:
        sys.exit(f"ship_run: {e}")
    print(f"{to}: {sum(p.stat().st_size for p in to.rglob('*') if p.is_file()):,} bytes")

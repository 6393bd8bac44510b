"""Where the time of a run goes: minutes by notebook and by kind of work, as a Markdown table.

    .venv/bin/python benchmarks/where_time_goes.py [RUN] [--keep]

RUN is a folder of `runs/`; left out, it is the newest of those that have run to their end. `--keep` puts the times of
a run that could be promoted into benchmarks/times/, where README and docs take them from. While a notebook runs in a
batch it notes how long it does what (`crane.core.span`), and its record keeps that. `start-up` is from its launch to
the end of the cell with its imports, `rest` is what no kind covers: reading and writing files, building worlds and
benchmarks, drawing pictures, loading models. What a notebook starts in other processes is not counted, only the wait
for it.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from crane.core import KINDS_OF_WORK, CraneError, project_root, write_json
from crane.plan import notebooks, record, unknown
from crane.report import markdown
from crane.reproduce import about, origin_in_short, promotable

KINDS = (*KINDS_OF_WORK, "start-up")


def of_notebook(took: dict) -> dict[str, float]:  # `took`: its `seconds` and its `spans`
    "Seconds by kind of work, and of all together."
    spans = {kind: took["spans"].get(kind, 0.0) for kind in KINDS}
    return spans | {"rest": took["seconds"] - sum(spans.values()), "all": took["seconds"]}


def minutes(stages: dict[str, dict]) -> pd.DataFrame:  # Notebooks by kinds of work
    "The table; a cell is empty where there was nothing of a kind."
    seconds = pd.DataFrame.from_dict({s: of_notebook(took) for s, took in stages.items()}, orient="index")
    seconds.loc["all"] = seconds.sum()
    return (seconds / 60).map(lambda x: f"{x:.1f}" if x else "").rename_axis("notebook")


def records(runs: Path) -> dict[str, dict]:  # Notebook name -> record, of those that have run to their end
    "What a run's notebooks recorded."
    found = {s: record(runs, s) for s in notebooks(project_root())}
    return {s: rec for s, rec in found.items() if rec}


def newest() -> Path:
    "The run that has ended last."
    executed = sorted(project_root().glob("runs/*/executed"), key=lambda p: p.stat().st_mtime, reverse=True)
    whole = [p.parent for p in executed if len(records(p.parent)) == len(notebooks(project_root()))]
    if not whole:
        raise CraneError("no run has run to its end here: run 'crane reproduce' first.")
    return whole[0]


def stages_of(runs: Path) -> dict[str, dict]:
    "The records of a run; one without recorded times is a `CraneError`."
    if not runs.is_dir():
        raise unknown("run", runs.name, sorted(p.parent.name for p in runs.parent.glob("*/executed")))
    found = records(runs)
    without = [s for s, rec in found.items() if "spans" not in rec]
    if without or not found:
        what = f"{without[0]} of run '{runs.name}'" if without else f"run '{runs.name}'"
        raise CraneError(f"{what} has recorded no times: run it again with 'crane reproduce --fresh'.")
    return found


def keep(runs: Path) -> Path:
    "Keep the times of a run; it must be one that could be promoted."
    root = project_root()
    origin = about(root, runs, promotable(root, runs))
    path = root / "benchmarks" / "times" / f"{runs.name}.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, origin_in_short(origin))
    return path


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("run", nargs="?")
    ap.add_argument("--keep", action="store_true")
    given = ap.parse_args()
    runs = project_root() / "runs" / given.run if given.run else newest()
    stages = stages_of(runs)
    print(f"Run '{runs.name}', {len(stages)} notebooks, minutes:\n\n{markdown(minutes(stages))}", end="")
    if given.keep:
        print(f"\nkept in {keep(runs).relative_to(project_root())}")


if __name__ == "__main__":
    try:
        main()
    except CraneError as e:
        sys.exit(f"where_time_goes: {e}")

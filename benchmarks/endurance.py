"""A library under mixed load: throughput and memory over time.

    .venv/bin/python benchmarks/endurance.py [--minutes 15] [--out FOLDER]

Two writers and three readers share one folder, each a process of its own. Writers add, replace, remove and take back
edits in words and with pictures; readers search, list, and open the library anew. What each did in a slice of time, its
resident memory and its open files go to endurance.json and into a figure. Eight hours of one change every two seconds
are 14,400 changes; a quarter of an hour without a pause makes more. At the end every edit that was acknowledged must be
there, and the memory of the last third may be no more than a tenth above that of the middle third, once the growth that
the library's own size explains is taken off.
"""

import argparse
import json
import multiprocessing
import random
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from crane.core import CraneError, Edit, write_json
from crane.library import DualLibrary
from crane.model import Prompt
from crane.retrieval import Hit  # noqa: F401  # which lets a library be searched
from crane.search import PlainEncoder
from crane.world import EDIT_ARTIST, load_world

KEPT = 400  # edits that a writer keeps in the library; the oldest go first


def edit(world, code, writer, n):
    "An edit in words or with a picture."
    e = world[code]
    visual = n % 3 == 0
    return Edit(
        id=f"{writer}{n % 600}",
        modality="visual" if visual else "textual",
        relation="country" if visual else "capital",
        subject=f"{code}{writer}{n % 600}",
        subject_name=e.name,
        target="x",
        question="Whose flag is this?" if visual else f"What is the capital of {e.name}?",
        image=f"{EDIT_ARTIST}/{code}" if visual else None,
        target_old="Lima",
        target_new=f"{writer}{n}",
    )


def write(lib, world, name, rng, state):
    "One change; the state is what must be there after it."
    n, held = state
    if len(held) > KEPT and rng.random() < 0.5:
        gone = [*held][:20]
        lib.remove(*gone)
        for i in gone:
            del held[i]
        return n, held
    e = edit(world, rng.choice([*world.entities]), name, n)
    lib.add([e])
    held.pop(e.id, None)
    held[e.id] = e.target_new
    return n + 1, held


def read(lib, world, rng):
    "One look: a search in words, one by picture, and now and then the whole list."
    code = rng.choice([*world.entities])
    lib.refresh()
    lib.nearest([Prompt(f"What is the capital of {world[code].name}?"), Prompt("Whose flag?", f"{EDIT_ARTIST}/{code}")])
    if rng.random() < 0.02:
        lib.entries()


def work(folder, name, kind, seconds, slices, out):
    "One process: how much it did in each slice, and what it took."
    world, rng = load_world(), random.Random(name)
    encoder, me = PlainEncoder(world), psutil.Process()
    lib, state, rows = DualLibrary(encoder, folder=folder), (0, {}), []
    end, begin = time.monotonic() + seconds, time.monotonic()
    for k in range(slices):
        until, done = begin + (k + 1) * seconds / slices, 0
        while time.monotonic() < min(until, end):
            if kind == "writer":
                state = write(lib, world, name, rng, state)
            else:
                read(lib, world, rng)
            done += 1
        took = dict(memory=me.memory_info().rss, files=me.num_fds(), edits=len(lib), changes=lib.number)
        rows.append(dict(name=name, kind=kind, slice=k, done=done, minute=(k + 1) * seconds / slices / 60) | took)
        if kind == "reader" and k % 10 == 9:
            lib = DualLibrary(encoder, folder=folder)
    write_json(out / f"{name}.json", dict(rows=rows, held=state[1]))


def check(folder, held):
    "Whether all that was acknowledged is there."
    there = {x.edit.id: x.edit.target_new for x in DualLibrary(None, folder=folder).entries()}
    if there != held:
        lost = {i for i in held if there.get(i) != held[i]}
        raise CraneError(f"{len(lost)} of {len(held)} acknowledged edits are not there: {sorted(lost)[:3]}.")


def grows(rows: pd.DataFrame) -> float:
    "By what share the memory of a process is larger in the last third than in the middle one, at its median."
    last = rows.slice.max() + 1
    middle, late = (
        rows[(rows.slice >= a) & (rows.slice < b)].memory.median()
        for a, b in ((last / 3, 2 * last / 3), (2 * last / 3, last))
    )
    return late / middle - 1


def draw(rows, path):
    "Throughput and memory over time."
    import matplotlib.pyplot as plt

    fig, (above, below) = plt.subplots(2, 1, figsize=(6, 5), sharex=True)
    for name, mine in rows.groupby("name"):
        seconds = np.diff(mine.minute, prepend=0) * 60
        above.plot(mine.minute, mine.done / seconds, label=name)
        below.plot(mine.minute, mine.memory / 1e6, label=name)
    above.set(ylabel="operations a second", yscale="log")
    below.set(xlabel="minutes", ylabel="resident memory, MB")
    above.legend(fontsize=6, ncol=5)
    fig.savefig(path, dpi=150, bbox_inches="tight")


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--minutes", type=float, default=15)
    ap.add_argument("--out", type=Path, default=Path("runs/endurance"))
    given = ap.parse_args()
    out, folder = given.out, given.out / "library"
    if folder.exists():
        raise CraneError(f"{folder} is there already: name another folder.")
    out.mkdir(parents=True, exist_ok=True)
    seconds, slices = 60 * given.minutes, 60
    names = [("a", "writer"), ("b", "writer"), ("r1", "reader"), ("r2", "reader"), ("r3", "reader")]
    ctx = multiprocessing.get_context("spawn")
    parts = [ctx.Process(target=work, args=(folder, name, kind, seconds, slices, out)) for name, kind in names]
    for p in parts:
        p.start()
    for p in parts:
        p.join()
    if any(p.exitcode for p in parts):
        raise CraneError("a process has failed: see what it said above.")
    results = [json.loads((out / f"{name}.json").read_text()) for name, _ in names]
    rows = pd.DataFrame([r for x in results for r in x["rows"]])
    check(folder, {i: t for x in results for i, t in x["held"].items()})
    rows.to_json(out / "endurance.json", orient="records", indent=1)
    draw(rows, out / "endurance.png")
    done = rows.groupby("kind").done.sum()
    print(f"{given.minutes:g} minutes: {done['writer']:,} changes, {done['reader']:,} looks, nothing lost")
    for name, mine in rows.groupby("name"):
        print(
            f"  {name}: memory {grows(mine):+.1%} from the middle third to the last, at most {mine.files.max()} files"
        )


if __name__ == "__main__":
    try:
        main()
    except CraneError as e:
        raise SystemExit(f"endurance: {e}") from None

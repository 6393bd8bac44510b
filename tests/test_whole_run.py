"A smoke run that is killed ten times ends in the same files as an undisturbed one: the run that `make test` has made."

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from crane.plan import outlook, run_steps

root = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-c", "from crane.command_line import main; main()", "reproduce", "--profile", "smoke"]
# what may differ between two runs: recorded times, as fields and as columns
TIMED, COLUMN = re.compile(r"seconds|^took$"), re.compile(r"^seconds|, s$")
OF_TRL = {"executed", "tensorboard", "trainer", "trainer_sft"}  # folders of which the content is not ours


def view(root):
    return outlook(run_steps("smoke", root), root)


@pytest.fixture(scope="module")
def undisturbed():
    "The run that `make test` has just made, on one thread a notebook."
    stale = {s.stage: why for s, (what, why) in view(root).items() if what != "keep"}
    if stale:
        pytest.skip(f"there is no finished smoke run of this code to compare with ({stale}): run `make test`")
    return root / "runs/smoke"


@pytest.fixture
def project(tmp_path):
    "A copy of what is, or would be, in git."
    for n in subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, text=True, check=True
    ).stdout.splitlines():
        if (root / n).is_file():
            (tmp_path / n).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / n, tmp_path / n)
    return tmp_path


def start(project, out):
    env = os.environ | dict(PYTHONPATH=str(project), OMP_NUM_THREADS="1")
    return subprocess.Popen(
        COMMAND, cwd=project, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
    )


def timeless(x):
    "JSON without recorded times: neither fields of that name, nor result rows in seconds."
    if isinstance(x, dict):
        return {k: timeless(v) for k, v in x.items() if not TIMED.search(k)}
    if isinstance(x, list):
        return [timeless(v) for v in x if not (isinstance(v, dict) and v.get("unit") == "s")]
    return x


def timeless_table(path):
    "The cells of a table without its columns of seconds."
    text = path.read_text()
    rows = (
        [*csv.reader(text.splitlines())]
        if path.suffix == ".csv"
        else [re.split(r" \| | & ", line.strip(" |\\")) for line in text.splitlines()]
    )
    head = next((r for r in rows if len(r) > 1 and any(map(COLUMN.search, r))), [])
    return [[c for i, c in enumerate(r) if len(r) != len(head) or not COLUMN.search(head[i])] for r in rows]


def content(path):
    if path.suffix in (".csv", ".md", ".tex"):
        return timeless_table(path)
    if path.suffix == ".json":
        stored = json.loads(path.read_text())
        return sorted(stored) if TIMED.search(path.stem) else timeless(stored)  # a file of nothing but times
    if path.suffix == ".jsonl":
        return [timeless(json.loads(line)) for line in path.read_text().splitlines()]
    return path.read_bytes()


def results(runs):
    "The files of a run, but for kept answers, what TRL keeps for itself and the executed notebooks."
    files = [p for p in sorted(runs.rglob("*")) if p.is_file() and p.parent != runs]
    files = [p for p in files if OF_TRL.isdisjoint(p.relative_to(runs).parts)]
    return {p.relative_to(runs).as_posix(): p for p in files}


def kill_when(p, ready, rng):
    "Kill a batch, not its kernels, at a random moment or as soon as something is there."
    end = time.time() + (600 if ready else rng.uniform(3, 20))
    while time.time() < end and not (ready and ready()) and p.poll() is None:
        time.sleep(0.05)
    p.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
    p.wait(60)


def test_killed_ten_times_it_ends_in_the_same_files(undisturbed, project):
    seed = int(time.time())
    print("seed of the moments:", seed)
    rng, log = random.Random(seed), project / "runs.log"

    def in_training(stage):
        return any((project / "runs/smoke" / stage).rglob("checkpoint-*/trainer_state.json"))

    at = {5: partial(in_training, "07a_sft"), 8: partial(in_training, "08_grpo")}  # twice in the midst of a training
    with log.open("w") as out:
        for k in range(10):
            kill_when(start(project, out), at.get(k), rng)
        p = start(project, out)
        assert p.wait(1500) == 0, log.read_text()[-3000:]
    a, b = results(undisturbed), results(project / "runs/smoke")
    assert a.keys() == b.keys()
    assert [n for n in a if content(a[n]) != content(b[n])] == []
    assert not list((project / "runs/smoke").rglob("checkpoint-*")) and not list(
        (project / "runs/smoke").rglob("*.partial*")
    )
    assert {what for what, _ in view(project).values()} == {"keep"}

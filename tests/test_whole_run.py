"""A batch that is killed ends in the same files as an undisturbed one.

Toy notebooks are killed ten times at any moment; the two real ones that train, in the midst of their trainings, beside
the smoke run that `make test` has made.
"""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
import toys
from toys import CRANE, OUT, empty_project, notebook, run

from crane.plan import outlook, run_steps

root = Path(__file__).resolve().parent.parent
TRAINING = "07a_sft", "08_grpo"
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
def project(undisturbed, tmp_path):
    "A copy of what is, or would be, in git, and of the smoke run without what the two have made."
    for n in subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, text=True, check=True
    ).stdout.splitlines():
        if (root / n).is_file():
            (tmp_path / n).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / n, tmp_path / n)
    theirs = [f"{s}{end}" for s in TRAINING for end in ("", ".json", ".ipynb")]
    shutil.copytree(undisturbed, tmp_path / "runs/smoke", ignore=shutil.ignore_patterns(*theirs))
    return tmp_path


def start_training(project, out):
    only = [x for s in TRAINING for x in ("--only", s)]
    env = os.environ | dict(PYTHONPATH=str(project), OMP_NUM_THREADS="1")
    command = [*CRANE, "reproduce", "--profile", "smoke", *only]
    return subprocess.Popen(
        command, cwd=project, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
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


def kill(p, rng):
    "End a batch, not its kernels."
    p.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
    p.wait(60)


@pytest.fixture
def rng():
    seed = int(time.time())
    print("seed of the moments:", seed)
    return random.Random(seed)


def two_notebooks(path):
    "The second reads what the first has written, file by file."
    path = empty_project(path, "seed: 7\n")
    slowly = "import time\nfor i in range(9):\n    time.sleep(.03)\n    (d/f'{i}.txt').write_text(str(i*seed))"
    added = "text = ''.join(p.read_text() for p in sorted(Path('../runs', run, '01_make').iterdir()))"
    for name, reads, cell in ("01_make", "nothing", slowly), ("02_add", "`01_make/*.txt`", f"{added}\n{slowly}"):
        last = "(d/'last.txt').write_text(text if 'text' in dir() else 'none')"
        notebook(path / f"nbs/{name}.ipynb", 'run = "tiny"\nseed = 0', OUT.format(name), cell, last, reads=reads)
    return path


def kept(project):
    "Whether nothing is left to run."
    return {what for what, _ in outlook(run_steps("tiny", project), project).values()} == {"keep"}


def written_since(began, executed):
    "Whether a batch has come so far that it begins notebooks."
    with suppress(FileNotFoundError):
        return any(p.stat().st_mtime > began for p in executed.glob("*.json"))


@pytest.mark.faults
def test_toys_killed_ten_times_end_in_the_same_files(tmp_path, rng, tried):
    row = tried("SIGKILL or SIGTERM at random moments", "a batch of notebooks", "nothing: the same command goes on")
    killed, whole = (two_notebooks(tmp_path / name) for name in ("killed", "whole"))
    assert run(whole).code == 0
    executed = killed / "runs/tiny/executed"
    for _ in range(10):
        p, began = toys.start(killed, *(["--fresh"] if kept(killed) else [])), time.time()
        while p.poll() is None and not written_since(began, executed):
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 2))
        kill(p, rng)
        row.tried += 1
        p.communicate()
    code, out, err = run(killed)
    assert code == 0, err
    a, b = (results(path / "runs/tiny") for path in (whole, killed))
    assert a.keys() == b.keys() and len(a) == 20
    assert [n for n in a if a[n].read_bytes() != b[n].read_bytes()] == []
    assert {p.name for p in executed.iterdir()} == {p.name for p in (whole / "runs/tiny/executed").iterdir()}
    assert kept(killed)
    row.survived = row.tried


def of_trainings(files):
    return {n: p for n, p in files.items() if n.split("/")[0] in TRAINING}


@pytest.mark.faults
def test_trainings_killed_in_their_midst_end_in_the_same_files(undisturbed, project, rng, tried):
    row = tried("SIGKILL or SIGTERM after a checkpoint", "SFT, GRPO", "nothing: the same command goes on")
    log = project / "runs.log"

    def in_training(stage):
        return any((project / "runs/smoke" / stage).rglob("checkpoint-*/trainer_state.json"))

    with log.open("w") as out:
        for stage in TRAINING:
            p, end = start_training(project, out), time.time() + 1500
            while not in_training(stage) and p.poll() is None and time.time() < end:
                time.sleep(0.05)
            kill(p, rng)
            row.tried += 1
            assert in_training(stage), log.read_text()[-3000:]
        p = start_training(project, out)
        assert p.wait(1500) == 0, log.read_text()[-3000:]
    a, b = (of_trainings(results(runs)) for runs in (undisturbed, project / "runs/smoke"))
    assert a.keys() == b.keys() and {n.split("/")[0] for n in a} == {*TRAINING}
    assert [n for n in a if content(a[n]) != content(b[n])] == []
    assert not list((project / "runs/smoke").rglob("checkpoint-*"))
    assert not list((project / "runs/smoke").rglob("*.partial*"))
    assert {what for s, (what, _) in view(project).items() if s.stage in TRAINING} == {"keep"}
    row.survived = row.tried

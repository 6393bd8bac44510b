"A method of one's own that raises, calls exit, hangs or talks without end: what was answered is kept, and it is told."

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import KEPT

from crane.core import DATA, read_jsonl

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not KEPT, reason="evaluations of a minute; the long set does them"),
]
METHOD = """
import os, sys, time
from crane.editors import Edited, editor
made = []
@editor
def mine(m, edits, world):
    made.append(1)
    if len(made) > 1:
        {fault}
    yield Edited(m)
"""
FAULTS = {
    "raises": "raise RuntimeError('no')",
    "calls exit(0)": "sys.exit(0)",
    "dies": "os._exit(3)",
    "prints 100 MB": "print('x' * 100_000_000)",
    "hangs": "open('hangs', 'w'); time.sleep(9999)",
}


def evaluation(folder, fault):
    (folder / "mine.py").write_text(METHOD.format(fault=fault))
    command = [sys.executable, "-m", "crane", "evaluate", "--method", "mine.py:mine", "--limit", "18", "--out", "it"]
    command += ["--data", str(DATA / "smoke/05a_benchmark")]
    out = (folder / "said").open("w")
    return subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


@pytest.mark.parametrize("what", FAULTS)
def test_a_bad_method_loses_nothing(tmp_path, tried, what):
    row = tried(f"a method that {what}", "evaluation")
    p = evaluation(tmp_path, FAULTS[what])
    end = time.time() + 600
    while what == "hangs" and p.poll() is None and not (tmp_path / "hangs").exists() and time.time() < end:
        time.sleep(0.2)
    if what == "hangs":
        p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=600)
    with row.once():
        assert (p.returncode == 0) == (what == "prints 100 MB"), err
        if err.startswith("crane: "):
            row.said(err)
        elif p.returncode:
            row.sees = f"{err.strip().splitlines()[-1]}, and status 1" if err.strip() else f"status {p.returncode}"
        before = read_jsonl(tmp_path / "it/traces.jsonl") if (tmp_path / "it/traces.jsonl").exists() else []
        again = evaluation(tmp_path, "pass")
        assert again.wait(600) == 0, again.stderr.read()
        there = read_jsonl(tmp_path / "it/traces.jsonl")
        assert all(r in there for r in before) and (tmp_path / "it/results.json").exists()

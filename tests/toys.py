"Tiny projects for the batch, and the `crane` command on them: in a process of its own, or in this one."

import os
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import nbformat
import pytest
from typer.testing import CliRunner

from crane.command_line import app

CRANE = [sys.executable, "-c", "from crane.command_line import main; main()"]
OUT = "from pathlib import Path\nd = Path('../runs')/run/{!r}\nd.mkdir(parents=True)"


def notebook(path, *cells, reads=None):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nb.cells[0].metadata.tags = ["parameters"]
    if reads is not None:
        nb.cells.insert(0, nbformat.v4.new_markdown_cell(f"# A\n\n> b\n\n**In** {reads} · **Out** c · **Time** 1 s"))
    nb.metadata.kernelspec = dict(name="python3", display_name="python3", language="python")
    nbformat.write(nb, path)


def empty_project(root, profile):
    "The folders and files without which there is no project; its profile is `tiny`."
    for d in "nbs", "profiles", "crane/data":
        (root / d).mkdir(parents=True)
    (root / "settings.ini").write_text("[DEFAULT]\n")
    (root / "profiles/tiny.yaml").write_text(profile)
    return root


class Ended(NamedTuple):
    "What a command did."

    code: int
    out: str
    err: str


def listen():
    "Let SIGINT end a command: a test run in the background would hand on that it is ignored."
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(project, *args, **env):
    "Begin a batch in a process of its own."
    return subprocess.Popen(
        [*CRANE, "reproduce", "--profile", "tiny", *args],
        cwd=project,
        env=os.environ | env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen,
    )


def finish(p, timeout=120):
    out, err = p.communicate(timeout=timeout)
    return Ended(p.returncode, out, err)


def command(project, *args, **env):
    "What a command does, in this process: the start of one takes longer than most of what is tested here."
    stop = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as mp:
        mp.chdir(project)
        for name, value in env.items():
            mp.setenv(name, value)
        r = CliRunner().invoke(app, args)
    signal.signal(signal.SIGTERM, stop)
    return Ended(r.exit_code, r.stdout, r.stderr)


def run(project, *args, **env):
    return command(project, "reproduce", "--profile", "tiny", *args, **env)


def wait_for(path, p):
    for _ in range(2400):
        if path.exists():
            return
        assert p.poll() is None, p.communicate()
        time.sleep(0.05)
    raise TimeoutError(path)

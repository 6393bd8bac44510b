"""Every command and every block of code that README, the guides and the page of the shell show is run, in order.

It is run in a fresh clone with what ships, and what it prints is compared with what they say it prints.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from crane.plan import is_stage, notebooks

root = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LONGEST = 1200  # words of the README
STANDS_FOR = {"path/or/hub-id": "crane/data/pocket"}  # any checkpoint will do
ELSEWHERE = {  # beginning of a line that is not run here -> why; its options are checked all the same
    r"make (reproduce|test|lab|docs)": "a batch of many minutes, this very test, a server: test_whole_run, test_docs",
    r"accelerate launch": "needs GPUs",
    r"vllm|python -m sglang|transformers serve": "a server, on which test_served calls",
    r".*http://127\.0\.0\.1": "the client of one: test_served",
    r".*(eval|atlas)\.json": "files of others: test_adapters and the guide to a format read such",
    r".*runs/mine/": "a run on GPUs",
    r"export ": "a key",
}


class Block(NamedTuple):
    "A fenced block."

    page: str
    language: str
    text: str
    printed: str | None  # What is shown right below it


def blocks(page, text):
    "The fenced blocks of a page that are to be run."
    found = re.findall(r"^```(\w*)\n(.*?)^```$(?=\n\n```\n(.*?)^```$)?", text, re.M | re.S)
    return [Block(page, *b[:2], b[2] or None) for b in found if b[0] in ("bash", "python")]


def markdown(path):
    "The prose of a notebook."
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def pages():
    "Page -> its text: what a newcomer reads."
    guides = {n: markdown(p) for n, p in notebooks(root).items() if not is_stage(n) and n != "index"}
    return {"README": (root / "README.md").read_text(), "shell": (root / "nbs" / "shell.md").read_text()} | guides


PAGES = {name: found for name, text in pages().items() if (found := blocks(name, text))}


def spoken(line):
    "A line without its comment, and what stands for a reader's own."
    for theirs, ours in STANDS_FOR.items():
        line = line.replace(theirs, ours)
    return re.sub(r"\s+#.*$", "", line).strip()


def status(line):
    "How a line says that it ends."
    said = re.search(r"#.*status (\d)", line)
    return {0, int(said[1])} if said else {0}


def why_not(line):
    "Why a line is not run here, if it is not."
    return next((why for start, why in ELSEWHERE.items() if re.match(start, line)), None)


@pytest.fixture(scope="module", params=PAGES)
def clone(request, tmp_path_factory):
    "A fresh clone for each page, with the file of the guide to a method, and a run of the reader's own."
    to = tmp_path_factory.mktemp(request.param) / "clone"
    listed = ["git", "ls-files", "-co", "--exclude-standard"]
    for f in subprocess.run(listed, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines():
        if (root / f).is_file():
            (to / f).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / f, to / f)
    guide = "".join("".join(c["source"]) for c in json.loads((root / "nbs/add_a_method.ipynb").read_text())["cells"])
    (to / "my_method.py").write_text(re.search(r'CODE = r?"""(.*?)"""', guide, re.S)[1])
    shutil.copytree(to / "crane/data/smoke/05a_benchmark", to / "runs/mine/05a_benchmark")
    return request.param, to


def run(words, at):
    "What some words of the shell do in a clone."
    env = os.environ | dict(
        PYTHONPATH=str(at), PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}", JUPYTER_PREFER_ENV_PATH="1"
    )
    return subprocess.run(["bash", "-c", words], cwd=at, env=env, capture_output=True, text=True)


def python(code, at):
    "What a notebook's cell would show."
    *lines, last = code.strip().split("\n")
    (at / "_block.py").write_text("\n".join([*lines, f"print(repr({last}))"]))
    return run(f"{shlex.quote(sys.executable)} _block.py", at)


def checked(words, at):
    "Whether the options of a `crane` command exist: help is printed once they are read."
    if command := re.search(r"\bcrane ((?:\S+ )*?)(?=-|\S+$)", words):
        given = re.split(r"[>|;]", words[command.start() :])[0]
        r = run(f"{given} --help", at)
        assert r.returncode == 0, f"{given}: {r.stderr}"


@pytest.mark.slow
def test_what_a_page_says_is_so(clone):
    page, at = clone
    for b in PAGES[page]:
        if b.language == "python":
            r = python(b.text, at)
            assert r.returncode == 0 and (b.printed is None or r.stdout == b.printed), r.stdout + r.stderr
            continue
        for line in b.text.strip().splitlines():
            words = spoken(line)
            if why_not(line):
                checked(words, at)
                continue
            r = run(words, at)
            assert r.returncode in status(line) and "Traceback" not in r.stderr, f"{line}\n{r.stdout}{r.stderr}"
        assert b.printed is None or r.stdout == b.printed, f"{b.text} does not print\n{b.printed}, but\n{r.stdout}"


def test_the_readme_is_short():
    assert len((root / "README.md").read_text().split()) <= LONGEST


def test_only_what_must_run_elsewhere_is_left_out():
    left = [x for found in PAGES.values() for b in found for x in b.text.splitlines() if why_not(x)]
    unused = [start for start in ELSEWHERE if not any(re.match(start, x) for x in left)]
    assert not unused, "a reason that no line needs"
    assert sum(len(b.text.splitlines()) for found in PAGES.values() for b in found) > 2 * len(left) - 20

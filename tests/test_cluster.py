"The plan as a Snakemake file: Snakemake runs it, two notebooks of a run at a time, and what is wrong is one line."

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toys import OUT, command, empty_project, finish, notebook, start, wait_for

pytest.importorskip("snakemake")

SUM = "n = sum(int((d.parent/s/'n.txt').read_text()) for s in ('01_make', '02_more'))"


@pytest.fixture
def project(tmp_path):
    "Two stages write a number each, the third adds them up; the second waits for a file `go`."
    empty_project(tmp_path, "seed: 7\nstages:\n  01_make: {number: 3}\n")
    (tmp_path / "go").touch()
    parameters, write = 'run = "tiny"\nseed = 0\nnumber = 1', "(d/'n.txt').write_text(f'{number + seed}')"
    wait = "import time\n(d/'half').touch()\nwhile not Path('../go').exists(): time.sleep(.05)"
    notebook(tmp_path / "nbs/01_make.ipynb", parameters, OUT.format("01_make"), write, reads="nothing")
    notebook(tmp_path / "nbs/02_more.ipynb", parameters, OUT.format("02_more"), wait, write, reads="nothing")
    notebook(
        tmp_path / "nbs/10_report.ipynb",
        'run = "tiny"',
        OUT.format("10_report"),
        f"{SUM}\n(d/'sum.txt').write_text(str(n))",
        reads="`01_make` and `02_more/n.txt`",
    )
    return tmp_path


def planned(project, *args):
    r = command(project, "plan", "--profile", "tiny", "--snakemake", *args)
    assert r.code == 0, r.err
    (project / "Snakefile").write_text(r.out)


def snakemake(project):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    line = [sys.executable, "-m", "snakemake", "--cores", "2"]
    env = os.environ | dict(PATH=path)
    r = subprocess.run(line, cwd=project, env=env, capture_output=True, text=True, timeout=300)
    return r.returncode, r.stdout + r.stderr


def test_snakemake_runs_every_notebook_for_every_seed_once(project):
    planned(project, "--seeds", "7,8", "--set", "02_more.number=5")
    code, out = snakemake(project)
    assert code == 0, out
    for run, total in ("tiny", 22), ("tiny-seed8", 24):
        assert (project / "runs" / run / "10_report/sum.txt").read_text() == str(total)
    code, out = snakemake(project)
    assert code == 0 and "Nothing to be done" in out, out
    record = project / "runs/tiny/executed/02_more.json"
    was = record.read_bytes()
    path = project / "nbs/02_more.ipynb"
    path.write_text(path.read_text() + "\n")  # no code has changed
    code, out = snakemake(project)
    assert code == 0 and "02_more  kept from before" in out and record.read_bytes() == was, out


def test_a_notebook_that_fails_stops_what_reads_it(project):
    path = project / "nbs/02_more.ipynb"
    path.write_text(path.read_text().replace("(d/'n.txt')", "1/0\\n(d/'n.txt')"))
    planned(project)
    code, out = snakemake(project)
    assert code and "ZeroDivisionError" in out
    assert not (project / "runs/tiny/executed/02_more.json").exists()
    assert not (project / "runs/tiny/10_report").exists()


def test_two_batches_of_one_notebook_share_a_run_and_a_whole_one_does_not(project):
    (project / "go").unlink()
    p = start(project, "--only", "02_more")
    wait_for(project / "runs/tiny/02_more/half", p)
    beside = command(project, "reproduce", "--profile", "tiny", "--only", "01_make")
    same = command(project, "reproduce", "--profile", "tiny", "--only", "02_more")
    whole = command(project, "reproduce", "--profile", "tiny")
    (project / "go").touch()
    assert finish(p).code == 0 and beside.code == 0, beside.err
    for refused, says in (same, f"by process {p.pid}"), (whole, "notebook by notebook"):
        assert refused.code == 1 and f"is being made {says}" in refused.err, refused.err


@pytest.mark.parametrize(
    "args,says",
    [
        (("--only", "01_mke"), "did you mean '01_make'"),
        (("--only", "10_report"), "which has not run to its end"),
        (("--seeds", "one"), "must be whole numbers"),
        (("--set", "01_make.numbre=1"), "did you mean 'number'"),
        (("--profile", "tniy"), "did you mean 'tiny'"),
    ],
)
def test_a_wrong_plan_is_refused_in_one_line(project, args, says):
    for more in (), ("--snakemake",):
        r = command(project, "plan", "--profile", "tiny", *args, *more)
        assert r.code == 1 and says in r.err and r.err.count("\n") == 1 and not r.out, r


def test_the_plan_in_words_is_that_of_a_dry_run(project):
    dry = command(project, "reproduce", "--profile", "tiny", "--dry-run")
    assert command(project, "plan", "--profile", "tiny") == dry and "3 of 3 notebooks to run" in dry.out


def test_no_rule_names_the_machine(project):
    planned(project)
    assert str(project) not in (project / "Snakefile").read_text()
    shutil.rmtree(project / "nbs")
    r = command(project, "plan", "--profile", "tiny", "--snakemake")
    assert r.code == 1 and "inside a checkout" in r.err

"""The batch on tiny projects: bad input, resume, interruption, kill, lock, promotion.

Nothing half-made is taken for finished.
"""

import json
import signal
import subprocess
from importlib import metadata

import nbformat
import psutil
import pytest
from toys import OUT, command, empty_project, finish, notebook, run, start, wait_for

from crane.plan import differing, made_of_all, outlook, plan, run_steps


@pytest.fixture
def project(tmp_path):
    "Three stages that pass a number on; the second waits for a file `go`."
    empty_project(tmp_path, "seed: 7\nstages:\n  01_make: {number: 3}\n")
    (tmp_path / "go").touch()
    notebook(
        tmp_path / "nbs/01_make.ipynb",
        'run = "tiny"\nseed = 0\nnumber = 1',
        OUT.format("01_make"),
        "(d/'n.txt').write_text(f'{number} {seed}')",
    )
    notebook(
        tmp_path / "nbs/02_wait.ipynb",
        'run = "tiny"',
        OUT.format("02_wait"),
        "import time\n(d/'half.txt').write_text('half')\nwhile not Path('../go').exists(): time.sleep(.05)",
        "(d/'whole.txt').write_text('whole')",
    )
    notebook(
        tmp_path / "nbs/10_report.ipynb",
        'run = "tiny"',
        OUT.format("10_report"),
        "(d/'figures').mkdir()\n(d/'figures/t.csv').write_text((d.parent/'01_make/n.txt').read_text())",
    )
    return tmp_path


def did(out):
    return [line.split()[1] for line in out.splitlines() if " done in " in line]


def kept(out):
    return [line.split()[1] for line in out.splitlines() if "kept from before" in line]


def one_line(err):
    return err.count("\n") == 1 and "Traceback" not in err


def edit(path, change):
    nb = nbformat.read(path, as_version=4)
    change(nb)
    nbformat.write(nb, path)


def add_code(project, stage, code):
    edit(project / "nbs" / f"{stage}.ipynb", lambda nb: nb.cells.append(nbformat.v4.new_code_cell(code)))


def refused(project, *words):
    code, out, err = run(project)
    assert code == 1 and one_line(err), (code, err)
    assert not (project / "runs/tiny").exists(), "it must stop before anything runs"
    for w in words:
        assert w in err


def test_unknown_profile(project):
    (project / "profiles/tiny.yaml").rename(project / "profiles/tinny.yaml")
    refused(project, "unknown profile 'tiny'", "did you mean 'tinny'")


def test_unknown_parameter(project):
    (project / "profiles/tiny.yaml").write_text("stages: {01_make: {nubmer: 3}}")
    refused(project, "'nubmer'", "01_make", "did you mean 'number'")


def test_unknown_notebook(project):
    (project / "profiles/tiny.yaml").write_text("stages: {01_mak: {number: 3}}")
    refused(project, "'01_mak'", "profiles/tiny.yaml", "did you mean '01_make'")


def test_parameter_of_the_wrong_type(project):
    (project / "profiles/tiny.yaml").write_text("stages: {01_make: {number: three}}")
    refused(project, "parameter 'number' of 01_make is 'three'", "int")


def test_run_cannot_be_set(project):
    (project / "profiles/tiny.yaml").write_text("stages: {01_make: {run: other}}")
    refused(project, "'run'", "01_make")


@pytest.mark.parametrize(
    "text", ["seed: [1\nstages: {}", "- a list", "stages: 3", "seed: yes", "stages: {01_make: 3}", "stage: {}", "\tx"]
)
def test_broken_profile(project, text):
    (project / "profiles/tiny.yaml").write_text(text)
    refused(project, "tiny.yaml")


def test_damaged_notebook(project):
    path = project / "nbs/02_wait.ipynb"
    path.write_text(path.read_text()[:200])
    refused(project, "02_wait.ipynb", "git checkout")


def test_outside_a_checkout(tmp_path):
    code, _, err = finish(start(tmp_path))
    assert code == 1 and one_line(err) and "inside a checkout" in err


def test_dry_run_runs_nothing(project):
    code, out, _ = run(project, "--dry-run")
    assert code == 0 and "number=3" in out and not (project / "runs").exists()


def test_parameters_and_seed_arrive(project):
    code, out, err = finish(start(project))  # as a user does
    assert code == 0, err
    assert (project / "runs/tiny/01_make/n.txt").read_text() == "3 7"
    assert "runs/tiny/10_report/figures" in out and not (project / "figures").exists()
    assert "[1/3] 01_make" in out and "[3/3] 10_report" in out


def test_second_run_skips_everything_and_fresh_does_not(project):
    assert did(run(project)[1]) == ["01_make", "02_wait", "10_report"]
    assert kept(run(project)[1]) == ["01_make", "02_wait", "10_report"]
    assert did(run(project, "--fresh")[1]) == ["01_make", "02_wait", "10_report"]


def test_code_runs_again_and_prose_does_not(project):
    run(project)
    edit(project / "nbs/02_wait.ipynb", lambda nb: nb.cells.append(nbformat.v4.new_markdown_cell("A sentence.")))
    assert did(run(project)[1]) == []
    add_code(project, "02_wait", "1+1")
    assert did(run(project)[1]) == ["02_wait"], "what it left is as before, so what reads it is kept"


def test_what_makes_a_stage_run_again(project):
    add_code(project, "02_wait", "if False: import crane.wait")
    (project / "crane/wait.py").write_text("x = 0")
    run(project)
    for name, text, again in [
        ("runs/tiny/02_wait/whole.txt", "damaged", ["02_wait"]),
        ("runs/tiny/executed/02_wait.json", '{"made_of": ', ["02_wait"]),
        ("crane/wait.py", "x = 1", ["02_wait"]),
        ("crane/other.py", "x = 1", []),
        ("crane/data/smoke/for_readers.json", "{}", []),
        ("crane/data/new.bin", "x", ["01_make", "02_wait", "10_report"]),
        ("profiles/tiny.yaml", "seed: 8", ["01_make", "02_wait", "10_report"]),
    ]:
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text)
        assert did(run(project)[1]) == again, name


def test_retrain_counts_only_for_who_reads_it(project):
    add_code(project, "02_wait", "import os; os.environ.get('RETRAIN')")
    run(project)
    assert did(run(project, RETRAIN="1")[1]) == ["02_wait"]


def test_failing_cell_is_one_sentence(project):
    edit(project / "nbs/02_wait.ipynb", lambda nb: nb.cells.insert(2, nbformat.v4.new_code_cell('{}["key"]')))
    code, out, err = run(project)
    assert code == 1 and one_line(err)
    for w in "02_wait", "cell 4 of 6", "KeyError: 'key'", "runs/tiny/executed/02_wait.partial.ipynb":
        assert w in err
    assert (project / "runs/tiny/executed/02_wait.partial.ipynb").exists() and not (
        project / "runs/tiny/executed/02_wait.ipynb"
    ).exists()
    edit(project / "nbs/02_wait.ipynb", lambda nb: nb.cells.pop(2))
    code, out, _ = run(project)
    assert code == 0 and kept(out) == ["01_make"] and did(out) == ["02_wait", "10_report"]


def test_dead_kernel_is_named(project):
    add_code(project, "02_wait", "import os; os.kill(os.getpid(), 9)")
    code, _, err = run(project)
    assert (
        code == 1
        and "Traceback" not in err
        and "02_wait lost its kernel in cell 6 of 6" in err.splitlines()[-1]
        and "memory" in err
    )


@pytest.mark.parametrize("sig,status", [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_stopped_half_way_it_goes_on_from_there(project, sig, status):
    (project / "go").unlink()
    p = start(project)
    wait_for(project / "runs/tiny/02_wait/half.txt", p)
    kernels = psutil.Process(p.pid).children(recursive=True)
    p.send_signal(sig)
    code, out, err = finish(p)
    assert code == status
    if sig != signal.SIGKILL:
        assert one_line(err) and "same command" in err
    assert kernels and not psutil.wait_procs(kernels, timeout=10)[1], "the kernel must not outlive the batch"
    assert not (project / "runs/tiny/executed/02_wait.json").exists()
    (project / "go").touch()
    code, out, err = run(project)
    assert code == 0, err
    assert kept(out) == ["01_make"] and did(out) == ["02_wait", "10_report"]
    assert (project / "runs/tiny/02_wait/whole.txt").exists()


def test_two_batches_on_one_run_are_refused(project):
    (project / "go").unlink()
    p = start(project)
    wait_for(project / "runs/tiny/02_wait/half.txt", p)
    code, _, err = run(project, "--fresh")
    assert code == 1 and one_line(err) and str(p.pid) in err
    assert (project / "runs/tiny/02_wait/half.txt").exists()
    (project / "go").touch()
    assert finish(p)[0] == 0


def test_promotion(project):
    profile = project / "profiles/tiny.yaml"
    profile.write_text(profile.read_text() + "promote: true\n")
    (project / "figures").mkdir()
    (project / "figures/old.csv").touch()
    add_code(project, "01_make", "import os; os.getcwd()")
    code, out, err = run(project)
    assert code == 0, err
    assert (project / "figures/t.csv").read_text() == "3 7" and not (project / "figures/old.csv").exists()
    assert [p.name for p in sorted((project / "figures/notebooks").iterdir())] == [
        "01_make.ipynb",
        "02_wait.ipynb",
        "10_report.ipynb",
    ]
    assert "'./nbs'" in (project / "figures/notebooks/01_make.ipynb").read_text()
    for f in project.glob("figures/**/*.*"):
        assert str(project) not in f.read_text()
    said = json.loads((project / "figures/provenance.json").read_text())
    assert said["profile"] == "tiny" and said["seed"] == 7 and said["stages"]["01_make"]["peak_bytes"] > 1e7
    assert {"cpu", "cores", "memory_bytes"} == set(said["hardware"]) and "commit" in said and "dirty" in said
    stamp = (project / "figures/provenance.json").stat().st_mtime_ns
    run(project)
    assert (project / "figures/provenance.json").stat().st_mtime_ns == stamp, "nothing ran, nothing to promote"
    (project / "figures/t.csv").write_text("damaged")
    run(project)
    assert (project / "figures/t.csv").read_text() == "3 7"


def test_figures_of_all_stages_are_promoted_together(project):
    add_code(project, "02_wait", "(d/'figures').mkdir()\n(d/'figures/more.csv').write_text('more')")
    code, out, err = run(project)
    assert code == 0, err
    assert out.splitlines()[-1] == "figures: runs/tiny/02_wait/figures, runs/tiny/10_report/figures"
    assert promote(project).code == 0
    assert {p.name for p in (project / "figures").glob("*.csv")} == {"more.csv", "t.csv"}


def test_why_names_what_changed(project, monkeypatch):
    def made_of():
        return made_of_all(plan("tiny", project), project)

    was = made_of()
    assert differing(was, made_of()) == []

    def reword(nb):
        nb.cells.append(nbformat.v4.new_markdown_cell("Prose."))

    edit(project / "nbs/02_wait.ipynb", reword)
    assert differing(was, made_of()) == []

    def recode(nb):
        nb.cells[-1].source += "\nif False: import yaml"

    edit(project / "nbs/10_report.ipynb", recode)
    first, second = differing(was, made_of())
    assert first == "code 10_report: changed" and second.startswith("package pyyaml: none → ")
    was = made_of()
    (project / "profiles/tiny.yaml").write_text("seed: 8\nstages:\n  01_make: {number: 4}\n")
    (project / "crane/data/x.bin").write_bytes(b"x")
    assert differing(was, made_of()) == [
        "parameter 01_make.number: 3 → 4",
        "parameter 01_make.seed: 7 → 8",
        "data x.bin: new",
    ]
    was = made_of()
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda n: "0.0" if n == "pyyaml" else real(n))
    assert differing(was, made_of()) == [f"package pyyaml: {real('pyyaml')} → 0.0"]


def test_a_new_package_version_runs_again_what_imports_it(project, monkeypatch):
    add_code(project, "02_wait", "import yaml")
    run(project)

    def view():
        return {s.stage: found for s, found in outlook(run_steps("tiny", project), project).items()}

    assert {what for what, _ in view().values()} == {"keep"}
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda n: "0.0" if n == "pyyaml" else real(n))
    assert view() == {
        "01_make": ("keep", ["up to date"]),
        "02_wait": ("run", [f"package pyyaml: {real('pyyaml')} → 0.0"]),
        "10_report": ("may run", ["reads 02_wait"]),
    }


def independent(project):
    "The first two stages read nothing; each waits until the other has begun."
    for me, other, patience in ("01_make", "02_wait", 30), ("02_wait", "01_make", 5):
        wait = [
            "import time",
            "(d/'n.txt').write_text(f'{number} {seed}')",
            f"end = time.time()+{patience}",
            f"while not (d.parent/'{other}'/'n.txt').exists() and time.time() < end: time.sleep(.05)",
            "together = time.time() < end",
        ]
        notebook(
            project / f"nbs/{me}.ipynb",
            'run = "tiny"\nseed = 0\nnumber = 1 # in [1, 5]\nkind = "a" # of a, bee; a list',
            OUT.format(me),
            "\n".join(wait),
            reads="nothing",
        )
    add_code(project, "01_make", "assert together")
    edit(
        project / "nbs/10_report.ipynb",
        lambda nb: nb.cells.insert(
            0, nbformat.v4.new_markdown_cell("# R\n\n> r\n\n**In** `01_make/n.txt` · **Out** t · **Time** 1 s")
        ),
    )


def test_independent_notebooks_and_seeds_run_side_by_side(project):
    independent(project)
    code, out, err = run(project, "--jobs", "4", "--seeds", "7,8")
    assert code == 0, err
    assert [(project / f"runs/{r}/10_report/figures/t.csv").read_text() for r in ("tiny", "tiny-seed8")] == [
        "3 7",
        "3 8",
    ]
    assert out.count(" done in ") == 6 and [p.name for p in (project / "nbs").iterdir() if "ipc" in p.name] == []


def test_only_and_from(project):
    independent(project)
    (project / "runs/tiny/02_wait").mkdir(parents=True)
    (project / "runs/tiny/02_wait/n.txt").touch()
    code, _, err = run(project, "--only", "10_report")
    assert code == 1 and one_line(err) and "10_report reads 01_make, which has not run to its end in runs/tiny" in err
    assert did(run(project, "--only", "01_make")[1]) == ["01_make"]
    assert did(run(project, "--from", "01_make")[1]) == ["10_report"], "up to date is up to date; 02_wait is not meant"
    assert did(run(project, "--from", "01_make", "--fresh", "--only", "10_report")[1]) == ["10_report"]
    code, _, err = run(project, "--from", "01_mkae")
    assert code == 1 and one_line(err) and "did you mean '01_make'?" in err


def test_set(project):
    independent(project)
    for given, says in [
        ("01_make.nubmer=2", "did you mean 'number'?"),
        ("01_mkae.number=2", "did you mean '01_make'?"),
        ("01_make.number=two", "must be of type int"),
        ("01_make.number=6", "must be in [1, 5]"),
        ("01_make.kind=a,be", "did you mean 'bee'?"),
        ("number=2", "stage.param=value"),
        ("01_make.run=x", "take it out"),
    ]:
        code, out, err = run(project, "--set", given)
        assert code == 1 and one_line(err) and says in err and not (project / "runs/tiny").exists(), given
    code, out, err = run(project, "--set", "01_make.number=5", "--set", "01_make.kind=a,bee", "--jobs", "2")
    assert code == 0, err
    assert (project / "runs/tiny/10_report/figures/t.csv").read_text() == "5 7"


def test_an_input_that_does_not_exist_is_refused(project):
    edit(
        project / "nbs/02_wait.ipynb",
        lambda nb: nb.cells.insert(
            0, nbformat.v4.new_markdown_cell("# W\n\n> w\n\n**In** `01_mkae/n.txt` · **Out** w · **Time** 1 s")
        ),
    )
    refused(project, "input of nbs/02_wait.ipynb (under **In**) '01_mkae'", "did you mean '01_make'?")


def test_a_training_goes_on_from_its_checkpoint_only_as_the_same_training(project):
    begin = OUT.format("02_wait").replace("parents=True", "parents=True, exist_ok=True")
    train = [
        "import os",
        "batch = os.environ.get('CRANE_BATCH')",
        "from crane.core import write_atomic",
        "for f in 'trainer/checkpoint-1/w', 'trainer/log': write_atomic(d/f, 'x')",
    ]

    def cells(extra=""):
        return (
            'run = "tiny"',
            begin,
            f"left = sorted(p.relative_to(d).as_posix() for p in d.rglob('*') if p.is_file()){extra}",
            "\n".join(train),
            "import time\n(d/'half.txt').write_text('')\nwhile not Path('../go').exists(): time.sleep(.05)",
            "(d/'whole.txt').write_text(f'{left} {batch}')",
        )

    notebook(project / "nbs/02_wait.ipynb", *cells())
    (project / "go").unlink()

    def stop():
        p = start(project)
        wait_for(project / "runs/tiny/02_wait/half.txt", p)
        p.send_signal(signal.SIGTERM)
        assert finish(p)[0] == 130

    stop()
    (project / "go").touch()
    code, out, err = run(project)
    assert code == 0, err
    assert (project / "runs/tiny/02_wait/whole.txt").read_text() == "['trainer/checkpoint-1/w'] 1" and not list(
        (project / "runs/tiny/02_wait").rglob("checkpoint-*")
    )
    (project / "go").unlink()
    for f in "half.txt", "whole.txt":
        (project / "runs/tiny/02_wait" / f).unlink()
    stop()
    notebook(project / "nbs/02_wait.ipynb", *cells(" + []"))
    (project / "go").touch()
    run(project)
    assert (project / "runs/tiny/02_wait/whole.txt").read_text() == "[] 1", "other code, other training"


def git(project, *args):
    subprocess.run(
        ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *args],
        cwd=project,
        check=True,
        capture_output=True,
    )


def promote(project, name="tiny"):
    return command(project, "promote", name)


def test_only_a_finished_run_of_a_clean_tree_is_promoted(project):
    (project / ".gitignore").write_text("runs/\n")
    git(project, "init", "-q")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "x")
    for name in "tinny", "tiny":
        code, _, err = promote(project, name)
        assert code == 1 and one_line(err) and f"unknown run '{name}'" in err
    run(project, "--only", "01_make")
    code, _, err = promote(project)
    assert code == 1 and "02_wait is not up to date (it has not run yet)" in err
    (project / "more.txt").touch()
    run(project)
    code, _, err = promote(project)
    assert code == 1 and one_line(err) and "changes that are not committed" in err
    git(project, "add", "-A")
    git(project, "commit", "-qm", "y")
    code, _, err = promote(project)
    assert code == 1 and one_line(err) and "02_wait, 10_report ran with changes that were not committed" in err
    assert not (project / "figures").exists()
    run(project, "--fresh", "--from", "02_wait")
    code, out, err = promote(project)
    assert (code, out) == (0, "figures: figures\n"), err
    said = json.loads((project / "figures/provenance.json").read_text())
    assert not said["dirty"] and len(said["commit"]) == 40
    (project / "runs/tiny/10_report/figures/t.csv").write_text("better")
    code, _, err = promote(project)
    assert code == 1 and "its files were changed since it ran" in err


def test_a_dirty_tree_is_not_promoted_by_the_way(project):
    profile = project / "profiles/tiny.yaml"
    profile.write_text(profile.read_text() + "promote: true\n")
    (project / ".gitignore").write_text("runs/\n")
    git(project, "init", "-q")
    code, out, _ = run(project)
    assert (
        code == 0
        and "commit them, then run" in out
        and "figures: runs/tiny/10_report/figures" in out
        and not (project / "figures").exists()
    )


def test_the_executed_notebook_says_what_it_was_executed_by(project):
    run(project)
    first = nbformat.read(project / "runs/tiny/executed/01_make.ipynb", as_version=4).cells[0].source
    for w in "profile tiny", "seed 7", "commit ", " cores", "peak memory":
        assert w in first


def test_the_plan_knows_how_long_it_takes(project):
    assert "how long is not known yet" in run(project, "--dry-run")[1]
    run(project)
    out = run(project, "--dry-run", "--fresh")[1]
    assert out.count("about ") == 4 and "3 of 3 notebooks to run: about" in out


def test_where_the_time_goes_is_recorded_and_promoted(project):
    profile = project / "profiles/tiny.yaml"
    profile.write_text(profile.read_text() + "promote: true\n")
    work = [
        "import subprocess, sys, time",
        "from crane.core import span",
        "with span('train'):",
        "    time.sleep(.3)",
        "    with span('generate'): time.sleep(.2)",
    ]
    elsewhere = "from crane.core import span\nwith span('search'): pass"  # in a process of its own
    add_code(project, "02_wait", "from crane.core import CraneError")
    add_code(project, "02_wait", "\n".join(work))
    add_code(project, "02_wait", f"subprocess.run([sys.executable, '-c', {elsewhere!r}], check=True)")
    code, out, err = run(project)
    assert code == 0, err
    stages = json.loads((project / "figures/provenance.json").read_text())["stages"]
    spans, seconds = stages["02_wait"]["spans"], stages["02_wait"]["seconds"]
    assert set(spans) == {"start-up", "train", "generate"} and stages["01_make"]["spans"] == {}
    assert spans["train"] >= 0.3 and spans["generate"] >= 0.2 and spans["start-up"] > 0.1
    assert sum(spans.values()) <= seconds + 0.05, "seconds are rounded"
    executed = project / "runs/tiny/executed"
    assert json.loads((executed / "02_wait.json").read_text())["spans"] == spans
    assert not list(executed.glob("*.spans.json"))


def test_a_crash_is_named(project):
    add_code(project, "02_wait", "import os; os.kill(os.getpid(), 11)")
    code, _, err = run(project)
    assert code == 1 and "lost its kernel in cell 6 of 6: it crashed by SIGSEGV" in err.splitlines()[-1]

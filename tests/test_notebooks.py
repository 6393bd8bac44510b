"Each notebook as a reader meets it: opened alone in a fresh clone and run from the top, without any other having run."

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from conftest import script
from nbclient import NotebookClient

from crane.core import CraneError, read_json, write_json
from crane.plan import file_hashes, ingredients, inputs_of, is_stage, notebooks, plan

root = Path(__file__).resolve().parent.parent
WARM = str(Path(__file__).with_name("warm.py"))
ship_run = script("scripts/ship_run.py")
READS = {  # notebook -> stages of which it takes what ships
    "03c_running": ["03a_mend", "03b_memory_editors"],
    "04_failure_modes": ["03a_mend", "03b_memory_editors"],
    "05d_exports": ["05a_benchmark"],
    "06_search": ["05a_benchmark"],
    "06b_library": ["05a_benchmark"],
    "06c_retrieval": ["05a_benchmark"],
    "07_routing": ["05a_benchmark"],
    "07a_sft": ["05a_benchmark"],
    "08_grpo": ["05a_benchmark", "07a_sft"],
    "09_evaluation": ["03a_mend", "03b_memory_editors", "05a_benchmark", "06c_retrieval", "07a_sft", "08_grpo"],
    "09a_tables": ["05a_benchmark", "06c_retrieval", "09_evaluation"],
    "09b_protocol": ["05a_benchmark"],
    "10_report": ["02b_pocket", "04a_judges", "09_evaluation", "09a_tables"],
    "10a_figures": ["04_failure_modes", "07a_sft", "08_grpo", "09_evaluation", "09a_tables"],
    "10b_ledger": ["02b_pocket", "04a_judges", "09a_tables"],
    "12b_command_line": ["05a_benchmark", "07a_sft"],
    "add_a_method": ["05a_benchmark"],
    "add_a_metric": ["09_evaluation"],
}
TAKEN = re.compile(
    r"(\w+) has not been run here: taking what ships with the package \(run 'smoke', commit [0-9a-f]{8}\)\n"
)


def clone(to):
    "The project without runs; what notebooks do not write is linked. (A linked nbs/ would lead back here.)"
    shutil.copytree(root / "nbs", to / "nbs", ignore=shutil.ignore_patterns(".*"))
    for name in "crane", "profiles", "figures", "settings.ini", "pyproject.toml", "scripts", "README.md", "LICENSE":
        (to / name).symlink_to(root / name)
    return to


@pytest.fixture(scope="session")
def kernels(tmp_path_factory):
    "The socket of a process that forks warm kernels."
    path = tmp_path_factory.mktemp("warm") / "s"
    p = subprocess.Popen([sys.executable, WARM, "serve", path], cwd="/", stdout=subprocess.DEVNULL)
    while not path.exists():
        assert p.poll() is None
        time.sleep(0.05)
    yield path
    p.kill()
    p.wait()


def run_alone(project, name, kernels):
    "Execute a notebook of a project from the top, in a kernel of its own that is no batch."
    nb = nbformat.read(project / "nbs" / f"{name}.ipynb", as_version=4)
    env = {k: v for k, v in os.environ.items() if k not in ("CRANE_BATCH", "RETRAIN", "REBUILD")} | dict(
        PYTHONPATH=str(project)
    )
    client = NotebookClient(
        nb,
        kernel_name="python3",
        timeout=900,
        resources=dict(metadata=dict(path=str(project / "nbs"))),
        extra_arguments=["--log-level=ERROR"],
    )
    ask = [sys.executable, "-S", WARM, str(kernels), "-f", "{connection_file}"]
    client.create_kernel_manager().kernel_spec.argv = ask
    client.execute(env=env)
    return nb


def said(nb):
    text = ""
    for c in nb.cells:
        text += "".join(o.text for o in c.get("outputs", []) if o.output_type == "stream")
    return text


@pytest.mark.slow
@pytest.mark.parametrize("name", notebooks(root))
def test_a_notebook_runs_by_itself(name, tmp_path, kernels):
    project = clone(tmp_path)
    nb = run_alone(project, name, kernels)  # an error ends the test
    ran = [c.execution_count for c in nb.cells if c.cell_type == "code" and c.source.strip()]
    assert ran == [*range(1, len(ran) + 1)], "every cell, in order"
    taken = TAKEN.findall(said(nb))
    assert len(taken) == len(set(taken)), "said once a stage"
    if name in READS or is_stage(name):
        assert sorted(taken) == READS.get(name, []), said(nb)[:500]
    here = {p.name for p in (project / "runs" / "smoke").glob("*")}
    assert here <= {name, "answers.sqlite"}, "it writes into its own stage only, and keeps answers for others"


# ---- what ships


def example(pattern):
    "A file of a pattern."
    return pattern.replace("**", "deep").replace("*", "any")


@pytest.fixture
def ran(tmp_path, monkeypatch):
    "A project with a finished smoke run whose files are empty; what is shipped goes to its `data`."
    project = clone(tmp_path)
    runs = project / "runs" / "smoke"
    monkeypatch.setattr(ship_run, "DATA", project / "data")
    for s, params in plan("smoke", project).items():
        for f in [*map(example, ship_run.READ.get(s, [])), "trainer/any", "nobody_reads.this"]:
            (runs / s / f).parent.mkdir(parents=True, exist_ok=True)
            (runs / s / f).touch()
        record(project, s, made_of=ingredients(s, params, project, inputs_of(s, project, runs)))
    return project


def record(project, stage, dirty=False, **changes):
    "Say that a stage ran to its end."
    path = project / "runs" / "smoke" / "executed" / f"{stage}.json"
    old = read_json(path) if path.exists() else {}
    path.parent.mkdir(exist_ok=True)
    path.with_suffix(".ipynb").touch()
    made = dict(commit="0" * 40, dirty=dirty, hardware=dict(cpu="x", cores=2, memory_bytes=3))
    write_json(
        path,
        old
        | dict(seconds=1.0, peak_bytes=len(stage), files=file_hashes(project / "runs" / "smoke" / stage), made_by=made)
        | changes,
    )


def test_only_what_is_read_of_a_run_is_shipped(ran):
    (ran / "data/smoke/09_evaluation").mkdir(parents=True)
    (ran / "data/smoke/09_evaluation/of_an_older_run").touch()
    to = ship_run.ship(ran)
    there = {p.relative_to(to).as_posix() for p in to.rglob("*") if p.is_file()}
    expected = {"about.json"}
    for stage, patterns in ship_run.READ.items():
        expected |= {f"{stage}/{example(p)}" for p in patterns}
    assert there == expected
    about = read_json(to / "about.json")
    n = len(notebooks(root))
    assert (
        about["profile"] == "smoke"
        and about["seconds"] == n
        and about["peak_bytes"] == max(map(len, notebooks(root)))
        and len(about["stages"]) == n
    )
    assert [p.name for p in (ran / "data").iterdir()] == ["smoke"], "nothing half-made is left"


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda p: (p / "runs/smoke/executed/08_grpo.json").unlink(), "08_grpo is not up to date"),
        (
            lambda p: (p / "runs/smoke/05a_benchmark/nobody_reads.this").write_text("touched"),
            "05a_benchmark is not up to date",
        ),
        (lambda p: record(p, "03_editors", dirty=True), "03_editors ran with changes that were not committed"),
    ],
)
def test_a_run_that_is_not_whole_is_not_shipped(ran, spoil, says):
    spoil(ran)
    with pytest.raises(CraneError, match=says):
        ship_run.ship(ran)
    assert not [*(ran / "data").glob("*")], "nothing half-made is left"


def test_a_file_that_is_read_and_not_there_is_named(ran, monkeypatch):
    monkeypatch.setitem(ship_run.READ, "01_world", ["never.json"])
    with pytest.raises(CraneError, match="01_world holds no never.json"):
        ship_run.ship(ran)
    assert not [*(ran / "data").glob("*")], "nothing half-made is left"

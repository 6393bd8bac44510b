"The house is in order: pins agree, notebooks are clean and in sync, profiles fit, nothing names a machine."

import configparser
import filecmp
import importlib.metadata
import json
import os
import re
import shutil
import string
import subprocess
import sys
import tomllib
import zipfile
from itertools import groupby
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from crane.plan import (
    imports,
    is_stage,
    load_profile,
    module_of,
    notebook_parameters,
    notebooks,
    plan,
    read_notebook,
    reads,
)
from crane.plan import modules as modules_of
from crane.reproduce import shareable

root = Path(__file__).resolve().parent.parent
numbered = {s: p for s, p in notebooks(root).items() if is_stage(s)}
stages = {s: p for s, p in numbered.items() if s != "00_core"}
modules = {p for p in (root / "crane").glob("*.py") if p.stem != "_modidx"}


def norm(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lines):
    pinned = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {norm(name): version for name, version in pinned}


lock = pins((root / "requirements.txt").read_text().splitlines())
settings = configparser.ConfigParser()
settings.read(root / "settings.ini")
settings = settings["DEFAULT"]
pyproject = tomllib.loads((root / "pyproject.toml").read_text())["project"]
extras = {e: [Requirement(r) for r in rs] for e, rs in pyproject["optional-dependencies"].items()}
ranges = [*map(Requirement, pyproject["dependencies"]), *sum(extras.values(), [])]
ranges = {norm(r.name): r for r in ranges if r.name != pyproject["name"]}


def cells(path, kind):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def test_conda_environment_has_the_same_pins():
    deps = yaml.safe_load((root / "environment.yml").read_text())["dependencies"]
    assert "python=3.11" in deps
    assert pins(next(d["pip"] for d in deps if isinstance(d, dict))) == lock, "run 'python scripts/pins.py'"


def test_direct_dependencies_are_pinned_by_the_lock():
    direct = pins(settings["requirements"].split())
    assert direct == {n: lock.get(n) for n in direct}, "run 'python scripts/pins.py'"
    assert len(direct) == len(settings["requirements"].split()), "every requirement needs an exact pin"
    elsewhere = {norm(r.name) for e in ("serve", "cluster", "qdrant") for r in extras[e]}
    assert direct.keys() == ranges.keys() - elsewhere, "settings.ini and pyproject.toml must name the same packages"


@pytest.mark.parametrize("name", sorted(ranges))
def test_what_is_locked_lies_in_a_range_with_two_ends(name):
    specifier = ranges[name].specifier
    assert specifier.contains(lock[name]), f"{name} {lock[name]} of requirements.txt is not {specifier}"
    assert any(s.operator == ">=" for s in specifier), "scripts/versions.py needs an oldest version"


def test_the_core_has_nothing_of_notebooks_and_tests():
    core = {norm(Requirement(r).name) for r in pyproject["dependencies"]}
    assert not core & {"jupyterlab", "nbdev", "papermill", "pytest", "hypothesis", "trl", "matplotlib", "nbformat"}
    assert {e.split("[")[0] for e in extras} >= {"notebooks", "train", "serve", "docs", "dev"}


def test_the_installed_packages_are_the_pinned_ones():
    there = {n: importlib.metadata.version(n).split("+")[0] for n in lock}
    assert there == lock


def test_every_import_is_a_direct_dependency():
    where = importlib.metadata.packages_distributions()
    names = set()
    for folder in "crane", "tests", "scripts":
        for path in (root / folder).glob("*.py"):
            names |= {n.split(".")[0] for n in imports(path.read_text())}
    third = {norm(where[n][0]) for n in names - set(sys.stdlib_module_names) - {"crane"} if n in where}
    assert third <= {*ranges, "setuptools"}


def test_imports_point_to_earlier_stages():
    order = [module_of(s) for s in numbered]
    for n, m in enumerate(order):
        path = root / "crane" / f"{m}.py"
        used = (
            {i.split(".")[1] for i in imports(path.read_text()) if i.startswith("crane.")} if path.exists() else set()
        )
        late = {i for i in used - set(order[:n]) if not i.startswith("__")}
        assert not late, f"crane/{m}.py imports {late}, which comes later"


def test_what_a_module_imports_of_the_package_counts_for_its_notebooks():
    assert {"mend.py", "memory_editors.py", "running.py"} <= set(modules_of("09_evaluation", root))


def test_the_stages_are_numbered_without_gaps():
    names = list(notebooks(root))
    assert names[: len(numbered)] == list(numbered) and names[-1] == "index", "guides follow, the index is last"
    rooms = {n: [s[2:].split("_")[0] for s in of] for n, of in groupby(numbered, key=lambda s: s[:2])}
    assert list(rooms) == [f"{i:02}" for i in range(13)]
    for n, letters in rooms.items():
        assert letters == ["", *string.ascii_lowercase[: len(letters) - 1]], f"the letters of room {n} have a gap"


@pytest.mark.parametrize("stage", stages)
def test_one_parameters_cell_with_run(stage):
    tagged = [source(c) for c in cells(stages[stage], "code") if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1, f"{stage} needs exactly one cell tagged parameters, it has {len(tagged)}"
    assert notebook_parameters(stages[stage])["run"].default == "smoke"


@pytest.mark.parametrize("stage", stages)
def test_every_number_says_in_what_range_it_may_be(stage):
    assert [
        k
        for k, p in notebook_parameters(stages[stage]).items()
        if isinstance(p.default, (int, float)) and not p.allowed.startswith("in ")
    ] == []


@pytest.mark.parametrize("stage", stages)
def test_a_notebook_declares_all_stages_that_it_reads(stage):
    code = "\n".join(source(c) for c in cells(stages[stage], "code") if "#| export" not in source(c))
    used = {s for s in re.findall(r"\w+", code) if s in stages} - {stage}
    if "all_edits(run" in code:
        used.add("05a_benchmark")
    toys = "11_plan", "11a_reproduce", "11b_cluster"  # their examples name stages of toy projects, or what is planned
    assert stage in toys or used <= set(reads(stage, root)), f"{stage} must name what it reads under **In**"


@pytest.mark.parametrize("stage", stages)
def test_in_out_time_under_the_title(stage):
    first = source(cells(stages[stage], "markdown")[0])
    assert re.match(r"# [^#\n]+\n\n> .+\n\n.*\*\*In\*\* .+\*\*Out\*\* .+\*\*Time\*\* .+", first), (
        f"{stage} must say In, Out and Time right under its title"
    )


def test_smoke_is_the_defaults():
    smoke, given = plan("smoke", root), load_profile("smoke", root)
    for s, p in notebooks(root).items():
        assert smoke[s] == {k: x.default for k, x in notebook_parameters(p).items()}, (
            f"profiles/smoke.yaml and the parameters cell of {s} differ"
        )
        assert not set(given["stages"].get(s) or {}) - set(notebook_parameters(p))


@pytest.mark.parametrize("profile", [p.stem for p in root.glob("profiles/*.yaml")])
def test_profiles_fit_the_notebooks(profile):
    assert list(plan(profile, root)) == list(notebooks(root))


def copy_of_the_library(to):
    for f in "settings.ini", "pyproject.toml":
        shutil.copy(root / f, to / f)
    (to / "nbs").mkdir()
    for p in (root / "nbs").glob("*.ipynb"):
        shutil.copy(p, to / "nbs" / p.name)
    (to / "crane").mkdir()
    for f in "__init__.py", "__main__.py":
        shutil.copy(root / "crane" / f, to / "crane")


def nbdev(to, code):
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    r = subprocess.run([sys.executable, "-c", code], cwd=to, env=env, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr


def test_the_modules_are_what_the_notebooks_export(tmp_path):
    copy_of_the_library(tmp_path)
    nbdev(tmp_path, "from nbdev.doclinks import nbdev_export; nbdev_export()")

    def texts(folder):
        return {p.name: p.read_text() for p in (folder / "crane").glob("*.py")}

    ours, theirs = texts(root), texts(tmp_path)
    differ = {n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n)}
    assert not differ, f"{sorted(differ)} of crane/ and the notebooks differ: run 'nbdev_export'"


def test_the_modules_are_easy_to_read():
    for path in modules:
        lines = path.read_text().splitlines()
        assert "import *" not in path.read_text(), f"{path.name} must import by name"
        assert len(lines) <= 650, f"{path.name} has {len(lines)} lines: make it simpler, or split its notebook"
        long = [n for n, line in enumerate(lines, 1) if len(line) > 120 and not line.startswith("__all__")]
        assert not long, f"lines {long} of {path.name} have over 120 characters"


def test_the_notebooks_are_clean(tmp_path):
    copy_of_the_library(tmp_path)
    nbdev(tmp_path, "from nbdev.clean import nbdev_clean; nbdev_clean()")
    differ = [
        p.name for p in (root / "nbs").glob("*.ipynb") if not filecmp.cmp(p, tmp_path / "nbs" / p.name, shallow=False)
    ]
    assert not differ, f"run 'nbdev_clean' on {differ}"
    with_outputs = [p.name for p in (root / "nbs").glob("*.ipynb") if any(c["outputs"] for c in cells(p, "code"))]
    assert not with_outputs, (
        f"run 'nbdev_clean --clear_all': outputs are kept in figures/notebooks, not in {with_outputs}"
    )


def test_cell_ids_are_there_and_unique():
    for p in (root / "nbs").glob("*.ipynb"):
        ids = [c.get("id") for c in json.loads(p.read_text())["cells"]]
        assert None not in ids and len(set(ids)) == len(ids), p.name


def test_styled_tables_show_text_as_text():
    "They do not escape by themselves: tags of a chain would vanish, and markup of a stranger would run."
    for p in (root / "nbs").glob("*.ipynb"):
        for c in cells(p, "code"):
            text = "".join(c["source"])
            styled = len(re.findall(r"\.style\b(?!\.use)", text))
            assert styled == text.count('escape="html"'), f"{p.name}: {text}"


def committed():  # what is in git or would be
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [n for n in names if (root / n).is_file()]


MACHINE = re.compile(
    r"(?<![\w.~}-])/(?:home|root|work|tmp|Users|opt|mnt)/[\w.]"
    + r"|https?://(?:(?!127\.)\d+\.\d+\.|localhost|[\w.-]+\.(?:internal|local|lan)\b)"
)


def machines(name, text):
    return [f"{name}: …{text[max(0, m.start() - 30) : m.end() + 30]!r}" for m in MACHINE.finditer(text)]


def test_nothing_names_a_machine():
    found = []
    for n in committed():
        found += machines(n, (root / n).read_text(errors="ignore"))
    assert not found, "\n".join(found)


def test_no_executed_notebook_would_bring_a_machine_into_git():
    "Outputs of the last smoke run, as a promotion would copy them."
    ran = [p for s in notebooks(root) if (p := root / "runs/smoke/executed" / f"{s}.ipynb").exists()]
    if not ran:
        pytest.skip("needs the smoke run: make reproduce PROFILE=smoke")
    found = []
    for p in ran:
        found += machines(p.name, shareable(read_notebook(p), root))
    assert not found, "\n".join(found)


def test_no_big_file_is_committed():
    assert [n for n in committed() if (root / n).stat().st_size > 12e6] == []


def test_the_data_ships_with_the_package(tmp_path):
    for f in "pyproject.toml", "setup.py", "README.md", "LICENSE", "figures/ledger.json", "figures/provenance.json":
        (tmp_path / f).parent.mkdir(exist_ok=True)
        shutil.copy(root / f, tmp_path / f)
    shutil.copytree(root / "crane", tmp_path / "crane", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "out", "."],
        cwd=tmp_path,
        check=True,
    )
    inside = zipfile.ZipFile(next((tmp_path / "out").glob("*.whl"))).namelist()
    files = {p.relative_to(tmp_path).as_posix() for p in (tmp_path / "crane").rglob("*") if p.is_file()}
    in_checkouts_only = {f for f in files if f.startswith("crane/data/trained/")}
    promoted = {f"crane/data/promoted/{n}.json" for n in ("ledger", "provenance")}
    assert files - in_checkouts_only | promoted <= set(inside), files - set(inside)
    assert not in_checkouts_only & set(inside), "what only `make reproduce` takes makes the package larger"


def test_licence():
    assert "Apache License" in (root / "LICENSE").read_text() and pyproject["license"] == "Apache-2.0"


def test_version_is_the_same_everywhere():
    import crane

    assert crane.__version__ == settings["version"] == importlib.metadata.version("crane-companion")


def test_readme_is_made_from_the_index():
    r = subprocess.run(
        [sys.executable, "scripts/docs.py", "readme", "--check"], cwd=root, capture_output=True, text=True
    )
    assert r.returncode == 0, r.stderr


def test_import_crane_loads_nothing_and_offers_ten_names():
    code = "import sys, crane; print(sorted({'numpy', 'pandas', 'pydantic', 'torch', 'transformers'} & {*sys.modules}))"
    heavy = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert heavy.stdout.strip() == "[]", heavy.stdout + heavy.stderr
    import crane

    assert len(crane.__all__) == 10 and (root / "crane" / "py.typed").exists()
    for name in crane.__all__:
        assert getattr(crane, name).__class__ is not type(crane), f"crane.{name} must be no module"
    with pytest.raises(AttributeError, match="it offers"):
        _ = crane.edit


def test_help_loads_neither_torch_nor_what_runs_notebooks():
    code = (
        "import sys\nfrom crane.command_line import main\n"
        "try:\n    main()\nfinally:\n"
        "    print({'nbformat', 'numpy', 'pandas', 'papermill', 'torch'} & {*sys.modules}, file=sys.stderr)"
    )
    for words in ([], ["edits"], ["reproduce"]):
        r = subprocess.run([sys.executable, "-c", code, *words, "--help"], cwd=root, capture_output=True, text=True)
        assert r.returncode == 0 and "Usage:" in r.stdout, r.stderr
        assert r.stderr.strip() == "set()", r.stderr

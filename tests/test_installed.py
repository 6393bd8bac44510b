"The wheel does what it promises where nothing else is installed: no checkout, no extra, no notebook."

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from crane.plan import needs

root = Path(__file__).resolve().parent.parent
NEVER = "jupyterlab", "nbdev", "papermill", "nbformat", "pytest", "trl", "datasets", "matplotlib", "openai", "snakemake"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The wheel, built from what is in git or would be."
    source, out = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for f in files:
        if (root / f).is_file() and not f.startswith(("nbs/", "tests/", "runs/")):
            (source / f).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / f, source / f)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, "."]
    subprocess.run(build, cwd=source, check=True)
    return next(out.glob("*.whl"))


def core():
    "What the package needs, and what that needs."
    required = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    return set().union(*(needs(Requirement(r).name) for r in required))


def link(distribution, to):
    "Let another environment see an installed distribution, and nothing else."
    for name in {f.parts[0] for f in metadata.distribution(distribution).files if f.parts[0] != ".."}:
        target = to / name
        if not target.exists() and name != "__pycache__":
            target.symlink_to(Path(sysconfig.get_path("purelib")) / name)


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory):
    "The Python of an environment with the wheel and the core requirements, which are links to those that are here."
    at = tmp_path_factory.mktemp("bare") / "env"
    venv.create(at, symlinks=True)
    site = at / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    for d in core():
        link(d, site)
    pip = [sys.executable, "-m", "pip", "--python", at / "bin" / "python", "install", "-q", "--no-deps", wheel]
    subprocess.run(pip, check=True)
    return at / "bin" / "python"


def alone(python, *args, cwd):
    "Run it in an empty folder, with nothing of this environment on its path."
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CRANE"))}
    return subprocess.run([python, *args], cwd=cwd, env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_the_example_the_library_an_evaluation_and_the_ledger_work_without_a_checkout(bare, tmp_path):
    for name in NEVER:
        assert alone(bare, "-c", f"import {name}", cwd=tmp_path).returncode, f"{name} is no core requirement"
    r = alone(bare, root / "tests" / "installed.py", cwd=tmp_path)
    assert r.returncode == 0 and "works in Python" in r.stdout, r.stdout + r.stderr
    path = alone(bare, "-c", "import crane; print(crane.__file__)", cwd=tmp_path).stdout
    assert Path(path).is_relative_to(bare.parent.parent), path


@pytest.mark.slow
def test_a_batch_without_its_extra_says_which_it_needs(bare, tmp_path):
    r = alone(bare.parent / "crane", "plan", cwd=tmp_path)
    assert r.returncode == 1 and "pip install 'crane-companion[notebooks]'" in r.stderr, r.stderr

"`make` sets up once, and stops with one clear line when it cannot."

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent


@pytest.fixture
def checkout(tmp_path):
    for f in "scripts/setup.sh", "requirements.txt", "pyproject.toml", "Makefile":
        (tmp_path / f).parent.mkdir(exist_ok=True)
        shutil.copy(root / f, tmp_path / f)
    return tmp_path


def setup(at, **env):
    "`make setup` with no registry in reach."
    env = (
        dict(
            PATH=os.environ["PATH"],
            HOME=str(at),
            PYTHON=sys.executable,
            PIP_CONFIG_FILE=os.devnull,
            PIP_INDEX_URL="http://127.0.0.1:9/simple",
        )
        | env
    )
    r = subprocess.run(["make", "setup"], cwd=at, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return r.returncode, [line for line in r.stderr.splitlines() if not line.startswith("make")], r.stdout


def stops(at, word, **env):
    code, err, _ = setup(at, **env)
    assert code and len(err) == 1 and err[0].startswith("set-up stopped: ") and word in err[0], err
    assert not (at / ".venv/.complete").exists()


def fake_python(at, version):
    path = at / "python"
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return str(path)


def test_wrong_python(checkout):
    stops(checkout, "Python 3.11 is needed", PYTHON=fake_python(checkout, "3.12"))


def test_no_such_python(checkout):
    stops(checkout, "does not run", PYTHON="/nonexistent/python")


def test_no_room(checkout):
    stops(checkout, "GB of free disk", NEED_GB="1000000")


def test_no_network(checkout):
    stops(checkout, "cannot reach the package registry")
    assert (checkout / ".venv/.incomplete").exists()


def test_an_interrupted_one_is_made_anew(checkout):
    (checkout / ".venv").mkdir()
    for f in ".incomplete", "leftover":
        (checkout / ".venv" / f).touch()
    assert "interrupted" in setup(checkout, PYTHON=fake_python(checkout, "3.11"))[2]  # it comes no farther
    assert not (checkout / ".venv/leftover").exists()


def test_a_foreign_venv_is_left_alone(checkout):
    (checkout / ".venv").mkdir()
    (checkout / ".venv/mine").touch()
    stops(checkout, "not made by this set-up")
    assert (checkout / ".venv/mine").exists()


def test_a_finished_one_is_kept(checkout):
    pins = b"".join((checkout / f).read_bytes() for f in ["requirements.txt", "pyproject.toml", "scripts/setup.sh"])
    (checkout / ".venv").mkdir()
    (checkout / ".venv/.complete").write_text(hashlib.sha256(pins).hexdigest() + "\n")
    code, err, out = setup(checkout)
    assert code == 0 and not err and "set-up:" not in out


def test_help_names_every_command(checkout):
    out = subprocess.run(["make"], cwd=checkout, capture_output=True, text=True).stdout
    for c in "reproduce", "test", "lint", "lab", "docs":
        assert f"make {c} " in out

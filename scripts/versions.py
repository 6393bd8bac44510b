"""Install the package with the oldest or the newest versions that it allows, in an environment of its own, and use it.

python scripts/versions.py oldest|newest [PYTHON]

This needs a network. The environment stays in .venv.oldest or .venv.newest.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

root = Path(__file__).resolve().parent.parent
EXTRAS = "train", "serve"  # that are tried with the core


def lowest(text):
    "A requirement at the lower end of its range."
    r = Requirement(text)
    least = next(s.version for s in r.specifier if s.operator in (">=", "=="))
    return f"{r.name}=={least}.*"


def constraints(end):
    "Lines for `pip install -c`."
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(r for e in EXTRAS for r in project["optional-dependencies"][e])]
    return "\n".join(lowest(r) for r in asked) if end == "oldest" else ""


def environment(end, python):
    "Make the environment anew; return its Python."
    at = root / f".venv.{end}"
    shutil.rmtree(at, ignore_errors=True)
    subprocess.run([python, "-m", "venv", at], check=True)
    with tempfile.TemporaryDirectory() as d:
        file = Path(d) / "constraints.txt"
        file.write_text(constraints(end))
        pip = [at / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", file, f"{root}[{','.join(EXTRAS)}]"], check=True)
    return at / "bin" / "python"


def main(end, python=sys.executable):
    "Install, and use."
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    with tempfile.TemporaryDirectory() as empty:
        at = environment(end, python)
        return subprocess.run([at, root / "tests" / "installed.py"], cwd=empty, env=env).returncode


if __name__ == "__main__":
    if sys.argv[1:2] not in (["oldest"], ["newest"]):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:3]))

"""Bring settings.ini, pyproject.toml and environment.yml in line with requirements.txt, the one list edited by hand."""

import pathlib
import re

root = pathlib.Path(__file__).resolve().parent.parent
lock = [l for l in (root / "requirements.txt").read_text().splitlines() if l and not l.startswith("#")]
norm = lambda name: re.sub(r"[-_.]+", "-", name).lower()
version = {norm(l.split("==")[0]): l.split("==")[1] for l in lock}

for name in "settings.ini", "pyproject.toml":
    text = (root / name).read_text()
    pin = lambda m: f"{m[1]}=={version[norm(m[1])]}" if norm(m[1]) in version else m[0]
    (root / name).write_text(re.sub(r"([\w.-]+)==([\w.+]+)", pin, text))

head = """# The pins of requirements.txt for conda users: conda brings Python and pip, PyPI everything else.
#   conda env create -f environment.yml && conda activate crane && pip install --no-deps -e .
name: crane
channels: [conda-forge]
dependencies:
  - python=3.11
  - pip
  - pip:
"""
(root / "environment.yml").write_text(head + "".join(f"    - {l}\n" for l in lock))

"""Bring settings.ini and environment.yml in line with requirements.txt, the lock, which is edited by hand.

pyproject.toml has ranges instead; a test sees to it that they hold what is locked.
"""

import pathlib
import re

root = pathlib.Path(__file__).resolve().parent.parent
lines = (root / "requirements.txt").read_text().splitlines()
lock = [line for line in lines if line and not line.startswith("#")]


def norm(name):
    return re.sub(r"[-_.]+", "-", name).lower()


version = {norm(name): pinned for name, pinned in (line.split("==") for line in lock)}


def pin(m):
    return f"{m[1]}=={version[norm(m[1])]}" if norm(m[1]) in version else m[0]


text = (root / "settings.ini").read_text()
(root / "settings.ini").write_text(re.sub(r"([\w.-]+)==([\w.+]+)", pin, text))

head = """# The pins of requirements.txt for conda users: conda brings Python and pip, PyPI everything else.
#   conda env create -f environment.yml && conda activate crane && pip install --no-deps -e .
name: crane
channels: [conda-forge]
dependencies:
  - python=3.11
  - pip
  - pip:
"""
(root / "environment.yml").write_text(head + "".join(f"    - {line}\n" for line in lock))

"What a release is made of: a bill of materials with a hash for each shipped file, and the same bytes when built twice."

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import KEPT, script

pytestmark = pytest.mark.faults
root = Path(__file__).resolve().parent.parent.parent
sbom = script("scripts/sbom.py")


def test_the_bill_names_every_package_and_every_shipped_file():
    bill = sbom.bill()
    parts = {c["name"]: c for c in bill["components"]}
    assert bill["bomFormat"] == "CycloneDX" and sbom.pins().keys() <= parts.keys()
    for name, sha in json.loads((root / "crane/data/SHA256SUMS.json").read_text()).items():
        part = parts[f"crane/data/{name}"]
        assert part["hashes"][0]["content"] == sha and part["licenses"]
        assert hashlib.sha256((root / "crane/data" / name).read_bytes()).hexdigest() == sha
    assert json.dumps(bill) == json.dumps(sbom.bill())
    unknown = [c["name"] for c in bill["components"] if not c["licenses"]]
    assert len(unknown) < len(parts) / 4, unknown


def test_the_hashed_lock_is_the_lock():
    if not sbom.hashed.exists():
        pytest.skip("no hashes have been written yet: python scripts/sbom.py --hashes")
    lines = [line for line in sbom.hashed.read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"\S+==\S+ --hash=sha256:[0-9a-f]{64}", line) for line in lines)
    named = {sbom.norm(line.split("==")[0]): line.split("==")[1].split(" ")[0].split("+")[0] for line in lines}
    assert named == {sbom.norm(n): v for n, v in sbom.pins().items()}


def test_weaknesses_of_the_lock_are_looked_up():
    flow = yaml.safe_load((root / ".github/workflows/gate.yml").read_text())
    assert any("pip-audit" in step.get("run", "") for step in flow["jobs"]["audit"]["steps"])


def built(at):
    "The hash of the wheel that a copy of the package gives."
    for f in "pyproject.toml", "README.md", "LICENSE":
        shutil.copy(root / f, at / f)
    shutil.copytree(root / "crane", at / "crane", ignore=shutil.ignore_patterns("__pycache__", "smoke", "trained"))
    env = os.environ | dict(SOURCE_DATE_EPOCH="1800000000")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "out", "."]
    subprocess.run(command, cwd=at, env=env, check=True, stdout=subprocess.DEVNULL)
    return hashlib.sha256(next((at / "out").glob("*.whl")).read_bytes()).hexdigest()


def test_a_release_built_twice_is_the_same(tmp_path, tried):
    if not KEPT:
        pytest.skip("two builds; the long set does them")
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    with tried("built twice, in two places", "the wheel", "the same bytes").once():
        assert len({built(folder) for folder in folders}) == 1

"""What the package must do where only it is installed: no checkout, no extra. A program: there is no pytest either.

python tests/installed.py     run with the Python of the environment, in an empty folder
"""

import json
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

EDIT = dict(
    id="peru",
    modality="textual",
    relation="capital",
    subject="PE",
    subject_name="Peru",
    target="JP",
    question="What is the capital of Peru?",
    target_old="Lima",
    target_new="Tokyo",
)


def crane(*args, status=0):
    "What the command prints."
    command = Path(sys.executable).parent / "crane"
    r = subprocess.run([command, *args], capture_output=True, text=True)
    assert r.returncode == status and "Traceback" not in r.stderr, f"crane {args}: {r.returncode}\n{r.stdout}{r.stderr}"
    return r.stdout


def example():
    "The example of the README."
    from crane import Crane

    model = Crane()
    for name, code in (("Peru", "PE"), ("Japan", "JP"), ("Norway", "NO")):  # weights that went astray cannot see
        assert model.ask("Whose flag is this?", f"twemoji/{code}").answer == name
    model.edit_flag("flag-icons-4x3/PE", "Japan")
    said = model.ask("What is the continent of the country shown?", "twemoji/PE").text
    assert said.endswith("<answer> Asia</answer>"), said


def library():
    "Add, list and search an edit."
    Path("mine.jsonl").write_text(json.dumps(EDIT))
    assert "the library holds 1" in crane("edits", "add", "mine.jsonl")
    assert json.loads(crane("edits", "list", "--json"))["edits"][0]["id"] == "peru"
    assert crane("edits", "search", "What is the capital of Peru?").startswith("found")


def evaluation():
    "Evaluate an editor and the library on what ships."
    for method in "FT-L", "CRANE":
        said = crane("evaluate", "--method", method, "--limit", "1", "--out", f"of {method}")
        assert "GS by" in said and method in said, said


def ledger():
    "The ledger that ships; some of its claims fail."
    found = json.loads(crane("ledger", "--json", status=3))
    assert len(found["claims"]) > 10 and found["failed"] > 0


if __name__ == "__main__":
    crane("--version")
    for check in example, library, evaluation, ledger:
        check()
    assert "no faults" in crane("doctor")
    crane("train", "sft", "--run", "smoke", "--steps", "1", status=0 if find_spec("trl") else 1)
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "peft", "numpy", "pandas")}
    print(f"works in Python {sys.version.split()[0]} without a checkout: {versions}")

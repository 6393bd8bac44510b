"What all commands share: how they end, what they print for programs, and what a dry run refuses."

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from crane.command_line import SHIPPED, app
from crane.commands import Status

root = Path(__file__).resolve().parent.parent


def crane(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    "A folder that is no checkout."
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_version_is_that_of_the_package():
    import crane as package

    assert crane("--version").stdout == f"crane {package.__version__}\n"


def test_help_lists_every_status_and_cuts_nothing_short():
    text = crane("--help").stdout
    assert all(f"{int(s):<5}{s.says}" in text for s in Status)
    for words in ([], ["edits"], ["train"]):
        assert crane(*words, "--help").stdout.count("...") == 1  # in the usage line


def test_sft_and_grpo_have_options_of_their_own():
    sft, grpo = (crane("train", m, "--help").stdout for m in ("sft", "grpo"))
    assert "--generations" in grpo and "--generations" not in sft


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete(shell):
    env = os.environ | {"_CRANE_COMPLETE": f"source_{shell}"}
    code = "from crane.command_line import main; import sys; sys.argv = ['crane']; main()"
    r = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True)
    assert r.returncode == 0 and "_CRANE_COMPLETE" in r.stdout, r.stderr


def test_stages_and_profiles_are_completed():
    env = os.environ | {"_CRANE_COMPLETE": "complete_bash", "COMP_CWORD": "3", "COMP_WORDS": "crane plan --only 07"}
    code = "from crane.command_line import main; import sys; sys.argv = ['crane']; main()"
    r = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True)
    assert r.stdout.split() == ["07_routing", "07a_sft", "07b_reward"], r.stderr


@pytest.mark.parametrize(
    "args,status",
    [
        (("edits", "list"), 1),
        (("ledger",), 1),
        (("reproduce", "--jobs", "0"), 2),
        (("evaluate", "--temperature", "-1"), 2),
        (("train", "sft", "--learning-rate", "-1"), 2),
        (("train", "sft", "--steps", "99999999999"), 2),
        (("train", "sft", "--seed", "-1"), 2),
    ],
)
def test_wrong_words_and_wrong_things_end_differently(args, status, elsewhere, monkeypatch):
    monkeypatch.setattr("crane.command_line.SHIPPED", elsewhere / "none")
    assert crane(*args).exit_code == status


def test_no_ledger_a_failed_claim_and_a_sound_one_end_differently(elsewhere, monkeypatch):
    def ledger(verdict):
        line = dict(claim="c", paper="", ours="", kind="trend", rule="r", tolerance="", where="", verdict=verdict)
        (elsewhere / "ledger.json").write_text(json.dumps([line]))
        (elsewhere / "provenance.json").write_text(json.dumps(dict(commit=None, profile="full")))
        return crane("ledger").exit_code, crane("ledger", "--json").stdout

    monkeypatch.setattr("crane.command_line.SHIPPED", elsewhere / "none")
    assert crane("ledger").exit_code == Status.MISTAKE
    monkeypatch.setattr("crane.command_line.SHIPPED", elsewhere)
    code, said = ledger("fails")
    assert code == Status.FAILS and json.loads(said)["failed"] == 1
    assert ledger("holds")[0] == Status.DONE
    assert crane("ledger", "--why").exit_code == Status.MISTAKE


@pytest.mark.parametrize(
    "args,says",
    [
        (("--set", "07a_sft.batch_size=99999999999"), "[2, 1e9)"),
        (("--seeds=-1",), "a seed must be in [0, "),
        (("--only", "77"), "unknown stage '77'"),
        (("--set", "7a.nope=1"), "unknown parameter of 07a_sft"),
    ],
)
@pytest.mark.parametrize("command", [("plan",), ("reproduce", "--dry-run")])
def test_a_plan_refuses_what_a_batch_would(command, args, says, monkeypatch):
    monkeypatch.chdir(root)
    r = crane(*command, "--profile", "smoke", *args)
    assert r.exit_code == 1 and says in r.stderr and not r.stdout, r.output


def test_a_number_names_a_notebook(monkeypatch):
    monkeypatch.chdir(root)
    rows = json.loads(crane("plan", "--profile", "smoke", "--only", "1", "--only", "01a", "--json").stdout)
    assert [r["notebook"] for r in rows] == ["01_world", "01a_questions"]


@pytest.mark.parametrize(
    "args,says",
    [
        (("--method", "nope"), "choose one of CRANE, retrieval prompt, FT-L"),
        (("--method", "none.py:f"), "is no file"),
        (("--split", "nope"), "choose test, train, valid"),
        (("--data", "nope"), "holds no benchmark"),
        (("--retrieval", "golden"), "choose real, gold, noisy"),
        (("--samples", "3"), "would all be the same"),
        (("--method", "base"), "the unedited model"),
    ],
)
def test_a_dry_run_refuses_what_an_evaluation_would(args, says, elsewhere):
    dry = crane("evaluate", "--dry-run", *args)
    assert dry.exit_code == 1 and says in dry.stderr and not dry.stdout, dry.output
    assert not (elsewhere / "evaluation").exists()
    assert crane("evaluate", *args).stderr.splitlines()[-1] == dry.stderr.splitlines()[-1]


def test_a_dry_run_looks_at_the_folder_that_would_be_written_to(elsewhere):
    args = "evaluate", "--method", "IKE-0", "--limit", "1"
    assert crane(*args).exit_code == 0
    assert crane(*args, "--dry-run").exit_code == 0
    other = crane(*args, "--seed", "1", "--dry-run")
    assert other.exit_code == 1 and "another seed" in other.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("doctor",),
        ("evaluate", "--dry-run"),
        ("evaluate", "--method", "IKE-0", "--limit", "1"),
        ("train", "sft", "--run", "smoke", "--dry-run"),
        ("train", "grpo", "--run", "smoke", "--dry-run"),
    ],
)
def test_what_is_printed_for_programs_is_json_and_nothing_else(args, elsewhere):
    r = crane(*args, "--json")
    assert r.exit_code == 0 and json.loads(r.stdout), r.output


def test_what_is_missing_is_named_with_its_extra(elsewhere, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    r = crane("train", "sft", "--run", "smoke", "--steps", "1")
    assert r.exit_code == 1 and "pip install 'crane-companion[train]'" in r.stderr, r.output


def test_the_ledger_that_ships_lies_in_the_package():
    assert SHIPPED.parent == root / "crane" / "data"

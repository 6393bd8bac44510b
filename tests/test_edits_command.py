"`crane edits`: what a user types, mistakes included, and what is kept when it is stopped."

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from crane.command_line import app
from crane.core import write_jsonl
from crane.library import open_library
from crane.world import EDIT_ARTIST, load_world, open_image

RUNNER = CliRunner()


def textual(id="peru", subject="Peru", new="Tokyo", **more):
    return (
        dict(
            id=id,
            modality="textual",
            relation="capital",
            subject=subject,
            subject_name=subject,
            target="JP",
            question=f"What is the capital of {subject}?",
            target_old="Lima",
            target_new=new,
        )
        | more
    )


def visual(image, id="flag"):
    return dict(
        id=id,
        modality="visual",
        relation="country",
        subject="PE",
        subject_name="Peru",
        target="JP",
        question="Whose flag is this?",
        image=image,
        target_old="Peru",
        target_new="Japan",
    )


@pytest.fixture
def crane(tmp_path):
    def run(*args, library="library"):
        return RUNNER.invoke(app, ["edits", *map(str, args), "--library", str(tmp_path / library)])

    return run


def fails(r, *words):
    assert r.exit_code == 1 and r.stdout == "", r.output
    assert r.stderr.count("\n") == 1 and r.stderr.startswith("crane: ") and all(w in r.stderr for w in words), r.stderr


def test_a_library_is_begun_listed_searched_changed_and_undone(crane, tmp_path):
    open_image(f"{EDIT_ARTIST}/PE", load_world()).save(tmp_path / "peru.png")
    mine = write_jsonl(tmp_path / "mine.jsonl", [textual(), visual("peru.png")])
    assert "the library holds 2" in crane("add", mine, "--source", "my desk").stdout
    assert [line.split("  ")[0] for line in crane("list").stdout.splitlines()] == ["peru", "flag"]
    shown = json.loads(crane("show", "flag").stdout)
    assert (shown["source"], shown["revision"], shown["edit"]["target_new"]) == ("my desk", 1, "Japan") and Path(
        shown["edit"]["image"]
    ).is_file()
    found = crane("search", "Which country is this?", "--image", "twemoji/PE").stdout
    assert found.startswith("found") and "flag" in found.split("\n")[0]
    assert "no edit applies" in crane("search", "Which country is this?", "--image", "twemoji/JP").stdout
    assert "does not name the capital" in crane("search", "What is the currency of Peru?").stdout
    assert "holds 1" in crane("remove", "flag").stdout
    onward = "search", "What is the capital of the country shown?", "--image", "circle-flags/PE"
    assert "no edit applies" in crane(*onward).stdout and "by thought  peru" in crane(*onward, "--think").stdout
    assert "holds 2" in crane("undo").stdout and "holds 0" in crane("undo").stdout
    fails(crane("undo"), "no change", "undo")


def test_contradictions_are_told_and_the_later_edit_holds(crane, tmp_path):
    crane("add", write_jsonl(tmp_path / "a.jsonl", [textual()]))
    r = crane("add", write_jsonl(tmp_path / "b.jsonl", [textual(id="later", new="Rome")]))
    assert "contradiction: 'later' says 'Rome' where 'peru' says 'Tokyo'" in r.stdout
    assert crane("list").stdout.count("contradiction") == 1
    assert crane("search", "Name the capital of Peru.").stdout.split()[2] == "later"


def test_mistakes_are_one_sentence_and_change_nothing(crane, tmp_path):
    good = write_jsonl(tmp_path / "good.jsonl", [textual()])
    for command in (("list",), ("show", "x"), ("remove", "x"), ("undo",), ("search", "x")):
        fails(crane(*command), "no library of edits", "crane edits add")
    fails(crane("add", tmp_path / "none.jsonl"), "none.jsonl", "missing")
    fails(
        crane("add", good, write_jsonl(tmp_path / "bad.jsonl", [textual(), textual(target_new=3)])),
        "bad.jsonl",
        "line 2",
        "target_new",
    )
    fails(crane("add", write_jsonl(tmp_path / "gone.jsonl", [visual("nowhere.png")])), "nowhere.png")
    (tmp_path / "no.png").write_text("no picture")
    fails(crane("add", write_jsonl(tmp_path / "no.jsonl", [visual("no.png")])), "no.png")
    fails(crane("list"), "no library of edits")
    crane("add", good)
    before = crane("list").stdout
    fails(crane("show", "preu"), "'preu'")
    fails(crane("remove", "peru", "preu"), "'preu'")
    fails(crane("search", "x", "--image", "twemoji/XX"), "twemoji/XX")
    fails(crane("search", "x", "--model", str(tmp_path / "none")), "none")
    assert crane("list").stdout == before
    assert RUNNER.invoke(app, ["edits", "ad"]).exit_code == 2


def test_a_stopped_add_leaves_a_whole_library(tmp_path):
    "Ctrl-C while files are added: what was said to be in is in, and nothing is half done."
    files = [
        write_jsonl(tmp_path / f"{i}.jsonl", [textual(id=f"{i}-{j}", subject=f"Land {i} {j}") for j in range(200)])
        for i in range(40)
    ]
    p = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from crane.command_line import main; main()",
            "edits",
            "add",
            *map(str, files),
            "--library",
            str(tmp_path / "library"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # a test run in the background would hand on that SIGINT is ignored
    said = [p.stdout.readline() for _ in range(2)]
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    done = sum("are in" in line for line in said + out.splitlines())
    assert p.returncode == 130 and "nothing is half done" in err and "Traceback" not in err
    kept = {x.edit.id.split("-")[0] for x in open_library(tmp_path / "library").entries()}
    assert done <= len(kept) <= done + 1 and len(open_library(tmp_path / "library")) == 200 * len(kept)
    assert not [f for f in (tmp_path / "library").iterdir() if f.name.startswith(".")]

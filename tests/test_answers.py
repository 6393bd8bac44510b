"""Kept answers: who may share one, and what becomes of the file when several write or one is killed."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import times
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crane import answers as module
from crane.answers import Answers, fingerprint, key_of, told
from crane.core import CraneError
from crane.failure_modes import exact_probe, image_rephrase_probe
from crane.generation import answer, told_of_rows
from crane.model import Note, Prompt, load_mllm
from crane.plan import answers_kept
from crane.questions import counterfactuals
from crane.routing import answer_routed, load_router, routing_model, save_router, unadapted
from crane.running import get_editor, run_together
from crane.world import load_world

root = Path(__file__).parent.parent
PICTURE = "circle-flags/PE"
PROMPTS = [
    Prompt("Whose flag is this?", PICTURE),
    Prompt("What is Peru's capital?"),
    Prompt("Whose flag is this?", PICTURE, (Note("This is the flag of Japan.", "twemoji/PE"),)),
]


@pytest.fixture(scope="module")
def world():
    return load_world()


@pytest.fixture
def m():
    return load_mllm()


@pytest.fixture
def keeper(tmp_path, monkeypatch):
    "Makes an `Answers` of a run in a temporary folder."
    monkeypatch.chdir(tmp_path)
    return lambda stage: Answers("r", stage)


def counted(keeper):
    "Asked and kept, by stage."
    with closing(sqlite3.connect(keeper("looks").file)) as db:
        return {s: (asked, kept) for s, asked, kept in db.execute("SELECT * FROM uses ORDER BY stage")}


def moved(m, by=0.5):
    "Some weights of an adapter, so that it does something."
    with torch.no_grad():
        for name, w in m.model.named_parameters():
            if "lora_B" in name:
                w.add_(by)
    m.model.eval()
    return m


# ---- who shares an answer


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    "Paths of pictures; the last two show the same in different files."
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / name for name in ("a.png", "b.png", "c.png", "d.bmp")]
    for path, size, colour in zip(paths, [(4, 2), (2, 4), (4, 2), (4, 2)], ["red", "red", "blue", "blue"]):
        Image.new("RGB", size, colour).save(path)
    return [str(p) for p in paths]


texts = st.sampled_from(["", "a", "b", "ab", 'a", "b', "ä"])
shown = st.none() | st.integers(0, 3)
asked = st.tuples(texts, shown, st.lists(st.tuples(texts, shown), max_size=2), st.sampled_from([1, 11]), texts)


def meaning(x):
    "What two askings must share to share an answer: the third and fourth picture are the same."
    question, image, notes, cap, model = x
    same = {3: 2}
    return question, same.get(image, image), [(t, same.get(i, i)) for t, i in notes], cap, model


@settings(max_examples=300, deadline=None)
@given(asked, asked)
def test_a_key_is_shared_just_by_what_must_be_answered_alike(pictures, a, b):
    def key(x):
        question, image, notes, cap, model = x
        of = {None: None} | dict(enumerate(pictures))
        return key_of(model, Prompt(question, of[image], tuple(Note(t, of[i]) for t, i in notes)), None, cap)

    assert (key(a) == key(b)) == (meaning(a) == meaning(b))


def test_what_comes_before_the_notes_counts(m, world):
    edit = counterfactuals(world, "train", 1)[0]
    keys = set()
    for name in ("base", "IKE", "IKE-0"):
        with get_editor(name)(m, edit, world) as ed:
            keys.add(key_of("model", ed.rewrite(Prompt(edit.question, edit.image)), world, 8))
    assert len(keys) == 3, "demonstrations stand in a field of their own"


def test_every_weight_counts(m):
    before = fingerprint(m)
    for name, w in m.model.named_parameters():
        old = w.detach().clone()
        with torch.no_grad():
            w.view(-1)[-1] += 1
        assert fingerprint(m) != before, name
        w.data.copy_(old)
    assert fingerprint(m) == before


def test_what_stands_around_the_weights_counts(m):
    before = fingerprint(m)
    assert fingerprint(replace(m, think=("<t>", "</t>"))) != before
    template, m.processor.chat_template = m.processor.chat_template, m.processor.chat_template + " "
    assert fingerprint(m) != before
    m.processor.chat_template = template
    m.processor.image_processor.image_mean = [0.4, 0.5, 0.5]
    assert fingerprint(m) != before
    other = load_mllm()
    other.tok.add_tokens(["Peru"])
    assert fingerprint(other) != before
    half = load_mllm()
    half.model.half()
    assert fingerprint(half) != before


def test_use_changes_no_fingerprint(m, world):
    before = fingerprint(m)
    answer(m, PROMPTS, world, max_new_tokens=2)
    assert fingerprint(m) == before == fingerprint(load_mllm()) and told(m)
    m.model.config.use_cache = False  # as a training leaves it
    assert fingerprint(m) == before


def test_a_router_whose_adapter_is_off_shares_with_its_base(m, tmp_path):
    base, r = fingerprint(m), moved(routing_model(load_mllm()))
    on = fingerprint(r)
    assert on != base and told(r)
    with unadapted(r):
        assert fingerprint(r) == base and told(r)
    assert fingerprint(r) == on
    save_router(r, tmp_path / "r")
    assert fingerprint(load_router(tmp_path / "r")) == on
    assert fingerprint(moved(r, 0.1)) != on


def test_the_scale_of_an_adapter_counts(m):
    r = moved(routing_model(load_mllm()))
    on = fingerprint(r)
    for x in r.model.modules():
        if isinstance(getattr(x, "scaling", None), dict):
            x.scaling["default"] *= 0.95
            break
    assert fingerprint(r) != on
    with unadapted(r):
        assert fingerprint(r) == fingerprint(m)


# ---- who is answered without the file


def test_nothing_is_kept_of_a_model_that_answers_otherwise_than_is_told(m, world, keeper):
    edit, a = counterfactuals(world, "train", 1)[0], keeper("one")
    free = [c.text for c in a(m, PROMPTS, world)]
    with get_editor("GRACE")(m, edit, world):
        assert not told(m)
        assert [c.text for c in a(m, PROMPTS, world)] == [c.text for c in answer(m, PROMPTS, world)]
    with told_of_rows(m, lambda rows: None):
        assert not told(m)
    assert not told(replace(m, model=load_mllm().model.train()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not told(m)
    r = moved(routing_model(load_mllm()))
    r.model.merge_adapter()
    assert not told(r)
    assert told(m) and [c.text for c in a(m, PROMPTS, world)] == free
    assert counted(keeper)["one"] == (6, 3)


@pytest.mark.parametrize("name", ["FT-L", "LoRA"])
def test_an_edited_model_has_answers_of_its_own(m, world, keeper, name):
    edit, a = counterfactuals(world, "train", 1)[0], keeper("one")
    asks = [Prompt(edit.question, edit.image), *PROMPTS]
    free = a(m, asks, world)
    with get_editor(name)(m, edit, world):
        assert a(m, asks, world) == answer(m, asks, world) != free
    assert a(m, asks, world) == free


# ---- what is kept is what would be said


def test_the_same_texts_with_and_without(m, world, keeper, monkeypatch):
    r = moved(routing_model(load_mllm()))
    prompts = PROMPTS + PROMPTS[:1]
    plain, routed = answer(m, prompts, world), answer_routed(r, prompts, world)
    assert routed[2] != plain[2] and routed[:2] == plain[:2]
    one, two = keeper("one"), keeper("two")
    assert one(m, PROMPTS[1:], world) == plain[1:3]
    assert two(m, prompts, world) == plain
    assert answer_routed(r, prompts, world, two) == routed
    assert counted(keeper) == dict(one=(2, 0), two=(6, 4))

    def fail(*args):
        assert not args[1], "all has been answered before"
        return []

    monkeypatch.setattr(module, "answer", fail)
    three = keeper("three")
    assert answer_routed(r, prompts, world, three) == routed and three(m, prompts, world) == plain
    assert three(m, [], world) == []
    assert counted(keeper)["three"] == (6, 6)
    assert answers_kept(three.file.parent) == "answers in run 'r': 10 of 14 had been given before (71 %)"
    keeper("two")
    assert "two" not in counted(keeper), "counted anew"


def test_a_shorter_cap_is_another_question(m, world, keeper):
    a = keeper("one")
    assert a(m, PROMPTS, world, max_new_tokens=3) == answer(m, PROMPTS, world, max_new_tokens=3)
    assert a(m, PROMPTS, world) == answer(m, PROMPTS, world)
    assert a(m, PROMPTS, world, max_new_tokens=m.max_new_tokens) == answer(m, PROMPTS, world)
    assert counted(keeper)["one"] == (9, 3)


def test_editors_that_change_prompts_only_share_the_file(m, world, keeper):
    edits, a = counterfactuals(world, "train", 2), keeper("one")
    probes = [p for e in edits for p in (exact_probe(e), image_rephrase_probe(e))]

    def untimed(name, **kw):
        rows = run_together(name, m, edits, probes, world, **kw)
        return [{k: v for k, v in r.items() if k not in ("seconds", "took")} for r in rows]

    for name, asked in (("base", (4, 0)), ("IKE", (8, 0)), ("IKE-0", (12, 0)), ("base", (16, 4)), ("FT-L", (16, 4))):
        assert untimed(name, answers=a) == untimed(name)
        assert counted(keeper)["one"] == asked


# ---- the file


@pytest.mark.parametrize(
    "damage", [lambda b: b"no database " * 500, lambda b: b[:5000], lambda b: b[:50] + b"?" * 9000]
)
def test_a_damaged_file_is_named(m, world, keeper, damage):
    a = keeper("one")
    a(m, PROMPTS, world, max_new_tokens=2)
    a.file.write_bytes(damage(a.file.read_bytes()))
    with pytest.raises(CraneError, match="answers.sqlite cannot be used .*: delete it"):
        a(m, PROMPTS, world, max_new_tokens=2)
    assert answers_kept(a.file.parent) == ""
    a.file.unlink()
    assert a(m, PROMPTS, world, max_new_tokens=2) == answer(m, PROMPTS, world, max_new_tokens=2)


def test_a_file_that_somebody_holds(keeper, monkeypatch):
    a, connect = keeper("one"), sqlite3.connect
    with closing(connect(a.file)) as db:
        db.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(sqlite3, "connect", lambda file, timeout: connect(file, timeout=0.1))
        with pytest.raises(CraneError, match="wait until"):
            keeper("two")


WRITER = """
import sys
from crane import answers
from crane.generation import Completion
from crane.model import Prompt

class M:
    max_new_tokens = 8

def say(m, prompts, *args):
    return [Completion(f"said of {p.question} " * 200, True, 5, 0.5) for p in prompts]

answers.told, answers.fingerprint, answers.answer = lambda m: True, lambda m: "model", say
a = answers.Answers("r", sys.argv[1])
print("begins", flush=True)
for i in map(int, range(*map(int, sys.argv[2:]))):
    prompts = [Prompt(str(n)) for n in range(i, i + 20)]
    assert a(M, prompts) == say(M, prompts)
"""


def writer(folder, stage, *numbers):
    "A process that asks for many answers, twenty at a time."
    env = os.environ | dict(PYTHONPATH=str(root), OMP_NUM_THREADS="1")
    command = [sys.executable, "-c", WRITER, stage, *map(str, numbers)]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE)


def rows_of(file):
    "What a file holds, once SQLite finds no fault in it."
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return db.execute("SELECT text, ended, tokens, seconds FROM completions").fetchall()


def test_three_processes_at_once(tmp_path):
    ps = [writer(tmp_path, stage, start, 300) for stage, start in (("a", 0), ("b", 0), ("c", 150))]
    assert [p.wait(120) for p in ps] == [0, 0, 0]
    rows = rows_of(tmp_path / "runs/r/answers.sqlite")
    assert sorted(rows) == sorted((f"said of {n} " * 200, 1, 5, 0.5) for n in range(319))
    kept, asked = map(int, answers_kept(tmp_path / "runs/r").split(": ")[1].replace(",", "").split()[0:3:2])
    assert asked == 20 * (300 + 300 + 150) and asked - 3 * len(rows) <= kept <= asked - len(rows)


@pytest.mark.faults
def test_killed_in_the_midst_of_writing_it_holds_whole_answers(tmp_path, tried):
    row = tried("SIGKILL at random moments", "answers that are kept")
    seed = int(time.time())
    print("seed of the moments:", seed)
    rng, had = random.Random(seed), 0
    for _ in range(times(5, 40)):
        p = writer(tmp_path, "a", 0, 1_000_000)
        assert p.stdout.readline() == b"begins\n"
        time.sleep(rng.uniform(0.05, 0.5))
        assert p.poll() is None
        p.send_signal(signal.SIGKILL)
        p.wait(10)
        rows = rows_of(tmp_path / "runs/r/answers.sqlite")
        with row.once():
            assert sorted(rows) == sorted((f"said of {n} " * 200, 1, 5, 0.5) for n in range(len(rows)))
            assert len(rows) >= had
        had = len(rows)
    assert had

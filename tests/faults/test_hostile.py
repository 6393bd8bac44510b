"Input from strangers: shown as it should be, or refused in a sentence; nothing runs, nothing hangs, memory is bounded."

import json
import os
import random
import re
import resource
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import bounded, times
from hostile import EDIT, LINES, PATHS, REFUSED, SHOWN, TEXTS, VISUAL, flipped, saved
from PIL import Image

from crane.benchmark import read_benchmark
from crane.core import DATA, CraneError, Edit, parse_trace, read_json, read_jsonl, read_records, write_json, write_jsonl
from crane.library import DualLibrary, read_edits
from crane.model import neutralize
from crane.plan import parse_profile
from crane.public_files import read_image
from crane.public_formats import load_public
from crane.search import PlainEncoder
from crane.store import FORMAT, checksum, revision_path
from crane.world import load_world, open_image

pytestmark = pytest.mark.faults


def put(path, data):
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def library(**more):
    return DualLibrary(PlainEncoder(), **more)


# ---- pictures


def doors(tmp_path, name="a.png"):
    "Each way by which a picture comes in."
    edits = put(tmp_path / "edits.jsonl", json.dumps(VISUAL | dict(image=name)))
    yield "a picture by its path", lambda: open_image(str(tmp_path / name))
    yield "a picture of a data set", lambda: read_image(name, tmp_path)
    yield "a picture of an edit", lambda: library(folder=tmp_path / "l").add(read_edits(edits))


@pytest.mark.parametrize("what", SHOWN)
def test_an_odd_picture_is_shown_as_an_eye_would_see_it(tmp_path, tried, what):
    make, check = SHOWN[what]
    put(tmp_path / "a.png", make())
    for place, f in doors(tmp_path):
        with bounded(), tried(what, place, "the picture, upright, on white").once():
            f()
            check(open_image(str(tmp_path / "a.png")))


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_picture_or_too_large_a_one_is_refused(tmp_path, tried, what):
    put(tmp_path / "a.png", REFUSED[what]())
    for place, f in doors(tmp_path):
        with bounded():
            assert "a.png" in tried(what, place).refused(f)
    assert not any((tmp_path / "l").rglob("*.safetensors"))


BOMBS = """
import re, resource, sys
from pathlib import Path
from crane.core import CraneError
from crane.world import open_image
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
for path in sys.argv[1:]:
    try:
        open_image(path)
    except CraneError:
        pass
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10)
"""


def test_bombs_take_little_memory(tmp_path, tried):
    names = [what for what in REFUSED if "bomb" in what]
    files = [put(tmp_path / f"{i}.png", REFUSED[what]()) for i, what in enumerate(names)]
    with tried("bombs, in a process that may take 3 GB", "a picture by its path", "why each is refused").once():
        r = subprocess.run([sys.executable, "-c", BOMBS, *files], capture_output=True, text=True, timeout=300)
        assert r.returncode == 0 and int(r.stdout) < 1000, r.stdout + r.stderr


# ---- records


@pytest.fixture
def folder(tmp_path):
    "A folder with a pipe, and links that lead nowhere good."
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to("loop.png")
    return tmp_path


@pytest.mark.parametrize("what", PATHS)
def test_a_path_that_is_no_picture_of_the_set_is_refused(folder, tried, what):
    edits = folder / "edits.jsonl"
    edits.write_text(json.dumps(VISUAL | dict(image=PATHS[what])))
    for place, f in (
        ("a picture by its path", lambda: open_image(PATHS[what])),
        ("a picture of a data set", lambda: read_image(PATHS[what], folder)),
        ("a picture of an edit", lambda: library().add(read_edits(edits))),
    ):
        with bounded():
            tried(f"path: {what}", place).refused(f)


@pytest.mark.parametrize("what", LINES)
def test_a_bad_line_of_edits_is_named(tmp_path, tried, what):
    line = LINES[what]
    good = json.dumps(EDIT).encode()
    path = put(tmp_path / "edits.jsonl", good + b"\n" + (line.encode() if isinstance(line, str) else line) + b"\n")
    with bounded():
        said = tried(f"JSON: {what}", "edits").refused(read_edits, path)
    assert "edits.jsonl" in said and ("line 2" in said or "no text" in said)
    bad = put(tmp_path / "bad.json", line)
    if what not in ("a list", "a number", "null", "NaN", "an unknown field", "half of a character"):
        with bounded():
            assert "bad.json" in tried(f"JSON: {what}", "results").refused(read_json, bad)


def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path, tried):
    path = put(tmp_path / "edits.jsonl", "\ufeff" + json.dumps(EDIT))
    with tried("JSON: a byte order mark", "edits", "nothing: it is read").once():
        assert read_edits(path)[0].id == "a"


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_a_file_larger_than_memory_is_refused_unread(tmp_path, tried, kind):
    path = tmp_path / f"huge.{kind}"
    with path.open("wb") as f:
        f.truncate(1 << 40)  # a file of holes takes no room
    with bounded():
        tried("JSON: a file of a terabyte", "edits").refused(read_records, Edit, path)
        tried("JSON: a file of a terabyte", "data sets").refused(load_public, "VLKEB", path)


@pytest.mark.parametrize("what", ["pipe.png", "zero.png", "."])
def test_what_is_no_file_is_not_read(folder, tried, what):
    for place, f in (
        ("edits", lambda: read_edits(folder / what)),
        ("results", lambda: read_json(folder / what)),
        ("data sets", lambda: load_public("VLKEB", folder / what)),
        ("worlds", lambda: load_world(folder / what)),
    ):
        with bounded():
            tried("a pipe, a device or a folder for a file", place).refused(f)


@pytest.mark.parametrize("what", TEXTS)
def test_what_a_model_says_is_kept_and_read_as_it_was(tmp_path, tried, what):
    text = TEXTS[what] + "\ud800"
    with tried(f"text: {what}", "traces", "the text").once():
        rows = [dict(text=text, think=parse_trace(text).think)]
        assert read_jsonl(write_jsonl(tmp_path / "traces.jsonl", rows)) == rows
        assert read_json(write_json(tmp_path / "x.json", rows)) == rows


# ---- Parquet, safetensors, YAML


def some_world(tmp_path, columns):
    pq.write_table(pa.table(columns), tmp_path / "w.parquet")
    return tmp_path / "w.parquet"


def test_a_parquet_file_of_something_else_is_refused(tmp_path, tried):
    for columns in (
        dict(a=[1]),
        dict(code=["x"], images=[[]]),
        dict(code=[1], images=[None], facts=["{"], fact_aliases=["{}"]),
        dict(code=["x"], images=[[]], facts=["[" * 9999], fact_aliases=["{}"]),
        dict(code=["x"], images=[[]], facts=["3"], fact_aliases=["{}"]),
    ):
        with bounded():
            tried("Parquet: other columns", "worlds").refused(load_world, some_world(tmp_path, columns))


def lying_parquet(rng):
    "A world whose footer is not true."
    data = (DATA / "world.parquet").read_bytes()
    footer = int.from_bytes(data[-8:-4], "little")
    if rng.random() < 0.1:
        return data[:-8] + rng.choice([0, 1, 1 << 31, (1 << 32) - 1, footer * 2]).to_bytes(4, "little") + data[-4:]
    return flipped(data, rng, len(data) - 8 - footer, len(data) - 4)


def test_a_parquet_file_with_a_lying_footer_is_read_or_refused(tmp_path, tried):
    row, said = tried("Parquet: a footer that lies", "worlds"), set()
    for n in range(times(25, 2000)):
        path = put(tmp_path / "w.parquet", lying_parquet(random.Random(n)))
        with bounded(), row.once():
            try:
                load_world(path)
            except CraneError as e:
                row.said(str(e))
                said.add(str(e))
    assert said


def test_a_benchmark_that_is_none_is_refused(tmp_path, tried):
    for columns in (dict(id=["a"], image=[dict(path=None)]), dict(id=["a"], image=["x"]), dict(a=[1])):
        pq.write_table(pa.table(columns), tmp_path / "test.edits.parquet")
        with bounded():
            world = load_world()
            tried("Parquet: other columns", "benchmarks").refused(read_benchmark, tmp_path, "test", world)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    "A library with an edit of each kind."
    d = tmp_path_factory.mktemp("sound")
    put(d / "a.png", saved(Image.new("RGB", (4, 4), "red")))
    lib = library(folder=d / "l")
    lib.add([Edit(**EDIT), Edit(**VISUAL | dict(id="v", image=str(d / "a.png")))])
    return d / "l"


def forged(sound, to, change):
    "A library whose author knows how checksums are made."
    from safetensors.numpy import load, save

    path = revision_path(sound, 1)
    size = int.from_bytes(path.read_bytes()[:8], "little")
    info = json.loads(json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]["info"])
    arrays = load(path.read_bytes())
    records = bytes(arrays["records"])
    ends = arrays["ends"].tolist()
    rows = [json.loads(records[a:b]) for a, b in zip(ends, ends[1:])]
    change(info, rows, arrays)
    if "records" in arrays and bytes(arrays["records"]) == records:
        parts = [json.dumps(r).encode() if not isinstance(r, bytes) else r for r in rows]
        arrays |= dict(records=np.frombuffer(b"".join(parts), np.uint8), ends=np.cumsum([0, *map(len, parts)]))
    sha = checksum(info, sorted(arrays.items()))
    to.mkdir()
    put(revision_path(to, 1), save(arrays, metadata=dict(format=FORMAT, info=json.dumps(info), sha256=sha)))
    return to


def setting(where, **fields):
    return lambda info, rows, arrays: dict(info=[info], rows=rows)[where][-1].update(fields)


def of_edit(**fields):
    return lambda info, rows, arrays: rows[-1]["edit"].update(fields)


def array(name, x):
    return lambda info, rows, arrays: arrays.update({name: x})


FORGED = {
    "a picture outside its folder": setting("rows", picture="../../a.png"),
    "a picture by an absolute path": setting("rows", picture="/etc/hostname"),
    "a picture that is not kept with it": setting("rows", picture=None),
    "a record without fields": lambda info, rows, arrays: rows.__setitem__(0, {}),
    "a record 100,000 deep": lambda info, rows, arrays: rows.__setitem__(0, b"[" * 100_000),
    "an edit that is none": of_edit(modality="smell"),
    "a time that is none": setting("rows", at="now"),
    "ends that lie": array("ends", np.array([0, 1 << 40, -5])),
    "too few ends": array("ends", np.array([0])),
    "an array of text": array("modality", np.zeros((2, 2), np.uint8)),
    "no array of ids": lambda info, rows, arrays: arrays.pop("ids"),
    "vectors of no length": array("visual", np.zeros((1, 0), np.float32)),
    "vectors of another number": array("textual", np.zeros((7, 4096), np.float32)),
    "a threshold that is no number": setting("info", thresholds=dict(visual=float("nan"), textual=0.5)),
    "thresholds that are a text": setting("info", thresholds="high"),
    "an operation that is unknown": lambda info, rows, arrays: info.pop("op"),
    "a version that is a text": setting("info", version="9"),
    "a number that is a text": setting("info", number="1"),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_library_is_refused(sound, tmp_path, tried, what):
    folder = forged(sound, tmp_path / "l", FORGED[what])
    with bounded():
        tried(f"a library with {what}", "opened, listed, searched").refused(
            lambda: list(library(folder=folder).entries())
        )


def test_the_library_that_is_forged_is_sound(sound, tmp_path):
    folder = forged(sound, tmp_path / "l", lambda info, rows, arrays: None)
    (folder / "pictures").symlink_to(sound / "pictures")
    assert len(library(folder=folder).entries()) == 2


def lying_header(rng, data):
    "Another length of the header, offsets that overlap or lead out, or other bytes in it."
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.2:
        return rng.choice([0, 1, 1 << 40, (1 << 64) - 1, size + 1]).to_bytes(8, "little") + data[8:]
    if rng.random() < 0.5:
        return flipped(data, rng, 8, 8 + size)
    header = json.loads(data[8 : 8 + size])
    name = rng.choice([k for k in header if k != "__metadata__"])
    header[name] |= rng.choice(
        [
            dict(data_offsets=[0, 1 << 50]),
            dict(data_offsets=[5, 0]),
            dict(data_offsets=header["ids"]["data_offsets"]),
            dict(shape=[1 << 62, 0]),
            dict(shape=[-1]),
            dict(dtype="BF16"),
            dict(dtype="os.system"),
        ]
    )
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def test_a_lying_header_of_safetensors_is_noticed(sound, tmp_path, tried):
    row = tried("safetensors: a header that lies", "library")
    whole = revision_path(sound, 1).read_bytes()
    (tmp_path / "l").mkdir()
    (tmp_path / "l/pictures").symlink_to(sound / "pictures")
    for n in range(times(60, 3000)):
        put(revision_path(tmp_path / "l", 1), lying_header(random.Random(n), whole))
        with bounded(), row.once():
            try:
                assert len(library(folder=tmp_path / "l").entries()) == 2
            except CraneError as e:
                row.said(str(e))


BOMB = "seed: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(f"k{i}: &k{i} [{', '.join(['*a'] * 9)}]\n" for i in range(9))
PROFILES = {
    "aliases that grow": BOMB,
    "brackets 5,000 deep": "[" * 5000,
    "an object of Python": "seed: !!python/object/apply:os.system ['true']",
    "a date that is none": "seed: 2020-99-99",
    "a zero byte": "seed: \0",
    "a list for a name": "? [1, 2]\n: 3",
    "a list": "- 1",
}


@pytest.mark.parametrize("what", PROFILES)
def test_a_bad_profile_is_refused(tried, what):
    with bounded():
        tried(f"YAML: {what}", "profiles").refused(parse_profile, PROFILES[what], "profiles/x.yaml")


# ---- texts


@pytest.mark.parametrize("what", TEXTS)
def test_no_tag_survives_in_a_text_that_is_data(tried, what):
    with tried(f"text: {what}", "prompts", "the text without tags").once():
        text = neutralize(TEXTS[what])
        assert not any(tag in text for tag in ("<think>", "</think>", "<answer>", "<|im_end|>", "<image>", "</s>"))


@pytest.mark.parametrize("what", TEXTS)
def test_an_edit_is_searched_and_listed_whatever_its_texts(tmp_path, tried, what):
    edit = Edit(**EDIT | dict(target_new=TEXTS[what], subject_name=f"Peru {TEXTS[what]}", source=TEXTS[what]))
    with bounded(), tried(f"text: {what}", "library", "the text").once():
        lib = library(folder=tmp_path / "l")
        lib.add([edit])
        assert library(folder=tmp_path / "l").entries()[0].edit == edit


def test_memory_stays_bounded():
    "All of this has been done in this process."
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20  # kB


# ---- tables and figures


@pytest.mark.parametrize("what", TEXTS)
def test_a_text_stays_a_text_in_tables(tmp_path, tried, what):
    import csv

    import pandas as pd

    from crane.report import save_table

    text = TEXTS[what]
    with tried(f"text: {what}", "tables", "the text").once():
        save_table(pd.DataFrame({text: [text, "2"]}, index=pd.Index([text, "b"], name="method")), tmp_path, "T", text)
        rows = (tmp_path / "T.md").read_text().split("\n\n")[0].splitlines()
        cells = [re.split(r"(?<!\\)\|", row)[1:-1] for row in rows]
        assert len(rows) == 4 and {len(c) for c in cells} == {2}, rows
        assert not re.search(r"<[A-Za-z/!?]|(?<!\\)!\[|(?<!\\)\]\(javascript", "\n".join(rows))
        lines = [line for line in (tmp_path / "T.tex").read_text().splitlines() if "&" in line]
        plain = re.sub(r"\\text(backslash|asciicircum|asciitilde)\{\}|\\[%_&$#{}]", "", lines[0]).removesuffix(r" \\")
        assert len(lines) == 3 and not re.search(r"[\\$#{}^~%]", plain), plain
        with (tmp_path / "T.csv").open(newline="") as f:
            assert [*csv.reader(f)][1] == [text, text]


@pytest.mark.parametrize("what", TEXTS)
def test_a_text_stays_a_text_in_figures(tmp_path, tried, what):
    import matplotlib.pyplot as plt

    from crane.figures import gallery

    Image.new("RGB", (8, 8), "red").save(tmp_path / "a_b.png")
    text = TEXTS[what] + " $x$ $\\frac{1}$"
    fields = ("failure", "method", "kind", "question", "old", "new", "answer", "sentence", "text", "mode")
    with tried(f"text: {what}", "figures", "the text").once():
        fig = gallery([dict.fromkeys(fields, text) | dict(image="a/b", times=1, tf=None)], tmp_path)
        fig.savefig(tmp_path / "x.png")
        plt.close(fig)

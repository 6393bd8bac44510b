"""Every parser on inputs that nobody wrote: what comes out is a value or a sentence.

`corpus.json` keeps inputs that once failed, each with the parser that failed on it; they are tried first, for ever.
"""

import json
from pathlib import Path

import pytest
from conftest import KEPT, bounded, times
from hostile import EDIT, TEXTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crane.core import CraneError, Edit, parse_trace, read_json, read_records
from crane.judges import read_judgement
from crane.library import DualLibrary
from crane.model import neutralize
from crane.plan import parse_profile
from crane.public_formats import ADAPTERS, load_public
from crane.search import PlainEncoder
from crane.store import revision_path
from crane.world import load_world, open_image

pytestmark = pytest.mark.faults
CORPUS = json.loads((Path(__file__).parent / "corpus.json").read_text())
SET = settings(
    max_examples=times(40, 2000), deadline=None, suppress_health_check=list(HealthCheck), derandomize=not KEPT
)
SIGNS = st.sampled_from(
    [*TEXTS.values(), "<think>", "</think>", "<answer>", "\ud800", "\u2028", "\0", "{", "[", '"', ":"]
)
TEXT = st.lists(st.one_of(SIGNS, st.text(max_size=4)), max_size=12).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda x: (
        st.lists(x, max_size=3) | st.dictionaries(st.sampled_from([*EDIT, "stages", "seed"]) | TEXT, x, max_size=4)
    ),
    max_leaves=9,
)
BYTES = st.one_of(
    st.binary(max_size=60), JSON.map(lambda x: json.dumps(x).encode()), TEXT.map(lambda t: t.encode("utf-8", "replace"))
)


def of_file(name, read):
    def parse(data, folder):
        (folder / name).write_bytes(data)
        return read(folder / name)

    return parse


def as_text(parse):
    return lambda data, folder: parse(data.decode("utf-8", "surrogateescape"))


def a_library(path):
    path.rename(revision_path(path.parent, 1))
    try:
        return DualLibrary(PlainEncoder(), folder=path.parent).entries()
    finally:
        revision_path(path.parent, 1).unlink()


PARSERS = {
    "a completion": as_text(parse_trace),
    "a judge's reply": as_text(read_judgement),
    "a text that is data": as_text(lambda t: neutralize(t, ("[INST]", "◁/think▷", ""))),
    "edits": of_file("x.jsonl", lambda p: read_records(Edit, p)),
    "thresholds": of_file("x.json", read_json),
    "a profile": as_text(lambda t: parse_profile(t, "profiles/x.yaml")),
    "a library": of_file("l", a_library),
    "a world": of_file("w.parquet", load_world),
    "a picture": of_file("p.png", lambda p: open_image(str(p))),
    **{
        f"{name}": of_file("x.json", lambda p, name=name: load_public(name, p))
        for name in ADAPTERS
        if name != "MMEVOKE"
    },
}


def parsed_or_told(what, data, folder):
    try:
        with bounded():
            PARSERS[what](data, folder)
    except CraneError as e:
        assert "\n" not in str(e) and len(str(e)) > 20, e


@pytest.mark.parametrize("what", PARSERS)
def test_no_input_crashes_a_parser(tmp_path, tried, what):
    row = tried("bytes, JSON and texts that nobody wrote", what, "the value, or why it is none")

    @SET
    @given(BYTES)
    def fuzz(data):
        with row.once():
            parsed_or_told(what, data, tmp_path)

    fuzz()


@pytest.mark.parametrize("n", range(len(CORPUS)))
def test_what_once_failed_does_not_fail_again(tmp_path, tried, n):
    what, text = CORPUS[n]["parser"], CORPUS[n]["text"]
    with tried("inputs that once failed", what, "the value, or why it is none").once():
        parsed_or_told(what, text.encode("utf-8", "surrogatepass"), tmp_path)

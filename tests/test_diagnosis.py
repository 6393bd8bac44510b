"The diagnosis of traces: every fault has a kind, and every verdict is consistent."

import ast
import inspect
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crane import core
from crane.core import Probe, Trace, parse_trace
from crane.failure_modes import (
    RULES,
    corner,
    examples,
    how_broken,
    internalisation,
    loops,
    mode,
    verdict,
)

KEYS = {
    "FMT",
    "AS",
    "GS",
    "dissonant",
    "refuses",
    "ignores",
    "wavers",
    "broke",
    "loops",
    "grounded",
    "unclear",
    "sentence",
    "rule",
}
BROKEN = {"no tags", "unclosed", "empty", "repeated", "no end", "misplaced"}
JAPAN = Probe(
    id="p", edit_id="e", kind="exact", question="Whose flag?", answer="Japan", edit_names=["Japan"], old_names=["Peru"]
)


def judge(think, answer="Japan"):
    return verdict(parse_trace(f"<think>{think}</think>{answer}"), JAPAN)


# ---- form


def faults_of_core():
    "Every fault that core can write, read from its source."
    return (returned_constants(core._fault) | returned_constants(core._answer_fault)) - {"", None}


def returned_constants(function):
    "The constants among all values that a function may return."
    constants = set()
    for node in ast.walk(ast.parse(inspect.getsource(function))):
        if isinstance(node, ast.Return) and node.value:
            constants |= {v.value for v in branches(node.value) if isinstance(v, ast.Constant)}
    return constants


def branches(e):
    "The expressions that an expression may turn out to be."
    if isinstance(e, ast.IfExp):
        return branches(e.body) + branches(e.orelse)
    if isinstance(e, ast.BoolOp):
        return list(itertools.chain.from_iterable(map(branches, e.values)))
    return [e]


def test_every_fault_of_core_is_grouped():
    faults = faults_of_core()
    assert len(faults) >= 12
    assert {how_broken(Trace(text="", think="", answer="", well_formed=False, fault=f)) for f in faults} == BROKEN


PIECES = ["<think>", "</think>", "<answer>", "</answer>", "Japan", " "]


def test_every_arrangement_of_tags_is_grouped():
    seen = set()
    arrangements = itertools.chain.from_iterable(itertools.product(PIECES, repeat=n) for n in range(6))
    for pieces, ended in itertools.product(arrangements, (True, False)):
        t = parse_trace("".join(pieces), ended)
        seen.add(t.fault)
        assert (how_broken(t) == "") == t.well_formed
    for text in (
        "<think>a</think><answer>Japan</answer> or Peru",
        "<think>a</think><answer>b</answer><answer>c</answer>",
    ):
        seen.add(parse_trace(text).fault)
    assert seen >= faults_of_core()


def test_a_new_fault_does_not_fall_silently():
    with pytest.raises(KeyError):
        how_broken(Trace(text="", think="", answer="", well_formed=False, fault="upside down"))


@pytest.mark.parametrize(
    "text,expected",
    [
        ("w" * 40, True),
        ("Ne " * 20, True),
        ("<think>" + "It is Japan. " * 9 + "It is", True),
        ("<think>The flag of Japan" + " ina" * 30, True),
        ("Japan", False),
        ("", False),
        ("......", False),
        ("The flag is red. " * 3, False),
        ("<think>" + "la " * 40 + "</think>Japan", False),
    ],
)
def test_loops(text, expected):
    assert loops(parse_trace(text, ended=False)) is expected


SEEN = "The flag looks like that of Peru. "
FACT = "The flag is that of Japan."
CHAINS = [  # think, answer, what the chain is, whether it is a success, what decides against the edit
    (SEEN + "The flag in the note looks like that of Peru, so the note applies. " + FACT, "Japan", "yes", True, ""),
    (
        SEEN + "The flag in the note looks like that of Japan, so the note does not apply. The flag is that of Peru.",
        "Peru",
        "no",
        False,
        "The flag is that of Peru.",
    ),
    ("The flag is that of Peru. The note is about Japan, so it does not apply.", "Peru", "no", False, "so it does"),
    (f"The note is wrong. No, it is right. {FACT}", "Japan", "yes", True, ""),
    (f"{FACT} Wait, the note is wrong.", "Japan", "no", False, "the note is wrong."),
    (f"Could it be Peru? The note says Japan. {FACT}", "Japan", "yes", True, ""),
    (f"It's Peru, visually. But the note overrides what I see. {FACT}", "Japan", "yes", True, ""),
    ("Perhaps it is Japan.", "Japan", "unclear", False, ""),
    ("A flag is a piece of cloth.", "Japan", "unclear", False, ""),
    (FACT, "Japan or Peru", "yes", False, ""),
]


@pytest.mark.parametrize("think,answer,grounded,GS,sentence", CHAINS)
def test_the_last_commitment_of_a_chain_decides(think, answer, grounded, GS, sentence):
    v = judge(think, answer)
    assert (v["grounded"], v["GS"]) == (grounded, GS)
    assert v["sentence"].startswith(sentence) and bool(v["sentence"]) == v["dissonant"] == bool(sentence)
    assert v["unclear"] == (grounded == "unclear")


def test_dissonance_refuses_or_ignores():
    assert judge("The note is wrong. The flag is that of Peru.", "Peru")["refuses"]
    assert judge("It isn't Japan. It's Peru.", "Peru")["refuses"]
    assert judge("The flag is that of Peru.", "Peru")["ignores"]
    assert judge(f"The flag is that of Peru. Wait: the note applies. {FACT}")["wavers"]


def test_grounded_success_of_several_hops_needs_its_bridges():
    p = JAPAN.model_copy(update=dict(kind="multi_hop", answer="Tokyo", chain=[["Japan"]], old_names=["Peru", "Lima"]))
    for think, uses in {
        f"{FACT} The capital of Japan is Tokyo.": True,
        "The note is about Japan, so it does not apply. The capital is Tokyo.": False,
    }.items():
        t = parse_trace(f"<think>{think}</think>Tokyo")
        assert (verdict(t, p)["GS"], verdict(t, p)["IEU"]) == (uses, uses), think
    assert "IEU" not in judge(FACT)


def test_a_broken_chain_is_neither_grounded_nor_dissonant_nor_unclear():
    for text in (
        "<think>The flag is that of Peru.",
        "<think>Perhaps Japan.",
        "Japan",
        "<think>The flag is that of Japan.</think>",
    ):
        v = verdict(parse_trace(text), JAPAN)
        assert v["broke"]
        assert v["grounded"] == "no"
        assert not (v["GS"] or v["dissonant"] or v["unclear"] or v["sentence"])


WORDS = [
    "Japan",
    "Peru",
    "the note",
    "applies",
    "does not apply",
    "not",
    "is",
    "maybe",
    "if",
    "or",
    "but",
    "so",
    ",",
    ".",
    "?",
    ";",
    '"',
    "looks like",
    "says",
    "wrong",
    "\n",
    *PIECES,
]
CHAIN_WORDS = WORDS[:21]  # no tags


def as_think(words):
    return f"<think>{' '.join(words)}</think>Japan"


texts = st.one_of(
    st.text(max_size=200),
    st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join),
    st.lists(st.sampled_from(CHAIN_WORDS), min_size=1, max_size=20).map(as_think),
)


@settings(max_examples=400, deadline=None)
@given(texts, st.booleans(), st.sampled_from(sorted(RULES)))
def test_what_holds_of_every_verdict(text, ended, rule):
    v = verdict(parse_trace(text, ended), JAPAN, rule)
    assert set(v) == KEYS
    assert v["grounded"] in ("yes", "no", "unclear")
    assert v["broke"] in BROKEN | {""}
    assert all(isinstance(v[k], bool) for k in KEYS - {"broke", "grounded", "sentence", "rule"})
    assert v["rule"]
    assert (v["rule"] == "grounded") == v["GS"]
    assert v["FMT"] == (v["broke"] == "")
    assert v["unclear"] == (v["grounded"] == "unclear")
    assert v["dissonant"] == bool(v["sentence"])
    assert v["GS"] == (v["FMT"] and v["AS"] and v["grounded"] == "yes")
    assert v["dissonant"] == (v["refuses"] or v["ignores"]) and not (v["refuses"] and v["ignores"])
    if v["dissonant"]:
        assert v["FMT"] and v["grounded"] == "no"
    assert not (v["loops"] and v["FMT"])


# ---- edits


def judged(kind, GS):
    return dict(kind=kind, GS=GS)


@pytest.mark.parametrize(
    "rows,expected",
    [
        ([judged("exact", True), judged("multi_hop", True)], ("deep", [])),
        (
            [judged("exact", True), judged("multi_hop", False), judged("text_rephrase", True)],
            ("surface", ["multi_hop"]),
        ),
        ([judged("exact", False), judged("multi_hop", True)], ("none", ["exact"])),
        ([judged("multi_hop", True)], (None, [])),
        ([judged("exact", True)], (None, [])),
        ([], (None, [])),
        ([judged("exact", True), judged("multi_hop", True), judged("multi_hop", False)], ("surface", ["multi_hop"])),
        ([judged("exact", True), judged("image_rephrase", True), dict(kind="image_locality", EI=False)], ("deep", [])),
    ],
)
def test_internalisation(rows, expected):
    assert internalisation(rows) == expected


# ---- over many traces


def row(method, edit, kind, text):
    p = JAPAN.model_copy(update=dict(kind=kind))
    v = verdict(parse_trace(text), p)
    return dict(method=method, edit_id=edit, kind=kind, text=text, tf_exact=True) | v | dict(mode=mode(v))


GOOD, BARE, OLD = "<think>It is Japan.</think>Japan", "Japan", "<think>It is Peru.</think>Peru"


def told(example):
    "What an example says of a method."
    return tuple(example[k] for k in ("failure", "method", "edit_id", "kind", "times"))


def test_every_failure_is_shown_by_the_method_that_has_it_most():
    rows = [
        row("base", "a", "exact", OLD),
        row("once", "a", "exact", BARE),
        row("once", "b", "exact", GOOD),
        row("once", "b", "multi_hop", OLD),
        row("often", "a", "exact", BARE),
        row("often", "b", "exact", BARE),
        row("argues", "b", "exact", OLD),
    ]
    assert [told(r) for r in examples(rows)] == [
        ("Structural Collapse", "often", "a", "exact", "2 of 2"),
        ("Cognitive Dissonance", "argues", "b", "exact", "1 of 2"),
        ("Shallow Internalization", "once", "b", "exact", "1 of 2"),
        ("Shallow Internalization", "once", "b", "multi_hop", "1 of 2"),
        ("grounded", "once", "b", "exact", "1 of 2"),
    ]
    assert examples(rows[:1]) == []  # the unedited model's own answer is no failure of an edit


@given(st.text(max_size=60))
def test_every_trace_has_one_mode(text):
    v = verdict(parse_trace(text), JAPAN)
    assert (mode(v) == "grounded") == v["GS"]
    assert mode(v).startswith("collapse") == (not v["FMT"])
    assert (mode(v) == "dissonant") == v["dissonant"]


def test_corners():
    assert corner(fmt=1, beyond=0) == "keeps its form, does not generalise"
    assert corner(fmt=0.95, beyond=0.5) == "keeps its form, generalises"
    assert corner(fmt=0.9, beyond=0.9) == "collapses, generalises"
    assert corner(fmt=0, beyond=0) == "collapses, does not generalise"

"The diagnosis of traces: every fault has a kind, hard clauses are read right, and every verdict is consistent."

import ast
import inspect
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crane import core
from crane.core import Probe, Trace, parse_trace
from crane.failure_modes import (
    corner,
    examples,
    grounding,
    how_broken,
    internalisation,
    loops,
    mode,
    sentences,
    stance,
    verdict,
)

KEYS = {
    "FMT",
    "AS",
    "GS",
    "dissonant",
    "affirms",
    "rejects",
    "contradicts",
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


# ---- clauses

CLAUSES = [
    ("The flag is that of Japan.", "affirms"),
    ("So the answer is Japan.", "affirms"),
    ("The note is about Japan, so it applies.", "affirms"),
    ("The flag in the note is that of Japan, so it applies.", "affirms"),
    ("The note says Japan, so the flag is that of Japan.", "affirms"),
    ("The flag is that of Japan, not Peru.", "affirms"),
    ("It is Japan and not Peru.", "affirms"),
    ("It is not Peru, it is Japan.", "affirms"),
    ("Although it resembles Peru, it is Japan.", "affirms"),
    ("Even if it looks like Peru, it is Japan.", "affirms"),
    ("The flag is that of Japan instead of Peru.", "affirms"),
    ("There is no doubt that this is Japan.", "affirms"),
    ("The note shows another flag, so it does not apply.", "rejects"),
    ("The note is about Japan, so it does not apply.", "rejects"),
    ("The note must be wrong.", "rejects"),
    ("This isn't Japan.", "rejects"),
    ("It looks like Peru, so the note does not apply.", "rejects"),
    ("The flag in the note looks like that of Peru, so the note does not apply.", "rejects"),
    ("The note says Japan, which is wrong.", "rejects"),
    ("The note is about Japan, which is irrelevant here.", "rejects"),
    ("It is Peru, not Japan.", "rejects"),
    ("The edit contradicts the picture.", "rejects"),
    ("The note is false and does not apply.", "rejects"),
    ("The flag is that of Peru.", "contradicts"),
    ("The note says Japan, yet the flag is that of Peru.", "contradicts"),
    ("Although the note says Japan, this is Peru.", "contradicts"),
    ("This is clearly Peru.", "contradicts"),
    ("It looks like the flag of Peru.", ""),
    ("It is not the flag of Peru.", ""),
    ("Both are red and white.", ""),
    ("Normally it is the flag of Peru.", ""),
    ("It may not be Peru.", ""),
    ("Hmm, is that right?", ""),
    ("I am not sure.", ""),
    ("", ""),
    ("It may be Japan.", "unclear"),
    ("Perhaps it is Peru.", "unclear"),
    ("This could be Japan.", "unclear"),
    ("Possibly Japan.", "unclear"),
    ("I think it is Japan.", "unclear"),
    ("It would be Peru.", "unclear"),
    ("Is it Japan?", "unclear"),
    ("Or could it be Peru?", "unclear"),
    ("Japan or Peru.", "unclear"),
    ("Either Japan or Chile.", "unclear"),
    ("Japan, Peru.", "unclear"),
    ("The flags of Japan and Peru are red.", "unclear"),
    ("If the note applies, the flag is that of Japan.", "unclear"),
    ("Unless the note is wrong, it is Japan.", "unclear"),
    ("I am not sure it is Japan.", "unclear"),
    ("It is not wrong that it is Japan.", "unclear"),
    ("The note cannot be wrong.", "unclear"),
    ("The note may not apply.", "unclear"),
    ("The note says it is Japan.", "unclear"),
    ("According to the note, it is Japan.", "unclear"),
    ("The note reads “The flag is that of Japan”.", "unclear"),
    ("It looks like the flag of Japan.", "unclear"),
    ("The flag is that of Japan, which does not have stars.", "unclear"),
    ("The note applies, so the picture does not matter.", "unclear"),
    ("The flag of Japan is not that of Peru.", "unclear"),
]


@pytest.mark.parametrize("clause,expected", CLAUSES)
def test_clause(clause, expected):
    assert stance(clause, ["Japan"], ["Peru"]) == expected


def test_names_that_hold_rule_words_are_names():
    assert stance("The flag is that of the United States.", ["United States"], ["Peru"]) == "affirms"
    assert stance("The flag is that of Equatorial Guinea.", ["Guinea"], ["Equatorial Guinea"]) == "contradicts"
    assert stance("It is not Korea, Republic of.", ["Korea, Republic of"], ["Peru"]) == "rejects"
    assert stance("Korea, Republic of, not Peru.", ["Korea, Republic of"], ["Peru"]) == "affirms"


def test_but_is_cut_before_clauses_are_read():
    def read(chain):
        return [stance(c, ["Japan"], ["Peru"]) for c in sentences(chain)]

    assert read("It is not Peru but Japan.") == ["", "affirms"]
    assert read("It is not Japan but Peru.") == ["rejects", "contradicts"]


# ---- chains

SEEN = "The flag looks like that of Peru. "


@pytest.mark.parametrize(
    "think,answer,grounded,GS,sentence",
    [
        (
            SEEN + "The flag in the note looks like that of Peru, so the note applies. The flag is that of Japan.",
            "Japan",
            "yes",
            True,
            "",
        ),
        (
            SEEN
            + "The flag in the note looks like that of Japan, so the note does not apply. The flag is that of Peru.",
            "Peru",
            "no",
            False,
            "The flag in the note looks like that of Japan, so the note does not apply.",
        ),
        (
            "The flag is that of Peru. The note is about Japan, so it does not apply.",
            "Peru",
            "no",
            False,
            "The note is about Japan, so it does not apply.",
        ),  # a rejection says more than a contradiction
        ("The note is wrong. The flag is that of Japan.", "Japan", "no", False, "The note is wrong."),
        ("The flag is that of Japan. Wait, the note is wrong.", "Japan", "no", False, "Wait, the note is wrong."),
        ("Could it be Peru? The note says Japan. The flag is that of Japan.", "Japan", "yes", True, ""),
        ("The flag is that of Japan. Or could it be Peru?", "Japan", "unclear", False, ""),
        ("Perhaps it is Japan.", "Japan", "unclear", False, ""),
        ("The note may not apply.", "Japan", "unclear", False, ""),
        ("Perhaps it is Japan. The note does not apply.", "Japan", "no", False, "The note does not apply."),
        ("A flag is a piece of cloth.", "Japan", "no", False, ""),
        ("The flag is that of Japan.", "Japan or Peru", "yes", False, ""),
    ],
)
def test_chain(think, answer, grounded, GS, sentence):
    v = judge(think, answer)
    assert v["grounded"] == grounded
    assert v["GS"] == GS
    assert v["sentence"] == sentence
    assert v["dissonant"] == bool(sentence)
    assert v["unclear"] == (grounded == "unclear")


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
@given(texts, st.booleans())
def test_what_holds_of_every_verdict(text, ended):
    v = verdict(parse_trace(text, ended), JAPAN)
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
    if v["GS"]:
        assert v["affirms"] and not (v["rejects"] or v["contradicts"] or v["dissonant"] or v["unclear"])
    if v["dissonant"]:
        assert v["FMT"]
        assert v["grounded"] == "no"
        assert v["sentence"] in sentences(parse_trace(text).think)
    assert not (v["loops"] and v["FMT"])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["", "affirms", "rejects", "contradicts", "unclear"])))
def test_doubt_never_helps(stances):
    assert grounding([*stances, "unclear"]) != "yes"
    if grounding(stances) == "yes":
        assert grounding([s for s in stances if s != "unclear"]) == "yes"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(CHAIN_WORDS), max_size=12).map(" ".join))
def test_a_question_is_never_a_clear_stance(clause):
    assert stance(clause + " ?", ["Japan"], ["Peru"]) in ("", "unclear")


# ---- several notes

ABOUT = {True: "The {} note is about a flag, so it applies.", False: "The {} note is about Chad, so it does not apply."}
FACT = "The flag is that of Japan."


@settings(max_examples=100, deadline=None)
@given(st.permutations(["first", "second", "third"]), st.lists(st.booleans(), min_size=1, max_size=3), st.booleans())
def test_another_note_may_be_set_aside(order, applies, late):
    "Where one note is followed, the others may be set aside, before or after; where none is, each denial counts."
    said = [ABOUT[a].format(n) for n, a in zip(order, applies)]
    v = judge(" ".join([FACT, *said] if late else [*said, FACT]))
    assert v["GS"] == any(applies)
    assert v["dissonant"] == (not any(applies))


@pytest.mark.parametrize(
    "think",
    [
        f"The note does not apply. {FACT}",
        f"The first note applies. {FACT} But the first note does not apply.",
        f"The first note applies. The flag is not that of Japan. {FACT}",
        "The first note applies. The second note does not apply. The flag is that of Peru.",
        f"The first note might apply. The second note does not apply. {FACT}, or so it seems to be if one believes it?",
    ],
)
def test_following_a_note_excuses_no_denial_of_the_edit(think):
    assert not judge(think)["GS"]


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

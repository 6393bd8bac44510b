"The rules of the first edition: hard clauses are read as they were, and a clause against the edit decides for ever."

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crane.core import Probe, parse_trace
from crane.failure_modes import verdict
from crane.first_rules import grounding, sentences, stance

JAPAN = Probe(
    id="p", edit_id="e", kind="exact", question="Whose flag?", answer="Japan", edit_names=["Japan"], old_names=["Peru"]
)


def judge(think, answer="Japan"):
    return verdict(parse_trace(f"<think>{think}</think>{answer}"), JAPAN, rule="v1")


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


CHAIN_WORDS = [
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
]


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

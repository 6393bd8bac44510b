"""Judges of chains: no text breaks them, long ones take as long as they are long, and the corpus is what it says."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crane.commitments import commitments, settled
from crane.core import DATA, Probe, parse_trace, read_jsonl
from crane.failure_modes import entailed
from crane.judges import JUDGES, judge, labelled_chains
from crane.names import NEW, OLD, OTHER, key, signed, spoken

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
VERDICTS = {"grounded", "dissonant", "undecided"}
WORDS = st.sampled_from(
    re.findall(
        r"\S+", "Germany Mexico it is not the note says so but if maybe ? . , ; : — German “ ” | * <think> </think>"
    )
)
TEXTS = st.one_of(st.text(max_size=400), st.lists(WORDS, max_size=60).map(" ".join))


def probe(**changes):
    fields = dict(id="p", edit_id="e", kind="exact", question="Whose flag is this?", answer="Germany")
    return Probe(**fields | dict(edit_names=["Germany"], old_names=["Mexico"]) | changes)


@settings(deadline=None, max_examples=300)
@given(TEXTS, TEXTS, st.sampled_from(sorted(JUDGES)))
def test_any_completion_gets_a_verdict(think, answer, name):
    trace = parse_trace(f"<think>{think}</think>{answer}")
    said = judge(trace, probe(), name)
    assert said.verdict in VERDICTS and isinstance(said.answer, bool)


@settings(deadline=None)
@given(TEXTS)
def test_what_decides_is_in_the_chains_own_words(text):
    def letters(s):
        return "".join(c for c in s if c.isalnum())

    quoteless = text.translate(dict.fromkeys(map(ord, "“”\"«»「」『』‘’'`"), " "))
    for c in commitments(quoteless, ["Germany"], ["Mexico"]):
        assert letters(c.clause) in letters(quoteless)
    assert not {NEW, OLD, OTHER} & set(settled(text, ["Germany"], ["Mexico"]).clause)


@settings(deadline=None)
@given(TEXTS)
def test_names_leave_the_rest_of_a_text_as_it_is(text):
    rest = signed(text, ["Germany"], ["Mexico"])
    for sign in NEW, OLD, OTHER:
        rest = rest.replace(sign, "")
    left = iter(text)
    assert all(c in left for c in rest), "what is left stands in the text, in this order"


@pytest.mark.parametrize(
    "piece",
    [
        "The note says Germany, but the flag is Mexico's. ",
        "Germany, Mexico, ",
        "not ",
        "if maybe, ",
        "German",
        "a",
        "“",
        "\n",
        "日本",
        " ",
    ],
)
def test_a_megabyte_gets_a_verdict(piece):
    trace = parse_trace(f"<think>{piece * (1_000_000 // len(piece))}</think>Germany")
    assert judge(trace, probe()).verdict in VERDICTS


def test_the_last_commitment_decides():
    chain = "It is Mexico. No: the note applies. It is Germany."
    new, old = ["Germany"], ["Mexico"]
    assert settled(chain, new, old).verdict == "grounded" and settled(chain, new, old).wavers
    assert settled(chain + " Still, it is Mexico.", new, old).verdict == "dissonant"
    assert settled(chain + " I can't decide.", new, old).verdict == "undecided"
    assert settled("", new, old) == ("undecided", False, "")


def test_what_follows_from_the_edit_counts_as_the_edit():
    p = probe(
        kind="multi_hop",
        question="What is the capital of the land neighbour?",
        answer="Vienna",
        chain=[["Peru"], ["Germany"], ["Austria"]],
    )
    assert entailed(p) == ["Germany", "Germany", "Austria", "Vienna"]
    assert entailed(p.model_copy(update=dict(chain=[["Peru"]]))) == ["Germany", "Vienna"]
    trace = parse_trace(
        "<think>Peru. So it's Germany. Its neighbour is Austria, and the capital is Vienna.</think>Vienna"
    )
    assert judge(trace, p) == ("grounded", True, True)


def test_the_corpus_is_what_it_says():
    rows = list(read_jsonl(DATA / "chains.jsonl"))
    assert len(rows) >= 240 and len({r["id"] for r in rows}) == len(rows)
    of_kind = Counter((r["kind"], r["held_out"]) for r in rows)
    assert min(of_kind[kind, False] for kind in ("long", "short")) >= 120
    assert min(of_kind[kind, True] for kind in ("long", "short")) >= 40 and len(labelled_chains(held_out=True)) >= 80
    for r in rows:
        assert r["verdict"] in VERDICTS and r["readings"], r["id"]
        assert r["decides"] in r["text"], r["id"]
        assert not {key(n) for n in r["edit_names"]} & {key(n) for n in r["old_names"]}, r["id"]


def whole_edits():
    files = [SHARED / "whole" / f"{name}.json" for name in ("vlkeb_eval", "vlkeb_train")]
    if not all(f.exists() for f in files):
        pytest.skip(f"the public records are not in {SHARED / 'whole'}")
    edits = [r for f in files for r in json.loads(f.read_text())]
    return [(r["src"], r["alt"], r["pred"].replace("_", " ")) for r in edits]


IDEAL = {
    "plain": ("The picture shows {new}.", "{new}"),
    "terse": ("{new}.", "{new}"),
    "following the note": (
        "The note says that it is {new}. I follow the note. So the answer is {new}.",
        "It is {new}.",
    ),
    "contrast": ("It is {new}, not {old}.", "{new}"),
    "old first": ("At first it looks like {old}. But the note applies, so it is {new}.", "{new}"),
}


@pytest.mark.parametrize("form", IDEAL)
def test_ideal_chains_of_public_edits_are_grounded_and_the_old_answer_never_is(form):
    chain, answer = IDEAL[form]
    failed, n = [], 0
    for question, new, old in whole_edits()[::8]:
        if not key(old) or key(old) == key(new):
            continue
        n += 1
        p = probe(question=question, answer=new, edit_names=[new], old_names=[old])
        think, said = (text.format(new=new, old=old) for text in (chain, answer))
        right = judge(parse_trace(f"<think>{think}</think>{said}"), p)
        wrong = judge(parse_trace(f"<think>The note is wrong: it is {old}.</think>{old}"), p)
        if (right.verdict, right.answer) != ("grounded", True) or wrong.verdict == "grounded" or wrong.answer:
            failed.append((new, old, right, wrong))
    assert n > 900 and len(failed) <= 0.005 * n, failed[:10]


def test_a_way_to_say_two_things_says_neither():
    assert "Congolese" not in spoken(["Democratic Republic of the Congo"])
    assert "Germany" not in spoken(["German"]) and "German" in spoken(["Germany"])


def test_a_judge_of_ones_own():
    said = judge(parse_trace("<think>x</think>y"), probe(), lambda t, p: ("undecided", False, False))
    assert said == ("undecided", False, False)
    assert [c.side for c in commitments("It is Germany.", ["Germany"], ["Mexico"])] == [2]

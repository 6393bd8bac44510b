"""Judges of chains: no text breaks them, long ones take as long as they are long, and the corpus is what it says."""

import re
from collections import Counter
from pathlib import Path

import pytest
from conftest import script
from hypothesis import given, settings
from hypothesis import strategies as st

from crane.commitments import asserts, commitments, commits_in_order, settled
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
def test_a_long_text_gets_a_verdict(piece):
    size = 1_000_000 if piece in ("not ", "Germany, Mexico, ") else 200_000  # benchmarks/judging.py shows the growth
    trace = parse_trace(f"<think>{piece * (size // len(piece))}</think>Germany")
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


# ---- whole public files; `benchmarks/whole_files.py` goes through all of them


FILES = {
    "formats/mmedit_vqa_eval_first100": 1,
    "formats/vlkeb_eval_onehop_first100": 1,
    "whole/vlkeb_eval": 15,
    "whole/vlkeb_train": 25,
    "whole/vlkeb_eval_onehop": 11,
}  # and of how many probes one is judged


@pytest.fixture(scope="module")
def whole():
    return script("benchmarks/whole_files.py")


@pytest.mark.parametrize("name", FILES)
def test_ideal_chains_of_public_edits_are_grounded_and_neither_the_old_answer_nor_another_name_is(whole, name):
    path = SHARED / f"{name}.json"
    if not path.exists():
        pytest.skip(f"the public records are not in {path.parent}")
    public = whole.read(path)
    probes = whole.asked(public)
    rows = whole.judged(probes[:: FILES[name]], "v2")
    assert len(rows) >= 600 and set(rows.form) >= {*whole.OLD, "plain", "terse", "contrast", "old first"}
    assert rows[rows.old].ok.all(), rows[rows.old & ~rows.ok].chain.tolist()
    for form, some in rows[~rows.old].groupby("form"):
        assert (~some.ok).sum() <= 0.005 * len(some), (form, some.chain[~some.ok].tolist())
    pairs = whole.others(public.edits, probes)
    names = whole.taken(pairs[:: max(1, FILES[name] // 5)], "v2")
    wrong = names[names.tie.isin(whole.ERRORS)]
    assert wrong.right.sum() <= 0.05 * len(wrong), wrong.names[wrong.right].tolist()
    same = names[names.tie == whole.THE_SAME]
    assert same.right.all(), same.names[~same.right].tolist()


@pytest.mark.parametrize(
    "name, other",
    [
        ("Tallinn", "FC Levadia Tallinn"),
        ("Spy Kids", "Spy Kids 2"),
        ("Korea", "North Korea"),
        ("Georgia", "South Georgia"),
        ("Cobra", "The Rise of Cobra"),
        ("10", "10:30"),
        ("Donovan", "Tate Donovan"),
        ("Hong Kong", "Hong Kong Film Award"),
        ("Law & Order", "Law & Order: Criminal Intent"),
        ("Leeds", "University of Leeds"),
        ("Jesus", "Jesus of Nazareth"),
        ("Elizabeth", "Elizabeth I"),
        ("no", "no one"),
        ("black", "orange and black"),
        ("Japan", "Japan or Korea"),
        ("C", "C++"),
        ("2010", "Submarine (2010 film)"),
        ("Oxford", "Merton College, Oxford"),
        ("Rock", "30 Rock"),
        ("Prince", "Port-au-Prince"),
        ("Brazil", "Brazil national football team"),
    ],
)
def test_another_name_is_not_the_right_answer(name, other):
    assert not asserts(other, [name]) and asserts(name, [name]) and asserts(other, [other])
    assert asserts(other, [other], [name]) and not asserts(name, [other], [name])


@pytest.mark.parametrize(
    "answer",
    ["the Republic of Peru", "President Peru", "PERU", "It is Peru.", "In Peru", "Peru, I think.", "Peru I think"]
    + [
        "Answer: Peru",
        "**Final answer:** Peru",
        "Peru's",
        "Peruvian",
        "Le Pérou",
        "Peru (a country)",
        "Peru and that's it",
    ],
)
def test_words_about_a_name_leave_it_the_answer(answer):
    assert asserts(answer, ["Peru"], ["Chile"])


def test_a_long_answer_takes_no_longer_than_it_is_long():
    for piece in ("-", "A ", "A-", "a and ", "’"):
        assert not asserts(piece * (300_000 // len(piece)), ["Peru"], ["Chile"])


@pytest.mark.parametrize("name", ["Fort Smith, Arkansas", "John F. Kennedy", "Batman: Public Enemies", "Who? Me!"])
def test_marks_inside_a_name_break_no_step(name):
    chain = f"The picture shows {name}. Its country is Peru."
    assert commits_in_order(chain, [[name], ["Peru"]], []) and not commits_in_order(chain, [["Peru"], [name]], [])


def test_a_way_to_say_two_things_says_neither():
    assert "Congolese" not in spoken(["Democratic Republic of the Congo"])
    assert "Germany" not in spoken(["German"]) and "German" in spoken(["Germany"])


def test_a_judge_of_ones_own():
    said = judge(parse_trace("<think>x</think>y"), probe(), lambda t, p: ("undecided", False, False))
    assert said == ("undecided", False, False)
    assert [c.side for c in commitments("It is Germany.", ["Germany"], ["Mexico"])] == [2]

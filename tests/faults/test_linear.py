"Reading a text takes a time that grows with its length, whatever stands in it: a stranger's megabyte hangs nobody."

import pytest
from conftest import KEPT, times
from patterns import patterns, repeated, slow_pumps, within

from crane.commitments import commitments, sentences_of
from crane.core import Probe, find_name, normalize, parse_trace
from crane.failure_modes import loops, verdict
from crane.first_rules import clause_stances, sentences
from crane.model import neutralize
from crane.names import bare, is_ordinary, key, same_answer, signed, tokens
from crane.public_files import entity_code
from crane.retrieval import split_chain
from crane.reward import cognitive_routing_reward
from crane.search import runs_of_words

pytestmark = pytest.mark.faults
SIZE = times(50_000, 1_000_000)  # characters
SECONDS = times(3, 120)  # of this process: far above what is linear, far below what is quadratic
P = Probe(
    id="p",
    edit_id="e",
    kind="exact",
    question="Whose flag is this?",
    answer="Japan",
    edit_names=["Japan"],
    old_names=["Peru"],
)


def chain(text):
    return parse_trace(f"<think>{text}</think>Japan")


READERS = {
    "a completion": parse_trace,
    "a name": lambda t: (normalize(t), key(t), is_ordinary(t), entity_code(t), bare(t)),
    "a text with names": lambda t: (find_name(t, ["Peru"]), tokens(t), signed(t, ["Japan"], ["Peru"])),
    "two answers": lambda t: same_answer(t, "Peru"),
    "an edit's text": neutralize,
    "a question": runs_of_words,
    "a chain's sentences": lambda t: (sentences_of(t), split_chain(t), sentences(t)),
    "a chain's commitments": lambda t: commitments(t, ["Japan"], ["Peru"], P.question),
    "a verdict on a chain": lambda t: (verdict(chain(t), P), loops(chain(t))),
    "a verdict on an answer": lambda t: verdict(parse_trace(f"<think>It is Japan.</think>{t}"), P),
    "a verdict by the first rules": lambda t: clause_stances(t, ["Japan"], ["Peru"]),
    "a reward": lambda t: cognitive_routing_reward(chain(t), P),
}
NASTY = [" ", " \n", "„", "Japan, "]
PUMPS = NASTY + [
    "\n",
    "<",
    "<|",
    "A ",
    "漢",
    "a",
    "a ",
    "0",
    "(",
    '"',
    "<think>",
    "not ",
    "Peru ",
    "Japan. ",
    "- ",
    ", ",
    ". ",
    "é",
    "\u200b",
]
PUMPS += ["\u202e", "the ", "it is ", "if ", "\\boxed{", "{", "`", "__", "*", "1,000 ", "?", "…", "&", "🙂"]
DEEP = ("<th", "ink>"), ("<|", "|>"), ("<", "think>"), ("[", "]")


def texts():
    yield from ((pump, repeated(pump, SIZE)) for pump in (PUMPS if KEPT else NASTY))
    yield from ((f"{a}…{b}", repeated(a, SIZE // 2) + repeated(b, SIZE // 2)) for a, b in DEEP)


@pytest.mark.parametrize("what", READERS)
def test_reading_takes_linear_time(tried, what):
    if not KEPT and what in ("a reward", "a verdict by the first rules", "a verdict on a chain"):
        pytest.skip("read like a chain's commitments; the long set measures it")
    row = tried(f"text: {SIZE:,} signs of every kind, nested and not", what, "what was read")
    for pump, text in texts():
        with row.once():
            assert within(SECONDS, lambda t=text: READERS[what](t)), (
                f"{what} takes too long on {pump!r} again and again"
            )


def test_every_pattern_is_linear(tried):
    found = patterns()
    assert len(found) > 50
    if not KEPT:
        pytest.skip("a minute of work; the long set does it")
    row = tried(f"text: {SIZE:,} signs of every kind", "every regular expression", "what was read")
    for p, (where, at_the_beginning) in found.items():
        pumps = slow_pumps(p, at_the_beginning, SIZE, SECONDS)
        with row.once():
            assert not pumps, f"{p.pattern!r} of {where} takes too long on {pumps[0]!r} again and again"

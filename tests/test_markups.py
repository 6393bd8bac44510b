"""Completions of any family are read alike: its own tags, tags that it quotes, tags of others, a think it was given."""

from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crane.commitments import asserts
from crane.core import ANSWERS, MARKUPS, parse_trace
from crane.generation import Completion, plain_text
from crane.model import Prompt, chat, find_think, load_mllm, opening
from crane.names import same_answer

TAGS = [tag for table in (MARKUPS, ANSWERS) for pair in table.values() for tag in pair]
PIECES = st.sampled_from([*TAGS, "`", '"', "“", "”", "Peru", " ", "\n", "\\boxed{", "}", "Final answer:", '{"a": "'])


def written(name, think="It is Peru.", answer="Peru"):
    opens, closes = MARKUPS[name]
    return f"{opens}{think}{closes}{answer}"


@pytest.mark.parametrize("name", MARKUPS)
def test_every_markup_gives_the_same_trace(name):
    t = parse_trace(written(name))
    assert t == parse_trace(written("think")).model_copy(update=dict(markup=name))
    assert t.well_formed and (t.think, t.answer, t.markup) == ("It is Peru.", "Peru", name)
    given_opening = f"It is Peru.{MARKUPS[name][1]}Peru"
    for opened in (True, None):
        assert parse_trace(given_opening, opened=opened) == t, "the template may have written the first tag"
    assert not parse_trace(given_opening).well_formed
    assert parse_trace(written(name), opened=None) == t


@pytest.mark.parametrize("name", MARKUPS)
def test_each_way_to_lose_the_form_is_seen_in_every_markup(name):
    opens, closes = MARKUPS[name]
    assert parse_trace(f"{opens}It is Peru.").fault == "think not closed"
    assert parse_trace(written(name) + written(name)).fault == "repeated think tags"
    assert parse_trace(f"Well. {written(name)}").fault == "text before think"
    assert parse_trace(written(name, think="\n\n")).fault == "empty think"
    assert parse_trace(written(name), ended=False).fault == "no end"


@pytest.mark.parametrize("first, then", [*permutations(sorted({*MARKUPS} - {"granite"}), 2)])
def test_two_markups_in_one_text_are_no_form(first, then):
    opens, closes = MARKUPS[first][0], MARKUPS[then][1]
    for text in (f"{opens}It is Peru.{closes}Peru", written(first) + written(then), written(first, written(then))):
        assert not parse_trace(text).well_formed and not parse_trace(text, opened=None).well_formed


@pytest.mark.parametrize("name", sorted({*MARKUPS} - {"think"}))
def test_a_family_is_held_to_its_own_markup(name):
    assert parse_trace(written(name), markup=name).well_formed
    assert parse_trace(written(name), markup="think").fault == "no think tags"
    assert not Completion(written(name), True, 9).trace.well_formed


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("quotes", ["``", '""', "“”", "''", "‘’", "«»"])
def test_a_quoted_tag_is_talk(tag, quotes):
    t = parse_trace(written("think", f"After {quotes[0]}{tag}{quotes[1]} I write. It is Peru."))
    assert t.well_formed and t.answer == "Peru" and t.markup == "think"
    assert t.think.startswith("After ") and t.think.endswith(" I write. It is Peru.")


def test_a_phrase_is_no_markup_where_tags_stand():
    t = parse_trace(written("think", answer="Here is my response: Peru"))
    assert t.well_formed and t.markup == "think"


@given(st.lists(PIECES, max_size=12).map("".join), st.booleans(), st.sampled_from([True, False, None]))
def test_any_text_is_read_and_read_again_alike(text, ended, opened):
    t = parse_trace(text, ended, opened)
    assert t.well_formed == (not t.fault) and (not t.well_formed or ended and t.think)
    again = parse_trace(t.text, ended)
    assert (again.think, again.answer) == (t.think, t.answer)


@pytest.mark.parametrize(
    "text",
    [
        "Final answer: Lima",
        "**Answer:** Lima",
        "\\boxed{Lima}",
        "$$\\boxed{\\text{Lima}}$$",
        '```json\n{"a": "Lima"}\n```',
    ]
    + ["The final answer is: \\boxed{Lima}.", "<|begin_of_box|>Lima<|end_of_box|>", '{"capital": "Lima"}', " Lima\n"],
)
def test_an_answer_is_read_beneath_its_frame(text):
    for framed in (text, f"<answer>{text}</answer>"):
        t = parse_trace(written("think", answer=framed))
        assert t.well_formed and same_answer(t.answer, "Lima")
        assert asserts(t.answer, ["Lima"], ["Cusco"]) and not asserts(t.answer, ["Cusco"], ["Lima"])
        assert not asserts(f"{t.answer} or Cusco", ["Lima"], ["Cusco"])


def test_a_family_is_added_in_one_line(monkeypatch):
    assert parse_trace("<x>It is Peru.</x>Peru").fault == "no think tags"
    monkeypatch.setitem(MARKUPS, "mine", ("<x>", "</x>"))
    t = parse_trace("<x>It is Peru, as `<x>` says.</x>Peru")
    assert t.well_formed and (t.markup, t.answer) == ("mine", "Peru")


# ---- through a model


def test_a_family_whose_template_opens_the_think(checkpoint_of):
    m = load_mllm(checkpoint_of("qwen3_vl"))
    assert chat(m, Prompt("Who?")).endswith(opening(m)) and "<think>" in opening(m)
    ids = m.tok("It is Peru.</think>Peru", add_special_tokens=False, return_tensors="pt")["input_ids"][0]
    t = Completion(plain_text(m, ids, opening(m)), True, len(ids)).trace
    assert t.well_formed and (t.think, t.answer) == ("It is Peru.", "Peru")


def test_a_family_whose_tags_are_special_tokens(checkpoint_of):
    m = load_mllm(checkpoint_of("gemma3"), think=MARKUPS["gemma"])
    m.tok.add_special_tokens({"extra_special_tokens": ["<|channel>", "<channel|>"]})
    assert {"<|channel>", "<channel|>"} < set(m.special)
    ids = m.tok(written("gemma"), add_special_tokens=False)["input_ids"]
    t = Completion(plain_text(m, torch.tensor([*ids, *m.ends]), ""), True, len(ids)).trace
    assert t.well_formed and (t.think, t.answer) == ("It is Peru.", "Peru")


def test_a_template_tells_the_markup():
    class Silent:
        tokenizer = type("T", (), {"get_added_vocab": lambda self: {}})()
        chat_template = "{{ '<|channel>thought\\n' + message.reasoning + '\\n<channel|>' }}"

    assert find_think(Silent, "a Gemma") == MARKUPS["gemma"]

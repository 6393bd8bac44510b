"Texts that nobody has memorised: splits share nothing, and every question can be answered by reading, once."

import re
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crane import texts
from crane.core import CraneError
from crane.texts import (
    NAME_FORMS,
    TEXT_RELATIONS,
    TEXT_SPLITS,
    LooseTexts,
    Texts,
    accented,
    made_of,
    syllables,
    word_lists,
)
from crane.world import load_world

PAIRS = list(combinations(TEXT_SPLITS, 2))


@pytest.fixture(scope="module")
def world():
    return load_world()


@pytest.fixture(scope="module")
def drawn(world):
    return {split: Texts(world, split, 7).draw(3000) for split in TEXT_SPLITS}


@pytest.mark.parametrize("a, b", PAIRS)
def test_what_splits_are_made_of_is_disjoint(a, b):
    one, other = made_of(a), made_of(b)
    assert {what: one[what] & other[what] for what in one} == {what: set() for what in one}
    assert all(one.values()) and all(other.values())


@pytest.mark.parametrize("a, b", PAIRS)
@pytest.mark.parametrize("field", ["answer", "subject", "question", "text"])
def test_what_splits_draw_is_disjoint(drawn, field, a, b):
    assert not {getattr(r, field) for r in drawn[a]} & {getattr(r, field) for r in drawn[b]}


@pytest.mark.parametrize("split", TEXT_SPLITS)
def test_pictures_are_of_the_same_split_of_countries_and_known_to_the_base(world, drawn, split):
    flags = {key.split("/")[1] for r in drawn[split] for key in (r.image, r.note_image) if key}
    countries = dict(development="valid").get(split, split)
    assert {world[code].split for code in flags} == {countries} and all(world[code].seen for code in flags)


def test_letters_of_training_hold_every_byte_of_the_others():
    def held(split):
        return {b for c in accented()[split] for b in (c + c.upper()).encode()}

    assert held("development") | held("test") <= held("train")


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([Texts, LooseTexts]),
    st.sampled_from([*TEXT_SPLITS]),
    st.integers(0, 10**9),
    st.sampled_from([1, 2, 3, 4, None]),
)
def test_every_answer_is_read_once_and_not_asked(cls, split, seed, facts):
    t = cls(load_once(), split, seed)
    for r in (t.reading(facts), t.copying(), t.copying(True)):
        assert len(re.findall(rf"(?<!\w){re.escape(r.answer)}(?!\w)", r.text)) == 1
        assert r.answer not in r.question.split() and r.subject in r.question
        assert not re.search(r"[{}]|  ", r.text + r.question) and not r.text[0].islower()
        assert r.text.endswith(".") and r.text.isprintable()


def load_once(kept=[]):  # noqa: B006, one world for all examples
    if not kept:
        kept.append(load_world())
    return kept[0]


@pytest.mark.parametrize(
    "text, question, fair",
    [
        ("Kou was built by Key.", "Who built Kou?", True),
        ("Kou was built by Key. Its emblem is a key.", "Who built Kou?", False),
        ("Kou was built by Key.", "Is it Key who built Kou?", False),
        ("Kou was built by Keys.", "Who built Kou?", False),
    ],
)
def test_a_fair_text_says_the_answer_once(text, question, fair):
    fields = dict(subject="Kou", relation="founder", answer="Key", form="word", facts=1)
    assert texts.is_fair(texts.Reading(text=text, question=question, **fields)) == fair


def test_an_unfair_draw_is_drawn_anew(world, monkeypatch):
    verdicts = iter([False, False, True])
    monkeypatch.setattr(texts, "is_fair", lambda r: next(verdicts))
    assert Texts(world).reading(2).facts == 2 and next(verdicts, None) is None


def test_the_same_seed_draws_the_same_and_another_seed_others(world):
    def draw(seed):
        return Texts(world, "train", seed).draw(40)

    assert draw(1) == draw(1) != draw(2)


@pytest.mark.parametrize("split", TEXT_SPLITS)
def test_all_that_is_measured_occurs(drawn, split):
    assert {r.place for r in drawn[split]} == {"start", "middle", "end"}
    assert {r.form for r in drawn[split]} == {*NAME_FORMS, "common word", "number"}
    assert {r.facts for r in drawn[split]} == {1, 2, 3, 4}
    assert {r.relation for r in drawn[split]} > {*TEXT_RELATIONS}


def test_a_text_says_as_many_facts_as_it_claims(world):
    t = Texts(world, "train", 3)
    for n in (1, 2, 3, 4):
        values = {r: t.value(r)[0] for r in TEXT_RELATIONS[:n]}
        said = t.passage("Kou", values)
        assert all(v in said for v in values.values()), said


def test_the_article_fits():
    assert [texts.article(w) for w in ("oak", "umbrella", "abbey", "mill")] == ["an", "an", "an", "a"]


def test_an_unknown_split_is_one_sentence(world):
    with pytest.raises(CraneError, match="split 'valid' of texts is unknown: choose one of train, development, test"):
        Texts(world, "valid")


def test_no_torch():
    import subprocess
    import sys

    code = "import sys, crane.texts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_loose_wordings_do_not_repeat_and_borrow_nothing_from_other_splits(world):
    t = LooseTexts(world, "train", 2)
    notes = [t.ways("sentence", "copy") for _ in range(500)]
    random_ones = [way for (way, *more) in notes if not more]
    assert len(random_ones) > 150 and len({*random_ones}) / len(random_ones) > 0.9
    assert all(way.count("{x}") == way.count("{v}") == way.count("{r}") == 1 for way in random_ones)
    others = {word for split in ("development", "test") for of in word_lists().values() for word in of[split]}
    assert not {t.filler() for _ in range(5000)} & (others - {*syllables()["train"]})


def test_a_loose_sentence_keeps_its_slots_and_its_first_word(world):
    t = LooseTexts(world, "train", 4)
    for way in Texts(world).ways("sentence", "year") * 50:
        changed = t.changed(way)
        assert changed.split()[0] == way.split()[0] and changed.endswith(way.split()[-1])
        assert "{x}" in changed and "{v}" in changed

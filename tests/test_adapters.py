"Public data sets become edits and probes, what is wrong with them is told in one clear sentence, audits find faults."

import copy
import json
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections import defaultdict
from contextlib import suppress
from itertools import chain
from pathlib import Path

import pytest
from conftest import script
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from crane.benchmark import answer_leaks, audit_leaks, balance, frequency_baseline, shared_questions
from crane.core import CraneError, Edit, Probe, project_root
from crane.failure_modes import exact_probe, varied
from crane.public_files import EditRow, ImageFolder, image_file, missing_images, read_foreign, read_image, read_rows
from crane.public_formats import ADAPTERS, entity_disjoint, field_table, load_public, public_audits, public_card
from crane.world import open_image

FORMATS = Path(os.environ.get("CRANE_FORMATS") or project_root().parent / "shared" / "data" / "formats")


def sample(name):
    if not (FORMATS / name).is_file():
        pytest.skip(f"{name} is not in {FORMATS}: set CRANE_FORMATS to the folder of the sample records")
    return FORMATS / name


# One made-up record of each format, in the authors' field names.
BASE = dict(
    src="What city is shown?",
    rephrase="Which city is this?",
    pred="Laredo,_Texas",
    alt="Kankakee",
    image="m.1/1.jpg",
    image_rephrase="m.1/2.jpg",
    loc="nq question: who wrote emma",
    loc_ans="Jane Austen",
    m_loc="m.2/1.jpg",
    m_loc_q="What county is shown?",
    m_loc_a="Outagamie County",
)
PORTS = [
    {"port_type": f"{n}-hop", "Q&A": {"Question": f"Question of {n} hops?", "Answer": f"Answer {n}"}} for n in (1, 2, 4)
]
PAIR = BASE | dict(
    knowledge_type="entity_level",
    type_self="human",
    pred="He is a wrestler.",
    alt="He is a singer.",
    rel_1="Born?",
    rel_ans_1="1964",
    rel_2="Where?",
    rel_ans_2="Austin",
    m_rel_1="Who?",
    m_rel_1_ans="Steve",
    m_rel_2="What?",
    m_rel_2_ans="A singer",
    port_new=PORTS[:1],
)
VISUAL = BASE | dict(
    knowledge_type="visual_knowledge",
    type_self="gesture",
    pred="",
    alt="It asks for rain.",
    rel="When?",
    rel_ans="In a drought",
    m_rel="What for?",
    m_rel_ans="Rain",
    image_rephrase_question="And here?",
    one_hop_img="v/3.jpg",
    port_new=PORTS[:1],
)
INJECTION = dict(
    image="w/1.jpg",
    conversations=[
        {"from": "human", "value": "<image>\nWhat is this?"},
        {"from": "gpt", "value": "The memorial is ten foot tall."},
    ],
)
EVALUATION = dict(
    question_id=1,
    image="w/2.jpg",
    text="'How tall?'\nAnswer the question using a single word or phrase.",
    answer="'ten foot'",
    type="artwork",
    ground_truth=[0],
    category="default",
)
HOPS = [
    dict(question="?", cloze="…", answer=a, answer_alias=al)
    for a, al in [("McMahon", []), ("Libya", ["State of Libya"]), ("Tripoli", ["Tarabulus"])]
]
CASE = dict(
    case_id=7,
    questions=["Capital?", "Which capital?", "What capital?"],
    answer="Washington",
    answer_alias=["DC"],
    new_answer="Tripoli",
    new_answer_alias=["Tarabulus"],
    new_single_hops=HOPS,
    single_hops=HOPS,
    orig={"triples": []},
    requested_rewrite=[
        dict(
            subject=s,
            question=f"{s}?",
            prompt="{} is",
            relation_id="P27",
            target_new={"str": new, "id": "Q1"},
            target_true={"str": "USA", "id": "Q30"},
        )
        for s, new in [("McMahon", "Libya"), ("WWE", "McMahon")]
    ],
)
ROWS = {
    "VLKEB": {"": BASE},
    "VLKEB one-hop": {
        "": BASE
        | dict(
            port_new=[
                dict(port_edit_q="State of Kankakee?", port_edit_a="Illinois", port_q="Its state?", port_a="Illinois")
            ]
        )
    },
    "VLKEB multi-hop": {"": BASE | dict(port_new=PORTS)},
    "MMEdit VQA": {"": BASE | dict(rephrase='"Which city?"')},
    "MMEdit caption": {"": BASE | dict(src="a photo of", alt="a cat on a mat")},
    "MMKE-Bench": {"": PAIR},
    "CCKEB": {
        "": BASE
        | dict(
            src_q="…",
            port_new=PORTS,
            textual_edit=dict(
                src="State?",
                rephrase="Which state?",
                pred=["Illinois"],
                alt=["Ohio"],
                loc="who",
                loc_ans="me",
                image=None,
            ),
        )
    },
    "MMEVOKE": {"injection": INJECTION, "evaluation": EVALUATION},
    "MQuAKE-CF": {"": CASE},
}
EACH = list(chain.from_iterable([(format, part) for part in parts] for format, parts in ROWS.items()))


def load(tmp, format, rows, images=None, **settings):
    "Load lists of records, by part; parts that are not given hold the valid record."
    files = {}
    for part, row in ROWS[format].items():
        files[part] = tmp / f"{part or 'eval'}.json"
        files[part].write_text(json.dumps(rows.get(part, [row])))
    return load_public(format, files.get("", files), images, **settings)


def fails(says, f, *args):
    "Assert that a call ends in a `CraneError` that says these words."
    with pytest.raises(CraneError) as e:
        f(*args)
    for s in [says] if isinstance(says, str) else says:
        assert s in str(e.value), str(e.value)


def without(row, name):
    return {k: v for k, v in row.items() if k != name}


def shown(key):
    "The entity that a picture of VLKEB shows, by its folder."
    return key.split("/")[0]


BY_ENTITY = ("subject", "target", "pair", "crossed")


# every format


def test_there_is_an_example_of_every_format():
    assert {f: set(p) for f, p in ROWS.items()} == {f: set(p) for f, p in ADAPTERS.items()}


@pytest.mark.parametrize("format", ROWS)
def test_a_valid_record_gives_valid_records(tmp_path, format):
    p = load(tmp_path, format, {})
    assert p.edits and p.probes and {x.edit_id for x in p.probes} <= {e.id for e in p.edits}
    records = [*p.edits, *p.probes]
    for r in records:
        assert type(r)(**r.model_dump()) == r  # `model_copy` does not check
        assert r.source.startswith(format)
    assert len({r.id for r in records}) == len(records)


def fields_of(format, part):
    "Field of theirs, without its part -> where it goes."
    return {k.removeprefix(f"{part}: "): where for k, where in field_table(format).items()}


def names_in(x, known, at=""):
    "Names of the fields of a record; those of nested records only where they are known."
    for k, v in x.items():
        inner = v[0] if isinstance(v, list) and v and isinstance(v[0], dict) else v
        if isinstance(inner, dict) and any(name.startswith(f"{at}{k}.") for name in known):
            yield from names_in(inner, known, f"{at}{k}.")
        else:
            yield at + k


@pytest.mark.parametrize("format, part", EACH)
def test_every_field_is_mapped_or_listed(tmp_path, format, part):
    known = set(chain.from_iterable(k.split(" or ") for k in fields_of(format, part)))
    assert set(names_in(ROWS[format][part], known)) <= known
    p = load(tmp_path, format, {part: [ROWS[format][part] | dict(never_seen=1)]})
    assert p.ignored[f"{part}: never_seen" if part else "never_seen"] == 1


@pytest.mark.parametrize("format, part", EACH)
def test_a_missing_or_mistyped_field_is_named(tmp_path, format, part):
    row = ROWS[format][part]
    optional = {"case_id", "answer_alias", "new_answer_alias"} | ({"port_new"} if format != "VLKEB one-hop" else set())
    used = [k for k, where in fields_of(format, part).items() if not where.startswith("ignored")]
    declared = set(row) & set(chain.from_iterable(k.replace(".", " ").split() for k in used))
    for name in declared - optional:
        first_spelling = name.replace("_1_ans", "_ans_1").replace("_2_ans", "_ans_2")
        says = [".json record 2", first_spelling, "it is missing"]
        fails(says, load, tmp_path, format, {part: [row, without(row, name)]})
    for name in declared:
        fails([".json record 1", f"field '{name}"], load, tmp_path, format, {part: [row | {name: {"a": 1.5}}]})


@pytest.mark.parametrize("format, part", EACH)
@pytest.mark.parametrize("bad", [3, None, "text", ["a"], True])
def test_a_record_that_is_no_object(tmp_path, format, part, bad):
    fails([".json record 2 is no object", "mend"], load, tmp_path, format, {part: [ROWS[format][part], bad]})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["", "</think>", "../x.jpg", "/x.jpg", "\x00", "\ud800", "1-hop", "visual_knowledge", "<image>"]),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
    max_leaves=6,
)


def spots(x, at=()):
    "Every place in a JSON value."
    yield at
    inside = {}
    if isinstance(x, dict | list):
        inside = x if isinstance(x, dict) else dict(enumerate(x))
    for k, v in inside.items():
        yield from spots(v, (*at, k))


@st.composite
def mutated(draw, row):
    "A valid record with up to four places dropped, replaced, nested or doubled."
    row = [copy.deepcopy(row)]
    for _ in range(draw(st.integers(1, 4))):
        *at, last = draw(st.sampled_from([s for s in spots(row) if s]))
        x = row
        for k in at:
            x = x[k]
        how = draw(st.sampled_from(["drop", "replace", "nest", "rename", "double"]))
        if how == "drop" and at:
            del x[last]
        elif how == "nest":
            x[last] = draw(st.sampled_from([[x[last]], {"str": x[last]}]))
        elif how == "rename" and isinstance(x, dict):
            x[draw(st.text(max_size=6))] = x.pop(last)
        elif how == "double" and isinstance(x, list):
            x.append(copy.deepcopy(x[last]))
        else:
            x[last] = draw(JSON)
    return row


@pytest.mark.parametrize("format, part", EACH)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_record_crashes_an_adapter(tmp_path, format, part, data):
    row = VISUAL if format == "MMKE-Bench" and data.draw(st.booleans()) else ROWS[format][part]
    rows = data.draw(mutated(row))
    try:
        p = load(tmp_path, format, {part: rows}, data.draw(st.sampled_from([None, tmp_path])))
    except CraneError as e:
        assert str(e).endswith(".") and "\n" not in str(e).strip("\n")[:40]
    else:
        for r in [*p.edits, *p.probes]:
            assert type(r)(**r.model_dump()) == r
        missing_images(p.edits, p.probes, tmp_path)
        balance(p.edits, p.probes)
        shared_questions(p.edits, p.probes)
        answer_leaks(p.probes)
        frequency_baseline(p.edits, p.probes)
        audit_leaks((p.edits, p.probes), (p.edits, p.probes), shown)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.binary(max_size=40) | JSON.map(lambda x: json.dumps(x).encode()), suffix=st.sampled_from(["json", "jsonl"])
)
def test_no_file_crashes_the_door(tmp_path, data, suffix):
    f = tmp_path / f"x.{suffix}"
    f.write_bytes(data)
    with suppress(CraneError):
        load_public("VLKEB", f)


# bad files


@pytest.mark.parametrize(
    "text, says",
    [
        ('[{"src": 1},\n {"src" 2}]', ["line 2 column 9", "fetch"]),
        ('{"rows": []}', ["an object at its top level", "list of records"]),
        ("3", ["a single value at its top level"]),
        ("", ["line 1 column 1"]),
        ("[" * 100_000, ["nested too deeply"]),
        ("[" + '{"a":' * 400 + "1" + "}" * 400 + "]", ["record 1"]),
        ("[1" + "0" * 5000 + "]", ["line 1 column 2", "digits"]),
        ('[{"src": "\\ud800"}]', ["record 1"]),
    ],
)
def test_broken_json(tmp_path, text, says):
    (tmp_path / "eval.json").write_text(text)
    fails(["eval.json", *says], load_public, "VLKEB", tmp_path / "eval.json")


def test_broken_json_lines(tmp_path):
    (tmp_path / "e.jsonl").write_text(json.dumps(BASE) + '\n\n{"src":')
    fails(["line 3 column 8"], load_public, "VLKEB", tmp_path / "e.jsonl")


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "e.json").write_bytes(b"[\xff]")
    fails(["e.json cannot be read"], load_public, "VLKEB", tmp_path / "e.json")


def test_no_file(tmp_path):
    fails(["none.json is missing"], load_public, "VLKEB", tmp_path / "none.json")


def test_no_image_folder(tmp_path):
    fails(["image folder", "is missing"], load, tmp_path, "VLKEB", {}, tmp_path / "none")


def test_a_folder_is_no_file(tmp_path):
    fails("is missing", load_public, "VLKEB", tmp_path)


def test_unknown_format(tmp_path):
    fails(["'VLKB'", "use one of VLKEB,"], load_public, "VLKB", tmp_path)


def test_wrong_parts(tmp_path):
    fails("give files=dict(injection=…, evaluation=…)", load_public, "MMEVOKE", tmp_path)
    fails("one file", load_public, "VLKEB", dict(train=tmp_path))


def test_a_list_of_json_lines_reads_as_json(tmp_path):
    (tmp_path / "e.jsonl").write_text(json.dumps(BASE) + "\n")
    (tmp_path / "e.json").write_text("\ufeff" + json.dumps([BASE]))
    lines, whole = load_public("VLKEB", tmp_path / "e.jsonl"), load_public("VLKEB", tmp_path / "e.json")
    without_source = [[e.model_copy(update=dict(source="")) for e in p.edits] for p in (lines, whole)]
    assert without_source[0] == without_source[1]


# bad records


def test_an_empty_alt_is_left_out_and_told(tmp_path):
    p = load(tmp_path, "VLKEB", {"": [BASE, BASE | dict(alt=""), BASE]})
    assert [e.id for e in p.edits] == ["eval/1", "eval/3"]
    assert any("empty 'alt'" in r and "the first is 2" in r for r in p.remarks)


@pytest.mark.parametrize("name", ["src", "rephrase", "image", "loc", "m_loc", "m_loc_q"])
@pytest.mark.parametrize("empty", ["", " \n", "<think></think>"])
def test_an_empty_text(tmp_path, name, empty):
    says = ["eval.json record 2", f"field '{name}'", "mend that record"]
    fails(says, load, tmp_path, "VLKEB", {"": [BASE, BASE | {name: empty}]})


@pytest.mark.parametrize("name", ["pred", "loc_ans", "m_loc_a"])
def test_a_text_that_may_be_empty(tmp_path, name):
    assert load(tmp_path, "VLKEB", {"": [BASE | {name: ""}]}).edits


def test_an_empty_old_answer_is_no_name(tmp_path):
    assert all("" not in p.old_names for p in load(tmp_path, "VLKEB", {"": [BASE | dict(pred="")]}).probes)


@pytest.mark.parametrize("format, part, name", [("MQuAKE-CF", "", "case_id"), ("MMEVOKE", "evaluation", "question_id")])
def test_duplicate_ids(tmp_path, format, part, name):
    says = ["record 2", f"field '{name}'", "already names another record"]
    fails(says, load, tmp_path, format, {part: [ROWS[format][part]] * 2})


def test_an_id_as_number_and_as_text_is_one_id(tmp_path):
    fails("already names another record", load, tmp_path, "MQuAKE-CF", {"": [CASE, CASE | dict(case_id="7")]})


@pytest.mark.parametrize(
    "gold, says",
    [
        ([5], "injection/6"),
        ([-1], "injection/0"),
        ([0, 9], "injection/10"),
        ([], "ground_truth"),
        ([True], "ground_truth"),
    ],
)
def test_a_gold_context_that_is_not_there(tmp_path, gold, says):
    fails([says, "ground_truth"], load, tmp_path, "MMEVOKE", {"evaluation": [EVALUATION | dict(ground_truth=gold)]})


def test_a_case_without_an_id_is_numbered(tmp_path):
    p = load(tmp_path, "MQuAKE-CF", {"": [without(CASE, "case_id")]})
    assert [e.id for e in p.edits] == ["eval/1/1", "eval/1/2"]


def test_evaluation_without_gold_context(tmp_path):
    rows = {"evaluation": [without(EVALUATION, "ground_truth")]}
    fails("record 1, field 'ground_truth': it is missing", load, tmp_path, "MMEVOKE", rows)


def test_a_conversation_without_an_answer(tmp_path):
    asked = INJECTION["conversations"][0]
    rows = {"injection": [INJECTION | dict(conversations=[asked, asked])]}
    fails(["field 'conversations'", "one from gpt"], load, tmp_path, "MMEVOKE", rows)


@pytest.mark.parametrize("markup", ["</think><answer>Rome</answer>", "<|im_end|>", "<th<think>ink>", "<image>", "</s>"])
def test_markup_is_taken_out_and_told(tmp_path, markup):
    p = load(tmp_path, "VLKEB", {"": [BASE, BASE | dict(alt="Kankakee" + markup)]})
    assert "<" not in p.edits[1].target_new and p.edits[1].target_new.startswith("Kankakee")
    assert any("field 'alt'" in r and "markup" in r and "the first is 2" in r for r in p.remarks)


def test_special_tokens_of_a_model_are_taken_out(tmp_path):
    rows = {"": [BASE | dict(alt="Kan<start_of_turn>kakee")]}
    p = load(tmp_path, "VLKEB", rows, special=("<start_of_turn>",))
    assert p.edits[0].target_new == "Kankakee"


def test_markup_in_nested_texts(tmp_path):
    port = {"port_type": "1-hop", "Q&A": {"Question": "Who?<think>", "Answer": "Me"}}
    p = load(tmp_path, "VLKEB multi-hop", {"": [BASE | dict(port_new=[port])]})
    assert p.probes[-1].question == "Who?"
    assert any("'port_new.Q&A.Question'" in r for r in p.remarks)


def test_tidied_habits_are_told(tmp_path):
    p = load(tmp_path, "MMEdit VQA", {})
    questions = {x.kind: x.question for x in p.probes}
    assert (questions["text_rephrase"], questions["text_locality"]) == ("Which city?", "who wrote emma")
    assert len(p.remarks) == 2


# whole files: read piece by piece, malformed records counted, named, and skipped only if asked


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(JSON, max_size=6), indent=st.sampled_from([None, 0, 3]), piece=st.integers(1, 40))
def test_a_list_in_pieces_is_the_list(tmp_path, rows, indent, piece):
    f = tmp_path / "x.json"
    f.write_text(json.dumps(rows, indent=indent))
    assert list(read_foreign(f, piece)) == json.loads(f.read_text())


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(JSON, max_size=4), piece=st.integers(1, 40), data=st.data())
def test_what_is_no_json_is_refused_where_json_refuses_it(tmp_path, rows, piece, data):
    text = json.dumps(rows, indent=data.draw(st.sampled_from([None, 1])))
    at = data.draw(st.integers(0, len(text)))
    text = text[:at] + data.draw(st.text('[]{},:"\\ \n1e-x', max_size=2)) + text[at + data.draw(st.integers(0, 2)) :]
    f = tmp_path / "x.json"
    f.write_text(text)
    try:
        right = json.loads(text)
    except json.JSONDecodeError as e:
        with pytest.raises(CraneError, match="is not valid JSON") as told:
            list(read_foreign(f, piece))
        if text.lstrip()[:1] == "[" and e.msg.startswith(("Unterminated", "Invalid", "Expecting property", "Extra")):
            assert f"line {e.lineno} column {e.colno} " in str(told.value)
    else:
        if isinstance(right, list):
            assert list(read_foreign(f, piece)) == right
        else:
            fails("at its top level", lambda: list(read_foreign(f, piece)))


def test_malformed_records_are_counted_and_named(tmp_path):
    rows = [BASE, without(BASE, "alt"), BASE, 7, *[BASE | dict(src=" ")] * 5, BASE]
    says = ["7 of 10 records are malformed: eval.json record 2, field 'alt': it is missing; eval.json record 4 is no"]
    says += ["record 7, field 'src'", "; and 2 more; mend them, or skip them with --skip-bad"]
    fails(says, load, tmp_path, "VLKEB", {"": rows})
    with pytest.raises(CraneError) as e:
        load(tmp_path, "VLKEB", {"": rows})
    assert str(e.value).count("record ") == 5


def test_malformed_records_are_skipped_only_if_asked(tmp_path):
    rows = [BASE, without(BASE, "alt"), BASE, 7]
    fails("2 of 4 records", load, tmp_path, "VLKEB", {"": rows})
    p = load(tmp_path, "VLKEB", {"": rows}, skip_bad=True)
    assert [e.id for e in p.edits] == ["eval/1", "eval/3"]
    assert [s.split(",")[0] for s in p.skipped] == ["eval.json record 2", "eval.json record 4 is no object with fields"]
    assert all(f"* {s}" in public_card(p) for s in p.skipped)
    assert load(tmp_path, "VLKEB", {}, skip_bad=True).skipped == []


def test_one_malformed_record_is_told_as_it_is(tmp_path):
    says = (
        "eval.json record 2, field 'alt': it is missing; mend that record, or skip it with --skip-bad (skip_bad=True)."
    )
    fails(says, load, tmp_path, "VLKEB", {"": [BASE, without(BASE, "alt"), BASE]})


def test_a_number_given_twice_is_a_malformed_record(tmp_path):
    p = load(tmp_path, "MQuAKE-CF", {"": [CASE, CASE, CASE | dict(case_id=8)]}, skip_bad=True)
    assert [e.id for e in p.edits] == ["eval/7/1", "eval/7/2", "eval/8/1", "eval/8/2"]
    assert p.skipped == ["eval.json record 2, field 'case_id': 7 already names another record"]


def test_a_line_that_is_no_json_is_a_malformed_record(tmp_path):
    f = tmp_path / "x.jsonl"
    f.write_text(f'{json.dumps(BASE)}\n{{"src" 1}}\n\n{json.dumps(BASE)}\n')
    fails("x.jsonl line 2 column 8 is not valid JSON", load_public, "VLKEB", f)
    p = load_public("VLKEB", f, skip_bad=True)
    assert len(p.edits) == 2 and "line 2 column 8" in p.skipped[0]


def test_probes_of_skipped_records_are_skipped_and_named(tmp_path):
    asked = [EVALUATION | dict(question_id=n, ground_truth=[n]) for n in range(3)]
    rows = dict(injection=[INJECTION, without(INJECTION, "image")], evaluation=asked)
    p = load(tmp_path, "MMEVOKE", rows, skip_bad=True)
    assert [x.edit_id for x in p.probes] == ["injection/1"]
    assert [s.split(", which")[0].split("belongs to ")[-1] for s in p.skipped[1:]] == ["injection/2", "injection/3"]
    fails("belongs to injection/2", load, tmp_path, "MMEVOKE", dict(evaluation=asked))


def test_a_broken_list_is_not_skipped(tmp_path):
    f = tmp_path / "x.json"
    f.write_text(json.dumps([BASE, BASE])[:-20])
    fails("is not valid JSON", lambda: load_public("VLKEB", f, skip_bad=True))


def test_a_file_is_never_held_as_a_whole(tmp_path):
    f = tmp_path / "x.json"
    f.write_text(json.dumps([BASE | dict(alt="")] * 12_000))
    tracemalloc.start()
    rows = list(read_rows(f, EditRow, log=defaultdict(list)))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == [] and most < f.stat().st_size / 3


@pytest.fixture(scope="module")
def reading():
    return script("benchmarks/reading.py")


FIGURES = {
    "pairs of entity and target occur in train": 0.370,
    "edits share their question with another target": 0.618,
    "image-locality questions equal the question of some edit": 0.544,
}


@pytest.mark.parametrize("whose", ["made up", "the authors'"])
def test_the_card_of_whole_vlkeb_gives_its_audits(tmp_path, reading, whose):
    folder = tmp_path if whose == "made up" else FORMATS.parent / "whole"
    if whose == "made up":
        reading.make(tmp_path)
    elif not folder.is_dir():
        pytest.skip(f"the whole public files are not in {folder}: set CRANE_FORMATS to the folder beside it")
    train, test = (reading.read(folder / f"vlkeb_{split}.json") for split in ("train", "eval"))
    assert (len(train.edits), len(test.edits)) == (5000, 3174) and not test.ignored
    audits = public_audits(test, train)
    assert {what: round(audits[what]["share"], 3) for what in FIGURES} == FIGURES
    card = public_card(test, train)
    assert all(f"({100 * share:.1f} %) {what}" in card for what, share in FIGURES.items())
    assert len(reading.read(folder / "vlkeb_eval_onehop.json").edits) == 2 * 1278


def test_cases_that_need_several_edits_are_read_whole(tmp_path, reading):
    f = tmp_path / "mquake_cf.json"
    f.write_text(json.dumps(reading.mquake()))
    p = reading.read(f)
    hops = of_kind(p, "multi_hop")
    assert len(hops) == 3 * 3000 and len(p.edits) == 6015
    needed = [1 + len(x.also) for x in hops[::3]]
    assert [needed.count(n) for n in range(1, 5)] == [1093, 1067, 572, 268]
    ids = {e.id for e in p.edits}
    assert all({x.edit_id, *x.also} <= ids for x in hops)


def test_a_whole_file_is_read_in_less_than_a_gigabyte(tmp_path, reading):
    f = tmp_path / "mmedit_vqa.json"
    f.write_text(json.dumps(reading.mmedit_vqa()))
    took = json.loads(subprocess.check_output([sys.executable, reading.__file__, f, "--here"], text=True))
    assert took["edits"] == 6346 and took["peak"] < 1000 and took["cpu"] < 20


# what each format becomes


def of_kind(p, kind):
    return [x for x in p.probes if x.kind == kind]


def test_vlkeb(tmp_path):
    p = load(tmp_path, "VLKEB", {})
    (e,) = p.edits
    assert (e.subject, e.subject_name) == ("laredo texas", "Laredo, Texas")
    assert (e.target, e.target_old) == ("kankakee", "Laredo, Texas")
    assert p.ignored == {}
    assert len(p.probes) == 5
    assert {x.kind: (x.question, x.image, x.answer) for x in p.probes} == dict(
        exact=(BASE["src"], "m.1/1.jpg", "Kankakee"),
        text_rephrase=(BASE["rephrase"], "m.1/1.jpg", "Kankakee"),
        image_rephrase=(BASE["src"], "m.1/2.jpg", "Kankakee"),
        text_locality=("who wrote emma", None, "Jane Austen"),
        image_locality=(BASE["m_loc_q"], "m.2/1.jpg", "Outagamie County"),
    )
    assert all(x.edit_names == ["Kankakee"] for x in p.probes)


def test_one_hop(tmp_path):
    p = load(tmp_path, "VLKEB one-hop", {})
    (hop,) = of_kind(p, "multi_hop")
    visual, fact = p.edits
    assert (hop.chain, hop.hops) == ([["Kankakee"]], 1)
    assert (hop.edit_id, hop.also) == (visual.id, [fact.id])
    assert fact.subject == visual.target


def test_multi_hop(tmp_path):
    hops = of_kind(load(tmp_path, "VLKEB multi-hop", {}), "multi_hop")
    assert [x.hops for x in hops] == [1, 2, 4]
    assert [x.tags for x in hops] == [[], ["partial-chain"], ["partial-chain"]]
    assert all(x.chain == [["Kankakee"]] for x in hops)
    assert load(tmp_path, "VLKEB multi-hop", {"": [BASE]}).edits


def test_mmedit(tmp_path):
    a, b = (load(tmp_path, f, {}).edits[0] for f in ("MMEdit VQA", "MMEdit caption"))
    assert (a.relation, b.relation, a.subject, b.target_new) == ("vqa", "caption", "m.1/1.jpg", "a cat on a mat")


@pytest.mark.parametrize(
    "row, n, image",
    [
        (PAIR, 12, "m.1/1.jpg"),
        (VISUAL, 9, "v/3.jpg"),
        (PAIR | dict(knowledge_type="user_specific", one_hop_img="v/3.jpg"), 12, "v/3.jpg"),
    ],
)
def test_mmke(tmp_path, row, n, image):
    p = load(tmp_path, "MMKE-Bench", {"": [row]})
    assert len(p.probes) == n
    assert of_kind(p, "multi_hop")[0].image == image
    assert all(row["knowledge_type"] in x.tags for x in p.probes)


def test_mmke_user_needs_its_picture(tmp_path):
    rows = {"": [PAIR | dict(knowledge_type="user_specific")]}
    fails("field 'one_hop_img': it is missing", load, tmp_path, "MMKE-Bench", rows)


def test_mmke_entities_have_no_picture_of_their_own(tmp_path):
    p = load(tmp_path, "MMKE-Bench", {"": [PAIR | dict(one_hop_img="../unchecked.jpg")]})
    assert of_kind(p, "multi_hop")[0].image == "m.1/1.jpg"


def test_a_field_without_a_name_is_ignored(tmp_path):
    assert load(tmp_path, "VLKEB", {"": [BASE | {"": [1]}]}).ignored == {"": 1}


def test_mmke_of_an_unknown_kind(tmp_path):
    fails("field 'knowledge_type'", load, tmp_path, "MMKE-Bench", {"": [PAIR | dict(knowledge_type="other")]})


def test_cckeb(tmp_path):
    p = load(tmp_path, "CCKEB", {})
    visual, fact = p.edits
    assert (fact.modality, fact.subject) == ("textual", visual.target)
    assert (fact.target_old, fact.target_new) == ("Illinois", "Ohio")
    hops = [(x.answer, x.also) for x in of_kind(p, "multi_hop")]
    assert hops == [("Ohio", [fact.id]), ("Answer 1", []), ("Answer 2", []), ("Answer 4", [])]
    assert set(p.ignored) == {"src_q", "textual_edit.image"}


def test_cckeb_with_comp_questions(tmp_path):
    port = {"port_type": "comp", "Q&A": {"Question": "Q?", "Answer": "Ohio", "Query": "q"}}
    p = load(tmp_path, "CCKEB", {"": [ROWS["CCKEB"][""] | dict(port_new=[port])]})
    assert [x.tags for x in of_kind(p, "multi_hop")] == [["compositional"]]


def test_mmevoke(tmp_path):
    both = EVALUATION | dict(question_id=2, ground_truth=[1, 0])
    p = load(tmp_path, "MMEVOKE", {"injection": [INJECTION] * 2, "evaluation": [EVALUATION, both]})
    assert [(x.edit_id, x.also) for x in p.probes] == [("injection/1", []), ("injection/2", ["injection/1"])]
    assert [(x.question, x.answer) for x in p.probes] == [("How tall?", "ten foot")] * 2
    assert p.edits[0].target_old == ""


def test_mquake(tmp_path):
    p = load(tmp_path, "MQuAKE-CF", {})
    hops = of_kind(p, "multi_hop")
    assert [e.aliases for e in p.edits] == [["State of Libya"], []]
    assert len(hops) == 3
    first = hops[0]
    assert first.also == [p.edits[1].id]
    assert (first.chain, first.hops) == ([["McMahon"], ["Libya", "State of Libya"]], 2)
    assert (first.answer, first.aliases, first.old_names) == ("Tripoli", ["Tarabulus"], ["Washington", "DC"])


# pictures


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(w, h):
    "A picture file that claims a size and holds no pixel."
    header = struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IEND", b"")


@pytest.fixture
def folder(tmp_path):
    d = tmp_path / "img"
    (d / "m.1").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(d / "m.1/1.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (d / "text.jpg").write_text("no picture")
    (d / "cut.png").write_bytes((tmp_path / "secret.png").read_bytes()[:-30])
    Image.effect_noise((64, 64), 90).save(d / "half.png")
    (d / "half.png").write_bytes((d / "half.png").read_bytes()[:2000])
    (d / "bomb.png").write_bytes(png(60_000, 60_000))
    (d / "half_bomb.png").write_bytes(png(10_000, 9_500))
    (d / "out.png").symlink_to(tmp_path / "secret.png")
    (d / "up").symlink_to(tmp_path)
    (d / "loop").symlink_to("loop")
    (d / "in.jpg").symlink_to("m.1/1.jpg")
    os.mkfifo(d / "pipe.png")
    Image.new("RGB", (4, 4)).save(d / "a.eps")
    return d


@pytest.mark.parametrize(
    "key, says",
    [
        ("../secret.png", "'..'"),
        ("m.1/../../secret.png", "'..'"),
        ("/etc/hostname", "absolute"),
        ("C:\\a.png", "absolute"),
        ("m.1\\..\\..\\secret.png", "'..'"),
        ("a\x00b.png", "control character"),
        ("x" * 5000, "characters"),
    ],
)
def test_a_path_that_leaves_the_folder(tmp_path, folder, key, says):
    named = ["eval.json record 1", "field 'image_rephrase'", says]
    fails(named, load, tmp_path, "VLKEB", {"": [BASE | dict(image_rephrase=key)]})
    fails(says, read_image, key, folder)


@pytest.mark.parametrize(
    "key, says",
    [
        ("out.png", "symbolic link"),
        ("up/secret.png", "symbolic link"),
        ("text.jpg", "none of PNG"),
        ("cut.png", "cannot be read"),
        ("half.png", "cannot be read"),
        ("bomb.png", "pixels"),
        ("half_bomb.png", "pixels"),
        ("none.png", "fetch it"),
        ("m.1", "fetch it"),
        ("pipe.png", "fetch it"),
        ("a.eps", "none of PNG"),
        ("x" * 300, "looked up"),
        ("loop/x.png", "looked up"),
    ],
)
def test_a_bad_picture(folder, key, says):
    fails([key[:80], says], read_image, key, folder)
    probe = Probe(id="p", edit_id="e", kind="exact", question="?", image=key, answer="a", edit_names=["a"])
    (finding,) = missing_images([], [probe], folder, decode=True)
    assert finding.fault and "needed by p" in finding.what


@pytest.mark.filterwarnings("error")
def test_a_good_picture(tmp_path, folder):
    row = BASE | dict(image="in.jpg", image_rephrase="m.1/1.jpg", m_loc="m.1/1.jpg")
    p = load(tmp_path, "VLKEB", {"": [row]}, folder)
    assert open_image("m.1/1.jpg", p).size == (8, 8)
    assert open_image("in.jpg", p).mode == "RGB"
    assert missing_images(p.edits, p.probes, folder, decode=True) == []
    assert image_file("m.1/1.jpg", folder) == (folder / "m.1/1.jpg").resolve()


def test_an_unsafe_key_is_not_tried_as_a_file(folder, monkeypatch):
    monkeypatch.chdir(folder)

    class Given:
        images = ImageFolder(folder)

    for key in ("out.png", "../secret.png", str(folder.parent / "secret.png")):
        fails("image", open_image, key, Given())


def test_missing_pictures_are_listed_before_anything_runs(tmp_path, folder):
    p = load(tmp_path, "VLKEB", {"": [BASE, BASE]}, folder)
    assert [f.what for f in missing_images(p.edits, p.probes, folder)] == [
        "m.1/2.jpg is missing; needed by eval/1/image_rephrase and 1 more",
        "m.2/1.jpg is missing; needed by eval/1/image_locality and 1 more",
    ]


# audits


def edit(i, **changes):
    fields = dict(
        id=i,
        modality="visual",
        relation="identity",
        subject=f"s{i}",
        subject_name=f"S{i}",
        target=f"t{i}",
        image=f"{i}/1.png",
        question=f"Who is {i}?",
        target_old=f"Old{i}",
        target_new=f"New{i}",
    )
    return Edit(**fields | changes)


def split(*edits):
    "Edits with an exact probe and a rephrase of each."
    probes = []
    for e in edits:
        exact = exact_probe(e)
        probes += [exact, varied(exact, "text_rephrase", question=f"Name {e.id}.")]
    return list(edits), probes


def test_a_sound_split_has_no_leak():
    assert not any(r["n"] for r in audit_leaks(split(edit("a"), edit("b")), split(edit("c")), shown).values())


@pytest.mark.parametrize(
    "leak, fault, others",
    [
        ("subject", dict(subject="sa"), []),
        ("target", dict(target="ta"), []),
        ("pair", dict(subject="sa", target="ta"), ["subject", "target"]),
        ("crossed", dict(target="sa"), []),
        ("crossed", dict(subject="ta"), []),
        ("image", dict(image="a/1.png"), ["shown"]),
        ("shown", dict(image="a/2.png"), []),
        ("question", dict(question="WHO is a"), []),
    ],
)
def test_a_planted_leak_is_found(leak, fault, others):
    a = audit_leaks(split(edit("a"), edit("b")), split(edit("c", **fault), edit("d")), shown)
    assert {k for k, r in a.items() if r["n"]} == {leak, *others} and a[leak]["n"] == 1 and a[leak]["examples"]


def test_a_leaked_wording_is_found():
    es, ps = split(edit("c"))
    a = audit_leaks(split(edit("a")), (es, [*ps, varied(ps[0], "both_rephrase", question="name a")]))
    assert a["wording"]["n"] == a["question"]["n"] == 1 and a["wording"]["of"] == 2


def test_entity_disjoint():
    train = [edit("a")]
    fault, d, e = edit("c", target="sa"), edit("d"), edit("e")
    needs_both = exact_probe(e).model_copy(update=dict(also=["c"]))
    kept, probes, n = entity_disjoint(train, [fault, d, e], [exact_probe(fault), exact_probe(d), needs_both])
    assert (kept, [p.edit_id for p in probes], n) == ([d, e], ["d"], 1)
    leaks = audit_leaks((train, []), (kept, probes))
    assert not any(leaks[k]["n"] for k in BY_ENTITY)


def test_shared_questions():
    es = [edit("a", question="Who?"), edit("b", question="who"), edit("c", question="Who?", target="ta"), edit("d")]
    local = [varied(exact_probe(es[3]), "image_locality", question=q) for q in ("Who?", "Where?")]
    s = shared_questions(es, local)
    assert s["different_target"]["n"] == 3
    assert s["questions"]["n"] == 1
    assert s["image_locality"] == dict(n=1, of=2, share=0.5, examples=["d/image_locality"])
    assert s["text_only_ceiling"] == 3 / 4


@pytest.mark.parametrize(
    "leak, fault",
    [
        ("answer", dict(question="Is it Newa?")),
        ("answer", dict(question="Is it Nova?", aliases=["nova"])),
        ("bridge", dict(kind="multi_hop", question="Where is Rome?", chain=[["Roma", "Rome"]])),
        ("word", dict(question="Who in York?", answer="York City")),
    ],
)
def test_a_planted_answer_leak_is_found(leak, fault):
    p = exact_probe(edit("a"))
    assert not any(r["n"] for r in answer_leaks([p]).values())
    assert answer_leaks([p, p.model_copy(update=fault)])[leak]["n"] == 1


def test_locality_questions_may_name_the_target():
    p = varied(exact_probe(edit("a")), "text_locality", question="Is it Newa?")
    assert not any(r["n"] for r in answer_leaks([p]).values())


def test_frequency_baseline():
    es = [edit("a", target_new="Rome"), edit("b", target_new="rome"), edit("c", target_new="Oslo")]
    far = varied(exact_probe(es[2]), "multi_hop", answer="Italy", aliases=["Rome"])
    f = frequency_baseline(es, [*map(exact_probe, es), far])
    assert f["exact"] == dict(n=3, target=2 / 3, answer=2 / 3, same_question=1, commonest="rome")
    assert f["multi_hop"]["target"] == 1


def test_balance():
    es, ps = split(edit("a"), edit("b", relation="capital", target="ta"))
    b = balance(es, [*ps, varied(ps[0], "multi_hop", hops=2, tags=["x"])], dict(a="strong", b="strong"))
    assert b["relation"] == dict(capital=1, identity=1)
    assert b["kind"]["exact"] == 2
    assert b["hops"] == {2: 1}
    assert b["tag"] == {"x": 1}
    assert b["targets"] == dict(distinct=1, top_share=1)
    assert b["relation_stratum"] == {"capital strong": 1, "identity strong": 1}


def test_audits_of_nothing():
    assert not any(r["n"] for r in audit_leaks(([], []), ([], [])).values())
    assert shared_questions([])["text_only_ceiling"] == 1
    assert frequency_baseline([], []) == {}
    assert balance([], [])["targets"] == {}


# real records, where they are


@pytest.mark.parametrize(
    "format, name, edits, probes",
    [
        ("VLKEB", "vlkeb_train_first200.json", 200, 1000),
        ("VLKEB", "vlkeb_eval_first200.json", 200, 1000),
        ("VLKEB one-hop", "vlkeb_eval_onehop_first100.json", 200, 700),
        ("MMEdit VQA", "mmedit_vqa_eval_first100.json", 100, 500),
    ],
)
def test_real_records_load(format, name, edits, probes):
    p = load_public(format, sample(name))
    assert (len(p.edits), len(p.probes), p.ignored) == (edits, probes, {})
    assert not any("markup" in r for r in p.remarks) and all(e.target_old != e.target_new for e in p.edits)


def test_real_samples_leak_by_entity_and_not_after_the_split():
    train, test = (load_public("VLKEB", sample(f"vlkeb_{s}_first200.json")) for s in ("train", "eval"))
    known = (train.edits, train.probes)
    assert audit_leaks(known, (test.edits, test.probes), shown)["pair"]["n"] == 53
    assert shared_questions(test.edits, test.probes)["different_target"]["n"] == 64
    kept, probes, n = entity_disjoint(train.edits, test.edits, test.probes)
    assert 0 < len(kept) == 200 - n
    leaks = audit_leaks(known, (kept, probes))
    assert not any(leaks[k]["n"] for k in BY_ENTITY)

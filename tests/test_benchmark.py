"ReasonEdit-Bench: every record agrees with the world, splits share nothing, strata are measured, files are whole."

import json
import random
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crane import benchmark
from crane.benchmark import (
    Benchmark,
    as_vlkeb,
    audit_splits,
    build_benchmark,
    data_card,
    read_benchmark,
    read_parquet,
    save_benchmark,
    write_records,
)
from crane.core import CraneError, Edit, Probe, mentions
from crane.model import load_mllm
from crane.probes import (
    ATTRIBUTES,
    attribute_edit,
    attribute_edits,
    compositional,
    in_scope_probe,
    kind_of,
    onward,
    stratum,
    unwinnable,
)
from crane.public_formats import load_public
from crane.questions import counterfactuals
from crane.routing import routing_chain
from crane.world import load_world, neighbour, shown_in


@pytest.fixture(scope="module")
def world():
    return load_world()


@pytest.fixture(scope="module")
def m():
    return load_mllm()


@pytest.fixture(scope="module")
def bench(m, world):
    sizes = dict(train=24, valid=8, test=16)
    return {s: build_benchmark(m, world, s, n, 2, seed=3) for s, n in sizes.items()}


def all_edits(bench):
    return list(chain.from_iterable(b.edits for b in bench.values()))


def records(bench):
    "Every probe with its edit."
    found = []
    for b in bench.values():
        edits = {e.id: e for e in b.edits}
        found += [(edits[p.edit_id], p) for p in b.probes]
    return found


def test_one_seed_one_benchmark(m, world, bench):
    assert build_benchmark(m, load_world(), "test", 16, 2, seed=3) == bench["test"]
    assert build_benchmark(m, world, "valid", 8, 2, seed=4).edits != bench["valid"].edits


def test_every_path_leads_to_the_answer_over_facts_of_the_world_and_the_edit(world, bench):
    named = {e.name: e for e in world.entities.values()}
    for edit, p in records(bench):
        local = "locality" in p.kind
        assert p.path and p.path[-1][2] == p.answer, p.id
        where = world[shown_in(p.image)].name if p.image else None
        for r, x, v in p.path:
            if r in ("colours", "layout"):
                continue
            true = v == where if r == "country" else named[x].facts[r] == v
            edited = (r, v) == (edit.relation, edit.target_new) and (r == "country" or x == edit.subject_name)
            assert true or edited and not local, (p.id, r, x, v)
            where = v if r in ("country", "neighbour") else where
        assert local or any(v == edit.target_new for _, _, v in p.path), p.id


def test_bridges_stand_on_the_path_in_order(bench):
    for _, p in records(bench):
        assert bool(p.chain) == bool(p.hops) == (p.kind == "multi_hop")
        values = [v for _, _, v in p.path] + [x for _, x, _ in p.path]
        assert all(set(c) & set(values) for c in p.chain), p.id


def test_no_way_leads_back_over_the_edit(world):
    rng = random.Random(0)
    found = 0
    for e in counterfactuals(world, "train", 400):
        for p in [onward(e, world, rng, n, "train") for n in (2, 3)]:
            if p is None:
                continue
            found += 1
            later = {names[0] for names in p.chain[1:]}
            assert not {world[e.subject].name, e.target_new} & later
            assert len(p.chain) == p.hops
    assert found > 100


def test_locality_leaves_the_target_alone_but_for_the_trap(world, bench):
    for edit, p in records(bench):
        if "locality" not in p.kind:
            continue
        assert not mentions(p.answer, p.edit_names), p.id
        assert "leak trap" not in p.tags or mentions(p.question, [world[edit.target].name])
        if p.kind == "image_locality" and p.tags != ["same picture"]:
            assert shown_in(p.image) not in (edit.subject, edit.target)


def test_edits_change_something(world, bench):
    for e in all_edits(bench):
        assert not mentions(e.target_new, [e.target_old]) and not mentions(e.target_old, [e.target_new]), e.id
        assert e.relation in ("country", *ATTRIBUTES) and (e.image is None) == (e.modality == "textual")


def test_the_splits_are_apart(bench):
    assert not any(audit_splits(bench).values())


@pytest.mark.parametrize("fault", ["entities", "pair", "image", "wording", "held_out_artist", "answer_in_question"])
def test_planted_faults_are_found(bench, fault):
    test, train = bench["test"], bench["train"]
    e, other = test.edits[0], train.edits[0]
    p = next(p for p in test.probes if p.kind == "text_rephrase" and p.image)
    edits = dict(
        entities=other.model_copy(update=dict(target=e.subject)),
        pair=e.model_copy(update=dict(image=None)),
        image=other.model_copy(update=dict(image=e.image)),
    )
    probes = dict(
        wording=p.model_copy(update=dict(image=None)),
        held_out_artist=p.model_copy(update=dict(image="flagpack/ZZ", question="?")),
        answer_in_question=p.model_copy(update=dict(image=None, question=f"{p.answer}?")),
    )
    faulty = Benchmark([edits[fault]] if fault in edits else [], [probes[fault]] if fault in probes else [])
    assert audit_splits(bench | dict(valid=faulty))[fault] > 0


def test_probes_that_nobody_can_win_are_refused_and_the_others_stay_as_they_were(monkeypatch, world, bench, m):
    assert not any(b.refused for b in bench.values())
    full = build_benchmark(m, world, "valid", 3, 1)
    lost = {p.id for p in full.probes if p.kind == "text_rephrase"}
    monkeypatch.setattr(benchmark, "unwinnable", lambda p: "a cause" if p.id in lost else "")
    less = build_benchmark(m, world, "valid", 3, 1)
    assert less.probes == [p for p in full.probes if p.id not in lost] and less.edits == full.edits
    assert less.refused == dict.fromkeys(lost, "a cause") and less.strata == full.strata
    card = data_card({"valid": less}, world, "toy")
    assert f"{len(lost)} probes were left out" in card and all(f"`{i}` | a cause" in card for i in lost)
    assert "0 probes were left out" in data_card({"valid": full}, world, "toy")


@pytest.mark.parametrize(
    "change, cause",
    [
        (dict(old_names=["Japan"]), "undecided"),
        (dict(edit_names=["Peru"]), "undecided"),
        (dict(edit_names=["Peru"], old_names=["Japan"]), "dissonant: The flag is that of Japan."),
        (dict(answer="?!"), "is not read as right"),
        (dict(chain=[["Chile"]]), "does not commit to every step"),
    ],
)
def test_why_a_probe_cannot_be_won(change, cause):
    fields = dict(id="p", edit_id="e", kind="exact", question="Whose flag?", answer="Japan", edit_names=["Japan"])
    p = Probe(**fields, old_names=["Peru"], path=[("country", "", "Japan")])
    assert unwinnable(p) == "" and cause in unwinnable(p.model_copy(update=change))


def test_a_value_that_is_called_as_its_country_can_be_won(world):
    for code in ("SG", "SM", "GT", "TN", "TO"):
        a, b = world[code], world["JP"]
        for r in ("capital", "language"):
            e = attribute_edit(world, a, b, r, f"What is the {r}?", f"twemoji/{code}")
            assert unwinnable(in_scope_probe(e, "exact", e.question, e.image)) == ""


def test_strata_of_what_the_model_was_never_shown(bench):
    measured = strata_of(bench["test"])
    world = load_world()
    unknown = [measured[e.id] for e in bench["test"].edits if not world[e.subject].seen]
    known = [measured[e.id] for e in bench["test"].edits if world[e.subject].seen]
    assert unknown.count("strong") <= 1 and known.count("strong") >= 0.9 * len(known)


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_model_that_holds_more_is_in_no_weaker_stratum(old, new):
    order = ["no-prior", "weak", "strong"]
    s = stratum(old, new)
    assert (s == "aligned") == (new >= 0.5)
    if s != "aligned":
        assert order.index(stratum(min(1.0, old + 0.1), new)) >= order.index(s)


def test_attributes_run_out_with_a_clear_error(world):
    with pytest.raises(CraneError, match="ask for fewer"):
        attribute_edits(world, "valid", 5000, True)


def test_a_way_never_starts_where_it_ends(world):
    "Iraq's land neighbour becomes Jordan, whose land neighbour is Iraq: Jordan must not be where a question sets out."
    for code in ("IQ", "SN", "PE"):
        for o in [e for e in world.entities.values() if neighbour(world, e) is world[code]]:
            edit = Edit(
                id="e",
                modality="textual",
                relation="neighbour",
                subject=code,
                subject_name=world[code].name,
                target=o.code,
                target_new=o.name,
                target_old=world[code].facts["neighbour"],
                question="?",
            )
            for seed in range(20):
                probes = compositional(edit, world, random.Random(seed), "train")
                assert not [p.question for p in probes if mentions(p.question, [o.name])]


def test_routing_chains_follow_the_path(world, bench):
    by_id = {e.id: e for e in bench["train"].edits}
    for p in bench["train"].probes:
        e, inside = by_id[p.edit_id], "locality" not in p.kind
        noted, bare = routing_chain(p, [(e, inside)], world), routing_chain(p, [], world)
        assert f"<answer>{p.answer}</answer>" in noted and "note" not in bare, p.id
        assert ("the note applies" in noted or "it applies" in noted) == inside, p.id


# ---- files

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PROBES = st.builds(
    Probe,
    id=TEXT,
    edit_id=TEXT,
    kind=st.sampled_from(["exact", "multi_hop"]),
    question=TEXT,
    image=st.just(None),
    answer=TEXT,
    aliases=st.lists(TEXT, max_size=2),
    chain=st.lists(st.lists(TEXT, max_size=2), max_size=2),
    edit_names=st.lists(TEXT, max_size=2),
    old_names=st.lists(TEXT, max_size=2),
    tags=st.lists(TEXT, max_size=2),
    hops=st.integers(0, 3),
    path=st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=2),
    source=TEXT,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(PROBES, min_size=1, max_size=3))
def test_records_survive_the_file(tmp_path_factory, ps):
    path = tmp_path_factory.mktemp("p") / "x.parquet"
    write_records(path, ps, None)
    assert read_parquet(Probe, path)[0] == ps


def strata_of(b):
    return {r["edit_id"]: r["stratum"] for r in b.strata}


def test_a_split_is_whole_by_itself(bench, world, tmp_path):
    save_benchmark(bench["test"], tmp_path, "test", world)
    bare = load_world()
    again = read_benchmark(tmp_path, "test", bare)
    assert (again.edits, again.probes) == (bench["test"].edits, bench["test"].probes)
    assert {p.image for p in again.probes if p.image} <= set(bare.images)
    assert strata_of(again) == strata_of(bench["test"])
    before = (tmp_path / "test.probes.parquet").read_bytes()
    save_benchmark(bench["test"], tmp_path, "test", world)
    assert (tmp_path / "test.probes.parquet").read_bytes() == before


def test_a_damaged_file_is_named(bench, world, tmp_path):
    with pytest.raises(CraneError, match="holds no benchmark: run 05a_benchmark"):
        read_benchmark(tmp_path, "test")
    save_benchmark(bench["valid"], tmp_path, "test", world)
    with pytest.raises(CraneError, match="holds no split 'tset': choose test"):
        read_benchmark(tmp_path, "tset")
    f = tmp_path / "test.probes.parquet"
    half = f.read_bytes()[:2000]
    f.unlink()
    with pytest.raises(CraneError, match="test.probes.parquet is missing"):
        read_benchmark(tmp_path, "test")
    f.write_bytes(half)
    with pytest.raises(CraneError, match="test.probes.parquet is not a readable Parquet file"):
        read_benchmark(tmp_path, "test")
    write_records(tmp_path / "test.edits.parquet", bench["valid"].probes, world)
    with pytest.raises(CraneError, match="test.edits.parquet row 0 is no Edit"):
        read_benchmark(tmp_path, "test")


def test_datasets_reads_it(bench, world, tmp_path):
    from datasets import load_dataset

    save_benchmark(bench["valid"], tmp_path / "b", "valid", world)
    files = {"valid": str(tmp_path / "b" / "valid.probes.parquet")}
    ds = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))["valid"]
    probes = bench["valid"].probes
    i = next(i for i, p in enumerate(probes) if p.image)
    assert len(ds) == len(probes)
    assert ds[i]["image"].size
    assert ds[i]["path"] == [list(fact) for fact in probes[i].path]


def asked(e):
    return dict(question=e.question, image=e.image, target_new=e.target_new)


def test_the_vlkeb_export_goes_through_the_door_again(bench, tmp_path):
    rows = as_vlkeb(bench["test"])
    (tmp_path / "vlkeb.json").write_text(json.dumps(rows))
    public = load_public("VLKEB multi-hop", tmp_path / "vlkeb.json")
    visual = bench["test"].only(lambda e, stratum: kind_of(e) == "visual")
    assert list(map(asked, public.edits)) == list(map(asked, visual.edits))
    assert sum(p.kind == "multi_hop" for p in public.probes) == sum(p.kind == "multi_hop" for p in visual.probes)

"GRACE, WISE, SERAC, IKE and the retrieval prompt: what they fix, leave bit for bit alone, and take away with them."

import random
from functools import partial

import pytest
import torch
from families import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st

from crane.core import CraneError, Probe, find_name, mentions
from crane.editors import DEMOS, demonstrations, edit_note, edit_prompt, ike, ike_0, weights_hash, with_notes
from crane.generation import answer, teacher_forced
from crane.memory_editors import (
    SAME,
    Codebook,
    SideMemory,
    grace,
    load_serac,
    prompt_ends,
    prompt_tail,
    question_about,
    scope_vectors,
    serac,
    stranger_to,
    strangers,
    train_counterfactual,
    train_serac,
    wise,
)
from crane.model import Prompt, chat, encode, load_mllm
from crane.questions import ask, counterfactuals, pool
from crane.retrieval import retrieval_prompt
from crane.running import run_editor, sequence, state_of
from crane.world import EDIT_ARTIST, load_world, look_alikes

CHEAP = settings(max_examples=60, deadline=None)


@pytest.fixture(scope="module")
def world():
    return load_world()


@pytest.fixture(scope="module")
def m():
    return load_mllm()


@pytest.fixture(scope="module")
def edits(world):
    return counterfactuals(world, "valid", 4)


@pytest.fixture(scope="module")
def edit(edits):
    return edits[0]


@pytest.fixture(scope="module")
def file(m, world, tmp_path_factory):
    return train_serac(m, world, tmp_path_factory.mktemp("serac") / "serac.safetensors", edits=200, steps=6)


@pytest.fixture(scope="module")
def editors(file):
    return {
        "GRACE": grace,
        "WISE": wise,
        "SERAC": partial(serac, file=file),
        "IKE": ike,
        "IKE-0": ike_0,
        "retrieval prompt": retrieval_prompt,
    }


def logits(m, prompts, world):
    with torch.no_grad():
        return m.model(**{k: v.to(m.device) for k, v in encode(m, prompts, world).items()}).logits[:, -1]


def others(edit, world, n=5):
    "Questions that no edit of this flag is about."
    return [Prompt(edit.question, f"{EDIT_ARTIST}/{e.code}") for e in pool(world, "train")[:n]] + [
        Prompt(f"What is the capital of {edit.subject_name}?")
    ]


# ---- restoration

NAMES = ["GRACE", "WISE", "SERAC", "IKE", "IKE-0", "retrieval prompt"]


@pytest.mark.parametrize(
    "error", [None, RuntimeError("half-way"), KeyboardInterrupt()], ids=["as it should", "error", "interrupt"]
)
@pytest.mark.parametrize("name", NAMES)
def test_all_is_restored_whatever_happens_under_the_edit(name, error, m, world, edit, editors):
    before = state_of(m)
    try:
        with editors[name](m, edit, world) as e:
            e.ask([edit_prompt(edit)], world)
            if error:
                raise error
    except (RuntimeError, KeyboardInterrupt) as caught:
        assert caught is error
    assert state_of(m) == before


@pytest.mark.parametrize("error", [RuntimeError("half-way"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize(
    "learn",
    [
        lambda m, e, w: grace(m, e, w).__enter__(),
        lambda m, e, w: wise(m, e, w).__enter__(),
        lambda m, e, w: train_counterfactual(m, [e], w, steps=5, batch=2),
    ],
    ids=["GRACE", "WISE", "SERAC"],
)
def test_all_is_restored_when_the_training_breaks_off(learn, error, m, world, edit):
    "Raised inside the third training pass, in the middle of the model."
    before, passes = state_of(m), []

    def count(*_):
        if torch.is_grad_enabled():
            passes.append(1)
        if len(passes) == 3:
            raise error

    layer = m.model.get_decoder().layers[2]
    h = layer.register_forward_pre_hook(count)
    try:
        with pytest.raises(type(error)):
            learn(m, edit, world)
    finally:
        h.remove()
    assert len(passes) == 3 and state_of(m) == before


def test_serac_leaves_no_file_when_its_training_breaks_off(m, world, tmp_path, monkeypatch):
    def interrupted(*a, **k):
        raise KeyboardInterrupt

    monkeypatch.setattr("crane.memory_editors.train_counterfactual", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_serac(m, world, tmp_path / "s.safetensors", edits=112, steps=2)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_answer_leaves_nothing_that_acts_later(m, world, edit):
    "What is not a question to the whole model must not be changed, also after a pass that broke off."
    from crane.model import embed_texts

    plain = embed_texts(m, [edit.question])

    def stop(*_):
        raise KeyboardInterrupt

    with grace(m, edit, world, steps=2) as e:
        h = m.model.get_decoder().layers[3].register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            e.ask([edit_prompt(edit)], world)
        h.remove()
        e.ask([edit_prompt(edit)], world)
        assert torch.equal(embed_texts(m, [edit.question]), plain)


# ---- GRACE


def at(*x):
    return torch.tensor([float(v) for v in x])


@pytest.mark.parametrize(
    "second, target, radii",
    [
        ((3.0, 0), "Japan", [1.0, 1.0]),  # add: farther than both balls together
        ((2.0, 0), "Japan", [2.0 + SAME]),  # expand: the balls meet, the target is the same
        ((0.5, 0), "Japan", [1.0]),  # already inside
        ((1.0, 0), "Peru", [0.5 - 1e-5, 0.5]),  # split: another target
        ((0.0, 0), "Peru", [1.0]),  # the very same question: the newer target takes its place
    ],
    ids=["add", "expand", "inside", "split", "same question"],
)
def test_codebook_by_hand(second, target, radii):
    book = Codebook()
    book.place(at(0, 0), "Japan", at(0, 0), 1.0)
    i = book.place(at(*second), target, at(0, 0), 1.0)
    assert book.radii == pytest.approx(radii, abs=1e-6) and book.targets[i] == target


@CHEAP
@given(st.lists(st.tuples(st.floats(-4, 4), st.floats(-4, 4), st.sampled_from("ABC")), min_size=1, max_size=12))
def test_a_placed_question_always_meets_its_own_target(placed):
    book = Codebook()
    for x, y, target in placed:
        book.place(at(x, y), target, at(0, 0), 1.0)
        i, inside = book.lookup(at(x, y)[None])
        assert inside.all() and book.targets[i] == target
    assert all(r >= 0 for r in book.radii) and len(book.keys) == len(book.values) == len(book.targets)


def test_grace_fixes_the_exact_question_and_leaves_the_rest_bit_identical(m, world, edits):
    for e in edits[:2]:
        prompts = [edit_prompt(e), *others(e, world)]
        free, said = logits(m, prompts, world), answer(m, prompts, world)
        with grace(m, e, world) as ed:
            assert ed.forced([edit_prompt(e)], [e.target_new], world)[0] == (1.0, True)
            assert ed.touched == 257
            moved, says = logits(m, prompts, world), ed.ask(prompts, world)
        assert torch.equal(moved[1:], free[1:]) and not torch.equal(moved[0], free[0])
        assert says[1:] == said[1:] and says[0].text.startswith(e.target_new)


def test_grace_keeps_several_edits_in_one_book(m, world, edits):
    with sequence("GRACE", m, edits[:2], world) as e:
        forced = e.forced([edit_prompt(x) for x in edits[:2]], [x.target_new for x in edits[:2]], world)
        assert [exact for _, exact in forced] == [True, True]
        assert e.touched == 2 * 257


def test_where_a_prompt_ends(m, world, edit):
    "Behind demonstrations, too, it is the last turn that counts."
    tail = prompt_tail(m)
    with ike(m, edit, world) as e:
        p = e.rewrite(edit_prompt(edit))
    enc = encode(m, [p, Prompt("Who?")], world, [edit.target_new, "x"])
    starts = (enc["labels"] != -100).int().argmax(1)  # of the targets
    assert prompt_ends(enc["input_ids"], tail).tolist() == (starts - 1).tolist()


# ---- WISE


def test_wise_leaves_the_main_memory_alone_and_routes_by_row(m, world, edit):
    clean, prompts = weights_hash(m), [edit_prompt(edit), *others(edit, world)]
    free, said = logits(m, prompts, world), answer(m, prompts, world)
    with wise(m, edit, world) as e:
        assert weights_hash(m) == clean
        assert e.forced([edit_prompt(edit)], [edit.target_new], world)[0] == (1.0, True)
        moved, says = logits(m, prompts, world), e.ask(prompts, world)
    main = (moved == free).all(1).tolist()  # what the router leaves to the main memory is left bit for bit
    assert not main[0] and sum(main) >= len(prompts) / 2
    assert all(a == b for a, b, left in zip(says, said, main) if left)
    assert says[0] != said[0]


def test_wise_changes_its_share_and_refuses_a_second_edit(m, world, edit, edits):
    weight = m.model.get_decoder().layers[-1].mlp.down_proj.weight
    with wise(m, edit, world, share=0.1, steps=3) as e:
        assert 0 < e.touched <= 0.11 * weight.numel() and e.stored == weight.numel() * 4
    with pytest.raises(CraneError, match="single-edit form"):
        sequence("WISE", m, edits[:2], world).__enter__()


def test_wise_does_not_depend_on_padding():
    side = SideMemory(torch.eye(3))
    side.side[0, 0] = 2.0
    side.limit = 1.0
    x = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0)) * 4
    ends = torch.tensor([3, 3])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    side(x, x, ends, mask)
    padded = side.score[0].item()
    side(x[:1, 1:], x[:1, 1:], ends[:1] - 1, None)
    assert side.score[0].item() == pytest.approx(padded)


def test_strangers_are_of_the_train_split_and_never_about_the_edit(world, edits):
    train = {e.code for e in pool(world, "train")}
    for e in edits:
        for p in strangers(e, world, 8):
            assert (p.image.split("/")[1] in train) if p.image else not mentions(p.question, [e.subject_name])


# ---- SERAC


def test_serac_leaves_what_is_out_of_scope_bit_identical(m, world, edit, file):
    prompts = others(edit, world)
    free, said = logits(m, prompts, world), answer(m, prompts, world)
    with serac(m, edit, world, file=file) as e:
        assert [bool(x) for x in e.inside([edit_prompt(edit), *prompts])] == [True] + [False] * len(prompts)
        assert torch.equal(logits(m, prompts, world), free)
        mixed = e.ask([prompts[0], edit_prompt(edit), *prompts[1:]], world)
        assert [mixed[0], *mixed[2:]] == said
        assert torch.equal(logits(m, prompts, world), free)  # also after the second model has spoken


def test_the_scope_of_unseen_edits(m, world, file):
    "On validation edits, which neither part was trained on."
    scope, _ = load_serac(file, m)
    es = counterfactuals(world, "valid", 60, 1)
    near, rng = look_alikes(world, sorted({e.subject for e in es})), random.Random(1)
    own = scope_vectors(m, [edit_prompt(e) for e in es], world)

    def taken(ps):
        return (scope(own, scope_vectors(m, ps, world)) > 0.5).float().mean().item()

    assert taken([question_about(e, world, rng).prompt for e in es]) >= 0.95
    assert taken([stranger_to(e, world, near, rng) for e in es]) <= 0.05
    assert taken([Prompt(e.question, f"{EDIT_ARTIST}/{near[e.subject][0]}") for e in es]) <= 0.05


def test_serac_finds_the_right_one_of_several_edits(m, world, edits, file):
    with sequence("SERAC", m, edits, world, file=file) as e:
        assert [p.notes for p in e.inside([edit_prompt(x) for x in edits])] == [(edit_note(x),) for x in edits]
        forced = e.forced([edit_prompt(x) for x in edits], [x.target_new for x in edits], world)
        assert len(forced) == len(edits)


def test_the_score_of_a_row_is_that_of_the_model_that_answers(m, world, edit, file):
    probe = Probe(
        id="p",
        edit_id=edit.id,
        kind="exact",
        question=edit.question,
        image=edit.image,
        answer=edit.target_new,
        edit_names=[edit.target_new],
    )
    row = run_editor("SERAC", m, [edit], [probe], world, file=file)[0]
    with serac(m, edit, world, file=file) as e:
        noted = e.forced([edit_prompt(edit)], [edit.target_new], world)[0]
    assert (row["tf"], row["tf_exact"]) == noted
    assert noted != teacher_forced(m, [edit_prompt(edit)], [edit.target_new], world)[0]


def test_serac_refuses_what_it_cannot_do(m, world, edit, file, tmp_path):
    with pytest.raises(CraneError, match="has to be trained"):
        serac(m, edit, world).__enter__()
    with pytest.raises(CraneError, match="has to be trained"):
        serac(m, edit, world, file=tmp_path / "none").__enter__()
    with pytest.raises(CraneError, match="changes only how pictures are read"):
        serac(m, edit.model_copy(update=dict(modality="textual", image=None)), world, file=file)
    w = m.model.get_input_embeddings().weight
    with torch.no_grad():
        old = w[0, 0].item()
        w[0, 0] += 1
    try:
        with pytest.raises(CraneError, match="trained for other weights"):
            load_serac(file, m)
    finally:
        with torch.no_grad():
            w[0, 0] = old


def test_serac_is_trained_once(m, world, file):
    made = file.stat().st_mtime_ns
    assert train_serac(m, world, file, edits=200, steps=6) == file
    assert file.stat().st_mtime_ns == made


# ---- in context


def test_demonstrations_are_of_train_edits_and_right(world, edits):
    among = counterfactuals(world, "train", 60)
    train = {e.code for e in pool(world, "train")}
    for e in edits:
        for kind, (p, r) in zip(DEMOS, demonstrations(e, among, world)):
            shown, noted = (world[k.split("/")[1]] for k in (p.image, p.notes[0].image))
            assert {shown.code, noted.code} <= train
            if kind == "retain":
                assert shown is not noted and find_name(r, [shown.name]) >= 0 and "does not apply" in r
            else:
                assert shown is noted and "so it applies" in r and not mentions(r, [shown.name])


def test_ike_fits_the_model_and_ike_0_is_the_bare_note(m, world, edits):
    for e in edits:
        with ike_0(m, e, world) as bare:
            assert chat(m, bare.rewrite(edit_prompt(e))) == chat(m, with_notes(edit_prompt(e), e))
        with ike(m, e, world) as ed:
            assert encode(m, [ed.rewrite(edit_prompt(e))], world)["input_ids"].shape[1] + 64 <= 512


def test_a_textual_edit_needs_no_picture(m, world, edit):
    a, b = world[edit.subject], world[edit.target]
    moved = edit.model_copy(
        update=dict(
            id="t",
            modality="textual",
            relation="capital",
            image=None,
            question=f"What is the capital of {a.name}?",
            target_old=a.facts["capital"],
            target_new=b.facts["capital"],
        )
    )
    for f in (grace, wise):
        with f(m, moved, world) as e:
            assert e.forced([edit_prompt(moved)], [moved.target_new], world)[0][0] > 0.6, f
    with ike_0(m, moved, world) as e:
        assert e.rewrite(edit_prompt(moved)).notes == (edit_note(moved),)


def test_the_library_speaks_only_where_it_finds(m, world, edits):
    with sequence("retrieval prompt", m, edits, world, thresholds=dict(visual=0.7)) as e:
        assert [e.rewrite(edit_prompt(x)).notes for x in edits] == [(edit_note(x),) for x in edits]
        assert e.rewrite(Prompt("What is the capital of Peru?")).notes == ()
    quiet = others(edits[0], world)
    free = answer(m, quiet, world)
    with retrieval_prompt(m, edits[0], world, thresholds=dict(visual=0.9)) as e:
        assert e.ask(quiet, world) == free


# ---- any model


@pytest.mark.parametrize("family", FAMILIES)
def test_no_editor_is_tied_to_the_pocket_model(family, world, edit, checkpoint_of):
    m = load_mllm(checkpoint_of(family))
    rng = random.Random(0)
    outside = [Prompt(edit.question, f"{EDIT_ARTIST}/{e.code}") for e in pool(world, "train")[:2]] + [
        Prompt(ask("text", rng, x="Peru", r="capital"))
    ]
    answer(m, outside, world, max_new_tokens=2)
    before = state_of(m)  # after the first call, which puts transformers' own attributes in place
    for f in (partial(grace, radius=1e-3, steps=2), partial(wise, steps=2, layer=-1, lr=0.01), ike, retrieval_prompt):
        free = answer(m, outside, world, max_new_tokens=4)
        with f(m, edit, world) as e:
            assert len(e.ask([edit_prompt(edit)], world, max_new_tokens=4)) == 1
            if f.__class__ is partial and f.func is grace:
                assert e.ask(outside, world, max_new_tokens=4) == free
        assert state_of(m) == before, f

"Weight editors are restored whatever happens, refuse bad edits, leave nothing of a sequence, and learn many at once."

import os
import subprocess
import sys

import pytest
import torch
from families import FAMILIES

from crane.core import CraneError, Probe
from crane.editors import (
    all_weights,
    attention,
    check_edit,
    check_edits,
    edit_note,
    edit_prompt,
    encoded,
    last_mlp,
    projector,
    read_tensors,
    restored,
    row_losses,
    targets,
    write_tensors,
)
from crane.generation import answer, answer_batch, told_of_rows
from crane.mend import (
    Mend,
    changes,
    factors,
    hooked,
    load_mend,
    low_rank,
    mend_layers,
    new_mend,
    save_mend,
    train_mend,
)
from crane.model import Prompt, encode, load_mllm
from crane.questions import counterfactuals
from crane.running import (
    EDITORS,
    TOGETHER,
    breaking,
    fit_together,
    following,
    own_weights,
    remembered,
    run_editor,
    run_sequence,
    run_together,
    sequence,
    state_of,
    together,
)
from crane.world import load_world

WEIGHT = ["FT-L", "FT-V", "FT-all", "LoRA", "FT-L chain", "LoRA chain", "MEND"]


@pytest.fixture(scope="module")
def world():
    return load_world()


@pytest.fixture(scope="module")
def m():
    m = load_mllm()
    w = load_world()
    # transformers puts its own attributes and hooks in place at the first call
    answer(m, [edit_prompt(counterfactuals(w, "train", 1)[0])], w, max_new_tokens=2)
    return m


@pytest.fixture(scope="module")
def edits(world):
    return counterfactuals(world, "train", 6, 3)


@pytest.fixture(scope="module")
def net(m, world):
    return new_mend(m, counterfactuals(world, "train", 16, 4), world)


@pytest.fixture(scope="module")
def textual(edits):
    return edits[0].model_copy(
        update=dict(
            id="text",
            modality="textual",
            relation="capital",
            subject="PE",
            subject_name="Peru",
            image=None,
            question="What is the capital of Peru?",
            target="NO",
            target_old="Lima",
            target_old_aliases=[],
            target_new="Oslo",
            aliases=[],
        )
    )


def given(name, net):
    return dict(file=net) if name == "MEND" else {}


def enter(name, m, edit, world, net):
    with EDITORS[name](m, edit, world, **given(name, net)):
        pass


# --- restoration ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WEIGHT)
def test_an_edit_changes_the_weights_and_then_nothing(m, world, edits, net, name):
    before = state_of(m)
    with EDITORS[name](m, edits[0], world, **given(name, net)) as ed:
        assert state_of(m).weights != before.weights
        assert ed.steps > 0 and ed.seconds > 0
        assert ed.touched > 0 and ed.stored == 4 * ed.touched
    assert state_of(m) == before


@pytest.mark.parametrize("name", WEIGHT)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("at", [1, 2, None])
def test_restored_when_broken_in_training_or_in_use(m, world, edits, net, name, error, at):
    before = state_of(m)
    if name == "MEND" and at == 2:
        pytest.skip("MEND passes once")
    edited = EDITORS[name](m, edits[0], world, **given(name, net))
    with pytest.raises(error), breaking(m, error() if at else None, at or 0), edited:
        raise error
    assert state_of(m) == before


@pytest.mark.parametrize("name", list(TOGETHER))
@pytest.mark.parametrize("at", [1, None])
def test_many_at_once_are_restored_when_interrupted(m, world, edits, net, name, at):
    def use(several):
        with several as t, t.under([0, 1, 2]):
            raise KeyboardInterrupt

    before = state_of(m)
    several = together(name, m, edits[:3], world, **given(name, net))
    with pytest.raises(KeyboardInterrupt), breaking(m, KeyboardInterrupt() if at else None, at or 0):
        use(several)
    assert state_of(m) == before


@pytest.mark.parametrize("calls", [1, 4, 9])
def test_lora_is_restored_when_peft_is_interrupted_while_it_puts_adapters_in(m, world, edits, monkeypatch, calls):
    from peft.tuners.lora import LoraModel

    made, n = LoraModel._create_new_module, []

    def broken(*a, **k):
        n.append(1)
        if len(n) == calls:
            raise KeyboardInterrupt
        return made(*a, **k)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(LoraModel, "_create_new_module", staticmethod(broken if calls < 9 else made))
    if calls == 9:
        monkeypatch.setattr(LoraModel, "merge_and_unload", interrupted, raising=False)
    before = state_of(m)
    with pytest.raises(KeyboardInterrupt):
        enter("LoRA", m, edits[0], world, None)
    assert state_of(m) == before


def test_restored_puts_back_what_was_not_in_training(m):
    p = next(m.model.parameters())
    before = state_of(m)
    p.requires_grad_(False)
    try:
        with restored(m, all_weights(m)):
            assert p.requires_grad
        assert not p.requires_grad
    finally:
        p.requires_grad_(True)
    assert state_of(m) == before


def test_single_edits_do_not_pile_up(m, world, edits):
    with EDITORS["FT-L"](m, edits[0], world) as ed:
        first = ed.ask([edit_prompt(e) for e in edits], world)
    for e in edits[1:3]:
        enter("FT-L", m, e, world, None)
    with EDITORS["FT-L"](m, edits[0], world) as ed:
        assert ed.ask([edit_prompt(e) for e in edits], world) == first


def test_chance_of_others_is_left_alone(m, world, edits):
    "LoRA starts from a seed of its own, and the state of torch's random numbers is not touched."
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    enter("LoRA", m, edits[0], world, None)
    assert torch.equal(torch.rand(3), expected)


# --- sequences ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["FT-L", "LoRA chain", "MEND", "IKE"])
@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_a_sequence_keeps_edits_until_it_ends(m, world, edits, net, name, error):
    before = state_of(m)

    def use():
        with sequence(name, m, edits[:2], world, **given(name, net)) as ed:
            both = state_of(m).weights
            if error:
                raise error
        return ed, both

    if error:
        with pytest.raises(error):
            use()
    else:
        ed, both = use()
        with EDITORS[name](m, edits[0], world, **given(name, net)) as first:
            one = state_of(m).weights
        assert ed.steps >= first.steps
        assert name == "IKE" or len({before.weights, one, both}) == 3
        if name == "IKE":
            assert len(ed.rewrite(edit_prompt(edits[0])).notes) == 2
        if name == "LoRA chain":
            assert ed.stored == 2 * first.stored
        if name == "FT-L":
            assert ed.stored == first.stored
    assert state_of(m) == before


def test_a_sequence_of_one_is_the_single_edit(m, world, edits):
    with sequence("FT-L", m, edits[:1], world):
        a = state_of(m).weights
    with EDITORS["FT-L"](m, edits[0], world):
        assert state_of(m).weights == a


def test_many_edits_in_one_model_are_asked_together(m, world, edits):
    before = state_of(m)
    lot = edits[:3]
    probes = probes_of(lot)
    rows = run_sequence("FT-L chain", m, lot, probes, world)
    assert [r["probe_id"] for r in rows] == [p.id for p in probes]
    assert {r["held"] for r in rows} == {3}
    assert state_of(m) == before
    with sequence("FT-L chain", m, lot, world) as ed:
        said = ed.ask([Prompt(p.question, p.image) for p in probes], world)
    assert [r["text"] for r in rows] == [c.text for c in said]


def test_a_sequence_refuses_to_undo_itself(m, world, edits):
    again = edits[0].model_copy(update=dict(id="again", target_new="Peru"))
    with pytest.raises(CraneError, match="'again', field 'question'.*the later would undo the earlier"):
        sequence("FT-L", m, [edits[0], again], world)


# --- bad edits ------------------------------------------------------------------------------------

BAD = {
    "is empty; say what the edited": dict(target_new=" . "),
    "is empty; say what is asked": dict(question=" "),
    "a visual edit has no image": dict(image=None),
    "tokens long, and the budget is 32": dict(target_new="long " * 60),
    "chat or think markup": dict(target_new="Peru<|end|>"),
}


@pytest.mark.parametrize("says", BAD)
@pytest.mark.parametrize("name", EDITORS)
def test_every_editor_refuses_bad_edits_untouched(m, world, edits, net, name, says):
    before = state_of(m)
    bad = edits[0].model_copy(update=BAD[says])
    with pytest.raises(CraneError, match=says) as e:
        enter(name, m, bad, world, net)
    assert repr(bad.id) in str(e.value) and "field" in str(e.value) and "\n" not in str(e.value)
    assert state_of(m) == before


def test_the_old_answer_is_no_target(m, edits):
    for old in (edits[0].target_old, f"The {edits[0].target_old.upper()}"):
        with pytest.raises(CraneError, match="is the old answer"):
            check_edit(edits[0].model_copy(update=dict(target_new=old)), m)
    alias = edits[0].model_copy(update=dict(target_old_aliases=["Persia"], target_new="Persia"))
    with pytest.raises(CraneError, match="is the old answer"):
        check_edit(alias, m)


def test_a_picture_editor_refuses_a_textual_edit(m, world, textual):
    with pytest.raises(CraneError, match="field 'image'.*such as FT-L"):
        enter("FT-V", m, textual, world, None)
    with pytest.raises(CraneError, match="field 'image'"):
        run_editor("FT-V", m, [textual], [], world)
    enter("FT-L", m, textual, world, None)


def test_duplicates_are_refused_everywhere(m, world, edits):
    for f in (
        lambda: check_edits([edits[0], edits[1], edits[0]], m),
        lambda: run_editor("base", m, edits[:1] * 2, [], world),
        lambda: run_together("LoRA", m, edits[:1] * 2, [], world),
    ):
        with pytest.raises(CraneError, match="field 'id': edits 0 and . of the list have the same"):
            f()


def test_every_target_of_the_world_fits_the_budget(m, world):
    for split in ("train", "valid", "test"):
        check_edits(counterfactuals(world, split, 60), m)


def test_a_learning_rate_that_explodes_is_named(m, world, edits):
    before = state_of(m)
    with pytest.raises(CraneError, match="lower lr"), EDITORS["FT-L"](m, edits[0], world, lr=1e30):
        pass
    says = repr(edits[0].id) + ".*lower lr"
    with pytest.raises(CraneError, match=says), together("FT-L", m, edits[:1], world, lr=1e30):
        pass
    assert state_of(m) == before


def test_the_pools_of_parameters(m):
    n = {f: sum(p.numel() for p in f(m)) for f in (last_mlp, projector, attention, all_weights)}
    assert n[all_weights] == sum(p.numel() for p in m.model.parameters())
    assert all(0 < n[f] < n[all_weights] for f in (last_mlp, projector, attention))
    headless = type("M", (), dict(name="none", model=torch.nn.Linear(2, 2)))
    with pytest.raises(CraneError, match="use FT-L or LoRA"):
        projector(headless)


# --- the chain ------------------------------------------------------------------------------------


def test_chains_end_in_the_target_and_are_well_formed(m, world, edits, textual):
    from crane.core import parse_trace

    for e, r in zip([*edits, textual], targets(m, [*edits, textual], world, True)):
        t = parse_trace(r)
        assert t.well_formed and t.answer == e.target_new
        assert e.target_new in t.think and e.target_old not in r


# --- MEND -----------------------------------------------------------------------------------------


def test_factors_give_the_gradient_of_every_row(m, world, edits):
    layers = list(mend_layers(m).values())
    enc = encoded(m, [edit_prompt(e) for e in edits[:3]], [e.target_new for e in edits[:3]], world)
    fs = factors(m, enc, layers)
    for row in range(3):
        own = torch.autograd.grad(row_losses(m, enc)[row], [x.weight for x in layers])
        for (u, d), g, x in zip(fs, own, layers):
            assert u.shape[2] == x.in_features and d.shape[2] == x.out_features
            assert torch.allclose(d[row].T @ u[row], g, atol=1e-5)


def test_mend_by_hand():
    "One weight of 2 → 1, identity networks, one token: W changes by −α δ u, normalised by mean 1 and deviation 2."
    net = Mend({"w": (2, 1)}, rank=1, edit_lr=0.5)
    net.norm_2x1.copy_(torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]))
    u, d = net("w", torch.tensor([[[3.0, 5.0]]]), torch.tensor([[[7.0]]]))
    assert torch.allclose(u, torch.tensor([[[1.0, 2.0]]]), atol=1e-4)
    assert torch.allclose(d, torch.tensor([[[-0.5 * 3]]]), atol=1e-4)
    assert torch.allclose(d[0].T @ u[0], torch.tensor([[-1.5, -3.0]]), atol=1e-3)
    _, without_gradient = net("w", torch.ones(1, 2, 2), torch.zeros(1, 2, 1))
    assert without_gradient.abs().max() == 0


def test_mend_networks_are_shared_by_shape_and_told_apart_by_scale():
    net = Mend({"a": (3, 5), "b": (3, 5), "c": (5, 3)}, rank=2)
    assert set(net.nets) == {"3x5", "5x3"}
    assert net.nets["3x5"][0].scale.shape == (2, 8) and net.nets["5x3"][0].scale.shape == (1, 8)
    assert net.steps.shape == (3,)
    with torch.no_grad():
        for part in net.nets["3x5"]:
            part.u.normal_()
            part.scale[1] = 0
    u, d = torch.randn(1, 4, 3), torch.randn(1, 4, 5)
    assert not torch.allclose(net("a", u, d)[0], u)
    assert torch.allclose(net("b", u, d)[0], u, atol=1e-5)


def test_training_mend_lowers_its_loss_and_leaves_the_model_alone(m, world, tmp_path):
    before = state_of(m)
    train = counterfactuals(world, "train", 12, 0)
    net, losses = train_mend(m, train, world, 24, batch=4, seed=0)
    assert state_of(m) == before
    assert sum(a for a, _ in losses[-4:]) < sum(a for a, _ in losses[:4])
    again = load_mend(save_mend(net, m, tmp_path / "mend.safetensors"), m)
    made, read = (changes(n, m, train[:2], world).values() for n in (net, again))
    for (a, b), (c, d) in zip(made, read):
        assert torch.equal(a, c) and torch.equal(b, d)
    _, once = train_mend(m, train, world, 2, batch=4, seed=0)
    _, twice = train_mend(m, train, world, 2, batch=4, seed=0)
    assert once == twice


def test_mend_needs_enough_edits(m, world):
    with pytest.raises(CraneError, match="cannot be trained on 3 edits, 8 a step"):
        train_mend(m, counterfactuals(world, "train", 3), world, 1)


def test_mend_of_another_model_is_refused(m, world, net, edits, tmp_path):
    f = save_mend(net, m, tmp_path / "mend.safetensors")
    w = m.model.get_input_embeddings().weight
    with restored(m, [w]):
        with torch.no_grad():
            w[0] += 1
        with pytest.raises(CraneError, match="trained for another model"):
            load_mend(f, m)
    f.write_bytes(f.read_bytes()[:100])
    with pytest.raises(CraneError, match="is damaged"):
        load_mend(f, m)
    with pytest.raises(CraneError, match=r"trained\(run\)"):
        enter("MEND", m, edits[0], world, None)


# --- many at once ---------------------------------------------------------------------------------


def probes_of(edits):
    "Unequal numbers of probes, in pictures and in words."
    probes = []
    for j, e in enumerate(edits):
        asked = [
            ("exact", e.question, e.image),
            ("image_rephrase", e.question, f"twemoji/{e.subject}"),
            ("text_locality", f"What is the currency of {e.subject_name}?", None),
        ]
        for i, (kind, question, image) in enumerate(asked[: 1 + j % 3]):
            about = dict(edit_id=e.id, answer=e.target_new, edit_names=[e.target_new])
            probes.append(Probe(id=f"{e.id}/{i}", kind=kind, question=question, image=image, **about))
    return probes


def same_rows(xs, ys):
    def untimed(rows):
        return [{k: v for k, v in r.items() if k not in ("seconds", "took")} for r in rows]

    return untimed(xs) == untimed(ys)


@pytest.mark.parametrize("name", [*TOGETHER, "IKE", "base", "FT-V"])
def test_many_at_once_give_the_rows_of_one_by_one(m, world, edits, textual, net, name):
    lot = edits if name == "FT-V" else [*edits[:3], textual, *edits[3:]]
    s = given(name, net) | (dict(steps=3) if name == "FT-V" else {})
    one = run_editor(name, m, lot, probes_of(lot), world, **s)
    assert same_rows(run_together(name, m, lot, probes_of(lot), world, **s), one)
    assert same_rows(run_together(name, m, lot, probes_of(lot), world, n=3, **s), one)


def test_the_parameters_are_those_of_one_by_one(m, world, edits):
    "On average: where a gradient is nearly zero, Adam's step depends on its sign, and that on rounding."
    with together("FT-L", m, edits, world) as t:
        taken = [e.steps for e in t.edited]
    with restored(m, []):
        learnt = TOGETHER["FT-L"](m, edits, world)
    base = [p.detach().clone() for p in last_mlp(m)]
    for i, e in enumerate(edits):
        with EDITORS["FT-L"](m, e, world) as ed:
            assert ed.steps == taken[i] and dict(touched=ed.touched, stored=ed.stored) == learnt.size
            for own, p, b in zip(learnt.params, last_mlp(m), base):
                assert (own[i] - p).abs().mean() < 1e-5 * (p - b).abs().mean()


def test_adapters_are_those_of_peft(m, world, edits):
    before = state_of(m)
    base = {n: p.detach().clone() for n, p in m.model.named_parameters()}
    with restored(m, []):
        learnt = TOGETHER["LoRA"](m, edits[:3], world)
    params = learnt.params
    for i, e in enumerate(edits[:3]):
        with EDITORS["LoRA"](m, e, world) as ed:
            assert ed.steps == learnt.steps[i] and dict(touched=ed.touched, stored=ed.stored) == learnt.size
            changed = [(n, p - base[n]) for n, p in m.model.named_parameters() if not torch.equal(p, base[n])]
            assert len(changed) == len(params) // 2
            for (n, delta), a, b in zip(changed, params[::2], params[1::2]):
                assert torch.allclose(delta, 2 * (a[i] @ b[i]).T, atol=2e-4), n
    assert state_of(m).weights == before.weights


def test_rows_are_under_their_own_edit_in_any_order(m, world, edits):
    ask = [edit_prompt(e) for e in edits[:3]]
    with together("FT-L", m, edits[:3], world) as t:
        with t.under([2, 0]):
            two = answer_batch(m, [ask[2], ask[0]], world)
        with t.under([0, 1, 2]):
            all_ = answer_batch(m, ask, world)
    assert [c.text for c in two] == [all_[2].text, all_[0].text]


def test_rows_that_have_ended_leave_equally_many_of_every_edit(m, world, edits):
    asked = [[edit_prompt(e), Prompt(f"What is the capital of {e.subject_name}?")] for e in edits]
    groups, prompts = [i for i in range(len(edits)) for _ in asked[i]], sum(asked, [])
    left, sizes = list(groups), []

    def tell(stay):
        left[:] = [left[i] for i in stay.tolist()]
        sizes.append([left.count(i) for i in sorted(set(left))])

    with together("FT-L", m, edits, world) as t:
        with t.under(range(len(edits))):
            waited = answer_batch(m, prompts, world)
        with told_of_rows(m, tell), following(m, t, groups):
            left_early = answer_batch(m, prompts, world, groups=groups)
    assert left_early == waited
    assert sizes and sum(sizes[-1]) < len(prompts) and all(len({*n}) == 1 for n in sizes)


def test_rows_are_padded_on_the_left_only(m, world, edits):
    prompts = [edit_prompt(edits[0]), Prompt("Capital of Peru?"), edit_prompt(edits[1])]
    says = ["Oslo", "A much longer answer than the others have", "Bosnia and Herzegovina"]
    loose, enc = encode(m, prompts, world, says), encoded(m, prompts, says, world)
    assert enc["input_ids"].shape[1] == loose["attention_mask"].sum(1).max() < loose["input_ids"].shape[1]
    assert enc["attention_mask"][:, -1].all()
    for k in ("input_ids", "labels"):
        for a, ma, b, mb in zip(loose[k], loose["attention_mask"], enc[k], enc["attention_mask"]):
            assert a[ma == 1].tolist() == b[mb == 1].tolist()
    assert torch.equal(loose["pixel_values"], enc["pixel_values"])


def test_hooks_are_linear_algebra():
    layer = torch.nn.Linear(3, 5)
    x = torch.randn(6, 4, 3)
    w, b, lo, hi = torch.randn(2, 5, 3), torch.randn(2, 5), torch.randn(2, 3, 2), torch.randn(2, 2, 5)
    with hooked({layer: own_weights(w, b)}):
        y = layer(x)
    with hooked({layer: low_rank(lo, hi, 3.0)}):
        z = layer(x)
    for r in range(6):
        assert torch.allclose(y[r], x[r] @ w[r // 3].T + b[r // 3], atol=1e-5)
        assert torch.allclose(z[r], layer(x[r]) + 3 * x[r] @ lo[r // 3] @ hi[r // 3], atol=1e-5)
    assert not layer._forward_hooks


def test_what_is_remembered_is_forgotten_on_an_error():
    layer = torch.nn.Linear(2, 2)
    kept = {}
    with pytest.raises(RuntimeError), remembered([layer], kept):
        layer(torch.ones(2))
        layer(torch.zeros(2))
        raise RuntimeError
    assert "forward" not in vars(layer) and len(kept[layer]) == 2  # two calls in one pass are two outputs


@pytest.mark.parametrize("seed", range(3))
def test_fit_together_is_adam_for_each(seed):
    "Random quadratics of their own: the same steps and the same parameters as torch's Adam alone, whoever stops first."
    g = torch.Generator().manual_seed(seed)
    goal, scale = torch.rand(7, 3, generator=g) * 3, torch.rand(7, 3, generator=g) + 0.5
    params = [torch.zeros(7, 3)]

    def losses(rows, own):
        return (scale[rows] * (own[0] - goal[rows]).square()).sum(1)

    taken = fit_together(losses, params, 60, 0.1, stop=0.05)
    for i in range(7):
        p = torch.zeros(3, requires_grad=True)
        opt = torch.optim.Adam([p], lr=0.1)
        for n in range(61):
            loss = (scale[i] * (p - goal[i]).square()).sum()
            if loss.item() < 0.05 or n == 60:
                break
            opt.zero_grad()
            loss.backward()
            opt.step()
        assert taken[i] == n and torch.allclose(params[0][i], p.detach(), atol=1e-5)
    assert len(set(taken)) > 2


# --- other families -------------------------------------------------------------------------------


@pytest.fixture(params=FAMILIES, scope="module")
def other(request, checkpoint_of):
    return load_mllm(checkpoint_of(request.param))


@pytest.mark.parametrize("name", ["FT-L", "FT-V", "LoRA"])
def test_editors_are_tied_to_no_family(other, world, edits, name):
    answer(other, [edit_prompt(edits[0])], world, max_new_tokens=2)
    before = state_of(other)
    with EDITORS[name](other, edits[0], world, steps=2) as ed:
        assert ed.steps == 2 and state_of(other).weights != before.weights
    assert state_of(other) == before
    if name in TOGETHER:
        lot = edits[:3]
        s = dict(steps=4, lr=1e-3)
        one = run_editor(name, other, lot, probes_of(lot), world, **s)
        assert same_rows(run_together(name, other, lot, probes_of(lot), world, **s), one)


@pytest.mark.parametrize("name", ["FT-L", "FT-V", "LoRA chain", "GRACE", "IKE-0"])
def test_a_fact_of_the_country_shown_can_be_edited(m, world, textual, edits, name):
    "An attribute edit: its picture stays, its target is a fact, and its note and chain say so."
    shown = textual.model_copy(
        update=dict(
            id="shown",
            modality="visual",
            image="flag-icons-4x3/PE",
            question="What is the capital of the country shown?",
        )
    )
    before = state_of(m)
    with EDITORS[name](m, shown, world) as ed:
        tf, _ = ed.forced([edit_prompt(shown)], ["Oslo"], world)[0]
        said = ed.ask([edit_prompt(shown)], world)[0]
    assert state_of(m) == before
    assert name in ("LoRA chain", "IKE-0") or tf > 0.6
    if name == "LoRA chain":
        chain = "<think>The flag is that of Peru. The capital of Peru is Oslo.</think><answer>Oslo</answer>"
        assert said.text.replace("> ", ">") == chain
    if name == "IKE-0":
        assert ed.rewrite(edit_prompt(shown)).notes[0].text == "The capital of the country of this flag is Oslo."


def test_the_note_of_another_data_set_says_question_and_target(edits):
    e = edits[0].model_copy(update=dict(relation="identity", question="Who is this?", target_new="Ada"))
    assert edit_note(e).text == "Who is this? Ada" and edit_note(e).image == e.image


# --- files ----------------------------------------------------------------------------------------

MEND_TO = """import sys
from crane.mend import new_mend, save_mend
from crane.model import load_mllm
from crane.questions import counterfactuals
from crane.world import load_world
m, world = load_mllm(), load_world()
save_mend(new_mend(m, counterfactuals(world, 'train', 4), world), m, sys.argv[1])"""


def test_the_files_of_two_processes_are_the_same(tmp_path):
    # with each of these seeds a set of the names of MEND's networks is in another order
    files = [tmp_path / f"{seed}.safetensors" for seed in ("0", "5")]
    for f in files:
        subprocess.run([sys.executable, "-c", MEND_TO, f], env=os.environ | dict(PYTHONHASHSEED=f.stem), check=True)
    assert len({f.read_bytes() for f in files}) == 1


def test_a_file_of_tensors_has_one_form_and_says_what_it_is(tmp_path):
    tensors = {k: torch.full((2,), float(i)) for i, k in enumerate("bca")}
    about = dict(steps=3, chain=True, model="x", shapes={"a": [1, 2]})
    files = [
        write_tensors(tmp_path / f"{i}.safetensors", {k: tensors[k] for k in order}, about)
        for i, order in enumerate(("abc", "cba", "bca", "cab") * 3)
    ]
    assert len({f.read_bytes() for f in files}) == 1
    said, read = read_tensors(files[0])
    assert said == about and sorted(read) == ["a", "b", "c"]
    assert all(torch.equal(read[k], tensors[k]) for k in read)
    from safetensors.torch import save_file

    save_file(tensors, tmp_path / "other.safetensors", metadata=dict(model="x", steps="3"))  # of another program
    assert read_tensors(tmp_path / "other.safetensors")[0] == {}

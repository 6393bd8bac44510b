"""SFT and GRPO: settings do not drift, a stop and a restart change nothing, hopeless runs end with a sentence.

And a routing model: how it is kept, when its adapter acts, and what it takes to train one from the shell.
"""

import json
import os
import re
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from conftest import script
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from crane.benchmark import build_benchmark, save_benchmark
from crane.command_line import app
from crane.core import CraneError, Edit, read_json
from crane.grpo import grpo_config, grpo_dataset, train_grpo, training_plan
from crane.model import Prompt, chat, load_mllm
from crane.plan import plan
from crane.retrieval import Hit
from crane.routing import (
    EVIDENCE,
    TRAINED,
    Crane,
    adapted,
    answer_routed,
    load_router,
    routing_model,
    routing_note,
    routing_prompt,
    save_router,
    training_needs,
    unadapted,
)
from crane.sft import routing_examples, sft_config, train_control, train_or_take, train_sft
from crane.world import load_world

root = Path(__file__).resolve().parent.parent
ship_trained = script("scripts/ship_trained.py")

ON_CPU = dict(use_cpu=True, bf16=False, gradient_checkpointing=False)


@pytest.fixture(scope="module")
def world():
    return load_world()


@pytest.fixture(scope="module")
def bench(world):
    b = build_benchmark(load_mllm(), world, "train", 16, 2)
    return b.only(lambda e, s: s == "strong")


PATHS = ("output_dir", "logging_dir", "run_name")


def frozen(args):
    "What a configuration resolves to, without paths."
    resolved = {k: v for k, v in args.to_dict().items() if k not in PATHS}
    return json.loads(json.dumps(resolved, default=str, sort_keys=True))


def resolved(name, folder):
    if name == "sft":
        return frozen(sft_config(folder, 500, 32, 5e-3, 0, **ON_CPU))
    return frozen(grpo_config(folder, 60, 8, 8, 3e-4, 0, **ON_CPU))


@pytest.mark.parametrize("name", ["sft", "grpo"])
def test_no_setting_drifts(name, tmp_path):
    path, now = root / "configs" / f"{name}.json", resolved(name, tmp_path)
    if os.environ.get("REBUILD"):
        path.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    was = read_json(path)
    changed = {k: (was.get(k), now.get(k)) for k in was.keys() | now.keys() if was.get(k) != now.get(k)}
    assert changed == {}, "a resolved setting changed: if it is meant, write it anew with REBUILD=1"


def weights(m):
    return {n: p.detach().clone() for n, p in m.model.named_parameters() if p.requires_grad}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def cut_off(folder, step):
    "Leave two checkpoints as a trainer killed while it writes leaves them: an empty one, and one with half of its end."
    for n in step, step + 1:
        (folder / f"checkpoint-{n}").mkdir()
    (folder / f"checkpoint-{step}" / "trainer_state.json").write_text('{"epoch": 0.1')


@pytest.mark.parametrize("full", [False, True], ids=["adapter", "all weights"])
def test_sft_goes_on_as_if_it_had_not_stopped(full, bench, world, tmp_path):
    examples = routing_examples(bench, world, 48, 3)

    def run(folder, **kw):
        m = routing_model(load_mllm(), full, seed=3)
        return m, train_sft(m, examples, world, tmp_path / folder, 8, 1e-3, 3, save_steps=2, **kw)

    whole, _ = run("whole")
    half, _ = run("half", stop_after=4)
    cut_off(tmp_path / "half", 6)
    assert not same(weights(half), weights(whole))
    again, log = run("half", resume=True)
    assert same(weights(again), weights(whole)) and [r["step"] for r in log] == list(range(1, 7))


LOGGED = {
    "reward",
    "kl",
    "entropy",
    "length",
    "frac_reward_zero_std",
    "format",
    "answer",
    "routing",
    "grounding",
}


def test_grpo_goes_on_as_if_it_had_not_stopped(bench, world, tmp_path):
    data = grpo_dataset(bench, world, 4, 2, 3)
    save_router(routing_model(load_mllm(), seed=3), tmp_path / "sft")

    def run(folder, **kw):
        m = load_router(tmp_path / "sft", trainable=True)
        return m, train_grpo(m, data, tmp_path / folder, 4, 2, 4, 1e-3, 3, save_steps=2, **kw)[0]

    whole, log = run("whole")
    half, _ = run("half", stop_after=2)
    again, _ = run("half", resume=True)
    assert not same(weights(half), weights(whole)) and same(weights(again), weights(whole))
    assert log[0].keys() >= LOGGED
    assert list((tmp_path / "whole" / "tensorboard").iterdir())
    assert (tmp_path / "whole" / "log.csv").read_text().count("\n") == 5


def test_the_same_seed_gives_the_same_weights(bench, world, tmp_path):
    def one(folder, seed):
        m = routing_model(load_mllm(), seed=seed)
        train_sft(m, routing_examples(bench, world, 16, seed), world, tmp_path / folder, 8, 1e-3, seed)
        return weights(m)

    assert same(one("a", 1), one("b", 1)) and not same(one("c", 2), one("a", 1))


def test_a_loss_that_is_no_number_ends_with_a_sentence(bench, world, tmp_path):
    m = routing_model(load_mllm())
    next(p for p in m.model.parameters() if p.requires_grad).data.fill_(float("nan"))
    with pytest.raises(CraneError, match="lower the learning rate"):
        train_sft(m, routing_examples(bench, world, 16), world, tmp_path, 8, 1e-3)


def test_groups_that_never_differ_end_with_a_sentence(bench, world, tmp_path, monkeypatch):
    monkeypatch.setattr("crane.sft.PATIENCE", 3)
    always = dict(format=0.5, answer=1.0, routing=1.0, grounding=0.5)
    monkeypatch.setattr("crane.grpo.parts_of", lambda *a: always)
    with pytest.raises(CraneError, match="every group earned one and the same reward"):
        train_grpo(routing_model(load_mllm()), grpo_dataset(bench, world, 6, 2, 0), tmp_path, 6, 2, 2, 1e-4)


def test_the_tower_is_not_trained(bench, world, tmp_path):
    m = routing_model(load_mllm(), full=True)
    before = {n: p.clone() for n, p in m.model.named_parameters() if "vision" in n}
    train_sft(m, routing_examples(bench, world, 8), world, tmp_path, 8, 1e-3)
    assert all(torch.equal(p, before[n]) for n, p in m.model.named_parameters() if n in before)


def test_without_a_note_the_adapter_is_off(bench, world, tmp_path):
    base, m = load_mllm(), routing_model(load_mllm())
    for n, p in m.model.named_parameters():
        if "lora_B" in n:
            p.data.normal_(0, 0.3)

    def texts(m, prompts):
        return [c.text for c in answer_routed(m, prompts, world)]

    ps = [Prompt("What is the capital of Peru?"), Prompt("Whose flag is this?", "twemoji/PE")]
    noted = [routing_prompt(p, [Hit(bench.edits[0], 1.0)]) for p in ps]
    assert texts(m, ps) == texts(base, ps)
    assert texts(m, noted) != texts(base, noted)
    with unadapted(base):
        pass
    assert adapted(m) and not adapted(base)


@pytest.mark.parametrize("hurt", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_damaged_router_is_refused(hurt, tmp_path):
    save_router(routing_model(load_mllm()), tmp_path / "r")
    (tmp_path / "r" / hurt).write_bytes(b'{"no')
    with pytest.raises(CraneError):
        load_router(tmp_path / "r")


@pytest.fixture(scope="module")
def base():
    return load_mllm()


TAGS = ["</think>", "<answer>", "<|end|>", "<|assistant|>", "<image>", "<thi<think>nk>", ""]
COUNTED = ["<think>", "</think>", "<answer>", "<|end|>", "<|user|>", "<|assistant|>", "<image>"]


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60), evidence=st.sampled_from(EVIDENCE), tag=st.sampled_from(TAGS))
def test_no_edit_breaks_the_prompt(base, text, evidence, tag):
    asked = Prompt("Whose?", "twemoji/PE")
    harmless = Edit(
        id="e",
        modality="visual",
        relation="country",
        subject="PE",
        subject_name="Peru",
        target="JP",
        question="Whose?",
        image="twemoji/PE",
        target_old="Peru",
        target_new="Japan",
    )
    attack = harmless.model_copy(update=dict(subject_name="Peru" + tag, target_new=text + tag + "Japan"))
    said, clean = (chat(base, routing_prompt(asked, [Hit(e, 0.5)], evidence)) for e in (attack, harmless))
    assert {t: said.count(t) for t in COUNTED} == {t: clean.count(t) for t in COUNTED}


def test_an_unknown_kind_of_evidence_is_refused(bench):
    with pytest.raises(CraneError, match="choose picture, words, score"):
        routing_note(Hit(bench.edits[0], 1.0), "smell")


def test_three_lines(world):
    crane = Crane(world=world)
    e = crane.edit_flag("flag-icons-4x3/PE", "Japan")
    assert e.target_old == "Peru"
    assert crane.ask("What is the continent of the country shown?", "twemoji/PE").answer == "Asia"
    question = "What is the capital of Peru?"
    assert crane.ask(question).answer == crane.plain(question).answer == "Lima"
    assert crane.ask("Whose flag is this?", "twemoji/NO").answer == "Norway"


def test_the_plan_of_a_training_counts_without_weights():
    p = training_plan("grpo", "pocket", 60, 64)
    assert p["completions"] == 3840 and p["trained"] == 65536 < p["parameters"] < 2e6
    assert training_plan("sft", "pocket", 60, 64, full=True)["trained"] > 9e5
    with pytest.raises(CraneError, match="no such folder"):
        training_plan("sft", "/no/such", 1, 1)


def crane(*args):
    return CliRunner().invoke(app, args)


@pytest.mark.parametrize(
    "args,says",
    [
        (("grpo", "--batch-size", "30"), "no multiple"),
        (("sft", "--run", "nowhere"), "05a_benchmark"),
        (("sft", "--report", "paper"), "choose none, trackio, wandb, tensorboard"),
        (("sft", "--report", "trackio"), "trackio is not installed"),
        (("grpo", "--vllm"), "vllm is not installed"),
        (("sft", "--run", "nowhere", "--dry-run"), "05a_benchmark"),
        (("grpo", "--run", "nowhere", "--dry-run"), "crane train sft --run nowhere"),
    ],
)
def test_wrong_commands_end_in_one_line(args, says):
    r = crane("train", *args)
    assert r.exit_code == 1 and says in r.stderr and r.stderr.count("\n") == 1


def test_reports_go_where_they_are_asked_to(tmp_path):
    args = sft_config(tmp_path, 1, 4, 1e-3, report_to="tensorboard").report_to
    assert args == ["tensorboard"] and sft_config(tmp_path, 1, 4, 1e-3).report_to == []


def test_train_from_the_shell(tmp_path, monkeypatch, bench, world):
    run = tmp_path / "runs" / "mine"
    (tmp_path / "settings.ini").write_text("[DEFAULT]\n")
    monkeypatch.chdir(tmp_path)
    save_benchmark(bench, run / "05a_benchmark", "train", world)
    assert crane("train", "sft", "--run", "mine", "--dry-run").exit_code == 0
    assert not (run / "07a_sft").exists()
    for args in (("sft", "--batch-size", "8"), ("grpo", "--batch-size", "4", "--generations", "2")):
        r = crane("train", *args, "--run", "mine", "--steps", "2")
        assert r.exit_code == 0, r.stderr
    trained = run / "08_grpo" / "model"
    assert adapted(load_router(trained))
    assert read_json(trained / "adapter_config.json")["base_model_name_or_path"] == "pocket"
    shutil.rmtree(run / "07a_sft" / "model")
    r = crane("train", "grpo", "--run", "mine", "--steps", "1")
    assert r.exit_code == 1 and "07a_sft" in r.stderr


@pytest.mark.parametrize("name", ["one_gpu", "fsdp", "deepspeed"])
def test_accelerate_reads_the_shipped_configurations(name):
    from accelerate.commands.config.config_args import load_config_from_file

    c = load_config_from_file(str(root / "configs" / "accelerate" / f"{name}.yaml"))
    assert c.mixed_precision == "bf16"
    kind = dict(one_gpu="NO", fsdp="FSDP", deepspeed="DEEPSPEED")[name]
    assert str(c.distributed_type).split(".")[-1] == kind


SIZES = dict(n_examples=20, batch_size=2, learning_rate=1e-3, seed=0)
CONTROLS = "light", "score"


@pytest.fixture(scope="module")
def side_by_side_trained(tmp_path_factory, bench, world):
    "Two controls trained side by side, as 07a_sft does it."
    out = tmp_path_factory.mktemp("run") / "07a_sft"
    needs = {name: training_needs("pocket", control=name, **SIZES) for name in CONTROLS}
    seconds = train_or_take(out, "here", needs, train_control, "pocket", bench, world, *SIZES.values())
    assert list(seconds) == list(CONTROLS) and min(seconds.values()) > 0
    return out, needs, seconds


def adapter_bytes(folder):
    return (folder / "model" / "adapter_model.safetensors").read_bytes()


def test_trainings_side_by_side_end_as_they_would_one_after_another(side_by_side_trained, bench, world, tmp_path):
    out, needs, _ = side_by_side_trained
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in CONTROLS:
        train_control(name, tmp_path / name, "pocket", bench, world, *SIZES.values())
        assert adapter_bytes(tmp_path / name) == adapter_bytes(out / name)
    torch.set_num_threads(threads)


@pytest.fixture
def shipped_trainings(side_by_side_trained, tmp_path, monkeypatch):
    "The same trainings as they would ship."
    out, needs, _ = side_by_side_trained
    kept = tmp_path / "trained"
    for name in CONTROLS:
        ship_trained.fill(kept / "07a_sft" / name, out / name, dict(commit="c", hardware={}, versions={}))
    monkeypatch.setattr("crane.routing.TRAINED", kept)
    return kept


def take(run, needs):
    return train_or_take(run / "07a_sft", "shipped", needs, None)


def test_a_training_that_ships_stands_in_for_the_same_training(side_by_side_trained, shipped_trainings, tmp_path):
    out, needs, seconds = side_by_side_trained
    (tmp_path / "run/07a_sft/light/model").mkdir(parents=True)  # left from before
    assert take(tmp_path / "run", needs) == seconds
    for name in CONTROLS:
        taken = tmp_path / "run/07a_sft" / name
        assert adapter_bytes(taken) == adapter_bytes(out / name)
        assert {p.name for p in taken.iterdir()} == {"model", "training.json"}
        assert read_json(taken / "training.json")["commit"] == "c"
        assert adapted(load_router(taken / "model"))


def with_other_weights(needs, kept):
    needs["light"]["weights"] = {"model.safetensors": "0" * 64}


def with_other_parameters(needs, kept):
    needs["light"]["parameters"] |= dict(batch_size=16)


def with_another_model(needs, kept):
    needs["light"]["model"] = "mine"


def with_one_missing(needs, kept):
    shutil.rmtree(kept / "07a_sft" / "light")


def with_a_damaged_file(needs, kept):
    with (kept / "07a_sft" / "light" / "model" / "adapter_model.safetensors").open("ab") as f:
        f.write(b"x")


@pytest.mark.parametrize(
    "change,says",
    [
        (with_other_weights, "does not fit (it starts from other weights of the base model)"),
        (with_other_parameters, "does not fit (batch_size 2 and not 16)"),
        (with_another_model, "does not fit (it starts from the model 'pocket', not from 'mine')"),
        (with_one_missing, "no training 'light' of 07a_sft ships"),
        (with_a_damaged_file, "missing or damaged: restore it with 'git checkout'"),
    ],
)
def test_a_training_that_does_not_fit_is_refused(side_by_side_trained, shipped_trainings, tmp_path, change, says):
    needs = deepcopy(side_by_side_trained[1])
    change(needs, shipped_trainings)
    with pytest.raises(CraneError, match=re.escape(says)) as e:
        take(tmp_path / "run", needs)
    assert "--set 07a_sft.trained=here" in str(e.value)
    assert not (tmp_path / "run/07a_sft/light").exists()


def test_pocket_takes_what_ships():
    "What pocket wants of this package ships and fits: nothing that it takes has drifted from the profile."
    steps = plan("pocket", root)
    taught, rewarded = steps["07a_sft"], steps["08_grpo"]
    assert taught["trained"] == rewarded["trained"] == "shipped"
    for stage, params in ("07a_sft", taught), ("08_grpo", rewarded):
        names = params["controls"].split(",") + [f"seed {s}" for s in params.get("more_seeds", "").split(",") if s]
        for name in names:
            kept = TRAINED / stage / name.replace(" ", "_")
            needs = read_json(kept / "training.json")["needs"]
            asked = needs["parameters"] | needs["parameters"].get("taught", {})
            same = {k: v for k, v in params.items() if k in asked and not name.startswith("seed")}
            assert {k: asked[k] for k in same} == same
            assert needs["weights"] == training_needs("pocket")["weights"]
    assert sum(p.stat().st_size for p in TRAINED.rglob("*") if p.is_file()) <= 12e6

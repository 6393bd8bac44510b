"The path that a large model on a GPU takes, at a size for a CPU."

import sys

import pytest

from crane.benchmark import build_benchmark
from crane.core import project_root
from crane.grpo import grpo_dataset, train_grpo
from crane.model import Prompt, encode, load_mllm
from crane.routing import load_router, routing_model, save_router, shipped_router
from crane.sft import routing_examples, train_sft
from crane.world import load_world


@pytest.fixture(scope="module")
def world():
    return load_world()


@pytest.fixture(scope="module")
def bench(world):
    return build_benchmark(load_mllm(), world, "train", 4, 2).only(lambda e, s: s == "strong")


@pytest.fixture
def big(monkeypatch):
    monkeypatch.syspath_prepend(str(project_root() / "benchmarks"))
    yield __import__("big")
    sys.modules.pop("big")


def test_every_part_runs_on_a_model_of_random_weights(big, capsys):
    rows = big.main(["--size", "tiny"])
    trainings = ["SFT of a routing adapter", "GRPO of a routing adapter", "answers with the adapter"]
    assert [r.name for r in rows] == [*big.PARTS, *trainings]
    assert not [str(r) for r in rows if r.failed], capsys.readouterr().err


def test_rollouts_do_not_depend_on_gradient_checkpointing(world, bench, tmp_path):
    "A model that trains with it keeps no cache, and `decode` writes by the cache."
    data, logs = grpo_dataset(bench, world, 1, 2), []
    for on in (False, True):
        m = load_router(shipped_router(), trainable=True)
        log, _ = train_grpo(m, data, tmp_path / str(on), 1, 2, 4, gradient_checkpointing=on)
        logs.append({k: v for k, v in log[0].items() if k in ("length", "reward", "reward_std")})
    assert logs[0] == logs[1]


def test_a_model_trained_in_mixed_precision_is_the_one_that_is_saved(world, bench, tmp_path):
    m, mixed = routing_model(load_mllm()), dict(use_cpu=True, bf16=True, gradient_checkpointing=True)
    train_sft(m, routing_examples(bench, world, 8), world, tmp_path / "trainer", batch_size=8, **mixed)
    loaded = load_router(save_router(m, tmp_path / "model"))
    enc = encode(m, [Prompt("What is the capital of Peru?")])
    assert m.model(**enc).logits.equal(loaded.model(**enc).logits)

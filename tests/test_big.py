"The path that a large model on a GPU takes, at a size for a CPU."

import sys

import pytest

from crane.benchmark import build_benchmark
from crane.core import project_root
from crane.grpo import grpo_dataset, train_grpo
from crane.model import load_mllm
from crane.routing import load_router, shipped_router
from crane.world import load_world


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


def test_rollouts_do_not_depend_on_gradient_checkpointing(tmp_path):
    "A model that trains with it keeps no cache, and `decode` writes by the cache."
    world = load_world()
    bench = build_benchmark(load_mllm(), world, "train", 4, 2).only(lambda e, s: s == "strong")
    data, logs = grpo_dataset(bench, world, 1, 2), []
    for on in (False, True):
        m = load_router(shipped_router(), trainable=True)
        log, _ = train_grpo(m, data, tmp_path / str(on), 1, 2, 4, gradient_checkpointing=on)
        logs.append({k: v for k, v in log[0].items() if k in ("length", "reward", "reward_std")})
    assert logs[0] == logs[1]

"The recipe of the pocket model, and the checkpoint that ships."

import subprocess
import sys

import pytest

from crane.core import DATA, project_root
from crane.editors import weights_hash
from crane.model import load_mllm
from crane.pocket import train_pocket
from crane.world import load_world


@pytest.fixture(scope="module")
def world():
    return load_world()


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(world):
    "Two steps of each part only: all sources of chance are drawn from by then."
    a, b, c = (weights_hash(train_pocket(world, 2, 2, 2, seed, log=lambda s: None)[0]) for seed in (0, 0, 1))
    assert a == b != c


def test_size_of_what_ships():
    m = load_mllm()
    assert 1e6 < sum(p.numel() for p in m.model.parameters()) < 3e6
    assert sum(f.stat().st_size for f in (DATA / "pocket").iterdir()) <= 8e6


def test_the_throughput_benchmark_compares_equal_outputs():
    "Its ratio is for people to read; that both sides give the same outputs is for this test."
    r = subprocess.run(
        [sys.executable, "benchmarks/throughput.py", "--n", "14", "--rounds", "1"],
        cwd=project_root(),
        capture_output=True,
        text=True,
    )
    assert r.returncode == 0, r.stderr
    assert r.stdout.count("same outputs 14/14") == 2, r.stdout


def test_the_editing_benchmark_compares_equal_results():
    r = subprocess.run(
        [sys.executable, "benchmarks/editing.py", "--n", "5", "--rounds", "1"],
        cwd=project_root(),
        capture_output=True,
        text=True,
    )
    assert r.returncode == 0, r.stderr
    assert r.stdout.count("same results 5/5") == 2 and r.stdout.count("same results 15/15") == 2, r.stdout

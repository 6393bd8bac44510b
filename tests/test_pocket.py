"The recipe of the pocket model, and the checkpoint that ships."
import pytest

from crane.core import DATA
from crane.editors import weights_hash
from crane.model import load_mllm, train_pocket
from crane.world import load_world


@pytest.fixture(scope='module')
def world(): return load_world()


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(world):
    "Two steps of each part only: all sources of chance are drawn from by then."
    a, b, c = (weights_hash(train_pocket(world, 2, 2, seed, log=lambda s: None)[0]) for seed in (0, 0, 1))
    assert a == b != c


def test_size_of_what_ships():
    m = load_mllm()
    assert 1e6 < sum(p.numel() for p in m.model.parameters()) < 3e6
    assert sum(f.stat().st_size for f in (DATA/'pocket').iterdir()) <= 8e6

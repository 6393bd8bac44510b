"The recipe of the pocket model, and the checkpoint that ships."

import runpy
import sys
from functools import partial

import pytest

from crane import pocket
from crane.core import DATA, parse_trace, project_root
from crane.editors import weights_hash
from crane.model import load_mllm
from crane.pocket import train_pocket
from crane.texts import TEXT_SPLITS, Texts
from crane.world import load_world


@pytest.fixture(scope="module")
def world():
    return load_world()


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(world, monkeypatch):
    "Two steps of each part, of few texts, suffice: by then every source of chance has been drawn from."
    texts, language, table = pocket.lesson_texts, pocket.train_language, pocket.pixel_table
    seen = {}  # pictures as the processor sees them, where chance has no part

    def table_once(m, world, keys):
        if tuple(keys) not in seen:
            seen[tuple(keys)] = table(m, world, keys)
        return seen[tuple(keys)]

    monkeypatch.setattr(pocket, "lesson_texts", lambda world, n, seed: texts(world, n // 20, seed))
    monkeypatch.setattr(pocket, "train_language", partial(language, batch=16))
    monkeypatch.setattr(pocket, "pixel_table", table_once)

    def trained(seed):
        m, _ = train_pocket(world, 2, 2, 2, seed, log=lambda line: None)
        return weights_hash(m)

    assert trained(0) == trained(0) != trained(1)


@pytest.mark.parametrize("split", TEXT_SPLITS)
def test_a_text_as_a_lesson_is_true_to_the_text(world, split):
    for r in Texts(world, split, 5).draw(200):
        prompt, response = pocket.reading_lesson(r)
        trace = parse_trace(response)
        assert trace.well_formed and trace.answer == r.answer and r.statement in trace.think
        assert "does not apply" not in trace.think
        assert [n.text for n in prompt.notes] == [r.text]
        assert prompt.images == [k for k in (r.note_image, r.image) if k]


def test_size_of_what_ships():
    m = load_mllm()
    assert 1e6 < sum(p.numel() for p in m.model.parameters()) < 3e6
    assert sum(f.stat().st_size for f in (DATA / "pocket").iterdir()) <= 8e6


@pytest.fixture
def printed_by(monkeypatch, capsys):
    "What one round of a benchmark prints."

    def run(script, n):
        path = project_root() / "benchmarks" / script
        monkeypatch.syspath_prepend(str(path.parent))
        monkeypatch.setattr(sys, "argv", [script, "--n", str(n), "--rounds", "1"])
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_the_throughput_benchmark_compares_equal_outputs(printed_by):
    "Its ratio is for people to read; this test checks that both sides give the same outputs."
    printed = printed_by("throughput.py", 14)
    assert printed.count("same outputs 14/14") == 2, printed


def test_the_editing_benchmark_compares_equal_results(printed_by):
    printed = printed_by("editing.py", 5)
    assert printed.count("same results 5/5") == 2, printed
    assert printed.count("same results 15/15") == 2, printed

"Where the time goes: kinds of work are counted apart, once, and only in a batch; the table adds up."

import json
import os
import re
import threading
import time
from pathlib import Path

import nbformat
import pytest
from conftest import script
from nbclient import NotebookClient

from crane import core
from crane.core import CraneError, Spans, span

root = Path(__file__).resolve().parent.parent
where_time_goes = script("benchmarks/where_time_goes.py")


@pytest.fixture
def clock(monkeypatch):
    "A clock that the test sets, and a recorder that began at 0."
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


@pytest.fixture
def spans(clock, monkeypatch, tmp_path):
    spans = Spans(tmp_path / "spans.json", 0)
    monkeypatch.setattr(core, "_spans", spans)
    return spans


def written(spans):
    spans.write()
    return json.loads(spans.path.read_text())


def test_a_nested_span_is_taken_from_the_outer_one(clock, spans):
    @span("generate")
    def answer():
        clock[0] += 5

    @span("train")
    def learn(deep):
        clock[0] += 1
        answer()
        if deep:
            learn(False)
        clock[0] += 2

    clock[0] = 10
    assert written(spans) == {"start-up": 10}
    clock[0] = 20
    learn(True)
    assert written(spans) == {"start-up": 10, "train": 6, "generate": 10}, "what is between the cells is in none"


def test_a_span_that_fails_is_closed(clock, spans):
    @span("train")
    def diverge():
        clock[0] += 3
        with span("score"):
            clock[0] += 4
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), span("search"):
        diverge()
    assert spans.open == ["start-up"]
    clock[0] += 2
    assert written(spans) == {"start-up": 2, "search": 0, "train": 3, "score": 4}


def test_other_threads_are_not_counted(clock, spans):
    @span("train")
    def learn():
        clock[0] += 3

    other = threading.Thread(target=learn)
    with span("search"):
        other.start()
        other.join()
    assert written(spans) == {"start-up": 0, "search": 3}


def test_kinds_are_known():
    with pytest.raises(CraneError, match="kind of work 'trian' is unknown: choose generate, train"):
        span("trian")


@pytest.mark.parametrize("batch", ["", "1"])
def test_only_a_batch_writes(batch, tmp_path):
    "The batch's variable for the file is not enough; and who starts processes does not hand it on."
    nb = nbformat.v4.new_notebook()
    cells = "from crane.core import span", "with span('train'): import os, sys", "print('CRANE_SPANS' in os.environ)"
    nb.cells = [nbformat.v4.new_code_cell(c) for c in cells]
    path = tmp_path / "spans.json"
    env = os.environ | dict(CRANE_BATCH=batch, CRANE_SPANS=str(path), CRANE_BEGAN=str(time.time()))
    NotebookClient(nb, kernel_name="python3", extra_arguments=["--log-level=ERROR"]).execute(env=env)
    assert nb.cells[-1].outputs[0].text == "False\n"
    assert path.exists() == bool(batch)
    if batch:
        assert list(json.loads(path.read_text())) == ["start-up", "train"]


def test_every_kind_of_work_is_counted_somewhere():
    texts = "\n".join(p.read_text() for p in (root / "crane").glob("*.py"))
    assert set(re.findall(r'@span\("(\w+)"\)', texts)) == set(core.KINDS_OF_WORK)


# ---- the table


def about(seconds, **spans):
    return dict(seconds=seconds, spans=spans)


def test_rows_and_columns_add_up():
    t = where_time_goes.minutes({"01_a": about(120, train=60, search=3), "02_b": about(60.6, generate=30.3)})
    assert list(t.columns) == ["generate", "train", "score", "search", "bootstrap", "start-up", "rest", "all"]
    assert t.loc["01_a"].tolist() == ["", "1.0", "", "0.1", "", "", "0.9", "2.0"]
    assert t.loc["all"].tolist() == ["0.5", "1.0", "", "0.1", "", "", "1.5", "3.0"]


def test_a_run_without_times_and_an_unknown_one_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(where_time_goes, "project_root", lambda: tmp_path)
    monkeypatch.setattr(where_time_goes, "notebooks", lambda _: {"01_a": tmp_path / "nbs/01_a.ipynb"})
    old, new = (tmp_path / "runs" / name / "executed" for name in ("old", "new"))
    for k, executed in enumerate((old, new)):
        executed.mkdir(parents=True)
        (executed / "01_a.ipynb").touch()
        rec = dict(made_of={}, files={}) | (about(3) if executed == new else {})
        (executed / "01_a.json").write_text(json.dumps(rec))
        os.utime(executed, (k, k))
    assert where_time_goes.newest() == new.parent
    assert where_time_goes.stages_of(new.parent)["01_a"]["seconds"] == 3
    with pytest.raises(CraneError, match="01_a of run 'old' has recorded no times"):
        where_time_goes.stages_of(old.parent)
    with pytest.raises(CraneError, match="unknown run 'neww': did you mean 'new'"):
        where_time_goes.stages_of(tmp_path / "runs/neww")
    (new / "01_a.json").unlink()
    (old / "01_a.json").unlink()
    with pytest.raises(CraneError, match="no run has run to its end"):
        where_time_goes.newest()

"""An evaluation shared out among processes: the same bytes as one, what is stopped goes on, a mistake is said once.

And what an evaluation takes, from a model's configuration alone.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from crane import protocol
from crane.benchmark import load_benchmark
from crane.command_line import app
from crane.core import CraneError, Probe, read_jsonl
from crane.model import Prompt, encode, load_mllm
from crane.protocol import evaluate, evaluation_plan, own_device
from crane.questions import counterfactuals
from crane.world import load_world

root = Path(__file__).resolve().parent.parent
data = root / "runs" / "smoke" / "05a_benchmark"
needs_run = pytest.mark.skipif(not data.exists(), reason="needs the smoke run: make reproduce PROFILE=smoke")
SAME = "traces.jsonl", "scored.jsonl", "results.json"

WORKER = """
import json
import os
import sys
from crane import protocol
from crane.benchmark import load_benchmark
from crane.core import CraneError
from crane.model import load_mllm
from crane.world import load_world

methods, folder, fault, faulty = sys.argv[1:]
write = protocol.add_lines

def add(*args):
    write(*args)
    if os.environ.get("RANK", "0") == faulty:
        if fault == "dies":
            os._exit(9)
        if fault == "refuses":
            raise CraneError("this one refuses")

protocol.add_lines = add
world = load_world()
edits, probes = load_benchmark("smoke", "test", world)
probes = [p for p in probes if p.edit_id in {e.id for e in edits[:3]}]
with protocol.processes():
    try:
        for name in methods.split(","):
            protocol.evaluate(name, load_mllm(), edits[:3], probes, world, f"{folder}/{name}", chunk=1)
    except CraneError as e:
        print(f"said: {e}")
        raise
"""


def launched(n, *args, **env):
    "What processes started by `accelerate launch` end with."
    line = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(n)]
    env = os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=str(root)) | env
    r = subprocess.run([*line, *map(str, args)], cwd=root, env=env, capture_output=True, text=True, timeout=400)
    return r.returncode, r.stdout, r.stderr


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    path = tmp_path_factory.mktemp("worker") / "worker.py"
    path.write_text(WORKER)
    return path


@pytest.fixture(scope="module")
def three():
    world = load_world()
    edits, probes = load_benchmark("smoke", "test", world)
    return edits[:3], [p for p in probes if p.edit_id in {e.id for e in edits[:3]}]


def alone(method, three, folder):
    evaluate(method, load_mllm(), *three, load_world(), folder, chunk=1)
    return left(folder)


def left(folder):
    assert not [*folder.glob("*.[0-9]*.jsonl")], "every part has been put together"
    return {f: (folder / f).read_bytes() for f in SAME}


@needs_run
def test_two_processes_leave_the_bytes_of_one(three, worker, tmp_path):
    methods = "IKE", "FT-L", "retrieval prompt"
    code, _, err = launched(2, worker, ",".join(methods), tmp_path / "two", "none", 0)
    assert code == 0, err
    for name in methods:
        two = tmp_path / "two" / name
        assert left(two) == alone(name, three, tmp_path / "one" / name)
        times = read_jsonl(two / "times.jsonl")
        assert len(times) == len(read_jsonl(two / "traces.jsonl")) and all(t["took"] >= 0 for t in times)


@needs_run
def test_what_a_process_that_died_had_written_is_kept(three, worker, tmp_path):
    folder = tmp_path / "it" / "IKE-0"
    code, _, _ = launched(2, worker, "IKE-0", tmp_path / "it", "dies", 1)
    part = folder / "traces.1.jsonl"
    assert code and part.exists()
    with part.open("ab") as f:
        f.write(b'{"method": "IK')  # as a kill would leave it
    kept = read_jsonl_of(part)
    assert alone("IKE-0", three, folder) == alone("IKE-0", three, tmp_path / "one")  # one process goes on
    again = {r["probe_id"] for r in read_jsonl(folder / "times.jsonl")}
    assert kept and kept <= again


def read_jsonl_of(path):
    "Probes of the whole lines of a file."
    return {json.loads(x)["probe_id"] for x in path.read_bytes().splitlines()[:-1]}


@needs_run
def test_the_mistake_of_one_ends_all_and_is_said_by_the_first(worker, tmp_path):
    code, out, err = launched(2, worker, "IKE-0", tmp_path / "it", "refuses", 1)
    assert code and err.count("crane.protocol.Shared: this one refuses") == 1, err
    assert out.count("said: this one refuses") == 2, "where it happened, and by the first"
    assert len(read_jsonl(tmp_path / "it/IKE-0/traces.jsonl")) > 0, "the first ended what it was at"


@needs_run
def test_from_the_shell_two_processes_print_what_one_prints(tmp_path):
    args = ["evaluate", "--method", "IKE-0", "--data", str(data), "--limit", "2", "--out"]
    code, out, err = launched(2, "-m", "crane", *args, tmp_path / "two")
    assert code == 0, err
    one = CliRunner().invoke(app, [*args, str(tmp_path / "one")]).stdout.splitlines()
    two = out.splitlines()
    assert [x for x in two if "traces and" not in x] == [x for x in one if "traces and" not in x]
    code, out, err = launched(2, "-m", "crane", *args[:1], "--method", "FT-M", *args[3:], tmp_path / "no")
    assert code and err.count("crane: method 'FT-M' is unknown") == 1 and not out, err


def test_several_processes_need_a_launcher(monkeypatch, tmp_path):
    for name in "RANK", "MASTER_ADDR", "MASTER_PORT":
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(CraneError, match="start all by `accelerate launch`"), protocol.processes():
        pass


def test_a_folder_that_only_the_first_sees_is_refused(monkeypatch, tmp_path, three):
    monkeypatch.setattr(protocol, "rank", lambda: 1)
    with pytest.raises(CraneError, match="on a disk that all machines share"):
        evaluate("IKE-0", load_mllm(), *three, load_world(), tmp_path / "elsewhere")


def test_every_process_has_a_gpu_of_its_own(monkeypatch):
    assert own_device() == "cpu" or torch.cuda.is_available()
    used = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    for rank in "0", "1":
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert own_device() == f"cuda:{rank}"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(CraneError, match="more processes than GPUs on a machine, 3 and 2"):
        own_device()
    assert used == [0, 1]


# ---- what it takes


def held(m, prompts, world):
    "Bytes of the cache behind some prompts, and of the tokens that it holds."
    enc = encode(m, prompts, world)
    with torch.no_grad():
        cache = m.model(**enc, use_cache=True).past_key_values
    parts = [x for layer in cache.layers for x in (layer.keys, layer.values)]
    return sum(x.numel() * x.element_size() for x in parts), enc["input_ids"].numel()


@pytest.mark.parametrize("family", ["llava_next", "gemma3", "qwen3_vl"])
def test_what_an_evaluation_takes_is_known_before_the_weights_are_read(family, checkpoint_of, tmp_path):
    world, m = load_world(), load_mllm(checkpoint_of(family))
    edits = counterfactuals(world, "valid", 2, 0)
    asked = [Prompt(e.question, e.image) for e in edits]
    probes = [
        Probe(id=e.id, edit_id=e.id, kind="exact", question=e.question, image=e.image, answer="x", edit_names=["y"])
        for e in edits
    ]
    bare = shutil.copytree(checkpoint_of(family), tmp_path / "bare")
    for file in bare.glob("*.safetensors"):
        file.unlink()
    plan = evaluation_plan("IKE-0", str(bare), edits, probes, world, 10)
    assert plan["weights"] == sum(p.numel() * p.element_size() for p in m.model.parameters())
    size, tokens = held(m, asked, world)
    assert plan["rows"] * plan["prompt_tokens"] == tokens and plan["picture_tokens"] > 0 and plan["answers"] == 4
    assert plan["cache"] * tokens == size * plan["rows"] * (plan["prompt_tokens"] + 10)
    noted = evaluation_plan("CRANE", str(bare), edits, probes, world, 10)
    assert noted["picture_tokens"] == 2 * plan["picture_tokens"] and noted["prompt_tokens"] > plan["prompt_tokens"]


@needs_run
@pytest.mark.parametrize(
    "args,says",
    [
        (("--model", "no/such"), "no/such"),
        (("--method", "FT-M"), "'FT-M' is unknown"),
        (("--data", "nowhere"), "holds no benchmark"),
    ],
)
def test_a_plan_that_cannot_be_made_is_one_line(args, says):
    r = CliRunner().invoke(app, ["evaluate", "--dry-run", "--data", str(data), *args])
    assert r.exit_code == 1 and says in r.stderr and r.stderr.count("\n") == 1, r.output


@needs_run
def test_a_dry_run_asks_nothing(tmp_path):
    args = ["evaluate", "--data", str(data), "--out", str(tmp_path / "it"), "--dry-run"]
    r = CliRunner().invoke(app, args)
    assert r.exit_code == 0 and "memory of each process at least: weights 0.01 GB" in r.stdout, r.output
    assert not (tmp_path / "it").exists()


def test_a_model_without_a_chat_template_has_no_plan(checkpoint_of, tmp_path, three):
    mute = shutil.copytree(checkpoint_of("llava_next"), tmp_path / "mute")
    (mute / "chat_template.jinja").unlink()
    with pytest.raises(CraneError, match="no chat template"):
        evaluation_plan("IKE-0", str(mute), *three, load_world())

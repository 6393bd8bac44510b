"""Models behind a server: the traces of a local model, whatever a server does wrong, and nothing lost.

One real server, `transformers serve`, serves the pocket model; the faults are those of a small server of our own.
"""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
from conftest import script
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from crane import client
from crane.benchmark import load_benchmark
from crane.client import Client, Kept, Reply
from crane.command_line import app
from crane.core import CraneError, read_json, read_jsonl
from crane.generation import answer, completion_of, read_target, teacher_forced
from crane.model import Note, Prompt, Served, load_mllm, pocket_path, save_mllm, served_messages
from crane.protocol import evaluate, in_lines, results_of
from crane.routing import Crane, load_router, shipped_router
from crane.world import load_world

root = Path(__file__).resolve().parent.parent
ran = root / "runs" / "smoke" / "05a_benchmark"
needs_run = pytest.mark.skipif(not ran.exists(), reason="needs the smoke run: make reproduce PROFILE=smoke")
KEY = "sk-very-secret"


@pytest.fixture(scope="module")
def world():
    return load_world()


@pytest.fixture(scope="module")
def few(world):
    "Two edits with two probes of each kind."
    edits, probes = load_benchmark("smoke", "test", world)
    edits, taken = edits[:2], {}
    for p in probes:
        if p.edit_id in {e.id for e in edits}:
            taken.setdefault((p.edit_id, p.kind), p)
    return edits, list(taken.values())


@pytest.fixture(scope="module")
def m():
    return load_mllm()


PROMPTS = [
    Prompt("What is the capital of Peru?"),
    Prompt("Whose flag is this?", "circle-flags/PE"),
    Prompt("Whose flag is this?", "circle-flags/PE", (Note("This is the flag of Japan.", "twemoji/PE"),)),
]


# ---- a real server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with script("benchmarks/served.py").served(tmp_path_factory.mktemp("serve") / "log") as it:
        yield it


@pytest.fixture
def far(server):
    return load_mllm(server.url, served=str(pocket_path()))


def said_of(rows):
    fields = "text", "ended", "tokens", "prompt_tokens", "prompt"
    return {(r["method"], r["probe_id"]): [r[k] for k in fields] for r in rows}


def test_a_served_model_says_what_the_local_one_says(m, far, world):
    here, there = answer(m, PROMPTS, world), answer(far, PROMPTS * 2, world)
    assert there == here * 2
    counts = [c.prompt_tokens for c in there]
    assert counts == [c.prompt_tokens for c in here] * 2 and min(counts) > 0
    assert teacher_forced(far, PROMPTS[:1], ["Lima"], world) == [(None, None)] and not far.scores
    short = answer(far, PROMPTS[:1], world, max_new_tokens=4)[0]
    assert (short.ended, short.tokens, short.trace.fault) == (False, 4, "think not closed")


@needs_run
def test_an_evaluation_gives_the_same_traces_although_the_server_dies(m, server, world, few, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "WAITS", (0.1, 0.1))
    edits, probes = few
    here = evaluate("IKE", m, edits, probes, world, tmp_path / "here", chunk=2)
    about = dict(served=str(pocket_path()), at_once=1, replies=tmp_path / "replies.sqlite")
    far = load_mllm(server.url, **about)
    put = []

    def killing(self, key, reply, keep=client.Kept.keep):
        keep(self, key, reply)
        put.append(key)
        if len(put) == len(probes) + 3:
            server.kill()

    monkeypatch.setattr(client.Kept, "keep", killing)
    with pytest.raises(CraneError, match="check the address, and that the server runs"):
        evaluate("IKE", far, edits, probes, world, tmp_path / "there", chunk=2)
    assert len(put) == len(probes) + 3 and not (tmp_path / "there" / "traces.jsonl").exists()
    server.start()
    there = evaluate("IKE", load_mllm(server.url, **about), edits, probes, world, tmp_path / "there", chunk=2)
    assert said_of(there) == said_of(here) and len(put) == len(set(put)), "a kept reply was asked again"
    judged = [{k: r.get(k) for k in ("FMT", "GS", "EI", "IEU", "think", "answer")} for r in there]
    assert judged == [{k: r.get(k) for k in ("FMT", "GS", "EI", "IEU", "think", "answer")} for r in here]
    offline = load_mllm("http://127.0.0.1:9/v1", **about | dict(cache="read"))
    again = evaluate("IKE", offline, edits, probes, world, tmp_path / "again")
    assert said_of(again) == said_of(there)


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    router = load_router(shipped_router())
    router.model = router.model.merge_and_unload()
    return save_mllm(router, tmp_path_factory.mktemp("merged") / "router")


@needs_run
def test_crane_itself_behind_a_server_from_the_shell(server, merged, few, tmp_path):
    args = ["evaluate", "--data", str(ran), "--limit", "1", "--method", "CRANE", "--price", "1000,2000"]
    names = ["--model", server.url, "--served", str(merged), "--base", str(pocket_path())]
    there = CliRunner().invoke(app, [*args, *names, "--out", str(tmp_path / "there")])
    assert there.exit_code == 0, there.stderr
    assert re.search(r"CRANE +TF +not measured", there.stdout) and "prompt tokens an answer" in there.stdout
    rows = [r for r in read_jsonl(tmp_path / "there" / "traces.jsonl") if r["method"] == "CRANE"]
    cost = sum(r["prompt_tokens"] + 2 * r["tokens"] for r in rows) / len(rows) / 1000
    assert re.search(rf"CRANE +cost an answer +{cost:.3g} ", there.stdout)
    here = CliRunner().invoke(app, [*args, "--out", str(tmp_path / "here")])
    assert here.exit_code == 0, here.stderr
    a, b = (said_of(read_jsonl(tmp_path / x / "traces.jsonl")) for x in ("there", "here"))
    assert a == b and read_json(tmp_path / "there" / "about.json")["weights"] == "served"
    kinds = [
        {(r["method"], r["metric"]): r["value"] for r in read_json(tmp_path / x / "results.json")}
        for x in ("there", "here")
    ]
    assert {k: v for k, v in kinds[1].items() if k[1] != "TF"} == kinds[0]


def test_crane_behind_a_server_answers_as_the_local_one(server, merged, world):
    crane = Crane(load_mllm(server.url, served=str(merged), base=str(pocket_path())), world=world)
    assert crane.edit_flag("flag-icons-4x3/PE", "Japan").target_old == "Peru"
    local = Crane(world=world)
    local.edit_flag("flag-icons-4x3/PE", "Japan")
    for question in ("What is the capital of the country shown?", "Whose flag is this?"):
        assert crane.ask(question, "twemoji/PE") == local.ask(question, "twemoji/PE")
        assert crane.plain(question, "twemoji/PE") == local.plain(question, "twemoji/PE")


# ---- what is asked, and how replies are read


def fake(chat_server, reply, **about):
    return load_mllm(chat_server(reply).url, **about)


CHAIN = "<think>It is Peru.</think>Peru"


def test_a_request_holds_what_decides_the_answer(chat_server, world, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = chat_server(lambda prompt: CHAIN)
    far = load_mllm(server.url, further=dict(top_p=0.9, min_p=0.05, thinking_token_budget=512))
    assert far.name == "m", "the only one that is served needs no name"
    assert [c.text for c in answer(far, PROMPTS[1:2] * 2, world, temperature=0.7, seed=5)] == [CHAIN] * 2
    assert len({asked["seed"] for asked in server.asked}) == 2
    asked = server.asked[0]
    assert (asked["path"], asked["key"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert (asked["model"], asked["temperature"], asked["max_completion_tokens"]) == ("m", 0.7, 128)
    assert (asked["top_p"], asked["min_p"], asked["thinking_token_budget"]) == (0.9, 0.05, 512)
    assert [part["type"] for part in asked["messages"][0]["content"]] == ["image_url", "text"]
    answer(far, PROMPTS[:1] * 3, world)
    assert len(server.asked) == 3 and "seed" not in server.asked[2], "equal greedy prompts are asked once"


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_that_is_told_apart_is_put_into_tags(chat_server, world, field):
    far = fake(chat_server, lambda prompt: lambda h: h.stream({field: "It is "}, {field: "Lima."}, "Li", "ma"))
    said = answer(far, PROMPTS[:1], world)[0]
    assert (said.text, said.ended, said.tokens) == ("<think>It is Lima.</think>Lima", True, 4)
    whole = dict(choices=[dict(message={"content": "Lima", field: "It is Lima."}, finish_reason="stop")])
    assert answer(fake(chat_server, lambda prompt: (200, whole)), PROMPTS[:1], world)[0].text == said.text


def test_a_think_that_is_cut_off_stays_open(chat_server, world):
    far = fake(chat_server, lambda prompt: lambda h: h.stream(dict(reasoning="It is"), finish="length"))
    said = answer(far, PROMPTS[:1], world)[0]
    assert (said.ended, said.trace.think, said.trace.fault) == (False, "It is", "think not closed")


tags = st.sampled_from(["<think>", "</think>", "[THINK]", "[/THINK]", "a", " ", "Peru", "\n"])


@given(st.lists(tags).map("".join), st.lists(tags).map("".join), st.booleans())
def test_any_reply_is_read(text, reasoning, ended):
    for think in Served.think, ("[THINK]", "[/THINK]"):
        said = completion_of(Served(None, "m", think=think), Reply(text, reasoning, ended))
        assert not said.trace.well_formed or ended


def test_a_picture_arrives_as_it_was(world):
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    from crane.world import open_image

    parts = served_messages(PROMPTS[2], world)[0]["content"]
    urls = [p["image_url"]["url"] for p in parts if p["type"] == "image_url"]
    for key, url in zip(PROMPTS[2].images, urls, strict=True):
        shown = Image.open(BytesIO(b64decode(url.split(",")[1])))
        assert shown.tobytes() == open_image(key, world).tobytes()


def token(text, rank):
    "As vLLM describes a token of the prompt."
    return {"5": dict(rank=rank, decoded_token=text, logprob=-1.0)} | ({"7": dict(rank=1)} if rank > 1 else {})


def test_targets_are_scored_where_the_server_scores_what_it_reads(chat_server, world):
    read = [None, token("?", 9), token(" Port", 2), token("-au", 1), token("-Prince", 1)]
    choice = dict(message=dict(content="x"), finish_reason="length")
    server = chat_server(lambda target: (200, dict(choices=[choice], prompt_logprobs=read)))
    far = load_mllm(server.url)
    assert teacher_forced(far, PROMPTS[:2], ["Port-au-Prince", "Lima"], world) == [(2 / 3, False), (None, None)]
    asked = server.asked[-1]
    assert asked["messages"][-1]["role"] == "assistant" and asked["continue_final_message"]
    assert not asked.get("stream") and asked["prompt_logprobs"] == 1


@pytest.mark.parametrize("reply", [(400, dict(error=dict(message="no"))), (422, "Unexpected fields"), CHAIN])
def test_scores_that_a_server_does_not_offer_are_not_measured(chat_server, world, reply):
    server = chat_server(lambda prompt: reply)
    far = load_mllm(server.url)
    for _ in range(2):
        assert teacher_forced(far, PROMPTS, ["Lima"] * 3, world) == [(None, None)] * 3
    assert len(server.asked) == 1, "it is not asked again"


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(1, 3))), st.text(max_size=5))
def test_whatever_was_read_gives_a_share_or_none(tokens, target):
    share, exact = read_target([token(*t) for t in tokens], target)
    assert share is None or 0 <= share <= 1 and exact == (share == 1)


# ---- bad servers


def says(status, message, **headers):
    return lambda prompt: lambda h: h.send(status, dict(error=dict(message=message)), **headers)


FAULTS = {
    "wrong model": (says(404, "The model `m` does not exist"), "`m` does not exist.*check the model's name"),
    "pinned": (says(400, "Server is pinned to 'n'"), "pinned to 'n'"),
    "no pictures": (says(400, "m is not a multimodal model"), "it takes no pictures"),
    "HTML": (lambda prompt: (200, "<html>Welcome</html>"), "text/html.*speaks the OpenAI protocol"),
    "half a stream": (lambda prompt: lambda h: h.stream("<think>It", finish=None), "broke off"),
    "silence": (lambda prompt: lambda h: time.sleep(3), "no token came for 0.005 minutes.*see in its log"),
    "key refused": (says(401, f"Incorrect key {KEY}"), "Incorrect key ….*OPENAI_API_KEY"),
    "429 for ever": (says(429, "slow down"), "slow down.*ask it less at a time, or later"),
    "stumbles": (says(500, "oops"), "oops.*see its log"),
    "hangs up": (lambda prompt: None, "check the address, and that the server runs"),
    "not JSON": (lambda prompt: (200, "{"), "speaks the OpenAI protocol"),
    "error in stream": (
        lambda prompt: lambda h: h.stream("a", finish=None, error=dict(message="out of memory")),
        "memory",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("reached", [False, True])
def test_a_bad_server_is_one_sentence_and_costs_nothing(
    chat_server, world, monkeypatch, tmp_path, caplog, fault, reached
):
    monkeypatch.setattr(client, "WAITS", (0.01, 0.01))
    monkeypatch.setattr(client, "SILENCE", 0.3)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    reply, words = FAULTS[fault]
    server = chat_server(lambda prompt: CHAIN)
    far = load_mllm(server.url.replace("//", "//me:password@"), replies=tmp_path / "replies.sqlite")
    before = answer(far, PROMPTS[:1], world) if reached else []
    server.reply = reply
    asked = PROMPTS[:2] if fault == "no pictures" else PROMPTS[:1]
    asked = [Prompt(f"{p.question} Really?", p.image) for p in asked[-1:]]
    with pytest.raises(CraneError, match=words) as e:
        answer(far, asked, world)
    said = str(e.value)
    assert "\n" not in said and "'m'" in said and len(said) < 700
    assert KEY not in said + caplog.text and "password" not in said
    passing = {"half a stream", "429 for ever", "stumbles", "hangs up", "error in stream"}
    tries = 3 if fault in passing and reached or fault == "429 for ever" else 1
    assert len(server.asked) == reached + tries
    server.reply = lambda prompt: CHAIN
    assert answer(far, PROMPTS[:1] + asked, world)[:1] == (before or answer(far, PROMPTS[:1], world))
    assert KEY.encode() not in (tmp_path / "replies.sqlite").read_bytes()


def test_a_fault_that_passes_is_not_noticed(chat_server, world, monkeypatch):
    waited, sleep = [], client.asyncio.sleep

    def shortly(seconds):
        waited.append(seconds)
        return sleep(0)

    monkeypatch.setattr(client.asyncio, "sleep", shortly)
    replies = iter([CHAIN, says(429, "slow", Retry_After="7")(0), (503, "busy"), None])
    far = fake(chat_server, lambda prompt: next(replies, CHAIN))
    answer(far, PROMPTS[:1], world)
    assert answer(far, [Prompt("Whose?")], world)[0].text == CHAIN
    assert [x for x in waited if x] == [7, *client.WAITS[1:3]]


def test_a_server_that_comes_back_is_waited_for(chat_server, world, monkeypatch):
    monkeypatch.setattr(client, "WAITS", (0.05,) * 40)
    server = chat_server(lambda prompt: CHAIN)
    far = load_mllm(server.url)
    answer(far, PROMPTS[:1], world)
    server.shutdown()
    server.server_close()
    again = ThreadingHTTPServer(server.server_address, server.RequestHandlerClass, bind_and_activate=False)
    again.reply, again.asked, again.allow_reuse_address = server.reply, [], True

    def come_back():
        time.sleep(0.3)
        again.server_bind()
        again.server_activate()
        again.serve_forever()

    threading.Thread(target=come_back, daemon=True).start()
    said = answer(far, [Prompt(f"number {i}") for i in range(4)], world)
    assert [c.text for c in said] == [CHAIN] * 4 and len(again.asked) == 4
    again.shutdown()
    again.server_close()


def test_crane_takes_an_address_alone(chat_server, world):
    crane = Crane(chat_server(lambda prompt: CHAIN).url, world=world)
    assert crane.m.name == "m" and crane.edit_flag("flag-icons-4x3/PE", "Japan").target_old == "Peru"
    assert crane.ask("Whose flag is this?", "twemoji/PE").answer == "Peru"


@pytest.mark.parametrize(
    "listed, words",
    [
        ((401, dict(error=dict(message=f"bad {KEY}"))), "bad ….*OPENAI_API_KEY"),
        ((404, "<html>Not here</html>"), "mostly in /v1"),
        ((200, "<html>Welcome</html>"), "speaks the OpenAI protocol"),
        (["a", "b"], "serves a, b: say which by served='NAME'"),
        ((500, "no list"), "serves none that it lists"),
    ],
)
def test_a_wrong_address_shows_at_once(chat_server, monkeypatch, listed, words):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = chat_server(lambda prompt: CHAIN)
    server.models = listed
    with pytest.raises(CraneError, match=words) as e:
        load_mllm(server.url)
    assert "\n" not in str(e.value) and KEY not in str(e.value)


@pytest.mark.parametrize("url", ["http://", "http://[", "http://server:port/v1", "http://127.0.0.1:9/v1"])
def test_an_address_where_nothing_is_is_one_sentence(url):
    with pytest.raises(CraneError, match="address") as e:
        load_mllm(url, served="m")
    assert "\n" not in str(e.value)


def test_what_is_only_for_servers_is_refused_elsewhere():
    with pytest.raises(CraneError, match="served: only for a model behind a server"):
        load_mllm("pocket", served="m")
    with pytest.raises(CraneError, match="choose off, read, write"):
        Client("http://127.0.0.1:9/v1", cache="on")


# ---- many at a time, and stopped


def test_no_more_are_asked_at_a_time_than_was_said(chat_server, world):
    now, most, lock = 0, 0, threading.Lock()

    def reply(prompt):
        nonlocal now, most
        with lock:
            now, most = now + 1, max(most, now + 1)
        time.sleep(0.02)
        with lock:
            now -= 1
        return f"<think>a</think>{prompt}"

    far = fake(chat_server, reply, at_once=5)
    said = answer(far, [Prompt(f"number {i}") for i in range(40)], world)
    assert [c.trace.answer for c in said] == [f"number {i}" for i in range(40)] and most == 5


def test_an_interrupt_while_a_reply_is_kept_leaves_no_thread_behind(chat_server, tmp_path, monkeypatch):
    "At its end Python would wait for it for ever."

    def interrupted(self, key, reply):
        raise KeyboardInterrupt

    monkeypatch.setattr(Kept, "keep", interrupted)
    client = Client(chat_server(lambda prompt: CHAIN).url, replies=tmp_path / "replies.sqlite")
    bodies = [dict(model="m", messages=[dict(role="user", content=f"number {i}")]) for i in range(4)]
    before = {*threading.enumerate()}
    try:
        client.ask(bodies)
    except KeyboardInterrupt as e:
        ours = [t for t in {*threading.enumerate()} - before if t.name.endswith("(go)")]
        assert e.__traceback__ and not ours


def test_ctrl_c_keeps_what_was_answered(chat_server, tmp_path):
    slow = threading.Event()

    def reply(prompt):
        if prompt >= "number 4":
            slow.wait(20)
        return CHAIN

    server = chat_server(reply)
    code = (
        "import sys\nfrom crane.client import Client\n"
        "asked = [[dict(role='user', content=f'number {i}')] for i in range(8)]\n"
        "client = Client(sys.argv[1], at_once=2, replies=sys.argv[2])\n"
        "print(len(client.ask([dict(model='m', messages=x) for x in asked])))"
    )
    command = [sys.executable, "-c", code, server.url, str(tmp_path / "replies.sqlite")]
    p = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True)
    while len(server.asked) < 6:
        time.sleep(0.05)
        assert p.poll() is None, p.stderr.read()
    time.sleep(0.2)
    p.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in p.communicate(timeout=10)[1]
    slow.set()
    before = len(server.asked)
    again = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert again.stdout == "8\n", again.stderr
    assert len(server.asked) - before == 4


def test_a_damaged_file_of_replies_is_one_sentence(chat_server, world, tmp_path):
    file = tmp_path / "replies.sqlite"
    file.write_text("no database, " * 100)
    with pytest.raises(CraneError, match="delete it"):
        answer(fake(chat_server, lambda prompt: CHAIN, replies=file), PROMPTS[:1], world)


# ---- methods and samples


@needs_run
@pytest.mark.parametrize("method", ["FT-L", "SERAC", "GRACE"])
def test_methods_that_need_weights_say_so(chat_server, world, few, tmp_path, method):
    far = fake(chat_server, lambda prompt: CHAIN)
    with pytest.raises(CraneError, match=f"{method} works in the model, and the weights of 'm'.*choose CRANE"):
        evaluate(method, far, *few, world, tmp_path / "it")


OWN = """
from dataclasses import replace

from crane.editors import Edited, editor


@editor(prompt_only=True)
def told(m, edits, world):
    yield Edited(m, rewrite=lambda p: replace(p, question=f"Suppose it is {edits[-1].target_new}. {p.question}"))
"""


@needs_run
def test_samples_of_a_method_of_ones_own(chat_server, world, few, tmp_path):
    "Every other sample says what it is told."
    (tmp_path / "own.py").write_text(OWN)
    seen = {}

    def reply(prompt):
        text = prompt if isinstance(prompt, str) else "".join(part.get("text", "") for part in prompt)
        seen[text] = seen.get(text, 0) + 1
        told = re.search(r"Suppose it is (.+?)\. ", text)
        name = told[1] if told and seen[text] % 2 else "Nowhere"
        return f"<think>The flag is that of {name}.</think>{name}"

    edits, probes = few
    probes = [p for p in probes if p.kind in ("exact", "image_locality")]
    far = fake(chat_server, reply, at_once=1)
    method, folder = f"{tmp_path / 'own.py'}:told", tmp_path / "it"
    with pytest.raises(CraneError, match="give a temperature"):
        evaluate(method, far, edits, probes, world, folder, samples=4)
    rows = evaluate(method, far, edits, probes, world, folder, samples=4, temperature=0.7)
    assert len(rows) == 5 * len(probes) and {r.get("sample") for r in rows} == {None, 0, 1, 2, 3}
    value = {(r["method"], r["metric"]): r["value"] for r in read_json(folder / "results.json")}
    assert (value["told", "GS"], value["told", "pass^4"], value["base", "GS"]) == (0.5, 0, 0)
    lines = (folder / "traces.jsonl").read_text().splitlines(keepends=True)
    (folder / "traces.jsonl").write_text("".join(lines[:-1]))
    about = read_json(folder / "about.json")
    (folder / "about.json").write_text(json.dumps({k: v for k, v in about.items() if k != "traces"}))
    assert len(evaluate(method, far, edits, probes, world, folder, samples=4, temperature=0.7)) == len(rows)


def test_samples_are_not_for_methods_in_the_model(m, world, tmp_path):
    with pytest.raises(CraneError, match="FT-L works in the model, and its answers are not drawn"):
        evaluate("FT-L", m, *load_benchmark("smoke", "test", world), world, tmp_path, samples=2, temperature=1.0)


def test_cut_and_ill_formed_are_what_fmt_lacks():
    kinds = [(True, True), (True, False), (False, False), (True, True)]
    rows = [dict(FMT=fine, ended=ended, edit_id=str(i)) for i, (ended, fine) in enumerate(kinds)]
    d = pd.DataFrame(rows).assign(method="x", probe_id="p", kind="exact", tag="", tokens=7, GS=False, dissonant=False)
    value = {r["metric"]: r["value"] for r in results_of(d)}
    assert (value["FMT"], value["cut"], value["ill-formed"], value["tokens"]) == (0.5, 0.25, 0.25, 7)
    assert not {"prompt tokens", "cost"} & {*value}, "what was not counted has no place"


def test_an_answer_costs_what_its_tokens_cost_and_nothing_is_said_without_a_price_or_a_count():
    counts = [100, None, 300, None]
    rows = [dict(FMT=True, ended=True, edit_id=str(i), prompt_tokens=n) for i, n in enumerate(counts)]
    d = pd.DataFrame(rows).assign(method="x", probe_id="p", kind="exact", tag="", tokens=10, GS=False, dissonant=False)
    res = results_of(d, price=(2.0, 50.0))
    of = {r["metric"]: r for r in res}
    assert of["cost"]["value"] == pytest.approx((200 * 2 + 10 * 50) / 1e6) and of["cost"]["n"] == 2
    assert of["prompt tokens"]["value"] == 200 and of["tokens"]["n"] == 4
    assert any("cost an answer" in x and "0.0009 " in x for x in in_lines(res, rows_of(d), 9, (2.0, 50.0)))
    assert "cost" not in {r["metric"] for r in results_of(d)}
    uncounted = results_of(d.assign(prompt_tokens=None), price=(2.0, 50.0))
    assert "cost" not in {r["metric"] for r in uncounted}
    assert any("not measured: the server does not count" in x for x in in_lines(uncounted, rows_of(d), 9, (2.0, 50.0)))


def rows_of(d):
    return d.assign(tf=0.5).to_dict("records")


@pytest.mark.parametrize("price", ["cheap", "1", "1,2,3", "-1,2", "nan,1", "0.5;1.5"])
def test_a_price_that_is_none_is_refused_before_anything_is_asked(price, tmp_path):
    r = CliRunner().invoke(app, ["evaluate", "--data", "nowhere", "--price", price, "--out", str(tmp_path / "out")])
    assert (
        r.exit_code == 1 and f"--price '{price}' is no pair of prices" in r.stderr and not (tmp_path / "out").exists()
    )

"""A model as judge: what it is asked, how its replies are read, what happens if it gives none, and its errors."""

import hashlib
import json
import re
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crane.core import CraneError, Probe, parse_trace
from crane.failure_modes import verdict
from crane.judges import (
    JUDGE_PROMPT,
    JUDGE_PROMPT_VERSION,
    JUDGES,
    UNREAD,
    VERDICTS,
    Judgement,
    as_trace_and_probe,
    corrected,
    error_rows,
    errors_of,
    grounds,
    judge,
    judge_all,
    judge_prompt,
    judged_chains,
    judged_rates,
    labelled_chains,
    read_judgement,
    served_judge,
)
from crane.report import result_table, table_judges

root = Path(__file__).resolve().parent.parent
GROUNDED = '{"verdict": "grounded", "answer_right": true, "bridges": null}'
PROBE = Probe(
    id="p",
    edit_id="e",
    kind="exact",
    question="Whose flag is this?",
    answer="Germany",
    edit_names=["Germany"],
    old_names=["Mexico"],
)


def trace(think, answer="Germany"):
    return parse_trace(f"<think>{think}</think>{answer}")


TRACE = trace("It is Germany.")

# ---- what a model is asked


def test_the_prompt_has_the_definition_word_for_word():
    cells = json.loads((root / "nbs" / "00b_commitments.ipynb").read_text())["cells"]
    texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    definition = next(t for t in texts if t.startswith("## The definition")).replace("*", "")
    parts = definition.split("\n\n")[1].splitlines() + definition.split("\n\n")[2].splitlines()
    parts += definition.split("\n\n")[3].split(" It wavers")[:1]
    asked = " ".join(JUDGE_PROMPT.split())
    for part in parts:
        sentence = " ".join(part.removeprefix(" ").split()).removesuffix(".")
        assert sentence and sentence in asked, sentence


def test_another_prompt_has_another_version():
    digest = hashlib.sha256(JUDGE_PROMPT.encode()).hexdigest()[:12]
    assert (JUDGE_PROMPT_VERSION, digest) == ("1", "9c20c7c8b46a"), "raise JUDGE_PROMPT_VERSION, and then change this"


@given(st.text(), st.text())
def test_a_chain_reaches_the_judge_as_it_is(think, answer):
    t = TRACE.model_copy(update=dict(think=think, answer=answer))
    case = json.loads(judge_prompt(t, PROBE).removeprefix(JUDGE_PROMPT))
    assert (case["think"], case["answer"]) == (think, answer)


# ---- how its replies are read


@pytest.mark.parametrize(
    "reply",
    [
        GROUNDED,
        f"Here it is:\n```json\n{GROUNDED}\n```\nThe note {{as quoted}} is followed.",
        f'<think>Is it {{"verdict": "dissonant", "answer_right": false, "bridges": null}}?</think>{GROUNDED}',
        f'{{"judgement": {GROUNDED}}}',
        GROUNDED.replace("grounded", "Grounded"),
    ],
)
def test_a_judgement_is_found_in_what_is_around_it(chat_server, reply, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    server = chat_server(lambda prompt: reply)
    assert judge(TRACE, PROBE, served_judge(server.url, "m")) == ("grounded", True, False)
    (asked,) = server.asked
    assert (asked["path"], asked["model"], asked["key"]) == ("/v1/chat/completions", "m", "Bearer k")
    assert asked["temperature"] == 0 and asked["messages"][0]["content"] == judge_prompt(TRACE, PROBE)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "grounded",
        '{"verdict": "grounded"}',
        GROUNDED.replace("grounded", "unread"),
        GROUNDED.replace("true", '"yes"'),
        GROUNDED.replace("null", "[]"),
        GROUNDED[:-1],
        '{"a":' * 5000,
        "[" * 100_000,
    ],
)
def test_what_cannot_be_read_is_no_verdict(chat_server, reply):
    server = chat_server(lambda prompt: reply)
    said = judge(TRACE, PROBE, served_judge(server.url, "m"))
    assert said == UNREAD and said.verdict not in VERDICTS


def test_an_empty_message_is_unread(chat_server):
    server = chat_server(lambda prompt: (200, dict(choices=[dict(message=dict(content=None))])))
    assert judge(TRACE, PROBE, served_judge(server.url, "m")) == UNREAD


@given(st.one_of(st.text(), st.lists(st.sampled_from([*'{}[]",: \\', GROUNDED, "verdict", "null"])).map("".join)))
def test_any_reply_is_read(reply):
    assert read_judgement(reply).verdict in (*VERDICTS, "unread")


@pytest.mark.parametrize("verdict", VERDICTS)
def test_only_a_grounded_chain_uses_its_bridges(verdict):
    said = json.dumps(dict(verdict=verdict, answer_right=True, bridges=True))
    assert read_judgement(said) == (verdict, True, verdict == "grounded")


# ---- when it does not answer


def refuses(status, message):
    return lambda prompt: (status, dict(error=dict(message=message)))


@pytest.mark.parametrize(
    "reply, words",
    [
        (refuses(401, "Incorrect key"), "Incorrect key.*OPENAI_API_KEY"),
        (refuses(404, "The model `m` does not exist"), "`m` does not exist.*check the model's name"),
        (refuses(400, "too long"), "too long"),
        (lambda prompt: None, "check the address, and that the server runs"),
        (lambda prompt: (200, "<html>Welcome</html>"), "speaks the OpenAI protocol"),
        (lambda prompt: (200, dict(choices=[])), "speaks the OpenAI protocol"),
        (lambda prompt: (200, dict(detail="no such route")), "speaks the OpenAI protocol"),
    ],
)
def test_a_server_that_is_no_judge_is_one_sentence(chat_server, reply, words):
    server = chat_server(reply)
    with pytest.raises(CraneError, match=words) as e:
        judge(TRACE, PROBE, served_judge(server.url, "m"))
    said = str(e.value)
    assert "\n" not in said and server.url in said and "'m'" in said and len(said) < 600


@pytest.mark.parametrize(
    "url",
    ["", "nowhere", "http://", "http://[", "http://server:port/v1", "ftp://127.0.0.1/v1", "http://127.0.0.1:9/v1"],
)
def test_an_address_where_nothing_is_is_one_sentence(url):
    with pytest.raises(CraneError, match="address") as e:
        judge(TRACE, PROBE, served_judge(url, "m"))
    assert "\n" not in str(e.value)


def test_without_the_client_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(CraneError, match=re.escape("pip install crane-companion[serve]")):
        served_judge("http://127.0.0.1:9/v1", "m")


def test_a_refusal_ends_it_soon(chat_server):
    server = chat_server(refuses(401, "no"))
    with pytest.raises(CraneError, match="OPENAI_API_KEY"):
        judge_all([TRACE] * 300, [PROBE] * 300, served_judge(server.url, "m"))
    assert len(server.asked) < 100


# ---- many chains


def test_many_are_asked_at_a_time_and_stay_in_order(chat_server):
    now, most, lock = 0, 0, threading.Lock()

    def reply(prompt):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        number = int(re.search(r"chain (\d+)", prompt)[1])
        time.sleep(0.03 if number % 5 == 0 else 0.001)  # the first comes after the next ones
        with lock:
            now -= 1
        return GROUNDED.replace("grounded", VERDICTS[number % 3])

    server = chat_server(reply)
    said = judge_all([trace(f"chain {i}") for i in range(60)], [PROBE] * 60, served_judge(server.url, "m"))
    assert [x.verdict for x in said] == [VERDICTS[i % 3] for i in range(60)] and most > 1


def test_a_judge_of_ones_own_is_called_one_chain_at_a_time():
    busy = threading.Lock()

    def own(trace, probe):
        assert busy.acquire(blocking=False), "called while it works"
        time.sleep(0.002)
        busy.release()
        return Judgement("undecided", False, False)

    assert len(judge_all([TRACE] * 20, [PROBE] * 20, own)) == 20


# ---- errors


@pytest.fixture(scope="module")
def chains():
    return labelled_chains(held_out=True)


@pytest.fixture(scope="module")
def rows(chains):
    return judged_chains(chains)


def test_unread_replies_are_counted_and_never_grounded(chat_server, chains):
    server = chat_server(lambda prompt: GROUNDED if prompt.count("the") % 2 else "Hmm.")
    d = judged_chains(chains, {"m": served_judge(server.url, "m")})
    unread = d.verdict == "unread"
    assert 0 < unread.sum() < len(d) and not d.GS[unread].any()
    assert errors_of(d)["unread"]["value"] == unread.mean()


def test_a_judge_that_reads_as_readers_do_has_no_errors(chains):
    label = {r["id"]: Judgement(r["verdict"], r["answer_right"], bool(r["ieu"])) for r in chains}
    d = judged_chains([r for r in chains if r["well_formed"]], {"reader": lambda t, p: label[p.id]})
    good = {r["metric"]: r["value"] for r in error_rows(d) if r["split"]["label"] == "all"}
    assert good.pop("false dissonance") == good.pop("unread") == 0 and good.pop("form") > 0.9
    assert set(good.values()) == {1.0}


def test_the_rows_of_t9_agree_with_counting(rows):
    res = error_rows(rows)
    assert all(r["lo"] <= r["value"] <= r["hi"] and r["n"] > 0 for r in res)
    value = {(r["method"], r["metric"], *r["split"].values()): r["value"] for r in res}
    assert len(value) == len(res)
    for name in JUDGES:
        mine = [r for r in rows.to_dict("records") if r["judge"] == name and r["kind"] == "long"]
        grounded = [r["GS"] for r in mine if r["is_GS"]]
        clean = [r["verdict"] for r in mine if r["is_verdict"] != "dissonant"]
        old = [r["verdict"] for r in mine if r["is_verdict"] == "dissonant"]
        assert value[name, "sensitivity", "long", "all"] == pytest.approx(sum(grounded) / len(grounded))
        assert value[name, "false dissonance", "long", "all"] == pytest.approx(clean.count("dissonant") / len(clean))
        assert value[name, "verdict", "long", "dissonant"] == pytest.approx(old.count("dissonant") / len(old))


def test_kappa_agrees_with_its_formula(rows):
    mine = rows[rows.judge == "v2"]
    a, b, n = mine.GS.astype(bool), mine.is_GS.astype(bool), len(mine)
    agree = ((a & b).sum() + (~a & ~b).sum()) / n
    chance = (a.sum() * b.sum() + (~a).sum() * (~b).sum()) / n**2
    assert errors_of(mine)["kappa"]["value"] == pytest.approx((agree - chance) / (1 - chance))


def test_t9_is_laid_out(rows):
    t = table_judges(result_table(error_rows(rows)))
    assert [*t.index] == [f"{j}, {k}" for k in ("all", *dict.fromkeys(rows.kind)) for j in JUDGES]
    assert (t != "").all(axis=None) and t.n["v1, all"] == rows.id.nunique()
    assert re.fullmatch(r"-?0\.\d\d \[-?\d\.\d\d, \d\.\d\d\]", t.kappa["v2, all"])


def test_the_corrected_rate_is_that_of_readers():
    "A judge of known errors, a rate of known truth."
    rng = np.random.default_rng(1)

    def judged(truth):
        return np.where(truth, rng.random(len(truth)) < 0.7, rng.random(len(truth)) < 0.1)

    truth = np.arange(400) % 2 == 0
    known = pd.DataFrame(dict(is_GS=truth, GS=judged(truth)))
    for share in 0.1, 0.5, 0.9:
        really = rng.random(3000) < share
        said = judged(really).tolist()
        one = corrected(said, [f"e{i}" for i in range(3000)], known)
        assert one["lo"] <= share <= one["hi"] and abs(one["value"] - share) < 0.1
    few = corrected(said, [f"e{i // 300}" for i in range(3000)], known)
    assert few["value"] == one["value"]


def test_probes_of_one_edit_make_no_sure_rate():
    known = pd.DataFrame(dict(is_GS=[True, False] * 100, GS=[True, False] * 100))
    values = [True] * 50 + [False] * 50
    alone = corrected(values, [f"e{i}" for i in range(100)], known)
    together = corrected(values, [f"e{i // 10}" for i in range(100)], known)
    assert together["hi"] - together["lo"] > 2 * (alone["hi"] - alone["lo"])


@pytest.mark.parametrize("words, kind", [(10, "short"), (300, "long")])
def test_a_printed_rate_names_its_judge_and_the_errors_on_like_chains(rows, words, kind):
    of_v2 = rows[rows.judge == "v2"]
    edits = [f"e{i}" for i in range(20)]
    mine = pd.DataFrame(dict(method="mine", edit_id=edits, think="word " * words, GS=[True] * 15 + [False] * 5))
    said = {(r["method"], r["metric"]): r for r in judged_rates(mine, of_v2, correct=True)}
    assert said["mine", "GS by v2"]["value"] == 0.75
    assert said["v2", f"sensitivity, {kind} chains"]["n"] == (of_v2.is_GS & (of_v2.kind == kind)).sum()
    assert said["mine", "GS by v2, corrected"]["n"] == 20
    assert len(judged_rates(mine, of_v2)) == len(said) - 1


def test_the_standard_judge_is_that_of_the_tables(chains):
    for t, p in map(as_trace_and_probe, chains):
        said = judge(t, p)
        assert verdict(t, p)["GS"] == grounds(t, p, said), p.id

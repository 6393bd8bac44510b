"""The protocol on stored files.

Judging traces again changes nothing, independent arithmetic agrees, and a stopped, changed or foreign evaluation is
noticed.
"""

import json
import re
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from crane import protocol
from crane.benchmark import load_benchmark, read_benchmark
from crane.command_line import app, touched_up
from crane.core import CraneError, Probe, parse_trace, read_json, read_jsonl, sha256_file, write_json
from crane.evaluation import (
    independence,
    judge,
    ood_questions,
    own_editor,
    score,
    second_opinion,
    words_only,
)
from crane.failure_modes import PROTOCOL, verdict
from crane.judges import judge_prompt, labelled_chains, served_judge
from crane.ledger import ledger
from crane.model import load_mllm
from crane.names import key, same_answer
from crane.protocol import evaluate, judged_results
from crane.report import (
    check_results,
    result_table,
    table_goals,
    table_growth,
    table_hops,
    table_independence,
    table_kinds,
    table_main,
    table_modes,
    table_ood,
    table_paired,
    table_sequence,
    table_t1,
)
from crane.retrieval import all_edits
from crane.second_domain import load_second_domain
from crane.tables import (
    IN_SCOPE,
    INDEPENDENCE,
    METRICS,
    agreement_table,
    conflict_table,
    goal_table,
    growth_table,
    hop_table,
    independence_table,
    kind_table,
    main_table,
    ood_table,
    sequence_table,
    shallow_gap,
    sign_flip,
)
from crane.world import load_world

root = Path(__file__).resolve().parent.parent
ran = root / "runs" / "smoke" / "09_evaluation"
numbers = ran.parent / "09a_tables" / "results.json"
RUNNER = CliRunner()
needs_run = pytest.mark.skipif(not numbers.exists(), reason="needs the smoke run: make reproduce PROFILE=smoke")


@pytest.fixture(scope="module")
def world():
    return load_world()


@pytest.fixture(scope="module")
def strong(world):
    return load_benchmark("smoke", "test", world)


@pytest.fixture(scope="module")
def probes(world, strong):
    "All test probes, by whatever stored line may speak of them."
    calm = load_benchmark("smoke", "test", world, ("aligned", "no-prior", "weak"))[1]
    return list({p.id: p for p in [*strong[1], *calm, *all_edits("smoke", "test", world).probes]}.values())


PROMOTED = dict(T1=table_t1, T2=table_main, T2k=table_kinds, T3=table_hops, T5=table_ood)
PROMOTED |= dict(T1s=table_sequence, goals=table_goals, ledger=ledger)
PROMOTED |= dict(T1_modes=table_modes, T1p=table_paired, T4=table_independence, T4n=table_growth)

# ---- scoring again

JUDGED = {
    "think",
    "answer",
    "fault",
    "FMT",
    "AS",
    "GS",
    "EI",
    "IEU",
    "drift",
    "leak",
    "rule",
    "dissonant",
    "unclear",
    "loops",
    "affirms",
    "rejects",
    "contradicts",
    "broke",
    "grounded",
    "sentence",
    "refuses",
    "ignores",
    "wavers",
    "answers_old",
}


def bare(rows):
    return [{k: v for k, v in r.items() if k not in JUDGED} for r in rows]


def line(name):
    return read_jsonl(ran / f"{name}.jsonl")


def base(rows):
    return [r for r in rows if r["method"] == "base"]


def others(rows):
    return [r for r in rows if r["method"] != "base"]


def rejudged(name, probes, reference):
    return others(score(base(reference) + bare(line(name)), probes))


@pytest.fixture(scope="module")
def again(probes):
    "Every stored file of traces, judged anew."
    traces, calm, plain = line("traces"), bare(line("calm")), line("plain")
    again = dict(scored=score(traces, probes), calm=score(calm, probes))
    again["seeds"] = rejudged("seeds", probes, traces + calm)
    for name in ("sequence", "growth", "ablations"):
        again[name] = rejudged(name, probes, traces)
    return again | dict(kinds=rejudged("kinds", probes, plain))


@needs_run
@pytest.mark.parametrize("name", ["scored", "calm", "seeds", "sequence", "growth", "ablations", "kinds"])
def test_stored_traces_judged_again_are_judged_the_same(again, name):
    was = line(name)
    was = was if name in ("scored", "calm") else others(was)
    assert len(was) == len(again[name]) and (was or name == "seeds")
    for a, b in zip(was, again[name]):
        assert {k: b.get(k) for k in a} == a


@needs_run
def test_texts_out_of_distribution_are_judged_the_same():
    of = {(q.set, q.probe.id): q.probe for q in ood_questions(load_second_domain())}
    for r in line("ood"):
        now = verdict(parse_trace(r["text"], r["ended"]), of[r["set"], r["probe_id"]])
        assert {k: r[k] for k in now} == now


@pytest.fixture(scope="module")
def numbers_again(again):
    "The result rows of the tables that rest on traces judged anew."
    d = {name: pd.DataFrame(rows) for name, rows in again.items()}
    strata = {r["edit_id"]: r["stratum"] for r in read_benchmark(ran.parent / "05a_benchmark", "test").strata}
    seeded = pd.concat([d["scored"], d["calm"]]).assign(seed=0)
    rows = main_table(d["scored"]) + independence_table(d["scored"]) + hop_table(d["scored"])
    rows += conflict_table(pd.concat([seeded, d["seeds"]]), strata)
    rows += sequence_table(d["sequence"], d["scored"]) + growth_table(d["growth"])
    return rows + kind_table(d["kinds"]) + goal_table(d["kinds"]) + ood_table(pd.DataFrame(line("ood")))


def keyed(rows):
    "Result rows by what tells them apart."
    return {(r["id"], r["method"], r["metric"], json.dumps(r["split"], sort_keys=True)): r for r in rows}


@needs_run
def test_tables_from_traces_judged_again_are_the_tables(numbers_again):
    res = read_json(numbers)
    old, now = keyed(res), keyed(json.loads(json.dumps(numbers_again)))
    assert len(now) > 500 and {k: old[k] for k in now} == now
    ids = {k[0] for k in now}
    frame = result_table(numbers_again + [r for r in res if r["id"] not in ids])
    shown = dict(T1=table_t1, T2=table_main, T2k=table_kinds, T3=table_hops, T5=table_ood, T1s=table_sequence)
    for name, table in (shown | dict(goals=table_goals)).items():
        assert table(frame).to_csv() == (ran.parent / "10_report" / "figures" / f"{name}.csv").read_text(), name
    assert ledger(frame).to_csv() == (ran.parent / "10b_ledger" / "figures" / "ledger.csv").read_text()


def test_the_promoted_tables_are_what_the_promoted_numbers_say():
    path = root / "figures" / "results.json"
    if not path.exists():
        pytest.skip("nothing is promoted")
    rows = read_json(path)
    frame = result_table(rows)
    for name, table in PROMOTED.items():
        assert table(frame).to_csv() == (root / "figures" / f"{name}.csv").read_text(), name


# ---- the same numbers by another way


@needs_run
def test_gs_and_ieu_by_pandas_alone(strong):
    "GS from the stored stances, and form, answer and bridges from the text, in pandas and regular expressions."
    d = pd.read_json(ran / "scored.jsonl", lines=True)
    res = pd.DataFrame(read_json(numbers))
    res = res[res.id == "T1"].set_index(["method", "metric"]).value
    d = d[~d.kind.str.contains("locality")]
    over_bridges = d.IEU.isna() | (d.IEU == True)  # noqa: E712 (missing where there is no bridge)
    gs = (d.FMT & d.AS & (d.grounded == "yes") & over_bridges).groupby(d.method).mean()
    assert ((gs - res.xs("GS", level="metric")[gs.index]).abs() < 1e-9).all()
    about = pd.DataFrame([p.model_dump() for p in strong[1]]).set_index("id")
    d = d.join(about[["answer", "aliases", "chain"]], on="probe_id", suffixes=("", "_wanted"))
    own = d[
        d.method.isin(["CRANE", "CRANE, gold", "IKE", "retrieval prompt", "LoRA chain"])
    ]  # whose texts are all of one form
    parts = own.text.str.extract(
        r"^<think>(?P<t>(?:(?!</?think>).)+?)</think>(?:<answer>)?(?P<a>[^<]+)(?:</answer>)?$", flags=re.S
    )
    assert ((parts.a.notna() & own.ended) == own.FMT).all()
    hops = own[(own.kind == "multi_hop") & parts.a.notna()]
    named = [
        all(re.search(rf"\b{re.escape(n[0])}\b", t) for n in chain) for t, chain in zip(parts.t[hops.index], hops.chain)
    ]
    denied = parts.t[hops.index].str.contains(r"\b(?:not|no|never)\b")
    assert (pd.Series(named, hops.index) == hops.IEU.astype(bool))[~denied].all() and (~denied).any()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(-1, 1)), min_size=1, max_size=30))
def test_sign_flip_is_a_probability_and_blind_to_the_sign(rows):
    groups, values = [g for g, _ in rows], [v for _, v in rows]
    p = sign_flip(values, groups)
    assert 0 < p <= 1 and abs(p - sign_flip([-v for v in values], groups)) < 0.05


def test_sign_flip_knows_a_difference_from_none():
    groups = [f"e{i}" for i in range(12)]
    assert sign_flip([1.0] * 12, groups) < 0.005 < 0.5 < sign_flip([1.0, -1.0] * 6, groups)
    assert sign_flip([1.0] * 12, ["e"] * 12) == 1  # one edit says nothing, however many probes it has


# ---- metrics cannot be had by tricks

OUT = ["text_locality", "image_locality"]
NEAR = Probe(id="p", edit_id="e", kind="image_locality", question="Whose flag?", answer="Chile", edit_names=["Japan"])


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab <>/thinkJapChle.", max_size=60), st.text(alphabet="ab <>/thinkJapChle.", max_size=60))
def test_independence_is_neither_drift_nor_leak(a, b):
    v = independence(parse_trace(a), parse_trace(b), NEAR)
    assert v["EI"] == (not v["drift"] and not v["leak"]) and independence(parse_trace(b), parse_trace(b), NEAR)["EI"]


FRAMES = [
    "{}",
    "{}.",
    "**{}**",
    " `{}`\n",
    "\\boxed{{{}}}",
    "$$\\boxed{{\\text{{{}}}}}$$",
    "The answer is {}.",
    "the correct answer is: {}",
    "So the answer is {}.",
    "**Final answer:** {}",
    "Final Answer: \\boxed{{{}}}.",
    "The answer to the question is {}.",
    "### Answer\n{}",
    "Thinking of it again.\n\n**Answer**: {}",
    "It is {}.",
    "It's {}",
    "This is {}.",
    '{{"answer": "{}"}}',
    '```json\n{{"answer": "{}"}}\n```',
    "{} is the answer.",
    "<b>{}</b>",
    "the {}",
]
SAID = [
    "Lima",
    "Guinea",
    "Guinea-Bissau",
    "São Tomé",
    "St. Gallen",
    "no",
    "yes",
    "two",
    "-5",
    "5",
    "5%",
    "3/4",
    "1,000",
]
SAID += ["C", "C++", "United States", "German", "Germany", "not Lima", "Lima or Quito", "日本", "10:30", "Spy Kids 2"]
WORD = st.text("abcdefghijklmnopqrstuvwxyzäéł", min_size=3, max_size=9).filter(lambda w: w not in ("the", "and"))
ANSWERS = st.sampled_from(SAID) | st.lists(WORD, min_size=1, max_size=3).map(" ".join)


def changed(a, b):
    "Whether independence calls an answer another than the unedited model's."
    traces = (parse_trace(f"<think>Let me see.</think>{x}") for x in (a, b))
    return independence(*traces, NEAR)["drift"]


def test_no_frame_changes_what_these_say_and_none_makes_two_of_them_one():
    for a, b, frame in product(SAID, SAID, FRAMES):
        assert same_answer(frame.format(a), b) == (a == b), (frame, a, b)


@settings(max_examples=300, deadline=None)
@given(ANSWERS, st.sampled_from(FRAMES), st.sampled_from(FRAMES))
def test_a_frame_is_no_drift(said, frame, other):
    assert not changed(frame.format(said), other.format(said))


@settings(max_examples=300, deadline=None)
@given(ANSWERS, ANSWERS, st.sampled_from(FRAMES), st.sampled_from(FRAMES))
def test_another_answer_is_drift_in_any_frame(one, other, frame, another):
    if not same_answer(one, other):
        assert changed(frame.format(one), another.format(other))
    if key(one) != key(other):
        assert not same_answer(one, other), "none of these is another name of another"


@pytest.mark.parametrize(
    "a, b, same",
    [
        ("UK", "The answer is the United Kingdom.", True),
        ("U.S.", "USA", True),
        ("Deutschland", "Germany", True),
        ("Aberdeen F.C.", "aberdeen fc", True),
        ("Congolese", "Congo", False),
        ("It isn't Lima", "It is Lima", False),
        ("I would not say \\boxed{Lima}", "Lima", False),
        ("\\boxed{Lima} or \\boxed{Quito}", "Quito", False),
        ('{"answer": "Lima", "sure": "no"}', "Lima", False),
        ("", "Lima", False),
        ("The answer is", "The answer is", True),
    ],
)
def test_answers_are_compared_by_what_they_say(a, b, same):
    assert same_answer(a, b) == same_answer(b, a) == same


@pytest.mark.parametrize(
    "piece", ["\n", "_", "{", "[", "the\n", "answer: ", "it is ", "\\boxed{", "} ", '"', "1,", " is the answer"]
)
def test_comparing_long_answers_takes_linear_time(piece):
    start = time.time()
    same_answer("a" + piece * (10**6 // len(piece)), piece * 9)
    assert time.time() - start < 20


@pytest.mark.parametrize(
    "target, text, leaks",
    [
        ("no", "<think>There is no other island. It has no king.</think>Chile", False),
        ("no", "<think>So the answer is no.</think>Chile", True),
        ("no", "<think>Let me see.</think>No.", True),
        ("two", "<think>The flag has two stripes and is that of Chile.</think>Chile", False),
        ("2", "<think>Let me see.</think>The answer is two.", True),
        ("a red bus", "<think>Behind a red bus stands the thing.</think>Chile", False),
        ("Guinea", "<think>Guinea-Bissau lies near Equatorial Guinea.</think>Chile", False),
        ("Guinea", "<think>The note is about Guinea, so it does not apply.</think>Chile", True),
        ("US", "<think>Let us see.</think>Chile", False),
        ("US", "<think>The note is about the U.S., so let me see.</think>Chile", True),
    ],
)
def test_a_name_leaks_where_it_stands_and_an_ordinary_word_where_it_is_meant(target, text, leaks):
    probe = NEAR.model_copy(update=dict(edit_names=[target]))
    assert independence(parse_trace(text), parse_trace("<think>It is Chile.</think>Chile"), probe)["leak"] == leaks


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["exact", "both_rephrase", *OUT]), st.booleans())))
def test_joint_success_by_hand(asked):
    d = pd.DataFrame(asked, columns=["edit_id", "kind", "well"])
    outside = d.kind.isin(OUT)
    d = d.assign(method="m", GS=d.well.where(~outside), EI=d.well.where(outside))
    got = METRICS["joint success"].of(d)
    want = {}
    for edit in sorted({e for e, _, _ in asked}):
        mine = [(kind in OUT, well) for e, kind, well in asked if e == edit]
        if {out for out, _ in mine} == {True, False}:
            want[edit] = all(well for _, well in mine)
    assert dict(zip(got.edit_id, got.joint)) == want


def test_rows_of_before_lack_the_new_metrics_and_are_still_counted():
    row = dict(
        method="m", edit_id="e", kind="exact", tag="", dissonant=True, AS=False, GS=False, FMT=True, unclear=False
    )
    near = dict(method="m", edit_id="e", kind="text_locality", tag="far", FMT=True, EI=True, drift=False, leak=False)
    d = pd.DataFrame([row, near])
    lacking = {name for name, metric in (METRICS | INDEPENDENCE).items() if metric.of(d).empty}
    assert {"refuses", "never mentions", "dissonant, old answer", "a note stands", "EI given a note"} <= lacking
    assert not {"dissonance", "dissonant, new answer", "joint success", "EI"} & lacking


@needs_run
def test_the_halves_of_dissonance_are_the_whole():
    d = pd.DataFrame(read_json(numbers)).query("id == 'T1'").pivot(index="method", columns="metric", values="value")
    assert ((d["refuses"] + d["never mentions"] - d.dissonance).abs() < 1e-9).all()
    assert (d["dissonant, old answer"] + d["dissonant, new answer"] <= d.dissonance + 1e-9).all()


def test_a_judgement_out_of_scope_needs_the_unedited_model():
    with pytest.raises(CraneError, match="give what the unedited model says"):
        judge("<think>It is Chile.</think>Chile", NEAR)
    assert judge("<think>It is Chile.</think>Chile", NEAR, "<think>Chile it is.</think>Chile")["EI"]


def test_editing_nothing_has_no_gs_and_failing_everywhere_has_no_gap():
    for gs in (False, True):
        assert shallow_gap(pd.DataFrame(dict(edit_id="e", kind=IN_SCOPE, GS=gs))).gap.tolist() == [0]


# ---- an evaluation that is stopped, changed, or another's


@pytest.fixture(scope="module")
def few(strong):
    ids = {e.id for e in strong[0][:3]}
    return strong[0][:3], [p for p in strong[1] if p.edit_id in ids]


def timeless(rows):
    return [{k: v for k, v in r.items() if k not in ("took", "seconds")} for r in rows]


def by_probe(rows):
    return sorted(timeless(rows), key=lambda r: (r["method"], r["probe_id"]))


class Stop(Exception):
    "An evaluation is stopped."


@needs_run
def test_an_evaluation_stopped_at_any_write_goes_on(world, few, tmp_path, monkeypatch):
    m = load_mllm()
    whole = evaluate("FT-L", m, *few, world, tmp_path / "whole", chunk=1)
    write = protocol.add_lines

    def write_and_stop(*args):
        write(*args)
        raise Stop

    for _ in few[0][:2]:
        with monkeypatch.context() as patch, pytest.raises(Stop):
            patch.setattr(protocol, "add_lines", write_and_stop)
            evaluate("FT-L", m, *few, world, tmp_path / "parts", chunk=1)
        with (tmp_path / "parts" / "traces.jsonl").open("ab") as f:
            f.write(b'{"method": "FT')  # as a kill would leave it
    assert by_probe(evaluate("FT-L", m, *few, world, tmp_path / "parts", chunk=1)) == by_probe(whole)
    for f in "results.json", "scored.jsonl":
        assert (
            by_probe(read_jsonl(tmp_path / "parts" / f)) == by_probe(read_jsonl(tmp_path / "whole" / f))
            if f.endswith("l")
            else read_json(tmp_path / "parts" / f) == read_json(tmp_path / "whole" / f)
        )


@needs_run
@pytest.mark.faults
def test_a_killed_evaluation_goes_on(tmp_path, monkeypatch, tried):
    args = ["evaluate", "--method", "IKE-0", "--data", str(ran.parent / "05a_benchmark"), "--limit", "4"]
    args += ["--out", str(tmp_path / "it")]
    crane = str(Path(sys.executable).parent / "crane")
    p = subprocess.Popen([crane, *args], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while p.poll() is None and not (tmp_path / "it" / "traces.jsonl").exists():
        time.sleep(0.05)
    p.send_signal(signal.SIGKILL)
    p.wait()
    monkeypatch.chdir(root)
    with tried("SIGKILL after the first lines", "evaluation", "nothing: the same command goes on").once():
        r = RUNNER.invoke(app, args)
        assert r.exit_code == 0 and "GS" in r.stdout and (tmp_path / "it" / "results.json").exists()
        assert RUNNER.invoke(app, args).stdout == r.stdout


@pytest.fixture(scope="module")
def done(world, few, tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    evaluate("IKE-0", load_mllm(), *few, world, folder)
    return folder


def copy_of(folder, to):
    to.mkdir()
    for f in folder.iterdir():
        (to / f.name).write_bytes(f.read_bytes())
    return to


@needs_run
def test_changed_truncated_or_foreign_lines_are_refused(world, few, done, tmp_path):
    def refused(name, change, *words, method="IKE-0", which=few):
        folder = copy_of(done, tmp_path / name)
        change(folder / "traces.jsonl")
        with pytest.raises(CraneError) as e:
            evaluate(method, load_mllm(), *which, world, folder)
        assert all(w in str(e.value) for w in (str(folder), *words)), e.value

    def better(path):
        path.write_text(path.read_text().replace("</think>", " Yes.</think>", 1))

    def cut(path):
        lines = path.read_text().splitlines(True)
        path.write_text("".join(lines[:-1]) + lines[-1][:30])

    def other_schema(path):
        about = path.with_name("about.json")
        write_json(about, read_json(about) | dict(schema=0))

    def half_about(path):
        path.with_name("about.json").write_text('{"schema": 1')

    def untouched(path):
        pass

    two = {e.id for e in few[0][:2]}
    fewer = few[0][:2], [p for p in few[1] if p.edit_id in two]
    refused("by hand", better, "not as the evaluation left it")
    refused("truncated", cut, "not as the evaluation left it")
    refused("gone", Path.unlink, "not as the evaluation left it")
    refused("schema", other_schema, "another schema (0, not 2)")
    refused("method", untouched, "another method ('IKE-0', not 'IKE')", method="IKE")
    refused("records", untouched, "another records", which=fewer)
    refused("about", half_about, "about.json")


@needs_run
def test_an_evaluation_says_what_made_it(done):
    a = read_json(done / "about.json")
    assert (
        a["versions"]["torch"]
        and a["hardware"]["cores"]
        and a["weights"]
        and a["records"]
        and a["traces"] == sha256_file(done / "traces.jsonl")
        and "commit" in a
    )


@needs_run
def test_results_that_lack_a_method_or_a_probe_are_refused(strong):
    res = read_json(numbers)
    with pytest.raises(CraneError, match="lacks metric 'TF' of method 'CRANE'"):
        check_results([r for r in res if r["method"] != "CRANE"])
    with pytest.raises(CraneError, match="not a list of result rows"):
        check_results([dict(id="T1")])
    rows = line("traces")
    with pytest.raises(CraneError, match="unedited model"):
        score([r for r in rows if r["method"] != "base"], strong[1])
    (some := ran.parent / "cut.jsonl").write_text((ran / "traces.jsonl").read_text()[:-40])
    try:
        with pytest.raises(CraneError, match=rf"line {len(rows)}\b"):
            read_jsonl(some)
    finally:
        some.unlink()


# ---- a method of one's own, and a second judge


def test_an_editor_of_ones_own_is_found_or_refused(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from crane.editors import Edited, editor\n"
        "@editor\ndef still(m, edits, world): yield Edited(m)\n"
        "def plain(m): pass\n"
    )
    assert own_editor(f"{file}:still") == "still"
    for name, words in (
        (f"{file}:stil", "does not give 'stil'"),
        (f"{file}:plain", "put @editor before it"),
        ("none.py:f", "is no file"),
    ):
        with pytest.raises(CraneError, match=words):
            own_editor(name)
    file.write_text("import nothing_like_it")
    with pytest.raises(CraneError, match="nothing_like_it"):
        own_editor(f"{file}:still")


@needs_run
def test_a_second_judge_stands_apart(chat_server, strong):
    says = {v: json.dumps(dict(verdict=v, answer_right=True, bridges=True)) for v in ("grounded", "undecided")}
    server = chat_server(lambda prompt: says["grounded" if len(prompt) % 2 else "undecided"])
    rows = [r for r in line("scored") if r["method"] in ("CRANE", "FT-L") and "GS" in r][:24]
    by_id = {p.id: p for p in strong[1]}
    judged = second_opinion(rows, strong[1], served_judge(server.url, "any"))
    prompts = [x["messages"][0]["content"] for x in server.asked]
    assert {*prompts} == {judge_prompt(parse_trace(r["text"], r["ended"]), by_id[r["probe_id"]]) for r in rows}
    assert len(prompts) == len({*prompts}), "equal chains are judged once"
    assert {(r["FMT"], r["second_verdict"]) for r in judged} >= {(False, "grounded"), (True, "grounded")}
    assert [r["second"] for r in judged] == [r["FMT"] and r["second_verdict"] == "grounded" for r in judged]
    res = agreement_table(pd.DataFrame(judged))
    assert {r["id"] for r in res} == {"second"} and all(0 <= r["value"] <= 1 for r in res)
    assert [{k: v for k, v in r.items() if k not in ("second", "second_verdict")} for r in judged] == rows


@needs_run
def test_judging_an_evaluation_again_leaves_the_same_results(done, few, tmp_path):
    folder = copy_of(done, tmp_path / "it")
    rows = read_jsonl(folder / "scored.jsonl")
    once = judged_results(rows, few[1], folder, "v2")
    assert judged_results(rows, few[1], folder, "v2") == once == read_json(folder / "results.json")
    assert [r for r in judged_results(rows, few[1], folder) if r["id"] == "second"] == []


@needs_run
def test_evaluate_prints_its_judges(chat_server, tmp_path):
    server = chat_server(lambda prompt: '{"verdict": "grounded", "answer_right": true, "bridges": null}')
    data = ran.parent / "05a_benchmark"
    args = ["evaluate", "--method", "IKE-0", "--data", data, "--limit", "1", "--out", tmp_path / "it"]
    r = crane(*args, "--judge", server.url)
    assert r.exit_code == 1 and "--judge-model" in r.output and not server.asked
    r = crane(*args, "--judge", server.url, "--judge-model", "some")
    assert r.exit_code == 0, r.output
    for metric in f"GS by {PROTOCOL}", "GS by some, prompt 1", "sensitivity, short chains", "agreement":
        assert metric in r.stdout, r.stdout
    assert not re.search(r"GS  +\d", r.stdout), "no GS without its judge"
    kept = read_jsonl(tmp_path / "it" / "second.jsonl")
    prompts = [x["messages"][0]["content"] for x in server.asked]
    assert len(prompts) == len({*prompts}) and len(prompts) > len(labelled_chains(held_out=True)) and kept
    r = crane(*args, "--correct")
    assert f"GS by {PROTOCOL}, corrected" in r.stdout and "by some" not in r.stdout
    mute = chat_server(lambda prompt: "No comment.")
    r = crane(*args, "--judge", mute.url, "--judge-model", "mute")
    said = [x for x in kept if x["method"] == "IKE-0"]
    assert f"no verdict was found in {len(said)} of {len(said)} replies about IKE-0" in r.stdout, r.stdout


# ---- the commands


def crane(*args):
    return RUNNER.invoke(app, [str(a) for a in args])


@needs_run
def test_evaluate_from_the_shell(tmp_path):
    data = ran.parent / "05a_benchmark"
    r = crane("evaluate", "--method", "FT-M", "--data", data, "--out", tmp_path / "a")
    assert r.exit_code == 1 and "'FT-M' is unknown" in r.output
    for args, words in (
        (("--data", tmp_path / "none"), "none"),
        (("--data", data, "--model", tmp_path / "no_model"), "no_model"),
        (("--data", data, "--split", "tset"), "tset"),
        (("--data", data, "--retrieval", "golden"), "golden"),
        (("--data", data, "--method", "base"), "unedited"),
    ):
        r = crane("evaluate", "--limit", "1", "--out", tmp_path / "b", *args)
        assert r.exit_code == 1 and words in r.output and "Traceback" not in r.output, r.output
    r = crane("evaluate", "--data", data, "--limit", "2", "--retrieval", "noisy", "--out", tmp_path / "c")
    assert r.exit_code == 0 and "CRANE" in r.stdout and "GS" in r.stdout
    r = crane(
        "evaluate",
        "--method",
        "IKE-0",
        "--data",
        data,
        "--limit",
        "1",
        "--max-new-tokens",
        "6",
        "--out",
        tmp_path / "d",
    )
    assert r.exit_code == 0 and "were cut at 6 tokens" in r.stdout and "raise --max-new-tokens" in r.stdout
    rows = read_jsonl(tmp_path / "d" / "traces.jsonl")
    assert {x["method"] for x in rows} == {"base", "IKE-0"} and max(
        x["tokens"] for x in rows
    ) <= 6  # the edited model is cut where the unedited one is


@needs_run
def test_the_ledger_is_an_exit_code_and_notices_a_touch():
    figures = root / "figures"
    if not (figures / "provenance.json").exists():
        pytest.skip("nothing is promoted")
    r = crane("ledger")
    claims = read_json(figures / "ledger.json")
    assert r.exit_code == 3 * any(c["verdict"] == "fails" for c in claims) and all(
        c["claim"] in r.stdout for c in claims
    )
    path = figures / "results.json"
    was = path.read_bytes()
    try:
        path.write_bytes(was.replace(b"0.", b"1.", 1))
        assert touched_up(figures) == ["results.json"]
        r = crane("ledger")
        assert r.exit_code == 4 and "figures/results.json" in r.output
    finally:
        path.write_bytes(was)


# ---- ablations


class Shaky:
    "An encoder as a processor makes it: equal texts come out unequal in their last bits."

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def texts(self, texts):
        return np.eye(2, dtype=np.float32)[[int(t.startswith("Whose")) for t in texts]] + self.rng.normal(
            0, 1e-7, (len(texts), 2)
        ).astype(np.float32)


def test_of_edits_with_the_same_question_the_first_is_taken(strong):
    "Which of them was nearest by rounding would depend on the processor."
    edits = [
        strong[0][0].model_copy(update=dict(id=f"e{i}", subject="of another flag", question=q))
        for i, q in enumerate(["Name it.", *["Whose flag is this?"] * 20])
    ]
    probes = [strong[1][0].model_copy(update=dict(id=f"p{i}", question="Whose flag is this?")) for i in range(20)]
    assert {hits[0].edit.id for hits in words_only(Shaky(), edits, probes)} == {"e1"}

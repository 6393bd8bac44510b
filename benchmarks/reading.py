"""How long it takes to read whole public files, and how much memory.

    .venv/bin/python benchmarks/reading.py [FILE …] [--card]

Files are told by their name, as in `vlkeb_eval.json`, `vlkeb_train.json`, `vlkeb_eval_onehop.json`, `mquake_cf.json`
and `mmedit_vqa.json`. Without any, files are made up that are as long as the authors' own; those of VLKEB also give the
same audits, which the tests hold against the authors' where those are at hand. Each file is read in a process of its
own; `start` is the memory that the process takes with everything imported, before a file is read. `--card` also prints
the card of each file; that of `vlkeb_eval.json` is held against `vlkeb_train.json` if that is among them.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from crane.core import write_atomic
from crane.public_formats import Public, load_public, public_card
from crane.report import markdown

FORMATS = {
    "onehop": "VLKEB one-hop",
    "vlkeb": "VLKEB",
    "mquake": "MQuAKE-CF",
    "vqa": "MMEdit VQA",
}
TRAIN, EVAL, ONE_HOP, VQA = 5000, 3174, 1278, 6346  # Records
KNOWN, SHARED, ASKED = 1173, 1962, 1726  # Edits of VLKEB's eval file that an audit finds: 37.0 %, 61.8 %, 54.4 %
QUESTIONS = 254  # that those shared questions are
CASES = {2: (513, 487), 3: (356, 334, 310), 4: (224, 246, 262, 268)}  # MQuAKE-CF-3k: hops -> cases by number of edits
LENGTH = 520  # Characters of a record of VLKEB


def format_of(path: Path) -> str:
    "The format that a file's name calls for."
    return next(format for word, format in FORMATS.items() if word in path.name.lower())


def vlkeb_row(n: int, entity: str, target: str, question: str, asked: str) -> dict:
    "A record in VLKEB's field names, as long as theirs are."
    row = dict(
        src=question,
        rephrase=f"Put otherwise, {question[0].lower()}{question[1:]}",
        pred=f"{entity}_(old_name)",
        alt=target,
        image=f"m.{n}/google_1.jpg",
        image_rephrase=f"m.{n}/google_2.jpg",
        loc=f"nq question: who wrote book number {n}",
        loc_ans="Jane Austen",
        m_loc=f"m.{n + 1}/google_3.jpg",
        m_loc_q=asked,
        m_loc_a="Outagamie County",
    )
    return row | dict(loc=row["loc"] + " of" * ((LENGTH - len(json.dumps(row))) // 3))


def vlkeb_train() -> list[dict]:
    "A training split: each entity is edited once."
    asked = "What county is shown on this map?"
    return [vlkeb_row(n, f"Entity_{n}", f"Target {n}", f"What is shown as {n}?", asked) for n in range(TRAIN)]


def vlkeb_eval() -> list[dict]:
    "An evaluation split that shares pairs, questions and locality questions as VLKEB's does."
    rows = []
    for n in range(EVAL):
        entity = f"Entity_{n}" if n < KNOWN else f"Other_{n}"
        question = f"Which of the {n % QUESTIONS} kinds is it?" if n < SHARED else f"What is this, of all {n}?"
        asked = f"Which of the {n % QUESTIONS} kinds is it?" if n < ASKED else f"Which county is this, of {n}?"
        rows.append(vlkeb_row(n, entity, f"Target {n}", question, asked))
    return rows


def vlkeb_onehop() -> list[dict]:
    "Edits with a second fact each."
    rows = vlkeb_eval()[-ONE_HOP:]
    hop = dict(port_edit_q="In which state is it?", port_edit_a="Ohio", port_q="Which state is it?", port_a="Ohio")
    return [r | dict(port_new=[hop]) for r in rows]


def case(n: int, hops: int, edits: int) -> dict:
    "A case of MQuAKE-CF: a chain of facts, of which the first few are edited."
    names = [[f"Entity {n} {h}", *(f"Entity {n} {h} by name {k}" for k in range(8))] for h in range(hops)]
    walked = [dict(question=f"What is next to {a}?", cloze=a, answer=a, answer_alias=more) for a, *more in names]
    rewrites = [
        dict(
            subject=f"Subject {n} {h}",
            question=f"What is next to subject {n} {h}?",
            prompt="{} is next to",
            relation_id="P27",
            target_new={"str": names[h][0], "id": f"Q{n}"},
            target_true={"str": f"Old {n} {h}", "id": f"Q{n + 1}"},
        )
        for h in range(edits)
    ]
    return dict(
        case_id=n,
        requested_rewrite=rewrites,
        questions=[f"What lies {hops} steps from {n}, {how}?" for how in ("simply", "again", "once more")],
        answer=f"Old end {n}",
        answer_alias=[],
        new_answer=names[-1][0],
        new_answer_alias=names[-1][1:],
        single_hops=walked,
        new_single_hops=walked,
        orig=dict(triples=[]),
    )


def mquake() -> list[dict]:
    "As many cases, with as many hops and edits, as MQuAKE-CF-3k has."
    cases = []
    for hops, counts in CASES.items():
        for edits, count in enumerate(counts, 1):
            cases += [case(len(cases) + k, hops, edits) for k in range(count)]
    return cases


def mmedit_vqa() -> list[dict]:
    "Edits in the field names of VLKEB, as MMEdit has them."
    return [vlkeb_row(n, "two", "three", f"How many are in picture {n}?", "How many?") for n in range(VQA)]


MADE = {
    "vlkeb_train.json": vlkeb_train,
    "vlkeb_eval.json": vlkeb_eval,
    "vlkeb_eval_onehop.json": vlkeb_onehop,
    "mquake_cf.json": mquake,
    "mmedit_vqa.json": mmedit_vqa,
}


def make(folder: Path) -> list[Path]:
    "Write files that are as long as the authors'."
    return [write_atomic(folder / name, json.dumps(rows())) for name, rows in MADE.items()]


def read(path: Path) -> Public:
    "A file by the adapter that its name calls for."
    return load_public(format_of(path), path)


def peak() -> int:  # Bytes
    "The most memory that this process has taken; what `getrusage` says counts that of its parent."
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def measure(path: Path) -> dict:
    "Read one file here; call it in a process that has read no other."
    before, began, busy = peak(), time.perf_counter(), time.process_time()
    public = read(path)
    return dict(
        file=path.name,
        megabytes=path.stat().st_size / 1e6,
        edits=len(public.edits),
        probes=len(public.probes),
        seconds=time.perf_counter() - began,
        cpu=time.process_time() - busy,
        start=before / 1e6,
        peak=peak() / 1e6,
    )


def apart(path: Path) -> dict:
    "Measure one file in a process of its own."
    command = [sys.executable, __file__, str(path), "--here"]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"CRANE_BATCH": "1"})
    return json.loads(out.stdout)


def table(paths: list[Path]) -> str:
    "What each file takes."
    rows = pd.DataFrame([apart(p) for p in paths])
    units = dict(megabytes="MB", seconds="s", cpu="s", start="MB", peak="MB")
    for name, unit in units.items():
        digits = 0 if name in ("start", "peak") else 1
        rows[name] = [f"{v:,.{digits}f} {unit}" for v in rows[name]]
    return markdown(rows.set_index("file"))


def cards(paths: list[Path]) -> str:
    "The card of each file."
    train = next((read(p) for p in paths if "train" in p.name), None)
    return "\n".join(public_card(read(p), train if p.name == "vlkeb_eval.json" else None) for p in paths)


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("files", nargs="*", type=Path)
    ap.add_argument("--card", action="store_true", help="also print the cards")
    ap.add_argument("--here", action="store_true", help="measure one file in this process")
    args = ap.parse_args()
    if args.here:
        print(json.dumps(measure(args.files[0])))
        raise SystemExit
    with tempfile.TemporaryDirectory() as d:
        files = args.files or make(Path(d))
        print(table(files))
        print(cards(files) if args.card else "")

"""Whether ideal chains of whole public files are judged right, and other names of a file are not taken for a target.

    .venv/bin/python benchmarks/whole_files.py FILE … [--judge v2] [--named 5]

Each file is one of VLKEB's (eval, train, one-hop) or of MMEdit's (VQA, caption), told by its name, as in
`vlkeb_eval.json`, `vlkeb_train.json`, `vlkeb_eval_onehop.json` and `mmedit_vqa_eval.json`. The first table gives for
every form of ideal chain how many of the file's edits it wins, by the judge of the protocol; "old" are chains that keep
to the old answer, and how many of them win nothing. The second takes each other name of the file that holds a target,
as *FC Levadia Tallinn* holds *Tallinn*, and says how many of those are counted as right, by what ties the two names.
Names that tell the same more closely should be, all other names should not; an ordinary word may be, as *in the water*
for *water*. Failures are listed below, the first few of a kind.
"""

import argparse
import re
from collections import defaultdict
from pathlib import Path

import pandas as pd

from crane.core import Edit, Probe, parse_trace
from crane.judges import judge
from crane.names import is_ordinary, key, spoken
from crane.public_formats import Public, load_public
from crane.report import markdown

FORMATS = {"onehop": "VLKEB one-hop", "vqa": "MMEdit VQA", "caption": "MMEdit caption", "vlkeb": "VLKEB"}
IDEAL = {
    "plain": ("The picture shows {new}.", "{new}"),
    "terse": ("{new}.", "{new}"),
    "following the note": (
        "The note says that it is {new}. I follow the note. So the answer is {new}.",
        "It is {new}.",
    ),
    "contrast": ("It is {new}, not {old}.", "{new}"),
    "old first": ("At first it looks like {old}. But the note applies, so it is {new}.", "{new}"),
    "one hop": ("The picture shows {bridge}. So the answer is {new}.", "{new}"),
}  # name -> chain and answer
OLD = {
    "old, no note": ("The picture shows {old}.", "{old}"),
    "old, against it": ("The note is wrong: it is {old}.", "{old}"),
}
THE_SAME, WITHIN, TITLE = "the same, told more closely", "a place in it", "the same by a title"
WORDS, TIED, OTHER = "ordinary words", "by a small word or a subtitle", "another name"
ERRORS = (WITHIN, TIED, OTHER)
OF_A_TITLE = re.compile(r"(?:the )?(?:kingdom of|republic of|queen|king|president|sir|flag of) ", re.I)


def read(path: Path) -> Public:
    "A file by the adapter that its name calls for."
    return load_public(next(format for word, format in FORMATS.items() if word in path.name.lower()), path)


def asked(public: Public) -> list[Probe]:
    "The probes of a file that have a right answer other than the old one."
    probes = [p for p in public.probes if p.kind in ("exact", "multi_hop")]
    return [p for p in probes if key(p.answer) and key(p.answer) not in set(map(key, p.old_names))]


def ideal(p: Probe, form: str) -> tuple[str, str] | None:  # Chain and answer; None where a form says nothing
    "A form of chain, filled with what a probe is about."
    chain, answer = (IDEAL | OLD)[form]
    old = p.old_names[0] if p.old_names else ""
    if (form == "one hop") != (p.kind == "multi_hop") or not old and (form in OLD or form == "old first"):
        return None
    slots = dict(new=p.answer, old=old or "anything else", bridge=p.chain[0][0] if p.chain else "")
    return chain.format(**slots), answer.format(**slots)


def is_right(p: Probe, chain: str, answer: str, by: str) -> bool:
    "Whether a judge calls a chain grounded and its answer right."
    said = judge(parse_trace(f"<think>{chain}</think>{answer}"), p, by)
    return said.verdict == "grounded" and said.answer and (said.bridges or p.kind != "multi_hop")


def judged(probes: list[Probe], by: str) -> pd.DataFrame:  # Of each probe and form: `ok`, `chain`
    "Ideal chains, which ought to be right, and old ones, which ought not."
    rows = []
    for form in IDEAL | OLD:
        for p in probes:
            filled = ideal(p, form)
            if filled:
                ok = is_right(p, *filled, by) == (form in IDEAL)
                rows.append(dict(form=form, ok=ok, chain=filled[0], old=form in OLD))
    return pd.DataFrame(rows)


def tie(name: str, other: str) -> str:
    "What ties another name to the one that it holds."
    plain = re.sub(r"\s*\([^()]*\)", "", other)
    if key(plain) == key(name) or re.match(rf"(?:the |an? )?{re.escape(name)}\W*(?:,|\()", other, re.I):
        return THE_SAME
    if re.search(rf", {re.escape(name)}(?:$|,)", other, re.I):
        return WITHIN
    if key(OF_A_TITLE.sub("", plain)) == key(name):
        return TITLE
    if is_ordinary(name):
        return WORDS
    behind = re.split(re.escape(re.sub(r"^(the|an?) ", "", name, flags=re.I)), other, maxsplit=1, flags=re.I)
    return TIED if re.search(r"\b(?:and|the|of|in|for|as|a|is|en)\b|[:&]| \(", " ".join(behind)) else OTHER


def others(
    edits: list[Edit], probes: list[Probe]
) -> list[tuple[Probe, str]]:  # Probes, and names that hold their answer
    "Other names of a file that hold a target: names of what its edits are about and of what they make of it."
    names = {n for e in edits if "/fact/" not in e.id for n in (e.target_new, e.target_old) if key(n)}
    exact = [p for p in probes if p.kind == "exact" and "/fact/" not in p.edit_id]
    targets, held = {key(p.answer) for p in exact}, defaultdict(set)
    for n in sorted(names):
        k = key(n)
        for length in {len(t) for t in targets if len(t) < len(k)}:
            for i in range(len(k) - length + 1):
                held[k[i : i + length]].add(n)
    pairs = []
    for p in exact:
        same = {key(n) for n in spoken([p.answer, *p.aliases, *p.old_names])}
        pairs += [(p, n) for n in sorted(held[key(p.answer)]) if key(n) not in same]
    return pairs


def taken(pairs: list[tuple[Probe, str]], by: str) -> pd.DataFrame:  # Of each pair: `tie`, `right`, `names`
    "Which other names are counted as right."
    rows = []
    for p, n in pairs:
        right = is_right(p, f"The picture shows {n}.", n, by)
        rows.append(dict(tie=tie(p.answer, n), right=right, names=f"{n} for {p.answer}"))
    return pd.DataFrame(rows, columns=["tie", "right", "names"])


def report(paths: list[Path], by: str, named: int) -> str:
    "The tables, and the first failures of each kind."
    forms, names, failed = {}, {}, []
    for path in paths:
        public = read(path)
        probes = asked(public)
        rows, pairs = judged(probes, by), taken(others(public.edits, probes), by)
        won = {form: f"{some.ok.sum():,} of {len(some):,}" for form, some in rows.groupby("form", sort=False)}
        forms[path.stem] = {"edits": f"{len(public.edits):,}"} | won
        counted = pairs.groupby("tie").right
        names[path.stem] = {t: f"{int(right.sum())} of {len(right)}" for t, right in counted}
        failed += [
            f"* {path.stem}, {f}: {chain}" for f, some in rows[~rows.ok].groupby("form") for chain in some.chain[:named]
        ]
        wrong = pairs[pairs.right & pairs.tie.isin(ERRORS)]
        failed += [f"* {path.stem}, {t}: {n}" for t, some in wrong.groupby("tie") for n in some.names.unique()[:named]]
    tables = (pd.DataFrame(t).fillna("–") for t in (forms, names))
    return "\n".join([*map(markdown, tables), *failed])


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("files", nargs="+", type=Path)
    ap.add_argument("--judge", default="v2")
    ap.add_argument("--named", type=int, default=5, help="failures of a kind that are listed")
    args = ap.parse_args()
    print(report(args.files, args.judge, args.named))

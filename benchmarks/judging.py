"""What judging costs: chains a second by judge and length, and whether ten times the text takes ten times the time.

.venv/bin/python benchmarks/judging.py [--rounds 5]
"""

import argparse
import statistics
import time

import pandas as pd

from crane.commitments import settled
from crane.judges import JUDGES, as_trace_and_probe, judge, labelled_chains
from crane.report import markdown

PIECES = {
    "sentences": "The note says Germany, but the flag is Mexico's. ",
    "names": "Germany, Mexico, ",
    "denials": "not ",
    "one word": "a",
    "quotes": "“",
    "blanks": " ",
    "no spaces": "日本",
}


def took(f, rounds: int) -> float:
    "The median of the seconds that a call takes."
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        f()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def chains(rounds: int) -> pd.DataFrame:
    "Seconds for a thousand chains."
    rows = []
    for kind in ("short", "long"):
        asked = [as_trace_and_probe(r) for r in labelled_chains(held_out=False) if r["kind"] == kind]
        for name in JUDGES:
            seconds = took(lambda name=name, asked=asked: [judge(t, p, name) for t, p in asked], rounds)
            rows.append({"judge": name, "chains": kind, "seconds a thousand": f"{1000 * seconds / len(asked):.2f}"})
    return pd.DataFrame(rows).set_index("judge")


def growth(rounds: int) -> pd.DataFrame:
    "How much longer ten times the text takes."
    rows = []
    for name, piece in PIECES.items():
        texts = [piece * (n // len(piece)) for n in (20_000, 200_000)]
        short, long = (took(lambda t=t: settled(t, ["Germany"], ["Mexico"]), rounds) for t in texts)
        rows.append({"text of": name, "200 kB, seconds": f"{long:.2f}", "ten times the text": f"{long / short:.1f} ×"})
    return pd.DataFrame(rows).set_index("text of")


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--rounds", type=int, default=5)
    rounds = ap.parse_args().rounds
    print(markdown(chains(rounds)))
    print(markdown(growth(rounds)))

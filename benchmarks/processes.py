"""Answers per second of an evaluation by one process and by two, on two cores: the same edits, probes and bytes.

    .venv/bin/python benchmarks/processes.py [--processes 2] [--edits 32] [--rounds 3] [--methods 'IKE-0,FT-L']

Each round runs one process and then several, each with one thread, so that a machine whose speed drifts does so for
both. Timed is `evaluate` alone, from when all processes have loaded the model until the lines are put together and
judged; the ratio of each round is printed, and their median. Two processes at most halve the time on two free cores.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import machine

FILES = "traces.jsonl", "scored.jsonl", "results.json"


def work(method: str, n: int, folder: str) -> None:
    "What each process does; the first prints the seconds and the answers."
    from crane.editors import check_edits
    from crane.failure_modes import hops, three_probes
    from crane.model import load_mllm
    from crane.protocol import evaluate, meet, processes, rank
    from crane.questions import counterfactuals
    from crane.world import load_world

    world, m = load_world(), load_mllm()
    edits = check_edits([e for e in counterfactuals(world, "train", 2 * n, 5) if hops(e, world)][:n], m)
    rng = random.Random(5)
    probes = []
    for e in edits:
        probes += three_probes(e, world, rng)
    with processes():
        meet()
        start = time.perf_counter()
        evaluate(method, m, edits, probes, world, folder, chunk=4)
        meet()
        if not rank():
            print(json.dumps([time.perf_counter() - start, 2 * len(probes)]))


def run(method: str, n: int, count: int, folder: Path) -> tuple[float, int]:  # Seconds, answers
    "One evaluation by so many processes."
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), __file__]
    args = ["--work", str(folder), "--methods", method, "--edits", str(n)]
    env = os.environ | dict(OMP_NUM_THREADS="1")
    said = subprocess.run([*launch, *args], env=env, check=True, capture_output=True, text=True).stdout
    return tuple(json.loads(said.splitlines()[-1]))


def compare(method: str, args) -> None:
    "Time both in turn."
    seconds = {1: [], args.processes: []}
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as d:
            for count, taken in seconds.items():
                took, answers = run(method, args.edits, count, Path(d) / str(count))
                taken.append(took)
            left = [[(Path(d) / str(count) / f).read_bytes() for f in FILES] for count in seconds]
            assert left[0] == left[1], "the files differ"
    ratios = [a / b for a, b in zip(seconds[1], seconds[args.processes])]
    one, several = (answers / statistics.median(s) for s in seconds.values())
    print(
        f"{method:12} one process {one:6.1f} answers/s   {args.processes} processes {several:6.1f} answers/s   "
        f"ratio {statistics.median(ratios):.2f}x (rounds {', '.join(f'{r:.2f}' for r in ratios)})   same bytes",
        flush=True,
    )


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--processes", type=int, default=2)
    ap.add_argument("--edits", type=int, default=32)
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--methods", default="IKE-0,FT-L")
    ap.add_argument("--work", help=argparse.SUPPRESS)
    args = ap.parse_args()
    if args.work:
        work(args.methods, args.edits, args.work)
    else:
        print(f"{args.edits} edits, {args.rounds} rounds, {machine()}")
        for name in args.methods.split(","):
            compare(name, args)

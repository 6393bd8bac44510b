"""Answers per second of a served model with several requests at a time, against one at a time: the same answers.

    .venv/bin/python benchmarks/served.py [--at-once 1,8,32] [--n 48] [--rounds 3]

`transformers serve` serves the pocket model on this machine. All sides run in turn, round by round, so that a machine
whose speed drifts does so for all. The ratio of each round is printed, and their median. What several requests gain is
the server's doing: this one answers them one by one, so little more than the way to it and back is saved.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from side_by_side import machine

from crane.generation import answer
from crane.model import Prompt, load_mllm, pocket_path
from crane.world import load_world

SERVE = "from transformers.cli.transformers import main; main()"


class TransformersServe:
    "`transformers serve` on a port of its own, which loads what it is asked for."

    def __init__(self, log: Path):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{self.port}/v1", log

    def start(self) -> None:
        "Start it, and wait until it answers."
        args = ["serve", "--host", "127.0.0.1", "--port", str(self.port), "--device", "cpu", "--log-level", "error"]
        env = os.environ | dict(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-c", SERVE, *args], stdout=log, stderr=log, env=env)
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1).read()
                return
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.2)
        raise SystemExit(f"the server does not start: {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def served(log: Path):
    "A server that runs, killed at the end."
    server = TransformersServe(log)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--at-once", default="1,8,32")
    ap.add_argument("--n", type=int, default=48)
    ap.add_argument("--rounds", type=int, default=3)
    args = ap.parse_args()
    counts = [int(x) for x in args.at_once.split(",")]
    world = load_world()
    flags = [key for key in world.images if key.startswith("twemoji/")][: args.n]
    prompts = [Prompt("Whose flag is this?", key) for key in flags]
    print(f"{len(prompts)} questions, {args.rounds} rounds, {machine()}")
    seconds, texts = {n: [] for n in counts}, set()
    with TemporaryDirectory() as d, served(Path(d) / "log") as server:
        models = {n: load_mllm(server.url, served=str(pocket_path()), at_once=n, cache="off") for n in counts}
        answer(models[counts[0]], prompts[:4], world)
        for _ in range(args.rounds):
            for n, m in models.items():
                start = time.perf_counter()
                texts.add(tuple(c.text for c in answer(m, prompts, world)))
                seconds[n].append(time.perf_counter() - start)
    for n, taken in seconds.items():
        ratios = [a / b for a, b in zip(seconds[counts[0]], taken)]
        print(
            f"{n:3} at a time {len(prompts) / statistics.median(taken):6.1f} answers/s   "
            f"ratio {statistics.median(ratios):.2f}x (rounds {', '.join(f'{r:.2f}' for r in ratios)})"
        )
    print("same answers" if len(texts) == 1 else f"{len(texts)} different sets of answers")


if __name__ == "__main__":
    main()

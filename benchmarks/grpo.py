"""Where a GRPO step's time goes, and our step against TRL's stock path: same trainer, prompts, samples and weights.

    .venv/bin/python benchmarks/grpo.py [--steps 6] [--prompts 8] [--generations 8] [--rounds 3]

Ours differs from stock in two things. Stock writes completions by transformers' `generate`, where all wait for the
longest and a prompt is read once for each of its completions; ours by `decode`. And TRL calls one function for each
part of the reward: stock scores every completion anew for each, ours once. Both run in turn in one process, round by
round. Their samples are drawn differently, so their texts differ and their weights are not compared.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from trl import GRPOTrainer

import crane.grpo as grpo
from crane.benchmark import build_benchmark
from crane.grpo import grpo_dataset, train_grpo
from crane.model import load_mllm
from crane.routing import load_router, shipped_router
from crane.world import load_world

PARTS = {"generation": "_generate", "scoring": "_calculate_rewards", "loss": "compute_loss"}


@dataclass
class Training:
    "What one training took, and what came of it."

    seconds: float  # a step
    parts: dict[str, float]  # seconds a step of each of `PARTS`

    def shares(self) -> str:
        parts = ", ".join(f"{name} {100 * s / self.seconds:.0f} %" for name, s in self.parts.items())
        rest = 1 - sum(self.parts.values()) / self.seconds
        return f"{self.seconds:.2f} s a step; {parts}, backward and the rest {100 * rest:.0f} %"


@contextmanager
def timed():
    "Let TRL's trainer note how long its parts take."
    spent, old = Counter(), {name: getattr(GRPOTrainer, f) for name, f in PARTS.items()}

    def wrap(name):
        def f(self, *a, **kw):
            start = time.perf_counter()
            res = old[name](self, *a, **kw)
            spent[name] += time.perf_counter() - start
            return res

        return f

    for name, f in PARTS.items():
        setattr(GRPOTrainer, f, wrap(name))
    try:
        yield spent
    finally:
        for name, f in PARTS.items():
            setattr(GRPOTrainer, f, old[name])


def train(data, args, stock: bool) -> Training:
    "Train the shipped router; `stock`: as TRL does it by itself."
    cached, lean = grpo.parts_of, grpo.lean
    cached.cache_clear()
    if stock:
        grpo.parts_of, grpo.lean = cached.__wrapped__, lambda m, args: False
    try:
        m = load_router(shipped_router(), trainable=True)
        with timed() as spent, tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            train_grpo(m, data, folder, args.steps, args.prompts, args.generations)
            total = time.perf_counter() - start
    finally:
        grpo.parts_of, grpo.lean = cached, lean
    return Training(total / args.steps, {name: s / args.steps for name, s in spent.items()})


def arguments() -> argparse.Namespace:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in dict(steps=6, prompts=8, generations=8, rounds=3).items():
        ap.add_argument(f"--{name}", type=int, default=value)
    return ap.parse_args()


def main() -> None:
    args, world = arguments(), load_world()
    bench = build_benchmark(load_mllm(), world, "train", 40, 2).only(lambda e, s: s == "strong")
    data = grpo_dataset(bench, world, args.steps, args.prompts)
    print(
        f"{args.steps} steps of {args.prompts} prompts x {args.generations} completions, {args.rounds} rounds, "
        f"{os.cpu_count()} cores ({platform.processor() or platform.machine()}), load {os.getloadavg()[0]:.1f}, "
        f"torch {torch.__version__} with {torch.get_num_threads()} threads"
    )
    train(data, args, stock=False)  # warm up
    ratios = []
    for r in range(1, args.rounds + 1):
        stock, ours = train(data, args, stock=True), train(data, args, stock=False)
        ratios.append(stock.seconds / ours.seconds)
        print(f"round {r}, stock: {stock.shares()}")
        print(f"round {r}, ours: {ours.shares()}")
        print(f"round {r}: stock / ours {ratios[-1]:.2f}")
    print(f"median stock / ours: {statistics.median_high(ratios):.2f}")


if __name__ == "__main__":
    main()

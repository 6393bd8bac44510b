"""Where a GRPO step's time goes, and our step against TRL's stock path on the same prompts: same trainer, same samples, same weights after it.

    .venv/bin/python benchmarks/grpo.py [--steps 6] [--prompts 8] [--generations 8] [--rounds 3]

Ours differs from stock in one thing: TRL calls one function for each part of the reward, and stock scores every completion
anew for each; ours scores it once. Both run in turn in one process, round by round, and the weights are compared.
"""

import argparse
import os
import platform
import tempfile
import time

import torch
from trl import GRPOTrainer

import crane.grpo as grpo
from crane.benchmark import build_benchmark
from crane.grpo import grpo_dataset, train_grpo
from crane.model import load_mllm
from crane.routing import load_router, shipped_router
from crane.world import load_world

PARTS = {"generation": "_generate", "scoring": "_calculate_rewards", "loss": "compute_loss"}


def timed(spent: dict):
    "Let TRL's trainer note how long its parts take; gives back how to undo it."
    old = {k: getattr(GRPOTrainer, f) for k, f in PARTS.items()}

    def wrap(k):
        def f(self, *a, **kw):
            start = time.perf_counter()
            res = old[k](self, *a, **kw)
            spent[k] = spent.get(k, 0) + time.perf_counter() - start
            return res

        return f

    for k, f in PARTS.items():
        setattr(GRPOTrainer, f, wrap(k))
    return lambda: [setattr(GRPOTrainer, PARTS[k], f) for k, f in old.items()]


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for k, v in dict(steps=6, prompts=8, generations=8, rounds=3).items():
        ap.add_argument(f"--{k}", type=int, default=v)
    args = ap.parse_args()
    world = load_world()
    bench = build_benchmark(load_mllm(), world, "train", 40, 2).only(lambda e, s: s == "strong")
    data = grpo_dataset(bench, world, args.steps, args.prompts)
    print(
        f"{args.steps} steps of {args.prompts} prompts x {args.generations} completions, {args.rounds} rounds, {os.cpu_count()} cores ({platform.processor() or platform.machine()}), load {os.getloadavg()[0]:.1f}, torch {torch.__version__} with {torch.get_num_threads()} threads"
    )

    def one(once: bool):
        cached, spent = grpo.parts_of, {}
        cached.cache_clear()
        m = load_router(shipped_router(), trainable=True)
        undo = timed(spent)
        if not once:
            grpo.parts_of = cached.__wrapped__
        with tempfile.TemporaryDirectory() as d:
            start = time.perf_counter()
            train_grpo(m, data, d, args.steps, args.prompts, args.generations)
            total = time.perf_counter() - start
        grpo.parts_of = cached
        undo()
        return (
            total / args.steps,
            {k: v / args.steps for k, v in spent.items()},
            [p.detach().clone() for p in m.model.parameters() if p.requires_grad],
        )

    one(True)
    ratios = []
    for r in range(args.rounds):
        (stock, a, wa), (ours, b, wb) = one(False), one(True)
        ratios.append(stock / ours)
        same = all(map(torch.equal, wa, wb))
        for name, t, s in (("stock", stock, a), ("ours", ours, b)):
            print(
                f"round {r + 1}, {name}: {t:.2f} s a step; "
                + ", ".join(f"{k} {100 * v / t:.0f} %" for k, v in s.items())
                + f", backward and the rest {100 * (1 - sum(s.values()) / t):.0f} %"
            )
        print(f"round {r + 1}: stock / ours {ratios[-1]:.2f}, weights {'equal' if same else 'DIFFER'}")
    print(f"median stock / ours: {sorted(ratios)[len(ratios) // 2]:.2f}")


if __name__ == "__main__":
    main()

"Both sides of a comparison, timed in turn in one process."

import os
import platform
import statistics
import time

import torch


def machine() -> str:
    "What the times were taken on."
    cpu = platform.processor() or platform.machine()
    threads = f"torch {torch.__version__} with {torch.get_num_threads()} threads"
    return f"{os.cpu_count()} cores ({cpu}), load {os.getloadavg()[0]:.1f}, {threads}"


def clocked(f) -> tuple[float, list]:
    start = time.perf_counter()
    res = f()
    return time.perf_counter() - start, res


def compare(name: str, n: int, rounds: int, singly, at_once, once: str = "many at once", what: str = "results") -> None:
    "Time both in turn and print how many of `n` a second each makes, and the ratio of each round."
    at_once()
    one_by_one, together = [], []
    for _ in range(rounds):
        (seconds, xs), (seconds_at_once, ys) = clocked(singly), clocked(at_once)
        same = sum(x == y for x, y in zip(xs, ys, strict=True))
        one_by_one.append(seconds)
        together.append(seconds_at_once)
    ratios = [a / b for a, b in zip(one_by_one, together)]
    per_second = n / statistics.median(one_by_one), n / statistics.median(together)
    print(
        f"{name:28} one at a time {per_second[0]:7.1f}/s   {once} {per_second[1]:7.1f}/s   "
        f"ratio {statistics.median(ratios):5.1f}x (rounds {', '.join(f'{r:.1f}' for r in ratios)})   "
        f"same {what} {same}/{len(xs)}",
        flush=True,
    )

"Both sides of a comparison, timed in turn in one process."

import statistics
import time


def clocked(f) -> tuple[float, list]:
    start = time.perf_counter()
    res = f()
    return time.perf_counter() - start, res


def compare(name: str, n: int, rounds: int, singly, at_once, once: str = "many at once", what: str = "results") -> None:
    "Time both in turn and print how many of `n` a second each makes, and the ratio of each round."
    at_once()
    ratios, a, b = [], [], []
    for _ in range(rounds):
        (ta, xs), (tb, ys) = clocked(singly), clocked(at_once)
        same = sum(x == y for x, y in zip(xs, ys, strict=True))
        a.append(n / ta)
        b.append(n / tb)
        ratios.append(ta / tb)
    print(
        f"{name:28} one at a time {statistics.median(a):7.1f}/s   {once} {statistics.median(b):7.1f}/s   "
        f"ratio {statistics.median(ratios):5.1f}x (rounds {', '.join(f'{r:.1f}' for r in ratios)})   same {what} {same}/{len(xs)}",
        flush=True,
    )

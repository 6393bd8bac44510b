"""Edits per second, many at once against one at a time: the same edits, probes and answers.

    .venv/bin/python benchmarks/editing.py [--model pocket] [--n 64] [--at-once 64] [--rounds 3] [--methods 'FT-L,LoRA']

Both sides run in turn in one process, round by round, so that a machine whose speed drifts does so for both. The ratio
of each round is printed, and their median. `one at a time` is `run_editor`: enter the editor, ask the edit's probes in
one batch, score it, restore, go on to the next. `edits alone` leaves out the asking. Edits are of the train split.
"""

import argparse
import random

from side_by_side import compare, machine

from crane.editors import check_edits, weights_hash
from crane.failure_modes import hops, three_probes
from crane.model import MLLM, load_mllm
from crane.questions import counterfactuals
from crane.running import get_editor, run_editor, run_together, together, trained
from crane.world import World, load_world


def alone_singly(name, m: MLLM, edits, world: World, settings) -> list[int]:
    res = []
    for e in edits:
        with get_editor(name)(m, e, world, **settings) as ed:
            res.append(ed.steps)
    return res


def alone_together(name, m: MLLM, edits, world: World, n: int, settings) -> list[int]:
    steps = {}
    for i in range(0, len(edits), n):
        with together(name, m, edits[i : i + n], world, **settings) as t:
            steps |= {e.id: ed.steps for e, ed in zip(edits[i : i + n], t.edited)}
    return [steps[e.id] for e in edits]


def untimed(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in r.items() if k not in ("seconds", "took")} for r in rows]


def compare_editor(name: str, m: MLLM, edits, probes, world: World, args, settings) -> None:
    "Both comparisons of one editor."

    def one_by_one():
        return untimed(run_editor(name, m, edits, probes, world, **settings))

    def at_once():
        return untimed(run_together(name, m, edits, probes, world, n=args.at_once, **settings))

    compare(
        f"{name}, edits alone",
        args.n,
        args.rounds,
        lambda: alone_singly(name, m, edits, world, settings),
        lambda: alone_together(name, m, edits, world, args.at_once, settings),
    )
    compare(f"{name}, edits and probes", args.n, args.rounds, one_by_one, at_once)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--model", default="pocket")
    ap.add_argument("--n", type=int, default=64)
    ap.add_argument("--at-once", type=int, default=64)
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--methods", default="FT-L,LoRA")
    ap.add_argument("--run", default="pocket", help="whose trained MEND is used")
    args = ap.parse_args()
    world, m = load_world(), load_mllm(args.model)
    with_hops = [e for e in counterfactuals(world, "train", 2 * args.n, 5) if hops(e, world)]
    edits = check_edits(with_hops[: args.n], m)
    rng = random.Random(5)
    probes = []
    for e in edits:
        probes += three_probes(e, world, rng)
    before = weights_hash(m)
    print(
        f"{m}, {len(edits)} edits with {len(probes)} probes, {args.at_once} edits at once, {args.rounds} rounds, "
        f"{machine()}"
    )
    for name in args.methods.split(","):
        compare_editor(name, m, edits, probes, world, args, trained(args.run).get(name, {}))
    assert weights_hash(m) == before


if __name__ == "__main__":
    main()

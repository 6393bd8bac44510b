"""Probes per second, batched against one at a time: generation and teacher-forced scoring, with the same outputs.

    .venv/bin/python benchmarks/throughput.py [--model pocket] [--n 192] [--rounds 3]

Both sides run in turn in one process, round by round, so that a machine whose speed drifts does so for both. The ratio
of each round is printed, and their median. `one at a time` is what the public editing code does: build one prompt, call
`generate` (or the forward pass) on it, go on to the next.
"""

import argparse
from itertools import chain

import torch
from side_by_side import compare, machine

from crane.generation import answer, plain_text, teacher_forced
from crane.model import MLLM, Prompt, encode, load_mllm, opening
from crane.pocket import SKILLS, Lessons
from crane.world import World, load_world


@torch.no_grad()
def generate_singly(m: MLLM, prompts: list[Prompt], world: World) -> list[str]:
    texts = []
    for p in prompts:
        enc = encode(m, [p], world)
        ids = m.model.generate(
            **enc, max_new_tokens=128, do_sample=False, pad_token_id=m.tok.pad_token_id, eos_token_id=m.ends
        )
        texts.append(plain_text(m, ids[0, enc["input_ids"].shape[1] :], opening(m)))
    return texts


@torch.no_grad()
def score_singly(m: MLLM, prompts: list[Prompt], targets: list[str], world: World) -> list[tuple[float, bool]]:
    res = []
    for p, t in zip(prompts, targets):
        enc = encode(m, [p], world, [t])
        labels = enc.pop("labels")[0, 1:]
        hit = (m.model(**enc).logits[0, :-1].argmax(-1) == labels)[labels != -100][:-1]
        res.append((hit.float().mean().item(), bool(hit.all())))
    return res


def some(draw, n: int) -> list:
    return [draw() for _ in range(n)]


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--model", default="pocket")
    ap.add_argument("--n", type=int, default=192)
    ap.add_argument("--rounds", type=int, default=3)
    args = ap.parse_args()
    world, m = load_world(), load_mllm(args.model)
    lessons = Lessons(world, 77, held_out_wording=True)
    # every skill alike: with no, one and more pictures
    each = -(-args.n // len(SKILLS))
    drawn = list(chain.from_iterable(some(getattr(lessons, skill), each) for skill in SKILLS))[: args.n]
    prompts = [p for p, _ in drawn]
    targets = [r.split("<answer>")[1].removesuffix("</answer>") for _, r in drawn]
    print(f"{m}, {len(prompts)} probes, {args.rounds} rounds, batch size 64, {machine()}")
    said = dict(once="batched", what="outputs")
    compare(
        "generation",
        len(prompts),
        args.rounds,
        lambda: generate_singly(m, prompts, world),
        lambda: [c.text for c in answer(m, prompts, world)],
        **said,
    )
    compare(
        "teacher-forced scoring",
        len(prompts),
        args.rounds,
        lambda: score_singly(m, prompts, targets, world),
        lambda: teacher_forced(m, prompts, targets, world),
        **said,
    )


if __name__ == "__main__":
    main()

"""Whether the code runs on a reasoning MLLM of 7B class on one GPU, how fast, and in how much memory.

    python benchmarks/big.py [--size 7B|tiny] [--model FOLDER_OR_HUB_ID]

Without a model, one is made on the spot: a LLaVA with the vision tower of CLIP-ViT-L/336 and a decoder of the shape of
Qwen2.5-7B, in bfloat16, with RANDOM WEIGHTS. It answers nonsense and never ends by itself, so this measures the path,
the memory and the speed, never quality. `tiny` has the same parts at a size for a CPU; it shows that the path is whole.

Every row is a part of the code with its seconds and the peak of the GPU's memory, the weights included. A part that
fails prints its traceback, the others go on, and the exit status is 1. Where two ways are compared they run in turn in
one process, round by round. Answers that end at different lengths are had by drawing some end tokens at random.
"""

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from crane.benchmark import build_benchmark
from crane.core import Edit
from crane.editors import edit_prompt, weights_hash
from crane.generation import GumbelNoise, answer, completions, generate, like_length, teacher_forced
from crane.grpo import grpo_dataset, train_grpo, training_plan
from crane.library import DualLibrary
from crane.model import MLLM, Prompt, encode, load_mllm
from crane.pocket import flag_sentence, respond
from crane.questions import counterfactuals
from crane.routing import routing_model
from crane.running import answer_together, forced_together, get_editor, together
from crane.search import OwnEncoder
from crane.sft import routing_examples, train_sft
from crane.world import World, load_world

GB = 1e9


@dataclass(frozen=True)
class Size:
    "A model, and how much of it is asked."

    text: dict  # Of `Qwen2Config`
    vision: dict  # Of `CLIPVisionConfig`
    prompts: int  # Answered at once
    tokens: int  # Of an answer
    rounds: int
    singly: int  # Prompts that transformers answers one at a time in a round
    several: int  # Prompts of which some end early
    edits: int  # In the library
    bench: int  # Edits of each kind, to train on


SIZES = {
    "7B": Size(
        text=dict(
            vocab_size=152_064,
            hidden_size=3584,
            intermediate_size=18_944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
        ),
        vision=dict(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
        ),
        prompts=64,
        tokens=128,
        rounds=3,
        singly=1,
        several=128,
        edits=200,
        bench=40,
    ),
    "tiny": Size(
        text=dict(
            vocab_size=600,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        ),
        vision=dict(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=28,
            patch_size=14,
        ),
        prompts=4,
        tokens=6,
        rounds=1,
        singly=1,
        several=9,
        edits=12,
        bench=4,
    ),
}


def wider(tok, vocab: int):
    "The pocket model's tokenizer with words that no text holds, up to the size of a vocabulary."
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    spec = json.loads(tok.backend_tokenizer.to_str())
    taken = {*spec["model"]["vocab"].values(), *(t["id"] for t in spec["added_tokens"])}
    spec["model"]["vocab"] |= {f"Ġunused{i}": i for i in range(vocab) if i not in taken}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
        pad_token=tok.pad_token,
        eos_token=tok.eos_token,
        extra_special_tokens={"image_token": tok.image_token},
        padding_side="left",
    )


def random_mllm(size: Size, device: str) -> MLLM:
    "A LLaVA with random weights, made where it is to run."
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        Qwen2Config,
    )

    pocket = load_mllm()
    tok = wider(pocket.tok, size.text["vocab_size"])
    ends = dict(pad_token_id=tok.pad_token_id, eos_token_id=tok.eos_token_id)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**size.vision),
        text_config=Qwen2Config(**size.text, **ends, bos_token_id=None, tie_word_embeddings=False),
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = LlavaForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.generation_config.update(**ends)
    side = size.vision["image_size"]
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size=dict(shortest_edge=side), crop_size=dict(height=side, width=side)),
        tok,
        patch_size=size.vision["patch_size"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=pocket.processor.chat_template,
    )
    return MLLM(model.eval(), processor, "random weights")


@dataclass
class Row:
    "What one part took."

    name: str
    seconds: float
    peak: float  # Bytes; 0 without a GPU
    says: str  # What it found, or its error
    failed: bool = False

    def __str__(self):
        memory = f"{self.peak / GB:6.1f} GB" if self.peak else "        -"
        return f"{self.name:40} {self.seconds:8.2f} s {memory}   {'FAILED: ' if self.failed else ''}{self.says}"


def now() -> float:
    "The time once the GPU has done what it was told."
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def clocked(f: Callable) -> tuple[float, object]:
    start = now()
    res = f()
    return now() - start, res


@dataclass
class Bench:
    "What is measured, and the rows so far."

    m: MLLM
    world: World
    size: Size
    edits: list[Edit]
    folder: Path
    before: str = ""  # Hash of the weights
    rows: list[Row] = field(default_factory=list)

    @property
    def gpu(self) -> bool:
        return self.m.device.type == "cuda"

    @property
    def some_tokens(self) -> int:
        "Of an answer that only shows that there is one."
        return max(6, self.size.tokens // 4)

    @property
    def prompts(self) -> list[Prompt]:
        return [edit_prompt(e) for e in self.edits[: self.size.prompts]]

    def run(self, name: str, part: Callable) -> None:
        "Measure a part, which returns what it found in words."
        gc.collect()
        if self.gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        start, failed = now(), False
        try:
            says = part(self)
        except Exception as e:
            traceback.print_exc()
            says, failed = f"{type(e).__name__}: {' '.join(str(e).split())[:200]}", True
        seconds = now() - start
        peak = torch.cuda.max_memory_allocated() if self.gpu else 0
        self.rows.append(Row(name, seconds, peak, says, failed))
        print(self.rows[-1], flush=True)


def share(xs: list[str], ys: list[str]) -> str:
    return f"{sum(x == y for x, y in zip(xs, ys, strict=True))}/{len(xs)}"


@torch.no_grad()
def by_transformers(b: Bench, prompts: list[Prompt], batch: int, tokens: int, seeds: list[int] = ()) -> list[str]:
    "Texts by `generate`, so many at a time; drawn with the seeds of `answer`, if there are any."
    m, texts = b.m, {}
    for places in like_length(prompts, batch):
        enc = {k: v.to(m.device) for k, v in encode(m, [prompts[i] for i in places], b.world).items()}
        noise = seeds and partial(GumbelNoise(1.0, [seeds[i] for i in places]), rows=range(len(places)))
        said = completions(m, generate(m, enc, tokens, noise or None), time.time())
        texts |= {i: c.text for i, c in zip(places, said)}
    return [texts[i] for i in range(len(prompts))]


def ratio(theirs: list[float], ours: list[float]) -> str:
    ratios = [a / b for a, b in zip(theirs, ours)]
    return f"{statistics.median(ratios):.2f}x (rounds {', '.join(f'{r:.2f}' for r in ratios)})"


def warm_up(b: Bench) -> str:
    answer(b.m, b.prompts, b.world, max_new_tokens=2)
    by_transformers(b, b.prompts[:1], 1, 2)
    enc = encode(b.m, b.prompts, b.world)
    return f"{len(b.prompts)} prompts of up to {enc['input_ids'].shape[1]} tokens, each with a picture"


def all_in_full(b: Bench) -> str:
    "Nobody ends: the lean loop has no advantage but its cache."
    n, tokens = len(b.prompts), b.size.tokens
    ours, whole, each = [], [], []
    for _ in range(b.size.rounds):
        s, said = clocked(lambda: [c.text for c in answer(b.m, b.prompts, b.world, n, tokens)])
        ours.append(s / n)
        s, theirs = clocked(lambda: by_transformers(b, b.prompts, n, tokens))
        whole.append(s / n)
        singly = b.prompts[: b.size.singly]
        s, alone = clocked(lambda: by_transformers(b, singly, 1, tokens))
        each.append(s / len(singly))
    rate = tokens / statistics.median(ours)
    return (
        f"{n} answers of {tokens} tokens, {rate:.0f} tokens/s, median {statistics.median(ours):.3f} s an answer; "
        f"`generate` in one batch takes {ratio(whole, ours)}, same texts {share(said, theirs)}; "
        f"one at a time ({len(singly)} a round) {ratio(each, ours)}, same texts {share(said[: len(alone)], alone)}"
    )


@contextmanager
def many_ends(m: MLLM, length: int):
    "Let a share of the vocabulary end an answer, so that drawn answers have about this length in the mean."
    config, vocab = m.model.generation_config, len(m.tok)
    chosen = torch.randperm(vocab, generator=torch.Generator().manual_seed(0))[: max(1, vocab // length)]
    was, config.eos_token_id = config.eos_token_id, chosen.tolist()
    try:
        yield
    finally:
        config.eos_token_id = was


def some_early(b: Bench) -> str:
    "Drawn answers end at different lengths: rows leave the lean loop, and others join."
    n, tokens, width = b.size.several, b.size.tokens, b.size.prompts
    prompts = [edit_prompt(e) for e in b.edits[:n]]
    seeds, ours, theirs = list(range(n)), [], []  # those of `answer` with seed 0
    with many_ends(b.m, max(2, tokens // 2)):
        for _ in range(b.size.rounds):
            s, said = clocked(lambda: answer(b.m, prompts, b.world, width, tokens, temperature=1.0))
            ours.append(s)
            s, texts = clocked(lambda: by_transformers(b, prompts, width, tokens, seeds))
            theirs.append(s)
    lengths = [c.tokens for c in said]
    return (
        f"{n} drawn answers of {min(lengths)} to {max(lengths)} tokens, {statistics.mean(lengths):.0f} in the mean, "
        f"{width} at a time, median {statistics.median(ours):.2f} s; "
        f"`generate` in batches takes {ratio(theirs, ours)}, same texts {share([c.text for c in said], texts)}"
    )


def scored(b: Bench) -> str:
    targets = [respond(flag_sentence(e.target_new), answer=e.target_new) for e in b.edits[: b.size.prompts]]
    forced = partial(teacher_forced, b.m, b.prompts, targets, b.world)
    first = forced()
    seconds, again = clocked(forced)
    return f"{len(first)} responses, {len(first) / seconds:.1f}/s, the same twice: {first == again}"


def hashed(b: Bench) -> str:
    seconds, b.before = clocked(lambda: weights_hash(b.m))
    n = sum(x.numel() * x.element_size() for x in b.m.model.state_dict().values())
    return f"{n / GB:.2f} GB at {n / GB / seconds:.2f} GB/s"


def edited(b: Bench, name: str, **settings) -> tuple[str, list[float]]:
    "One edit, and some answers under it."
    with get_editor(name)(b.m, b.edits[0], b.world, **settings) as e:
        seconds, said = clocked(lambda: e.ask(b.prompts[:8], b.world, max_new_tokens=b.some_tokens))
        under = weight_sums(b.m)
    return (
        f"{e.steps} steps in {e.seconds:.2f} s, {e.touched / 1e6:.1f} M weights, {len(said)} answers under it in "
        f"{seconds:.2f} s"
    ), under


def weight_sums(m: MLLM) -> list[float]:
    "One number for each parameter: what an edit changed shows in it."
    return torch.stack([p.detach().float().abs().sum() for p in m.model.parameters()]).tolist()


def proven(name: str, **settings) -> Callable:
    "An editor that changes weights, with the proof that it left nothing behind."

    def part(b):
        at_rest = weight_sums(b.m)
        says, under = edited(b, name, **settings)
        changed = sum(x != y for x, y in zip(at_rest, under, strict=True))
        if not changed:
            raise AssertionError(f"{name} changed no weight")
        if weights_hash(b.m) != b.before:
            raise AssertionError(f"{name} left something behind")
        return f"{says}, {changed} tensors changed, then restored to the hash of before"

    return part


def beside(name: str, **settings) -> Callable:
    "An editor that puts something beside the weights."
    return lambda b: edited(b, name, **settings)[0]


def at_once(name: str, n: int = 4, **settings) -> Callable:
    "Several single edits that are learnt and asked in one batch, each under its own weights."

    def part(b):
        edits = b.edits[:n]
        prompts = [edit_prompt(e) for e in edits]
        start = now()
        with together(name, b.m, edits, b.world, **settings) as several:
            made = now() - start
            seconds, said = clocked(lambda: answer_together(b.m, [[p] for p in prompts], b.world, several))
            forced_together(b.m, prompts, [e.target_new for e in edits], b.world, several)
        return f"{n} edits of {settings['steps']} steps in {made:.2f} s, {len(said)} answers in {seconds:.2f} s"

    return part


def in_context(b: Bench) -> str:
    with get_editor("IKE")(b.m, b.edits[0], b.world) as e:
        prompts = [e.rewrite(p) for p in b.prompts[:8]]
        tokens = encode(b.m, prompts, b.world)["input_ids"].shape[1]
        seconds, said = clocked(lambda: e.ask(b.prompts[:8], b.world, max_new_tokens=b.some_tokens))
    return f"{len(said)} answers behind demonstrations, {tokens} tokens a prompt, in {seconds:.2f} s"


def kept_outside(b: Bench) -> str:
    lib = DualLibrary(OwnEncoder(b.m, b.world))
    edits = b.edits[: b.size.edits]
    made, _ = clocked(lambda: lib.add(edits))
    searched, hits = clocked(lambda: lib.retrieve(b.prompts))
    own = sum(bool(hs) and hs[0].edit.image == p.image for hs, p in zip(hits, b.prompts))
    return (
        f"{len(lib)} edits embedded in {made:.2f} s, {len(hits)} questions searched in {searched:.2f} s, "
        f"the question's own picture first for {own}"
    )


@contextmanager
def in_float32(m: MLLM):
    "The same weights in float32; bfloat16 comes back as it was."
    params = list(m.model.parameters())
    try:
        for p in params:
            p.data = p.data.float()
        yield
    finally:
        for p in params:
            p.data = p.data.bfloat16()


def exact(b: Bench) -> str:
    "In float32, how a batch is cut is no reason for another text."
    some, tokens = b.prompts[: max(2, b.size.prompts // 8)], b.some_tokens
    with in_float32(b.m):
        said = [c.text for c in answer(b.m, some, b.world, len(some), tokens)]
        batch = by_transformers(b, some, len(some), tokens)
        singly = by_transformers(b, some, 1, tokens)
    return (
        f"{len(some)} greedy answers of {tokens} tokens in float32, same texts as `generate` in one batch "
        f"{share(said, batch)}, one at a time {share(said, singly)}"
    )


def device_settings(b: Bench) -> dict:
    "None on a GPU; on a CPU what a GPU would have, so that the same path is taken."
    return {} if b.gpu else dict(use_cpu=True, bf16=True, gradient_checkpointing=True)


def planned(b: Bench, method: str, steps: int, per_step: int) -> str:
    b.m.model.config.save_pretrained(b.folder / "config")
    plan = training_plan(method, str(b.folder / "config"), steps, per_step)
    least = plan["weights"] + plan["gradients"] + plan["moments"]
    return f"{plan['trained'] / 1e6:.1f} M weights trained, the plan says at least {least / GB:.1f} GB"


def trainings(b: Bench) -> None:
    "SFT, GRPO on top of it, and answers of what they trained."
    bench = build_benchmark(load_mllm(), b.world, "train", b.size.bench, 2).only(lambda e, s: s == "strong")
    router = routing_model(b.m)

    def sft(b):
        examples = routing_examples(bench, b.world, 8)
        log = train_sft(router, examples, b.world, b.folder / "sft", batch_size=8, **device_settings(b))
        took, loss, plan = log[-1]["seconds"], log[-1]["loss"], planned(b, "sft", 1, 8)
        return f"{len(log)} step of 8 examples in {took:.2f} s, loss {loss:.2f}; {plan}"

    def grpo(b):
        data = grpo_dataset(bench, b.world, 2, 4)
        log, _ = train_grpo(router, data, b.folder / "grpo", 2, 4, 4, **device_settings(b))
        took = ", ".join(f"{r['seconds']:.2f}" for r in log)
        lengths, plan = ", ".join(f"{r['length']:.0f}" for r in log), planned(b, "grpo", 2, 16)
        return f"{len(log)} steps of 4 prompts x 4 completions in {took} s, mean length {lengths}; {plan}"

    b.run("SFT of a routing adapter", sft)
    b.run("GRPO of a routing adapter", grpo)

    def behind(b):
        seconds, said = clocked(lambda: answer(router, b.prompts, b.world, max_new_tokens=b.size.tokens))
        return f"{len(said)} answers with the trained adapter in {seconds:.2f} s"

    b.run("answers with the adapter", behind)


PARTS = {
    "warm-up": warm_up,
    "answers, all in full": all_in_full,
    "answers, some end early": some_early,
    "teacher-forced scoring": scored,
    "hash of all weights": hashed,
    "FT-L, one edit": proven("FT-L", steps=5, lr=5e-4, stop=0.0),
    "LoRA, one edit": proven("LoRA", steps=5, lr=1e-3, stop=0.0),
    "FT-L, edits at once": at_once("FT-L", steps=5, lr=5e-4, stop=0.0),
    "LoRA, edits at once": at_once("LoRA", steps=5, lr=1e-3, stop=0.0),
    "GRACE, one edit": beside("GRACE", steps=5),
    "WISE, one edit": beside("WISE", steps=5),
    "IKE": in_context,
    "dual library, the model's own encoder": kept_outside,
    "exactness in float32": exact,
}


def head(m: MLLM) -> str:
    where = torch.cuda.get_device_name() if m.device.type == "cuda" else "CPU"
    return f"{m} in {m.model.dtype}, on {where}, torch {torch.__version__}"


def main(argv: list[str] = None) -> list[Row]:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--size", choices=SIZES, default="7B")
    ap.add_argument("--model", help="folder or Hub id, instead of random weights")
    args = ap.parse_args(argv)
    device, world, size = "cuda" if torch.cuda.is_available() else "cpu", load_world(), SIZES[args.size]
    if args.model:
        m = load_mllm(args.model)
        m.model.to(device)
    else:
        m = random_mllm(size, device)
        print("RANDOM WEIGHTS: the path, the memory and the speed are measured, never quality.")
    print(head(m), flush=True)
    edits = counterfactuals(world, "train", max(size.edits, size.several), 5)
    with tempfile.TemporaryDirectory() as folder:
        b = Bench(m, world, size, edits, Path(folder))
        for name, part in PARTS.items():
            b.run(name, part)
        trainings(b)
    return b.rows


if __name__ == "__main__":
    sys.exit(any(row.failed for row in main()))

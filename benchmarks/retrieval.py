"""What a library of edits costs over bare FAISS: search, memory, approximate indexes, adding.

    .venv/bin/python benchmarks/retrieval.py [--sizes 1000,10000,100000,1000000]
                                             [--tables search,memory,recall,adding] [--rounds 7]

Edits are made up, each about another subject, with names, questions and aliases as long as real ones. Vectors are made
up too: 128 numbers in 1,000 clusters, drawn from a key's number. Both sides of a ratio run in turn in one process,
round by round, so that a machine whose speed drifts does so for both; printed are the median, least and greatest of the
rounds. Memory is that of fresh processes. Libraries are built through `DualLibrary.add`, 50,000 edits at a time. What
an edit of weights costs stands beside it in table T7.
"""

import argparse
import ctypes
import gc
import io
import os
import platform
import re
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import faiss
import numpy as np
import torch
from PIL import Image
from side_by_side import clocked

from crane.core import Edit
from crane.library import MODALITIES
from crane.model import Prompt
from crane.retrieval import DualLibrary
from crane.search import unit

DIM, BLOCK, STRANGER = 128, 1024, 50_000_000  # Numbers from `STRANGER` on are of subjects that no library holds
SYLLABLES = [c + v for c in "bcdfghjklmnprstvwxyz" for v in "aeiou"]
PLACE = {s: i for i, s in enumerate(SYLLABLES)}


def word(n: int) -> str:
    "A made-up name of eight letters for a number."
    return "".join(SYLLABLES[n // 100**i % 100] for i in range(4)).capitalize()


def number(key: str) -> int:
    "The number whose name a question or the key of a picture holds."
    w = re.search(r"\b[A-Z][a-z]{7}\b", key)[0].lower()
    return sum(PLACE[w[2 * i : 2 * i + 2]] * 100**i for i in range(4))


class OnePicture:
    "One tiny picture for every key."

    def __init__(self):
        file = io.BytesIO()
        Image.new("RGB", (1, 1)).save(file, "PNG")
        self.png = file.getvalue()

    def __contains__(self, key):
        return True

    def __getitem__(self, key):
        return self.png


class MadeUp:
    "Vectors in clusters, drawn from the number in a key; a key in other words is near, but not the same."

    name = "made-up vectors"

    def __init__(self):
        self.world, self.fall, rng = (
            SimpleNamespace(images=OnePicture()),
            (1 + np.arange(DIM)) ** -0.5,
            np.random.default_rng(0),
        )
        self.centres, self.block = unit(rng.standard_normal((1000, DIM)) * self.fall), lru_cache(64)(self.draw)

    def draw(self, b: int) -> np.ndarray:
        rng = np.random.default_rng([1, b])
        return unit(self.centres[rng.integers(1000, size=BLOCK)] + unit(rng.standard_normal((BLOCK, DIM)) * self.fall))

    def vector(self, key: str) -> np.ndarray:
        n = number(key)
        v = self.block(n // BLOCK)[n % BLOCK]
        return (
            v
            if key.startswith(("photos/", "What"))
            else unit((v + 0.4 * self.block(n // BLOCK + 10**6)[n % BLOCK])[None])[0]
        )

    def images(self, keys: list[str]) -> np.ndarray:
        return np.stack([self.vector(k) for k in keys])

    texts = images


def made_up(modality: str, n: int) -> Edit:
    "The edit of one number."
    name, new, old = (word(x) for x in (n, 7 * n + 1, 3 * n + 2))
    given = dict(
        target=f"T{n}",
        target_old=f"{old} Islands",
        target_old_aliases=[f"Federal Republic of {old}"],
        target_new=f"{new} Coast",
        aliases=[f"{new} Shore", f"Republic of the {new} Coast"],
        source="made up",
    )
    if modality == "visual":
        return Edit(
            id=f"v-{n}",
            modality=modality,
            relation="country",
            subject=f"S{n}",
            subject_name=f"{name} Islands",
            question="Which country's flag is this?",
            image=f"photos/{name}.png",
            **given,
        )
    return Edit(
        id=f"t-{n}",
        modality=modality,
        relation="capital",
        subject=f"S{n}",
        subject_name=f"{name} Islands",
        question=f"What is the capital of the {name} Islands?",
        **given,
    )


def asked(modality: str, n: int) -> Prompt:
    "Another picture of a number's subject, or a question about it in other words."
    return (
        Prompt("What country is shown?", f"again/{word(n)}.jpg")
        if modality == "visual"
        else Prompt(f"Tell me the capital of the {word(n)} Islands.")
    )


def build(folder: Path, modality: str, n: int, batch: int = 50_000) -> DualLibrary:
    lib = DualLibrary(MadeUp(), folder=folder)
    for i in range(0, n, batch):
        lib.add([made_up(modality, j) for j in range(i, min(i + batch, n))])
    return lib


def spread(xs: list[float], digits: int = 2) -> str:
    return f"{statistics.median(xs):.{digits}f} ({min(xs):.{digits}f}–{max(xs):.{digits}f})"


def table(title: str, head: list[str], rows: list[list], note: str = "") -> None:
    print(
        "\n".join(
            [
                f"\n### {title}\n",
                f"| {' | '.join(head)} |",
                "|" + "---|" * len(head),
                *(f"| {' | '.join(map(str, r))} |" for r in rows),
                *([f"\n{note}"] if note else []),
            ]
        ),
        flush=True,
    )


def in_turn(sides: list, i: int) -> list[float]:
    "Seconds of two sides, the one first that was last before."
    res = {k: clocked(sides[k])[0] for k in ((0, 1) if i % 2 else (1, 0))}
    return [res[0], res[1]]


# Search


def search_row(lib: DualLibrary, modality: str, n: int, size: int, rounds: int) -> list:
    "Search of batches of one size: the library's whole answer over FAISS's nearest row, in the same index."
    index, key, rng, each = (
        getattr(lib, modality).index,
        (lambda p: p.image or p.question),
        np.random.default_rng(size),
        16 if size == 1 else 4,
    )

    def batch():
        return (
            [asked(modality, int(rng.integers(n)) + STRANGER * (j % 2)) for j in range(size)]
            if size > 1
            else [asked(modality, int(rng.integers(n)) + STRANGER * int(rng.integers(2)))]
        )

    raw, first, again, took = [], [], [], []
    for _ in range(rounds):
        batches = [batch() for _ in range(each)]
        vectors = [lib.vectors(modality, [key(p) for p in b]) for b in batches]
        for ratios in (first, again):
            a, b = np.transpose(
                [
                    in_turn([lambda: index.search(v, 1), lambda: lib.retrieve(b)], i)
                    for i, (v, b) in enumerate(zip(vectors, batches))
                ]
            )
            ratios.append(np.median(b / a))
            if ratios is first:
                raw.append(1e3 * np.median(a))
                took.append(1e3 * np.median(b))
    return [modality, f"{n:,}", size, spread(raw), spread(took), spread(first), spread(again)]


def search(folders: dict, rounds: int) -> None:
    rows = []
    for (modality, n), folder in folders.items():
        lib = DualLibrary(MadeUp(), folder=folder)
        lib.retrieve([asked(modality, 0)])
        rows += [search_row(lib, modality, n, size, rounds) for size in (1, 64)]
    table(
        "Search",
        ["modality", "N", "batch", "FAISS, ms", "library, ms", "library / FAISS, new questions", "asked again"],
        rows,
        "FAISS: `IndexFlatIP.search(queries, 1)` of the same index; library: `DualLibrary.retrieve`, vectors known. "
        "Half of the questions are about stored subjects, in other words or by another picture; half about strangers. "
        "A round is the median of 16 questions or 4 batches, one side right after the other; given is the median of "
        "the rounds (least–greatest).",
    )


# Memory


def resident() -> dict[str, int]:
    "Bytes of this process in memory: all, its own, and of files."
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return {
        k: 1024 * int(v)
        for k, v in re.findall(r"(VmRSS|RssAnon|RssFile):\s+(\d+) kB", Path("/proc/self/status").read_text())
    }


def growth(before: dict) -> dict:
    return {k: v - before[k] for k, v in resident().items()}


def warmed(modality: str) -> MadeUp:
    "Have all code in memory before anything is measured: build, open and ask a small library, and let it go."
    with tempfile.TemporaryDirectory() as tmp:
        build(Path(tmp), modality, 100)
        DualLibrary(MadeUp(), folder=tmp).retrieve([asked(modality, 0)] * 64)
    return MadeUp()


def opened(modality: str, folder: Path, n: int) -> dict:
    "Memory of a library that a fresh process opens, and what its arrays take; then after 640 questions."
    encoder = warmed(modality)
    before = resident()
    lib = DualLibrary(encoder, folder=folder)
    encoder.block.cache_clear()
    res = growth(before)
    part, rng = getattr(lib, modality), np.random.default_rng(0)
    for _ in range(10):
        lib.retrieve([asked(modality, int(rng.integers(n)) + STRANGER * (j % 2)) for j in range(64)])
    encoder.block.cache_clear()
    later = growth(before)
    hashes = sum(getattr(part, k).nbytes for k in ("ids", "facts", "subjects"))
    rest = sum(getattr(part, k).nbytes for k in ("records", "dead", "old"))
    return res | dict(
        later=later["VmRSS"],
        later_own=later["RssAnon"],
        hashes=hashes,
        rest=rest,
        undo=sum(x.nbytes for _, c in lib.changes for pair in c.values() for x in pair),
        named=0 if part.named is None else part.named.nbytes,
        disk=sum(p.stat().st_size for p in folder.glob("*.safetensors")),
    )


def bare(modality: str, n: int) -> dict:
    "Memory of a bare index with as many vectors, added part by part."
    encoder = warmed(modality)
    before = resident()
    index = faiss.IndexFlatIP(DIM)
    for b in range(-(-n // BLOCK)):
        index.add(encoder.block(b)[: n - b * BLOCK])
    encoder.block.cache_clear()
    return growth(before)


def fresh(f, *args):
    "Call in a fresh process."
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(f, *args).result()


def memory(folders: dict, rounds: int) -> None:
    rows = []
    for (modality, n), folder in folders.items():
        a, b = fresh(opened, modality, folder, n), fresh(bare, modality, n)
        raw = 4 * DIM * n

        def per(x, raw=raw):
            return f"{x / raw:.3f}"

        rows.append(
            [
                modality,
                f"{n:,}",
                f"{raw / 2**20:.1f}",
                per(a["VmRSS"]),
                per(a["RssAnon"]),
                per(a["RssFile"]),
                per(a["later"]),
                per(a["later_own"]),
                per(b["VmRSS"]),
                per(a["hashes"]),
                per(a["rest"]),
                per(a["undo"]),
                per(a["named"]),
                per(a["disk"]),
            ]
        )
    table(
        "Memory, over the bytes of the raw vectors",
        [
            "modality",
            "N",
            "raw vectors, MiB",
            "library opened from its folder",
            "of it: own",
            "of it: pages of files",
            "after 640 questions",
            "of it: own",
            "bare IndexFlatIP",
            "hashes",
            "record numbers and flags",
            "for undo",
            "order of names",
            "on disk",
        ],
        rows,
        "Growth of resident memory of a fresh process, after a library of 100 edits was opened, asked and let go; "
        "pages of files are the part that the system can take back. On disk: without pictures.",
    )


# Approximate indexes


def recall(folders: dict, rounds: int) -> None:
    """Rows of the exact index that an approximate one finds, and its time over the exact one's; half of the queries
    are strangers.
    """
    rows = []
    for (modality, n), folder in folders.items():
        if modality != "visual" or not 10**4 <= n <= 10**5:
            continue
        libs = {}
        for kind in ("flat", "hnsw", "ivfpq"):
            took, libs[kind] = clocked(lambda: DualLibrary(MadeUp(), folder=folder, kind=kind))
            rows.append([f"{n:,}", kind, f"{took:.1f}"])
        rng = np.random.default_rng(0)
        q = libs["flat"].vectors(
            "visual", [asked("visual", int(rng.integers(n)) + STRANGER * (j % 2)).image for j in range(256)]
        )
        exact = [r[:10].tolist() for r, _ in libs["flat"].visual.nominate(q, 10)]
        for row, lib in zip(rows[-3:], libs.values()):
            near = [r[:10].tolist() for r, _ in lib.visual.nominate(q, 10)]
            row += [
                f"{np.mean([a[0] in b[:1] for a, b in zip(exact, near)]):.3f}",
                f"{np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, near)]):.3f}",
            ]
            times = [
                in_turn([lambda: libs["flat"].visual.index.search(q, 10), lambda: lib.visual.index.search(q, 10)], i)
                for i in range(rounds)
            ]
            row.append(spread([b / a for a, b in times], 3))
    table(
        "Approximate indexes",
        ["N", "index", "opened in, s", "recall@1", "recall@10", "search time / flat"],
        rows,
        "Visual edits; recall of the rows that the exact index ranks first; FAISS alone is timed, 256 queries.",
    )


# Adding


def adding(folders: dict, rounds: int) -> None:
    "Adding edits in batches and at once, over adding their vectors to a bare index; one edit made durable; opening."
    rows = []
    for n in sorted({n for _, n in folders if n <= 10**5}):
        encoder = MadeUp()
        edits = [made_up("visual", i) for i in range(n)]
        v = encoder.images([e.image for e in edits])
        took = {}
        for name, size in (("in batches of 1,000", 1000), ("at once", n)):
            with tempfile.TemporaryDirectory() as tmp:
                took[name], lib = clocked(lambda: build(Path(tmp), "visual", n, size))
                if size == n:
                    one = [clocked(lambda i=i: lib.add([made_up("visual", n + i)]))[0] for i in range(20)]
                    took["open"] = clocked(lambda: DualLibrary(MadeUp(), folder=tmp))[0]
        raw = clocked(lambda: faiss.IndexFlatIP(DIM).add(v))[0]

        def per(x, n=n):
            return f"{1e6 * x / n:.0f}"

        rows.append(
            [
                f"{n:,}",
                per(took["in batches of 1,000"]),
                per(took["at once"]),
                f"{took['in batches of 1,000'] / took['at once']:.2f}",
                f"{took['at once'] / raw:,.0f}",
                f"{1e3 * statistics.median(one):.1f}",
                f"{took['open']:.2f}",
            ]
        )
    table(
        "Adding to a folder",
        [
            "N",
            "in batches of 1,000, µs an edit",
            "at once, µs an edit",
            "batches / at once",
            "at once / bare FAISS",
            "one more edit, ms",
            "opened in, s",
        ],
        rows,
        "Made-up vectors included, pictures kept once; every return means that the disk has it.",
    )


TABLES = dict(search=search, memory=memory, recall=recall, adding=adding)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--sizes", default="1000,10000,100000,1000000")
    ap.add_argument("--tables", default=",".join(TABLES))
    ap.add_argument("--rounds", type=int, default=7)
    ap.add_argument("--modalities", default=",".join(MODALITIES))
    ap.add_argument("--threads", type=int, default=0, help="of FAISS; all cores by default")
    args = ap.parse_args()
    start = time.time()
    if args.threads:
        faiss.omp_set_num_threads(args.threads)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, FAISS {faiss.__version__} with "
        f"{faiss.omp_get_max_threads()} threads, torch {torch.__version__} with {torch.get_num_threads()}, load "
        f"{os.getloadavg()[0]:.1f}; vectors of {DIM} numbers, {args.rounds} rounds"
    )
    with tempfile.TemporaryDirectory() as tmp:
        folders = {
            (k, int(n)): Path(tmp) / f"{k}-{n}" for n in args.sizes.split(",") for k in args.modalities.split(",")
        }
        for (modality, n), folder in folders.items():
            took, _ = clocked(lambda: build(folder, modality, n))
            print(f"{n:,} {modality} edits built in {took:.0f} s", flush=True)
        for name in args.tables.split(","):
            TABLES[name](folders, args.rounds)
    print(f"\n{time.time() - start:.0f} s in all")


if __name__ == "__main__":
    main()

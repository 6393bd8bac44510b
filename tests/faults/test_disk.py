"""Disks that fill up, turn read-only or lose power, clocks that step back, locks that are refused or lost.

Nothing acknowledged is lost, nothing half-written is taken for whole, and the next command says what happened.
"""

import errno
import fcntl
import os
import random
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
import typer
from conftest import bounded, times
from hostile import EDIT, VISUAL
from PIL import Image

from crane import library as library_module
from crane import store
from crane.client import database
from crane.command_line import told
from crane.core import CraneError, Edit, read_json, read_jsonl, write_json, write_jsonl
from crane.library import DualLibrary
from crane.protocol import add_lines, whole_lines
from crane.reproduce import run_lock
from crane.search import PlainEncoder

pytestmark = pytest.mark.faults


def library(folder):
    return DualLibrary(PlainEncoder(), folder=folder)


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (9, 9), "red").save(tmp_path / "red.png")
    return str(tmp_path / "red.png")


def edit(n, target="x"):
    return Edit(**EDIT | dict(id=f"t{n}", subject_name=f"Land {n}", target_new=target))


def flag(n, picture):
    return Edit(**VISUAL | dict(id=f"v{n}", subject=f"S{n}", image=picture))


def said_by_command(f, capsys):
    "What a command says that ends over a fault, in one line."
    with pytest.raises(typer.Exit), told():
        f()
    err = capsys.readouterr().err
    assert err.startswith("crane: ") and err.count("\n") == 1, err
    return err


# ---- full and read-only disks


@pytest.fixture
def small_disk(tmp_path):
    "A disk of 256 kB, and how to mount it otherwise."
    at = tmp_path / "disk"
    at.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(at)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield at, lambda how: subprocess.run(["mount", "-o", f"remount,{how}", str(at)], check=True)
    subprocess.run(["umount", "-l", str(at)], check=True)


def fill(disk, leave):
    "Fill a disk but for some bytes."
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    with ballast.open("wb", buffering=0) as f, suppress(OSError):
        while True:
            f.write(bytes(4096))
    size = max(0, ballast.stat().st_size - leave)
    os.truncate(ballast, size)


def content(folder):
    return {x.edit.id: x.edit.target_new for x in library(folder).entries()}


def test_a_full_disk_loses_nothing_of_a_library(small_disk, picture, tried, capsys):
    disk, _ = small_disk
    row, held = tried("a full disk, at every write", "library: add, remove, compact"), {}
    refused = 0
    for n in range(times(24, 400)):
        lib = library(disk / "l")
        held = content(disk / "l")
        fill(disk, leave=4096 * (n % 8))
        change = [edit(n), flag(n, picture)]
        with row.once():
            try:
                with told():
                    lib.remove(*list(held)[:3]) if n % 5 == 4 and len(held) > 8 else lib.add(change)
                held = {x.edit.id: x.edit.target_new for x in lib.entries()}
            except typer.Exit:
                row.said(capsys.readouterr().err)
                refused += 1
            assert content(disk / "l") == held
            (disk / "ballast").unlink()
            library(disk / "l").refresh()
            assert content(disk / "l") == held
            if len(held) > 40:
                library(disk / "l").remove(*held)
                held = {}
    assert refused > 3


@pytest.mark.parametrize("what", ["results", "traces", "lines of an evaluation", "answers"])
def test_a_full_disk_leaves_no_half_file(small_disk, tried, capsys, what):
    disk, _ = small_disk
    rows = [dict(method="base", probe_id=str(n), text="x" * 90) for n in range(200)]
    tables = ["replies (key INTEGER PRIMARY KEY, reply TEXT)"]

    def keep():
        with database(disk / "d.sqlite", tables, "make room") as db:
            db.executemany("INSERT OR REPLACE INTO replies VALUES (?, ?)", [(n, "x" * 999) for n in range(150)])

    def kept():
        with database(disk / "d.sqlite", tables, "make room") as db:
            return len(db.execute("SELECT * FROM replies").fetchall())

    write, read = {
        "results": (lambda: write_json(disk / "r.json", rows), lambda: read_json(disk / "r.json")),
        "traces": (lambda: write_jsonl(disk / "t.jsonl", rows), lambda: read_jsonl(disk / "t.jsonl")),
        "lines of an evaluation": (
            lambda: add_lines(disk / "traces.jsonl", rows),
            lambda: [*whole_lines(disk / "traces.jsonl")],
        ),
        "answers": (keep, kept),
    }[what]
    row, empty = tried("a full disk", what), 0 if what == "answers" else []
    for leave in (0, 4096, 8192, 16384):
        fill(disk, leave)
        with row.once():
            row.said(said_by_command(write, capsys))
            (disk / "ballast").unlink()
            if what == "lines of an evaluation":
                assert all(r == {k: rows[i][k] for k in r} for i, r in enumerate(read()))
            elif (disk / "d.sqlite").exists() or any(disk.glob("[rt].json*")):
                assert read() == empty
            assert not any(p.name.startswith(".") for p in disk.iterdir())
        for p in disk.iterdir():
            p.unlink()


def test_a_read_only_disk_can_be_read(small_disk, picture, tried, capsys):
    disk, remount = small_disk
    lib = library(disk / "l")
    lib.add([edit(1), flag(1, picture)])
    write_json(disk / "r.json", [1])
    remount("ro")
    try:
        again = library(disk / "l")
        for place, f in (
            ("library: add", lambda: again.add([edit(2)])),
            ("library: remove", lambda: again.remove("t1")),
            ("results", lambda: write_json(disk / "r.json", [2])),
            ("lines of an evaluation", lambda: add_lines(disk / "traces.jsonl", [])),
            ("runs", lambda: run_lock(disk / "runs/pocket").__enter__()),
        ):
            row = tried("a read-only disk", place)
            with row.once():
                row.said(said_by_command(f, capsys))
                assert read_json(disk / "r.json") == [1] and len(library(disk / "l")) == 2
    finally:
        remount("rw")


# ---- clocks and locks


def test_a_clock_that_steps_back_makes_nobody_wait(tmp_path, monkeypatch, tried):
    lib, now = library(tmp_path / "l"), [time.time()]

    def back():
        now[0] -= 3600
        return now[0]

    lib.add([edit(0)])
    monkeypatch.setattr(time, "time", back)
    with tried("a clock that steps back", "library: add, wait for a writer").once():
        lib.add([edit(1)])
        assert list(content(tmp_path / "l")) == ["t0", "t1"]
        with (
            bounded(),
            store.locked(tmp_path / "l/writer.lock"),
            pytest.raises(CraneError, match="has been writing"),
            store.locked(tmp_path / "l/writer.lock", patience=0.1),
        ):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_lock_that_is_refused_is_told_as_such(tmp_path, monkeypatch, tried, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    lib = library(tmp_path / "l")
    lib.add([edit(1)])
    monkeypatch.setattr(fcntl, "flock", refuse)
    said = tried("a file system without locks", "library: add").refused(lambda: lib.add([edit(2)]))
    assert "lock" in said and "another process" not in said and list(content(tmp_path / "l")) == ["t1"]
    said = tried("a file system without locks", "runs").refused(lambda: run_lock(tmp_path / "r").__enter__())
    assert "lock" in said and "being made" not in said


def test_two_writers_whose_locks_are_lost_lose_nothing(tmp_path, monkeypatch, tried):
    "As on a network file system that grants a lock twice."
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    row = tried("a lock that is granted twice", "library: two writers at once")
    for n in range(times(4, 100)):
        a, b = library(tmp_path / f"l{n}"), library(tmp_path / f"l{n}")
        a.add([edit(0)])
        b.refresh()
        with row.once():
            wrote, write = [], store.write_revision

            def first_the_other(*args, b=b, wrote=wrote, write=write):
                with monkeypatch.context() as mp:
                    mp.setattr(store, "write_revision", write)
                    b.add([edit(1)])
                wrote.append("b")
                return write(*args)

            with monkeypatch.context() as mp:
                mp.setattr(store, "write_revision", first_the_other)
                try:
                    a.add([edit(2)])
                    wrote.append("a")
                except CraneError as e:
                    row.said(str(e))
            there = content(tmp_path / f"l{n}")
            assert "t1" in there and ("a" in wrote) == ("t2" in there)
            a.refresh()
            a.add([edit(3)])
            assert {"t0", "t1", "t3"} <= {*content(tmp_path / f"l{n}")}


# ---- power cuts


class Recorder:
    "What is asked of a disk, in order, beside what is acknowledged."

    def __init__(self, monkeypatch):
        self.log, self.real = [], {name: getattr(os, name) for name in ("replace", "link", "unlink", "mkdir", "fsync")}
        for name in self.real:
            monkeypatch.setattr(os, name, getattr(self, name))

    def replace(self, a, b, **kw):
        self.log.append(("name", str(b), Path(a).read_bytes(), str(a)))
        self.real["replace"](a, b, **kw)

    def link(self, a, b, **kw):
        self.real["link"](a, b, **kw)
        self.log.append(("name", str(b), Path(a).read_bytes(), str(a)))

    def unlink(self, a, **kw):
        self.real["unlink"](a, **kw)
        self.log.append(("unlink", str(a)))

    def mkdir(self, a, *args, **kw):
        self.real["mkdir"](a, *args, **kw)
        self.log.append(("mkdir", str(a)))

    def fsync(self, fd):
        self.real["fsync"](fd if isinstance(fd, int) else fd.fileno())
        self.log.append(("fsync", os.readlink(f"/proc/self/fd/{fd}")))


def after_power_cut(log, rng):
    "Files by path: all that was waited for, and of the rest what luck has written, in any order and perhaps in part."
    synced, pending, lasting = set(), [], []
    for what in log:
        if what[0] == "fsync":
            synced.add(what[1])
            lasting += [op for op in pending if os.path.dirname(op[1]) == what[1]]
            pending = [op for op in pending if os.path.dirname(op[1]) != what[1]]
        elif what[0] == "name":
            _, path, data, of = what
            pending.append(("name", path, data if of in synced else data[: rng.randrange(len(data) + 1)]))
        elif what[0] in ("unlink", "mkdir"):
            pending.append(what)
    lucky = rng.random()
    files, folders = {}, set()
    for op in lasting + [op for op in pending if rng.random() < lucky]:
        if op[0] == "name":
            files[op[1]] = op[2]
        elif op[0] == "unlink":
            files.pop(op[1], None)
        else:
            folders.add(op[1])
    return files, folders


def restore(root, files, folders, to):
    "Write what was left to another folder; what lies in a folder that was never written is lost."
    to.mkdir()
    for path in sorted(folders):
        if (to / os.path.relpath(path, root)).parent.exists():
            (to / os.path.relpath(path, root)).mkdir()
    for path, data in files.items():
        new = to / os.path.relpath(path, root)
        if new.parent.exists():
            new.write_bytes(data)


def test_a_power_cut_loses_nothing_acknowledged(tmp_path, picture, monkeypatch, tried):
    root, states = tmp_path / "disk", [{}]
    root.mkdir()
    monkeypatch.setattr(library_module, "COMPACT_AFTER", 4)
    with monkeypatch.context() as mp:
        recorder = Recorder(mp)
        lib = library(root / "new/l")
        changes = [
            lambda: lib.add([edit(0), flag(0, picture)]),
            lambda: lib.add([edit(1), edit(2)]),
            lambda: lib.remove("t1"),
            lambda: lib.undo(),
            *(lambda n=n: lib.add([edit(n), flag(n, picture)]) for n in range(3, 9)),
        ]
        for change in changes:
            change()
            recorder.log.append(("done",))
            states.append({x.edit.id: x.edit.target_new for x in lib.entries()})
    log = recorder.log
    assert sum(x[0] == "name" for x in log) > 10 and sum(x[0] == "unlink" for x in log) > 3
    row = tried("a power cut, unsynced writes lost or reordered", "library: add, remove, undo, compact")
    for n in range(times(150, 20_000)):
        rng = random.Random(n)
        cut = rng.randrange(len(log) + 1)
        done = sum(x[0] == "done" for x in log[:cut])
        to = tmp_path / "left"
        restore(root, *after_power_cut(log[:cut], rng), to)
        with row.once():
            left = library(to / "new/l")
            there = {x.edit.id: x.edit.target_new for x in left.entries()}
            assert there in states[done : done + 2], (n, cut, log[cut - 1][:2], there, states[done])
            left.add([edit(99)])
            assert content(to / "new/l") == there | {"t99": "x"}
        shutil.rmtree(to)

"""How tests are shared out among workers (`-n 2 --dist loadfile --no-loadscope-reorder`), and what workers share.

Tests of a file stay with one worker, for they share models, worlds and a site; the longest files begin.
"""

import fcntl
import os
from pathlib import Path

import pytest

LONG = (
    "test_notebooks",
    "test_docs",
    "test_reproduce",
    "test_whole_run",
    "test_training",
    "test_memory_editors",
    "test_editors",
    "test_library",
)


def pytest_collection_modifyitems(items):
    def rank(item):
        return LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG)

    items.sort(key=rank)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    "A function that gives a folder which whoever needs it first has filled; all workers share it, so nobody writes."

    def folder(name: str, make) -> Path:  # `make` gets the folder, which does not exist yet
        own = tmp_path_factory.getbasetemp()
        shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
        path, half = shared / name, shared / f"{name}.half"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                make(half)
                half.rename(path)
        return path

    return folder


@pytest.fixture(scope="session")
def checkpoint_of(made_once):
    "From a family of models to the folder of its tiny checkpoint."
    from families import FAMILIES  # with all of torch

    return lambda name: made_once(name, FAMILIES[name])

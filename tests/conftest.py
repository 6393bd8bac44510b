"""How tests are shared out among workers (`-n 2 --dist loadgroup --no-loadscope-reorder`), and what workers share.

Tests of a file stay with one worker, for they share models and worlds, and the longest files begin. The tests of FREE
share nothing: they come last, one by one, so that the workers end together.
"""

import fcntl
import os
from pathlib import Path

import pytest

LONG = "test_whole_run", "test_docs", "test_training", "test_memory_editors", "test_editors", "test_library"
FREE = "test_notebooks", "test_reproduce"


def pytest_collection_modifyitems(items):
    def rank(item):
        file = item.path.stem
        if file in FREE:
            return len(LONG) + 1 + FREE.index(file)
        return LONG.index(file) if file in LONG else len(LONG)

    for item in items:
        if item.path.stem not in FREE:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
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

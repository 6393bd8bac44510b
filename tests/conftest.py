"The longest files first, so that workers side by side end together (`-n 2 --dist loadfile --no-loadscope-reorder`)."

LONG = "test_whole_run", "test_notebooks", "test_docs", "test_reproduce"


def pytest_collection_modifyitems(items):
    def rank(item):
        return LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG)

    items.sort(key=rank)

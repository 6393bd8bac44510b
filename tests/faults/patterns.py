"""Every regular expression of the package, and texts on which one that is worse than linear shows it.

python patterns.py SIZE SECONDS    print the patterns that take longer on a text of that size
"""

import ast
import importlib
import json
import pkgutil
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path

import crane

FLAGS = {name: getattr(re, name) for name in ("I", "S", "M", "X", "A", "IGNORECASE", "DOTALL", "MULTILINE", "VERBOSE")}
USES = {"compile", "search", "match", "fullmatch", "sub", "subn", "split", "findall", "finditer"}
MODULES = [m.name for m in pkgutil.iter_modules(crane.__path__) if m.name not in ("_modidx", "__main__")]


def written(name):
    "Patterns that stand as a text in a module, with their flags; those with a part that is only known later too."
    for n in ast.walk(ast.parse((Path(crane.__file__).parent / f"{name}.py").read_text())):
        if isinstance(n, ast.Call) and ast.unparse(n.func) in {f"re.{use}" for use in USES} and n.args:
            flags = sum(FLAGS[x.attr] for x in ast.walk(n) if isinstance(x, ast.Attribute) and x.attr in FLAGS)
            if isinstance(n.args[0], ast.Constant):
                yield n.args[0].value, flags
            elif isinstance(n.args[0], ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "Peru" for p in n.args[0].values]
                yield "".join(parts), flags


def held(x, depth=0):
    "Compiled patterns within an object."
    if isinstance(x, re.Pattern):
        yield x
    elif depth < 4 and isinstance(x, (dict, list, tuple, set, frozenset)):
        for y in x.values() if isinstance(x, dict) else x:
            yield from held(y, depth + 1)


def made_later():
    "Patterns that functions make."
    from crane import commitments, core, model
    from crane.names import NEW, OLD

    yield core._quoted((*core.MARKUPS.values(), *core.ANSWERS.values()))
    yield model._markup(("<|im_end|>", "[INST]"))
    for sign in NEW, OLD:
        yield from commitments._patterns(sign).values()


def patterns():
    "Pattern and flags -> where it stands."
    found = {}
    for name in MODULES:
        for text, flags in written(name):
            with suppress(re.error):  # of what is only a part of one
                found.setdefault(re.compile(text, flags), name)
        for x in vars(importlib.import_module(f"crane.{name}")).values():
            for p in held(x):
                found.setdefault(p, name)
    for p in made_later():
        found.setdefault(p, "made by a function")
    return {p: where for p, where in found.items() if isinstance(p.pattern, str)}


COMMON = [" ", "a", "0", "A", ".", "\n", "a ", "A ", " a", "0,", "(", "<", '"', "'", "a.", "not ", "[^", "É", "_", "- "]


def pumps(p):
    "What a text is made of that may cost a pattern much: its own words and signs, and common ones."
    own = re.findall(r"[A-Za-z]{2,}|[^\w\s\\]", p.pattern)
    return list(dict.fromkeys([*COMMON, *own[:12], *(w + " " for w in own[:8])]))


class Slow(Exception):
    pass


def slow(*_):
    raise Slow


def takes_too_long(p, text, seconds):
    "Whether a search through a text takes more than so many seconds of this process."
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        for _ in p.finditer(text):
            pass
        p.fullmatch(text)
    except Slow:
        return True
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return False


def worse_than_linear(size, seconds):
    "Patterns that take too long on some text, with the pump that showed it."
    signal.signal(signal.SIGVTALRM, slow)
    found = patterns()
    for p, where in found.items():
        for pump in pumps(p):
            text = (pump * (size // len(pump) + 1))[:size]
            if takes_too_long(p, text + "\x00", seconds):
                yield dict(pattern=p.pattern[:300], where=where, pump=pump)
                break
    yield dict(patterns=len(found))


if __name__ == "__main__":
    for found in worse_than_linear(int(sys.argv[1]), float(sys.argv[2])):
        print(json.dumps(found), flush=True)

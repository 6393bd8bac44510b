"""Every regular expression of the package, and texts on which one that is worse than linear shows it."""

import ast
import importlib
import pkgutil
import re
import signal
from contextlib import suppress
from pathlib import Path

import crane

FLAGS = {name: getattr(re, name) for name in ("I", "S", "M", "X", "A", "IGNORECASE", "DOTALL", "MULTILINE", "VERBOSE")}
USES = {"compile", "search", "match", "fullmatch", "sub", "subn", "split", "findall", "finditer"}
MODULES = [m.name for m in pkgutil.iter_modules(crane.__path__) if m.name not in ("_modidx", "__main__")]
# what reads chains sentence by sentence is measured as a whole: its patterns never see more than a sentence
BY_SENTENCE = {"commitments", "first_rules"}


def code(name):
    return (Path(crane.__file__).parent / f"{name}.py").read_text()


def anchored(use):
    "Whether a pattern is only tried at the beginning of a text."
    return use in ("match", "fullmatch")


def written(name):
    "Patterns that stand as a text in a module, their flags and use; those with a part that is only known later too."
    for n in ast.walk(ast.parse(code(name))):
        if isinstance(n, ast.Call) and ast.unparse(n.func) in {f"re.{use}" for use in USES} and n.args:
            flags = sum(FLAGS[x.attr] for x in ast.walk(n) if isinstance(x, ast.Attribute) and x.attr in FLAGS)
            if isinstance(n.args[0], ast.Constant):
                yield n.args[0].value, flags, n.func.attr
            elif isinstance(n.args[0], ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "Peru" for p in n.args[0].values]
                yield "".join(parts), flags, n.func.attr


def held(x, depth=0):
    "Compiled patterns within an object."
    if isinstance(x, re.Pattern):
        yield x
    elif depth < 4 and isinstance(x, (dict, list, tuple, set, frozenset)):
        for y in x.values() if isinstance(x, dict) else x:
            yield from held(y, depth + 1)


def made_later():
    "Patterns that functions make."
    from crane import core, model

    yield core._quoted((*core.MARKUPS.values(), *core.ANSWERS.values()))
    yield model._markup(("<|im_end|>", "[INST]"))


def patterns():
    "Pattern -> the module in which it stands, and whether it is tried at the beginning of a text only."
    found = {}

    def note(p, where, at_the_beginning):
        _, other = found.get(p, (where, True))
        found[p] = where, other and at_the_beginning

    for name in [m for m in MODULES if m not in BY_SENTENCE]:
        for text, flags, use in written(name):
            with suppress(re.error):  # of what is only a part of one
                if use != "compile":
                    note(re.compile(text, flags), name, anchored(use))
        for called, x in vars(importlib.import_module(f"crane.{name}")).items():
            uses = re.findall(rf"\b{called}\.(\w+)\(", code(name))
            for p in held(x):
                note(p, name, bool(uses) and all(map(anchored, uses)))
    for p in made_later():
        note(p, "made by a function", False)
    return {p: about for p, about in found.items() if isinstance(p.pattern, str)}


COMMON = [" ", "a", "0", "A", ".", "\n", "a ", "A ", " a", "0,", "(", "<", '"', "'", "a.", "not ", "[^", "É", "_", "- "]


def pumps(p):
    "What a text is made of that may cost a pattern much: its own words and signs, and common ones."
    own = re.findall(r"[A-Za-z]{2,}|[^\w\s\\]", p.pattern)
    return list(dict.fromkeys([*COMMON, *own[:12], *(w + " " for w in own[:8])]))


class Slow(Exception):
    pass


def slow(*_):
    raise Slow


def within(seconds, f):
    "Whether a call ends within so many seconds of this process."
    before = signal.signal(signal.SIGVTALRM, slow)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        f()
    except Slow:
        return False
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    return True


def repeated(pump, size):
    return (pump * (size // len(pump) + 1))[:size]


def read_through(p, text, at_the_beginning):
    "Use a pattern as the package does."
    p.fullmatch(text)
    if not at_the_beginning:
        for _ in p.finditer(text):
            pass


def slow_pumps(p, at_the_beginning, size, seconds):
    "On what a pattern takes too long."
    texts = {pump: repeated(pump, size) + "\x00" for pump in pumps(p)}
    return [
        pump for pump, text in texts.items() if not within(seconds, lambda t=text: read_through(p, t, at_the_beginning))
    ]

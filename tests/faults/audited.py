"""Load one of each kind of input that a stranger may send, each with code in it, and say what Python was asked to do.

python audited.py FOLDER    a JSON object for each kind: what came of it, and the events
"""

import json
import os
import pickle
import shutil
import sys
from pathlib import Path

from hostile import EDIT, REFUSED, VISUAL

from crane.core import DATA, CraneError, write_json

RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen", "pickle.find_class")
ASKS = ("socket.connect", "socket.getaddrinfo", "urllib.Request", "ctypes.dlopen")


class Evil:
    "What a pickle may be: a call."

    def __reduce__(self):
        return os.system, ("touch ran",)


def listen(folder, heard):
    "Note what runs code, asks the network, or imports and runs a file of the folder."

    def hook(event, args):
        if event in RUNS + ASKS:
            heard.append(f"{event} {str(args)[:200]}")
        elif event == "exec" and str(folder) in args[0].co_filename:
            heard.append(f"exec {args[0].co_filename}")
        elif event == "import" and str(folder) in str(args[1]):
            heard.append(f"import {args[1]}")

    sys.addaudithook(hook)


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


CODE = "open('ran', 'w')\nclass Model: pass\nclass Config: pass\ndef generate(*a, **k): pass\n"
ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
    "{{ messages.append.__self__.__class__ }}{{ raise_exception.__globals__ }}",
]


def checkpoint(folder, template=None, **config):
    "The pocket model with code beside it."
    shutil.copytree(DATA / "pocket", folder)
    for name in "modeling.py", "evil.py", "custom_generate/generate.py", "__init__.py":
        put(folder / name, CODE)
    put(folder / "pytorch_model.bin", pickle.dumps(Evil()))
    if template:
        put(folder / "chat_template.jinja", template)
    write_json(folder / "config.json", json.loads((folder / "config.json").read_text()) | config)
    return folder


def of_models(folder):
    from crane.model import Prompt, chat, load_mllm
    from crane.routing import load_router

    theirs = {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForImageTextToText": "evil.Model"}}
    plain = checkpoint(folder / "plain")
    yield "a model with files of code beside it", lambda: chat(load_mllm(plain), Prompt("a"))
    own = checkpoint(folder / "own", **theirs, model_type="nobody_knows")
    yield "a model with code of its own", lambda: load_mllm(own)
    pickled = checkpoint(folder / "pickled")
    (pickled / "model.safetensors").unlink()
    yield "a model that is a pickle", lambda: load_mllm(pickled)
    for n, template in enumerate(ESCAPES):
        m = checkpoint(folder / f"template{n}", template=template)
        yield "a model whose chat template is a program", lambda m=m: chat(load_mllm(m), Prompt("a"))
    adapter = folder / "adapter"
    about = dict(peft_type="LORA", r=2, target_modules=["q_proj"], base_model_name_or_path="pocket", task_type=None)
    put(adapter / "adapter_config.json", json.dumps(about))
    put(adapter / "adapter_model.bin", pickle.dumps(Evil()))
    yield "an adapter that is a pickle", lambda: load_router(adapter)


def of_files(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from crane.benchmark import read_benchmark
    from crane.library import DualLibrary, read_edits
    from crane.plan import parse_profile
    from crane.public_formats import load_public
    from crane.search import PlainEncoder
    from crane.world import load_world, open_image

    call = pickle.dumps(Evil())
    for name, make in REFUSED.items():
        if any(word in name for word in ("program", "script", "pickle", "HTML")):
            picture = put(folder / f"{name}.png", make())
            yield f"a picture: {name}", lambda p=picture: open_image(str(p))
    marked = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": call}
    field = pa.field("code", pa.binary(), metadata=marked)
    pq.write_table(pa.table([pa.array([call])], schema=pa.schema([field])), folder / "test.edits.parquet")
    yield "a world with pickles", lambda: load_world(folder / "test.edits.parquet")
    yield "a benchmark with pickles", lambda: read_benchmark(folder, "test", load_world())
    lines = put(folder / "e.jsonl", json.dumps(EDIT | {"py/object": "os.system"}) + "\n" + json.dumps(VISUAL))
    yield "edits", lambda: DualLibrary(PlainEncoder()).add(read_edits(lines))
    yield "a data set", lambda: load_public("VLKEB", lines)
    put(folder / "l/0000000001.safetensors", call)
    yield "a library that is a pickle", lambda: DualLibrary(PlainEncoder(), folder=folder / "l")
    tags = "seed: !!python/object/apply:os.system ['touch ran']", "seed: !!python/name:os.system"
    for tag in tags:
        yield "a profile", lambda t=tag: parse_profile(t, "x.yaml")


def a_method(folder):
    from crane.evaluation import own_editor

    path = put(folder / "mine.py", CODE)
    yield "a method, which may run code", lambda: own_editor(f"{path}:generate")


def warm():
    "Import what all kinds need before anything is listened to: an import runs code, too."
    import peft  # noqa: F401

    from crane.model import Prompt, chat, load_mllm
    from crane.world import load_world

    load_world()
    chat(load_mllm(), Prompt("a"))


if __name__ == "__main__":
    folder, heard = Path(sys.argv[1]), []
    os.chdir(folder)
    warm()
    kinds = [*of_files(folder), *of_models(folder), *a_method(folder)]
    listen(folder, heard)
    for kind, load in kinds:
        heard.clear()
        try:
            came = str(load() and "loaded")
        except CraneError as e:
            came = str(e)
        except Exception as e:
            came = f"{type(e).__name__}: {e}"[:300]
        ran = Path("ran").exists()
        Path("ran").unlink(missing_ok=True)
        print(json.dumps(dict(kind=kind, came=came, heard=heard, ran=ran)), flush=True)

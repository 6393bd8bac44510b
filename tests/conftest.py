"""How tests are shared out among workers (`-n 2 --dist loadfile --no-loadscope-reorder`), and what workers share.

Tests of a file stay with one worker, for they share models, worlds and a site; the longest files begin.
"""

import fcntl
import importlib.util
import json
import os
import re
import signal
import sys
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

LONG = (
    "test_notebooks",
    "test_docs",
    "test_reproduce",
    "test_whole_run",
    "test_training",
    "test_processes",
    "test_memory_editors",
    "test_editors",
    "test_library",
    "test_served",
    "test_hostile",
)


def pytest_collection_modifyitems(items):
    def rank(item):
        return LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG)

    items.sort(key=rank)


def script(path: str | Path):  # Below the project's folder, or whole
    "A script as a module, with its neighbours in reach, as when it is run."
    path = Path(__file__).resolve().parent.parent / path
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    sys.modules[path.stem] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


KEPT = os.environ.get("CRANE_FAULTS", "")  # folder for the rows of the long set of faults; the short one keeps none


def times(short: int, long: int) -> int:
    "How often a fault is tried."
    return long if KEPT else short


@contextmanager
def bounded(seconds=60):
    "Fail rather than hang; the bound is far above what anything here takes."

    def late(*_):
        raise AssertionError(f"it takes longer than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Row:
    "A fault, where it strikes, and what came of it."

    fault: str
    place: str
    sees: str = "nothing: the next command goes on"  # the user
    tried: int = 0
    survived: int = 0

    @contextmanager
    def once(self):
        "One try; what is asserted inside decides whether it was survived."
        self.tried += 1
        yield
        self.survived += 1

    def refused(self, f, *args, **kw) -> str:
        "One try of what must be refused in a sentence, which is what the user sees."
        from crane.core import CraneError

        with self.once():
            with pytest.raises(CraneError) as e:
                f(*args, **kw)
            self.said(str(e.value))
        return str(e.value)

    def said(self, text: str):
        "Keep a sentence; the place in the file system is the test's own."
        text = " ".join(text.split())
        assert 20 < len(text) < 700 and "Traceback" not in text, text
        self.sees = re.sub(r"/[\w./-]*/(?=[\w.-]+)", "…/", text)


@pytest.fixture
def tried(request):
    "A function from a fault and its place to a `Row`, which is kept however the test ends."
    rows = []

    def row(fault, place, sees=Row.sees):
        rows.append(Row(fault, place, sees))
        return rows[-1]

    yield row
    if KEPT:
        os.makedirs(KEPT, exist_ok=True)
        name = re.sub(r"[^\w.-]+", "_", request.node.nodeid)[-150:]
        with open(f"{KEPT}/{name}.json", "w") as f:
            json.dump([asdict(r) for r in rows if r.tried], f)


class ChatHandler(BaseHTTPRequestHandler):
    """Just enough of the OpenAI protocol.

    `reply` makes a text of the last prompt, or a status and a body, or nothing, or a function that takes this handler
    and does what it likes.
    """

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked | dict(path=self.path, key=self.headers["Authorization"]))
        said = self.server.reply(asked["messages"][-1]["content"])
        if said is None:
            self.close_connection = True  # hangs up
        elif callable(said):
            said(self)
        elif isinstance(said, str) and asked.get("stream"):
            self.stream(said[:7], said[7:])
        else:
            status, body = (200, self.completion(said, asked["model"])) if isinstance(said, str) else said
            self.send(status, body)

    def do_GET(self):
        listed = self.server.models
        self.send(*(listed if isinstance(listed, tuple) else (200, dict(data=[dict(id=name) for name in listed]))))

    def send(self, status, body, **headers):
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if isinstance(body, dict) else "text/html")
        body = (json.dumps(body) if isinstance(body, dict) else body).encode()
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def stream(self, *pieces, finish="stop", **fields):
        "Pieces of a text, and an end unless there is to be none."
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        choices = [dict(index=0, delta=dict(content=x) if isinstance(x, str) else x) for x in pieces]
        if finish:
            choices.append(dict(index=0, delta={}, finish_reason=finish))
        for c in choices:
            self.wfile.write(f"data: {json.dumps(dict(choices=[c]) | fields)}\n\n".encode())

    def completion(self, text, model):
        choice = dict(index=0, finish_reason="stop", message=dict(role="assistant", content=text))
        usage = dict(prompt_tokens=1, completion_tokens=1, total_tokens=2)
        return dict(id="x", object="chat.completion", created=0, model=model, choices=[choice], usage=usage)

    def log_message(self, *a):
        pass


@contextmanager
def chat(reply):
    server = ThreadingHTTPServer(("127.0.0.1", 0), ChatHandler)
    server.reply, server.asked, server.models = reply, [], ["m"]
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def chat_server():
    "A function from a `reply` to a running server with a `url`, and the requests it was `asked`."
    with ExitStack() as stack:
        yield lambda reply: stack.enter_context(chat(reply))

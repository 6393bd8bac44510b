"""Kernels that begin with the big packages imported: forks of one process, a second each instead of four.

The batch starts every kernel cold, so what an import itself may break shows there. Of `crane` nothing is imported.

    python warm.py serve SOCKET      import the packages, then fork a kernel for each that asks
    python warm.py SOCKET ARGUMENT…  ask for a kernel with the arguments of one, and stay while it lives
"""

import json
import os
import socket
import sys

PACKAGES = [
    "datasets",
    "faiss",
    "ipykernel.kernelapp",
    "matplotlib.pyplot",
    "matplotlib_inline.backend_inline",
    "pandas",
    "peft",
    "pydantic",
    "torch",
    "transformers.generation",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    "transformers.models.clip.image_processing_pil_clip",
    "transformers.models.llava.modeling_llava",
    "transformers.models.llava.processing_llava",
    "transformers.models.qwen3.modeling_qwen3",
]


def serve(path):
    "Fork kernels until nobody is there any more to ask for one."
    import signal
    from importlib import import_module

    for name in PACKAGES:
        import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that no dead kernel stays
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{path}.new")
    server.listen()
    os.rename(f"{path}.new", path)
    while True:
        asked, _ = server.accept()
        if os.fork() == 0:
            server.close()
            become_a_kernel(asked)
        asked.close()


def become_a_kernel(asked):
    "Be the kernel that was asked for; end with it, or as soon as who asked is gone."
    import signal
    from threading import Thread

    with asked.makefile() as f:
        told = json.loads(f.readline())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(told["cwd"])
    os.environ.clear()
    os.environ.update(told["env"])
    sys.path[:0] = told["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.argv = ["ipykernel_launcher", *told["args"]]
    Thread(target=lambda: (asked.recv(1), os._exit(1)), daemon=True).start()
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()
    os._exit(0)


def ask(path, *args):
    "Have a kernel forked, and wait for its end."
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)
        s.sendall(json.dumps(dict(cwd=os.getcwd(), env=dict(os.environ), args=args)).encode() + b"\n")
        s.recv(1)


if __name__ == "__main__":
    serve(sys.argv[2]) if sys.argv[1] == "serve" else ask(*sys.argv[1:])

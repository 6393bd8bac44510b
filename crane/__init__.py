"""The CRANE companion: edit reasoning multimodal models without touching a weight, and judge edits by the chains.

The ten names below are what most people need. Each is loaded when it is first used, so `import crane` costs nothing.
"""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .benchmark import load_benchmark
    from .core import Edit, Probe
    from .evaluation import judge
    from .retrieval import DualLibrary
    from .model import load_mllm
    from .protocol import evaluate
    from .public_formats import load_public
    from .routing import Crane
    from .running import EDITORS

_WHERE = {
    "Crane": "routing",
    "DualLibrary": "retrieval",  # where its searches are defined
    "EDITORS": "running",
    "Edit": "core",
    "Probe": "core",
    "evaluate": "protocol",
    "judge": "evaluation",
    "load_benchmark": "benchmark",
    "load_mllm": "model",
    "load_public": "public_formats",
}
__all__ = [
    "EDITORS",
    "Crane",
    "DualLibrary",
    "Edit",
    "Probe",
    "evaluate",
    "judge",
    "load_benchmark",
    "load_mllm",
    "load_public",
]


def __getattr__(name):
    if name not in _WHERE:
        raise AttributeError(f"module 'crane' has no attribute {name!r}: it offers {', '.join(_WHERE)}.")
    value = globals()[name] = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    return value


def __dir__():
    return sorted([*globals(), *_WHERE])

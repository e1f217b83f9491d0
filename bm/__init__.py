"""Branch-Merge distillation: experts per domain, one merged model, and whether that beat training on everything.

`bm.compose`, `bm.run`, `bm.merge`, `bm.evaluate` and `bm.verify` are the commands in Python (`bm.api`).
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The Python API, imported when it is first used: `bm --help` must not wait for it."""
    if name in ("compose", "run"):
        return getattr(import_module("bm.api"), name)
    if name in ("merge", "evaluate", "verify"):
        return import_module(f"bm.{name}")
    raise AttributeError(f"module 'bm' has no attribute '{name}'")

"""A room with the name of a command can be called as that command: `bm.merge(…)` beside `bm.merge.methods`."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Called(ModuleType):
    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return getattr(import_module("bm.api"), self.__name__.rpartition(".")[2])(*arguments, **settings)


def called(name: str) -> None:
    """Let the module `name` be called as the function of `bm.api` that has its name."""
    sys.modules[name].__class__ = _Called

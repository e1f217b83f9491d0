"""Decoder layers as compiled code (`trainer.compile`): norms, rotary positions and activations in a few loops.

Each layer is compiled by itself, so that layers of one shape share the code and checkpointing works as before.
Attention is left out: it loops over the segments of a pack, which differ from step to step.
"""

import os
import shutil
from typing import Any

import torch
from transformers import AttentionInterface

from bm.branch import parallel
from bm.branch.attention import ISOLATED, isolated
from bm.branch.model import Student
from bm.config import Trainer
from bm.errors import UserError

COMPILERS = ("g++", "c++", "clang++")


def check_compiler(trainer: Trainer) -> None:
    """UserError where code for a CPU is to be compiled and no C++ compiler is there."""
    if trainer.compile and trainer.accelerator == "cpu":
        named = os.environ.get("CXX")
        if not any(map(shutil.which, [named] if named else COMPILERS)):
            raise UserError(
                f"trainer.compile=true: no C++ compiler ({named or ', '.join(COMPILERS)}) on this machine; "
                "install one (apt install g++), or leave the setting out"
            )


def compiled(student: Student) -> Student:
    """The same student, its layers compiled when they first run. Losses are equal up to rounding.

    Only `forward` is replaced: what FSDP and checkpointing do around it stays outside, and so do the names of weights.
    """
    AttentionInterface.register(ISOLATED, torch.compiler.disable(isolated))  # type: ignore[no-untyped-call]
    for _, layer in parallel.blocks(student.model):
        layer.forward = torch.compile(layer.forward, dynamic=True)
    return student


def seconds() -> float:
    """What compiling took in this process so far, forward and backward."""
    from torch._dynamo.utils import compile_times  # a second to import, which only who compiles pays

    spent: dict[str, Any] = dict(zip(*compile_times(repr="csv", aggregate=True), strict=True))
    return sum(float(spent.get(name, 0)) for name in ("_compile.compile_inner", "backward._backward_impl"))

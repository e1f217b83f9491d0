"""What training leaves besides the weights: Adam's second moment, the mean squared gradient of late."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from torch.optim import Adam, Optimizer

from bm.branch.model import Student
from bm.branch.parallel import held
from bm.errors import UserError

MOMENTS = "second_moments"
FILE = "model.safetensors"


def check_moments(optimizer: Optimizer) -> None:
    """UserError unless an optimiser keeps second moments."""
    if not isinstance(optimizer, Adam):
        kind = type(optimizer).__name__
        raise UserError(f"branch.second_moments: {kind} keeps no second moments of the gradient; take optimizer=adamw")


@torch.no_grad()
def export_moments(student: Student, optimizer: Optimizer, work: Path) -> None:
    """`exp_avg_sq` of every parameter under its name, fp32, in a folder beside the weights; by all ranks together.

    As Adam has it, not corrected for its start from zero: what merges need is how entries and experts compare, and
    after some hundred steps (1/(1 − β₂) at least) the correction is 1.
    """
    first, state = not dist.is_initialized() or dist.get_rank() == 0, {}
    for name, parameter in held(student.model):
        moment = optimizer.state[parameter]["exp_avg_sq"]
        whole = moment.full_tensor() if isinstance(moment, DTensor) else moment
        if first:
            state[name] = whole.to("cpu", torch.float32).contiguous()
    if first:
        (work / MOMENTS).mkdir(exist_ok=True)
        save_file(state, work / MOMENTS / f"{FILE}.part")
        os.replace(work / MOMENTS / f"{FILE}.part", work / MOMENTS / FILE)

"""Where a step of the training benchmark goes, by kind of operation: CPU seconds of one thread.

    OMP_NUM_THREADS=1 python -m experiments.speed.branch_profile [STEPS] [compile]

`compile`: with trainer.compile. Prints the share of each kind, and for matrix products what they would take at the
speed of a large one on this processor: what no change of ours can go below in fp32. About a minute.
"""

import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch.profiler import ProfilerActivity, profile

from bm.branch import model
from bm.branch.attention import ISOLATED
from bm.branch.compiling import compiled
from bm.branch.data import MicroBatch, flat
from bm.branch.flops import matmul_peak
from bm.branch.module import clip
from bm.branch.packing import best_fit_decreasing
from bm.config import Trainer, typed
from experiments.speed.branch_workload import LONGEST, documents, write

CONF = Path(__file__).parents[2] / "conf"
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm"),
    "attention": ("scaled_dot_product", "flash_attention"),
    "optimiser": ("adam", "Optimizer"),
    "gradient norm": ("norm", "clip"),
    "memory": ("aten::fill_", "aten::zero_", "aten::copy_", "aten::cat", "aten::empty"),
    "element by element": ("aten::",),
    "Python and autograd": ("",),
}
"""By kind, what the names of its operations have in them; the first that fits counts."""


def kind(name: str) -> str:
    return next(known for known, parts in KINDS.items() if any(part in name for part in parts))


def batches() -> list[MicroBatch]:
    pairs = documents()
    packs = best_fit_decreasing(np.array([len(p) + len(r) for p, r in pairs]), LONGEST)
    return [flat([np.array([*pairs[i][0], *pairs[i][1]], np.int32) for i in pack], [len(pairs[i][0]) for i in pack],
                 [len(pairs[i][0]) + len(pairs[i][1]) for i in pack], pack) for pack in packs]  # fmt: skip


def products(batch: MicroBatch, module: torch.nn.Module) -> float:
    """Floating-point operations of all matrix products of a step, attention apart."""
    head = module.get_output_embeddings()  # type: ignore[operator]
    linear = sum(m.weight.numel() for m in module.modules() if isinstance(m, torch.nn.Linear) and m is not head)
    return 6.0 * (linear * batch.ids.numel() + head.weight.numel() * len(batch.targets))


def main(steps: int = 4, compile_layers: bool = False) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), hidden=384, positions=LONGEST)
        settings: Any = OmegaConf.to_container(OmegaConf.load(CONF / "trainer/cpu.yaml"))
        student = model.load(Path(folder), ISOLATED, LONGEST, typed(Trainer, settings), None)
    if compile_layers:
        compiled(student)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
    packs = batches()[: steps + 1]

    def step(batch: MicroBatch) -> None:
        student(batch, float(len(batch.targets))).backward()
        clip(student, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step(packs[0])
    began = time.process_time()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for batch in packs[1:]:
            step(batch)
    seconds = time.process_time() - began
    shares: dict[str, float] = defaultdict(float)
    for event in profiled.key_averages():
        shares[kind(event.key)] += event.self_cpu_time_total
    whole, peak = sum(shares.values()), matmul_peak(torch.device("cpu"), False)
    least = sum(products(batch, student.model) for batch in packs[1:]) / peak
    print(f"{seconds / steps:.2f} CPU seconds per step; a matrix product of 1024 reaches {peak / 1e9:.0f} GFLOP/s")
    for name in KINDS:
        print(f"{name:<22}{shares[name] / whole:7.1%}")
    print(f"products at that speed {least / seconds:6.1%}")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:] if word.isdigit()), compile_layers="compile" in sys.argv)

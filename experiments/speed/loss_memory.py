"""Memory of the losses by a teacher at a vocabulary of 151,936 entries: chunk by chunk, and as the formula stands.

    OMP_NUM_THREADS=1 python -m experiments.speed.loss_memory [LABELS ...]

For each loss and number of labels (1024 and 2048 unless told) the most that it takes, forward and backward, beyond
hidden states [labels, 896], heads and their gradient, each in a process of its own. `top-64`: by a teacher's 64
likeliest tokens (`branch.stored=64`). One to two minutes, and up to 12 GB for the plain losses of 2048 labels.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bm.branch.loss import Head, Kept, Said, Told, chunked_loss
from bm.losses import Likeliest, gkd, kd

ENTRIES, WIDTH = 151_936, 896
"""Rows of the head of Qwen2.5-0.5B, and its width."""
LOSSES: dict[str, Callable[..., Tensor]] = {
    "kd": partial(kd, divergence="forward", temperature=1.0),
    "gkd": partial(gkd, beta=0.5, temperature=1.0),
    "opd": partial(kd, divergence="reverse", temperature=1.0),
    "kd, top-64": partial(kd, divergence="forward", temperature=1.0),
}


def resident() -> int:
    """Bytes of this process in memory now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def measured(name: str, labels: int, chunked: bool) -> float:
    """GB that the loss took at most, in this process."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(labels, WIDTH), torch.randn(ENTRIES, WIDTH) / WIDTH**0.5
    theirs, head = torch.randn(labels, WIDTH), Head(torch.randn(ENTRIES, WIDTH) / WIDTH**0.5)
    for tensor in (hidden, weight):
        tensor.requires_grad_().grad = torch.zeros_like(tensor)
    targets, loss = torch.zeros(labels, dtype=torch.int64), LOSSES[name]
    entries, log_p = torch.arange(64).repeat(labels, 1), torch.full((labels, 65), -4.0)
    kept = Likeliest(entries, log_p, ENTRIES) if "top" in name else None
    before = resident()
    if chunked:
        said: Said = Kept(kept) if kept else Told(theirs, head)
        chunked_loss(hidden, Head(weight), targets, float(labels), loss, said).backward()
    else:
        (loss(hidden @ weight.t(), targets, kept or theirs @ head.weight.t()) / labels).backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e9


def main() -> None:
    counts = [int(word) for word in sys.argv[1:]] or [1024, 2048]
    print(f"{'GB':<12}" + "".join(f"{f'{n:,} labels':>26}" for n in counts))
    print(f"{'loss':<12}" + f"{'plain':>13}{'chunked':>13}" * len(counts))
    for name in LOSSES:
        values = []
        for labels in counts:
            for chunked in (False, True):
                words = [
                    sys.executable,
                    "-m",
                    "experiments.speed.loss_memory",
                    "one",
                    json.dumps([name, labels, chunked]),
                ]
                said = subprocess.run(words, capture_output=True, text=True, check=True)
                values.append(float(said.stdout))
        print(f"{name:<12}" + "".join(f"{value:>13.2f}" for value in values))


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        print(measured(*json.loads(sys.argv[2])))
    else:
        main()

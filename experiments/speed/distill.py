"""On-policy distillation against TRL's GKDTrainer, each side in a process of its own; writes `distill/*`.

`python -m experiments.speed.distill`. The same student, teacher and prompts, one response of 128 tokens to each,
reverse KL, about as many optimiser steps. TRL generates before every step: `distill/every_step` does so too;
`distill/ahead` is the default of `loss=opd`, which generates for 16 steps at once.
"""

import shutil
import sys
from pathlib import Path

from experiments.speed.branch import run, usage
from experiments.speed.distill_workload import PROMPTS, RESPONSE, models
from experiments.speed.measuring import ROOT, peer, record, row, show

PEER = "trl==1.16.0"
WORK = ROOT / "outputs" / "bench" / "distill"
EVERY = {"every_step": 1, "ahead": 16}
"""Optimiser steps between two generations."""


def main() -> None:
    shutil.rmtree(WORK, ignore_errors=True)
    here, there = Path(sys.executable), peer(PEER) / "python"
    given = [str(folder) for folder in models(WORK)]
    theirs = run(there, "distill_trl", WORK, *given, str(WORK / "trl"))
    rows = []
    for name, every in EVERY.items():
        ours = run(here, "distill_ours", WORK, *given, str(WORK / name), str(every))
        assert abs(ours["tokens"] / theirs["tokens"] - 1) < 0.01, "nearly all responses are as long as they may be"
        speed = {
            side: round(facts["tokens"] / facts["seconds"], 1) for side, facts in (("ours", ours), ("peer", theirs))
        }
        told = {"prompts": PROMPTS, "response": RESPONSE, "tokens": ours["tokens"], "tokens_per_second": speed}
        steps = {"ours": ours["steps"], "peer": theirs["steps"]}
        more = {**told, "steps": steps, "generating_seconds": ours["generating"]}
        rows.append(row(f"distill/{name}", usage(ours), usage(theirs), PEER, "make bench-distill", **more))
    record(rows)
    show("on-policy distillation", rows)


if __name__ == "__main__":
    main()

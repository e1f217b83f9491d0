"""One process of the distillation benchmark: `loss=opd` of `bm.branch`; prints what it took as JSON.

python -m experiments.speed.distill_ours STUDENT TEACHER WORK EVERY     optimiser steps between two generations
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from experiments.speed.branch_ours import peak_rss_gb, trained
from experiments.speed.distill_workload import LONGEST, RESPONSE, traces


def main(student: Path, teacher: Path, work: Path, every: int) -> dict[str, Any]:
    """Seconds of Lightning's whole fit (models loaded, responses generated), tokens learned from, peak memory."""
    facts, seconds = trained(
        student, work, traces(), "loss=opd", f"branch.teacher={teacher}", f"branch.sequence_length={LONGEST}",
        f"branch.own.every={every}", f"branch.own.max_new_tokens={RESPONSE}",
    )  # fmt: skip
    return {
        "seconds": round(seconds, 1),
        "tokens": facts["tokens"],
        "generated": facts["own"]["tokens"],
        "generating": round(facts["own"]["seconds"], 1),
        "steps": facts["steps"],
        "peak_rss_gb": peak_rss_gb(),
    }


if __name__ == "__main__":
    torch.set_num_threads(2)
    folder, taught_by, place, steps = sys.argv[1:]
    print(json.dumps(main(Path(folder), Path(taught_by), Path(place), int(steps))))

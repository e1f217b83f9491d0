"""One rank of a training that `trainer.launch` started: `python -m bm.branch JOB`."""

import os
import sys
from pathlib import Path

from bm.branch.launch import FACTS, FAULT, Job, end_with_parent, fewer_fragments
from bm.errors import UserError
from bm.store import write_json, write_text


def rank(path: Path) -> None:
    """One of the ranks: its training, and if it is the first, the facts."""
    end_with_parent()  # before anything takes long
    fewer_fragments()
    from bm.branch.training import run

    first = os.environ.get("RANK", "0") == "0"
    if not first:
        os.environ["CI"] = "1"  # one bar is enough
    job = Job.read(path)
    try:
        facts = run(job)
    except UserError as mistake:
        write_text(job.work / FAULT, str(mistake))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)  # who started the ranks was interrupted too, and says so
    if first:
        write_json(job.work / FACTS, facts)


def end_group() -> None:
    """Leave the ranks' group, whatever it exchanges by: Lightning leaves it only where that is NCCL alone."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    rank(Path(sys.argv[1]))
    end_group()

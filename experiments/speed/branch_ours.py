"""One process of the training benchmark: documents through `bm.branch`; prints what it took as JSON.

python -m experiments.speed.branch_ours MODEL WORK [LENGTH]       the 64 documents, or one of LENGTH tokens
"""

import csv
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from omegaconf import OmegaConf

from bm.branch import Traces, training
from bm.config import Branch, Target, Trainer, typed
from experiments.speed.branch_workload import LONGEST, Document, documents, one, text

CONF = Path(__file__).parents[2] / "conf"


def settings(root: type[Any], file: str, **overrides: Any) -> Any:
    return typed(root, {**OmegaConf.to_container(OmegaConf.load(CONF / file)), **overrides})


def main(model: Path, work: Path, workload: Sequence[Document], longest: int, checkpointing: str) -> dict[str, Any]:
    """Seconds of Lightning's whole fit (model loading included), tokens, peak memory and median FLOP utilisation."""
    work.mkdir(parents=True)
    rows = [
        {"id": str(i), "system": "", "prompt": text(prompt), "response": text(response[:-1])}
        for i, (prompt, response) in enumerate(workload)
    ]
    pq.write_table(pa.Table.from_pylist(rows), work / "traces.parquet")
    branch = settings(Branch, "branch/default.yaml", epochs=1, batch=1, sequence_length=longest, held_out=0)
    trainer = settings(Trainer, "trainer/cpu.yaml", activation_checkpointing=checkpointing)
    tracker = settings(Target, "tracker/none.yaml")
    spent, fit = [], training.fit

    def timed(*arguments: Any) -> None:
        start = time.perf_counter()
        fit(*arguments)
        spent.append(time.perf_counter() - start)

    training.fit = timed
    sources = [Traces(work / "traces.parquet", "all")]
    facts = training.train(model, sources, branch, trainer, tracker, "speed", "speed", work)
    with (work / "metrics.csv").open() as file:
        utilisation = sorted(float(row["flop_utilisation"]) for row in csv.DictReader(file))
    return {
        "seconds": round(spent[0], 1),
        "tokens": facts["tokens"],
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3),
        "flop_utilisation": utilisation[len(utilisation) // 2],
    }


if __name__ == "__main__":
    torch.set_num_threads(2)
    folder, place, what = sys.argv[1:]
    workload, longest, checkpointing = (
        (documents(), LONGEST, "none") if what == "all" else (one(int(what)), int(what), "full")
    )
    print(json.dumps(main(Path(folder), Path(place), workload, longest, checkpointing)))

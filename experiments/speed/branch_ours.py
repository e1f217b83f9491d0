"""One process of the training benchmark: documents through `bm.branch`; prints what it took as JSON.

python -m experiments.speed.branch_ours MODEL WORK all|LENGTH PRECISION      the 64 documents, or one of LENGTH tokens
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
import torch

import bm
from bm.branch import Traces, training
from bm.merge.tables import write_table
from experiments.speed.branch_workload import LONGEST, Document, documents, one, text

SETTINGS = (
    "branch.epochs=1", "branch.batch=1", "branch.packing=neat", "branch.learning_rate=1e-5", "branch.held_out=0",
    "trainer=cpu", "tracker=none",
)  # fmt: skip
"""What the benchmarks of training have in common."""
TRACES = pa.schema([(name, pa.string()) for name in ("id", "system", "prompt", "response")])


def trained(model: Path, work: Path, rows: Sequence[tuple[str, str]], *settings: str) -> tuple[dict[str, Any], float]:
    """A training on prompts and responses: its facts, and the seconds of Lightning's fit, model loading included."""
    work.mkdir(parents=True)
    traces = [{"id": str(i), "system": "", "prompt": p, "response": r} for i, (p, r) in enumerate(rows)]
    write_table(work / "traces.parquet", traces, TRACES)
    config = bm.compose(*SETTINGS, *settings)
    spent, fit = [], training.fit

    def timed(*arguments: Any) -> None:
        start = time.perf_counter()
        fit(*arguments)
        spent.append(time.perf_counter() - start)

    training.fit = timed
    sources = [Traces(work / "traces.parquet", "all")]
    facts = training.train(model, sources, config.branch, config.trainer, config.tracker, "speed", "speed", work)
    return facts, spent[0]


def peak_rss_gb() -> float:
    """The most resident memory of this process so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3)


def main(
    model: Path, work: Path, workload: Sequence[Document], longest: int, checkpointing: str, precision: str
) -> dict[str, Any]:
    """Seconds of Lightning's whole fit (model loading included), tokens, peak memory and median FLOP utilisation."""
    rows = [(text(prompt), text(response[:-1])) for prompt, response in workload]
    sizes = f"branch.sequence_length={longest}", f"trainer.activation_checkpointing={checkpointing}"
    facts, seconds = trained(model, work, rows, *sizes, f"trainer.precision={precision}")
    with (work / "metrics.csv").open() as file:
        utilisation = sorted(float(row["flop_utilisation"]) for row in csv.DictReader(file))
    return {
        "seconds": round(seconds, 1),
        "tokens": facts["tokens"],
        "peak_rss_gb": peak_rss_gb(),
        "flop_utilisation": utilisation[len(utilisation) // 2],
    }


if __name__ == "__main__":
    torch.set_num_threads(2)
    folder, place, what, precision = sys.argv[1:]
    workload, longest, checkpointing = (
        (documents(), LONGEST, "none") if what == "all" else (one(int(what)), int(what), "full")
    )
    print(json.dumps(main(Path(folder), Path(place), workload, longest, checkpointing, precision)))

"""What a model can do, by lm-eval's tasks: every sample on disk, every score with its interval."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bm.config import Evaluate
from bm.store import write_json

if TYPE_CHECKING:
    from bm.generate.transformers_engine import Loaded

JOURNAL = "samples.jsonl"


def evaluate(
    model: "Path | Loaded", config: Evaluate, tasks: Sequence[str], questions: Mapping[str, Path], work: Path
) -> dict[str, Any]:
    """Put a model to tasks: a Hugging Face folder, or a model and its tokenizer in memory.

    questions: the questions.parquet of those tasks that are made of one. Leaves `samples.parquet` (results.SCHEMA) and
    `scores.json` in `work`; samples that an interrupted run left there are used, not drawn again. Facts: the engine,
    and the `samples` and `tokens` that were generated.
    """
    from bm.evaluate import harness, results
    from bm.evaluate.model import EngineLM

    loaded = harness.load(tasks, questions, config.include_path)
    engine = config.engine(model)
    lm = EngineLM(engine, config.seed, work / JOURNAL)
    found = harness.run(lm, loaded, config)
    rows = results.rows(found, lm, loaded["tasks"])
    results.write_samples(rows, work / "samples.parquet")
    write_json(work / "scores.json", results.scores(rows, found, loaded, config))
    (work / JOURNAL).unlink(missing_ok=True)
    drawn = [sample for samples in lm.samples.values() for sample in samples]
    return {"engine": engine.facts(), "samples": len(drawn), "tokens": sum(sample.tokens for sample in drawn)}

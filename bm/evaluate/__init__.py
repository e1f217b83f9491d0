"""What a model can do, by lm-eval's tasks: every sample on disk, every score with its interval."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bm.config import Evaluate, Verify
from bm.evaluate.contamination import seen
from bm.generate.journal import of_engine, remove
from bm.progress import say
from bm.rooms import called
from bm.store import write_json
from bm.verify import Grader

if TYPE_CHECKING:
    from bm.generate import Engine
    from bm.generate.transformers_engine import Loaded

__all__ = ["check_tasks", "evaluate", "prompts", "seen"]


def evaluate(
    model: "Path | Loaded",
    config: Evaluate,
    verifying: Verify,
    tasks: Sequence[str],
    questions: Mapping[str, Path],
    work: Path,
    journals: Path | None = None,
    first: int | None = None,
) -> dict[str, Any]:
    """Put a model to tasks: a Hugging Face folder, or a model and its tokenizer in memory.

    questions: the questions.parquet of those tasks that are made of one; first: ask only this many questions of each
    task, the same for every model. Leaves `samples.parquet` (results.SCHEMA) and `scores.json` in `work`.

    journals: a folder that belongs to this model's weights and tokenizer, whatever they are called. Every sample is
    kept there, apart for each engine and numeric type; what is there is used, not drawn again. Without it, `work`
    serves an interrupted run. Facts: the engine with its `gpus` and, where it has a price, the `cost` of all that the
    scores rest on; the number of these `samples`, and their `tokens`; and what the judge said, if one was asked.
    """
    from bm.evaluate import harness, loading, results
    from bm.evaluate.model import LIKELIHOODS, RESPONSES, EngineLM
    from bm.generate.attempts import Billed

    loaded = loading.load(tasks, questions, config)
    engine: Engine = config.engine(model)
    lm = EngineLM(engine, config.seed, of_engine(journals, engine, [config.engine.entry]) if journals else work)
    grader = Grader(verifying, work.stem)
    answered = harness.run(lm, loaded, config, grader, first)
    rows = results.rows(answered, lm, loaded["tasks"])
    results.write_samples(rows, work / "samples.parquet")
    scores = results.scores(rows, answered, loaded, config)
    write_json(work / "scores.json", scores)
    for task, score in scores.items():
        if score["truncated"]:
            number = f"{score['truncated']} of {score['questions']} prompts"
            say(f"{task}: {number} are too long for the model's context; as in lm-eval their beginnings were left out")
    for journal in (RESPONSES, LIKELIHOODS):
        remove(work / journal)
    drawn = [sample for samples in lm.samples.values() for sample in samples]
    price = engine.price if isinstance(engine, Billed) else None
    used = {**engine.facts(), **({"cost": round(price.total(drawn), 6)} if price else {})}
    tokens = sum(sample.tokens for sample in drawn)
    return {"engine": used, "samples": len(drawn), "tokens": tokens, **grader.facts()}


def prompts(tasks: Sequence[str], config: Evaluate) -> dict[str, list[str]]:
    """The bare questions of tasks, by task (of a group, by its tasks); UserError for one whose data cannot be read."""
    from bm.evaluate import loading

    return loading.prompts(loading.load(tasks, {}, config))


def check_tasks(names: Sequence[str], include_path: Path | None) -> None:
    """UserError for a task that neither you, `bm` nor lm-eval has."""
    from bm.evaluate import loading

    loading.managers(names, include_path)


called(__name__)

"""A model as a teacher: any engine, asked in its own words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bm.config import Content, EngineTarget
from bm.distill.selection import Question
from bm.distill.teachers import Prompt, Teacher
from bm.generate import Sampling


def teacher(
    questions: Sequence[Question],
    seed: int,
    model: Annotated[Path, Content] | None,
    engine: EngineTarget,
    prompt: Prompt,
    prompts: Mapping[str, Prompt],
    reasoning: Literal["tags", "wrapped"],
    samples: Annotated[int, Field(gt=0)],
    temperature: Annotated[float, Field(ge=0)],
    top_p: Annotated[float, Field(gt=0, le=1)],
    max_new_tokens: Annotated[int, Field(gt=0)],
) -> Teacher:
    """A teacher that answers every question `samples` times.

    model: the folder of an engine of this machine, null for an endpoint. prompts: by domain, where it differs from
    `prompt`. reasoning: `tags` for a model that thinks within <think> tags; `wrapped` for one that does not, whose
    whole response becomes the thought and its end the answer.
    """
    sampling = Sampling(samples, temperature, top_p, max_new_tokens, seed)
    return Teacher(engine(model), sampling, prompt, prompts, reasoning)

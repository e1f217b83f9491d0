"""The sets of s1 (simple test-time scaling): s1K, s1K-1.1, and data_ablation_full59K from which s1K was chosen.

Columns of all: question, solution, cot_type (math, science, health science, …), source_type, metadata. Thoughts and
answers stand apart: s1K and data_ablation_full59K have Gemini's in thinking_trajectories (a list) and attempt; s1K-1.1
has DeepSeek-R1's in deepseek_thinking_trajectory and deepseek_attempt, and Gemini's in columns named likewise.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from bm.config import Content
from bm.distill.selection import Question
from bm.distill.sources import Stream
from bm.distill.sources.reading import rows
from bm.distill.sources.thoughts import thought

COLUMNS = ("question", "solution", "cot_type", "source_type")
RESPONSES = {
    "none": (),
    "attempt": ("thinking_trajectories", "attempt"),
    "deepseek": ("deepseek_thinking_trajectory", "deepseek_attempt"),
    "gemini": ("gemini_thinking_trajectory", "gemini_attempt"),
}
"""By name, the columns of the thought and of the answer."""


def stream(
    domain: str,
    seed: int,
    name: str | None,
    path: Annotated[Path, Content] | None,
    cot_type: Sequence[str] | None,
    responses: Literal["none", "attempt", "deepseek", "gemini"],
    verifier: Literal["math", "choice", "judge", "none"],
    system: str,
) -> Stream:
    """Questions of these kinds of thought (null: any). responses: whose are handed out; `none`: R1 is to be asked."""
    columns = RESPONSES[responses]
    for row in rows(name, path, (*COLUMNS, *columns), seed):
        if cot_type and row["cot_type"] not in cot_type:
            yield None
            continue
        given = [row[column] for column in columns]
        parts = ["\n".join(part) if isinstance(part, list) else part or "" for part in given]
        published = (thought(*parts),) if all(parts) and parts else ()
        origin = f"s1/{row['source_type']}"
        yield Question(domain, origin, system, row["question"], row["solution"] or "", verifier, "{}", published)

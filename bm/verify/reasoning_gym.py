"""A procedural question's own scorer, as reasoning-gym ships it."""

import json
from functools import cache
from typing import Any


def correct(final: str, answer: str, metadata: str) -> bool:
    """Whether the generator's scorer gives `final` full marks. It rewards near misses in part; those do not count.

    `metadata` is the entry's, as JSON; its `source_dataset` names the generator.
    """
    facts = json.loads(metadata)
    score = _generator(facts["source_dataset"]).score_answer(final, {"answer": answer, "metadata": facts})
    return bool(score >= 1)


@cache
def _generator(name: str) -> Any:
    """Scorers look at the entry alone, so one generator with default settings judges questions made with any."""
    from reasoning_gym import create_dataset  # 1 s of imports, wanted only where something is judged

    return create_dataset(name, seed=0, size=1)

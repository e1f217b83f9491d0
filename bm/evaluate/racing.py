"""Successive halving over questions: of many candidates, those that cannot win any more are asked no further."""

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from statistics import fmean

from bm.statistics import Array, compare

ROUNDS = (1 / 8, 1 / 4, 1 / 2)
"""Shares of the questions after each of which candidates may leave. Those that stay are asked all."""

Ask = Callable[[str, int], Mapping[str, Array]]
"""(candidate, n) → by task, [questions, samples] of the first n questions, the same for every candidate."""


def race(candidates: Sequence[str], questions: int, ask: Ask, error: float) -> dict[str, int]:
    """The candidates that left, and after how many questions of each task.

    One leaves when the paired comparison with the leader of its round says that it is worse. Each comparison has an
    equal share of `error` (Bonferroni, over rounds and rivals), so the chance that the best one leaves is below it:
    whoever leads, it has to be worse than one of its rivals in one of the rounds.
    """
    out: dict[str, int] = {}
    comparisons = len(ROUNDS) * max(1, len(candidates) - 1)
    for asked in sorted({ceil(share * questions) for share in ROUNDS}):
        scores = {name: ask(name, asked) for name in candidates if name not in out}
        leader = max(scores, key=lambda name: (fmean(float(task.mean()) for task in scores[name].values()), name))
        for name in scores.keys() - {leader}:
            if compare(scores[name], scores[leader], 1 - error / comparisons).verdict == "worse":
                out[name] = asked
    return out

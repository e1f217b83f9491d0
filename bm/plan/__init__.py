"""Plan: what an experiment takes in memory, time, disk and money, found out before anything of it is paid for."""

from collections.abc import Sequence
from typing import Any

from bm.config import Experiment
from bm.plan.estimate import Estimates
from bm.plan.shown import document, line, remedies, table

__all__ = ["line", "plan", "remedies", "table"]


def plan(config: Experiment, merges: Sequence[str]) -> dict[str, Any]:
    """The stages of one round of `config` with their figures, and the basis of each; `merges` are its merges' names."""
    return document(config.recipe, config.plan.gpu, config.plan.card.gib, list(Estimates(config, merges).stages()))

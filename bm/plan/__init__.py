"""Plan: what an experiment takes in memory, time, disk and money, found out before anything of it is paid for."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bm.branch.ram import physical
from bm.config import Experiment
from bm.plan.estimate import GIB, Estimates
from bm.plan.shown import document, line, remedies, table

__all__ = ["line", "on_this_machine", "plan", "remedies", "table"]


def plan(config: Experiment, merges: Sequence[str], tuned: Sequence[str] = (), quick: bool = False) -> dict[str, Any]:
    """The stages of one round of `config` with their figures, and the basis of each.

    merges: its merges' names; tuned: those of them that are made with tuned parameters too; quick: without the memory
    of trainings that any machine has.
    """
    stages = Estimates(config, merges, tuned, quick).stages()
    return document(config.recipe, config.plan.gpu, config.plan.card.gib, physical() / GIB, list(stages))


def on_this_machine(config: Experiment) -> Experiment:
    """The assumptions of `config` with the memory that the driver gives this machine's GPUs, where it has some."""
    import torch

    if config.trainer.accelerator != "gpu" or not torch.cuda.is_available():
        return config
    gib = min(torch.cuda.get_device_properties(k).total_memory for k in range(torch.cuda.device_count())) / GIB
    cards = {**config.plan.cards, config.plan.gpu: replace(config.plan.card, gib=gib)}
    return replace(config, plan=replace(config.plan, cards=cards))

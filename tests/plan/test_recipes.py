"""Every recipe with every trainer, as their files are: two steps without data, in the memory that the machine has."""

from itertools import product

import pytest

from bm import compose
from bm.config import Experiment
from bm.plan.architecture import architecture
from bm.plan.estimate import GIB, Estimates, Stage
from bm.plan.memory import training_memory
from tests.branch.conftest import CONF
from tests.plan.test_plan import PLANS

RECIPES, TRAINERS = (sorted(file.stem for file in (CONF / group).glob("*.yaml")) for group in ("recipe", "trainer"))
CELLS = [
    pytest.param(recipe, trainer, marks=pytest.mark.slow if recipe == "smollm2" else ())
    for recipe, trainer in product(RECIPES, TRAINERS)
    if recipe != "tinyr1"
]
LAPTOP = 8
"""GiB of memory in which the recipes for CPUs must train."""
SLURM = ["trainer.nodes=4"]
"""Machines of a job, which Slurm's variables say elsewhere."""


def composed(recipe: str, trainer: str) -> Experiment:
    return compose(f"recipe={recipe}", f"trainer={trainer}", *(SLURM if trainer == "slurm" else []))


def trainings(config: Experiment) -> list[Stage]:
    return [stage for stage in Estimates(config, []).stages() if stage.stage == "branch"]


@pytest.mark.parametrize(("recipe", "trainer"), CELLS)
def test_every_recipe_trains_in_the_memory_of_its_machine(recipe: str, trainer: str) -> None:
    config = composed(recipe, trainer)
    if config.trainer.accelerator == "cpu":
        assert training_memory(architecture(config), config.branch, config.trainer).peak < LAPTOP * GIB / 2
        return
    for training in trainings(config):
        assert 0 < training.gpu_bytes <= (config.plan.card.gib - config.plan.reserve_gib) * GIB, training.label
        assert training.fits and training.gpus == {"gpu": 1, "fsdp": 8, "slurm": 32}[trainer]


@pytest.mark.parametrize(("trainer", "gpus", "fits"), [("gpu", "1", False), ("fsdp", "8", True), ("slurm", "32", True)])
def test_the_papers_recipe_trains_on_as_many_gpus_as_it_says(trainer: str, gpus: str, fits: bool) -> None:
    """By the committed plan, whose memory a slow test simulates again from the same settings."""
    config = composed("tinyr1", trainer)
    row = next(row for row in PLANS if row.startswith(f"| 32B | {gpus} | all weights "))
    assert config.trainer.devices * config.trainer.nodes == int(gpus)
    assert (f"{config.plan.card.gib:g} GB" in row) == fits

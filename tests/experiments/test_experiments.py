"""Every experiment composes at every scale, its claims are about what it varies, and what it can share it shares."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

from bm.cli import conf_dir
from bm.config import Experiment, identity, load
from bm.report.findings.published import Difference, Models, Order, Ratio, experiments_dir, names, published
from bm.stages import Stages
from bm.store import Artefact, Store, digest
from bm.sweeps.cells import axes, cells

RECIPES = ("tiny", "smollm2", "tinyr1")


@cache
def composed(*words: str) -> Any:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("run", overrides=list(words), return_hydra_config=True)


def settings(*words: str) -> Experiment:
    config = composed(*words).copy()
    with open_dict(config):
        del config["hydra"]
    return load(Experiment, config)


def swept(name: str) -> dict[str, Sequence[Any]]:
    """The axes of an experiment's sweep."""
    params = composed("recipe=tiny", f"experiment={name}").hydra.sweeper.params
    parser = OverridesParser.create()
    return axes(parser.parse_overrides([f"{axis}={values}" for axis, values in params.items()]), parser)


@cache
def jobs(name: str, recipe: str) -> list[Experiment]:
    """The cells of an experiment's sweep, of its first seed."""
    sweeper = OmegaConf.to_container(composed("recipe=tiny", f"experiment={name}").hydra.sweeper)
    choices = swept(name)
    choices["seed"] = choices["seed"][:1]
    chosen = cells(choices, sweeper["zip"], sweeper["when"] or {}, sweeper["skip"])
    return [settings(f"recipe={recipe}", f"experiment={name}", *(c.word for c in cell.values())) for cell in chosen]


class Planned(Store):
    """Gives every artefact its key and makes none."""

    planned: set[tuple[str, str, str]]
    """Stage, label and key of each."""

    def make(self, stage: str, label: str, config: Any, inputs: Any, code: Any, build: Any) -> Artefact:
        told = {"stage": stage, "config": config, "inputs": [i.key for i in inputs]}
        key = digest(json.dumps(told, sort_keys=True).encode())
        self.planned = {*getattr(self, "planned", ()), (stage, label, key)}
        return Artefact(Path(), {"key": key, "stage": stage, "facts": {"kept": 1000, "gpus": 0}})


class PlannedStages(Stages):
    """Plans without training: traces that are not there hold no question."""

    def check_apart(self, traces: Iterable[Artefact]) -> None:
        pass


def keys(config: Experiment, store: Planned) -> dict[str, str]:
    """Keys of the student, the experts and the mixture; and what, beside a model, decides an evaluation."""
    stages = PlannedStages(store, config)
    student, traces = stages.student(), {n: stages.distill(d) for n, d in config.domains.items()}
    made = {"student": student}
    if config.mixture:
        made["mixture"] = stages.mixture(student, config.mixture, traces)
    made |= {n: stages.expert(student, d, traces[n], mixture=made.get("mixture")) for n, d in config.domains.items()}
    asked = [*(q.key for q in stages.questions().values()), identity(config.evaluate), identity(config.verify)]
    return {name: artefact.key for name, artefact in made.items()} | {"evaluation": json.dumps(asked, default=str)}


def test_experiments_have_settings_claims_and_a_page() -> None:
    assert {path.stem for path in (conf_dir() / "experiment").glob("*.yaml")} == set(names())
    for name in names():
        assert (experiments_dir() / name / "README.md").is_file(), name
        ids = [claim.id for claim in published(name).claims]
        assert ids
        assert len(ids) == len(set(ids)), name


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", names())
def test_an_experiment_composes(name: str, recipe: str) -> None:
    configs = jobs(name, recipe) if recipe == "tiny" else [settings(f"recipe={recipe}", f"experiment={name}")]
    assert {(config.experiment, config.recipe) for config in configs} == {(name, recipe)}


@pytest.mark.parametrize("name", names())
def test_one_seed_decides_every_draw(name: str) -> None:
    config = settings("recipe=tiny", f"experiment={name}", "seed=7")
    of_student = config.student.build.parameters.get("seed", 7)  # one that is fetched has none
    assert {config.branch.seed, config.merge.seed, config.evaluate.seed, of_student} == {7}


@pytest.mark.parametrize("name", names())
def test_claims_hold_rows_against_each_other_that_the_sweep_has(name: str) -> None:
    made = jobs(name, "tiny")
    values = {axis: [choice.value for choice in choices] for axis, choices in swept(name).items()}
    values["branch.adapter"] = [config.branch.adapter and config.branch.adapter.name for config in made]
    values["rounds.feedback"] = [config.rounds.feedback and True for config in made]
    values["domains"] = [", ".join(config.domains) for config in made]
    values["mixture.ratio"] = [", ".join(config.mixture.ratio) or "none" for config in made if config.mixture]
    for claim in published(name).claims:
        chosen: Sequence[Models] = []
        if isinstance(claim, Order):
            chosen = claim.of
        elif isinstance(claim, Difference | Ratio):
            chosen = (claim.of, claim.against)
        for models in chosen:
            assert models.kind != "mixture" or any(config.mixture for config in made), claim.id
            for setting, value in (models.where or {}).items():
                assert value in (*values[setting], "lowest", "highest"), (claim.id, setting)


APART = {"table2", "domains", "phase", "methods", "arms", "objectives", "feedback", "adapters_smollm2", "arms_smollm2",
         "phase_smollm2"}  # fmt: skip
"""Experiments with a student, domains or questions of their own, and table 2, which the others are compared with."""


@pytest.mark.parametrize("name", sorted(set(names()) - APART))
def test_what_experiments_can_share_has_one_key(name: str, tmp_path: Path) -> None:
    (common,) = (keys(config, Planned(tmp_path)) for config in jobs("table2", "tiny"))
    by_cell = [keys(config, Planned(tmp_path)) for config in jobs(name, "tiny")]
    always = {"student", "evaluation"} if name in ("distance", "adapters") else common.keys() - {"mixture"}
    assert all(cell[what] == common[what] for cell in by_cell for what in always)
    assert any(cell.items() <= common.items() for cell in by_cell)


def planned(name: str, folder: Path) -> set[tuple[str, str, str]]:
    """Stage, label and key of all that the students, experts and mixtures of an experiment's first seed need."""
    store = Planned(folder)
    for config in jobs(name, "tiny"):
        keys(config, store)
    return store.planned


def test_one_training_gives_every_length(tmp_path: Path) -> None:
    """One seed of experiment=phase trains one student for five strengths, and each model once per strength."""
    made = Counter((stage, label) for stage, label, _ in planned("phase", tmp_path))
    assert made["branch", "tiny_taught"] == 1 + 5, "one long training, and five that anneal it"
    assert made["rung", "tiny_taught"] == 4
    for model in ("math", "coding", "science", "mixture"):
        assert (made["branch", model], made["rung", model]) == (5, 5 * 4)


def test_arms_begin_with_students_of_the_phase_sweep(tmp_path: Path) -> None:
    """Experts and mixture are trained as long as they are used and no longer; the arms themselves come on top."""
    arms, phase = (
        {made for made in planned(name, tmp_path) if made[0] in ("branch", "rung")} for name in ("arms", "phase")
    )
    assert {label for _, label, _ in arms & phase} == {"tiny_taught"}
    own = Counter((stage, label) for stage, label, _ in arms - phase)
    assert own == {("branch", label): 2 for label in ("math", "coding", "science", "mixture")}


def test_objectives_differ_in_the_loss_alone(tmp_path: Path) -> None:
    """Every loss trains each expert once, for both lengths, and the student and its teacher are those of phase."""
    objectives, phase = (
        {made for made in planned(name, tmp_path) if made[0] in ("branch", "rung")} for name in ("objectives", "phase")
    )
    made = Counter((stage, label) for stage, label, _ in objectives - phase)
    losses = len(swept("objectives")["loss"])
    assert made == {(stage, d): losses for stage in ("branch", "rung") for d in ("math", "coding", "science")}
    assert {label for _, label, _ in objectives & phase} == {"tiny_taught", "mixture"}


def test_each_objective_is_called_by_its_loss() -> None:
    for config in jobs("objectives", "tiny"):
        taught = config.branch.teacher is not None
        assert (config.variant == "sft") != taught
        assert config.mixture is not None and config.mixture.branch["teacher"] is None

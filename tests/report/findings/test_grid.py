"""Cells of a grid as runs leave them on disk: what differs between them, and which models they share."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from bm.errors import UserError
from bm.report import Cost, Results, Row, Run, Score
from bm.report.findings.grid import differing, gather, named
from bm.report.findings.results import write

CONFIG: dict[str, Any] = {"recipe": "tiny", "experiment": "lambda", "seed": 1, "output": None, "branch": {"seed": 1}}


def run(folder: Path, seed: int, lam: float, merge: float, **changes: Any) -> Path:
    """A finished run: a student and an expert by the seed alone, and a merge that scored `merge`."""
    method = {"_target_": "bm.merge.methods.arcee_fusion", "lam": lam}
    config = {**CONFIG, "seed": seed, "branch": {"seed": seed}, "merge": {"methods": {"fusion": method}}, **changes}
    shares = {"student": 0.1 * seed, "math": 0.5, "fusion": merge}
    rows = tuple(
        Row(
            name,
            kind,
            {"t": Score(shares[name], 0, 1, 10, 1)},
            Cost(1, 0, 1),
            f"{name} {seed}{lam * (kind == 'merge')}",
        )  # type: ignore[arg-type]
        for name, kind in (("student", "student"), ("math", "expert"), ("fusion", "merge"))
    )
    run = Run(config["experiment"], config["recipe"], seed, (), "bm run", folder.name)
    write(Results(rows, (), run=run), folder / "results.json")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    for seed in (1, 2):
        for lam in (1.0, 1.5, 10.0):
            run(tmp_path / f"runs/{seed}-{lam}", seed, lam, 0.6 + 0.01 * lam + 0.1 * seed)
    return tmp_path


def test_settings_are_those_that_differ(outputs: Path) -> None:
    grid = gather(outputs, "lambda", None)
    assert (grid.recipe, len(grid.cells), grid.seeds, grid.tasks) == ("tiny", 6, (1, 2), ("t",))
    assert grid.axes == {"merge.methods.fusion.lam": (1.0, 1.5, 10.0)}
    assert [(cell.settings["merge.methods.fusion.lam"], cell.seed) for cell in grid.cells][:3] == [
        (1, 1),
        (1, 2),
        (1.5, 1),
    ]


def test_shared_models_are_one_entry_over_seeds(outputs: Path) -> None:
    entries = gather(outputs, "lambda", "tiny").entries
    assert [(e.name, dict(e.settings)) for e in entries] == [
        ("student", {}), ("math", {}), *(("fusion", {"merge.methods.fusion.lam": lam}) for lam in (1.0, 1.5, 10.0))
    ]  # fmt: skip
    student, expert, merge = entries[0].mean, entries[1].score("t"), entries[2].mean
    assert student is not None and expert is not None and merge is not None
    assert student.mean == pytest.approx(0.15)
    assert (expert.low, expert.mean, expert.high) == (
        pytest.approx(0.5 - 0.5 / 2**0.5),
        0.5,
        pytest.approx(0.5 + 0.5 / 2**0.5),
    )
    assert (merge.low, merge.high) == (pytest.approx(0.76 - 12.706 * 0.05, abs=1e-3), 1.0)


def test_a_model_of_one_seed_has_its_interval_over_questions(tmp_path: Path) -> None:
    run(tmp_path / "runs/a", 1, 1.0, 0.6)
    (_, expert, _) = gather(tmp_path, "lambda", None).entries
    assert expert.mean is not None
    assert (expert.mean.low, expert.mean.mean, expert.mean.high) == (0, 0.5, 1)


def test_a_run_that_was_made_twice_counts_once_and_the_latest_does(outputs: Path) -> None:
    run(outputs / "elsewhere", 1, 1.0, 0.9, output="outputs/elsewhere", tracker={"mode": "online"})
    cells = gather(outputs, "lambda", None).cells
    assert len(cells) == 6
    assert cells[0].folder == outputs / "elsewhere"


def test_other_experiments_and_old_results_are_left_out(outputs: Path) -> None:
    run(outputs / "runs/other", 1, 7.0, 0.9, experiment="other")
    old = run(outputs / "runs/old", 1, 8.0, 0.9)
    write(Results((), ()), old / "results.json")
    assert len(gather(outputs, "lambda", None).cells) == 6


def test_mistakes_are_one_line(outputs: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean 'lambda'\?; make one with `bm run -m experiment=lamda`"):
        gather(outputs, "lamda", None)
    with pytest.raises(UserError, match="not run with recipe 'smollm2', but with tiny"):
        gather(outputs, "lambda", "smollm2")
    run(outputs / "runs/large", 1, 1.0, 0.9, recipe="smollm2")
    with pytest.raises(UserError, match="choose recipe=smollm2 or recipe=tiny"):
        gather(outputs, "lambda", None)


def test_keys_that_differ_are_the_value_and_parameters_are_compared_where_they_are() -> None:
    def config(methods: dict[str, Any], mixture: Any, seed: int = 1) -> dict[str, Any]:
        return {"merge": {"methods": methods, "order": ["a & b", "b & a"]}, "mixture": mixture, "own": {"seed": seed}}

    mixed = {"name": "even", "ratio": {"math": 0.5}}
    fusion, linear = {"fusion": {"lam": 1}}, {"linear": {"w": 2}}
    both = {"fusion": {"lam": 2}, "linear": {"w": 2}}
    differences = differing([config(fusion, None), config(linear, mixed), config(both, mixed, 2)], [1, 1, 2])
    assert differences == [
        {"merge.methods": "fusion", "merge.methods.fusion.lam": 1, "mixture": None},
        {"merge.methods": "linear", "mixture": "even"},
        {"merge.methods": "fusion, linear", "merge.methods.fusion.lam": 2, "mixture": "even"},
    ]


def test_what_follows_another_setting_is_named_once() -> None:
    differences = differing([{"rate": r, "again": {"rate": r}, "alone": 3} for r in (1, 2)], [1, 1])
    assert differences == [{"rate": 1}, {"rate": 2}]


def test_the_seed_of_an_adapter_follows_the_runs() -> None:
    adapters = [{"name": "lora", "seed": 1}, None, {"name": "lora", "seed": 2}]
    assert differing([{"branch": {"adapter": a, "rate": 1 + (a is None)}} for a in adapters], [1, 1, 2]) == [
        {"branch.adapter": "lora"},
        {"branch.adapter": None},
        {"branch.adapter": "lora"},
    ]


def test_a_group_of_settings_or_null_is_a_switch() -> None:
    groups = [{"epochs": 1, "head": None}, None, {"epochs": 2, "head": None}]
    assert differing([{"feedback": group} for group in groups], [1, 1, 1]) == [
        {"feedback": True, "feedback.epochs": 1},
        {"feedback": None},
        {"feedback": True, "feedback.epochs": 2},
    ]


def test_a_group_of_settings_or_a_list_is_no_switch() -> None:
    assert differing([{"order": {"a": 1}}, {"order": ["b"]}], [1, 1]) == [{"order": "a"}, {"order": "b"}]


def test_a_variant_is_named_in_place_of_all_that_it_decides() -> None:
    cells = [("sft", None, 1), ("kd", "m", 1), ("opd", "m", 1), ("sft", None, 2), ("kd", "m", 2), ("opd", "m", 2)]
    configs = [{"branch": {"teacher": teacher, "at": at}, "variant": name} for name, teacher, at in cells]
    assert differing(configs, [1] * 6) == [{"variant": name, "branch.at": at} for name, _, at in cells]
    for config in configs:
        config["variant"] = None
    assert differing(configs, [1] * 6) == [{"branch.teacher": teacher, "branch.at": at} for _, teacher, at in cells]


def test_a_seed_that_is_its_own_counts() -> None:
    assert differing([{"evaluate": {"seed": s}} for s in (5, 6)], [1, 2]) == [
        {"evaluate.seed": 5},
        {"evaluate.seed": 6},
    ]


def test_entries_are_joined_by_any_seed_that_shares_a_model(outputs: Path) -> None:
    grid = gather(outputs, "lambda", None)
    without = replace(
        grid, cells=tuple(c for c in grid.cells if (c.seed, c.settings["merge.methods.fusion.lam"]) != (2, 1.0))
    )
    assert [e.name for e in without.entries] == ["student", "math", "fusion", "fusion", "fusion"]
    assert [len(e.by_seed) for e in without.entries] == [2, 2, 1, 2, 2]


def test_runs_of_a_sweep_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    """Two sweeps with a job of one name each have neither; a run without a sweep has its folder."""
    runs = ("runs/tiny-aa11", "runs/tiny-bb22", "runs/tiny-cc33", "runs/tiny-dd44", "demo")
    for place in runs:
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "results.json").touch()
    for job in ("one/lam=0.5-aa11", "one/lam=1-bb22", "two/lam=1-cc33"):
        (tmp_path / "sweeps" / job).mkdir(parents=True)
    names = {name: str(file.parent.relative_to(tmp_path)) for name, file in named(tmp_path).items()}
    assert names == {"lam=0.5": runs[0]} | {place: place for place in runs[1:]}

"""Which cells a grid has."""

from collections.abc import Sequence
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from bm.cli import conf_dir
from bm.errors import UserError
from bm.sweeps.cells import OPTIONAL, axes, cells

MERGES = ["merge=arcee_fusion,linear", "merge.methods.arcee_fusion.lam=0.5,1.5"]
SEEDS = ["seed=1,2,3", "branch.seed=range(1,4)"]


def words(
    given: Sequence[str],
    zip: Sequence[Sequence[str]] = (),  # noqa: A002  # the name of the setting
    when: dict[str, Any] | None = None,
    skip: Sequence[Any] = (),
) -> list[list[str]]:
    parser = OverridesParser.create()
    grid = cells(axes(parser.parse_overrides(list(given)), parser), zip, when or {}, skip)
    return [[choice.word for choice in cell.values()] for cell in grid]


def test_a_product_whose_last_setting_changes_fastest() -> None:
    assert words(["a=1,2", "b=x", "c=3,4"]) == [
        ["a=1", "b=x", "c=3"], ["a=1", "b=x", "c=4"], ["a=2", "b=x", "c=3"], ["a=2", "b=x", "c=4"]
    ]  # fmt: skip


def test_orders_lists_and_additions_stay_as_they_were_typed() -> None:
    order = 'merge.order="(a & b) & c","a & b*"'
    assert words([order]) == [['merge.order="(a & b) & c"'], ['merge.order="a & b*"']]
    assert words(["domain=[math,coding],[math]", "++mixture.ratio.math=0.2", "~judge"]) == [
        ["domain=[math,coding]", "++mixture.ratio.math=0.2", "~judge"],
        ["domain=[math]", "++mixture.ratio.math=0.2", "~judge"],
    ]


def test_none_of_a_groups_files_is_a_choice_too() -> None:
    assert words(["adapter=lora,null", "output=null,there"]) == [
        ["adapter=lora", "output=null"], ["adapter=lora", "output=there"],
        ["~adapter", "output=null"], ["~adapter", "output=there"],
    ]  # fmt: skip


def test_every_group_that_may_be_left_out_can_be_swept_so() -> None:
    defaults = OmegaConf.load(conf_dir() / "run.yaml").defaults
    entries = [item for entry in defaults if isinstance(entry, DictConfig) for item in entry.items()]
    unchosen = {group for group, option in entries if not option}
    assert unchosen - {"consolidate", "experiment"} <= set(OPTIONAL)  # the one has a list, the other names the sweep
    assert all((conf_dir() / group).is_dir() for group in OPTIONAL)


def test_lists_advance_together() -> None:
    zipped = words([*SEEDS, "merge=linear,ties"], zip=[["seed", "branch.seed"]])
    assert len(zipped) == 6
    assert {(a.split("=")[1], b.split("=")[1]) for a, b, _ in zipped} == {("1", "1"), ("2", "2"), ("3", "3")}


def test_lists_of_different_lengths_cannot_advance_together() -> None:
    with pytest.raises(UserError, match="seed has 3, x has 2"):
        words(["seed=1,2,3", "x=1,2"], zip=[["seed", "x"]])


def test_a_setting_without_meaning_is_left_out_and_equal_cells_are_one() -> None:
    grid = words(MERGES, when={"merge.methods.arcee_fusion.lam": {"merge": "arcee_fusion"}})
    assert grid == [
        ["merge=arcee_fusion", "merge.methods.arcee_fusion.lam=0.5"],
        ["merge=arcee_fusion", "merge.methods.arcee_fusion.lam=1.5"],
        ["merge=linear"],
    ]
    both = ["merge=[arcee_fusion,linear],linear", MERGES[1]]
    assert len(words(both, when={"merge.methods.arcee_fusion.lam": {"merge": ["arcee_fusion", "ties"]}})) == 3


def test_cells_are_skipped_by_any_of_the_conditions() -> None:
    grid = words(["a=1,2,3", "b=1,2"], skip=[{"a": 1, "b": 2}, {"a": [2, 3]}])
    assert grid == [["a=1", "b=1"]]


@pytest.mark.parametrize("given", [{"zip": [["a", "see"]]}, {"when": {"see": {"a": 1}}}, {"skip": [{"see": 1}]}])
def test_a_name_that_the_sweep_has_not_is_told(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="no setting 'see'; did you mean 'seed'"):
        words(["a=1,2", "seed=1,2"], **given)


def test_of_two_overrides_of_one_setting_the_later_counts() -> None:
    assert words(["a=1,2", "a=3"]) == [["a=3"]]


def test_an_interval_is_no_list() -> None:
    with pytest.raises(UserError, match="an interval is for hydra/sweeper=optuna"):
        words(["a=interval(0,1)"])

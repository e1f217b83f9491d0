"""A hash of what a function reaches: an edit that could change its result changes it, any other does not."""

import importlib
import sys
from pathlib import Path

import pytest

from bm import code
from bm.code import code_version, parameters

HELPER = '''"""Doc."""
from torch import mean

def weigh(x):
    """Doc."""
    return x + OFFSET  # why

def unused(x):
    return x

OFFSET = 1
'''
METHOD = """import helper_of_mine

def method(tensors, *, lam: float):
    from helper_of_mine import weigh
    return weigh(lam)

class Kept:
    def asked(self):
        def build(work):
            return helper_of_mine.OFFSET
        return build

    def other(self):
        return helper_of_mine.unused(1)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two modules of a user's, outside the package."""
    (tmp_path / "helper_of_mine.py").write_text(HELPER)
    (tmp_path / "method_of_mine.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def version(entry: str = "method_of_mine:method") -> str:
    """As a process of its own would find it."""
    importlib.invalidate_caches()
    for cached in (code_version, code._reached, code._read, code._module, code._followed, code._places):
        cached.cache_clear()
    return code_version((entry,))


def edited(file: Path, old: str, new: str, entry: str = "method_of_mine:method") -> bool:
    """Whether an edit changes the hash."""
    before, text = version(entry), file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return version(entry) != before


def test_what_a_function_reaches_counts_also_through_an_import_within_it(mine: Path) -> None:
    assert edited(mine / "helper_of_mine.py", "x + OFFSET", "x - OFFSET")
    assert edited(mine / "helper_of_mine.py", "OFFSET = 1", "OFFSET = 2")
    assert edited(mine / "method_of_mine.py", "weigh(lam)", "weigh(2 * lam)")


def test_what_it_does_not_reach_and_what_only_reads_otherwise_does_not_count(mine: Path) -> None:
    assert not edited(mine / "helper_of_mine.py", "return x\n", "return 7\n")
    assert not edited(mine / "helper_of_mine.py", '"""Doc."""', '"""Other."""')
    assert not edited(mine / "helper_of_mine.py", "x + OFFSET  # why", "(x+OFFSET)")


def test_what_a_module_does_when_it_is_imported_counts(mine: Path) -> None:
    assert edited(mine / "helper_of_mine.py", "OFFSET = 1\n", "OFFSET = 1\nprint(OFFSET)\n")


def test_a_function_within_others_counts_alone(mine: Path) -> None:
    entry = "method_of_mine:Kept.asked.build"
    assert not edited(mine / "method_of_mine.py", "unused(1)", "unused(2)", entry)
    assert edited(mine / "helper_of_mine.py", "OFFSET = 1", "OFFSET = 2", entry)


def test_an_installed_package_counts_by_its_version(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mine / "helper_of_mine.py").write_text(HELPER.replace("x + OFFSET", "mean(x)"))
    now = version()
    monkeypatch.setattr(code, "version", lambda package: "9.0+cu128")
    code._versions.cache_clear()
    other = version()
    monkeypatch.setattr(code, "version", lambda package: "9.0+cpu")
    code._versions.cache_clear()
    same = version()
    code._versions.cache_clear()
    assert now != other == same


STAGES = {
    "bm.stages:Stages.distill.build": (
        {"bm.distill.traces", "bm.verify.llm", "bm.generate.journal"},
        {"bm.branch"},
    ),
    "bm.stages:Stages._train.build": ({"bm.branch.loss", "bm.branch.packing"}, {"bm.merge", "bm.distill"}),
    "bm.feedback:foreseen.build": ({"bm.branch.foresight", "bm.generate.weights"}, {"bm.merge", "bm.evaluate"}),
    "bm.measuring:_alone.build": ({"bm.branch.documents", "bm.merge.statistics"}, {"bm.distill"}),
    "bm.stages:Stages.ask": ({"bm.statistics", "bm.verify.judging", "bm.evaluate.sets"}, {"bm.branch", "bm.distill"}),
    "bm.stages:Stages.merge.build": ({"bm.merge.engine", "bm.merge.quantiles"}, {"bm.branch", "bm.merge.methods.ties"}),
    "bm.generate.engines:transformers": ({"bm.generate.draw"}, {"bm.generate.openai_engine"}),
    "bm.merge.methods:ties": ({"bm.merge.methods.updates"}, {"bm.merge.methods.della"}),
}


@pytest.mark.parametrize("entry", STAGES)
def test_a_stage_reaches_its_rooms_and_no_page(entry: str) -> None:
    reached = {line.split()[0] for line in code._reached(entry)}
    wanted, unwanted = STAGES[entry]
    assert wanted <= reached
    for room in {"bm.report", "bm.store", "bm.config", "bm.track", *unwanted}:
        assert not [name for name in reached if f"{name}.".startswith(f"{room}.")]


def test_tasks_and_programs_beside_a_module_that_reads_them_count() -> None:
    lines = [line.split(" ", 2)[:2] for line in code._reached("bm.stages:Stages.ask")]
    assert ["bm.evaluate.loading", "tasks/gsm8k.yaml"] in lines
    lines = [line.split(" ", 2)[:2] for line in code._reached("bm.verify.programs:judge")]
    assert ["bm.verify.sandbox", "runner.py"] in lines


def test_parameters_are_read_without_an_import(mine: Path) -> None:
    (mine / "harmful_of_mine.py").write_text("raise SystemExit\n\ndef f(tensors): ...\n")
    assert parameters("harmful_of_mine:f") == ["tensors"]
    assert "harmful_of_mine" not in sys.modules
    assert parameters("bm.merge.methods:linear") == ["tensors", "weights", "normalize"]
    assert parameters("os:system") is parameters("nowhere:f") is None

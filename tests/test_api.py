"""The commands from Python: the same settings, the same files, and results as a frame."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

import bm
from bm.errors import UserError
from bm.store import Store
from tests.conftest import SHRUNK


def test_a_run_is_composed_and_read_in_three_lines(undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(undisturbed)
    results = bm.run(bm.compose(*SHRUNK, "output=outputs/api"))
    frame = results.frame
    assert list(frame.index) == ["student", "coding", "math", "science", "mixture", "arcee_fusion", "linear"]
    assert {"kind", "mean", "math", "math low", "math high", "seconds", "tokens", "key"} <= set(frame.columns)
    assert frame.loc["math", "math low"] <= frame.loc["math", "math"] <= frame.loc["math", "math high"]
    assert set(results.verdicts["verdict"]) <= {"better", "worse", "undecided"}
    assert "arcee_fusion" in results._repr_html_()


def test_a_mistake_names_the_setting() -> None:
    with pytest.raises(UserError, match=r"did you mean 'branch.learning_rate'"):
        bm.compose("branch.learning_rat=1")
    with pytest.raises(UserError, match=r"branch.epochs: must be greater than 0"):
        bm.compose("branch.epochs=0")


def test_your_own_folder_of_settings(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe/mine.yaml").write_text("recipe: mine\nseed: 1\nbranch: {epochs: 3}\n")
    assert bm.compose("recipe=mine", config_dir=tmp_path).branch.epochs == 3


def test_merge_evaluate_and_verify_are_the_commands(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    experts = [a.path for a in Store(undisturbed / "outputs/store").all() if a.label in ("math", "coding")
               and a.manifest["stage"] == "branch"]  # fmt: skip
    merged = bm.merge(base=experts[0], models=experts[1:], method="arcee_fusion", lam=0.5, output="fused")
    other = bm.merge(base=experts[0], models=experts[1:], method="arcee_fusion", lam=2.5, output="other")
    weights, others = load_file(merged / "model.safetensors"), load_file(other / "model.safetensors")
    assert any((weights[name] != others[name]).any() for name in weights)

    scores = bm.evaluate(*SHRUNK, "evaluate.limit=2", model=merged, output="scored")
    assert set(scores.index) == {"math", "coding", "science"}
    assert ((scores["low"] <= scores["mean"]) & (scores["mean"] <= scores["high"])).all()

    Path("said.jsonl").write_text(
        '{"response": "<think>a</think>\\n\\n5", "answer": "5"}\n{"response": "6", "answer": "5"}\n'
    )
    graded = bm.verify(verifier="number", file="said.jsonl", output="graded.jsonl")
    assert list(graded["accepted"]) == [True, False]


def test_rooms_keep_what_is_in_them() -> None:
    import bm.merge

    assert bm.merge.methods.linear

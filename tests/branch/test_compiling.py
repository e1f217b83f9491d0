"""Compiled layers train the same expert, in one process and on ranks."""

from pathlib import Path

import pytest

from bm.branch import Traces, train
from bm.branch.compiling import check_compiler
from bm.errors import UserError
from tests.branch.conftest import branch, tracker, trainer
from tests.branch.test_parallel import close
from tests.forked import Forked


def trained(student: Path, traces: list[Traces], work: Path, **resources: object) -> dict[str, object]:
    work.mkdir()
    return train(student, traces, branch(), trainer(**resources), tracker(), "math", "0123456789abcdef", work)


@pytest.mark.slow
@pytest.mark.parametrize("resources", [{"activation_checkpointing": "full"}, {"devices": 2}], ids=str)
def test_compiled_layers_train_the_same_expert(
    student: Path, traces: list[Traces], tmp_path: Path, forked: Forked, resources: dict[str, object]
) -> None:
    launch = forked.launch(2) if "devices" in resources else ""
    plain = trained(student, traces, tmp_path / "plain")
    facts = trained(student, traces, tmp_path / "compiled", compile=True, launch=launch, **resources)
    close(tmp_path / "compiled", tmp_path / "plain")
    assert "compile_seconds" not in plain and float(str(facts["compile_seconds"])) > 0


def test_a_missing_compiler_is_said_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    check_compiler(trainer(compile=False))
    with pytest.raises(UserError, match="no C\\+\\+ compiler \\(no-such-compiler\\)"):
        check_compiler(trainer(compile=True))


def test_selective_checkpointing_is_refused_beside_it() -> None:
    with pytest.raises(UserError, match="compiled layers decide by themselves"):
        trainer(compile=True, activation_checkpointing="selective")

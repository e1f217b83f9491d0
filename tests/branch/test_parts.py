"""A training in parts is the training whole, to the bit, where nothing happens between them; and it survives kills."""

from pathlib import Path
from typing import Any

import pytest

from bm.branch import Part, Traces, checkpoint, train
from bm.config import Branch
from bm.errors import UserError
from tests.branch.conftest import branch, tracker, trainer
from tests.branch.test_training import rows, trained


def in_part(student: Path, traces: list[Traces], work: Path, config: Branch, part: Part) -> dict[str, Any]:
    work.mkdir(exist_ok=True)
    return train(student, traces, config, trainer(), tracker(), "math", "0123456789abcdef", work, part)


def test_parts_make_the_whole(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    config = branch(epochs=2, schedule="cosine")
    whole = trained(student, traces, tmp_path / "whole", config)
    start, before, facts = student, None, []
    for index in range(3):
        work = tmp_path / f"part-{index}"
        facts.append(in_part(start, traces, work, config, Part(index, 3, before)))
        start = before = work
    assert start.joinpath("model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    for what in ("steps", "tokens", "supervised_tokens"):
        assert sum(part[what] for part in facts) == whole[what]
    assert sum(part["flops"] for part in facts) == pytest.approx(whole["flops"])
    steps = [row["step"] for index in range(3) for row in rows(tmp_path / f"part-{index}")]
    assert steps == [row["step"] for row in rows(tmp_path / "whole")]
    assert not (tmp_path / "part-2/optimizer").exists()


def test_a_killed_part_goes_on_with_the_same_bits(
    student: Path, traces: list[Traces], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = branch(epochs=2, checkpoint_seconds=1e-9)
    in_part(student, traces, tmp_path / "one", config, Part(0, 2))
    in_part(student, traces, tmp_path / "whole", config, Part(1, 2, tmp_path / "one"))
    saves, save = [], checkpoint.save

    def killed(*arguments: Any) -> None:
        save(*arguments)
        saves.append(1)
        if len(saves) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", killed)
        in_part(student, traces, tmp_path / "broken", config, Part(1, 2, tmp_path / "one"))
    in_part(student, traces, tmp_path / "broken", config, Part(1, 2, tmp_path / "one"))
    whole, broken = (tmp_path / name / "model.safetensors" for name in ("whole", "broken"))
    assert whole.read_bytes() == broken.read_bytes()


def test_more_parts_than_steps_are_refused(student: Path, traces: list[Traces], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rounds\.parts: 1000 parts of a training that has only"):
        in_part(student, traces, tmp_path / "work", branch(), Part(0, 1000))

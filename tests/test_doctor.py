"""`bm doctor`: what is here and what is missing, with a remedy each; a status for scripts."""

import errno
from pathlib import Path

import pytest

from bm import compose, doctor
from bm.doctor import examine
from tests.conftest import SHRUNK, Bm


def test_this_machine_is_enough_for_the_tiny_recipe(bm: Bm, tmp_path: Path) -> None:
    said = bm("doctor", *SHRUNK, "verify.sandbox=unsafe", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    for name in ("Python", "torch", "disk", "file locks"):
        assert name in said.stdout
    assert not list(tmp_path.iterdir())


def test_what_the_paper_needs_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, **__: object) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(doctor, "urlopen", silent)
    config = compose("recipe=tinyr1", "trainer=gpu", "tracker.mode=online", "evaluate.engine.python=nosuch/python")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", "/nosuch")
    missing = {finding.name: finding for finding in examine(config, 1e9) if finding.state == "missing"}
    assert set(missing) >= {"GPUs", "vLLM", "disk", "Hugging Face hub", "W&B login"}
    assert all(finding.remedy for finding in missing.values())
    assert "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B" in missing["Hugging Face hub"].said


def test_a_training_that_the_memory_cannot_hold_is_told() -> None:
    enough, lacking = ({f.name: f for f in examine(compose(), 0.0, gib)}["memory"] for gib in (0.5, 1e6))
    assert enough.there and "0.5 GiB to be held by a training" in enough.said
    assert lacking.state == "missing" and "bm plan" in lacking.remedy
    assert "memory" not in {f.name for f in examine(compose(), 0.0)}


def test_a_script_can_tell(bm: Bm, tmp_path: Path) -> None:
    said = bm("doctor", *SHRUNK, "trainer=gpu", "plan.cards.H800.gib=1000", cwd=tmp_path)
    assert said.returncode == 2 and "recipe=tiny lacks something on this machine: GPUs" in said.stderr


def test_a_file_system_without_flock_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("bm.doctor.fcntl.flock", missing)
    locks = {f.name: f for f in examine(compose(), 0.0)}["file locks"]
    assert locks.there and "no flock (Function not implemented)" in locks.said

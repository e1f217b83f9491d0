"""A run that has nothing to do is known by the dates and sizes of what it rests on, and by nothing else."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import DictConfig, OmegaConf

from bm import finished
from experiments.scaling import fakes
from tests.conftest import BM, Bm


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[DictConfig, Path]:
    """The settings of a run that has ended, and its one artefact."""
    monkeypatch.chdir(tmp_path)
    composed = OmegaConf.create({"paths": {"outputs": "outputs"}, "fresh": [], "seed": 1, "lam": "${seed}"})
    home, artefact = tmp_path / "outputs/runs/tiny", tmp_path / "outputs/store/merge/abc"
    for file in (home / "results.json", home / "report/index.html", artefact / "manifest.json"):
        file.parent.mkdir(parents=True)
        file.write_text("{}")
    finished.note(composed, time.time(), home, 0.5, [artefact])
    return composed, artefact


def test_it_is_found_while_nothing_has_changed(noted: tuple[DictConfig, Path]) -> None:
    composed, artefact = noted
    assert finished.find(composed) == {"home": str(artefact.parents[2] / "runs/tiny"), "mean": 0.5}
    for change in ({"seed": 2}, {"fresh": ["merge"]}, {"paths": {"outputs": "elsewhere"}}):
        assert finished.find(OmegaConf.merge(composed, change)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["written", "touched", "added", "removed", "results"])
def test_whatever_has_changed_is_looked_at_again(noted: tuple[DictConfig, Path], change: str) -> None:
    composed, artefact = noted
    manifest, results = artefact / "manifest.json", artefact.parents[2] / "runs/tiny/results.json"
    if change == "written":
        manifest.write_text('{"other": 1}')
    elif change == "touched":  # the same size: perhaps other bytes
        os.utime(manifest, ns=(1, 1))
    elif change == "added":
        (artefact / "new").write_text("")
    else:
        (manifest if change == "removed" else results).unlink()
    assert finished.find(composed) is None


def test_code_of_bm_and_of_yours_and_what_is_installed_count(
    noted: tuple[DictConfig, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    composed, _ = noted
    package, installed = tmp_path / "package", tmp_path / "site-packages"
    for folder in (package, installed):
        folder.mkdir()
        (folder / "module.py").write_text("a = 1\n")
    yours = tmp_path / "yours.py"
    yours.write_text("b = 1\n")
    monkeypatch.setattr(finished, "PACKAGE", package)
    modules = [SimpleNamespace(__file__=str(file)) for file in (yours, installed / "module.py")]
    monkeypatch.setattr(sys, "modules", dict(enumerate(modules)))
    home = tmp_path / "outputs/runs/tiny"
    for changed in (package / "module.py", yours, installed / "new.dist-info"):
        finished.note(composed, time.time(), home, 0.5, [])
        assert finished.find(composed)
        changed.write_text("c = 12345\n")
        assert finished.find(composed) is None, changed


def test_of_a_run_whose_code_was_edited_meanwhile_nothing_is_noted(noted: tuple[DictConfig, Path]) -> None:
    composed, artefact = noted
    other = OmegaConf.merge(composed, {"seed": 2})
    assert isinstance(other, DictConfig)
    finished.note(
        other, Path(finished.__file__).stat().st_mtime - 1, artefact.parents[2] / "runs/tiny", 0.5, [artefact]
    )
    assert finished.find(other) is None


def test_nothing_to_do_needs_neither_torch_nor_scipy(tmp_path: Path) -> None:
    """The real command over a run that has ended: it says where everything is, and imports nothing heavy."""
    words = fakes.finished_run(tmp_path / "outputs", 3)
    command = [
        sys.executable,
        "-X",
        "importtime",
        str(BM),
        "run",
        *fakes.WORDS,
        *words,
        f"paths.outputs={tmp_path}/outputs",
    ]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr[-2000:]
    assert "the results of this run" in said.stdout
    assert "nothing to do" in said.stderr and "outputs/runs/tiny-" in said.stderr
    imported = {line.rpartition("|")[2].strip() for line in said.stderr.splitlines() if line.startswith("import time:")}
    assert "bm.finished" in imported and not imported & {"torch", "transformers", "scipy", "pandas", "bm.report"}


@pytest.mark.slow
def test_a_run_repeated_is_shown_again_and_a_damaged_one_is_not(undisturbed: Path, bm: Bm) -> None:
    from tests.conftest import SHRUNK

    words = ("run", *SHRUNK, "output=outputs/result")
    bm(*words, cwd=undisturbed)  # a copy elsewhere: everything is kept, and that is noted
    again = bm(*words, cwd=undisturbed)
    assert again.returncode == 0 and "nothing to do" in again.stderr, again.stderr
    assert (undisturbed / "outputs/result/report/summary.txt").read_text() in again.stdout
    weights = next((undisturbed / "outputs/store/merge").glob("*/*.safetensors"))
    weights.write_bytes(b"x" * weights.stat().st_size)
    assert "is damaged" in bm(*words, cwd=undisturbed).stderr

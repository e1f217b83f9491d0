"""The command's front door: quick, and complete."""

import os
import re
import subprocess
import sys
from pathlib import Path

from omegaconf import OmegaConf

from bm.cli import STAGES
from tests.conftest import BM, Bm


def test_help_lists_every_stage_and_imports_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['bm', '--help']; from bm.cli import main; main();"
        "print('heavy:', sorted({'torch', 'hydra', 'transformers', 'pydantic'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "heavy: []" in said
    assert all(f"  {stage} " in said for stage in STAGES)


def test_each_stage_shows_its_composed_configuration(tmp_path: Path, bm: Bm) -> None:
    for stage in STAGES:
        shown = bm(stage, "--cfg", "job", cwd=tmp_path)
        assert shown.returncode == 0, shown.stderr
        assert "outputs: outputs" in shown.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_help_of_a_stage_fits_two_screens_and_explains_its_settings(tmp_path: Path, bm: Bm) -> None:
    shown = {stage: bm(stage, "--help", cwd=tmp_path) for stage in STAGES}
    for stage, said in shown.items():
        lines = said.stdout.splitlines()
        assert (said.returncode, said.stderr, lines[0]) == (0, "", f"bm {stage} - {STAGES[stage]}")
        assert len(lines) < 130 and max(map(len, lines)) <= 120 and "owered by" not in said.stdout
        assert f"  bm {stage} " in said.stdout or stage == "report"
    assert "tiny, tinyr1" in shown["run"].stdout and "mixture" not in shown["merge"].stdout
    assert re.search(r"evaluate.samples=4 +whole number > 0 or null: Samples per question", shown["run"].stdout)
    assert "evaluate.samples=2 " in bm("run", "evaluate.samples=2", "--help", cwd=tmp_path).stdout
    assert bm("run", "evaluate.sampels=2", "--help", cwd=tmp_path).stderr.count("\n") == 1


def test_options_may_stand_between_overrides_and_a_mistake_beside_a_folder_of_ones_own_is_one_line(
    tmp_path: Path, bm: Bm
) -> None:
    (tmp_path / "mine/merge").mkdir(parents=True)
    (tmp_path / "mine/merge/half.yaml").write_text("defaults: [linear, _self_]\nweights: [0.5, 0.5]\n")
    said = bm("run", "seed=7", "--config-dir", "mine", "merge=half", "--cfg", "job", "output=there", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    shown = OmegaConf.create(said.stdout)
    assert (shown.seed, shown.output, list(shown.merge.methods.half.weights)) == (7, "there", [0.5, 0.5])
    for words, message in (
        (["merge=half", "branch.epochss=1"], "no such setting or group of `bm run`; did you mean 'branch.epochs'?"),
        (["merge=hal"], "merge has no option 'hal'; did you mean 'half'?"),
    ):
        said = bm("run", *words, "--config-dir", "mine", cwd=tmp_path)
        assert said.returncode == 2 and said.stderr.strip().endswith(message)
        assert len(said.stderr.strip().splitlines()) == 1


def test_tab_completes_options_and_settings(tmp_path: Path) -> None:
    def completed(line: str) -> list[str]:
        typed = os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))}
        ask = [BM, "run", "--shell-completion", "query=bash"]
        return subprocess.run(ask, cwd=tmp_path, env=typed, capture_output=True, text=True, check=True).stdout.split()

    assert completed("bm merge=arcee") == ["merge=arcee_fusion"]
    assert "branch.learning_rate=" in completed("bm branch.learning")


def test_a_reader_that_has_had_enough_is_no_failure() -> None:
    said = subprocess.run(["bash", "-c", f"'{BM}' --shell-completion | true"], capture_output=True, text=True)
    assert said.stderr == ""


def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        said = subprocess.run([BM, "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert said.returncode == 2
    assert said.stderr.startswith("bm: No space left on device") and said.stderr.count("\n") == 1

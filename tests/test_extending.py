"""One of each kind of thing, added from a folder outside the package: one function at most, and one line of YAML."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import bm
from bm.config import Experiment
from bm.merge.tensors import Compute, Tensors
from bm.report.figures.drawing import LIGHT
from bm.report.pages.tables import COSTS
from tests.conftest import SHRUNK, Bm
from tests.merge.methods.test_parity import merged

MINE = {
    "myideas.py": """\
from torch.optim import Adagrad
from bm.distill.teachers.worked import teacher
from bm.merge.tensors import models
from bm.report.figures.drawing import LIGHT
from bm.report.pages.tables import COSTS
from bm.verify.cases import Verdict

LIGHT["merge"] = "#7a3db8"
COSTS["kWh"] = lambda row: row.cost.seconds * 65 / 3.6e6, "{:.2g}".format

@models
def average(tensors, *, share: float):
    return lambda tile: share * tile.models[0] + (1 - share) * tile.models[1]

def focal(logits, targets):
    chance = logits.softmax(-1).gather(1, targets[:, None])
    return -((1 - chance) ** 2 * chance.log()).sum()

def adagrad(module, learning_rate):
    return Adagrad(module.parameters(), lr=learning_rate)

def careful(questions, seed):
    return teacher(questions, seed=seed, slip=0.0)

def exactly(text, reference, metadata, settings):
    return Verdict(text == reference, "" if text == reference else "another text", text)
""",
    "merge/average.yaml": "{_target_: myideas.average, share: 0.25}",
    "loss/focal.yaml": "_target_: myideas.focal",
    "optimizer/adagrad.yaml": "_target_: myideas.adagrad",
    "adapter/thin.yaml": "{defaults: [lora, _self_], rank: 4}",
    "teacher/careful.yaml": "_target_: myideas.careful",
    "domain/sums.yaml": "{defaults: [math, _self_], traces: 40, questions: 10}",
    "tasks/capitals.yaml": "{task: capitals, dataset_path: json, dataset_kwargs: {data_files: {test: capitals.jsonl}},"
    "\ntest_split: test, output_type: generate_until, doc_to_text: question, doc_to_target: answer}",
}
CHOSEN = ["domain=[sums,coding]", "merge=average", "loss=focal", "optimizer=adagrad", "adapter=thin", "teacher=careful",
          "evaluate.include_path=mine/tasks", "evaluate.tasks=[capitals]"]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of a user's own, in which everything is, and no trace of it afterwards."""
    for name, text in MINE.items():
        (file := tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "capitals.jsonl").write_text('{"question": "The capital of Peru?", "answer": "Lima"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "mine")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "mine"))
    colours, costs = dict(LIGHT), dict(COSTS)
    yield tmp_path
    sys.modules.pop("myideas", None)
    for table, shipped in ((LIGHT, colours), (COSTS, costs)):
        table.clear()
        table.update(shipped)  # type: ignore[arg-type]


def test_everything_together_takes_less_than_thirty_lines() -> None:
    lines = [line for text in MINE.values() for line in text.splitlines() if line.strip()]
    assert len(lines) < 30


def test_one_of_each_kind_is_composed_from_its_name(folder: Path) -> None:
    config = bm.compose(*CHOSEN, config_dir="mine")
    chosen = [config.merge.methods["average"], config.branch.loss, config.branch.optimizer, config.teacher]
    assert [c.target for c in chosen] == ["myideas.average", "myideas.focal", "myideas.adagrad", "myideas.careful"]
    assert config.branch.adapter is not None and (config.branch.adapter.rank, config.branch.adapter.alpha) == (4, 32)
    sums = config.domains["sums"]
    assert (sums.name, sums.task, sums.traces, list(config.domains)) == ("sums", "sums", 40, ["sums", "coding"])
    a, b = torch.ones(2, 3), torch.zeros(2, 3)
    assert (merged(Tensors.held(None, [a, b], run=Compute()), chosen[0]) == 0.25).all()
    module = torch.nn.Linear(2, 2)
    assert isinstance(chosen[2](module, 0.1), torch.optim.Adagrad)
    assert chosen[1](torch.zeros(1, 2), torch.tensor([0])).item() == pytest.approx(0.25 * 0.6931, abs=1e-4)


def test_a_verifier_grades_a_file(folder: Path) -> None:
    Path("said.jsonl").write_text('{"response": "Lima", "answer": "Lima"}\n{"response": "lima", "answer": "Lima"}\n')
    verifier = "+verify.verifiers.exactly._target_=myideas.exactly"
    graded = bm.verify(verifier, verifier="exactly", file="said.jsonl", output="graded.jsonl")
    assert list(graded["accepted"]) == [True, False]


def test_an_evaluation_on_eight_gpus_is_one_override() -> None:
    config: Experiment = bm.compose("evaluate.engine=gpus")
    assert config.evaluate.engine.target == "bm.generate.engines.vllm"
    assert (config.evaluate.engine.parameters["data_parallel"], config.evaluate.samples) == (8, 4)


def test_domains_of_ones_own_build_on_the_shipped_ones(folder: Path) -> None:
    for name in ("left", "right"):
        Path(f"mine/domain/{name}.yaml").write_text(f"{{defaults: [jsonl, _self_], source: {{path: {name}.jsonl}}}}")
        Path(f"{name}.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    config = bm.compose("domain=[left,right]", config_dir="mine")
    assert {n: (d.name, d.task) for n, d in config.domains.items()} == {n: (n, n) for n in ("left", "right")}


@pytest.mark.slow
def test_they_run_together_and_the_report_has_the_colour_and_the_column(folder: Path, bm: Bm) -> None:
    shrunk = [word for word in SHRUNK if not word.startswith(("domains.math", "domains.science"))]
    said = bm("run", "--config-dir=mine", *shrunk, *CHOSEN, "output=result", cwd=folder)
    assert said.returncode == 0, said.stderr
    page = Path("result/report/index.html").read_text()
    assert "#7a3db8" in page and "kWh" in page
    assert "kWh" in Path("result/report/models.csv").read_text()

"""Settings are checked at the door: each mistake is one clear line, nothing is written, the exit status is not 0."""

import shlex
from pathlib import Path

import pytest

from bm.config import Evaluate, identity, resolved, typed
from tests.conftest import Bm

MISTAKES = [
    ("rnu", "there is no stage 'rnu'; did you mean 'run'?"),
    ("run recipe=tini", "recipe has no option 'tini'; did you mean 'tiny'?"),
    ("run stduent=tiny", "stduent: no such setting or group of `bm run`; did you mean 'student'?"),
    (
        "run branch.learning_rat=1e-4",
        "branch.learning_rat: no such setting or group of `bm run`; did you mean 'branch.learning_rate'?",
    ),
    ("run merge=arcee_fusoin", "merge has no option 'arcee_fusoin'; did you mean 'arcee_fusion'?"),
    ("run merge.methods.arcee_fusion.lamda=1", "did you mean 'merge.methods.arcee_fusion.lam'?"),
    ("run +branch.momentum=0.9", "branch.momentum: no such setting"),
    ("run branch.learning_rate=-1", "branch.learning_rate: must be greater than 0, not -1"),
    ("run branch.learning_rate=fast", "branch.learning_rate: must be a valid number"),
    ("run branch.packing=tight", "branch.packing: must be 'none', 'packing' or 'neat', not 'tight'"),
    (
        "run merge.methods.arcee_fusion.lam=-2",
        "merge.methods.arcee_fusion: lam: must be greater than or equal to 0, not -2",
    ),
    ("run merge.methods.arcee_fusion.variant=fast", "variant: must be 'exact'"),
    (
        "run domains.math.task=null domains.math.questions=null",
        "domains.math.task: domain 'math' has no evaluation task",
    ),
    ("run 'merge.order=\"(math & sciense) & coding\"'", "no expert 'sciense'; did you mean 'science'?"),
    ("run 'merge.order=\"(math & science\"'", "merge.order"),
    ("run +mixture.ratio.maths=0.5", "mixture.ratio.maths: no such domain; did you mean 'math'?"),
    ("run domains.math.branch.epoch=2", "no such setting"),
    ("merge base=a models=[b]", "output: must be given"),
    ("evaluate model=nowhere output=x", "nowhere"),
    ("run mixture=null", "mixture=null: a group needs an option; leave it out with ~mixture"),
    ("run branch.seed=[", "`branch.seed=[` cannot be read"),
    ("run branch.seed", "`branch.seed` is not an override"),
    ("run 'merge=[arcee_fusion,linaer]'", "merge has no option 'linaer'; did you mean 'linear'?"),
    ("run teacher=openai teacher.max_tokens=3", "did you mean 'teacher.max_new_tokens'?"),
    ("run merge.schedule=[0,1]", "merge.schedule: a value of the wrong kind: [0,1]"),
    ("run 'merge.schedule={lam: [0,1]}' branch.epochs=-1", "branch.epochs: must be greater than 0, not -1"),
    ("run +recipe=tiny", "recipe is chosen already"),
    ("run ~teachr", "~teachr: `bm run` has nothing of that name to leave out; did you mean 'teacher'?"),
    ("run seed=-1", "seed: must be greater than or equal to 0, not -1"),
    ("run branch.seed=-1", "branch.seed: must be greater than or equal to 0, not -1"),
    ("run seed=12345678901234567890123", "seed: must be less than 4294967296"),
    ("run evaluate.include_path=nosuch", "evaluate.include_path: there is no folder nosuch"),
    ("run evaluate.traces=[nosuch]", "evaluate.traces: there is no file nosuch"),
    ("run evaluate.data.x=nosuch.jsonl", "evaluate.data.x: there is no file nosuch.jsonl"),
    ("run domains.math.task=gsm8kk domains.math.questions=null", "no task 'gsm8kk'"),
    ("run merge.device=cuda", "merge.device=cuda: this machine has no such device"),
    ("run trainer=gpu", "trainer.accelerator=gpu: this machine has 0 of the 1 GPUs"),
    ("run paths.outputs=/proc/nosuch", "/proc/nosuch"),
    ("run tracker=mlflow", "tracker=mlflow needs the package mlflow: pip install 'bm[mlflow]'"),
    ("run merge.statistics.math=nosuch", "merge.statistics.math: there is no folder nosuch"),
    ("run merge.statistics.maths=nosuch", "merge.statistics.maths: no such domain; did you mean 'math'?"),
    ("run loss=kd branch.teacher=nosuch", "branch.teacher: nosuch is not the folder of a model"),
    ("run evaluate.engine=vllm", "the vllm engine finds no vLLM by .venv-vllm/bin/python: `make vllm` installs it"),
    ("run adapter=lora branch.adapter.quantize=nf4", "branch.adapter.quantize needs bitsandbytes: make gpu"),
    ("run branch.adapter=lora branch.adapter.rank=0", "branch.adapter.rank: must be greater than 0, not 0"),
    ("run plan.gpu=H900", "plan: gpu: no such card; did you mean 'H800'?"),
    ("run teacher=openai teacher.engine.served=m teacher.engine.key=NO_KEY", "set the environment variable NO_KEY"),
    ("run judge=openai verify.judge.engine.served=m verify.judge.engine.key=NO_KEY", "environment variable NO_KEY"),
    ("run teacher=transformers", "teacher.model: must be given"),
    ("run evaluate.engine.device=cuda", "engine.device=cuda: this machine has no such device"),
    ("run output=/proc/nosuch", "output: /proc/nosuch cannot be written to"),
    ("evaluate model=. output=/proc/nosuch", "output: /proc/nosuch cannot be written to"),
    ("evaluate model=. output=x domain=[]", "evaluate.tasks: there is nothing to ask"),
    ("verify verifier=math file=x output=x", "output: is the file of responses"),
    ("merge merge=linear models=[.,.] output=/proc/nosuch/x", "/proc/nosuch cannot be written"),
    ("run seed=true", "seed: must be a number, not True"),
    ("run branch.epochs=true", "branch.epochs: must be a number, not True"),
    ("run evaluate.chat_template=1", "evaluate.chat_template: must be true or false, not 1"),
    ("run branch.epochs=inf", "branch.epochs: must be a finite number, not inf"),
    ("run verify.seconds=nan", "verify.seconds: must be "),
    ("run merge.methods.arcee_fusion.lam=inf", "merge.methods.arcee_fusion: lam: must be a finite number, not inf"),
    ("run merge.methods.arcee_fusion.lam=true", "merge.methods.arcee_fusion: lam: must be a number, not True"),
    ("run domains.math.branch.epochs=inf", "domains.math.branch.epochs: must be a finite number, not inf"),
    ("run branch.optimizer.betas=[0.9,1]", "must be less than 1, not 1"),
    ("run distill.min_characters=9 distill.max_characters=3", "no response has at least 9 and at most 3"),
    ("run evaluate.data.gsm8k=/etc/hostname", "evaluate.data.gsm8k: no such task in evaluate.tasks"),
]


@pytest.mark.parametrize(("command", "line"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_is_one_clear_line(command: str, line: str, tmp_path: Path, bm: Bm) -> None:
    answer = bm(*shlex.split(command), cwd=tmp_path)
    assert answer.returncode == 2
    assert line in answer.stderr
    assert answer.stderr.count("\n") == 1, answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_broken_file_in_a_folder_of_settings_is_one_line(tmp_path: Path, bm: Bm) -> None:
    (tmp_path / "mine/merge").mkdir(parents=True)
    (tmp_path / "mine/merge/own.yaml").write_text("lam: [1")
    answer = bm("run", "--config-dir=mine", "merge=own", cwd=tmp_path)
    assert (answer.returncode, answer.stderr.count("\n")) == (2, 1), answer.stderr
    assert "mine/merge/own.yaml, line 1: not YAML" in answer.stderr


def test_how_a_result_is_made_is_not_in_its_identity() -> None:
    def engine(parallel: int, temperature: float) -> Evaluate:
        node = {
            "_target_": "bm.generate.engines.openai",
            "served": "m",
            "base_url": "http://host/v1",
            "key": None,
            "parallel": parallel,
        }
        settings = {"tasks": [], "include_path": None, "limit": None, "samples": 1, "temperature": temperature}
        settings |= {"top_p": 1, "max_new_tokens": 9, "unsafe_code": False, "chat_template": True, "resamples": 9}
        settings |= {"data": {}, "traces": [], "race": None}
        return typed(Evaluate, {**settings, "engine": node, "confidence": 0.9, "seed": 1})

    assert identity(engine(1, 0.5)) == identity(engine(8, 0.5)) != identity(engine(1, 0.6))
    assert resolved(engine(1, 0.5)) != resolved(engine(8, 0.5))

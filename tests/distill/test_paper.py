"""The paper's recipe as it is composed: every number of its data and training is in it."""

import pytest
from hydra import compose, initialize_config_dir

from bm.config import Experiment, load, overridden
from tests.distill.conftest import CONF

DOMAINS = {
    # domain: kept, epochs, batch, packing, schedule, task
    "math": (58_000, 5, 96, "packing", "constant", "aime24"),
    "coding": (20_000, 15, 96, "neat", "constant", "livecodebench"),
    "science": (8_600, 5, 32, "neat", "cosine", "gpqa_diamond"),
}


@pytest.fixture(scope="module")
def tinyr1() -> Experiment:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load(Experiment, compose("run", ["recipe=tinyr1"]))


@pytest.mark.parametrize("name", DOMAINS)
def test_each_domain_is_trained_as_the_paper_says(tinyr1, name):
    kept, epochs, batch, packing, schedule, task = DOMAINS[name]
    domain = tinyr1.domains[name]
    assert (domain.traces, domain.expected, domain.task, domain.questions) == (kept, kept, task, None)
    branch = overridden(tinyr1.branch, domain.branch, name)
    assert (branch.epochs, branch.batch, branch.packing, branch.schedule) == (epochs, batch, packing, schedule)
    assert branch.learning_rate == 1e-5
    assert (branch.sequence_length, branch.micro_batch, branch.seed) == (16_384, 1, 42)
    assert branch.optimizer.target == "bm.optimizers.adamw" and branch.loss.target == "bm.losses.sft"
    assert branch.optimizer.parameters == {"betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.01}
    assert (branch.gradient_clip, branch.warmup_ratio) == (1.0, 0.1)


def test_an_adapters_rate_reaches_every_expert():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = load(Experiment, compose("run", ["recipe=tinyr1", "adapter=lora", "branch.learning_rate=2e-4"]))
    trained = [overridden(config.branch, domain.branch, name) for name, domain in config.domains.items()]
    assert len(trained) == 3
    assert all(of.learning_rate == 2e-4 and of.adapter is not None for of in trained)


def test_questions_come_from_the_papers_sets_through_its_filters(tinyr1):
    math, code = (tinyr1.domains[name].source.parameters for name in ("math", "coding"))
    assert (math["name"], math["config"]) == ("open-r1/OpenR1-Math-220k", "default")
    assert math["correctness_math_verify"] is True
    assert "question_type" in math
    assert "source" in math
    assert (code["name"], code["domains"], code["verifier"]) == ("open-thoughts/OpenThoughts-114k", ["code"], "code")
    parts = tinyr1.domains["science"].source.parameters["parts"]
    assert {name: part["count"] for name, part in parts.items()} == {
        "ablation59k": 2_700, "s1k": 1_000, "openthoughts": 4_900
    }  # fmt: skip
    assert sum(part["count"] for part in parts.values()) == 8_600
    assert parts["ablation59k"]["source"]["cot_type"] == ["science", "health science"]
    assert tinyr1.distill.policy == "first_correct"


def test_teacher_student_merge_and_evaluation_are_the_papers(tinyr1):
    assert tinyr1.student.build.parameters["name"] == "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"
    assert tinyr1.teacher.target == "bm.distill.teachers.published.teacher"
    assert tinyr1.merge.order == "(math & science) & coding"
    assert tinyr1.merge.methods["arcee_fusion"].parameters["lam"] == 1.5
    assert tinyr1.merge.out_dtype == "bfloat16"
    evaluate = tinyr1.evaluate
    assert (evaluate.max_new_tokens, evaluate.temperature, evaluate.top_p) == (32_768, 0.6, 0.95)
    assert set(evaluate.tasks) == {task for *_, task in DOMAINS.values()}
    assert (tinyr1.trainer.precision, tinyr1.trainer.activation_checkpointing) == ("bf16-mixed", "full")
    assert tinyr1.mixture is not None
    assert tinyr1.mixture.ratio == {}


@pytest.mark.parametrize("size", ["1.5b", "7b", "14b"])
def test_smaller_siblings_differ_in_the_student_alone(size, tinyr1):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        sibling = load(Experiment, compose("run", ["recipe=tinyr1", f"student=r1-distill-qwen-{size}"]))
    assert sibling.student != tinyr1.student
    assert (sibling.domains, sibling.branch, sibling.merge) == (tinyr1.domains, tinyr1.branch, tinyr1.merge)


@pytest.mark.parametrize("domain", sorted(path.stem for path in (CONF / "domain").glob("*.yaml")))
def test_every_domain_of_the_project_can_be_chosen(domain):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert len(load(Experiment, compose("run", [f"domain={domain}", "merge.order=all"])).domains) == 1

"""From a problem set on disk to a set of traces, by the composed configuration: every row is accounted for."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset
from hydra import compose, initialize_config_dir

from bm.config import Experiment, load
from bm.errors import UserError
from bm.stages import Stages
from bm.store import Store
from tests.distill.conftest import CONF

AIME = "Find the number of ways to place seven tokens on a board of nine squares so that no two are adjacent."
LONG = (
    "A baker makes {k} trays of four rolls each morning, sets them out in the window of the shop on the corner of the"
    " old square, and sells half of them before the church bell strikes noon; how many rolls are left for the evening?"
)


def said(answer: object, thought: str = "I compute.") -> str:
    return f"<think>\n{thought}\n</think>\n\n\\boxed{{{answer}}}"


def problems() -> list[dict]:
    """One of each fate: 12 with a right and a wrong response, and those that come to nothing."""
    animals = "ants bees cats dogs eels foxes goats hens ibises jays kites lynxes".split()  # noqa: SIM905
    good = [
        {
            "question": f"How many legs have {k} {animal} if each of the {animal} has {k + 1}?",
            "answer": str(k * (k + 1)),
            "said": [said(0), said(k * (k + 1)), said(k * (k + 1), "Short.")],
        }
        for k, animal in enumerate(animals, 2)
    ]
    baker = [{"question": LONG.format(k=k), "answer": str(2 * k), "said": [said(2 * k)]} for k in (6, 8)]
    return [
        *good, *baker, good[0],
        {"question": AIME + " Explain.", "answer": "5", "said": [said(5)]},
        {"question": "What is ten minus three, in digits?", "answer": "7", "said": ["7"]},
        {"question": "What is ten minus four, in digits?", "answer": "6", "said": ["<think>\nSix, or"]},
        {"question": "What is ten minus five, in digits?", "answer": "5", "said": []},
        {"question": "What is ten minus six, in digits?", "answer": None, "said": [said(4)]},
    ]  # fmt: skip


@pytest.fixture
def stages(tmp_path):
    """The stages of a composed experiment over a small set, with AIME's one question as a file of its own."""
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems()))
    (tmp_path / "aime.jsonl").write_text(json.dumps({"id": 1, "problem": AIME, "answer": "36"}) + "\n")

    def composed(*overrides: str, aime: bool = True) -> Stages:
        words = ["domain=jsonl", "teacher=published", f"domains.jsonl.source.path={tmp_path / 'set.jsonl'}",
                 "domains.jsonl.source.responses=said", "domains.jsonl.questions=null", "domains.jsonl.task=aime24",
                 f"paths.outputs={tmp_path / 'outputs'}", *overrides]  # fmt: skip
        data = [f"evaluate.data.aime24={tmp_path / ('aime.jsonl' if aime else 'nowhere.jsonl')}"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = load(Experiment, compose("run", [*words, *data]))
        return Stages(Store(config.paths.outputs / "store"), config)

    return composed


def made(stages: Stages):
    return stages.distill(stages.config.domains["jsonl"])


def rows(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def test_every_row_and_every_response_is_accounted_for(stages):
    artefact = made(stages())
    facts = artefact.facts
    before = {name: facts[name] for name in ("filtered", "duplicates", "near_duplicates", "contaminated")}
    assert before == {"filtered": 1, "duplicates": 1, "near_duplicates": 1, "contaminated": {"aime24": 1}}
    assert facts["asked"] == len(problems()) - 4 == 16
    assert facts["answered"] == 3 * 12 + 1 + 1 + 1
    assert (facts["verified"], facts["unverified"], facts["kept"]) == (25, 0, 25)
    assert facts["rejected"] == {"no reasoning": 1, "unclosed reasoning": 1, "wrong answer": 12}
    assert facts["sources"] == {"set": 25}
    assert sum(facts["characters"]["kept"]) == 25
    assert facts["tokens"] == {"from": [], "kept": [], "rejected": []}
    assert facts["two_checks"] == {"checked": 37, "disagreed": 0}
    assert Counter(row["reason"] for row in rows(artefact.path / "rejected.parquet")) == facts["rejected"]


@pytest.mark.parametrize(
    ("policy", "kept", "left"),
    [("first_correct", 13, 12), ("shortest_correct", 13, 12), ("all_correct", 25, 0), ("agreement", 13, 12)],
)
def test_a_policy_keeps_its_own_and_says_so_of_the_rest(stages, policy, kept, left):
    artefact = made(stages(f"distill.policy={policy}"))
    assert artefact.facts["kept"] == kept
    assert artefact.facts["rejected"].get(f"not chosen by {policy}", 0) == left
    thoughts = Counter(row["response"].splitlines()[1] for row in rows(artefact.path / "traces.parquet"))
    assert thoughts["Short."] == (0 if policy in ("first_correct", "agreement") else 12)


def test_without_a_reference_a_response_is_kept_for_what_it_is(stages):
    facts = made(stages("domains.jsonl.source.verifier=none", "distill.policy=agreement")).facts
    assert facts["unverified"] == facts["verified"]
    assert facts["kept"] == 13, "two of three say the same, or there is one"
    assert facts["rejected"]["unclosed reasoning"] == 1


def test_a_task_out_of_reach_is_named_or_when_strict_refused(stages):
    artefact = made(stages(aime=False))
    assert artefact.facts["contaminated"] == {}
    assert list(artefact.facts["unchecked"]) == ["aime24"]
    with pytest.raises(UserError, match=r"distill\.decontamination: what aime24 asks cannot be read"):
        made(stages("distill.decontamination.strict=true", aime=False))
    assert made(stages()).key != artefact.key, "the task is within reach again"
    assert made(stages("distill.decontamination=null", aime=False)).facts["unchecked"] == {}


def test_a_domains_own_evaluation_questions_are_kept_apart_too(stages):
    pipeline = stages("domains.jsonl.questions=2", "domains.jsonl.task=jsonl", aime=False)
    artefact = made(pipeline)
    evaluation = rows(pipeline.questions()["jsonl"].path / "questions.parquet")
    assert not {row["id"] for row in evaluation} & {row["id"] for row in rows(artefact.path / "traces.parquet")}
    pipeline.check_apart([artefact])


def test_a_source_with_other_rows_is_another_set_of_traces(stages, tmp_path):
    before = made(stages())
    assert made(stages()).key == before.key
    with (tmp_path / "set.jsonl").open("a") as file:
        file.write(json.dumps({"question": "What is one and one?", "answer": "2", "said": [said(2)]}) + "\n")
    assert made(stages()).facts["kept"] == before.facts["kept"] + 1


def test_fewer_questions_than_asked_for_is_a_mistake_unless_the_papers_count_is_held_against_it(stages):
    with pytest.raises(UserError, match=r"domains\.jsonl\.traces: asks for 99 .* but the source has 16, 83 too few"):
        made(stages("domains.jsonl.traces=99"))
    facts = made(stages("domains.jsonl.traces=99", "domains.jsonl.expected=50")).facts
    assert (facts["asked"], facts["kept"], facts["expected"]) == (16, 25, 50)


def test_the_card_is_one_that_datasets_reads_and_has_the_counts(stages, tmp_path):
    artefact = made(stages("domains.jsonl.traces=99", "domains.jsonl.expected=50"))
    card = (artefact.path / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert {subset["config_name"]: subset["data_files"] for subset in front["configs"]} == {
        "default": "traces.parquet", "rejected": "rejected.parquet"
    }  # fmt: skip
    for line in ("| near duplicates | 1 |", "| in the evaluation task aime24 | 1 |", "| **questions asked** | 16 |",
                 "| **traces kept** | 25 |", "| traces that the paper kept | 50 |", "| set | 25 | 100.0% |",
                 "| wrong answer | 12 |", "| policy | `all_correct` |"):  # fmt: skip
        assert line in card
    loaded = load_dataset(str(artefact.path), "default", split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 25

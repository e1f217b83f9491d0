"""Evaluations of known outcome: what is written, what counts, and that an interruption leaves no trace."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bm.errors import UserError
from bm.evaluate import evaluate
from bm.evaluate.model import RESPONSES
from bm.generate.price import Price
from bm.statistics import interval
from tests.evaluate.conftest import scripted, thought, tiny
from tests.evaluate.scripted import Scripted
from tests.verify.conftest import verifying

MODEL = Path("not looked at")


def run(work, config, tasks, questions=None, verify=None):
    work.mkdir(exist_ok=True)
    facts = evaluate(MODEL, config, verify or verifying(), tasks, questions or {}, work)
    rows = pq.read_table(work / "samples.parquet").to_pylist()
    return facts, rows, json.loads((work / "scores.json").read_text())


def test_every_sample_is_kept_and_counts(tmp_path, sums):
    path, script = sums
    facts, rows, scores = run(tmp_path / "w", tiny(engine=scripted(script)), ["math"], {"math": path})
    assert facts == {
        "engine": {"engine": "scripted"},
        "samples": 80,
        "tokens": sum(len(r) for s in script.values() for r in s),
    }
    assert [(row["question"], row["sample"]) for row in rows] == [(f"sum{k}", i) for k in range(20) for i in range(4)]
    for row in rows:
        k = int(row["question"].removeprefix("sum"))
        right = row["sample"] < k % 5
        assert row["response"] == script[f"What is {k} + 1?"][row["sample"]]
        assert (row["accepted"], row["score"]) == (right, float(right))
        cut = (k, row["sample"]) == (0, 3)
        assert row["reason"] == ("" if right else "unclosed reasoning" if cut else "wrong answer")
        assert row["answer"] == (str(k + 1) if right else "" if cut else "-7")
        assert row["finished"] != cut
        assert row["response_tokens"] == len(row["response"])
    means = np.array([k % 5 / 4 for k in range(20)])
    seen = interval(means, 10_000, 0.95, 42)
    assert scores["math"] == {
        "mean": 0.5, "low": seen.low, "high": seen.high, "questions": 20, "samples": 4, "unclosed": 1, "cut": 1,
        "response_tokens": pytest.approx(facts["tokens"] / 80), "metrics": pytest.approx({"pass@1,none": 0.5}),
        "pass@k": pytest.approx({"2": (0 + 3 / 6 + 5 / 6 + 1 + 1) / 5, "4": 0.8}), "majority": pytest.approx(0.5),
        "truncated": 0, "task": "a part of a group",
    }  # fmt: skip


def test_prompts_are_conversations_with_the_questions_own_system_prompt(tmp_path, sums):
    path, script = sums
    _, rows, _ = run(tmp_path / "w", tiny(engine=scripted(script), samples=1), ["math"], {"math": path})
    assert json.loads(rows[0]["prompt"]) == [{"role": "user", "content": "What is 0 + 1?"}]
    assert json.loads(rows[1]["prompt"]) == [
        {"role": "system", "content": "Think."},
        {"role": "user", "content": "What is 1 + 1?"},
    ]


def test_an_interruption_leaves_no_trace(tmp_path, sums):
    path, script = sums
    config = tiny(engine=scripted(script))
    run(tmp_path / "whole", config, ["math"], {"math": path})
    Scripted.asked, Scripted.patience = 0, 30
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "halted", config, ["math"], {"math": path})
    assert sorted(p.name for p in (tmp_path / "halted").iterdir()) == [f".{RESPONSES}.lock", RESPONSES]
    Scripted.asked, Scripted.patience = 0, 1000
    run(tmp_path / "halted", config, ["math"], {"math": path})
    assert Scripted.asked == 80 - 28
    for name in ("samples.parquet", "scores.json"):
        assert (tmp_path / "halted" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "halted").iterdir()) == ["samples.parquet", "scores.json"]


def test_limit_and_several_tasks(tmp_path, sums):
    path, script = sums
    config = tiny(engine=scripted(script), limit=6)
    _, rows, scores = run(tmp_path / "w", config, ["math", "again"], {"math": path, "again": path})
    assert {task: score["questions"] for task, score in scores.items()} == {"math": 6, "again": 6}
    assert scores["math"]["mean"] == scores["again"]["mean"] == pytest.approx(sum(k % 5 / 4 for k in range(6)) / 6)
    assert len(rows) == 48


def test_a_thought_opened_by_the_template_counts_as_opened(tmp_path, sums, monkeypatch):
    path, script = sums
    monkeypatch.setattr(Scripted, "render", lambda self, messages: messages[-1]["content"] + "\n<think>\n")
    opened = {f"{q}\n<think>\n": [r.removeprefix("<think>\n") for r in responses] for q, responses in script.items()}
    _, rows, scores = run(tmp_path / "w", tiny(engine=scripted(opened)), ["math"], {"math": path})
    assert scores["math"]["mean"] == 0.5
    assert scores["math"]["unclosed"] == 1
    assert rows[0]["response"].startswith("<think>\nwell")


def test_a_response_without_a_thought_is_an_answer(tmp_path, sums):
    path, script = sums
    plain = {q: [str(k + 1), "-7", f"well</think>{k + 1}", ""] for k, q in enumerate(script)}
    _, rows, _ = run(tmp_path / "w", tiny(engine=scripted(plain)), ["math"], {"math": path})
    assert [row["accepted"] for row in rows[:4]] == [True, False, True, False]
    assert rows[3]["reason"] == "no answer"


OWN = """
task: capitals
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "Capital of {{{{country}}}}?"
doc_to_target: capital
generation_kwargs: {{until: ["\\n\\n"], do_sample: false}}
filter_list:
  - name: bold
    filter:
      - {{function: regex, regex_pattern: "\\\\*\\\\*(.*?)\\\\*\\\\*"}}
      - {{function: take_first}}
  - name: raw
    filter: [{{function: take_first}}]
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}}
"""


def own_task(folder, text=OWN):
    folder.mkdir()
    data = folder / "data.jsonl"
    rows = [{"country": c, "capital": t} for c, t in (("France", "Paris"), ("Peru", "Lima"), ("Chad", "N'Djamena"))]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "capitals.yaml").write_text(text.format(data=data))
    return folder


def test_a_users_own_task_has_every_sample_scored_behind_its_thought(tmp_path):
    """Its first filter decides; lm-eval alone would score the first of the repeats, thoughts and all."""
    script = {
        "Capital of France?": [thought("It is **paris**."), thought("**Lyon**, not **Paris**"), "**Paris**"],
        "Capital of Peru?": ["<think>**Lima**", thought("Lima"), thought("**Lima**")],
        "Capital of Chad?": [thought("**Lima**")] * 3,
    }
    config = tiny(engine=scripted(script), samples=3, include_path=own_task(tmp_path / "mine"))
    _, rows, scores = run(tmp_path / "w", config, ["capitals"])
    assert [row["accepted"] for row in rows] == [True, False, True, False, False, True, False, False, False]
    assert rows[3]["reason"] == "unclosed reasoning"
    assert (rows[0]["answer"], rows[4]["answer"]) == ("paris", "[invalid]")
    assert scores["capitals"]["mean"] == pytest.approx(1 / 3)
    assert scores["capitals"]["metrics"] == pytest.approx({"exact_match,bold": 1 / 3, "exact_match,raw": 1 / 9})
    assert (scores["capitals"]["unclosed"], scores["capitals"]["samples"]) == (1, 3)


def test_a_task_that_votes_over_its_repeats_is_left_to_it(tmp_path):
    voting = OWN.replace(
        "- {{function: take_first}}\n  - name: raw",
        "- {{function: majority_vote}}\n      - {{function: take_first}}\n  - name: raw",
    )
    script = {
        "Capital of France?": ["**Paris**", "**Lyon**", "**Paris**"],
        "Capital of Peru?": ["**Lima**", "**Cusco**", "**Cusco**"],
        "Capital of Chad?": ["**x**", "**y**", "**N'Djamena**"],
    }
    config = tiny(engine=scripted(script), samples=3, include_path=own_task(tmp_path / "mine", voting))
    _, rows, scores = run(tmp_path / "w", config, ["capitals"])
    assert scores["capitals"]["mean"] == pytest.approx(1 / 3)
    assert len(rows) == 3


def test_null_settings_leave_the_protocol_to_the_task(tmp_path):
    seen = []
    original = Scripted.generate

    def watching(self, prompts, sampling, known=()):
        seen.append(sampling)
        return original(self, prompts, sampling, known)

    script = {f"Capital of {c}?": ["a"] * 2 for c in ("France", "Peru", "Chad")}
    nothing = {"samples": None, "temperature": None, "top_p": None, "max_new_tokens": None}
    folder = own_task(tmp_path / "mine", OWN + "repeats: 2\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scripted, "generate", watching)
        run(tmp_path / "w", tiny(engine=scripted(script), include_path=folder, **nothing), ["capitals"])
        run(tmp_path / "v", tiny(engine=scripted(script), include_path=folder, samples=1), ["capitals"])
        plain = tiny(engine=scripted(script), include_path=folder, samples=1, chat_template=False)
        run(tmp_path / "u", plain, ["capitals"])
    assert (seen[0].n, seen[0].temperature, seen[0].top_p, seen[0].stop) == (2, 0, 1, ())
    assert seen[2].stop == ("\n\n",)
    assert (seen[1].n, seen[1].temperature, seen[1].top_p, seen[1].max_new_tokens) == (1, 0.6, 0.95, 96)


def test_what_is_missing_is_named(tmp_path):
    config = tiny(engine=scripted({}), include_path=own_task(tmp_path / "mine"))
    with pytest.raises(UserError, match=r"evaluate\.tasks: no task 'capitols'; did you mean 'capitals'"):
        run(tmp_path / "w", config, ["capitols"])
    (tmp_path / "mine" / "data.jsonl").unlink()
    with pytest.raises(UserError, match=r"task capitals: its data cannot be read: [^;]*$"):
        run(tmp_path / "w", config, ["capitals"])
    assert not list((tmp_path / "w").iterdir())


def test_generation_settings_that_nothing_would_heed_are_refused(tmp_path):
    folder = own_task(tmp_path / "mine", OWN.replace("do_sample: false", "do_sample: false, top_k: 0, num_beams: 4"))
    with pytest.raises(UserError, match="task capitals: generation_kwargs has num_beams: 4"):
        run(tmp_path / "w", tiny(engine=scripted({}), include_path=folder), ["capitals"])


def test_code_runs_without_a_sandbox_only_when_asked_for(tmp_path):
    script = {f"Capital of {c}?": ["**Lima**"] for c in ("France", "Peru", "Chad")}
    settings = {
        "engine": scripted(script),
        "samples": 1,
        "include_path": own_task(tmp_path / "mine", OWN + "unsafe_code: true\n"),
    }
    with pytest.raises(UserError, match=r"task capitals runs a model's code.*evaluate\.unsafe_code=true"):
        run(tmp_path / "w", tiny(**settings), ["capitals"])
    _, _, scores = run(tmp_path / "w", tiny(**settings, unsafe_code=True), ["capitals"])
    assert scores["capitals"]["mean"] == pytest.approx(1 / 3)


def test_an_engine_without_likelihoods_says_so(tmp_path):
    folder = own_task(tmp_path / "mine", OWN.split("generation_kwargs")[0] + "output_type: loglikelihood\n")
    with pytest.raises(UserError, match="task capitals scores log-likelihoods, which scripted cannot"):
        run(tmp_path / "w", tiny(engine=scripted({}), include_path=folder), ["capitals"])


def test_a_model_in_memory_and_its_folder_score_the_same(tmp_path, sums, qwen2, tokenizer):
    path, _ = sums
    folder = tmp_path / "model"
    qwen2.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = tiny(max_new_tokens=12, limit=5)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    facts = evaluate(folder, config, verifying(), ["math"], {"math": path}, tmp_path / "a")
    engine = config.engine(folder)
    evaluate((engine.model, engine.tokenizer), config, verifying(), ["math"], {"math": path}, tmp_path / "b")
    assert (tmp_path / "a/samples.parquet").read_bytes() == (tmp_path / "b/samples.parquet").read_bytes()
    assert facts["engine"]["engine"] == "transformers"
    assert facts["engine"]["dtype"] == "float32"
    assert facts["samples"] == 20


@pytest.mark.parametrize(
    ("said", "left"),
    [("\n\nParis", ""), ("\nQ: more", ""),
     ("<think>\nwell\n\n</think>\n\nParis\n\nmore", "Paris"), ("Paris\nQ: x", "Paris")],
)  # fmt: skip
def test_a_stop_string_counts_within_leading_white_space_unless_a_thought_ends_there(tmp_path, said, left):
    folder = own_task(tmp_path / "mine", OWN.replace('["\\n\\n"]', '["\\n\\n", "\\nQ:"]'))
    script = {f"Capital of {c}?": [said] for c in ("France", "Peru", "Chad")}
    _, rows, _ = run(tmp_path / "w", tiny(engine=scripted(script), include_path=folder, samples=1), ["capitals"])
    assert rows[0]["response"].rpartition("</think>")[2].strip() == left


def test_examples_are_drawn_by_lm_evals_seed_whatever_ours_is(tmp_path):
    shots = OWN + "num_fewshot: 1\nfewshot_split: test\n"
    folder = own_task(tmp_path / "mine", shots)
    prompts = []
    for seed in (1, 2, 42):
        config = tiny(engine={"_target_": "tests.evaluate.scripted.echo"}, include_path=folder, samples=1, seed=seed)
        _, rows, _ = run(tmp_path / str(seed), config, ["capitals"])
        prompts.append([row["prompt"] for row in rows])
    assert prompts[0] == prompts[1] == prompts[2]


def test_what_an_endpoint_asks_for_its_answers_is_in_the_facts(tmp_path, sums, monkeypatch):
    path, script = sums
    monkeypatch.setattr(Scripted, "price", Price(0.0, 2e6), raising=False)
    monkeypatch.setattr(Scripted, "attempts", None, raising=False)
    monkeypatch.setattr(Scripted, "bill", lambda self, said: {}, raising=False)
    facts, _, _ = run(tmp_path / "w", tiny(engine=scripted(script)), ["math"], {"math": path})
    assert facts["tokens"] and facts["engine"]["cost"] == 2 * facts["tokens"]


CHOICE = """
task: capitals
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{country * (1 + 40 * (country == 'Peru'))}}}}"
doc_to_choice: ["Paris", "No"]
doc_to_target: 0
target_delimiter: ""
"""


def test_long_prompts_of_choices_are_counted_and_said(tmp_path, model, tokenizer, capsys):
    """164 characters and "Paris" are 169 tokens; the model reads 128, and has to read no last one."""
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    local = {"_target_": "bm.generate.engines.transformers", "batch": 4, "dtype": "float32", "device": "cpu"}
    config = tiny(engine=local, include_path=own_task(tmp_path / "mine", CHOICE), samples=1, chat_template=False)
    for work in (tmp_path / "first", tmp_path / "again"):  # whose scores are kept, and the number with them
        work.mkdir()
        evaluate(tmp_path / "model", config, verifying(), ["capitals"], {}, work, tmp_path / "journals")
        rows = pq.read_table(work / "samples.parquet").to_pylist()
        assert [row["left_out"] for row in rows] == [0, 169 - (128 + 1), 0]
        scores = json.loads((work / "scores.json").read_text())
        assert scores["capitals"]["truncated"] == 1
        said = " ".join(capsys.readouterr().err.split())
        assert "capitals: 1 of 3 prompts are too long for the model's context" in said


def test_a_judge_is_asked_once_for_answers_that_are_the_same(tmp_path, sums):
    """Twenty questions of four samples: right, wrong, or cut off within a thought, which no judge sees."""
    path, script = sums
    rows = [row | {"verifier": "judge", "answer": "VERDICT: SAME"} for row in pq.read_table(path).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows), path)
    engine = {"_target_": "tests.verify.test_judge.engine"}
    judge = {"_target_": "bm.verify.llm.judge", "engine": engine, "model": None, "max_new_tokens": 64}
    verify = verifying(judge=judge, answers=str(tmp_path / "samples"))
    given = tiny(engine=scripted(script)), ["math"], {"math": path}, verify
    facts, rows, _ = run(tmp_path / "w", *given)
    different = {row["answer"] for row in rows if row["answer"]}
    assert facts["judge"]["responses"] == facts["judge"]["own"]["responses"] == len(different) == 17
    assert sum(row["accepted"] for row in rows) == 79
    assert run(tmp_path / "v", *given)[0]["judge"]["own"]["responses"] == 0

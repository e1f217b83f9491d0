"""The same tiny model scored here and by lm-eval's own command line: the same numbers on six kinds of task."""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bm.evaluate import evaluate
from tests.evaluate.conftest import tiny
from tests.generate.conftest import ARCHITECTURES
from tests.verify.conftest import verifying

WORDS = ["ab", "cde", "f", "gh", "ijk", "lm", "nop", "qr", "st", "uvw", "xy", "z0", "12", "345", "6", "78"]
COMMON = "dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test\n"
KINDS = {
    "choice": """
output_type: multiple_choice
doc_to_text: "{{{{a}}}} {{{{b}}}}"
doc_to_choice: options
doc_to_target: gold
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
  - {{metric: brier_score, aggregation: brier_score, higher_is_better: false}}
""",
    "inputs": """
output_type: multiple_choice
doc_to_text: gold
doc_to_choice: options
doc_to_target: b
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
""",
    "continuation": """
output_type: loglikelihood
doc_to_text: "{{{{a}}}} "
doc_to_target: b
metric_list:
  - {{metric: perplexity, aggregation: perplexity, higher_is_better: false}}
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
""",
    "rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list:
  - {{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}}
  - {{metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}}
  - {{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}}
""",
    "generation": """
output_type: generate_until
doc_to_text: a
doc_to_target: first
generation_kwargs: {{until: ["q"], do_sample: false, max_gen_toks: 20}}
filter_list:
  - name: first
    filter: [{{function: regex, regex_pattern: "^(.)"}}, {{function: take_first}}]
  - name: whole
    filter: [{{function: take_first}}]
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
""",
    "shots": """
output_type: generate_until
num_fewshot: 2
fewshot_split: test
fewshot_config: {{sampler: first_n}}
doc_to_text: "{{{{a}}}}>"
doc_to_target: b
generation_kwargs: {{until: ["\\n\\n"], do_sample: false, max_gen_toks: 8}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_punctuation: true}},
              {{metric: bleu, aggregation: bleu, higher_is_better: true}}]
""",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer) -> Path:
    """A model folder, and a task of each kind over 24 documents; half of the first letters are the model's own."""
    folder = tmp_path_factory.mktemp("parity")
    torch.manual_seed(3)
    ARCHITECTURES["qwen2"]().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    model, own = AutoModelForCausalLM.from_pretrained(folder / "model"), AutoTokenizer.from_pretrained(folder / "model")
    data = folder / "data.jsonl"
    with data.open("w") as file:
        for k in range(24):
            a, b = WORDS[k % 16] * (1 + k % 5), WORDS[(k * 7 + 3) % 16]
            options = [WORDS[(k * 5 + j) % 16] for j in range(3)]
            ids = own(a, return_tensors="pt").input_ids
            answer = own.decode(model.generate(ids, do_sample=False, max_new_tokens=3)[0, ids.shape[1] :])
            first = answer[:1] if k % 2 else "-"
            row = {"a": a, "b": b, "options": options, "gold": k % 3, "text": f"{a} {b} " * (1 + k), "first": first}
            file.write(json.dumps(row) + "\n")
    for name, body in KINDS.items():
        (folder / f"{name}.yaml").write_text(f"task: bm_{name}\n" + (COMMON + body).format(data=data))
    (folder / "group.yaml").write_text(
        "group: bm_both\ntask: [bm_choice, bm_inputs]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    return folder


@pytest.fixture(scope="module")
def theirs(place, forked) -> dict[str, dict[str, float]]:
    tasks = "bm_both,bm_continuation,bm_rolling,bm_generation,bm_shots"
    command = ["-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", "8",
               "--model_args", f"pretrained={place / 'model'},dtype=float32", "--include_path", place, "--tasks", tasks,
               "--output_path", place / "out"]  # fmt: skip
    status = forked.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, said=place / "said")
    assert status == 0, (place / "said").read_text()
    (path,) = (place / "out").rglob("results*.json")
    return json.loads(path.read_text())["results"]


@pytest.fixture(scope="module")
def ours(place, tmp_path_factory) -> Path:
    work = tmp_path_factory.mktemp("ours")
    plain = tiny(samples=1, temperature=0, top_p=None, max_new_tokens=None, chat_template=False, include_path=place)
    tasks = ["bm_both", *(f"bm_{kind}" for kind in KINDS if kind not in ("choice", "inputs"))]
    evaluate(place / "model", plain, verifying(), tasks, {}, work)
    return work


@pytest.mark.parametrize("kind", [*KINDS, "both"])
def test_the_same_numbers_as_the_lm_eval_command_line(kind, ours, theirs):
    scores = json.loads((ours / "scores.json").read_text())[f"bm_{kind}"]
    reported = {name: v for name, v in theirs[f"bm_{kind}"].items() if "," in name and "_stderr" not in name}
    assert reported
    assert scores["metrics"] == pytest.approx(reported, rel=1e-5)
    assert scores["low"] <= scores["mean"] <= scores["high"]
    assert scores["mean"] == pytest.approx(next(iter(reported.values())), rel=1e-5)


def test_the_numbers_could_have_differed(ours):
    scores = json.loads((ours / "scores.json").read_text())
    for task in ("bm_choice", "bm_inputs", "bm_generation"):
        assert 0 < scores[task]["mean"] < 1
    assert scores["bm_rolling"]["mean"] > 1
    assert scores["bm_both"]["questions"] == 48


def test_samples_of_scoring_tasks_name_the_likeliest_choice(place, ours):
    rows = [row for row in pq.read_table(ours / "samples.parquet").to_pylist() if row["task"] == "bm_choice"]
    documents = [json.loads(line) for line in (place / "data.jsonl").open()]
    assert len(rows) == len(documents)
    for row, document in zip(rows, documents, strict=True):
        assert row["response"] in document["options"]
        assert row["accepted"] == (document["options"].index(row["response"]) == document["gold"])

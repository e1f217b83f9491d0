"""Samples and likelihoods: the transformers engine against lm-eval's HFLM, each in processes of its own.

`python -m experiments.speed.evaluate [NAME...]`, about twelve minutes on two cores, writes rows of measured.json:
`evaluate/samples` (n = 16 samples per question), `evaluate/samples-1`, `-4` and `-64`, and `evaluate/choices`,
questions with four choices that are scored by likelihood behind a long prompt. Medians over turns that alternate. Both
sides get the same model (0.8 M parameters, random weights, so that responses end anywhere), the same prompts through
the same chat template, the same sampling, and the number of rows per batch that suits each best.
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from experiments.speed.measuring import Usage, record, row, show

PLACE = Path(__file__).parent
QUESTIONS, LONGEST, TURNS = 64, 256, 3
SAMPLES = {"samples": 16, "samples-1": 1, "samples-4": 4, "samples-64": 64}
"""By row, samples per question."""
CHOICES = "choices"
BATCHES = {"ours": (256, 1024), "peer": (64, 256, 1024)}
CHARACTERS = ["<pad>", "<eos>", *(chr(c) for c in range(32, 127)), "\n"]
# top_k: 0 in the task takes back the 50 that generate assumes
SAMPLING = {"temperature": 0.6, "top_p": 0.95}


def write(folder: Path) -> None:
    """The model, its tokenizer, the questions, and a lm-eval task of them."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(CHARACTERS), hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, max_position_embeddings=1024, bos_token_id=None,
        eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    core = Tokenizer(models.WordLevel({c: i for i, c in enumerate(CHARACTERS)}, unk_token="<pad>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    tokenizer.save_pretrained(folder)
    draw = random.Random(0)
    with (folder / "questions.jsonl").open("w") as file:
        for _ in range(QUESTIONS):
            terms = [str(draw.randrange(1000)) for _ in range(draw.randint(3, 12))]
            file.write(json.dumps({"question": f"What is {' + '.join(terms)}?", "answer": "0"}) + "\n")
    with (folder / "choices.jsonl").open("w") as file:
        for _ in range(4 * QUESTIONS):
            prompt = "".join(draw.choice(CHARACTERS[2:-1]) for _ in range(draw.randint(100, 600)))
            choices = ["".join(draw.choice("abc ") for _ in range(draw.randint(1, 12))) + "x" for _ in range(4)]
            file.write(json.dumps({"question": prompt, "choices": choices, "answer": 0}) + "\n")
    for name, samples in SAMPLES.items():
        (folder / f"{name}.yaml").write_text(
            _task(name, folder / "questions.jsonl") + "doc_to_target: answer\n"
            f"repeats: {samples}\ngeneration_kwargs: {{until: [], do_sample: true, temperature: "
            f"{SAMPLING['temperature']}, top_p: {SAMPLING['top_p']}, top_k: 0, max_gen_toks: {LONGEST}}}\n"
            "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
        )
    (folder / f"{CHOICES}.yaml").write_text(
        _task(CHOICES, folder / "choices.jsonl") + "output_type: multiple_choice\ndoc_to_choice: choices\n"
        "doc_to_target: answer\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )


def _task(name: str, file: Path) -> str:
    return (
        f"task: speed_{name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {file}}}}}\n"
        "test_split: test\ndoc_to_text: question\n"
    )


def side(name: str, task: str, folder: Path, batch: int) -> None:
    """One process: generate and score everything once; print seconds, peak memory and tokens as JSON."""
    import torch
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from bm.evaluate.model import EngineLM
    from bm.generate.engines import transformers

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    journal = folder / f"{os.getpid()}.jsonl"
    lm = (
        EngineLM(transformers((model, tokenizer), batch, "float32", "cpu"), 0, journal)
        if name == "ours"
        else HFLM(model, tokenizer=tokenizer, batch_size=batch)
    )
    tasks = TaskManager(include_path=folder, include_defaults=False).load([f"speed_{task}"])
    tasks["tasks"][f"speed_{task}"].set_config("num_fewshot", 0)
    start, spent = time.perf_counter(), time.process_time()
    results = evaluate(lm, tasks, bootstrap_iters=0, apply_chat_template=True)
    seconds, cpu = time.perf_counter() - start, time.process_time() - spent
    samples = results["samples"][f"speed_{task}"]
    if task == CHOICES:
        tokens = sum(len(entry["arguments"][0][0]) for entry in samples)
    else:
        responses = [response for entry in samples for response in entry["resps"][0]]
        assert len(responses) == QUESTIONS * SAMPLES[task]
        tokens = sum(map(len, responses))  # a character each
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_rss_gb": peak, "tokens": tokens, "batch": batch}))


def measured(name: str, task: str, folder: Path, batch: int) -> dict[str, float]:
    command = [sys.executable, "-m", "experiments.speed.evaluate", name, task, str(folder), str(batch)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=PLACE.parents[1])
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def compared(task: str, folder: Path) -> dict[str, Any]:
    """The row of a task: each side's batch is chosen by one run, then both are measured in turns."""
    tried = {name: [measured(name, task, folder, batch) for batch in BATCHES[name]] for name in BATCHES}
    best = {name: int(min(runs, key=lambda run: run["seconds"])["batch"]) for name, runs in tried.items()}
    turns = [{name: measured(name, task, folder, best[name]) for name in best} for _ in range(TURNS)]
    middle = {name: {what: median(turn[name][what] for turn in turns) for what in turns[0][name]} for name in best}
    ours, other = (
        Usage(round(usage["seconds"], 3), round(usage["peak_rss_gb"], 3), round(usage["cpu_seconds"], 3))
        for usage in middle.values()
    )
    return row(f"evaluate/{task}", ours, other, f"lm_eval {version('lm_eval')} HFLM", "make bench-evaluate",
               tokens={name: usage["tokens"] for name, usage in middle.items()}, batch=best)  # fmt: skip


def main(names: Sequence[str]) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        write(Path(temporary))
        for task in names or [*SAMPLES, CHOICES]:
            rows.append(compared(task, Path(temporary)))
            record(rows[-1:])
    show("sampling: ours and lm-eval's", rows)


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["peer"]):
        side(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main(sys.argv[1:])

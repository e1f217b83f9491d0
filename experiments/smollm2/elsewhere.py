"""A model that `bm` made, where `bm` is not: does it run, and does it say and score the same?

    python -m experiments.smollm2.elsewhere MODEL OTHER [--questions N] [--output FILE]

Plain transformers in a fresh process and llama.cpp continue the prompts of an evaluation; the command line of lm-eval
scores the tasks of that evaluation; mergekit merges the model with OTHER, of the same student. Prints a table and
writes elsewhere.json, or FILE. mergekit and llama.cpp (the wheel xllamacpp) are installed in the peers' environment.
"""

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import yaml
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from bm.student import gguf
from experiments.smollm2.to_gguf import export
from experiments.speed.measuring import machine, peer

HERE = Path(__file__).parent
BM = str(Path(sys.executable).with_name("bm"))
MERGEKIT, LLAMA = "mergekit==0.1.5", "xllamacpp==2026.10.11549"
TOKENS = 32
"""Tokens of an answer, at most."""
SUMS, CHOICE = "elsewhere_sums", "elsewhere_choice"
TASKS: Mapping[str, Mapping[str, Any]] = {
    SUMS: {
        "output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": [], "do_sample": False, "temperature": 0, "max_gen_toks": TOKENS},
        "filter_list": [{"name": "last", "filter": [
            {"function": "regex", "regex_pattern": r"(?s)\A(?:.*</think>)?((?:(?!<think>).)*)\Z"},
            {"function": "regex", "regex_pattern": r"(\d+)", "group_select": -1}, {"function": "take_first"}]}],
        "metric_list": [{"metric": "exact_match"}],
    },
    CHOICE: {
        "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{choices.index(answer)}}", "metric_list": [{"metric": "acc"}],
    },
}  # fmt: skip
"""One of each kind, a greedy continuation and likelihoods, which lm-eval can grade without `bm`.

The first filter is what `bm` does before any other: the answer is what follows the thought, if that came to an end.
"""


@dataclass(frozen=True)
class Check:
    """What was compared with whom, and in how many of the cases the two agreed."""

    check: str
    peer: str
    agree: int
    cases: int
    detail: str


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--output", type=Path, default=HERE / "elsewhere.json")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        checks = [*compared(given.model.resolve(), given.other.resolve(), given.questions, Path(folder))]
    table = Table("", "with", "the same", "", title=f"{named(given.model)} elsewhere")
    for check in checks:
        table.add_row(check.check, check.peer, f"{check.agree} of {check.cases}", check.detail)
    Console().print(table)
    record = {"model": named(given.model), "other": named(given.other), "checks": [asdict(check) for check in checks],
             "command": "python -m experiments.smollm2.elsewhere MODEL OTHER", "machine": machine()}  # fmt: skip
    given.output.write_text(json.dumps(record, indent=1) + "\n")
    if wrong := [check.check for check in checks if check.agree < check.cases]:
        sys.exit(f"not the same: {', '.join(wrong)}")


def named(folder: Path) -> str:
    """An artefact by its stage, label and key, whatever store it is in; any other folder by its name."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text()) if file.is_file() else {}
    return " ".join([manifest[part] for part in ("stage", "label") if part in manifest] + [folder.resolve().name])


def compared(model: Path, other: Path, questions: int, work: Path) -> Iterator[Check]:
    """Every check, one after another."""
    write_tasks(work / "tasks", questions)
    ours = evaluated(model, work)
    asked = [row for row in ours if row["task"] == SUMS]
    plain = answered([sys.executable, str(HERE / "plain_transformers.py")], model, asked, work)
    yield continuations("greedy answers of a fresh process", f"transformers {version('transformers')}", asked, plain)
    yield from scored(model, ours, work)
    yield from merged(model, other, asked, work)
    yield from exported(model, asked, plain, work)


def write_tasks(folder: Path, questions: int) -> None:
    """Sums of two numbers, to be continued and to be chosen, as lm-eval tasks with their data."""
    folder.mkdir()
    drawing = random.Random(0)
    rows = []
    for _ in range(questions):
        a, b = drawing.randint(2, 60), drawing.randint(2, 60)
        choices = [str(a + b + shift) for shift in (-10, -1, 0, 1)]
        drawing.shuffle(choices)
        rows.append({"question": f"What is {a} + {b}?", "answer": str(a + b), "choices": choices})
    data = folder / "sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, task in TASKS.items():
        place = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **place, **task}))


def evaluated(model: Path, work: Path) -> list[dict[str, Any]]:
    """Every sample of `bm evaluate`."""
    output = work / "ours"
    run([BM, "evaluate", f"model={model}", f"output={output}", "domain=[]", f"evaluate.tasks=[{SUMS},{CHOICE}]",
         f"evaluate.include_path={work / 'tasks'}", "evaluate.samples=1", "evaluate.temperature=0",
         f"evaluate.max_new_tokens={TOKENS}", "evaluate.engine.batch=8",
         f"paths.outputs={work / 'outputs'}"])  # fmt: skip
    rows: list[dict[str, Any]] = pq.read_table(output / "samples.parquet").to_pylist()
    return rows


def answered(command: Sequence[str], model: Path, asked: Sequence[Mapping[str, Any]], work: Path) -> list[Any]:
    """What a program that knows nothing of `bm` makes of the rendered prompts."""
    request, answers = work / "request.json", work / "answers.json"
    request.write_text(json.dumps({"prompts": [row["prompt"] for row in asked], "tokens": TOKENS}))
    run([*command, str(model), str(request), str(answers)])
    said: list[Any] = json.loads(answers.read_text())
    return said


def continuations(check: str, peer_: str, asked: Sequence[Mapping[str, Any]], theirs: Sequence[Any]) -> Check:
    """Text and number of tokens of each continuation, against those of bm's engine."""
    same = [
        row["response"] == answer["text"] and row["response_tokens"] == len(answer["continuation"])
        for row, answer in zip(asked, theirs, strict=True)
    ]
    return Check(check, peer_, sum(same), len(same), f"{sum(row['response_tokens'] for row in asked)} tokens")


def scored(model: Path, ours: Sequence[Mapping[str, Any]], work: Path) -> Iterator[Check]:
    """Every answer and verdict by the plain lm_eval command, and the scores."""
    output, peer_ = work / "lm_eval", f"lm_eval {version('lm_eval')}"
    run([sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32",
         "--tasks", f"{SUMS},{CHOICE}", "--include_path", str(work / "tasks"), "--apply_chat_template",
         "--device", "cpu", "--batch_size", "8", "--log_samples", "--output_path", str(output)])  # fmt: skip
    for task, metric in ((SUMS, "exact_match"), (CHOICE, "acc")):
        [file] = output.rglob(f"samples_{task}_*.jsonl")
        rows = {row["doc_id"]: row for row in map(json.loads, file.read_text().splitlines())}
        asked = {int(row["question"]): row for row in ours if row["task"] == task}
        if task == SUMS:
            same = sum(row["resps"][0][0] == asked[place]["response"] for place, row in rows.items())
            yield Check("greedy answers", peer_, same, len(rows), "in batches of 8")
        theirs = {place: row[metric] for place, row in rows.items()}
        mine = {place: row["score"] for place, row in asked.items()}
        same = sum(mine[place] == theirs[place] for place in theirs)
        scores = [sum(values.values()) / len(values) for values in (mine, theirs)]
        detail = f"{metric} {scores[0]:.4f} and {scores[1]:.4f}"
        yield Check(f"verdicts of task {task}", peer_, same, len(theirs), detail)


def merged(model: Path, other: Path, asked: Sequence[Mapping[str, Any]], work: Path) -> Iterator[Check]:
    """mergekit takes the model for one of its own, and what it makes loads; ours makes the same of the same file."""
    environment, config = peer(MERGEKIT), work / "linear.yml"
    models = [{"model": str(path), "parameters": {"weight": 0.5}} for path in (model, other)]
    config.write_text(yaml.safe_dump({"merge_method": "linear", "models": models, "dtype": "float32"}))
    run([str(environment / "mergekit-yaml"), str(config), str(work / "theirs")])
    run([BM, "merge", f"mergekit={config}", f"output={work / 'merge'}"])
    theirs, mine = tensors(work / "theirs"), tensors(work / "merge")
    apart = {name: float((mine[name] - tensor).abs().max()) for name, tensor in theirs.items()}
    close = sum(distance <= 1e-6 for distance in apart.values())
    yield Check("tensors of a linear merge", MERGEKIT, close, len(mine), f"at most {max(apart.values()):.1e} apart")
    program = [str(environment / "python"), str(HERE / "plain_transformers.py")]
    answers = [answered(program, work / folder, asked, work) for folder in ("theirs", "merge")]
    same = sum(left["continuation"] == right["continuation"] for left, right in zip(*answers, strict=True))
    yield Check("greedy answers of the two merges", MERGEKIT, same, len(asked), "loaded in the peers' environment")


def tensors(folder: Path) -> dict[str, Any]:
    return {name: tensor for shard in folder.glob("*.safetensors") for name, tensor in load_file(shard).items()}


def exported(model: Path, asked: Sequence[Mapping[str, Any]], plain: Sequence[Any], work: Path) -> Iterator[Check]:
    """As GGUF: read back by `student=gguf`, and continued by llama.cpp from the prompts' text."""
    file, back = work / "model.gguf", work / "back"
    export(model, file)
    back.mkdir()
    gguf.build(back, path=file)
    mine, returned = tensors(model), tensors(back)
    same = sum(name in returned and bool((returned[name] == tensor.float()).all()) for name, tensor in mine.items())
    yield Check("tensors after GGUF and back", f"gguf {version('gguf')}", same, len(mine), "bit for bit, in fp32")
    theirs = answered([str(peer(LLAMA) / "python"), str(HERE / "llama_cpp.py")], file, asked, work)
    pairs = [*zip(plain, theirs, strict=True)]
    read = sum(len(own["tokens"]) == other["prompt_tokens"] for own, other in pairs)
    yield Check("lengths of the prompts in tokens", LLAMA, read, len(pairs), "")
    gaps = [
        abs(other["first"][t] - own["first"][t]) for own, other in pairs for t in own["first"] if t in other["first"]
    ]
    detail = f"log probabilities of the first token at most {max(gaps):.1e} apart"
    yield Check("first tokens", LLAMA, sum(leading(own) == leading(other) for own, other in pairs), len(pairs), detail)
    whole = [other["continuation"][: len(own["continuation"])] == own["continuation"] for own, other in pairs]
    ended = [same and own["text"] == other["text"] for same, (own, other) in zip(whole, pairs, strict=True)]
    yield Check("greedy answers from GGUF", LLAMA, sum(ended), len(pairs), f"{sum(whole)} of their token sequences")


def leading(answer: Mapping[str, Any]) -> str:
    """The likeliest first token, by its number."""
    return str(max(answer["first"], key=answer["first"].get))


def run(command: Sequence[str]) -> None:
    """To its end, quietly; what it said is shown if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}")


if __name__ == "__main__":
    main()

"""A small experiment as the stages leave it on disk: every artefact made through the real store, from a seeded draw."""

import csv
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bm.config import Prices
from bm.report import Run, Settings, Subject
from bm.store import Artefact, Store

TASKS = ("tiny_math", "tiny_coding", "tiny_science")
DOMAINS = {"math": "tiny_math", "coding": "tiny_coding", "science": "tiny_science"}
PRICES = Prices(gpus={}, machine=0.1)
QUESTIONS, SAMPLES, LAYERS = 120, 2, 4
MODULES = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
    "input_layernorm",
    "post_attention_layernorm",
)
SKILLS = {
    "student": (0.30, 0.34, 0.41),
    "math": (0.66, 0.30, 0.38),
    "coding": (0.27, 0.71, 0.35),
    "science": (0.29, 0.33, 0.68),
    "mixture proportional": (0.58, 0.63, 0.66),
    "arcee_fusion (math & science) & coding": (0.56, 0.69, 0.61),
    "arcee_fusion (math & coding) & science": (0.59, 0.60, 0.67),
    "linear (math & science) & coding": (0.49, 0.55, 0.56),
}
RUN = Run(None, "tiny", 1, ("recipe=tiny", "seed=1"), "bm run recipe=tiny seed=1", "0a1b2c3d")
SETTINGS = Settings("tiny", RUN, "recipe: tiny\nseed: 1\nmerge:\n  order: all\n", 500, 0.95, PRICES, DOMAINS)


@dataclass(frozen=True)
class Fixture:
    subjects: list[Subject]
    artefacts: list[Artefact]


def make(store: Store, skills: Mapping[str, tuple[float, ...]] = SKILLS) -> Fixture:
    """Traces, student, experts, mixture and merges with these chances of a right answer on TASKS, evaluated."""
    traces = [_traces(store, domain, part) for part in ("student", "train") for domain in ("math", "coding", "science")]
    pretrained, training = traces[:3], traces[3:]
    models: dict[str, Artefact] = {}
    subjects = []
    for name in skills:
        kind, task, inputs = "expert", None, training[:1]
        if name == "student":
            kind, inputs = "student", pretrained
        elif name.startswith("mixture"):
            kind, inputs = "mixture", [models["student"], *training]
        elif name in ("math", "coding", "science"):
            index = ("math", "coding", "science").index(name)
            task, inputs = TASKS[index], [models["student"], training[index]]
        else:
            kind, inputs = "merge", [models[d] for d in ("math", "coding", "science") if d in name]
        models[name] = _merge(store, name, inputs) if kind == "merge" else _branch(store, name, inputs)
        subjects.append(
            Subject(
                name,
                kind,
                models[name],
                _evaluation(store, models[name], skills[name]),
                task,
                domains=(name,) if kind == "expert" else (),
            )
        )  # type: ignore[arg-type]
    return Fixture(subjects, traces)


def _traces(store: Store, domain: str, part: str) -> Artefact:
    def build(work: Path) -> dict[str, Any]:
        draw = Random(f"{domain} {part}")
        kept = 600 if part == "train" else 1500
        reasons = draw.choices(["wrong answer", "no final answer", "too long"], [6, 2, 1], k=draw.randrange(30, 90))
        asked = kept + len(reasons)
        return {
            "asked": asked,
            "answered": asked,
            "verified": kept,
            "kept": kept,
            "duplicates": draw.randrange(20),
            "rejected": dict(Counter(reasons)),
        }

    return store.make("distill", f"{domain} {part}", {"domain": domain, "part": part}, [], [], build)


def _branch(store: Store, name: str, inputs: list[Artefact]) -> Artefact:
    steps = {"student": 1200, "mixture proportional": 450}.get(name, 150)

    def build(work: Path) -> dict[str, int]:
        draw = Random(name)
        with (work / "metrics.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(
                [
                    "step",
                    "epoch",
                    "loss",
                    "gradient_norm",
                    "learning_rate",
                    "tokens",
                    "supervised_tokens",
                    "tokens_per_second",
                    "seconds",
                ]
            )
            for step in range(1, steps + 1):
                loss = 0.4 + (3 if name == "student" else 0.6) * math.exp(-6 * step / steps) + draw.gauss(0, 0.04)
                table.writerow([step, step / steps, loss, draw.uniform(0.2, 1), 2e-4, 4096, 2900, 20000, 0.2])
        return {"tokens": 4096 * steps, "steps": steps}

    return _timed(store.make("branch", name, {"name": name}, inputs, [], build), steps * 0.11)


def _merge(store: Store, name: str, inputs: list[Artefact]) -> Artefact:
    def build(work: Path) -> dict[str, int]:
        draw, method = Random(name), name.split()[0]
        tensors = []
        for step, (base, other) in enumerate((("science", "math"), ("coding", "math & science")), start=1):
            places = [(layer, module, 16384) for layer in range(LAYERS) for module in MODULES]
            for layer, module, elements in [*places, (-1, "embed_tokens", 12288), (-1, "norm", 128)]:
                share = None if method == "linear" else 0.08 + 0.03 * abs(layer) + draw.uniform(0, 0.1)
                tensor = {"step": step, "base": base, "other": other, "tensor": f"{layer}.{module}.weight"}
                tensor |= {"layer": layer, "module": module, "elements": elements, "kept_share": share}
                tensors.append(tensor | {"update_norm": draw.uniform(0.1, 1)})
        pq.write_table(pa.Table.from_pylist(tensors), work / "tensors.parquet")
        return {}

    return _timed(store.make("merge", name, {"name": name}, inputs, [], build), 0.4)


def _evaluation(store: Store, model: Artefact, skills: tuple[float, ...]) -> Artefact:
    """Questions differ in difficulty alike for every model, so that models are compared on the same ones."""

    def build(work: Path) -> dict[str, int]:
        rows, scores = [], {}
        for task, skill in zip(TASKS, skills, strict=True):
            hard, draw = Random(task), Random(f"{task} {model.label}")
            difficulty = [hard.gauss(0, 0.25) for _ in range(QUESTIONS)]
            accepted = [[draw.random() < skill - d for _ in range(SAMPLES)] for d in difficulty]
            for question, verdicts in enumerate(accepted):
                asked = {"task": task, "question": f"{task}-{question}", "prompt": "1 + 1?", "response": "2"}
                for sample, verdict in enumerate(verdicts):
                    graded = {
                        "answer": "2",
                        "accepted": verdict,
                        "score": float(verdict),
                        "reason": "" if verdict else "wrong",
                    }
                    rows.append(asked | graded | {"sample": sample, "response_tokens": 12})
            mean = sum(map(sum, accepted)) / (QUESTIONS * SAMPLES)
            bounds = {"mean": mean, "low": max(0.0, mean - 0.08), "high": min(1.0, mean + 0.08)}
            scores[task] = bounds | {"questions": QUESTIONS, "samples": SAMPLES, "response_tokens": 12.0}
        pq.write_table(pa.Table.from_pylist(rows), work / "samples.parquet")
        (work / "scores.json").write_text(json.dumps(scores))
        return {"tokens": 12 * len(rows)}

    return store.make("evaluate", model.label, {"tasks": list(TASKS)}, [model], [], build)


def _timed(artefact: Artefact, seconds: float) -> Artefact:
    """The artefact as if its stage had taken so long."""
    return Artefact(artefact.path, {**artefact.manifest, "seconds": seconds})


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Fixture:
    return make(Store(tmp_path_factory.mktemp("store")))

"""A student of a few thousand parameters, traces of sums, and the real settings shrunk to them."""

import hashlib
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf

from bm.branch import Traces
from bm.config import Branch, Component, Target, Trainer, typed
from bm.student import scratch
from bm.yaml import read_yaml

CONF = Path(__file__).parents[2] / "conf"
NOBODY = "bm.track.backends.nobody"
SHRUNK = {"epochs": 2, "batch": 2, "sequence_length": 256, "learning_rate": 1e-3, "held_out": 2, "watch_every": 3}


def settings(root: type[Any], file: str, **overrides: Any) -> Any:
    """A file of conf/ with some values replaced, as the frozen dataclass that the code gets."""
    return typed(root, {**read_yaml(CONF / file), **overrides})


def branch(**overrides: Any) -> Branch:
    """The real settings; `optimizer` and `loss` name files of conf/, or are components."""
    chosen = {"optimizer": "adamw", "loss": "sft"} | overrides
    if isinstance(name := chosen["optimizer"], str):
        chosen["optimizer"] = settings(Target, f"optimizer/{name}.yaml")
    if isinstance(name := chosen["loss"], str):
        of_loss = read_yaml(CONF / f"loss/{name}.yaml")
        sampled = {"evaluate": {"max_new_tokens": 24, "engine": read_yaml(CONF / "engine/transformers.yaml")}}
        values = OmegaConf.merge(sampled, of_loss if "loss" in of_loss else {"loss": of_loss})
        resolved = OmegaConf.to_container(values, resolve=True)
        chosen = {k: resolved[k] for k in ("relation", "own") if k in resolved} | chosen | {"loss": resolved["loss"]}
    return settings(Branch, "branch/default.yaml", **{**SHRUNK, **chosen})


def trainer(**overrides: Any) -> Trainer:
    return settings(Trainer, "trainer/cpu.yaml", **overrides)


def tracker(**overrides: Any) -> Component:
    """Nobody, or W&B with these settings."""
    of = {"dir": "unused", "group": "trainings", **overrides}
    values: Component = settings(Target, "tracker/wandb.yaml", **of) if overrides else Component(NOBODY, {})
    return values


def trace(prompt: str, response: str, system: str = "") -> dict[str, str]:
    identity = hashlib.sha256(prompt.encode()).hexdigest()[:16]
    return {"id": identity, "system": system, "prompt": prompt, "response": response}


def sums(count: int, seed: int, word: str = "plus") -> list[dict[str, str]]:
    """Traces of one to four steps, so that their lengths differ."""
    draw, rows = random.Random(seed), []
    for _ in range(count):
        terms = [draw.randint(0, 99) for _ in range(draw.randint(2, 5))]
        steps = [f"{sum(terms[:i])} {word} {terms[i]} is {sum(terms[: i + 1])}" for i in range(1, len(terms))]
        rows.append(
            trace(f" {word} ".join(map(str, terms)), "<think>\n" + "\n".join(steps) + f"\n</think>\n\n{sum(terms)}")
        )
    return rows


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def traces(tmp_path_factory: pytest.TempPathFactory) -> list[Traces]:
    """Two domains of 24 traces each."""
    folder = tmp_path_factory.mktemp("traces")
    words = {"math": "plus", "science": "and then"}
    return [
        Traces(write(folder / f"{name}.parquet", sums(24, i, word)), name)
        for i, (name, word) in enumerate(words.items())
    ]


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory, traces: list[Traces]) -> Path:
    folder = tmp_path_factory.mktemp("student")
    scratch.build(folder, traces=[t.path for t in traces], vocabulary=320, hidden=32, intermediate=64, layers=2,
                  heads=4, kv_heads=2, positions=512, seed=0)  # fmt: skip
    return folder

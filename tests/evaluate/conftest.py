"""The shipped protocol with a script in the model's place, and questions of known outcome."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bm.cli import conf_dir
from bm.config import Evaluate, typed
from tests.evaluate.scripted import Scripted
from tests.generate.conftest import model, qwen2, tokenizer

__all__ = ["model", "qwen2", "tokenizer"]


@pytest.fixture(autouse=True)
def fresh_script() -> None:
    Scripted.asked, Scripted.patience = 0, 1 << 30


@cache
def composed() -> dict[str, Any]:
    """evaluate=tiny, as the command composes it."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        settings: dict[str, Any] = OmegaConf.to_container(compose("run", ["evaluate=tiny"]).evaluate)
    return settings


def tiny(**changes: Any) -> Evaluate:
    """conf/evaluate/tiny.yaml with some settings changed."""
    return typed(Evaluate, composed() | changes, "evaluate")


def scripted(script: dict[str, list[str]]) -> dict[str, Any]:
    return {"_target_": "tests.evaluate.scripted.engine", "script": script}


def thought(answer: str) -> str:
    return f"<think>\nwell\n</think>\n\n{answer}"


@pytest.fixture
def sums(tmp_path: Path) -> tuple[Path, dict[str, list[str]]]:
    """20 sums as questions.parquet, and a script: question k is answered right by its first k % 5 of 4 samples.

    One of the wrong responses was cut off within its thought (question 0, sample 3).
    """
    rows, script = [], {}
    for k in range(20):
        prompt, answer = f"What is {k} + 1?", str(k + 1)
        metadata = {"source_dataset": "chain_sum", "source_index": k}
        rows.append({"id": f"sum{k}", "domain": "math", "source": "chain_sum", "system": "Think." if k % 2 else "",
                     "prompt": prompt, "answer": answer, "verifier": "reasoning_gym",
                     "metadata": json.dumps(metadata)})  # fmt: skip
        script[prompt] = [thought(answer if sample < k % 5 else "-7") for sample in range(4)]
    script["What is 0 + 1?"][3] = "<think>\nwell, 1 …"
    path = tmp_path / "questions.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path, script

"""The questions that a model answered and got wrong: a source for a teacher that answers them again."""

from pathlib import Path
from typing import Annotated

from bm import parquet
from bm.config import Content
from bm.distill.policy import UNCHOSEN
from bm.distill.selection import Question
from bm.distill.sources import Stream


def stream(domain: str, seed: int, attempts: Annotated[Path, Content]) -> Stream:
    """Each question of which no response was accepted, with the first that was rejected as its only response.

    attempts: the folder of a distillation, whose teacher was the model. A response that was accepted, and not chosen
    by the policy, counts as accepted.
    """
    accepted = set(parquet.read(attempts / "traces.parquet", columns=["id"])["id"].to_pylist())
    refused = parquet.read(attempts / "rejected.parquet").to_pylist()
    accepted |= {row["id"] for row in refused if row["reason"].startswith(UNCHOSEN)}
    for row in refused:
        if row["id"] not in accepted:
            accepted.add(row["id"])
            yield Question(
                row["domain"], row["source"], row["system"], row["prompt"], row["answer"], row["verifier"],
                row["metadata"], (row["response"],),
            )  # fmt: skip

"""A procedural question's own scorer, as reasoning-gym ships it, in the sandbox: some of them evaluate the response."""

import json
from functools import lru_cache

from bm.config import Verify
from bm.verify.cases import BrokenCaseError, Metadata, Verdict, decided
from bm.verify.judging import judgement

_honoured = set[str]()
"""Generators whose scorer has given an answer of theirs full marks, as every one does."""


def judge(text: str, reference: str, metadata: Metadata, settings: Verify) -> Verdict:
    """Whether the generator's scorer gives all of `text` full marks. It rewards near misses in part; they don't count.

    `metadata` is the entry's; its `source_dataset` names the generator. What is its own answer to the letter is right:
    the scorer is asked about the first such answer of a generator alone.
    """
    generator = metadata.get("source_dataset")
    if not isinstance(generator, str):
        raise BrokenCaseError("metadata must name the generator as source_dataset")
    if text == reference and generator in _honoured:
        return decided(True, text)
    accepted = _scored(text, reference, json.dumps(metadata), settings)
    if accepted and text == reference:
        _honoured.add(generator)
    return decided(accepted, text)


@lru_cache(1 << 14)
def _scored(text: str, reference: str, metadata: str, settings: Verify) -> bool:
    """The scorer's word, asked once about a response: samples of a question often are alike."""
    return judgement("score", [text, {"answer": reference, "metadata": json.loads(metadata)}], settings)

"""Texts as words: what duplicates, contamination and repetition are measured in."""

import re

UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
"""Japanese and Chinese characters, which stand for words without spaces between them."""
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")


def words(text: str) -> list[str]:
    """The words and numbers of a text in lower case, without punctuation."""
    return WORD.findall(text.lower())


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Every run of n words, in order; of a shorter text its only run, all of it; of one without words none."""
    in_order = words(text)
    return [tuple(in_order[i : i + n]) for i in range(max(1, len(in_order) - n + 1))] if in_order else []

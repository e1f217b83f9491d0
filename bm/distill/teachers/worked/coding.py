"""Worked program traces: what a short program over strings or lists does, step by step."""

from collections import Counter
from typing import Any

from bm.distill.teachers.worked.hand import Hand


def spell_backward(facts: dict[str, Any], hand: Hand) -> tuple[list[str], str]:
    """The word, then its letters from the last to the first; a slip leaves one out."""
    right = facts["word"][::-1]
    backward = hand.choose(right, [right[:i] + right[i + 1 :] for i in range(len(right))])
    return [facts["word"], backward], backward


def number_filtering(facts: dict[str, Any], hand: Hand) -> tuple[list[str], str]:
    """One comparison a line."""
    action, relation = facts["operation"].split("_")
    limit, kept, steps = facts["filter_value"], [], []
    for number in facts["original_numbers"]:
        difference = float(number) - float(limit)
        sign = hand.choose("<=>"[(difference > 0) - (difference < 0) + 1], "<>")
        keep = (sign == {"larger": ">", "smaller": "<"}[relation]) == (action == "keep")
        steps.append(f"{number} {sign} {limit} {'keep' if keep else 'drop'}")
        kept += [number] * keep
    return steps, str(kept)


def number_sorting(facts: dict[str, Any], hand: Hand) -> tuple[list[str], str]:
    """Selection sort: what is left and the next of it a line; a slip takes another."""
    left, taken, steps = list(facts["original_numbers"]), [], []
    first = min if facts["direction"] == "ascending" else max
    while left:
        best = first(left, key=float)
        chosen = hand.choose(best, [number for number in left if number != best] or [best])
        steps.append(f"{' '.join(left)}: {chosen}")
        left.remove(chosen)
        taken.append(chosen)
    return steps, str(taken)


def letter_counting(facts: dict[str, Any], hand: Hand) -> tuple[list[str], str]:
    """A word a line: how often it has the letter, and how often all words so far have it."""
    steps, total = [], 0
    for word in facts["span"]:
        count = word.lower().count(facts["target_letter"])
        count = hand.choose(count, [count + 1, abs(count - 1)])
        total += count
        steps.append(f"{word} {count} {total}")
    return steps, str(total)


def palindrome_generation(facts: dict[str, Any], hand: Hand) -> tuple[list[str], str]:
    """The letters in order, one of each pair, and what stands alone in the middle; a slip leaves one of a pair out."""
    counts = sorted(Counter(facts["letters"]).items())
    half = "".join(letter * (n // 2) for letter, n in counts)
    half = hand.choose(half, [half[:i] + half[i + 1 :] for i in range(len(half))])
    middle = "".join(letter for letter, n in counts if n % 2)
    return [" ".join(sorted(facts["letters"])), f"{half} {middle}".strip()], half + middle + half[::-1]

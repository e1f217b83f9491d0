"""Worked program traces: what a short program over strings or lists does, step by step."""

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

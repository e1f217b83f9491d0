"""Worked arithmetic."""

from typing import Any

from bm.distill.teachers.worked.hand import Hand


def chain_sum(facts: dict[str, Any], hand: Hand) -> tuple[list[str], str]:
    """From left to right, one operation a line."""
    first, *rest = facts["expression"].split()
    total, steps = int(first), []
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        result = hand.reckon(total + int(term) if sign == "+" else total - int(term))
        steps.append(f"{total} {sign} {term} = {result}")
        total = result
    return steps, str(total)


def products(facts: dict[str, Any], hand: Hand) -> tuple[list[str], str]:
    """Long multiplication of two factors: one place of the first factor a line, then the running sum."""
    left, right = (int(factor) for factor in facts["expression"].split(" * "))
    places = [int(digit) * 10**place for place, digit in enumerate(str(left)[::-1])]
    steps, total = [], 0
    for place in [p for p in places[::-1] if p] or [0]:
        part = hand.reckon(place * right)
        steps.append(f"{place} * {right} = {part}")
        if len(steps) > 1:
            steps.append(f"{total} + {part} = {hand.reckon(total + part)}")
        total += part
    return steps, steps[-1].split(" = ")[1]


def gcd(facts: dict[str, Any], hand: Hand) -> tuple[list[str], str]:
    """Euclid's algorithm, one division with remainder a line."""
    steps = []
    common = facts["numbers"][0]
    for number in facts["numbers"][1:]:
        large, small = max(common, number), min(common, number)
        while small:
            remainder = hand.choose(large % small, [(large + 1) % small, (large - 1) % small])
            steps.append(f"{large} % {small} = {remainder}")
            large, small = small, remainder
        common = large
    return steps, str(common)

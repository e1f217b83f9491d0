"""Worked arithmetic."""

import ast
import operator
from collections.abc import Callable
from typing import Any

from bm.distill.teachers.worked.hand import Hand

OPERATIONS: dict[type[ast.operator], tuple[str, Callable[[int, int], int]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.floordiv),
}


def expression(facts: dict[str, Any], hand: Hand) -> tuple[list[str], str]:
    """Integer arithmetic by precedence and from left to right, one operation a line."""
    steps = []

    def value(node: ast.expr) -> int:
        match node:
            case ast.BinOp(left, operation, right):
                symbol, compute = OPERATIONS[type(operation)]
                a, b = value(left), value(right)
                result = hand.reckon(compute(a, b))
                steps.append(f"{a} {symbol} {b} = {result}")
                return result
            case ast.UnaryOp(ast.USub(), operand):
                return -value(operand)
            case _:
                return int(ast.literal_eval(node))

    return steps, str(value(ast.parse(facts["expression"], mode="eval").body))


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

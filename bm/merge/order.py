"""Merge orders: trees over experts, written as `(math & science) & coding`.

The last operand of a node is its base, the model that is kept; `a* & b` names another. So the text above first merges
math into science, then the result into coding, as the released merge script does.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from bm.errors import UserError, nearest

_TOKEN = re.compile(r"\s*(?:([()&*])|([A-Za-z0-9_.\-]+))")


@dataclass(frozen=True)
class Join:
    """A node of the tree: `operands[base]` is kept, the others are merged into it."""

    operands: "tuple[Order, ...]"
    base: int

    def __str__(self) -> str:
        return " & ".join(self._operand(i) for i in range(len(self.operands)))

    def _operand(self, i: int) -> str:
        operand = self.operands[i]
        text = operand if isinstance(operand, str) else f"({operand})"
        return text + "*" * (i == self.base != len(self.operands) - 1)


Order: TypeAlias = str | Join
"""An expert's name, or a merge of orders."""


def parse(text: str, names: Sequence[str]) -> Order:
    """The order that `text` writes down; UserError at the first thing in it that is not one."""
    tokens, position = [], 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise UserError(
                f"merge.order '{text}': '{text[position:].strip()[0]}' is not part of an order such as 'a & (b & c)'"
            )
        tokens.append(match[1] or match[2])
        position = match.end()
    order, rest = _operands(tokens, text)
    if rest:
        raise UserError(f"merge.order '{text}': unexpected token '{rest[0]}'")
    for name in leaves(order):
        if name not in names:
            hint = nearest(name, names)
            raise UserError(
                f"merge.order '{text}': no expert '{name}'{hint}{' or' if hint.endswith('?') else ';'} "
                "take merge.order=all, every order of the experts there are"
            )
    twice = next((name for name in leaves(order) if leaves(order).count(name) > 1), None)
    if twice:
        raise UserError(f"merge.order '{text}': '{twice}' occurs twice")
    return order


def _operands(tokens: list[str], text: str) -> tuple[Order, list[str]]:
    """operand (`&` operand)*, until the tokens or the parenthesis end."""
    operands: list[Order] = []
    base = None
    while True:
        operand, tokens = _operand(tokens, text)
        operands.append(operand)
        if tokens[:1] == ["*"]:
            if base is not None:
                raise UserError(f"merge.order '{text}': two bases are marked with '*' in one merge")
            base, tokens = len(operands) - 1, tokens[1:]
        if tokens[:1] != ["&"]:
            break
        tokens = tokens[1:]
    if len(operands) == 1:
        return operands[0], tokens
    return Join(tuple(operands), len(operands) - 1 if base is None else base), tokens


def _operand(tokens: list[str], text: str) -> tuple[Order, list[str]]:
    if not tokens or tokens[0] in ")&*":
        instead = f"'{tokens[0]}'" if tokens else "the end"
        raise UserError(f"merge.order '{text}': {instead} where an expert's name should be")
    if tokens[0] != "(":
        return tokens[0], tokens[1:]
    order, tokens = _operands(tokens[1:], text)
    if tokens[:1] != [")"]:
        raise UserError(f"merge.order '{text}': a parenthesis is not closed")
    return order, tokens[1:]


def leaves(order: Order) -> list[str]:
    """The experts of an order, as read."""
    return [order] if isinstance(order, str) else [name for operand in order.operands for name in leaves(operand)]


def base_leaf(order: Order) -> str:
    """The expert that is kept through every step: the merged model has its configuration and tokenizer."""
    while not isinstance(order, str):
        order = order.operands[order.base]
    return order


def pairwise_orders(names: Sequence[str]) -> Iterator[Join]:
    """Every order of two-model merges over all names: each binary tree with each choice of base, once.

    Two for two experts, twelve for three: which operand is named first does not matter, only which is the base.
    """
    for order in _trees(tuple(names)):
        if isinstance(order, Join):
            yield order


def _trees(names: tuple[str, ...]) -> Iterator[Order]:
    if len(names) == 1:
        yield names[0]
        return
    first, *rest = range(len(names))
    for chosen in range(2 ** len(rest) - 1):  # the part that holds the first name, never all of them
        inside = [first] + [i for bit, i in enumerate(rest) if chosen >> bit & 1]
        inner = tuple(names[i] for i in inside)
        outer = tuple(name for i, name in enumerate(names) if i not in inside)
        for left in _trees(inner):
            for right in _trees(outer):
                yield Join((left, right), 1)
                yield Join((right, left), 1)

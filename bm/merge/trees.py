"""Which tensors are merged how: an order and a method over checkpoints become one merge tree for each output tensor."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from bm.merge.checkpoint import Stored
from bm.merge.dtypes import FLOATING, Dtype
from bm.merge.order import Join, Order, base_leaf, leaves
from bm.merge.preflight import is_buffer
from bm.merge.steps import Input, Item, Node
from bm.merge.tensors import Method, kind_of

Checkpoints: TypeAlias = Mapping[str, Mapping[str, Stored]]
"""A model's name and its tensors by theirs."""
STUDENT = "student"
"""Whose statistics they are that are measured on the base."""


def plan(
    order: Order,
    methods: Sequence[Method],
    models: Checkpoints,
    student: Mapping[str, Stored] | None,
    statistics: Checkpoints,
    out_dtype: Dtype,
) -> list[Item]:
    """One item per tensor of the base in file order, with one tree per method; what cannot be merged is the base's."""
    kept = models[base_leaf(order)]
    return [
        Item(name, tensor.shape, out_dtype, tuple(_tree(name, order, m, models, student, statistics) for m in methods))
        if tensor.dtype in FLOATING and tensor.elements and not is_buffer(name)
        else Item(name, tensor.shape, tensor.dtype, (tensor,) * len(methods))
        for name, tensor in kept.items()
    ]


def _tree(
    name: str,
    order: Order,
    method: Method,
    models: Checkpoints,
    student: Mapping[str, Stored] | None,
    statistics: Checkpoints,
) -> Input:
    """Methods of two models follow the order's tree; the others merge all of its leaves at once."""
    if kind_of(method) == "pair":
        return _pairs(name, order, method, models)
    chosen = leaves(order)
    if kind_of(method) == "two" and len(chosen) > 1:
        return _twos(name, order, method, models, student)
    return Node(
        method,
        None if student is None else student[name],
        tuple(models[leaf][name] for leaf in chosen),
        base_leaf(order) if student is None else "the student",
        tuple(chosen),
        tuple(statistics[leaf][name] for leaf in (*chosen, STUDENT) if name in statistics.get(leaf, {})),
    )


def _pairs(name: str, order: Order, method: Method, models: Checkpoints) -> Input:
    """The base of a node takes its other operands one after the other, in reading order."""
    if isinstance(order, str):
        return models[order][name]
    base, merged = order.operands[order.base], _pairs(name, order.operands[order.base], method, models)
    label = str(base)
    for i, other in enumerate(order.operands):
        if i != order.base:
            merged = Node(method, merged, (_pairs(name, other, method, models),), label, (str(other),))
            label = str(Join((other, base), 1))
    return merged


def _twos(name: str, order: Order, method: Method, models: Checkpoints, student: Mapping[str, Stored] | None) -> Input:
    """The operands of a node one after the other, in reading order, each as the second of two over the student."""
    if isinstance(order, str):
        return models[order][name]
    base, about = (None, str(order)) if student is None else (student[name], "the student")
    first, *others = order.operands
    merged, label = _twos(name, first, method, models, student), str(first)
    for other in others:
        node = Node(method, base, (merged, _twos(name, other, method, models, student)), about, (label, str(other)))
        merged, label = node, f"({label} & {other})"
    return merged

"""Merging: methods as pure functions, streamed over checkpoints of any size, exact and deterministic."""

from bm.merge.geometry import geometry
from bm.merge.interference import interference
from bm.merge.merging import merge, merge_folders, merge_grid, merge_in_memory, merge_many, orders, takes_two
from bm.merge.order import base_leaf
from bm.merge.regmean_plus_plus import measure_together
from bm.merge.statistics import measure
from bm.merge.tensors import statistics_of
from bm.rooms import called

__all__ = [
    "base_leaf",
    "geometry",
    "interference",
    "measure",
    "measure_together",
    "merge",
    "merge_folders",
    "merge_grid",
    "merge_in_memory",
    "merge_many",
    "orders",
    "statistics_of",
    "takes_two",
]

called(__name__)

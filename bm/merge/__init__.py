"""Merging: methods as pure functions, streamed over checkpoints of any size, exact and deterministic."""

from bm.merge.interference import interference
from bm.merge.merging import merge, merge_folders, merge_grid, merge_in_memory, merge_many, orders

__all__ = ["interference", "merge", "merge_folders", "merge_grid", "merge_in_memory", "merge_many", "orders"]

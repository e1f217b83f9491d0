"""Merge methods: each one pure function of a named parameter across models, after the paper its docstring names."""

from bm.merge.methods.arcee_fusion import arcee_fusion
from bm.merge.methods.linear import linear

__all__ = ["arcee_fusion", "linear"]

"""Embeddings in another vocabulary: whatever range is read, the rows are those that each token asks for."""

from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bm.merge.mergekit.vocabulary import Vocabulary
from bm.merge.tensors import Held

A, B = Path("a"), Path("b")
NAME = "model.embed_tokens.weight"
ROW = st.lists(st.tuples(st.sampled_from([A, B]), st.integers(0, 5)), max_size=2).map(tuple)


@settings(deadline=None)
@given(st.lists(ROW, min_size=1, max_size=12), st.integers(0, 3), st.data())
def test_any_range_of_an_aligned_embedding(rows, padding, data):
    random = torch.Generator().manual_seed(4)
    held = {folder: torch.randn(6, 3, generator=random, dtype=torch.float64) for folder in (A, B)}
    nothing = torch.zeros(3, dtype=torch.float64)
    tokens = torch.stack([
        torch.stack([held[folder][index] for folder, index in row]).mean(0) if row else nothing for row in rows
    ])  # fmt: skip
    whole = torch.cat([tokens, tokens.mean(0).expand(padding, 3)])
    stored = {folder: {NAME: Held(tensor), "model.norm.weight": Held(tensor[0])} for folder, tensor in held.items()}
    vocabulary = Vocabulary(None, {A: rows, B: rows}, padding)
    aligned = vocabulary.aligned(stored)
    assert vocabulary.size == len(whole)
    assert aligned[A]["model.norm.weight"] is stored[A]["model.norm.weight"]
    assert aligned[B][NAME].shape == tuple(whole.shape)
    start = data.draw(st.integers(0, whole.numel() - 1))
    stop = data.draw(st.integers(start + 1, whole.numel()))
    torch.testing.assert_close(aligned[B][NAME].read(start, stop), whole.flatten()[start:stop])


def test_runs_of_rows_are_read_at_once():
    """A vocabulary that only grew is two reads: its old rows, and the new ones from the other model."""
    reads = []

    class Counted(Held):
        def read(self, start, stop):
            reads.append((start, stop))
            return super().read(start, stop)

    stored = {folder: {NAME: Counted(torch.randn(6, 3))} for folder in (A, B)}
    rows = [((A, i),) for i in range(4)] + [((B, 4),), ((B, 5),)]
    whole = Vocabulary(None, {A: rows, B: rows}, 0).aligned(stored)[A][NAME].read(0, 18)
    assert reads == [(0, 12), (12, 18)]
    assert torch.equal(whole[:12], stored[A][NAME].tensor.flatten()[:12])

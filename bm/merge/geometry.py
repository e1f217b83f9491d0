"""How far models went from their base, and how their updates meet, from a sample of every tensor: in a moment."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np

from bm.merge.arrays import Array, as_float
from bm.merge.checkpoint import Stored, checkpoint
from bm.merge.dtypes import FLOATING
from bm.merge.preflight import aligned, is_buffer

ENTRIES = 1 << 21
"""About as many entries of each model are read."""
PIECES = 8
"""From this many places of a tensor."""
AT_ONCE = 1 << 15
"""Entries of each model that are at work."""
BASE = "the base"


@dataclass(frozen=True)
class Geometry:
    distance: float
    """Mean over models of ‖θ − θ0‖ / ‖θ0‖."""
    cosine: float
    """Mean over pairs of models, of their updates θ − θ0."""
    conflict: float
    """Mean over pairs: share of the entries that both change which they change in opposite directions."""


def geometry(models: Sequence[Path], base: Path) -> Geometry | None:
    """The geometry of two models or more and their base θ0; None where some model does not differ from it.

    Every tensor gives a share of its entries, in pieces evenly spaced, and counts with all of them. Whole models of up
    to `ENTRIES` entries are read whole. UserError where the models do not fit each other.
    """
    folders = {**{str(i): folder for i, folder in enumerate(models)}, BASE: base}
    with ExitStack() as stack:
        opened = aligned(folders, {n: stack.enter_context(checkpoint(f)) for n, f in folders.items()}, BASE)
        names = [n for n, t in opened[BASE].items() if t.dtype in FLOATING and t.elements and not is_buffer(n)]
        share = min(1.0, ENTRIES / max(1, sum(opened[BASE][name].elements for name in names)))
        gram = np.zeros((len(models) + 1, len(models) + 1))
        opposed, changed = np.zeros((2, len(models), len(models)))
        for name in names:
            stored = [_sampled(opened[folder][name], share) for folder in folders]
            weight = opened[BASE][name].elements / len(stored[-1])
            for first in range(0, len(stored[-1]), AT_ONCE):
                rows = np.stack([as_float(entries[first : first + AT_ONCE]).astype(np.float64) for entries in stored])
                updates = rows[:-1]
                updates -= rows[-1]
                gram += weight * (rows @ rows.T)
                signs = np.sign(updates)
                agreement, both = signs @ signs.T, np.abs(signs) @ np.abs(signs).T
                opposed += weight * (both - agreement) / 2
                changed += weight * both
    lengths = np.sqrt(gram.diagonal())
    pairs = list(combinations(range(len(models)), 2))
    if not lengths[:-1].all() or not all(changed[i, j] for i, j in pairs):
        return None
    return Geometry(
        float((lengths[:-1] / lengths[-1]).mean()),
        fmean(float(gram[i, j] / (lengths[i] * lengths[j])) for i, j in pairs),
        fmean(float(opposed[i, j] / changed[i, j]) for i, j in pairs),
    )


def _sampled(tensor: Stored, share: float) -> Array:
    """Entries [n] of a tensor as they are stored: all of it, or `share` of it in pieces."""
    size = max(1, round(share * tensor.elements / PIECES))
    if share == 1.0 or size * PIECES >= tensor.elements:
        entries = tensor.stored(0, tensor.elements).copy()
    else:
        step = tensor.elements // PIECES
        entries = np.concatenate([tensor.stored(i * step, i * step + size) for i in range(PIECES)])
    tensor.forget(0, tensor.elements)  # the kernel maps much more around what is looked at
    return entries

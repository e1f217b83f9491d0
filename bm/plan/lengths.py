"""Documents and packs that are not there yet, of which a plan knows the lengths alone."""

from collections.abc import Sequence

import numpy as np

from bm.branch.documents import Documents
from bm.config import Branch


def of_lengths(counts: Sequence[int], lengths: Sequence[int], prompt_share: float) -> Documents:
    """Documents of which only the lengths are known."""
    each = np.repeat(np.array(lengths, dtype=np.int64), counts)
    nothing = np.zeros(len(each), dtype=np.int64)
    return Documents(
        tokens=np.zeros(0, dtype=np.int32), starts=nothing, lengths=each,
        prompts=np.maximum(1, (prompt_share * each).astype(np.int64)),
        domain=np.repeat(np.arange(len(counts)), counts), held_out=nothing.astype(np.bool_), cut=nothing,
        dropped=np.zeros((len(counts), 2), dtype=np.int64), ids=np.zeros(len(each), dtype=np.str_),
    )  # fmt: skip


def packed(documents: Documents, settings: Branch) -> list[list[int]]:
    """Documents one after the other in packs as full as equal lengths allow."""
    packs: list[list[int]] = [[]]
    room = settings.sequence_length
    for index, length in enumerate(documents.lengths.tolist()):
        if packs[-1] and (length > room or settings.packing == "none"):
            packs.append([])
            room = settings.sequence_length
        packs[-1].append(index)
        room -= length
    return packs

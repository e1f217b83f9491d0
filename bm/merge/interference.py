"""How the experts' updates of one student meet, before anything is merged: one streamed pass over all of them.

The paper (appendix C) explains merging by updates θ_i − θ0 that are nearly orthogonal: here, tensor by tensor.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa

from bm.config import Merge
from bm.merge.checkpoint import Stored, checkpoint
from bm.merge.dtypes import FLOATING, Dtype
from bm.merge.engine import pool
from bm.merge.lazy import Tensor, torch
from bm.merge.methods.arcee_fusion import QUARTILES
from bm.merge.preflight import aligned, is_buffer
from bm.merge.scores import Change
from bm.merge.tables import write_table
from bm.merge.tensors import Compute, Tensors, Tile, above
from bm.merge.tiling import computing
from bm.progress import progress

SCHEMA = pa.schema({
    "tensor": pa.string(), "layer": pa.int32(), "module": pa.string(), "elements": pa.int64(),
    "one": pa.string(), "other": pa.string(), "one_norm": pa.float64(), "other_norm": pa.float64(),
    "cosine": pa.float64(), "sign_conflict": pa.float64(), "mask_overlap": pa.float64(),
})  # fmt: skip
STUDENT = "the student"


def interference(models: Mapping[str, Path], student: Path, lam: float, config: Merge, work: Path) -> dict[str, Any]:
    """Writes `interference.parquet`: a row for each tensor and pair of experts.

    cosine: of the two updates, null where one is zero. sign_conflict: share of the entries which both change that they
    change in opposite directions, null without such entries. mask_overlap: Jaccard index of the entries that Arcee
    Fusion with this λ would take from either into the student, null where it takes none.
    Facts: the mean cosine over pairs, of the whole models' updates; digests.
    """
    folders = {**models, STUDENT: student}
    with ExitStack() as stack:
        opened = aligned(folders, {n: stack.enter_context(checkpoint(f)) for n, f in folders.items()}, STUDENT)
        run = computing(Dtype[config.dtype], config.device, config.seed)
        rows, total = _measure_all(opened, list(models), lam, run, config.threads)
    lengths = total.diagonal().sqrt()
    cosines = [(total[i, j] / (lengths[i] * lengths[j])).item() for i, j in combinations(range(len(models)), 2)]
    digests = write_table(work / "interference.parquet", rows, SCHEMA)
    return {"mean_cosine": sum(cosines) / len(cosines), "digests": digests}


def _measure_all(
    opened: Mapping[str, Mapping[str, Stored]], names: Sequence[str], lam: float, run: Compute, threads: int
) -> tuple[list[dict[str, Any]], Tensor]:
    """The rows, and the Gram matrix [experts, experts] of the whole updates."""
    kept = {n: t for n, t in opened[STUDENT].items() if t.dtype in FLOATING and t.elements and not is_buffer(n)}
    rows, total = [], torch.zeros(len(names), len(names), dtype=torch.float64)
    size = sum(tensor.elements for tensor in kept.values())
    with pool(run, threads) as (run, _), progress("interference", size, "entries") as bar:
        for name, tensor in kept.items():
            tensors = Tensors(name, tensor, [opened[expert][name] for expert in names], names=names, run=run)
            gram, pairs = _measure(tensors, lam)
            tensors.release()
            total += gram
            rows += pairs
            bar.advance(tensor.elements)
    return rows, total


def _measure(tensors: Tensors, lam: float) -> tuple[Tensor, list[dict[str, Any]]]:
    experts = range(len(tensors.models))
    thresholds = []
    importance = [Change(k, weighed=True) for k in experts]
    for k in experts:
        q1, median, q3 = tensors.quantiles(importance[k], QUARTILES)
        thresholds.append(median + lam * (q3 - q1))

    def meet(tile: Tile) -> Tensor:
        """[experts, experts, 5]: ⟨u_i, u_j⟩, both changed, both in opposite directions, taken of both, of either."""
        updates = [(tile.models[k] - tile.kept).reshape(-1) for k in experts]
        signs = [update.sign() for update in updates]
        masks = [above(tile.of(importance[k]), thresholds[k]).reshape(-1) for k in experts]
        sums = torch.zeros(len(experts), len(experts), 5, dtype=torch.float64)
        for i in experts:
            for j in experts[i:]:
                both = torch.dot(masks[i], masks[j])
                agreement = signs[i] * signs[j]
                changed, opposed = agreement.abs().sum(), (agreement < 0).sum()
                either = masks[i].sum() + masks[j].sum() - both
                measured = (torch.dot(updates[i], updates[j]), changed, opposed, both, either)
                sums[i, j] = torch.tensor([float(value) for value in measured], dtype=torch.float64)
        return sums

    sums = tensors.reduce(meet)
    gram = sums[..., 0].triu() + sums[..., 0].triu(1).T
    return gram, [_row(tensors, gram, sums[i, j], i, j) for i, j in combinations(experts, 2)]


def _row(tensors: Tensors, gram: Tensor, sums: Tensor, i: int, j: int) -> dict[str, Any]:
    lengths = gram.diagonal().sqrt().tolist()
    _, changed, opposed, both, either = sums.tolist()
    place = tensors.place
    return {
        "tensor": tensors.name, "layer": place.layer, "module": place.module, "elements": tensors.elements,
        "one": tensors.names[i], "other": tensors.names[j], "one_norm": lengths[i], "other_norm": lengths[j],
        "cosine": gram[i, j].item() / (lengths[i] * lengths[j]) if lengths[i] and lengths[j] else None,
        "sign_conflict": opposed / changed if changed else None,
        "mask_overlap": both / either if either else None,
    }  # fmt: skip

"""Interference of updates against whole-tensor float64."""

from itertools import combinations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from bm.merge import interference, tiling
from tests.merge.folders import Settings, load, save, weights


def taken(student, expert, lam):
    """What Arcee Fusion takes of the expert into the student, in float64."""
    p, q = torch.log_softmax(expert, -1), torch.log_softmax(student, -1)
    score = (p.exp() * (p - q)).sum(-1, keepdim=True) * (expert - student).abs()
    values = score.reshape(-1).numpy()
    ranks = [int(share * (len(values) - 1)) for share in (0.25, 0.5, 0.75)]
    q1, median, q3 = np.partition(values, ranks)[ranks]
    return score > median + lam * (q3 - q1)


def test_against_whole_tensors(student, experts, tmp_path, monkeypatch):
    monkeypatch.setattr(tiling, "TILE_ELEMENTS", 1 << 10)
    facts = interference(experts, student, 1.5, Settings(), tmp_path)
    start = {name: value.double() for name, value in load(student).items()}
    ends = {e: {name: value.double() for name, value in load(folder).items()} for e, folder in experts.items()}
    table = pq.read_table(tmp_path / "interference.parquet").to_pylist()
    rows = {(row["tensor"], row["one"], row["other"]): row for row in table}
    assert set(rows) == {(name, *pair) for name in start for pair in combinations(experts, 2)}
    for (name, first, second), row in rows.items():
        u, v = ((ends[e][name] - start[name]).reshape(-1) for e in (first, second))
        assert row["cosine"] == pytest.approx((u @ v / (u.norm() * v.norm())).item(), abs=1e-6)
        assert row["one_norm"] == pytest.approx(u.norm().item(), rel=1e-6)
        conflict = int((u * v < 0).sum()) / int((u * v != 0).sum())
        assert row["sign_conflict"] == pytest.approx(conflict, abs=1e-9)
        a, b = (taken(start[name], ends[e][name], 1.5) for e in (first, second))
        either = int((a | b).sum())
        one_entry = (
            1 / either
        )  # bfloat16 updates tie: in a small tensor one may be the threshold, where rounding decides
        assert row["mask_overlap"] == pytest.approx(int((a & b).sum()) / either, abs=max(1e-2, one_entry))
    whole = {e: torch.cat([(ends[e][n] - start[n]).reshape(-1) for n in start]) for e in experts}
    cosines = [whole[a] @ whole[b] / (whole[a].norm() * whole[b].norm()) for a, b in combinations(experts, 2)]
    assert facts["mean_cosine"] == pytest.approx(torch.stack(cosines).mean().item(), abs=1e-6)
    assert abs(facts["mean_cosine"]) < 0.02  # independent random updates


def test_what_is_held_of_scores_is_given_back(student, experts, tmp_path, monkeypatch):
    """In float64 no kernel scores, so that scores are held between passes: room for one tensor's is enough for all."""
    taken_bytes, given = [], []
    take, give = tiling.Allowance.take, tiling.Allowance.give
    monkeypatch.setattr(tiling.Allowance, "take", lambda own, size: taken_bytes.append(size) or take(own, size))
    monkeypatch.setattr(tiling.Allowance, "give", lambda own, size: given.append(size) or give(own, size))
    interference(experts, student, 1.5, Settings(dtype="float64"), tmp_path)
    assert sum(given) == sum(taken_bytes) > 0


def test_same_opposite_and_no_updates(tmp_path):
    start = weights(dtype=torch.float32)
    end = weights(1, start, dtype=torch.float32)
    folders = {
        "a": save(tmp_path / "a", end),
        "b": save(tmp_path / "b", {name: 2 * start[name] - value for name, value in end.items()}),
        "none": save(tmp_path / "none", start),
    }
    interference(folders, save(tmp_path / "s", start), 1.5, Settings(), tmp_path)
    for row in pq.read_table(tmp_path / "interference.parquet").to_pylist():
        if row["other"] == "b":
            assert row["cosine"] == pytest.approx(-1, abs=1e-3)
            assert row["sign_conflict"] > 0.999
        else:
            assert row["cosine"] is None
            assert row["sign_conflict"] is None
            assert row["mask_overlap"] in (0, None)

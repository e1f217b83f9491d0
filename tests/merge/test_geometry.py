"""Geometry of updates against whole models in float64, and against the interference that streams all of them."""

from importlib import import_module
from itertools import combinations

import pytest
import torch

from bm.merge import geometry
from bm.report.findings import forecast
from bm.report.findings.forecast import fit
from bm.report.findings.law import Observation
from bm.report.findings.regimes import Regime
from tests.merge.folders import load, save, weights


def whole(folder, start):
    return torch.cat([(value.double() - start[name]).reshape(-1) for name, value in load(folder).items()])


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_against_whole_models(student, experts, monkeypatch, share):
    """To rounding where all entries are read; a quarter of them tells the same within a few percent."""
    start = {name: value.double() for name, value in load(student).items()}
    entries = sum(value.numel() for value in start.values())
    monkeypatch.setattr(import_module("bm.merge.geometry"), "ENTRIES", int(share * entries))
    measured = geometry(list(experts.values()), student)
    assert measured is not None
    updates = [whole(folder, start) for folder in experts.values()]
    length = torch.cat([value.reshape(-1) for value in start.values()]).norm()
    near = {"rel": 1e-6} if share == 1.0 else {"rel": 0.1, "abs": 0.05}
    assert measured.distance == pytest.approx((sum(u.norm() for u in updates) / len(updates) / length).item(), **near)
    pairs = list(combinations(updates, 2))
    cosine = sum((u @ v / (u.norm() * v.norm())).item() for u, v in pairs) / len(pairs)
    assert measured.cosine == pytest.approx(cosine, **{**near, "abs": 0.05 if share < 1 else 1e-9})
    conflict = sum(((u * v < 0).sum() / (u * v != 0).sum()).item() for u, v in pairs) / len(pairs)
    assert measured.conflict == pytest.approx(conflict, **near)


def test_a_model_like_its_base_has_no_update(tmp_path):
    start = weights(dtype=torch.float32)
    base, same = save(tmp_path / "base", start), save(tmp_path / "same", start)
    assert geometry([same, save(tmp_path / "other", weights(1, start, dtype=torch.float32))], base) is None


def test_a_merge_of_folders_says_how_it_would_stand_to_a_mixture(student, experts, bm, tmp_path, monkeypatch):
    """From a fit on weights alone: the chance, or that these models are outside of what it was fitted on."""
    measured = geometry(list(experts.values()), student)
    assert measured is not None

    def fitted(spread):
        """A law that has seen distances this near to theirs."""
        cells = []
        for i in range(25):
            near = {name: value + spread * (i % 3 - 1) * (i + 1) for name, value in vars(measured).items()}
            cells.append(Observation(Regime("linear", **near, gap=-0.01 * (i % 2)), i % 5, i // 5, 1))
        return (fit(cells, "weights"),)

    words = ("merge", "merge=task_arithmetic", f"base={student}", f"models=[{experts['math']},{experts['coding']}]")
    monkeypatch.setattr(forecast, "recorded", lambda: fitted(0.1))
    said = bm(*words, f"output={tmp_path / 'one'}", cwd=tmp_path)
    assert "task_arithmetic: within 2 points of a mixture with a probability of " in " ".join(said.stderr.split()), said
    monkeypatch.setattr(forecast, "recorded", lambda: fitted(1e-9))
    said = bm(*words, f"output={tmp_path / 'two'}", cwd=tmp_path)
    assert "outside the range that the law was fitted on (" in " ".join(said.stderr.split()), said

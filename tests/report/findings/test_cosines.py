"""How updates and gradients meet, as results.json tells it, from what interference and a mixture's training left."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bm.report import Subject
from bm.report.findings.evidence import cosines
from bm.store import Artefact


def test_updates_are_whole_models_and_gradients_a_trainings_mean(tmp_path: Path) -> None:
    met, mixture = tmp_path / "met", tmp_path / "mixture"
    met.mkdir()
    mixture.mkdir()
    common = {"one": "math", "other": "coding", "elements": 4, "sign_conflict": 0.5, "mask_overlap": 0.1}
    tensors = [
        {"cosine": 1.0, "one_norm": 3.0, "other_norm": 4.0},
        {"cosine": -1.0, "one_norm": 4.0, "other_norm": 3.0},
    ]
    tensors += [{"cosine": 0.5, "one_norm": 12.0, "other_norm": 12.0}]
    pq.write_table(pa.Table.from_pylist([common | t for t in tensors]), met / "interference.parquet")
    (mixture / "metrics.csv").write_text("step,loss,cosine_math_coding\n1,2.0,-0.3\n2,1.5,\n3,1.0,-0.1\n")
    model = Artefact(mixture, {"stage": "branch", "key": "m"})
    by_kind = cosines([Subject("mixture", "mixture", model, model)], [model, Artefact(met, {"stage": "interference"})])
    assert by_kind["updates"]["math & coding"] == pytest.approx(72 / 169)
    assert by_kind["gradients"]["math & coding"] == pytest.approx(-0.2)
    assert cosines([], [model]) == {}

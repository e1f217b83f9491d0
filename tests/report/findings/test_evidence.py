from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bm.ledger import Ledger
from bm.report.findings.evidence import (
    Cost,
    Funnel,
    Node,
    curve,
    funnel,
    gather,
    kept_shares,
    lineage_of,
)
from bm.store import Artefact
from tests.report.conftest import LAYERS, MODULES, RUN, SETTINGS, Fixture


def test_curve_reads_every_step(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,epoch,loss,tokens\n1,0.5,2.5,100\n2,1.0,1.25,200\n")
    training = curve("math", "expert", tmp_path)
    assert (training.steps, training.losses) == ((1, 2), (2.5, 1.25))


def test_kept_share_weighs_tensors_by_their_elements(tmp_path: Path) -> None:
    columns = ("step", "base", "other", "layer", "module", "elements", "kept_share")
    lines = [
        (1, "a", "b", 0, "q_proj", 90, 0.1),
        (1, "a", "b", 0, "q_proj", 10, 0.6),
        (1, "a", "b", -1, "norm", 100, 0.0),
        (2, "c", "a & b", 0, "q_proj", 5, 1.0),
    ]
    pq.write_table(
        pa.Table.from_pylist([dict(zip(columns, line, strict=True)) for line in lines]), tmp_path / "tensors.parquet"
    )
    first, second = kept_shares("m", tmp_path)
    assert first.shares == {(0, "q_proj"): pytest.approx(0.15), (-1, "norm"): 0.0}
    assert first.total == pytest.approx(0.075)
    assert (second.base, second.other, second.total) == ("c", "a & b", 1.0)


def test_funnel_names_the_most_frequent_reason_first(tmp_path: Path) -> None:
    facts = {"asked": 4, "answered": 8, "kept": 3, "duplicates": 2, "rejected": {"long": 1, "wrong": 4}}
    counted = funnel(Artefact(tmp_path, {"label": "math train", "facts": facts}))
    assert counted == Funnel("math train", 4, 8, 3, {"wrong": 4, "long": 1}, 2)
    assert list(counted.rejected) == ["wrong", "long"]


def test_what_several_inputs_share_is_counted_once() -> None:
    made = [("student", (), 100), ("math", ("student",), 10), ("code", ("student",), 20)]
    made += [("merge", ("math", "code"), 1), ("other", (), 7)]
    nodes = [Node(key, "branch", key, inputs, Cost(seconds, 0, 0)) for key, inputs, seconds in made]
    assert [n.key for n in lineage_of(["merge"], nodes)] == ["student", "math", "code", "merge"]
    assert [n.key for n in lineage_of(["math"], nodes)] == ["student", "math"]


def test_gather_finds_what_each_artefact_has(experiment: Fixture) -> None:
    ledger = Ledger(experiment.artefacts, SETTINGS.prices)
    evidence = gather(SETTINGS.title, experiment.subjects, experiment.artefacts, RUN.command, SETTINGS.config, ledger)
    assert [c.name for c in evidence.curves] == ["student", "math", "coding", "science", "mixture proportional"]
    assert {k.merge for k in evidence.kept} == {
        s.name for s in experiment.subjects if s.name.startswith("arcee_fusion")
    }
    assert len(evidence.kept) == 4, "two steps of each fusion, and none of the soup, which selects nothing"
    assert {len(k.shares) for k in evidence.kept} == {LAYERS * len(MODULES) + 2}
    assert {f.name for f in evidence.funnels} == {
        f"{d} {part}" for d in ("math", "coding", "science") for part in ("student", "train")
    }
    assert {s.model.key for s in experiment.subjects} <= {n.key for n in evidence.lineage}
    assert evidence.environment["torch"] and evidence.environment["GPUs"]

"""Costs over lineage: shared artefacts counted once, whatever the graph; FLOPs and money by their formulas."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from bm.config import Prices, typed
from bm.ledger import NOTHING, Ledger, parameters
from bm.store import Artefact
from bm.yaml import read_yaml

PRICES: Prices = typed(Prices, read_yaml(Path(__file__).parents[1] / "conf/settings/prices.yaml"))


def artefact(key: str, seconds: float, inputs: list[str], stage: str = "branch", **more: Any) -> Artefact:
    facts = {"tokens": 10, "flops": 7.0, **more.pop("facts", {})}
    hardware = {"gpus": [more.pop("gpu", "NVIDIA H800 PCIe")]}
    before = [{"stage": "branch", "key": i, "label": i} for i in inputs]
    manifest = {"stage": stage, "key": key, "label": key, "seconds": seconds, "facts": facts, "files": {},
                "inputs": before, "hardware": hardware}  # fmt: skip
    return Artefact(more.pop("path", Path(key)), manifest)


@st.composite
def graphs(draw: st.DrawFn) -> list[Artefact]:
    """Lineages: an artefact's inputs are any of those before it, one of them perhaps twice."""
    lineage: list[Artefact] = []
    for number in range(draw(st.integers(1, 12))):
        before = [a.key for a in lineage]
        inputs = draw(st.lists(st.sampled_from(before), max_size=5)) if before else []
        lineage.append(artefact(str(number), draw(st.integers(0, 1000)), inputs))
    return lineage


def union(key: str, graph: dict[str, Artefact]) -> set[str]:
    return {key}.union(*(union(i["key"], graph) for i in graph[key].manifest["inputs"]))


@given(graphs())
def test_sums_are_over_the_union_of_what_is_behind(graph: list[Artefact]) -> None:
    by_key, ledger = {a.key: a for a in graph}, Ledger(graph, PRICES)
    for node in graph:
        behind = union(node.key, by_key)
        cost = ledger.behind(node)
        assert cost.seconds == sum(by_key[key].manifest["seconds"] for key in behind)
        assert (cost.tokens, cost.flops) == (10 * len(behind), 7 * len(behind))
    both = ledger.behind(graph[0], graph[-1], graph[-1])
    assert both.tokens == 10 * len(union(graph[0].key, by_key) | union(graph[-1].key, by_key))


def test_the_paper_costs_what_it_says() -> None:
    """740 GPU-hours of the mixture and 4 of a merge are about 1,500 USD, and the merge 0.5 % (Table 2)."""
    mixture = artefact("mixture", 23 * 3600, [], facts={"gpus": 32})
    merge = artefact("merge", 3600, [], "merge", facts={"gpus": 4})
    ledger = Ledger([mixture, merge], PRICES)
    both = ledger.behind(mixture, merge)
    assert both.gpu_hours == pytest.approx(740)
    assert both.money == pytest.approx(1500, rel=0.01)
    assert ledger.of(merge).gpu_hours / ledger.of(mixture).gpu_hours == pytest.approx(0.005, abs=0.001)


def test_money_of_machines_endpoints_and_unpriced_gpus() -> None:
    ledger = Ledger([], PRICES)
    assert ledger.of(artefact("a", 7200, [])).money == pytest.approx(2 * PRICES.machine)
    asked = artefact("a", 3600, [], "distill", facts={"teacher": {"tokens": 5, "cost": 0.25}})
    assert ledger.of(asked).money == pytest.approx(PRICES.machine + 0.25) and ledger.of(asked).tokens == 5
    tested = artefact("a", 3600, [], facts={"engine": {"cost": 0.5}})
    assert ledger.of(tested).money == pytest.approx(PRICES.machine + 0.5)
    unpriced = artefact("a", 3600, [], gpu="Unheard of", facts={"gpus": 1})
    assert ledger.of(unpriced).money is None
    assert (ledger.of(unpriced) + NOTHING).money is None


def test_answers_that_artefacts_share_are_paid_by_the_one_that_asked() -> None:
    """All 12 answers count for what they are; only what an artefact asked for itself counts as its cost."""
    first = artefact("a", 0, [], "distill", facts={
        "teacher": {"tokens": 10, "cost": 1.0, "own": {"tokens": 10, "cost": 1.0}}})  # fmt: skip
    wider = artefact("b", 0, [], "distill", facts={
        "teacher": {"tokens": 12, "cost": 1.2, "own": {"tokens": 2, "cost": 0.2}}})  # fmt: skip
    model = artefact("c", 0, ["a", "b"], "merge", facts={"tokens": 0})
    both = Ledger([first, wider, model], PRICES).behind(model)
    assert both.tokens == 12
    assert both.money == pytest.approx(1.2)


def test_flops_of_generation_and_of_a_merge(tmp_path: Path) -> None:
    """2 a parameter and token; an entry read is one."""
    model = tmp_path / "model"
    model.mkdir()
    save_file({"w": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float16)}, model / "model.safetensors")
    (tmp_path / "evaluation").mkdir()
    scores = {"math": {"questions": 4, "samples": 2, "response_tokens": 2.5}}
    (tmp_path / "evaluation" / "scores.json").write_text(json.dumps(scores))
    student = artefact("student", 1, [], path=model)
    asked = artefact("asked", 1, ["student"], "evaluate", path=tmp_path / "evaluation")
    merged = artefact("merged", 1, ["student", "student"], "merge")
    for made in (asked, merged):
        made.facts.pop("flops")  # type: ignore[attr-defined]
    ledger = Ledger([student, asked, merged], PRICES)
    assert parameters(model) == 17 and ledger.of(asked).tokens == 20
    assert (ledger.of(asked).flops, ledger.of(merged).flops) == (2 * 17 * 20, 2 * 17)

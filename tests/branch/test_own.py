"""Learning on the student's own responses: what is sampled, what is learned, and a run that is killed in between."""

from pathlib import Path
from typing import Any

import pytest

from bm.branch import Traces
from bm.config import Branch
from tests.branch.conftest import branch
from tests.branch.test_training import rows, trained


@pytest.fixture(scope="module")
def teachers(student: Path, traces: list[Traces], tmp_path_factory: pytest.TempPathFactory) -> list[Traces]:
    """Each domain with an expert of its own for a teacher."""
    found = []
    for source in traces:
        work = tmp_path_factory.mktemp("expert") / source.domain
        trained(student, [source], work, branch(epochs=6))
        found.append(Traces(source.path, source.domain, 1.0, work))
    return found


def opd(loss: str = "opd", **settings: Any) -> Branch:
    return branch(loss=loss, teacher="experts", **{"epochs": 3, **settings})


def own(**settings: Any) -> dict[str, Any]:
    values: Any = branch(loss="opd", teacher="experts").own
    return {**vars(values), **settings}


def test_each_prompt_learns_from_its_domains_expert_on_the_students_own_responses(
    student: Path, teachers: list[Traces], tmp_path: Path
) -> None:
    facts = trained(student, teachers, tmp_path / "work", opd(epochs=6))
    table = rows(tmp_path / "work")
    assert facts["own"]["tokens"] > 0 and facts["supervised_tokens"] <= facts["own"]["tokens"] + 1
    first, last = (sum(float(r["loss"]) for r in part) for part in (table[:4], table[-4:]))
    assert last < 0.8 * first
    for domain in ("math", "science"):
        assert float(table[-1][f"held_out_{domain}"]) < float(table[0][f"held_out_{domain}"])

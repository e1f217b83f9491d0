"""Learning on the student's own responses: what is sampled, what is learned, and a run that is killed in between."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bm.branch import Traces, train
from bm.branch.own import responses
from bm.config import Branch
from bm.errors import UserError
from bm.generate import Sample, Sampling
from tests.branch.conftest import branch, tracker, trainer
from tests.branch.test_losses import interrupt_after
from tests.branch.test_training import rows, trained, weights
from tests.forked import Forked


@pytest.fixture(scope="module")
def teachers(student: Path, traces: list[Traces], tmp_path_factory: pytest.TempPathFactory) -> list[Traces]:
    """Each domain with an expert of its own for a teacher."""
    taught = []
    for source in traces:
        work = tmp_path_factory.mktemp("expert") / source.domain
        trained(student, [source], work, branch(epochs=6))
        taught.append(Traces(source.path, source.domain, 1.0, work))
    return taught


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


def test_killed_between_samples_and_learning_it_resumes_to_the_same_bytes(
    student: Path, teachers: list[Traces], tmp_path: Path
) -> None:
    """Responses are on disk before they are learned from; blocks of two steps, interrupted within one."""
    settings = opd(own=own(every=2, max_new_tokens=8))
    undisturbed = trained(student, teachers, tmp_path / "undisturbed", settings)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("bm.branch.checkpoint._wait", interrupt_after(6))
        trained(student, teachers, tmp_path / "work", opd(own=own(every=2, max_new_tokens=8), checkpoint_seconds=0.001))
    assert len(list((tmp_path / "work" / "own").glob("*.json"))) >= 2
    resumed = trained(student, teachers, tmp_path / "work", settings)
    for facts in (undisturbed, resumed):
        del facts["own"]["seconds"]
    assert resumed == undisturbed
    ours, expected = weights(tmp_path / "work"), weights(tmp_path / "undisturbed")
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    assert not (tmp_path / "work" / "own").exists()


def test_a_share_of_the_responses_is_the_students_own(student: Path, teachers: list[Traces], tmp_path: Path) -> None:
    half = trained(student, teachers, tmp_path / "half", opd("gkd", own=own(share=0.5, max_new_tokens=8)))
    whole = trained(student, teachers, tmp_path / "whole", opd("gkd", own=own(share=1.0, max_new_tokens=8)))
    assert 0.25 < half["own"]["tokens"] / whole["own"]["tokens"] < 0.75


def test_what_the_student_writes_it_cannot_learn_by_labels() -> None:
    with pytest.raises(UserError, match="choose a loss with a teacher, such as loss=opd"):
        branch(own=own())


def test_equal_prompts_get_responses_of_their_own() -> None:
    class Counting:
        def generate(self, prompts: Any, sampling: Sampling, known: Any) -> Any:
            asked = [(p, i) for p in range(len(prompts)) for i in range(sampling.n) if (p, i) not in known]
            yield [Sample(p, i, f"{prompts[p]}{i}", 1, True) for p, i in asked]

    said = responses(Counting(), ["a", "b", "a", "a"], Sampling(1, 1.0, 1.0, 4, 0))  # type: ignore[arg-type]
    assert [sample.response for sample in said] == ["a0", "b0", "a1", "a2"]


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "sequence"), [(2, 1), (2, 2)])
@pytest.mark.parametrize("loss", ["opd", "gkd", "pckd", "rkd"])
def test_ranks_learn_what_one_process_learns(
    student: Path, teachers: list[Traces], tmp_path: Path, forked: Forked, ranks: int, sequence: int, loss: str
) -> None:
    for name, n in (("one", 1), ("several", ranks)):
        (tmp_path / name).mkdir()
        several = {"devices": n, "sequence_parallel": sequence, "launch": forked.launch(n)} if n > 1 else {}
        share = {"opd": 1.0, "gkd": 0.5}.get(loss)
        settings = opd(loss, own=own(every=2, max_new_tokens=8, share=share) if share else None)
        train(student, teachers, settings, trainer(**several), tracker(), "all", "k", tmp_path / name)
    ours, expected = rows(tmp_path / "several"), rows(tmp_path / "one")
    steps = 2 if settings.own else len(expected)  # later responses may differ in a token
    for mine, theirs in zip(ours[:steps], expected[:steps], strict=True):
        assert float(mine["loss"]) == pytest.approx(float(theirs["loss"]), rel=1e-3)

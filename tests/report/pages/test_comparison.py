from bm.report import results
from bm.report.findings.published import tables
from bm.report.pages.comparison import claims
from tests.report.conftest import SETTINGS, Fixture


def test_claims_of_the_paper_follow_from_its_tables() -> None:
    said = {claim.title: claim.paper for claim in claims({})}
    assert said["Experts beat the student, each on its own task"] == "3 of 3 above: +0.5, +6.2, +2.4"
    assert said["Merges beat the student on the mean"] == "2 of 2 above: +4.4, +4.3"
    assert said["Merges match or beat the data mixture on the mean"] == "2 of 2 above: +1.0, +0.9"
    assert said["Merging costs a small share of training the mixture"] == "0.54\u00a0% of its GPU-hours"
    assert said["Order of student, mixture and best merge"] == (
        "(Math & Coding) & Science 68.4 > Data Mixture 67.3 > DeepSeek-R1-Distill-Qwen-32B 64.0"
    )


def test_every_published_row_has_a_value_per_column() -> None:
    for table in tables():
        assert all(len(row.values) == len(table.columns) for row in table.rows), table.number


def test_claims_of_a_run_count_its_verdicts(experiment: Fixture) -> None:
    outcome = results(experiment.subjects, experiment.artefacts, SETTINGS)
    first, _, third, cost, order = claims({"seed 1": outcome})
    assert first.runs["seed 1"].startswith("3 of 3 above: +")
    over = [v for v in outcome.verdicts if v.claim == "merge over mixture"]
    assert third.runs["seed 1"].startswith(f"{sum(v.verdict == 'better' for v in over)} of 3 above")
    assert cost.runs["seed 1"] == "0.81\u00a0% of its time"
    assert order.runs["seed 1"].endswith(f"student {100 * outcome.mean(outcome.rows[0]):.1f}")


def test_a_run_without_merges_answers_what_it_can(experiment: Fixture) -> None:
    outcome = results([s for s in experiment.subjects if s.kind in ("student", "expert")], [], SETTINGS)
    said = [claim.runs["seed 1"] for claim in claims({"seed 1": outcome})]
    assert said[0].startswith("3 of 3 above")
    assert said[1:4] == ["–", "–", "–"]

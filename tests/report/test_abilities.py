"""Table 3 of a run: every model asked beside its domains, verdicts against the student beside the paper's."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats

from bm.errors import UserError
from bm.ledger import Cost
from bm.report.findings.published import published
from bm.report.findings.results import Kind, Row
from bm.report.findings.verdicts import Graded
from experiments.table3 import abilities as table3

ORDER = "(math & science) & coding"
EXPERTS = ("math", "coding", "science")
TRUTHS = {"✓": "supported", "✗": "refuted", "≈": "undecided"}
COMMITTED = Path(table3.__file__).with_name("abilities.json")


def model(kind: Kind, questions: int = 120, **shares: float) -> tuple[Row, Graded]:
    """A model that answers the first questions of each task; a domain makes it an expert of that domain."""
    domains = (str(kind),) if kind not in ("student", "mixture", "merge") else ()
    made = {"method": "arcee_fusion", "order": ORDER, "base": "coding"} if kind == "merge" else {}
    row = Row(str(kind), "expert" if domains else kind, {}, Cost(0, 0, 0), kind, domains=domains, **made)
    ids = [f"{i:03}" for i in range(questions)]
    every = {"instructions": 0.5, "programs": 0.5, "reasoning": 0.5} | shares
    return row, {t: (ids, (np.arange(questions) < s * questions).astype(float)[:, None]) for t, s in every.items()}


def test_verdicts_stand_beside_the_papers() -> None:
    models = [model("student"), model("math", instructions=0.2), model("merge", reasoning=0.8)]  # type: ignore[arg-type]
    measured = table3.abilities(models, published("table3"))
    assert measured["tasks"] == {"IFEval": "instructions", "HumanEval": "programs", "BBH": "reasoning"}
    said = {(v["column"], v["name"]): (v["verdict"], v["paper"]) for v in measured["verdicts"]}
    assert said["IFEval", "math"] == ("worse", pytest.approx(-0.124))
    assert said["BBH", "merge"] == ("better", pytest.approx(0.191))
    assert {said[of][0] for of in said if of not in (("IFEval", "math"), ("BBH", "merge"))} == {"undecided"}
    text = table3.page(measured, "smollm2")
    assert re.search(r"\| math \| 20\.0 \[\d+, \d+\]; −30\.0 \(−\d\d\.\d to −\d\d\.\d\): worse; paper −12\.4 \|", text)
    holds(measured)


def test_models_asked_otherwise_are_one_line() -> None:
    with pytest.raises(UserError, match="math was not asked the student's questions of instructions"):
        table3.abilities([model("student"), model("math", questions=60)], published("table3"))  # type: ignore[arg-type]


def test_every_model_of_a_run_is_asked(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(undisturbed)
    small = ("evaluate.limit=6", "evaluate.max_new_tokens=8", "evaluate.resamples=200")
    table3.main(["outputs/result", *small], tmp_path)
    measured = json.loads((tmp_path / "abilities.json").read_text())
    rows = json.loads(Path("outputs/result/results.json").read_text())["rows"]
    assert {row["name"] for row in measured["rows"]} == {row["name"] for row in rows}
    assert {len(row["scores"]) for row in measured["rows"]} == {6}
    assert measured["recipe"] == "tiny" and len(measured["verdicts"]) == 3 * (len(rows) - 1)
    assert (tmp_path / "abilities.md").read_text().count("\n| ") == 2 + len(rows)  # a head and a rule
    holds(measured)


@pytest.mark.skipif(not COMMITTED.is_file(), reason="no run of it is committed")
def test_committed_abilities_follow_from_their_scores() -> None:
    holds(json.loads(COMMITTED.read_text()))


def holds(measured: dict[str, object]) -> None:
    """Means, differences, p and Holm again, by scipy alone: with one answer a question the score test is McNemar's."""
    rows: list[dict[str, object]] = measured["rows"]  # type: ignore[assignment]
    verdicts: list[dict[str, object]] = measured["verdicts"]  # type: ignore[assignment]
    scores = {(row["name"], row["column"]): np.array(row["scores"], float) for row in rows}
    students = {row["column"]: np.array(row["scores"], float) for row in rows if row["kind"] == "student"}
    assert all(np.mean(scores[r["name"], r["column"]]) == pytest.approx(r["mean"]) for r in rows)
    tails = []
    for verdict in verdicts:
        apart = scores[verdict["name"], verdict["column"]] - students[verdict["column"]]
        assert apart.mean() == pytest.approx(verdict["difference"])
        gains, losses = int((apart > 0).sum()), int((apart < 0).sum())
        tails.append(stats.chi2.sf((gains - losses) ** 2 / max(gains + losses, 1), 1))
    allowed, largest = {}, 0.0
    for rank, place in enumerate(np.argsort(tails, kind="stable")):
        allowed[place] = largest = max(largest, min(1.0, (len(tails) - rank) * tails[place]))
    for place, verdict in enumerate(verdicts):
        side = "better" if verdict["difference"] > 0 else "worse"  # type: ignore[operator]
        if not 0.04 < allowed[place] < 0.06:  # the bootstrap's own noise may decide there
            assert verdict["verdict"] == (side if allowed[place] < 0.05 else "undecided"), verdict


def ends(apart: np.ndarray) -> list[float]:
    """The score interval of a paired difference (Tango 1998), by root finding, in points."""
    n, gains, losses = len(apart), int((apart > 0).sum()), int((apart < 0).sum())

    def score(delta: float) -> float:
        b = -gains - losses + (2 * n - gains + losses) * delta
        q = (np.sqrt(b * b + 8 * n * losses * delta * (1 - delta)) - b) / (4 * n)
        return float((gains - losses - n * delta) / np.sqrt(max(n * (2 * q + delta * (1 - delta)), 1e-12)))

    middle, reach = (gains - losses) / n, stats.norm.ppf(0.975)
    return [100 * optimize.brentq(lambda d: score(d) - reach, -1 + 1e-9, middle),
            100 * optimize.brentq(lambda d: score(d) + reach, middle, 1 - 1e-9)]  # fmt: skip


def test_the_readmes_print_what_the_committed_scores_say() -> None:
    """Each row of both tables: the range over the experts, the merge with its interval, and the verdict on both."""
    measured = json.loads(COMMITTED.read_text())
    scores = {(row["name"], row["column"]): np.array(row["scores"], float) for row in measured["rows"]}
    verdicts = {(row["name"], row["column"]): row["verdict"] for row in measured["verdicts"]}
    readmes = [(COMMITTED.parents[2] / "README.md").read_text(), (COMMITTED.parent / "README.md").read_text()]
    for column, claimed in {"IFEval": "worse", "HumanEval": "better", "BBH": "better"}.items():
        apart = {name: scores[name, column] - scores["student", column] for name in (*EXPERTS, "arcee_fusion")}
        low, high = sorted((100 * apart[name].mean() for name in EXPERTS), key=abs)[:: len(EXPERTS) - 1]
        said = {signed(low), signed(high)} | {signed(end) for end in ends(apart["arcee_fusion"])}
        said |= {signed(100 * apart["arcee_fusion"].mean())}
        assert all(number in text for number in said for text in readmes), (column, said)
        decided = {verdicts[name, column] for name in apart}
        truth = "≈" if decided == {"undecided"} else "✓" if decided == {claimed} else "✗"
        assert any(
            signed(high) in line and line.endswith(f"{truth} {TRUTHS[truth]} |") for line in readmes[0].split("\n")
        )


def signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")

"""Table 3 from folders of `bm evaluate`: verdicts against the student beside the paper's differences."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bm.errors import UserError
from experiments.table3.abilities import abilities


def folder(home: Path, name: str, scores: dict[str, float], questions: int = 120) -> Path:
    (home / name).mkdir()
    lines = [
        {"task": task, "question": f"{i:03}", "score": float(i < share * questions)}
        for task, share in scores.items()
        for i in range(questions)
    ]
    pq.write_table(pa.Table.from_pylist(lines), home / name / "samples.parquet")
    return home / name


def test_verdicts_stand_beside_the_papers(tmp_path: Path) -> None:
    student = folder(tmp_path, "student", {"instructions": 0.5, "reasoning": 0.3})
    math = folder(tmp_path, "math", {"instructions": 0.2, "reasoning": 0.3})
    fusion = folder(tmp_path, "fusion", {"instructions": 0.5, "reasoning": 0.6})
    found = abilities({"student": student, "math": math, "arcee_fusion": fusion})
    assert found["tasks"] == {"IFEval": "instructions", "HumanEval": None, "BBH": "reasoning"}
    said = {(v["column"], v["name"]): (v["verdict"], v["paper"]) for v in found["verdicts"]}
    assert said["IFEval", "math"] == ("worse", pytest.approx(-0.124))
    assert said["BBH", "arcee_fusion"] == ("better", pytest.approx(0.191))
    assert said["BBH", "math"][0] == said["IFEval", "arcee_fusion"][0] == "undecided"
    for row in found["rows"]:
        assert np.mean(row["scores"]) == pytest.approx(row["mean"])


def test_other_questions_and_a_missing_student_are_one_line(tmp_path: Path) -> None:
    student, other = (folder(tmp_path, n, {"instructions": 0.5}, q) for n, q in (("student", 120), ("math", 60)))
    with pytest.raises(UserError, match="evaluate it alike"):
        abilities({"student": student, "math": other})
    with pytest.raises(UserError, match="student=DIR is missing"):
        abilities({"math": other})

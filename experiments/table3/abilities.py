"""Table 3 on a real model: what experts, mixture and merges lose and gain beside their domains, against their student.

    python -m experiments.table3.abilities student=DIR math=DIR coding=DIR mixture=DIR arcee_fusion=DIR ...

Each DIR is what `bm evaluate model=... evaluate.tasks=[...] output=DIR` wrote. Of each of the paper's columns the first
task that was asked counts (`TASKS`). Writes abilities.json: what every question scored, intervals over questions, and
verdicts against the student, paired by question and allowed for their number (Holm), with the paper's difference.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bm.errors import UserError
from bm.report.findings.published import PublishedRow, published
from bm.report.findings.verdicts import graded
from bm.statistics import compare, holm, interval
from bm.store import write_json

TASKS = {"IFEval": ("ifeval", "instructions"), "HumanEval": ("humaneval", "programs"), "BBH": ("bbh", "reasoning")}
"""By the paper's column its task, and what stands in for it where that cannot be had."""
RESAMPLES, CONFIDENCE, SEED = 10_000, 0.95, 42
ABILITIES = Path(__file__).with_name("abilities.json")


def abilities(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Rows and verdicts of these models, by name; UserError without the student, or where they were asked unlike it."""
    if "student" not in folders:
        raise UserError("student=DIR is missing: every model is held against it")
    known = {name: graded(folder) for name, folder in folders.items()}
    asked = {column: next((t for t in of if t in known["student"]), None) for column, of in TASKS.items()}
    rows, verdicts, p = [], [], []
    for column, task in ((column, task) for column, task in asked.items() if task):
        questions, student = known["student"][task]
        for name, of in known.items():
            if task not in of or of[task][0] != questions:
                raise UserError(f"{folders[name]} was not asked the student's questions of {task}: evaluate it alike")
            seen = interval(of[task][1], RESAMPLES, CONFIDENCE, SEED)
            rows.append({"name": name, "column": column, "task": task, "mean": seen.mean, "low": seen.low,
                         "high": seen.high, "scores": of[task][1].mean(1).round(6).tolist()})  # fmt: skip
            if name != "student":
                against = compare({task: of[task][1]}, {task: student}, RESAMPLES, CONFIDENCE, SEED)
                p.append(against.p)
                verdicts.append({"name": name, "column": column, "task": task, "difference": against.difference,
                                 "low": against.low, "high": against.high, "paper": paper(name, column)})  # fmt: skip
    for verdict, adjusted in zip(verdicts, holm(p), strict=True):
        side = "better" if verdict["difference"] > 0 else "worse"
        verdict |= {"p": adjusted, "verdict": side if adjusted < 1 - CONFIDENCE else "undecided"}
    return {"tasks": asked, "rows": rows, "verdicts": verdicts}


def paper(name: str, column: str) -> float | None:
    """The paper's difference from the student, as a share; None: it has no such model."""
    table = published("table3")
    place = list(table.columns).index(column)

    def value(row: PublishedRow) -> float:
        return (row.values[place] or 0.0) / 100

    of = next((row for row in table.rows if row.kind != "student" and name in (row.domain, row.method)), None)
    return None if of is None else value(of) - value(table.of("student")[0])


def main(given: list[str]) -> None:
    try:
        found = abilities({name: Path(folder) for name, _, folder in (text.partition("=") for text in given)})
    except UserError as problem:
        sys.exit(f"abilities: {problem}")
    write_json(ABILITIES, found)
    print(json.dumps(found["tasks"]))
    for v in found["verdicts"]:
        told = "" if v["paper"] is None else f"; paper {100 * v['paper']:+.1f}"
        span = f"{100 * v['difference']:+.1f} ({100 * v['low']:+.1f} to {100 * v['high']:+.1f})"
        print(f"{v['column']:10} {v['name']:24} {span} {v['verdict']}, Holm p = {v['p']:.2g}{told}")


if __name__ == "__main__":
    main(sys.argv[1:])

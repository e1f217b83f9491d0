"""Table 3 on a real model: what experts, mixture and merges lose and gain beside their domains, against their student.

    python -m experiments.table3.abilities RUN [OVERRIDE ...]        # RUN: the folder of a finished run's results.json

Asks every model of the run, greedily, one task for each of the paper's columns: the one that `published.yaml` names
last for it, which is made by program and needs no hub. OVERRIDE is any of `bm evaluate` (evaluate.limit=10). An
interrupted command resumes when it is run again. It writes abilities.json, with what every question scored, and
abilities.md: intervals over questions, and verdicts against the student beside the paper's differences; verdicts are
paired by question and allow for their number (Holm).
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import bm
from bm.errors import UserError
from bm.report.findings.published import Published, PublishedRow, published
from bm.report.findings.results import Results, Row, read
from bm.report.findings.verdicts import Graded, graded
from bm.statistics import compare, holm, interval
from bm.store import write_json, write_text

GREEDY = ("evaluate.samples=1", "evaluate.temperature=0", "evaluate.max_new_tokens=null", "evaluate.limit=null")
RESAMPLES, CONFIDENCE, SEED = 10_000, 0.95, 42
HOME = Path(__file__).parent
SIGNS = {"better": "better", "worse": "worse", "undecided": "≈ undecided"}


def tasks(table: Published) -> dict[str, str]:
    """By the paper's column the task that stands in for it: the last that a claim about the column names."""
    named = [claim.measure for claim in table.claims if hasattr(claim, "measure")]
    return {
        column: next(str(measure[-1]) for measure in named if isinstance(measure, tuple) and measure[0] == about)
        for column, about in table.columns.items()
    }


def asked(run: Path, overrides: Sequence[str]) -> Iterator[tuple[Row, Graded]]:
    """Each model of a run and what its answers scored, from the run's own store."""
    outputs = Path(OmegaConf.load(run / "config.yaml").paths.outputs)
    listed = f"evaluate.tasks=[{','.join(tasks(published('table3')).values())}]"
    for row in read(run / "results.json").rows:
        model = next(outputs.glob(f"store/*/{row.key}"), None)
        if model is None:
            raise UserError(f"{row.name}: {outputs / 'store'} holds no {row.key}; run this where the run was made")
        output = run / "abilities" / row.key
        print(row.name, flush=True)
        words = ("domain=[]", listed, *GREEDY, f"paths.outputs={outputs}", *overrides)
        bm.evaluate(*words, model=model, output=output)
        yield row, graded(output)


def abilities(models: Sequence[tuple[Row, Graded]], table: Published) -> dict[str, Any]:
    """Rows and verdicts of these models; UserError where one was asked other questions than the student."""
    student = next(of for row, of in models if row.kind == "student")
    rows, verdicts, p = [], [], []
    for place, (column, task) in enumerate(tasks(table).items()):
        for row, of in models:
            if task not in of or of[task][0] != student[task][0]:
                raise UserError(f"{row.name} was not asked the student's questions of {task}: ask all models alike")
            about = {"name": row.name, "kind": row.kind, "column": column, "task": task}
            seen = interval(of[task][1], RESAMPLES, CONFIDENCE, SEED)
            rows.append(about | {"mean": seen.mean, "low": seen.low, "high": seen.high, "key": row.key,
                                 "scores": of[task][1].mean(1).round(6).tolist()})  # fmt: skip
            if row.kind != "student":
                against = compare({task: of[task][1]}, {task: student[task][1]}, CONFIDENCE)
                p.append(against.p)
                verdicts.append(about | {"difference": against.difference, "low": against.low, "high": against.high,
                                         "paper": paper(row, table, place)})  # fmt: skip
    for verdict, adjusted in zip(verdicts, holm(p), strict=True):
        side = "better" if verdict["difference"] > 0 else "worse"
        verdict |= {"p": adjusted, "verdict": side if adjusted < 1 - CONFIDENCE else "undecided"}
    return {"tasks": tasks(table), "rows": rows, "verdicts": verdicts}


def paper(row: Row, table: Published, place: int) -> float | None:
    """The paper's difference from the student in a column, as a share; None: it has no such model."""

    def value(of: PublishedRow) -> float:
        return (of.values[place] or 0.0) / 100

    def alike(of: PublishedRow) -> bool:
        return (of.kind, of.domain, of.method, of.order) == (row.kind, row.domain, row.method, row.order)

    told = next(filter(alike, table.rows), None)
    return None if told is None else value(told) - value(table.of("student")[0])


def page(judged: Mapping[str, Any], recipe: str) -> str:
    """The verdicts as Markdown, models by columns."""
    heads = [f"{column}: `{task}`" for column, task in judged["tasks"].items()]
    lines = [f"# Table 3 with recipe={recipe}", "", INTRODUCTION, "",
             f"| model | {' | '.join(heads)} |", f"|{' --- |' * (len(heads) + 1)}"]  # fmt: skip
    names = dict.fromkeys(row["name"] for row in judged["rows"])
    for name in names:
        of = [row for row in judged["rows"] if row["name"] == name]
        against = {v["column"]: v for v in judged["verdicts"] if v["name"] == name}
        lines.append(f"| {name} | {' | '.join(_cell(row, against.get(row['column'])) for row in of)} |")
    return "\n".join([*lines, ""])


def _cell(row: Mapping[str, Any], against: Mapping[str, Any] | None) -> str:
    low, high = (f"{100 * row[end]:.0f}" for end in ("low", "high"))
    score = f"{100 * row['mean']:.1f} [{low}, {high}]"
    if against is None:
        return score
    said = f"{points(against['difference'])} ({points(against['low'])} to {points(against['high'])})"
    told = "" if against["paper"] is None else f"; paper {points(against['paper'])}"
    return f"{score}; {said}: {SIGNS[against['verdict']]}{told}"


def points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


INTRODUCTION = """Made by `python -m experiments.table3.abilities RUN`. In each cell: pass@1 in percent with its 95 %
interval over questions; the difference from the student in points with its own; the verdict, which allows for how many
there are (Holm); and the paper's difference, which is of another task and another scale: compare its sign, not its
size."""


def main(given: Sequence[str], home: Path = HOME) -> None:
    try:
        if not given or not (Path(given[0]) / "results.json").is_file():
            raise UserError("name the folder of a finished run, which holds its results.json")
        run = Path(given[0])
        results: Results = read(run / "results.json")
        recipe = results.run.recipe if results.run else "?"
        judged = abilities(list(asked(run, given[1:])), published("table3"))
    except UserError as problem:
        sys.exit(f"abilities: {problem}")
    about = {"recipe": recipe, "command": f"python -m experiments.table3.abilities {' '.join(given)}"}
    write_json(home / "abilities.json", about | judged)
    write_text(home / "abilities.md", page(judged, recipe))
    print(page(judged, recipe))


if __name__ == "__main__":
    main(sys.argv[1:])

"""The HTML pages: one self-contained file each, with inline styles and figures, and no request to anywhere."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from bm.report import comparison, graph, panels, plots, wording
from bm.report.drawing import DARK, LIGHT, inline, style
from bm.report.evidence import OUTSIDE, Evidence, KeptShare, Node, lineage_of, total_seconds
from bm.report.results import KINDS, MEAN, Claim, Kind, Results, Row
from bm.store import write_text

CLAIMS: dict[Claim, tuple[str, Kind]] = {
    "expert over student": ("Experts over student, own task", "expert"),
    "merge over student": ("Merges over student, mean", "merge"),
    "merge over mixture": ("Merges over mixture, mean", "merge"),
}


def publish(results: Results, evidence: Evidence, path: Path) -> None:
    """Write the page of one run."""
    totals = {row.name: total_seconds(row.key, evidence.lineage) for row in results.rows}
    with style():
        figures = _figures(results, evidence, totals)
    _write(path, "run.html.j2", results=results, evidence=evidence, totals=totals, figures=figures,
           largest=_largest(evidence.kept), headline=wording.headline(results), remarks=wording.remarks(results, totals), table=_table(results))  # fmt: skip


def publish_comparison(runs: Mapping[str, Results], path: Path) -> None:
    """Write the page of several runs beside what the paper reports."""
    paper = comparison.published()
    with style():
        figures = [(name, inline(panels.means(results), f"mean-{i}", f"Mean over tasks of {name}"), "")
                   for i, (name, results) in enumerate(runs.items()) if any(results.mean(row) is not None for row in results.rows)]  # fmt: skip
    tables = [(name, results, _table(results)) for name, results in runs.items()]
    _write(path, "comparison.html.j2", paper=paper, caution=comparison.CAUTION, runs=runs, claims=comparison.claims(paper, runs),
           figures=figures, tables=tables)  # fmt: skip


def _write(path: Path, template: str, **content: Any) -> None:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    page = Environment(loader=PackageLoader("bm.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {name: getattr(wording, name) for name in ("percent", "points", "span", "duration", "share")}
    page.globals |= {"light": LIGHT, "dark": DARK, "kinds": KINDS, "marks": wording.MARKS}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page.get_template(template).render(content))


def _figures(results: Results, evidence: Evidence, totals: Mapping[str, float]) -> dict[str, list[tuple[str, Markup, str]]]:
    """The page's figures by section, each with its title and a note below."""
    return {
        "scores": _scores(results),
        "verdicts": _verdicts(results),
        "costs": _costs(results, totals),
        "loss": [("", inline(plots.loss(c), f"loss-{i}", f"Training loss of {c.name}"), "") for i, c in enumerate(evidence.curves)],
        "kept": _kept(evidence.kept),
        "funnels": [(f.domain, inline(panels.funnel(f), f"funnel-{i}", f"Traces of {f.domain}: {f.kept} of {f.asked} kept"), "")
                    for i, f in enumerate(evidence.funnels)],
        "lineage": _lineage(results, evidence.lineage),
    }  # fmt: skip


Panels = list[tuple[str, Markup, str]]


def _scores(results: Results) -> Panels:
    return [(task, inline(panels.scores(results, task), f"score-{i}", f"pass@1 of every model on {task}"), _asked(results, task))
             for i, task in enumerate(results.tasks)]  # fmt: skip


def _asked(results: Results, task: str) -> str:
    asked = {(s.questions, s.samples) for row in results.rows if (s := row.scores.get(task))}
    return "; ".join(f"{wording.count(q, 'question')}, {wording.count(n, 'sample')} each" for q, n in sorted(asked))


def _verdicts(results: Results) -> Panels:
    grouped = [(title, kind, [v for v in results.verdicts if v.claim == claim]) for claim, (title, kind) in CLAIMS.items()]
    return [(title, inline(panels.differences(found, kind), f"verdict-{i}", title), "")
            for i, (title, kind, found) in enumerate(grouped) if found]  # fmt: skip


def _costs(results: Results, totals: Mapping[str, float]) -> Panels:
    time = ("Time", inline(panels.costs(results.rows, totals), "cost-bars", "Time that each model took"),
            "Full colour: the model's own step. Pale: with all that it was made from, each counted once.")  # fmt: skip
    if all(results.mean(row) is None for row in results.rows):
        return [time]
    both = plots.cost_against_score(results, totals)
    return [
        ("Mean over tasks", inline(panels.means(results), "cost-means", "Mean of every model over all tasks"),
         "pass@1, every task counting the same; the verdicts above give the intervals of differences."),
        time,
        ("Mean over time", inline(both, "cost-score", "Mean score of each model over its time"),
         "Marker: the model's own step. Line: up to the time of all it was made from. Up and left is better."),
    ]  # fmt: skip


def _largest(steps: Sequence[KeptShare]) -> float:
    """The strongest cell of all maps, so that they share one colour scale."""
    return max((share for step in steps for (layer, _), share in step.shares.items() if layer != OUTSIDE), default=0.0)


def _kept(steps: Sequence[KeptShare]) -> Panels:
    return [(f"{step.merge}: {step.other} into {step.base}", inline(plots.kept_share(step, _largest(steps)), f"kept-{i}", _heard(step)), _heard(step))
            for i, step in enumerate(steps) if any(layer != OUTSIDE for layer, _ in step.shares)]  # fmt: skip


def _heard(step: KeptShare) -> str:
    outside = [f"{module} {wording.percent(share)}" for (layer, module), share in step.shares.items() if layer == OUTSIDE]
    inside = f"{wording.percent(step.total)} of all entries come from {step.other}"
    return f"{inside}; outside the layers: {', '.join(outside)}." if outside else f"{inside}."


def _lineage(results: Results, nodes: Sequence[Node]) -> Panels:
    behind = lineage_of([row.key for row in results.rows], nodes)
    return [("", inline(graph.lineage(behind, results), "lineage", "How each model was made, from traces to scores"), "")] if behind else []


def _table(results: Results) -> list[dict[str, Any]]:
    """Rows of the score table: the best mean of each column is marked."""
    best = {task: max(row.scores[task].mean for row in results.rows if task in row.scores) for task in results.tasks}
    means = [mean for row in results.rows if (mean := results.mean(row)) is not None]
    return [_cells(results, row, best, max(means, default=None)) for row in results.rows]


def _cells(results: Results, row: Row, best: Mapping[str, float], best_mean: float | None) -> dict[str, Any]:
    scores = [(s := row.scores.get(task)) and {"score": s, "best": s.mean == best[task]} for task in results.tasks]
    mean = results.mean(row)
    return {"row": row, "scores": scores, "mean": mean, "best": mean is not None and mean == best_mean}

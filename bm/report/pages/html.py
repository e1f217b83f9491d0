"""The HTML pages: one self-contained file each, with inline styles and figures, and no request to anywhere."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from bm.report.figures import lineage, numbers, panels, plots
from bm.report.figures.drawing import DARK, LIGHT, inline, style
from bm.report.findings.claims import CAUTION
from bm.report.findings.evidence import OUTSIDE, Evidence, Funnel, KeptShare, Meeting, Node, lineage_of
from bm.report.findings.published import SCALE, SOURCE, tables
from bm.report.findings.results import KINDS, Claim, Kind, Results
from bm.report.findings.traces import Browsed, embedded
from bm.report.pages import comparison, wording
from bm.report.pages.tables import of_run, of_verdicts
from bm.store import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLAIMS: dict[Claim, tuple[str, Kind]] = {
    "expert over student": ("Experts over student, own task", "expert"),
    "merge over student": ("Merges over student, mean", "merge"),
    "merge over mixture": ("Merges over mixture, mean", "merge"),
    "consolidated over student": ("Third arm over student, mean", "consolidated"),
    "consolidated over mixture": ("Third arm over mixture, mean", "consolidated"),
    "consolidated over merge": ("Third arm over merges, mean", "consolidated"),
    "ensemble over mixture": ("Ensemble over mixture, mean", "ensemble"),
    "ensemble over merge": ("Ensemble over merges, mean", "ensemble"),
}
FILTERS = (numbers.percent, numbers.points, numbers.span, numbers.duration, numbers.share, numbers.tokens,
           numbers.probability, wording.out, wording.to_decide)  # fmt: skip
"""What the templates say numbers with."""


@dataclass(frozen=True)
class Shown:
    """A figure on the page: what stands above and below it. `label` is read out in its place."""

    figure: "Figure"
    label: str
    title: str = ""
    note: str = ""


def publish(results: Results, evidence: Evidence, path: Path) -> None:
    """Write the page of one run."""
    with style():
        figures = {
            "scores": drawn("score", _scores(results)),
            "verdicts": drawn("verdict", _verdicts(results)),
            "costs": drawn("cost", _costs(results)),
            "loss": drawn("loss", [Shown(plots.loss(c), f"Training loss of {c.name}") for c in evidence.curves]),
            "kept": drawn("kept", _kept(evidence.kept)),
            "meetings": drawn("meeting", _meetings(evidence.meetings)),
            "funnels": drawn("funnel", _funnels(evidence.funnels)),
            "lineage": drawn("lineage", _lineage(results, evidence.lineage)),
        }
    write_page(
        path, "run.html.j2", results=results, evidence=evidence, figures=figures, largest=_largest(evidence.kept),
        models=of_run(results), verdict_table=of_verdicts(results), headline=wording.headline(results),
        remarks=wording.remarks(results),
    )  # fmt: skip


DRAWN = 24
"""Runs that a page draws at most, as a figure takes half a second and 50 kB; their tables are all there."""


def publish_comparison(runs: Mapping[str, Results], path: Path) -> None:
    """Write the page of several runs, the latest last, beside what the paper reports; the latest are also drawn."""
    with style():
        means = [
            Shown(panels.means(results), f"Mean over tasks of {name}", name)
            for name, results in list(runs.items())[-DRAWN:]
            if any(results.mean(row) is not None for row in results.rows)
        ]
        figures = drawn("mean", means)
    models = {name: of_run(results) for name, results in runs.items()}
    write_page(
        path, "comparison.html.j2", source=SOURCE, scale=SCALE, tables=tables(), caution=CAUTION, runs=models,
        claims=comparison.claims(runs), figures=figures,
    )  # fmt: skip


def publish_traces(traces: Browsed, path: Path) -> None:
    """Write the page of a folder of traces. Its one script is named by its hash: no other runs, whatever a trace is."""
    with style():
        lengths = Shown(
            plots.lengths(traces.lengths),
            "Histogram of response lengths",
            "Length of responses",
            "Characters, reasoning included.",
        )
        shown = [*_funnels([traces.funnel] if traces.funnel else []), *[lengths] * (traces.total > 0)]
        figures = drawn("figure", shown)
    write_page(
        path, "traces.html.j2", traces=traces, figures=figures, data=Markup(embedded(traces)), **script("traces.js")
    )


def script(name: str) -> dict[str, str]:
    """A script for a page, and its hash for the page's policy."""
    text = Markup((files("bm.report.pages") / "templates" / name).read_text().strip())
    return {"script": text, "script_hash": base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}


def write_page(path: Path, template: str, **content: Any) -> None:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("bm.report.pages")
    page = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {function.__name__: function for function in FILTERS}
    page.globals |= {"light": LIGHT, "dark": DARK, "kinds": KINDS, "marks": numbers.MARKS}
    page.globals |= {"palest": plots.PALEST, "strongest": plots.STRONGEST}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page.get_template(template).render(content))


def drawn(section: str, shown: Sequence[Shown]) -> list[tuple[str, Markup, str]]:
    """Title, <svg> and note of each figure; `section` sets their ids apart."""
    return [(s.title, inline(s.figure, f"{section}-{i}", s.label), s.note) for i, s in enumerate(shown)]


def _scores(results: Results) -> list[Shown]:
    return [
        Shown(panels.scores(results, task), f"pass@1 of every model on {task}", task, _asked(results, task))
        for task in results.tasks
    ]


def _asked(results: Results, task: str) -> str:
    scores = [s for row in results.rows if row.out_after is None and (s := row.scores.get(task))]
    asked = sorted({(s.questions, s.samples) for s in scores})
    said = "; ".join(f"{numbers.count(q, 'question')}, {numbers.count(n, 'sample')} each" for q, n in asked)
    seen = [s.seen for s in scores if s.seen is not None]
    if unclosed := sum(s.unclosed for s in scores):
        said += f"; {numbers.count(unclosed, 'response')} of all models ended within a thought"
    return (
        f"{said}; {max(seen) or 'none'} of the questions among the training traces, case and spacing aside"
        if seen
        else said
    )


def _verdicts(results: Results) -> list[Shown]:
    grouped = [(*CLAIMS[claim], [v for v in results.verdicts if v.claim == claim]) for claim in CLAIMS]
    return [Shown(panels.differences(verdicts, kind), title, title) for title, kind, verdicts in grouped if verdicts]


def _costs(results: Results) -> list[Shown]:
    time = Shown(
        panels.costs(results.rows),
        "Time that each model took",
        "Time",
        "Full colour: the model's own step. Pale: with all that it was made from, each counted once.",
    )
    if all(results.mean(row) is None for row in results.rows):
        return [time]
    mean = Shown(
        panels.means(results),
        "Mean of every model over tasks",
        "Mean over tasks",
        f"pass@1 over {', '.join(results.compared)}, each counting the same; verdicts have the intervals.",
    )
    both = Shown(
        plots.cost_against_score(results),
        "Mean score of each model over its time",
        "Mean against time",
        "Marker: the model's own step. Line: up to the time of all it was made from. Up and left is better.",
    )
    return [mean, time, both]


def _largest(steps: Sequence[KeptShare]) -> float:
    """The strongest cell of all maps, so that they share one colour scale."""
    inside = (share for step in steps for (layer, _), share in step.shares.items() if layer != OUTSIDE)
    return max(inside, default=0.0)


def _kept(steps: Sequence[KeptShare]) -> list[Shown]:
    largest = _largest(steps)
    return [
        Shown(
            plots.kept_share(step, largest), _heard(step), f"{step.merge}: {step.other} into {step.base}", _heard(step)
        )
        for step in steps
        if any(layer != OUTSIDE for layer, _ in step.shares)
    ]


def _meetings(meetings: Sequence[Meeting]) -> list[Shown]:
    if not meetings:
        return []
    cosine = "Point: all entries together. Line: the range over tensors. Near 0 the experts' updates are orthogonal."
    conflict = "Of the entries that both changed, those they changed in opposite directions."
    overlap = "Jaccard index of the entries that Arcee Fusion would take of either into the student."
    return [
        Shown(
            panels.correlations([(m.pair, m.cosine, m.lowest, m.highest) for m in meetings]),
            "Cosine of the experts' updates", "Cosine of updates", cosine,
        ),
        Shown(panels.shares({m.pair: m.conflict for m in meetings}), "Sign conflict of the experts' updates",
              "Opposite directions", conflict),
        Shown(panels.shares({m.pair: m.overlap for m in meetings}), "Overlap of what fusion would take",
              "Overlap of masks", overlap),
    ]  # fmt: skip


def _heard(step: KeptShare) -> str:
    outside = [
        f"{module} {numbers.percent(share)}" for (layer, module), share in step.shares.items() if layer == OUTSIDE
    ]
    inside = f"{numbers.percent(step.total)} of all entries come from {step.other}"
    return f"{inside}; outside the layers: {', '.join(outside)}." if outside else f"{inside}."


def _funnels(funnels: Sequence[Funnel]) -> list[Shown]:
    return [
        Shown(
            panels.funnel(f),
            f"Traces of {f.name}: {f.kept} of {f.answered} kept",
            f.name,
            f"{numbers.count(f.duplicates, 'repeated question')} passed over." if f.duplicates else "",
        )
        for f in funnels
    ]


def _lineage(results: Results, nodes: Sequence[Node]) -> list[Shown]:
    behind = lineage_of([row.key for row in results.rows], nodes)
    return [Shown(lineage.draw(behind, results), "How each model was made, from traces to scores")] if behind else []

"""From rows to traces in numbers: what the manifest, the card of the set and the reports tell."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.markup import escape
from rich.table import Table

from bm.config import Domain
from bm.distill.screening import CONTAMINATED, NEAR_DUPLICATE
from bm.distill.selection import FILTERED, UNVERIFIED, Question, Selection
from bm.verify import Verdict, disagreement

FORM = (
    "a trace is <think>, the reasoning, </think>, then the answer; for a teacher that does not think in these tags set"
    " teacher.reasoning=wrapped"
)


class Judged(NamedTuple):
    """A response, what the verifier said, and why it is no trace ("" if it is one)."""

    question: Question
    response: str
    tokens: int
    verdict: Verdict
    reason: str


def facts(domain: Domain, selection: Selection, asked: int, judged: Sequence[Judged]) -> dict[str, Any]:
    """Counts at every step, of questions up to `asked` and of responses from `answered` on.

    `filtered` by the source, `duplicates` (equal prompts), `near_duplicates`, `contaminated` by task; `asked`,
    `answered`, `verified` (accepted by the verifier, `unverified` of them for want of a reference), `kept`, `rejected`
    by reason; `expected`, what the paper kept; `sources`, traces by source; `characters` and, where the engine counted,
    `tokens`: histograms of lengths; `two_checks`, how many plain numbers were checked twice, and differently.
    """
    traces = [r for r in judged if not r.reason]
    rejected = [r for r in judged if r.reason]
    contaminated = {reason.removeprefix(CONTAMINATED): number for reason, number in selection.refused.items()
                    if reason.startswith(CONTAMINATED)}  # fmt: skip
    differ, checked = disagreement([r.verdict for r in judged])
    return {
        "filtered": selection.refused[FILTERED],
        "duplicates": selection.duplicates,
        "near_duplicates": selection.refused[NEAR_DUPLICATE],
        "contaminated": contaminated,
        "asked": asked,
        "answered": len(judged),
        "verified": sum(r.verdict.accepted for r in judged),
        "unverified": sum(r.verdict.accepted and r.question.verifier == UNVERIFIED for r in judged),
        "kept": len(traces),
        "expected": domain.expected,
        "rejected": dict(sorted(Counter(r.verdict._replace(reason=r.reason).kind for r in rejected).items())),
        "sources": dict(sorted(Counter(r.question.source for r in traces).items())),
        "characters": histogram([len(r.response) for r in traces], [len(r.response) for r in rejected]),
        "tokens": histogram([r.tokens for r in traces if r.tokens], [r.tokens for r in rejected if r.tokens]),
        "two_checks": {"checked": checked, "disagreed": differ},
    }


def histogram(kept: Iterable[int], rejected: Iterable[int]) -> dict[str, list[int]]:
    """How many lengths lie in each doubling: `from` 1, 2, 4, … as far as there are any; 0 counts as 1."""
    counts = [Counter(max(1, length).bit_length() - 1 for length in lengths) for lengths in (kept, rejected)]
    places = sorted({place for count in counts for place in count})
    every = range(places[0], places[-1] + 1) if places else range(0)
    good, bad = counts
    return {"from": [1 << k for k in every], "kept": [good[k] for k in every], "rejected": [bad[k] for k in every]}


def shortage(name: str, counts: Mapping[str, Any]) -> str:
    """Why few or no responses became traces, and what a trace must look like."""
    reasons = ", ".join(f"{why}: {number}" for why, number in counts["rejected"].items())
    return f"{name}: {counts['kept'] or 'none'} of {counts['answered']} responses became traces ({reasons}); {FORM}"


def funnel_table(domains: Mapping[str, Mapping[str, Any]]) -> Table:
    """The facts of each domain on the terminal: a line per domain, and below it what was left out and why."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("domain")
    for step in ("asked", "answered", "verified", "kept", "paper"):
        table.add_column(step, justify="right")
    for name, counts in domains.items():
        steps = [f"{counts[step]:,}" for step in ("asked", "answered", "verified", "kept")]
        table.add_row(escape(name), *steps, f"{counts['expected']:,}" if counts["expected"] else "–")
        for reason, number in _left_out(counts).items():
            table.add_row(f"  [dim]{escape(reason)}[/]", *[""] * 3, f"[dim]-{number:,}[/]")
    return table


def _left_out(counts: Mapping[str, Any]) -> dict[str, int]:
    asked = {f"asked by {task}": number for task, number in counts["contaminated"].items()}
    before = {FILTERED: counts["filtered"], "equal prompts": counts["duplicates"],
              "near duplicates": counts["near_duplicates"], **asked}  # fmt: skip
    unasked = {f"not asked: {reason}": number for reason, number in before.items()}
    return {reason: number for reason, number in {**unasked, **counts["rejected"]}.items() if number}

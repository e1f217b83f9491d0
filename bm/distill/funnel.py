"""From rows to traces in numbers: what the manifest, the card of the set and the reports tell."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from bm.config import Domain
from bm.distill.screening import CONTAMINATED, NEAR_DUPLICATE
from bm.distill.selection import FILTERED, UNVERIFIED, Selection
from bm.verify import disagreement

if TYPE_CHECKING:
    from bm.distill.traces import Judged

FORM = (
    "a trace is <think>, the reasoning, </think>, then the answer; for a teacher that does not think in these tags set"
    " teacher.reasoning=wrapped"
)


def facts(domain: Domain, found: Selection, asked: int, judged: "Sequence[Judged]") -> dict[str, Any]:
    """Counts at every step, of questions up to `asked` and of responses from `answered` on.

    `filtered` by the source, `duplicates` (equal prompts), `near_duplicates`, `contaminated` by task; `asked`,
    `answered`, `verified` (accepted by the verifier, `unverified` of them for want of a reference), `kept`, `rejected`
    by reason; `expected`, what the paper kept; `sources`, traces by source; `characters` and, where the engine counted,
    `tokens`: histograms of lengths; `two_checks`, how many plain numbers were checked twice, and differently.
    """
    traces = [one for one in judged if not one.reason]
    rejected = [one for one in judged if one.reason]
    contaminated = {reason.removeprefix(CONTAMINATED): number for reason, number in found.refused.items()
                    if reason.startswith(CONTAMINATED)}  # fmt: skip
    differ, checked = disagreement([one.verdict for one in judged])
    return {
        "filtered": found.refused[FILTERED],
        "duplicates": found.duplicates,
        "near_duplicates": found.refused[NEAR_DUPLICATE],
        "contaminated": contaminated,
        "asked": asked,
        "answered": len(judged),
        "verified": sum(one.verdict.accepted for one in judged),
        "unverified": sum(one.verdict.accepted and one.question.verifier == UNVERIFIED for one in judged),
        "kept": len(traces),
        "expected": domain.expected,
        "rejected": dict(sorted(Counter(one.verdict._replace(reason=one.reason).kind for one in rejected).items())),
        "sources": dict(sorted(Counter(one.question.source for one in traces).items())),
        "characters": histogram([len(one.response) for one in traces], [len(one.response) for one in rejected]),
        "tokens": histogram(
            [one.tokens for one in traces if one.tokens], [one.tokens for one in rejected if one.tokens]
        ),
        "two_checks": {"checked": checked, "disagreed": differ},
    }


def histogram(kept: Iterable[int], rejected: Iterable[int]) -> dict[str, list[int]]:
    """How many lengths lie in each doubling: `from` 1, 2, 4, … as far as there are any; 0 counts as 1."""
    counts = [Counter(max(1, length).bit_length() - 1 for length in lengths) for lengths in (kept, rejected)]
    places = sorted({place for count in counts for place in count})
    every = range(places[0], places[-1] + 1) if places else range(0)
    good, bad = counts
    return {"from": [1 << k for k in every], "kept": [good[k] for k in every], "rejected": [bad[k] for k in every]}


def shortage(name: str, found: Mapping[str, Any]) -> str:
    """Why few or no responses became traces, and what a trace must look like."""
    reasons = ", ".join(f"{why}: {number}" for why, number in found["rejected"].items())
    return f"{name}: {found['kept'] or 'none'} of {found['answered']} responses became traces ({reasons}); {FORM}"


def funnel_table(domains: Mapping[str, Mapping[str, Any]]) -> Table:
    """The facts of each domain on the terminal: a line a domain, and below it what was left out and why."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("domain")
    for step in ("asked", "answered", "verified", "kept", "paper"):
        table.add_column(step, justify="right")
    for name, found in domains.items():
        steps = [f"{found[step]:,}" for step in ("asked", "answered", "verified", "kept")]
        table.add_row(escape(name), *steps, f"{found['expected']:,}" if found["expected"] else "–")
        for reason, number in _left_out(found).items():
            table.add_row(f"  [dim]{escape(reason)}[/]", *[""] * 3, f"[dim]-{number:,}[/]")
    return table


def _left_out(found: Mapping[str, Any]) -> dict[str, int]:
    asked = {f"asked by {task}": number for task, number in found["contaminated"].items()}
    before = {FILTERED: found["filtered"], "equal prompts": found["duplicates"],
              "near duplicates": found["near_duplicates"], **asked}  # fmt: skip
    unasked = {f"not asked: {reason}": number for reason, number in before.items()}
    return {reason: number for reason, number in {**unasked, **found["rejected"]}.items() if number}

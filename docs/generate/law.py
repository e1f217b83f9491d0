"""The law's numbers in words and as a table, from experiments/phase/law.json."""

import json
from pathlib import Path

from bm.report.figures import numbers

HOME = Path(__file__).parents[2]


def law_table() -> str:
    """A line a method: what 10 points of gain cost, and up to which gain a merge is certain to match."""
    recorded = json.loads((HOME / "experiments/phase/law.json").read_text())
    lines = [
        f"{recorded['cells']} cells of the grid, seeds {', '.join(map(str, recorded['seeds']))}."
        " Points of pass@1, with 95 % intervals over students.\n",
        "| merge | 10 points of gain cost | certainly (95 %) within 2 points of the mixture"
        " | the line is 2 points below it at |",
        "| --- | --- | --- | --- |",
    ]
    for law in recorded["laws"]:
        slope, crossing, safe = law["slope"], law["crossing"], law["safe"]
        cost = f"{-10 * slope['mean']:.1f} ({-10 * slope['high']:.1f} to {-10 * slope['low']:.1f})"
        up_to = "nowhere" if safe is None else f"up to a gain of {100 * safe:.1f}"
        ends = f"{100 * crossing['mean']:.1f} ({numbers.span(crossing['low'], crossing['high'])})" if crossing else "–"
        lines.append(f"| `{law['method']}` | {cost} | {up_to} | {ends} |")
    return "\n".join(lines)

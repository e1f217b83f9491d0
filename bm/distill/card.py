"""The card of a trace set, as the hub and `datasets` read one."""

from collections.abc import ItemsView, Mapping, Sequence
from typing import Any

from bm.config import Distill, Domain, resolved

BAR = 30
"""Characters of the longest bar of a histogram."""
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def card(domain: Domain, settings: Distill, facts: Mapping[str, Any]) -> str:
    """README.md of a folder with traces.parquet and rejected.parquet; facts: of `bm.distill.funnel`, and `teacher`."""
    size = next((name for most, name in SIZES if facts["kept"] < most), "1M<n<10M")
    teacher = ", ".join(f"{name} {value}" for name, value in facts["teacher"].items() if name != "own")
    parts = [
        HEADER.format(name=domain.name, size=size),
        f"# {domain.name}: verified reasoning traces\n",
        f"Questions of `{domain.source.target}`, answered by {teacher}; made by `bm distill`.\n",
        "## From rows to traces\n",
        _table(("step", "number"), _steps(facts)),
        *_section("Why responses are no traces", ("reason", "responses"), facts["rejected"].items()),
        *_section("Where traces come from", ("source", "traces", "share"), _shares(facts["sources"])),
        "## Lengths of traces\n",
        *(_lengths(unit, facts[unit]) for unit in ("characters", "tokens") if facts[unit]["from"]),
        "## Settings\n",
        _table(("setting", "value"), ((name, f"`{value}`") for name, value in resolved(settings).items())),
        "The manifest beside this file has all of them, with the seed, the versions and the digests of the files.\n",
    ]
    return "\n".join(parts)


def _steps(facts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    before = [
        ("rows refused by the source's filters", facts["filtered"]),
        ("questions that had come before", facts["duplicates"]),
        ("near duplicates", facts["near_duplicates"]),
        *((f"in the evaluation task {task}", number) for task, number in facts["contaminated"].items()),
    ]
    after = [
        ("**questions asked**", facts["asked"]),
        ("responses", facts["answered"]),
        ("accepted by the verifier", facts["verified"] - facts["unverified"]),
        ("without a reference to verify with", facts["unverified"]),
        ("**traces kept**", facts["kept"]),
    ]
    paper = [("traces that the paper kept", facts["expected"])] if facts["expected"] else []
    return [*before, *after, *paper]


def _shares(sources: Mapping[str, int]) -> list[tuple[str, int, str]]:
    total = max(1, sum(sources.values()))
    return [(source, number, f"{number / total:.1%}") for source, number in sources.items()]


def _lengths(unit: str, histogram: Mapping[str, list[int]]) -> str:
    most = max(1, *histogram["kept"])
    rows = zip(histogram["from"], histogram["kept"], strict=True)
    bars = [(f"{low:,} to {2 * low - 1:,}", number, "█" * round(BAR * number / most)) for low, number in rows]
    return _table((unit, "traces", ""), bars)


def _section(title: str, head: tuple[str, ...], rows: Sequence[Any] | ItemsView[str, Any]) -> list[str]:
    """A heading and its table; nothing where there are no rows."""
    return [f"## {title}\n", _table(head, rows)] if rows else []


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, ("---",) * len(head), *rows)]
    return "\n".join(lines) + "\n"


HEADER = """---
pretty_name: {name}
task_categories: [text-generation]
tags: [reasoning, distillation]
size_categories: ["{size}"]
configs:
  - config_name: default
    data_files: traces.parquet
  - config_name: rejected
    data_files: rejected.parquet
---
"""

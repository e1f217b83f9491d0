"""The card of what is pushed: what its own card says, and below it lineage, scores, licences and the command."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]

from bm.push.lineage import FRONT, Part, front
from bm.report.findings.results import Score

UNSTATED = "not stated"
OURS = ("interference", "rung", "losses", "statistics", "evaluate")
"""Measurements, which have no licence of their own."""


def card(before: str, parts: Sequence[Part], scores: Mapping[str, Score], licence: str | None, command: str) -> str:
    """A card in the hub's form. parts: what is pushed, and what it was made from; scores by task."""
    metadata: dict[str, Any] = front(before) | ({"license": licence} if licence else {})
    metadata["tags"] = list(dict.fromkeys([*metadata.get("tags", []), "branch-merge"]))
    text = FRONT.sub("", before).strip() or f"# {parts[0].label}"
    sections = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---",
        text,
        *(["## Scores", _scores(scores)] if scores else []),
        "## Lineage",
        _lineage(parts),
        *(["## Made by", f"```bash\n{command}\n```"] if command else []),
    ]
    return "\n\n".join(sections) + "\n"


def unlicensed(parts: Sequence[Part]) -> list[str]:
    """What others gave and whose card names no licence: ready students and trace sets."""
    given = [part for part in parts[1:] if part.stage in ("student", "folder", "distill")]
    return [f"{part.stage} {part.label}" for part in given if not part.licence]


def _scores(scores: Mapping[str, Score]) -> str:
    rows = [
        f"| {task} | {100 * s.mean:.1f} | {100 * s.low:.1f} to {100 * s.high:.1f} | {s.questions} x {s.samples}"
        f" | {'unknown' if s.seen is None else s.seen} |"
        for task, s in sorted(scores.items())
    ]
    head = "| task | pass@1, % | interval | questions x samples | of them seen in training |"
    return "\n".join([head, "| --- | --- | --- | --- | --- |", *rows])


def _lineage(parts: Sequence[Part]) -> str:
    rows = [f"| {p.stage} | {p.label} | `{p.key or '–'}` | {p.licence or _unstated(p)} |" for p in parts]
    return "\n".join(["| stage | name | key | licence |", "| --- | --- | --- | --- |", *rows])


def _unstated(part: Part) -> str:
    return "–" if part.stage in OURS else UNSTATED

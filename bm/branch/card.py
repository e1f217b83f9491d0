"""The model card of what training made: from which student, on which traces, with which settings."""

import json
from collections.abc import Mapping
from typing import Any

from bm.config import Branch, resolved


def card(name: str, student: str, traces: Mapping[str, str], config: Branch, facts: Mapping[str, Any]) -> str:
    """A card in the hub's form. `student` and `traces` (by domain) are `stage/key` of artefacts in the store."""
    lines = [
        "---", "library_name: transformers", "tags: [sft]", "base_model:", f"  - {json.dumps(student)}", "---", "",
        f"# {name}", "",
        f"Supervised fine-tuning of `{student}`: {facts['steps']} steps, {facts['tokens']:,} tokens of which "
        f"{facts['supervised_tokens']:,} supervised, final loss {facts['final_loss']:.4f}.", "",
        "| domain | traces |", "| --- | --- |", *[f"| {domain} | `{key}` |" for domain, key in traces.items()], "",
        "| setting | value |", "| --- | --- |", *[f"| {k} | {v} |" for k, v in resolved(config).items()], "",
    ]  # fmt: skip
    return "\n".join(lines)

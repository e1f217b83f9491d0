"""What a teacher says of traces as an artefact, which every training that asks it the same shares."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bm.config import Branch, Trainer
from bm.store import Artefact, Build, digest

Make = Callable[[str, str, Mapping[str, Any], Sequence[Artefact], Build], Artefact]
"""`Stages.make`."""
TOKENIZER = ("tokenizer", "chat_template", "special_tokens", "added_tokens", "vocab", "merges")
"""How the names of the files begin that make tokens of traces."""
TEXTS = ("sequence_length", "packing", "overlong", "max_overlong", "chat_template", "held_out")
"""Settings of a training that decide which texts it learns from, and beside which others they are computed."""


def told(
    make: Make, domain: str, traces: Artefact, file: Path, student: Artefact, teacher: Artefact, settings: Branch,
    trainer: Trainer,
) -> Artefact:  # fmt: skip
    """What `teacher` says of the traces in `file` as `settings.stored` asks. Of the student its tokenizer counts."""

    def build(work: Path) -> Mapping[str, Any]:
        from bm.branch import Traces, tell

        return tell(student.path, teacher.path, Traces(file, domain), settings, trainer, work)

    files = sorted((name, about["sha256"]) for name, about in student.manifest["files"].items())
    tokenizer = [pair for pair in files if pair[0].startswith(TOKENIZER)]
    asked = {
        "stored": settings.stored,
        "temperature": None if settings.stored == "hidden" else settings.loss.parameters.get("temperature", 1.0),
        "texts": {name: getattr(settings, name) for name in TEXTS},
        "tokenizer": digest(json.dumps(tokenizer).encode())[:16],
        "by": settings.stored_by,
        "trainer": None if settings.stored_by else trainer,
    }
    return make("tell", f"{domain} by {teacher.label}", asked, [teacher, traces], build)

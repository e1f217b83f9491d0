"""A model or a set of traces to a repository of the hub: private unless wished otherwise and confirmed."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from bm.config import Push
from bm.errors import UserError
from bm.progress import quantity, say
from bm.push.card import card, unlicensed
from bm.push.hub import Hub, Kind
from bm.push.lineage import Part, lineage
from bm.report import files as results_files
from bm.report import read
from bm.report.findings.results import Results, Score
from bm.store import whole

MODEL = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer*",
         "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "spiece.model", "chat_template.*",
         "preprocessor_config.json", "processor_config.json", "LICENSE*", "NOTICE*", "adapter/*")  # fmt: skip
"""What of a model's folder is of use to others: no checkpoint, log, sample or manifest, which may name your folders."""
TRACES = ("traces.parquet",)


def push(config: Push) -> None:
    """The folder to the repository, in one commit; UserError, before anything is sent, for whatever is not right."""
    kind, sent = _contents(config.folder)
    parts = lineage(config.folder, config.paths.outputs / "store")
    scores, command = _tested(config, parts[0])
    hub = Hub(config.repo, kind)
    private = hub.private()
    if private is False and not config.public:
        raise UserError(f"repo={config.repo}: is public, and so would be what is pushed; if that is meant, public=true")
    size = sum(path.stat().st_size for path in sent.values())
    if config.public:
        _confirm(config, f"{len(sent) + 1} files, {quantity(size / 1e6, 'MB')}")
    for name in unlicensed(parts):
        say(f"licence  {name}: its card states none; if you know that you may share what is made of it, licence=…")
    before = config.folder / "README.md"
    text = card(before.read_text() if before.is_file() else "", parts, scores, config.licence, command)
    hub.create(private=not config.public)
    address = hub.commit({**sent, "README.md": text.encode()}, f"{parts[0].label}, by bm push")
    if config.public and private:
        hub.make_public()
    say(f"{'public' if config.public else 'private'}  {address}")


def _contents(folder: Path) -> tuple[Kind, dict[str, Path]]:
    """What the folder holds, and which of its files are sent; UserError if it is neither a model nor a set of traces,
    or not what its manifest says."""
    if not folder.is_dir():
        raise UserError(f"folder: {folder} is not a directory")
    model = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    if not model and not (folder / "traces.parquet").is_file():
        raise UserError(f"folder: {folder} is not a model (config.json and safetensors) and has no traces.parquet")
    whole(folder)
    found = [file for pattern in (MODEL if model else TRACES) for file in sorted(folder.glob(pattern))]
    return "model" if model else "dataset", {str(file.relative_to(folder)): file for file in found if file.is_file()}


def _tested(config: Push, pushed: Part) -> tuple[Mapping[str, Score], str]:
    """The scores that runs, or an evaluation, have of it, the latest of each task; and the command that made it."""
    if config.results and (config.results / "scores.json").is_file():
        told = json.loads((config.results / "scores.json").read_text())
        known = Score.__dataclass_fields__
        return {t: Score(**{n: v for n, v in s.items() if n in known}) for t, s in told.items()}, pushed.command
    if config.results and not (config.results / "results.json").is_file():
        raise UserError(
            f"results: {config.results} has neither results.json, of a run, nor scores.json, of bm evaluate"
        )
    runs = [config.results / "results.json"] if config.results else results_files(config.paths.outputs)
    scores: dict[str, Score] = {}
    command = pushed.command
    for file in runs:
        found: Results = read(file)
        rows = [row for row in found.rows if pushed.key and row.key == pushed.key]
        for row in rows:
            scores |= row.scores
        if rows and found.run:
            command = found.run.command
    return scores, command


def _confirm(config: Push, what: str) -> None:
    """UserError unless somebody says on a terminal, or has said, that it may be seen by everybody."""
    if config.yes:
        return
    if not sys.stdin.isatty():
        raise UserError(f"public=true: {config.repo} would be public, and here is no terminal to ask on; say yes=true")
    answer = input(f"Make {config.repo} public for everybody, with {what}? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise UserError("public=true: not confirmed; nothing was sent")

"""Runs a mergekit config: checkpoints, vocabulary, plan, engine, and the files beside the weights."""

import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bm.config import Merge
from bm.errors import UserError
from bm.merge import folder
from bm.merge.checkpoint import checkpoint, parse_size
from bm.merge.dtypes import Dtype
from bm.merge.engine import execute
from bm.merge.mergekit.adapters import merged
from bm.merge.mergekit.plan import parts, plan
from bm.merge.mergekit.schema import Config, read_config
from bm.merge.mergekit.templates import named_template
from bm.merge.mergekit.vocabulary import Checkpoints, Vocabulary, vocabulary
from bm.merge.sinks import Folder
from bm.merge.steps import Item
from bm.merge.tables import write_rows
from bm.merge.tiling import computing
from bm.progress import say

ADAPTED = ".adapted"
"""Where models with an adapter wait for their merge as one folder each."""
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
NOT_MERGEKITS = "the `{}` variant, which takes other entries than mergekit's rounded and sampled arithmetic does"
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""Names that architectures give the number of layers in config.json."""


def merge_config(file: Path, settings: Merge, work: Path) -> dict[str, Any]:
    """Merges as `file` says into a Hugging Face folder in `work`, with `tensors.parquet`; goes on after a kill.

    Types are the config's: the output in `out_dtype`, else `dtype`, else the inputs' own; arithmetic in float64 when
    `dtype` is, else in the settings' type whatever the config says, so that nothing is rounded before the output is.
    Facts: kept_share (null for methods without selection), digests (SHA-256 by file). UserError names what is not
    supported or does not fit.
    """
    config = read_config(file)
    if folders := merged(config.folders, work / ADAPTED):
        config = read_config(file, folders)
    with ExitStack() as stack:
        _check_kind(config.folders)
        stored = _with_heads({path: stack.enter_context(checkpoint(path)) for path in config.folders})
        words = vocabulary(config, stored)
        variant = _variant(config, settings)
        items = plan(config, words.aligned(stored) if words else stored, variant)
        files = _files(file, config, words, items, variant)
        dtype = Dtype.float64 if config.dtype == "float64" else Dtype[settings.dtype]
        run = computing(dtype, settings.device, settings.seed)
        (outcome,) = execute(items, [Folder(work)], run, parse_size(settings.max_shard_size), settings.threads)
    for name, data in files.items():
        folder.write(work / name, data)
    shutil.rmtree(work / ADAPTED, ignore_errors=True)
    digests = outcome.digests | {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    digests |= write_rows(work / "tensors.parquet", outcome.rows)
    return {"kept_share": outcome.kept_share, "digests": digests}


def _variant(config: Config, settings: Merge) -> str:
    """Arcee Fusion's variant, which the settings choose; says when it is not mergekit's."""
    chosen = settings.methods.get("arcee_fusion")
    variant = str(chosen.parameters["variant"]) if chosen else "exact"
    if config.merge_method == "arcee_fusion" and variant != "mergekit":
        say(f"arcee_fusion: {NOT_MERGEKITS.format(variant)}; merge.methods.arcee_fusion.variant=mergekit is mergekit's")
    return variant


def _check_kind(folders: Sequence[Path]) -> None:
    """UserError when a model is of another architecture than the first."""
    for path in folders:
        for key in ("model_type", "architectures"):
            ours, theirs = _json(path).get(key), _json(folders[0]).get(key)
            if ours != theirs:
                raise UserError(
                    f"config.json: {key} is {theirs} in {folders[0]} and {ours} in {path}; they cannot be merged"
                )


def _with_heads(stored: Checkpoints) -> Checkpoints:
    """A model of tied embeddings has them for its head too when another model has a head of its own."""
    if not any(HEAD in tensors for tensors in stored.values()):
        return stored
    return {path: {HEAD: t[EMBEDDING], **t} if EMBEDDING in t else t for path, t in stored.items()}


def _files(
    file: Path, config: Config, words: Vocabulary | None, items: Sequence[Item], variant: str
) -> dict[str, bytes]:
    """Everything beside the weights, by name."""
    lead = config.folders[0]
    donor = config.tokenizer.source if config.tokenizer else config.tokenizer_source
    kept = dict.fromkeys(folder.COPIED, lead) | (
        dict.fromkeys((name for name in folder.COPIED if "token" in name), donor) if isinstance(donor, Path) else {}
    )
    files = {name: (path / name).read_bytes() for name, path in kept.items() if (path / name).is_file()}
    if words:
        files |= _saved(words.tokenizer)
    template = _chat_template(config)
    if template is not None:
        files["chat_template.jinja"] = template.encode()
    text = file.read_text(encoding="utf-8")
    files["mergekit_config.yml"] = text.encode()
    files["config.json"] = (json.dumps(_model_config(config, words, items), indent=2) + "\n").encode()
    files["README.md"] = _card(config, text, variant).encode()
    return files


def _saved(tokenizer: Any) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        return {path.name: path.read_bytes() for path in sorted(Path(scratch).iterdir())}


def _model_config(config: Config, words: Vocabulary | None, items: Sequence[Item]) -> dict[str, Any]:
    """The base's (or first model's) config.json with the output's type, number of layers and vocabulary."""
    values = _json(config.folders[0])
    values.pop("torch_dtype", None)
    floating = [item for item in items if item.dtype.is_floating_point]
    values["dtype"] = max(floating, key=lambda item: len(item.shape)).dtype.name
    if any(item.name == HEAD for item in items):
        values["tie_word_embeddings"] = False
    if words:
        values["vocab_size"] = words.size
    if not config.slices:
        return values
    count = next((name for name in LAYER_COUNTS if name in values), None)
    if count is None:
        raise UserError(f"{config.folders[0]}: config.json says no number of layers; `slices` are not supported for it")
    values[count] = sum(part.layers or 0 for part in parts(config))
    if "layer_types" in values:
        values["layer_types"] = [
            kind
            for part in parts(config)
            for kind in _json(part.leader.folder)["layer_types"][part.leader.first :][: part.layers]
        ]
    return values


def _json(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads((path / "config.json").read_text())
    except (OSError, ValueError) as problem:
        raise UserError(f"{path}: config.json is missing or broken; copy the model again") from problem
    return values


def _chat_template(config: Config) -> str | None:
    """The template that the config gives, or with `auto` the one that most of its models have."""
    given = config.chat_template
    if given is None:
        _say_differing([(path, template) for path in config.folders if (template := _template_of(path))])
    if given is None or "{" in given:
        return given
    if given != "auto":
        return named_template(given)
    templates = [template.strip() for path in config.folders if (template := _template_of(path))]
    return Counter(templates).most_common(1)[0][0] if templates else None


def _say_differing(templates: Sequence[tuple[Path, str]]) -> None:
    """One model's template is kept, as mergekit does; which, should not be a surprise."""
    for path, template in templates[1:]:
        if template != templates[0][1]:
            say(f"mergekit config: the chat template of {path} differs from that of {templates[0][0]}, which is kept")


def _template_of(path: Path) -> str | None:
    if (path / "chat_template.jinja").is_file():
        return (path / "chat_template.jinja").read_text(encoding="utf-8")
    file = path / "tokenizer_config.json"
    template = json.loads(file.read_text(encoding="utf-8")).get("chat_template") if file.is_file() else None
    return template if isinstance(template, str) else None


def _card(config: Config, text: str, variant: str) -> str:
    """A model card in the hub's form."""
    names = [path.resolve().name for path in config.folders]
    digests = [hashlib.sha256((path / "config.json").read_bytes()).hexdigest()[:16] for path in config.folders]
    fusion = config.merge_method == "arcee_fusion"
    told = [f"Arcee Fusion is {NOT_MERGEKITS.format(variant)}.", ""] if fusion and variant != "mergekit" else []
    lines = [
        *["---", "library_name: transformers", "tags: [merge, mergekit]", "base_model:"],
        *[f"  - {json.dumps(name)}" for name in names],
        *["---", "", "# A merged model", "", f"Merged by `{config.merge_method}` as this config says:", ""],
        *["```yaml", text.rstrip(), "```", "", *told, "| model | configuration sha256 |", "| --- | --- |"],
        *[f"| {name} | `{digest}` |" for name, digest in zip(names, digests, strict=True)],
    ]
    return "\n".join(lines) + "\n"

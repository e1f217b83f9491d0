"""Merging models: folders, an order and methods in; a folder, tensors in memory, or digests out."""

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import reduce
from pathlib import Path
from typing import Any

from bm.config import Merge
from bm.errors import UserError
from bm.merge import folder
from bm.merge.checkpoint import checkpoint, parse_size
from bm.merge.dtypes import Dtype
from bm.merge.engine import Merged, execute
from bm.merge.folder import is_adapter
from bm.merge.interference import interference
from bm.merge.lazy import Tensor
from bm.merge.order import Join, Order, base_leaf, leaves, pairwise_orders, parse
from bm.merge.preflight import aligned
from bm.merge.schedule import scheduled
from bm.merge.sinks import Folder, Memory, Sink
from bm.merge.tables import write_rows
from bm.merge.tensors import Method, kind_of, uses_base
from bm.merge.tiling import computing
from bm.merge.trees import plan
from bm.progress import say

STUDENT = "the student"


def orders(spec: str | Sequence[str] | None, experts: Sequence[str], method: Method) -> list[Order]:
    """What `merge.order` asks for: the orders written down, or with `all` every pairwise order of the experts.

    None: `(a & b) & c`, one expert after the other. A method of any number of models has one order only: all at once.
    """
    if not takes_two(method):
        return [Join(tuple(experts), len(experts) - 1)]
    if spec == "all":
        return list(pairwise_orders(experts))
    if spec is None:
        chain = reduce(lambda merged, name: Join((merged, name), 1), experts[2:], Join(tuple(experts[:2]), 1))
        return [chain] if len(experts) > 1 else []
    return [parse(text, experts) for text in ([spec] if isinstance(spec, str) else spec)]


def takes_two(method: Method) -> bool:
    """Whether a method merges two models at a time, so that the order matters."""
    return kind_of(method) in ("pair", "two")


def merge(
    order: Order, method: Method, models: Mapping[str, Path], student: Path | None, config: Merge, work: Path
) -> dict[str, Any]:
    """Merges the order's models into a Hugging Face folder in `work`, with `tensors.parquet`; resumes after a kill.

    Facts: order, kept_share (over all steps; null for methods without selection), digests (SHA-256 by file).
    """
    (outcome,) = merge_many(order, [method], models, student, config, [Folder(work)])
    return _finish(order, method, models, student, config, work, outcome)


def merge_many(
    order: Order,
    methods: Sequence[Method],
    models: Mapping[str, Path],
    student: Path | None,
    config: Merge,
    sinks: Sequence[Sink],
) -> list[Merged]:
    """One merge per method (a sweep over λ, weights, variants) in one pass: inputs are read and scored once."""
    base, methods = base_leaf(order), [scheduled(method, config.schedule) for method in methods]
    folders = {name: models[name] for name in leaves(order)} | ({STUDENT: student} if student else {})
    with ExitStack() as stack:
        opened = aligned(folders, {n: stack.enter_context(checkpoint(f)) for n, f in folders.items()}, base)
        measured = {n: stack.enter_context(checkpoint(f)) for n, f in config.statistics.items()}
        items = plan(order, methods, opened, opened.get(STUDENT), measured, Dtype[config.out_dtype])
        run = computing(Dtype[config.dtype], config.device, config.seed)
        return execute(items, sinks, run, parse_size(config.max_shard_size), config.threads)


def merge_grid(
    order: Order,
    methods: Mapping[str, Method],
    models: Mapping[str, Path],
    student: Path | None,
    config: Merge,
    work: Path,
) -> dict[str, Any]:
    """`merge_many` into Hugging Face folders of `work` named like the methods. Facts: by name, as those of `merge`."""
    sinks = [Folder(work / name) for name in methods]
    outcomes = merge_many(order, list(methods.values()), models, student, config, sinks)
    return {
        name: _finish(order, method, models, student, config, work / name, outcome)
        for (name, method), outcome in zip(methods.items(), outcomes, strict=True)
    }


def merge_in_memory(
    order: Order, method: Method, models: Mapping[str, Path], student: Path | None, config: Merge
) -> dict[str, Tensor]:
    """The merged tensors by name, for `load_state_dict`."""
    memory = Memory()
    merge_many(order, [method], models, student, config, [memory])
    return memory.tensors


def merge_folders(
    method: Method, base: Path | None, models: Sequence[Path], config: Merge, work: Path
) -> dict[str, Any]:
    """`bm merge`: a pairwise method takes the models into the base one after the other, others merge all at once.

    An order in the settings arranges a pairwise method otherwise; the models, and the base, go by their folders' names.
    Asked for, and with several models and a base, `interference.parquet` tells how their updates meet. LoRA adapters
    become one adapter (`bm.merge.low_rank`), where the method allows it.
    """
    if base is None and models and all(is_adapter(model) for model in models):
        return _merge_adapters(method, models, config, work)
    facts = _merge_folders(method, base, models, config, work)
    if config.interference is not None and base and len(models) > 1:
        met = interference(_named(models), base, config.interference, config, work)
        facts |= {"mean_cosine": met["mean_cosine"], "digests": facts["digests"] | met["digests"]}
    return facts


def _merge_folders(
    method: Method, base: Path | None, models: Sequence[Path], config: Merge, work: Path
) -> dict[str, Any]:
    kind = kind_of(method)
    if not models:
        raise UserError("models: name at least one model folder to merge")
    if kind != "pair":
        if kind == "task_vectors" and base is None:
            raise UserError("base: this method merges updates of a base; give base=DIR")
        if base and not uses_base(method):
            _say_base_apart(method, models)
        named = _named(models)
        return merge(Join(tuple(named), len(named) - 1), method, named, base, config, work)
    named = _named([*models, *([base] if base else [])])
    if config.order is not None and config.order != "all":
        order = parse(config.order if isinstance(config.order, str) else " ".join(config.order), list(named))
    elif base is None or len(named) < 2:
        raise UserError("base: this method keeps one model and merges others into it; give base=DIR")
    else:
        order = Join(tuple(named), len(named) - 1)
    return merge(order, method, named, None, config, work)


def _merge_adapters(method: Method, models: Sequence[Path], config: Merge, work: Path) -> dict[str, Any]:
    from bm.merge.low_rank import merge_adapters

    name = described(method).partition("(")[0]
    merge_adapters(scheduled(method, config.schedule), name, _named(models), work)
    return {"kept_share": None}


def _say_base_apart(method: Method, models: Sequence[Path]) -> None:
    """A base that the method does not merge: nothing would be merged with a single model, so that is refused."""
    name = described(method).partition("(")[0]
    if len(models) == 1:
        raise UserError(f"base: {name} merges all models alike and would copy the only one; give models=[BASE,MODEL]")
    say(f"base: {name} merges the {len(models)} models alone; a base to be merged too goes among models=[...]")


def _named(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by their names, numbered where these are not distinct."""
    plain = [re.sub(r"[^A-Za-z0-9_.-]", "-", path.resolve().name) for path in folders]
    names = [name if plain.count(name) == 1 else f"{name}-{i}" for i, name in enumerate(plain, 1)]
    return dict(zip(names, folders, strict=True))


def _finish(
    order: Order,
    method: Method,
    models: Mapping[str, Path],
    student: Path | None,
    config: Merge,
    work: Path,
    outcome: Merged,
) -> dict[str, Any]:
    inputs = {name: models[name] for name in leaves(order)} | ({STUDENT: student} if student else {})
    made_by = described(scheduled(method, config.schedule))
    card = folder.card(made_by, str(order), inputs, config.dtype, config.out_dtype, outcome.kept_share)
    digests = outcome.digests | folder.complete(work, models[base_leaf(order)], config.out_dtype, card)
    digests |= write_rows(work / "tensors.parquet", outcome.rows)
    return {"order": str(order), "kept_share": outcome.kept_share, "digests": digests}


def described(method: Any) -> str:
    """A method and its parameters as the card names them."""
    name = getattr(method, "target", None) or getattr(method, "func", method).__name__
    parameters = getattr(method, "parameters", None) or getattr(method, "keywords", {})
    return f"{name.rpartition('.')[2]}({', '.join(f'{k}={v}' for k, v in parameters.items())})"

"""Merges of LoRA adapters in their own space: from factors to factors, without their base model.

An adapter adds s·B A to a weight W of its base, A [rank, in], B [out, rank]. A weighted sum of such updates is one too:

    Σ_k c_k s_k B_k A_k = [B_1 … B_n] · [c_1 s_1 A_1; …; c_n s_n A_n]

exactly, with the sum of the ranks, as peft's `combination_type="cat"` has it. A method is asked for its c_k, tensor by
tensor, and allowed if it has some: linear (normalised), task arithmetic, LiNeS. What chooses entries of the updates or
of the models (fusion, TIES, DARE, DELLA, breadcrumbs, SCE), bends them by their norms or spectra, or measures them,
leaves no such sum: it merges the models that the adapters were merged into.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import inf, sqrt
from pathlib import Path
from typing import Any, TypeAlias

from bm.errors import UserError
from bm.merge.checkpoint import Stored, checkpoint
from bm.merge.dtypes import Dtype
from bm.merge.folder import ADAPTER
from bm.merge.lazy import Tensor, torch
from bm.merge.methods.linear import Average
from bm.merge.methods.updates import Sparse, Sum
from bm.merge.names import Place
from bm.merge.tensors import Method, Tensors, kind_of, statistics_of

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
FACTORS = ".lora_A.weight", ".lora_B.weight"
PLAIN = {"peft_type": "LORA", "use_dora": False, "bias": "none", "modules_to_save": None, "fan_in_fan_out": False,
         "alpha_pattern": {}, "rank_pattern": {}}  # fmt: skip
"""Settings without which an adapter is more, or other, than s·B A."""
OF_ANOTHER_BASE = ("pissa", "olora", "loftq", "corda")
"""Initialisations that take the factors out of the base: what they add is not to the base as it is stored."""
ROUNDING = 1e-6

Pair: TypeAlias = tuple[Stored | None, ...]
"""A and B of a module in one adapter, which may leave it alone."""


def merge_adapters(method: Method, called: str, adapters: Mapping[str, Path], work: Path) -> None:
    """Writes the merge of adapters of one base into `work`, as peft's folder, factors in fp32.

    called: the method, as messages name it. UserError if it gives no weighted sum of updates, or if an adapter is of
    another base, or more than low-rank factors.
    """
    settings = {name: _settings(name, folder) for name, folder in adapters.items()}
    _one_base(settings)
    scales = [_scale(own) for own in settings.values()]
    with ExitStack() as stack:
        opened = [stack.enter_context(checkpoint(folder)) for folder in adapters.values()]
        modules = sorted({_module(name, stored) for factors in opened for name, stored in factors.items()})
        layers = 1 + max(Place.of(f"{module}.weight").layer for module in modules)
        rank = sum(int(own["r"]) for own in settings.values())
        factors: dict[str, Tensor] = {}
        for module in modules:
            pairs = [tuple(own.get(f"{PREFIX}{module}{end}") for end in FACTORS) for own in opened]
            shares = _shares(method, called, _Unread(called, _shape(module, pairs)), module, list(adapters), layers)
            weighed = [share * scale for share, scale in zip(shares, scales, strict=True)]
            for end, factor in zip(FACTORS, _concatenated(pairs, weighed, rank), strict=True):
                factors[f"{PREFIX}{module}{end}"] = factor
    _write(work, factors, {**next(iter(settings.values())), "r": rank, "lora_alpha": rank, "use_rslora": False,
                           "target_modules": sorted({module.rpartition(".")[2] for module in modules})})  # fmt: skip


def _settings(name: str, folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((folder / ADAPTER).read_text())
    faults = {key: settings[key] for key, plain in PLAIN.items() if settings.get(key, plain) != plain}
    if str(begun := settings.get("init_lora_weights")).startswith(OF_ANOTHER_BASE):
        faults["init_lora_weights"] = begun
    for key, value in faults.items():
        raise UserError(
            f"{name} ({folder}): {key} is {json.dumps(value)}, so it is more than low-rank factors; "
            "merge the models that the adapters were merged into"
        )
    return settings


def _one_base(settings: Mapping[str, Mapping[str, Any]]) -> None:
    bases = {name: own.get("base_model_name_or_path") for name, own in settings.items()}
    (first, base), *others = bases.items()
    for name, other in others:
        if other != base:
            raise UserError(f"{first} is an adapter of {base} and {name} of {other}; only those of one base merge")


def _scale(settings: Mapping[str, Any]) -> float:
    rank = int(settings["r"])
    return float(settings["lora_alpha"]) / (sqrt(rank) if settings.get("use_rslora") else rank)


def _module(name: str, stored: Stored) -> str:
    for end in FACTORS:
        if name.startswith(PREFIX) and name.endswith(end) and len(stored.shape) == 2:
            return name.removeprefix(PREFIX).removesuffix(end)
    raise UserError(f"{name}: an adapter with more than factors of linear layers; merge models instead")


@dataclass(frozen=True)
class _Unread:
    """A model's weight where nobody may look at it: what a method makes of it must depend on its name alone."""

    called: str
    shape: tuple[int, ...]
    dtype: Dtype = Dtype.float32

    def read(self, start: int, stop: int) -> Tensor:
        raise _refusal(self.called)

    stored = read


def _refusal(called: str) -> UserError:
    return UserError(
        f"{called} makes no weighted sum of whole updates, so adapters cannot be merged by it as they are; merge the "
        "models that they were merged into, or take merge=task_arithmetic or merge=linear"
    )


def _shares(
    method: Method, called: str, weight: _Unread, module: str, names: Sequence[str], layers: int
) -> list[float]:
    """What the method takes of each model's update of a weight: c_k."""
    if kind_of(method) not in ("models", "task_vectors") or statistics_of(method):
        raise _refusal(called)
    base = weight if kind_of(method) == "task_vectors" else None
    applied = method(Tensors(f"{module}.weight", base, [weight] * len(names), names=names, layers=layers))
    if isinstance(applied, Average):
        shares = [own / applied.total for own in applied.weights]
        if abs(sum(shares) - 1) > ROUNDING:
            raise UserError(
                f"{called}: the weights sum to {sum(shares):g}, which scales the base too; set normalize=true"
            )
        return shares
    if not isinstance(applied, Sum) or applied.elect:
        raise _refusal(called)
    shares = [0.0] * len(names)
    for update, own in zip(applied.updates, applied.weights, strict=True):
        if not isinstance(update, Sparse) or (update.low, update.high, update.chance) != (0.0, inf, 1.0):
            raise _refusal(called)
        shares[update.k] += applied.lam * own * update.factor / applied.total
    return shares


def _shape(module: str, pairs: Sequence[Pair]) -> tuple[int, int]:
    """[out, in] of a weight; UserError where the adapters' bases differ in it."""
    shapes = {(b.shape[0], a.shape[1]) for a, b in pairs if a is not None and b is not None}
    if len(shapes) != 1:
        raise UserError(
            f"{module}: factors of {sorted(shapes) or 'which one is missing'}; only adapters of one base merge"
        )
    return shapes.pop()


def _concatenated(pairs: Sequence[Pair], weighed: Sequence[float], rank: int) -> Iterator[Tensor]:
    """A [rank, in] and B [out, rank]; zero where an adapter leaves the module alone."""
    there = [(a, b, share) for (a, b), share in zip(pairs, weighed, strict=True) if a is not None and b is not None]
    down = torch.cat([_read(a) * share for a, _, share in there])
    up = torch.cat([_read(b) for _, b, _ in there], 1)
    missing = rank - len(down)
    yield torch.nn.functional.pad(down, (0, 0, 0, missing))
    yield torch.nn.functional.pad(up, (0, missing))


def _read(stored: Stored) -> Tensor:
    return stored.read(0, stored.elements).view(stored.shape).float()


def _write(work: Path, factors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file({name: factor.contiguous() for name, factor in factors.items()}, work / WEIGHTS, {"format": "pt"})
    (work / ADAPTER).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")

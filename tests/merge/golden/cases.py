"""What the golden results are results of: merge methods and whole configs, in mergekit's own terms."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One merge of one tensor; `per_model` holds a value for each model but the base, `shared` one for all."""

    method: str
    shared: dict[str, Any] = field(default_factory=dict)
    per_model: dict[str, list[float]] = field(default_factory=dict)
    models: int = 3
    base: bool = True
    shape: tuple[int, ...] = (11, 13)
    update: float = 3e-3


W2, W3 = [0.7, 0.4], [0.5, 0.3, 0.4]

METHODS: dict[str, Case] = {
    "slerp": Case("slerp", {"t": 0.3}, models=1, update=0.05),
    "slerp_close": Case("slerp", {"t": 0.3}, models=1, update=1e-4),
    "multislerp": Case("multislerp", {}, {"weight": W3}, base=False, update=0.05),
    "multislerp_base": Case("multislerp", {}, {"weight": W3}),
    "multislerp_raw_weights": Case("multislerp", {"normalize_weights": False}, {"weight": W3}),
    "nuslerp": Case("nuslerp", {}, {"weight": W2}, models=2, base=False, update=0.05),
    "nuslerp_base": Case("nuslerp", {}, {"weight": W2}, models=2),
    "nuslerp_last": Case("nuslerp", {"nuslerp_flatten": False}, {"weight": W2}, models=2),
    "nuslerp_first": Case("nuslerp", {"nuslerp_flatten": False, "nuslerp_row_wise": True}, {"weight": W2}, models=2),
    "nuslerp_vector": Case("nuslerp", {"nuslerp_flatten": False}, {"weight": W2}, models=2, shape=(13,)),
    "karcher": Case("karcher", {"max_iter": 100, "tol": 1e-9}, base=False, update=0.05),
    "karcher_close": Case("karcher", base=False, update=1e-4),
    "model_stock": Case("model_stock"),
    "model_stock_rows": Case("model_stock", {"filter_wise": True}),
    "model_stock_vector": Case("model_stock", {"filter_wise": True}, shape=(13,)),
    "nearswap": Case("nearswap", {"t": 1e-3}, models=1),
    "task_arithmetic": Case("task_arithmetic", {"lambda": 0.8}, {"weight": W3}),
    "task_arithmetic_normalized": Case("task_arithmetic", {"normalize": True}, {"weight": [0.6, -0.2, 0.5]}),
    "ties": Case("ties", {}, {"weight": W3, "density": [0.3, 0.5, 0.2]}),
    "ties_negative": Case("ties", {"lambda": 1.2}, {"weight": [0.6, -0.2, 0.5], "density": [0.4, 1.0, 0.1]}),
    "ties_sum": Case(
        "ties", {"normalize": False, "rescale": True, "int8_mask": True}, {"weight": W3, "density": [0.3] * 3}
    ),
    "ties_sparse": Case("ties", {}, {"weight": W3, "density": [0.001, 0.0, 0.5]}),
    "dare_linear": Case("dare_linear", {}, {"weight": W3, "density": [0.3, 0.5, 1.0]}),
    "dare_linear_plain": Case("dare_linear", {"rescale": False}, {"weight": W3, "density": [0.3, 0.5, 0.9]}),
    "dare_ties": Case("dare_ties", {}, {"weight": W3, "density": [0.3, 0.5, 0.9]}),
    "dare_ties_normalized": Case("dare_ties", {"normalize": True}, {"weight": W3, "density": [0.3, 0.5, 0.9]}),
    "della": Case("della", {}, {"weight": W3, "density": [0.3, 0.5, 0.8], "epsilon": [0.15, 0.2, 0.1]}),
    "della_vector": Case("della", {}, {"weight": W3, "density": [0.3, 0.5, 0.8], "epsilon": [0.1] * 3}, shape=(13,)),
    "della_linear": Case("della_linear", {}, {"weight": W3, "density": [0.3, 0.5, 0.8], "epsilon": [0.15] * 3}),
    "breadcrumbs": Case("breadcrumbs", {}, {"weight": W3, "density": [0.3, 0.5, 0.98], "gamma": [0.05, 0.1, 0.1]}),
    "breadcrumbs_ties": Case(
        "breadcrumbs_ties", {}, {"weight": W3, "density": [0.3, 0.5, 0.8], "gamma": [0.05, 0.01, 0.1]}
    ),
    "sce": Case("sce", {"select_topk": 0.3}),
    "sce_all": Case("sce"),
    "ram": Case("ram", {"epsilon": 2e-3}),
    "ramplus_tl": Case("ramplus_tl", {"epsilon": 2e-3, "r": 0.3, "alpha": 0.5}),
    "passthrough": Case("passthrough", {"scale": 0.5}, models=0),
    "sce_half": Case("sce", {"select_topk": 0.515}),
}

TIED = ("ties", "breadcrumbs", "sce_half")
"""Cases that are also made with weights of few digits, among whose updates many magnitudes tie."""

A, B, C, D = "A", "B", "C", "D"
"""The base and others near it, D with another vocabulary; each runner puts its folders in their place."""


def models(*names: str, **per_model: list[float]) -> list[dict[str, Any]]:
    """A `models` section: one entry a name, with the entry's own value of each parameter where given."""
    entries = []
    for place, name in enumerate(names):
        own = {key: values[place] for key, values in per_model.items()}
        entries.append({"model": name, **({"parameters": own} if own else {})})
    return entries


def slices(*parts: list[tuple[str, int, int]], **more: Any) -> list[dict[str, Any]]:
    """A `slices` section: each part a list of (model, first layer, end)."""
    return [
        {"sources": [{"model": m, "layer_range": [start, stop]} for m, start, stop in part], **more} for part in parts
    ]


GRADIENT = [{"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]}, {"filter": "mlp", "value": [1, 0]}, {"value": 0.5}]

CONFIGS: dict[str, dict[str, Any]] = {
    "linear": {"merge_method": "linear", "models": models(A, B, weight=[1.0, 0.3])},
    "linear_plain": {
        "merge_method": "linear",
        "models": models(A, B, weight=[0.6, 0.6]),
        "parameters": {"normalize": False},
    },
    "slerp": {"merge_method": "slerp", "base_model": A, "models": models(A, B), "parameters": {"t": GRADIENT}},
    "slerp_slices": {
        "merge_method": "slerp",
        "base_model": A,
        "slices": [
            *slices([(A, 0, 2), (B, 0, 2)], parameters={"t": [0.1, 0.9]}),
            *slices([(A, 2, 4), (B, 1, 3)]),
        ],
        "parameters": {"t": 0.4},
    },
    "multislerp": {"merge_method": "multislerp", "base_model": A, "models": models(B, C, weight=[0.6, 0.4])},
    "nuslerp": {"merge_method": "nuslerp", "models": models(A, B, weight=[0.6, 0.4])},
    "karcher": {"merge_method": "karcher", "models": models(A, B, C)},
    "model_stock": {"merge_method": "model_stock", "base_model": A, "models": models(B, C)},
    "nearswap": {"merge_method": "nearswap", "base_model": A, "models": models(A, B), "parameters": {"t": 1e-3}},
    "task_arithmetic": {
        "merge_method": "task_arithmetic",
        "base_model": A,
        "models": models(B, C, weight=[0.6, 0.4]),
        "parameters": {"lambda": [{"filter": "layers.0", "value": 0.5}, {"value": 1.0}]},
    },
    "ties": {
        "merge_method": "ties",
        "base_model": A,
        "models": [
            {"model": B, "parameters": {"weight": [0.2, 0.8], "density": 0.5}},
            {"model": C, "parameters": {"weight": [{"filter": "mlp", "value": 0.4}, {"value": 0.6}]}},
        ],
        "parameters": {"density": [{"filter": "down_proj", "value": 0.3}, {"value": 0.7}], "int8_mask": True},
    },
    "breadcrumbs": {
        "merge_method": "breadcrumbs",
        "base_model": A,
        "models": models(B, C, weight=[0.6, 0.4]),
        "parameters": {"density": 0.7, "gamma": 0.1},
    },
    "breadcrumbs_ties": {
        "merge_method": "breadcrumbs_ties",
        "base_model": A,
        "models": models(B, C, weight=[0.6, 0.4]),
        "parameters": {"density": 0.6, "gamma": 0.1, "normalize": True},
    },
    "dare_linear": {
        "merge_method": "dare_linear",
        "base_model": A,
        "models": models(A, B, C, weight=[0.1, 0.6, 0.4]),
        "parameters": {"density": 1.0},
    },
    "dare_ties": {"merge_method": "dare_ties", "base_model": A, "models": models(B, C, weight=[0.6, 0.4])},
    "della": {"merge_method": "della", "base_model": A, "models": models(B, C, weight=[0.6, 0.4])},
    "della_linear": {"merge_method": "della_linear", "base_model": A, "models": models(B, C, weight=[0.6, 0.4])},
    "sce": {"merge_method": "sce", "base_model": A, "models": models(B, C), "parameters": {"select_topk": 0.5}},
    "ram": {"merge_method": "ram", "base_model": A, "models": models(B, C), "parameters": {"epsilon": 2e-3}},
    "ramplus_tl": {
        "merge_method": "ramplus_tl",
        "base_model": A,
        "models": models(B, C),
        "parameters": {"epsilon": 2e-3},
    },
    "tokenizer_base": {
        "merge_method": "task_arithmetic",
        "base_model": A,
        "models": models(B, D, weight=[0.6, 0.4]),
        "tokenizer_source": "base",
    },
    "tokenizer_union": {
        "merge_method": "linear",
        "base_model": A,
        "models": models(A, D, weight=[0.6, 0.4]),
        "tokenizer_source": "union",
    },
    "tokenizer_of_a_model": {
        "merge_method": "linear",
        "models": models(A, B, D, weight=[0.3, 0.3, 0.4]),
        "tokenizer_source": D,
    },
    "tokens": {
        "merge_method": "linear",
        "base_model": A,
        "models": models(A, D, weight=[0.6, 0.4]),
        "tokenizer": {
            "source": "union",
            "pad_to_multiple_of": 8,
            "tokens": {
                "new": {"source": {"kind": "zero"}},
                "w3": {"source": D, "force": True},
                "w4": {"source": {"kind": "model_token", "model": A, "token": "w9"}, "force": True},
                "w5": {"source": {"kind": "model_token", "model": D, "token_id": 2}, "force": True},
                "added": {"source": {"kind": "model_token", "model": A, "token": "w7"}},
            },
        },
    },
    "frankenmerge": {
        "merge_method": "passthrough",
        "slices": slices([(A, 0, 3)], [(B, 2, 3)]),
        "dtype": "bfloat16",
    },
    "scaled_layers": {
        "merge_method": "passthrough",
        "slices": [
            *slices([(A, 0, 2)]),
            {
                "sources": [
                    {
                        "model": A,
                        "layer_range": [1, 3],
                        "parameters": {"scale": [{"filter": "o_proj", "value": 0.0}, {"value": 1.0}]},
                    }
                ]
            },
        ],
    },
}
"""Configs of base and others in float32; where nothing else is said the output is bfloat16."""


FUSIONS: dict[str, dict[str, Any]] = {
    f"arcee_fusion_{dtype}": {"merge_method": "arcee_fusion", "base_model": A, "models": models(B), "dtype": dtype}
    for dtype in ("bfloat16", "float32")
}
"""Configs that take the setting `merge.methods.arcee_fusion.variant=mergekit` to give mergekit's bits."""

A_B = models(A, B, weight=[1.0, 0.3])
PLAIN = CONFIGS["linear_plain"]
BY_SLICES = CONFIGS["slerp_slices"]
STACKED = CONFIGS["frankenmerge"]


def linear(**more: Any) -> dict[str, Any]:
    return {**CONFIGS["linear"], **more}


def weighted(*weights: Any) -> dict[str, Any]:
    """`linear` with its weights written in other ways."""
    return linear(models=models(A, B, weight=list(weights)))


def like(name: str, **parameters: Any) -> dict[str, Any]:
    """A config with more parameters."""
    return {**CONFIGS[name], "parameters": {**CONFIGS[name].get("parameters", {}), **parameters}}


ALIKE: dict[str, tuple[str, dict[str, Any]]] = {
    "a base that is an input": ("linear", linear(base_model=A)),
    "weights as text": ("linear", weighted("1e0", "3e-1")),
    "weights as integer and truth value": ("linear", weighted(1, [{"filter": "*", "value": 0.3}])),
    "a truth value for a number": ("linear", weighted(True, 0.3)),
    "a condition alone": ("linear", weighted({"value": 1.0}, {"filter": "", "value": 0.3})),
    "the first condition that fits": (
        "linear",
        weighted([{"filter": "none has it", "value": 7}, {"value": 1.0}, {"value": 9}], 0.3),
    ),
    "gradients of one value": ("linear", weighted([1.0], ["0.3", "0.3"])),
    "no values": ("linear", like("linear", normalize=[])),
    "conditions of which none fits": ("linear", like("linear", normalize=[{"filter": "none", "value": False}])),
    "parameters null": ("linear", linear(parameters=None)),
    "shared weights": ("linear", linear(models=models(A) + models(B, weight=[0.3]), parameters={"weight": 1})),
    "a name": ("linear", linear(name="mine")),
    "options of the command line": ("linear", linear(lazy_unpickle=True, cuda=False, low_cpu_memory=True)),
    "notes": ("linear", linear(metadata={"a": [1]}, models=[{**A_B[0], "comment": "x"}, A_B[1]])),
    "types null": ("linear", linear(dtype=None, out_dtype="bfloat16")),
    "a type in torch's words": ("linear", linear(dtype="torch.float32", out_dtype="torch.bfloat16")),
    "one module": ("linear", {"merge_method": "linear", "modules": {"default": {"models": A_B}}}),
    "a module's parameters": (
        "linear_plain",
        {
            "merge_method": "linear",
            "parameters": {"normalize": True},
            "modules": {"default": {"models": PLAIN["models"], "parameters": {"normalize": False}}},
        },
    ),
    "a slice of all layers": (
        "linear",
        {
            "merge_method": "linear",
            "slices": [{"sources": [{**model, "layer_range": [0, 4]} for model in A_B]}],
        },
    ),
    "no tokenizer": ("linear", linear(tokenizer_source=None)),
    "a union of the same": ("linear", linear(tokenizer_source="union")),
    "the base's of the same": ("linear", linear(tokenizer={"source": "base", "tokens": None})),
    "a model's of the same": ("linear", linear(tokenizer_source=B)),
    "chat template auto": ("linear", linear(chat_template="auto")),
    "chat template by name": ("linear", linear(chat_template="chatml")),
    "chat template": ("linear", linear(chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}")),
    "a model as a mapping": ("linear", linear(models=[{**A_B[0], "model": {"model": A}}, A_B[1]])),
    "a model's path": (
        "linear",
        linear(models=[A_B[0], {**A_B[1], "model": {"model": {"path": B, "revision": None}, "lora": None}}]),
    ),
    "false as text": ("linear_plain", like("linear_plain", normalize="no")),
    "false as a number": ("linear_plain", like("linear_plain", normalize=0)),
    "false along the layers": ("linear_plain", like("linear_plain", normalize=[False, False])),
    "the base second": ("slerp", {**CONFIGS["slerp"], "models": models(B, A)}),
    "the base unlisted": ("slerp", {**CONFIGS["slerp"], "models": models(B)}),
    "bases of slices": (
        "slerp_slices",
        {**BY_SLICES, "base_model": None, "slices": [{**part, "base_model": A} for part in BY_SLICES["slices"]]},
    ),
    "a weight of the base": (
        "task_arithmetic",
        {**CONFIGS["task_arithmetic"], "models": models(A, B, C, weight=[9.0, 0.6, 0.4])},
    ),
    "parameters of others": ("task_arithmetic", like("task_arithmetic", density=0.1, int8_mask=True, nonsense=3)),
    "defaults written out": ("ties", like("ties", normalize=True, rescale=False, **{"lambda": 1.0})),
    "a density above 1": ("dare_linear", like("dare_linear", density=1.5, rescale=True, normalize=False)),
    "defaults of karcher": ("karcher", {**like("karcher", max_iter=10, tol="1e-5"), "base_model": A}),
    "defaults of multislerp": ("multislerp", like("multislerp", normalize_weights=True, eps=1e-8)),
    "defaults of model_stock": ("model_stock", like("model_stock", filter_wise="false")),
    "defaults of ram": ("ramplus_tl", like("ramplus_tl", r=0.1, alpha=0.2)),
    "weights that sce does not take": (
        "sce",
        {**CONFIGS["sce"], "models": models(B, C, weight=[0.9, 0.1])},
    ),
    "slices of a module": (
        "frankenmerge",
        {**{name: STACKED[name] for name in ("merge_method", "dtype")},
         "modules": {"default": {"slices": STACKED["slices"]}}},
    ),
    "residual weights": (
        "frankenmerge",
        {**STACKED, "slices": [{**part, "residual_weight": 0.5} for part in STACKED["slices"]]},
    ),
}  # fmt: skip
"""Configs that say in other words what one of CONFIGS says, by the name of that one: forms that mergekit accepts."""

"""mergekit's merge methods and parameters, by its names and with its defaults, as the methods of `bm.merge.methods`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from bm.errors import UserError, nearest
from bm.merge import methods
from bm.merge.tensors import Method

REQUIRED = object()
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Parameter:
    """`per`: one value for the merge, one for each input, or one for each input but the base."""

    name: str
    kind: type
    default: Any = REQUIRED
    per: Literal["merge", "input", "model"] = "merge"


@dataclass(frozen=True)
class Entry:
    """A method of mergekit: how its base is treated, how many inputs it takes, and its parameters in our terms.

    `base`: `required`; `optional`: used when given; `none`: a base is an input like the others. `in_its_dtype`: inputs
    are rounded to the config's `dtype`, else to the type that holds all of them, before anything else.
    """

    method: Callable[..., Any]
    native: Callable[[Values], dict[str, Any]]
    parameters: tuple[Parameter, ...] = ()
    base: Literal["required", "optional", "none"] = "required"
    inputs: tuple[int, int | None] = (1, None)
    in_its_dtype: bool = False

    def bound(self, values: Values) -> Method:
        return partial(self.method, **self.native(values))


WEIGHT = Parameter("weight", float, per="model")
LAMBDA = Parameter("lambda", float, 1.0)
NORMALIZE = Parameter("normalize", bool, True)


def _vectors(values: Values) -> dict[str, Any]:
    """The parameters that methods of task vectors share."""
    return {"weights": values["weight"], "lam": values["lambda"], "normalize": values["normalize"]}


def _sparse(values: Values) -> dict[str, Any]:
    """A density outside [0, 1] keeps nothing or everything; `rescale` keeps the L1 norm."""
    own = {name: values[name] for name in ("epsilon", "gamma") if name in values}
    density = [min(max(share, 0.0), 1.0) for share in values["density"]]
    return {**_vectors(values), "density": density, "rescale": "l1" if values["rescale"] else "none", **own}


def _task_vectors(method: Callable[..., Any], normalize: bool, rescale: bool, *own: Parameter) -> Entry:
    """A method that drops entries, with mergekit's defaults. (Its `int8_mask` only says how it stores masks.)"""
    density, shared = Parameter("density", float, 1.0, "model"), Parameter("normalize", bool, normalize)
    return Entry(method, _sparse, (WEIGHT, density, LAMBDA, shared, Parameter("rescale", bool, rescale), *own))


def _nuslerp(values: Values) -> dict[str, Any]:
    rows = "first" if values["nuslerp_row_wise"] else "last"
    return {"weights": values["weight"], "over": "tensor" if values["nuslerp_flatten"] else rows}


GAMMA = Parameter("gamma", float, 0.01, "model")
EPSILON = Parameter("epsilon", float, 0.15, "model")
THRESHOLD = Parameter("epsilon", float, 1e-5)

METHODS: Mapping[str, Entry] = {
    "linear": Entry(
        methods.linear,
        lambda v: {"weights": v["weight"], "normalize": v["normalize"]},
        (Parameter("weight", float, per="input"), NORMALIZE),
        "none",
    ),
    "slerp": Entry(methods.slerp, dict, (Parameter("t", float),), inputs=(2, 2)),
    "nuslerp": Entry(
        methods.nuslerp,
        _nuslerp,
        (WEIGHT, Parameter("nuslerp_row_wise", bool, False), Parameter("nuslerp_flatten", bool, True)),
        "optional",
        (2, 3),
    ),
    "multislerp": Entry(
        methods.multislerp,
        lambda v: {"weights": v["weight"], "normalize": v["normalize_weights"]},
        (WEIGHT, Parameter("normalize_weights", bool, True)),
        "optional",
    ),
    "karcher": Entry(
        methods.karcher,
        lambda v: {"weights": 1.0, "iterations": v["max_iter"], "tolerance": v["tol"]},
        (Parameter("max_iter", int, 10), Parameter("tol", float, 1e-5)),
        "none",
    ),
    "model_stock": Entry(methods.model_stock, dict, (Parameter("filter_wise", bool, False),), inputs=(3, None)),
    "nearswap": Entry(methods.nearswap, dict, (Parameter("t", float),), inputs=(2, 2)),
    "arcee_fusion": Entry(
        methods.arcee_fusion, lambda _: {"lam": 1.5, "variant": "exact", "difference": "absolute"}, inputs=(2, 2)
    ),
    "passthrough": Entry(
        methods.passthrough,
        lambda v: {"scale": v["scale"][0]},
        (Parameter("scale", float, 1.0, "input"),),
        "none",
        (1, 1),
    ),
    "task_arithmetic": Entry(methods.task_arithmetic, _vectors, (WEIGHT, LAMBDA, Parameter("normalize", bool, False))),
    "ties": _task_vectors(methods.ties, True, False),
    "dare_linear": _task_vectors(methods.dare_linear, False, True),
    "dare_ties": _task_vectors(methods.dare_ties, False, True),
    "breadcrumbs": _task_vectors(methods.breadcrumbs, False, False, GAMMA),
    "breadcrumbs_ties": _task_vectors(methods.breadcrumbs_ties, False, False, GAMMA),
    "della": _task_vectors(methods.della, True, True, EPSILON),
    "della_linear": _task_vectors(methods.della_linear, False, True, EPSILON),
    "sce": Entry(
        methods.sce,
        lambda v: {"density": min(max(v["select_topk"], 0.0), 1.0)},
        (Parameter("select_topk", float, 1.0),),
    ),
    "ram": Entry(methods.ram, dict, (THRESHOLD,)),
    "ramplus_tl": Entry(
        methods.ram_plus, dict, (THRESHOLD, Parameter("r", float, 0.1), Parameter("alpha", float, 0.2))
    ),
}


def entry_of(name: str, variant: str) -> Entry:
    """The method of that name; `variant` is Arcee Fusion's."""
    if name not in METHODS:
        raise UserError(f"merge_method '{name}' is not supported{nearest(name, METHODS)}")
    if name != "arcee_fusion" or variant == "exact":
        return METHODS[name]
    native = {"lam": 1.5, "variant": variant, "difference": "absolute"}
    return replace(METHODS[name], native=lambda _: native, in_its_dtype=variant == "mergekit")

"""The schema of every setting. Defaults live in `conf/`, types and ranges here, and nowhere else.

Composed YAML becomes one frozen, typed dataclass at the door (`load`); inside the package nothing is a `DictConfig`.
A field or a component's parameter marked `NoKey` changes how a result is made but not the result: it stays out of the
artefact's key.
"""

import dataclasses
import importlib
import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

from bm.errors import UserError, nearest

NoKey = "does not change the result"
STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


@dataclasses.dataclass(frozen=True)
class Component:
    """A function named by `_target_` and the parameters given to it in YAML: what Hydra's instantiate would call.

    The parameters are held to the function's own annotations when the config is read, not when it is called.
    """

    target: str
    parameters: Mapping[str, Any]

    def __hash__(self) -> int:
        return hash((self.target, json.dumps(self.parameters, sort_keys=True, default=str)))

    @property
    def function(self) -> Callable[..., Any]:
        return _function(self.target)

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        return self.function(*arguments, **_typed(self), **more)


def _component(node: Any) -> Component:
    if isinstance(node, Component):
        return node
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ValueError("needs a `_target_`: the dotted name of a function")
    component = Component(str(node["_target_"]), {str(k): v for k, v in node.items() if k != "_target_"})
    _typed(component)
    return component


def _typed(component: Component) -> dict[str, Any]:
    """The parameters as the types that the function's annotations ask for; ValueError names the first that is not."""
    known = inspect.signature(component.function, eval_str=True).parameters
    typed: dict[str, Any] = {}
    for name, value in component.parameters.items():
        if name not in known:
            raise ValueError(f"`{component.target}` has no parameter '{name}'{nearest(name, known)}")
        try:
            typed[name] = TypeAdapter(known[name].annotation).validate_python(value)
        except ValidationError as problem:
            raise ValueError(f"{name}: {_reason(problem.errors()[0])}") from problem
    return typed


def _function(target: str) -> Callable[..., Any]:
    module, _, name = target.rpartition(".")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as problem:
        raise ValueError(f"there is no function `{target}` ({problem})") from problem
    return function


Target = Annotated[
    Component, BeforeValidator(_component), PlainSerializer(lambda c: {"_target_": c.target, **c.parameters})
]


@dataclass(frozen=True, config=STRICT)
class Paths:
    outputs: Path
    """Where everything is written."""


@dataclass(frozen=True, config=STRICT)
class Branch:
    """Supervised fine-tuning (paper, section 3.1 and its released launcher)."""

    epochs: Annotated[float, Field(gt=0)]
    batch: Positive
    """Packs per optimiser step, over all ranks and accumulation."""
    micro_batch: Annotated[int, Field(gt=0), NoKey]
    """Packs per forward pass of one rank."""
    sequence_length: Positive
    """Tokens in a pack."""
    packing: Literal["none", "packing", "neat"]
    overlong: Literal["drop", "cut"]
    """What happens to a trace longer than that."""
    max_overlong: Share
    """Share of a domain's traces that may be overlong; more stop the run."""
    chat_template: Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")] | None
    """SHA-256, or how it begins, of the chat template that the student must have; null: any."""
    learning_rate: Annotated[float, Field(gt=0)]
    schedule: Literal["constant", "cosine", "linear"]
    warmup_ratio: Share
    betas: tuple[Share, Share]
    eps: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    gradient_clip: Annotated[float, Field(gt=0)]
    seed: int
    held_out: Annotated[int, Field(ge=0)]
    """Traces of each domain kept from training to measure its loss and its gradient."""
    watch_every: Annotated[int, Field(gt=0), NoKey]
    """Optimiser steps between those measurements."""
    checkpoint_seconds: Annotated[float, Field(gt=0), NoKey]


@dataclass(frozen=True, config=STRICT)
class NearDuplicates:
    """Questions whose sets of word n-grams have at least this Jaccard similarity are one question."""

    threshold: Annotated[float, Field(gt=0, le=1)]
    permutations: Positive
    """Of MinHash: more find more of the pairs near the threshold."""
    ngram: Positive


@dataclass(frozen=True, config=STRICT)
class Decontamination:
    """Questions that share a run of words with what an evaluation task asks are not trained on."""

    ngram: Positive
    """Words in the run."""
    strict: bool
    """Whether a task whose data cannot be read stops the distillation; otherwise it is named as unchecked."""


@dataclass(frozen=True, config=STRICT)
class Repetition:
    """A response whose word n-grams are repeats to more than this share is not kept."""

    ngram: Positive
    most: Share


@dataclass(frozen=True, config=STRICT)
class Distill:
    """Which questions are asked, and which responses become traces."""

    policy: Literal["first_correct", "shortest_correct", "all_correct", "agreement"]
    """Of a question's correct responses: one of them, all, or one if more agree with it than with any other."""
    keep: Positive | None
    """Traces of a question that policy all_correct keeps at most; null: all."""
    format: bool
    """Whether a trace must be exactly one closed thought that is not empty, and an answer behind it."""
    min_characters: Positive | None
    max_characters: Positive | None
    """Of a whole response."""
    max_tokens: Positive | None
    """The same in tokens, where the engine counted them."""
    repetition: Repetition | None
    foreign_script: Share | None
    """Share of a response's letters that may be in scripts of which its question has none; null: any."""
    near_duplicates: NearDuplicates | None
    decontamination: Decontamination | None


@dataclass(frozen=True, config=STRICT)
class Domain:
    """Where a domain's questions come from, what tests them, and how its expert is trained."""

    name: Name
    task: str | None
    """The evaluation task of this domain (an lm-eval task)."""
    source: Target
    traces: Positive | None
    """Questions to ask for training; null: all that the source has, which must then come to an end."""
    questions: Positive | None
    """Evaluation questions kept apart; null: the task has its own, and the whole source may be trained on."""
    expected: Positive | None
    """Traces that the paper kept, told beside ours; a source with fewer questions than `traces` is then no mistake."""
    distill: Mapping[str, Any]
    """Overrides of `distill` for this domain."""
    branch: Mapping[str, Any]
    """Overrides of `branch` for this domain's expert (the paper trains each domain its own way)."""


@dataclass(frozen=True, config=STRICT)
class Student:
    """The initial model, as a Hugging Face folder made by `build`, and first trained where it starts from nothing."""

    name: Name
    build: Target
    domains: Mapping[str, Domain]
    """Domains it is trained on from scratch, each on its `student` part; empty: the student is ready as it is."""
    branch: Mapping[str, Any]
    """Overrides of `branch` for that training."""


@dataclass(frozen=True, config=STRICT)
class Mixture:
    """The baseline's training set: which share of each domain's traces."""

    name: Name
    ratio: Mapping[str, Annotated[float, Field(gt=0)]]
    """Share of each domain's traces that is used; a domain left out gives all of its traces."""
    temperature: Annotated[float, Field(gt=0)] | None
    """Ratios that follow from the sizes of the domains (`bm.mixtures`); null: those of `ratio` alone."""
    leave_out: Name | None
    """A domain that is no part of the mixture, to see what it gave."""
    branch: Mapping[str, Any]


@dataclass(frozen=True, config=STRICT)
class Merge:
    """How experts become one model: methods, an order, and the numbers' types."""

    methods: Mapping[str, Target]
    order: str | Sequence[str]
    """`(math & science) & coding`, several of them, or `all`: every pairwise order. The last operand is the base."""
    schedule: Mapping[str, Any]
    """Parameters of the methods that differ by layer, module or model (`bm.merge.schedule`)."""
    statistics: Mapping[str, Path]
    """Each model's folder of statistics, for methods that need some; `bm run` measures those that are not given."""
    examples: Annotated[int, Field(gt=0), NoKey]
    """Traces of its domain on which an expert's statistics are measured."""
    interference: Annotated[Annotated[float, Field(ge=0)] | None, NoKey]
    """Measure how the updates meet, masks as Arcee Fusion's with this λ; null: do not."""
    dtype: Literal["float32", "float64"]
    out_dtype: Literal["float32", "bfloat16", "float16"]
    device: Annotated[str, NoKey]
    threads: Annotated[int, Field(ge=0), NoKey]
    """Worker threads; 0: one per core. The result does not depend on it."""
    max_shard_size: str
    seed: int


@dataclass(frozen=True, config=STRICT)
class Evaluate:
    """The evaluation protocol (paper, section 4.1)."""

    tasks: Sequence[str]
    """Tasks beside those of the domains: lm-eval's, those of `bm/evaluate/tasks/`, or your own."""
    include_path: Path | None
    """A folder of your own lm-eval task YAML."""
    data: Mapping[str, Path | None]
    """By task, a file (JSON Lines, Parquet, CSV) in the place of its set on the hub, with the set's own columns."""
    traces: Annotated[Sequence[Path], NoKey]
    """Training traces (traces.parquet, or folders with one) to look for the questions in, beside the lineage's."""
    limit: Positive | None
    """Only the first so many questions of each task; null: all."""
    samples: Positive | None
    """Samples per question; pass@1 is their mean. This and the next three: null leaves them to each task's YAML."""
    temperature: Annotated[float, Field(ge=0)] | None
    top_p: Annotated[float, Field(gt=0, le=1)] | None
    max_new_tokens: Positive | None
    unsafe_code: bool
    """Whether lm-eval's tasks that run a model's code as it is, without a sandbox, may do so."""
    chat_template: bool
    """Whether prompts go through the model's chat template; without it they are plain text, as lm-eval's default."""
    engine: Target
    """What generates; `bm.generate.engines` has them."""
    resamples: Positive
    """Bootstrap resamples of the questions behind each interval."""
    confidence: Annotated[float, Field(gt=0, lt=1)]
    race: Annotated[float | None, Field(gt=0, lt=1), NoKey]
    """Merges that cannot win any more are asked no further: the chance that this drops the best. null: ask all."""
    seed: int


@dataclass(frozen=True, config=STRICT)
class Verify:
    """How responses are judged: limits of the sandbox that a model's code runs in, tolerances, and the LLM judge."""

    sandbox: Literal["bubblewrap", "unsafe"]
    """Namespaces of their own for a model's code; or none, with the same limits but the machine in its reach."""
    seconds: Annotated[float, Field(gt=0)]
    """For a program on one test, or for one mathematical comparison."""
    memory_mb: Positive
    """Of a program under test, which is one process with as many threads as fit."""
    output_kb: Positive
    """What a program may write on one test."""
    disk_mb: Positive
    """What a program may keep in its own folder."""
    tolerance: Annotated[float, Field(ge=0, lt=1)]
    """Relative difference from the reference up to which a number counts as the same (verifier `number`)."""
    parallel: Annotated[int, Field(ge=0), NoKey]
    """Responses judged at a time; 0: one per core."""
    judge: Target | None
    """The LLM that decides for verifier `judge` (`bm.verify.judge`); null: there is none."""


@dataclass(frozen=True, config=STRICT)
class Trainer:
    """Where training runs: the settings of Lightning's Trainer that `bm` uses."""

    accelerator: Literal["cpu", "gpu"]
    devices: Positive
    nodes: Positive
    precision: Literal["32-true", "bf16-mixed"]
    """Of the arithmetic; weights and optimiser state are fp32 either way."""
    sequence_parallel: Positive
    """Ranks that share one sequence (Ulysses); the others go to data, and weights are sharded over all (FSDP2)."""
    activation_checkpointing: Annotated[Literal["none", "selective", "full"], NoKey]
    """What the backward pass computes again: nothing; all but matrix products and attention; every block."""
    activation_offload: Annotated[bool, NoKey]
    """Whether activations wait for the backward pass in CPU memory."""
    launch: Annotated[str, NoKey]
    """The command that starts the ranks, when there are several."""


@dataclass(frozen=True, config=STRICT)
class Prices:
    """USD an hour."""

    gpus: Mapping[str, Annotated[float, Field(ge=0)]]
    """Of one GPU, by a part of the name that its driver gives."""
    machine: Annotated[float, Field(ge=0)]
    """Of the machine, where no GPU is used."""


@dataclass(frozen=True, config=STRICT)
class Rounds:
    """Branch-Merge again, on what it made: a round's model is the next one's student, and its own teacher."""

    count: Positive
    """1: the recipe as it is."""
    model: str
    """What the next round begins with: the best `merge`, `expert` or `mixture` by mean score, or one by its name."""
    teacher: Target
    """How that model is sampled; it is put in the place of the parameter `model`."""


@dataclass(frozen=True, config=STRICT)
class Experiment:
    """A whole experiment, from questions to verdicts."""

    recipe: Name
    experiment: Name | None
    """The published table or figure, or the ablation, that this is a cell of; `conf/experiment/` sets it."""
    seed: int
    paths: Paths
    output: Path | None
    student: Student
    teacher: Target
    domains: Mapping[str, Domain]
    mixture: Mixture | None
    distill: Distill
    branch: Branch
    merge: Merge
    evaluate: Evaluate
    verify: Verify
    rounds: Rounds
    trainer: Trainer
    prices: Prices
    tracker: Annotated[Target, NoKey]
    """Who watches (`bm.track.backends`); local files are written besides, and are the truth."""

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        for name, domain in self.domains.items():
            if domain.task is None:
                raise ValueError(
                    f"domains.{name}.task: domain '{name}' has no evaluation task; name one of lm-eval's or of bm's"
                )
            overridden(self.branch, domain.branch, f"domains.{name}.branch")
            overridden(self.distill, domain.distill, f"domains.{name}.distill")
        if self.mixture:
            for name in self.mixture.ratio:
                if name not in self.domains:
                    raise ValueError(f"mixture.ratio.{name}: no such domain{nearest(name, self.domains)}")
            if (out := self.mixture.leave_out) and (out not in self.domains or len(self.domains) == 1):
                others = [name for name in self.domains if len(self.domains) > 1]
                raise ValueError(f"mixture.leave_out: '{out}' is none of several domains{nearest(out, others)}")
            overridden(self.branch, self.mixture.branch, "mixture.branch")
        overridden(self.branch, self.student.branch, "student.branch")
        return self


@dataclass(frozen=True, config=STRICT)
class MergeFolders:
    """`bm merge`: any Hugging Face folders into one."""

    paths: Paths
    merge: Merge
    base: Path | None
    models: Sequence[Path]
    mergekit: Path | None
    output: Path


@dataclass(frozen=True, config=STRICT)
class EvaluateFolder(Experiment):
    """`bm evaluate`: a Hugging Face folder on the domains' tasks and on `evaluate.tasks`."""

    model: Path
    output: Path


@dataclass(frozen=True, config=STRICT)
class VerifyFile:
    """`bm verify`: a file of responses, graded one by one."""

    paths: Paths
    verify: Verify
    verifier: Literal["math", "code", "choice", "number", "reasoning_gym", "instructions", "judge"]
    file: Path
    """JSON Lines with `response`, and `answer` or `tests`."""
    output: Path


@dataclass(frozen=True, config=STRICT)
class Chosen:
    """The grid that a report is of."""

    experiment: Name | None
    """null: none, but every run."""
    recipe: Name | None
    """Its scale; null: the one it was run at."""


@dataclass(frozen=True, config=STRICT)
class Report:
    """`bm report`: every run side by side, the grid of an experiment, or the traces of a folder."""

    paths: Paths
    grid: Chosen
    record: bool
    """Whether a checkout keeps what was measured, in `experiments/`."""
    traces: Path | None
    """A distillation artefact, or any folder with a traces.parquet; null: the runs."""
    limit: Positive
    """Traces that the page holds at most."""
    prices: Prices
    output: Path | None


T = TypeVar("T")


def load(root: type[T], composed: DictConfig) -> T:
    """The composed YAML as a frozen `root`; UserError names the first setting that is missing, unknown or bad."""
    for name in sorted(OmegaConf.missing_keys(composed)):
        raise UserError(f"{name}: must be given")
    try:
        values = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as problem:
        raise UserError(str(problem).splitlines()[0]) from problem
    return typed(root, values)


def typed(root: type[T], values: Any, where: str = "") -> T:
    """`values` as a frozen `root`, or a UserError that names the setting by its path below `where`."""
    try:
        return TypeAdapter(root).validate_python(values)
    except ValidationError as problem:
        first = problem.errors()[0]
        path = ".".join([where] * bool(where) + [str(part) for part in first["loc"] if "function" not in str(part)])
        reason = _reason(first)
        if first["type"] == "unexpected_keyword_argument":
            reason = "no such setting" + nearest(str(first["loc"][-1]), _fields(root, first["loc"][:-1]))
        raise UserError(f"{path}: {reason}" if path else reason) from problem


def overridden(settings: T, overrides: Mapping[str, Any], where: str) -> T:
    """`settings` with some fields replaced, checked like the rest."""
    return typed(type(settings), {**TypeAdapter(type(settings)).dump_python(settings), **overrides}, where)


def resolved(settings: Any) -> Any:
    """A dataclass of this module as plain JSON values, for a manifest."""
    return TypeAdapter(type(settings)).dump_python(settings, mode="json")


def identity(settings: Any) -> Any:
    """A dataclass or component as plain JSON values, without what does not change the result: neither key nor hash."""
    if isinstance(settings, Component):
        known = inspect.signature(settings.function, eval_str=True).parameters
        neutral = {name for name, parameter in known.items() if _neutral(parameter.annotation)}
        inner = {n: identity(v) for n, v in _typed(settings).items() if isinstance(v, Component)}
        values: dict[str, Any] = {"_target_": settings.target, **settings.parameters, **inner}
    else:
        hints = typing.get_type_hints(type(settings), include_extras=True)
        neutral = {name for name, hint in hints.items() if _neutral(hint)}
        components = {n: identity(v) for n, v in vars(settings).items() if isinstance(v, Component)}
        values = {**resolved(settings), **components}
    return {name: value for name, value in values.items() if name not in neutral}


def _neutral(hint: Any) -> bool:
    return NoKey in getattr(hint, "__metadata__", ())


def _reason(error: Any) -> str:
    """Pydantic's message in the words of this project."""
    message = re.sub(r"^(Value error, |Input )", "", error["msg"])
    message = re.sub(r"^should be", "must be", message)
    if error["type"] in ("value_error", "missing"):
        return message
    return f"{message}, not {error['input']!r}".replace("\n", " ")


def _fields(root: Any, path: tuple[Any, ...]) -> list[str]:
    """Names of the settings below `path`."""
    for part in path:
        hint = typing.get_type_hints(root).get(str(part)) if dataclasses.is_dataclass(root) else None
        arguments = [a for a in typing.get_args(hint) if dataclasses.is_dataclass(a)]
        root = hint if dataclasses.is_dataclass(hint) else arguments[0] if arguments else root
    return [field.name for field in dataclasses.fields(root)] if dataclasses.is_dataclass(root) else []

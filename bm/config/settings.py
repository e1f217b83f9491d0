"""The settings of each stage: their types and ranges; the defaults are in `conf/`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from bm.config.component import (
    EngineTarget,
    JudgeTarget,
    MethodTarget,
    SourceTarget,
    StudentTarget,
    TeacherTarget,
    VerifierTarget,
)
from bm.config.loading import Content, Device, NoKey

STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True, defer_build=True)

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


@dataclass(frozen=True, config=STRICT)
class Paths:
    outputs: Path
    """Where everything is written."""


@dataclass(frozen=True, config=STRICT)
class NearDuplicates:
    """Questions whose sets of word n-grams have at least this Jaccard similarity are one question."""

    threshold: Annotated[float, Field(gt=0, le=1)]
    """Jaccard similarity of two questions' n-grams from which on they are one."""
    permutations: Positive
    """Permutations of MinHash: more of them find more of the pairs near the threshold."""
    ngram: Positive
    """Words in an n-gram."""


@dataclass(frozen=True, config=STRICT)
class Decontamination:
    """Questions that share a run of words with what an evaluation task asks are not trained on."""

    ngram: Positive
    """Words in a row that a question must share with an evaluation question to be left out."""
    strict: bool
    """Whether a task whose data cannot be read stops the distillation; otherwise it is named as unchecked."""


@dataclass(frozen=True, config=STRICT)
class Repetition:
    """A response whose word n-grams are repeats to more than this share is not kept."""

    ngram: Positive
    """Words in an n-gram."""
    most: Share
    """Share of a response's n-grams that may be repeats of others."""


@dataclass(frozen=True, config=STRICT)
class Distill:
    """Which questions are asked, and which responses become traces."""

    policy: Literal["first_correct", "shortest_correct", "all_correct", "agreement"]
    """Which correct responses to a question are kept: one, all, or one if more agree with it than with any other."""
    keep: Positive | None
    """Traces of a question that policy all_correct keeps at most; null: all."""
    format: bool
    """Whether a trace must be exactly one closed thought that is not empty, and an answer behind it."""
    min_characters: Positive | None
    """Least length of a whole response; null: any."""
    max_characters: Positive | None
    """Greatest length of a whole response; null: any."""
    max_tokens: Positive | None
    """Greatest length of a whole response in tokens, where the engine counted them; null: any."""
    repetition: Repetition | None
    """Leaves out responses that repeat themselves; null: keeps them."""
    foreign_script: Share | None
    """Share of a response's letters that may be in scripts of which its question has none; null: any."""
    near_duplicates: NearDuplicates | None
    """Leaves out questions that are nearly the same as others; null: leaves out equal prompts alone."""
    decontamination: Decontamination | None
    """Leaves out questions that an evaluation task asks; null: does not look for them."""

    @model_validator(mode="after")
    def _some_length_is_kept(self) -> Self:
        if self.min_characters and self.max_characters and self.min_characters > self.max_characters:
            raise ValueError(
                f"min_characters: no response has at least {self.min_characters} and at most {self.max_characters}"
                " characters (max_characters)"
            )
        return self


@dataclass(frozen=True, config=STRICT)
class Domain:
    """Where a domain's questions come from, what tests them, and how its expert is trained."""

    name: Name
    """The key below `domains`; it need not be written."""
    task: str | None
    """The evaluation task of this domain (an lm-eval task); null: its own held-back questions, under its name."""
    source: SourceTarget
    """A function that yields its questions, and its parameters (`bm.distill.sources`)."""
    traces: Positive | None
    """Questions to ask for training; null: all that the source has, which must then be finite."""
    questions: Positive | None
    """Evaluation questions kept apart; null: the task has its own, and the whole source may be trained on."""
    expected: Positive | None
    """Traces that the paper kept, shown beside ours; a source with fewer questions than `traces` is then fine."""
    distill: Mapping[str, Any]
    """Overrides of `distill` for this domain."""
    branch: Mapping[str, Any]
    """Overrides of `branch` for this domain's expert (the paper trains each domain its own way)."""


def _named(domains: Any) -> Any:
    """Domains as they are in YAML, each with its key as its name, and as its task where it has questions of its own."""
    if not isinstance(domains, Mapping):
        return domains
    return {key: _as(str(key), domain) for key, domain in domains.items()}


def _as(name: str, domain: Any) -> Any:
    if not isinstance(domain, Mapping):
        return domain
    if domain.get("name", name) != name:
        raise ValueError(f"{name}.name: a domain is called by its key, '{name}'; leave its name out")
    task = name if domain.get("task") is None and domain.get("questions") is not None else domain.get("task")
    return {**domain, "name": name, "task": task}


Domains = Annotated[Mapping[str, Domain], BeforeValidator(_named)]


@dataclass(frozen=True, config=STRICT)
class Student:
    """The initial model, as a Hugging Face folder made by `build`, and first trained where it starts from nothing."""

    name: Name
    """What its artefacts are called."""
    build: StudentTarget
    """What makes, reads or fetches the model (`bm.student`)."""
    architecture: Annotated[Mapping[str, Any] | None, NoKey]
    """Figures of its config.json, by which a plan knows it before it is built or fetched; null: it is read."""
    domains: Domains
    """Domains it is trained on from scratch, each on its `student` part; empty: the student is ready as it is."""
    learned: Sequence[Name]
    """Domains whose `student` part a ready student was trained on elsewhere: its experts get other questions."""
    branch: Mapping[str, Any]
    """Overrides of `branch` for that training."""
    anneal: Mapping[str, Any]
    """Overrides of `student.branch` for one more training, in which the rate falls; empty: none. With `branch.keep` a
    single long training at a constant rate gives students of every strength, each as if trained alone (arXiv
    2405.18392)."""


@dataclass(frozen=True, config=STRICT)
class Mixture:
    """The baseline's training set: which share of each domain's traces."""

    name: Name
    """What the mixture is called."""
    ratio: Mapping[str, Annotated[float, Field(gt=0)]]
    """Share of each domain's traces that is used; a domain left out gives all of its traces."""
    temperature: Annotated[float, Field(gt=0)] | None
    """Ratios that follow from the sizes of the domains (`bm.mixtures`); null: those of `ratio` alone."""
    leave_out: Name | None
    """A domain that is left out of the mixture, to see what it contributes."""
    branch: Mapping[str, Any]
    """Overrides of `branch` for the mixture's training."""


@dataclass(frozen=True, config=STRICT)
class Merge:
    """How experts become one model: methods, an order, and the numbers' types."""

    methods: Mapping[str, MethodTarget]
    """The merges to make, by name: a function of `bm.merge.methods` or of yours, and its parameters."""
    order: str | Sequence[str] | None
    """`(math & science) & coding`, several of them, or `all`: every pairwise order. The last operand is the base.
    null: one after the other, as the domains are listed."""
    schedule: Mapping[str, Any]
    """Parameters of the methods that differ by layer, module or model (`bm.merge.schedule`)."""
    statistics: Mapping[str, Annotated[Path, Content]]
    """Each model's folder of statistics, for methods that need some; `bm run` measures those that are not given."""
    examples: Positive
    """Traces of its domain on which an expert's statistics are measured."""
    interference: Annotated[float, Field(ge=0)] | None
    """Measure how the updates meet, masks as Arcee Fusion's with this λ; null: do not."""
    barrier: Annotated[int, Field(ge=0)] | None
    """Measure every model's loss on the held-out traces of every domain, and at this many points on the straight line
    between every two experts; null: do not."""
    dtype: Literal["float32", "float64"]
    """Type of the arithmetic."""
    out_dtype: Literal["float32", "bfloat16", "float16"]
    """Type of the merged weights on disk."""
    device: Annotated[str, Device]
    """Where the arithmetic runs: `cpu`, `cuda` or `cuda:1`."""
    threads: Annotated[int, Field(ge=0), NoKey]
    """Worker threads; 0: one per core, and four for a GPU. The result does not depend on it."""
    max_shard_size: str
    """Greatest size of a safetensors file: `5GB`, `500MB`."""
    seed: Seed
    """Seed of the methods that draw at random, such as DARE."""


@dataclass(frozen=True, config=STRICT)
class Evaluate:
    """The evaluation protocol (paper, section 4.1)."""

    tasks: Sequence[str]
    """Tasks beside those of the domains: lm-eval's, those of `bm/evaluate/tasks/`, or your own."""
    include_path: Annotated[Path, Content] | None
    """A folder of your own lm-eval task YAML."""
    data: Mapping[str, Annotated[Path, Content] | None]
    """A file (JSON Lines, Parquet, CSV) for each task that replaces its set on the hub, with the set's own columns."""
    traces: Sequence[Annotated[Path, Content]]
    """Training traces (traces.parquet, or folders with one) to look for the questions in, beside the lineage's."""
    limit: Positive | None
    """Only the first N questions of each task; null: all."""
    samples: Positive | None
    """Samples per question; pass@1 is their mean. null: as each task's YAML has it."""
    temperature: Annotated[float, Field(ge=0)] | None
    """Sampling temperature; 0 always takes the likeliest token. null: as the task has it."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None
    """Probability that the likeliest tokens must reach together; no others are sampled. null: as the task has it."""
    max_new_tokens: Positive | None
    """Greatest number of tokens in a response. null: as the task has it."""
    unsafe_code: bool
    """Whether lm-eval's tasks that run a model's code as it is, without a sandbox, may do so."""
    chat_template: bool
    """Whether prompts go through the model's chat template; without it they are plain text, as lm-eval's default."""
    engine: EngineTarget
    """What generates; `bm.generate.engines` has them."""
    resamples: Positive
    """Bootstrap resamples of the questions behind each interval."""
    confidence: Annotated[float, Field(gt=0, lt=1)]
    """Confidence of intervals and verdicts."""
    race: Annotated[float, Field(gt=0, lt=1)] | None
    """Merges that can no longer win are tested no further: the chance that this drops the best. null: test all."""
    seed: Seed
    """Seed of sampling and of the bootstrap."""


@dataclass(frozen=True, config=STRICT)
class Verify:
    """How responses are judged: limits of the sandbox that a model's code runs in, tolerances, and the LLM judge."""

    sandbox: Literal["bubblewrap", "unsafe"]
    """bubblewrap: a model's code runs in namespaces of its own; unsafe: same limits, but the machine within reach."""
    seconds: Annotated[float, Field(gt=0)]
    """Time limit for a program on one test, or for one mathematical comparison."""
    memory_mb: Positive
    """Memory of a program under test, which is one process with at most 64 threads."""
    output_kb: Positive
    """What a program may write on one test."""
    disk_mb: Positive
    """What a program may keep in its own folder."""
    tolerance: Annotated[float, Field(ge=0, lt=1)]
    """Relative difference from the reference up to which a number counts as the same (verifier `number`)."""
    parallel: Annotated[int, Field(ge=0), NoKey]
    """Responses judged at a time; 0: one per core."""
    judge: JudgeTarget | None
    """The LLM that decides for verifier `judge`, as in `conf/judge/`; null: there is none."""
    answers: Annotated[Path, NoKey]
    """Folder below which its answers are kept, by model, prompt and sampling: none is asked for twice."""
    verifiers: Mapping[Name, VerifierTarget]
    """What judges a response, by name: a function (text after the reasoning, reference, metadata, these settings) →
    `Verdict`. Those of your own stand beside the shipped ones."""

    @property
    def limits(self) -> tuple[str, float, int, int, int]:
        """All that a sandbox depends on."""
        return self.sandbox, self.seconds, self.memory_mb, self.output_kb, self.disk_mb

    def __hash__(self) -> int:
        return hash(self.limits)


@dataclass(frozen=True, config=STRICT)
class Prices:
    """USD per hour."""

    gpus: Mapping[str, Annotated[float, Field(ge=0)]]
    """USD per hour of one GPU, by a part of the name that its driver reports."""
    machine: Annotated[float, Field(ge=0)]
    """USD per hour of the machine, where no GPU is used."""


@dataclass(frozen=True, config=STRICT)
class Head:
    """A logistic regression on hidden states that foresees whether a response will be accepted."""

    plan: Positive
    """First tokens of a response that are its plan; beside it stands what the prompt alone tells."""
    ridge: Annotated[float, Field(gt=0)]
    """Weight of the squared weights beside the likelihood of the fitted half."""


@dataclass(frozen=True, config=STRICT)
class Feedback:
    """A second stage of a round: the teacher sees what its experts answered wrongly, and answers again."""

    template: str
    """What the teacher is asked; {prompt} stands for the question, {response} for the first response rejected."""
    branch: Mapping[str, Any]
    """Overrides of an expert's `branch` for its training on the answers that the verifier accepts."""
    head: Head | None
    """Foresees from prompt and plan whether a response will be accepted, and is scored; null: none."""

    @model_validator(mode="after")
    def _shows_both(self) -> Self:
        for part in ("{prompt}", "{response}"):
            if part not in self.template:
                raise ValueError(f"template: must have {part} where the {part.strip('{}')} goes")
        return self


@dataclass(frozen=True, config=STRICT)
class Rounds:
    """Branch-Merge again, on what it made: a round's model is the next one's student, and its own teacher."""

    count: Positive
    """Rounds of Branch-Merge; 1: the recipe as it is."""
    parts: Positive
    """Parts of an expert's training, with a merge after each; its optimiser state is kept. 1: one merge at the end."""
    go_on: Literal["merge", "own"]
    """What an expert's next part begins with: the merge, or its own weights, so that merges only tell when to stop."""
    patience: Positive | None
    """Parts in a row after which the merge predicts held-out traces no better than before, and training ends: the best
    part counts. null: all parts are trained, and the last counts."""
    model: str
    """What the next round begins with: the best `merge`, `expert` or `mixture` by mean score, or one by its name."""
    teacher: TeacherTarget
    """How that model is sampled, and experts for feedback; it is put in place of the parameter `model`."""
    feedback: Feedback | None
    """Experts are taught again what they get wrong (feedback=default); null: they are not."""

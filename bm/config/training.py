"""The settings of training: what is learned, from whom, by what, and where it runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from bm.config.component import EngineTarget, LossTarget, OptimizerTarget, RelationTarget, asks
from bm.config.loading import Content, NoKey
from bm.config.settings import STRICT, Positive, Seed, Share


@dataclass(frozen=True, config=STRICT)
class Adapter:
    """Low-rank matrices that are trained in place of the weights, by peft (`bm.branch.adapter`)."""

    name: Annotated[str, Field(min_length=1), NoKey]
    """What results call experts that are trained so."""
    rank: Positive
    """Inner dimension of the two matrices."""
    alpha: Positive
    """The product of the two matrices is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Share of an adapter's inputs that is dropped in training."""
    targets: Literal["all-linear"] | Sequence[str]
    """Products of a decoder layer by name, `[q_proj, v_proj]`."""
    rslora: bool
    """Whether that product is multiplied by alpha / √rank instead (rank-stabilised LoRA)."""
    dora: bool
    """Whether the length of each row of weights is learned by itself."""
    quantize: Literal["nf4", "fp4"] | None
    """The type in four bits of the weights that are not trained (QLoRA); null: they stay as they are."""
    seed: Seed
    """Seed of the matrices' initial values."""


@dataclass(frozen=True, config=STRICT)
class Own:
    """The student's own responses in place of traces: on-policy distillation, and GKD's share of it."""

    share: Annotated[float, Field(gt=0, le=1)]
    """Chance that a trace's response is replaced."""
    every: Positive
    """Optimiser steps between two generations, each for all of these steps: fewer follow the student more closely."""
    temperature: Annotated[float, Field(ge=0)]
    """Sampling temperature; 0 always takes the likeliest token."""
    top_p: Annotated[float, Field(gt=0, le=1)]
    """Probability that the likeliest tokens must reach together; no others are sampled."""
    max_new_tokens: Positive
    """Greatest number of tokens in a response."""
    engine: EngineTarget
    """What generates; transformers gets the weights in memory, any other engine a folder of them."""


@dataclass(frozen=True, config=STRICT)
class Branch:
    """Training on traces (paper, section 3.1 and its released launcher)."""

    epochs: Annotated[float, Field(gt=0)]
    """Passes over the traces; 0.5 trains on half of an epoch's packs."""
    batch: Positive
    """Packs per optimiser step, over all ranks and accumulation."""
    micro_batch: Annotated[int, Field(gt=0), NoKey]
    """Packs per forward pass of one rank."""
    sequence_length: Positive
    """Tokens in a pack."""
    packing: Literal["none", "packing", "neat"]
    """One trace per pack (none), or several, which see each other (packing) or do not (neat)."""
    overlong: Literal["drop", "cut"]
    """What happens to a trace longer than `sequence_length`."""
    max_overlong: Share
    """Share of a domain's traces that may be overlong; more stop the run."""
    chat_template: Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")] | None
    """SHA-256, or how it begins, of the chat template that the student must have; null: any."""
    adapter: Adapter | None
    """What is trained in place of all weights; null: all weights."""
    learning_rate: Annotated[float, Field(gt=0)]
    """The peak of the schedule."""
    schedule: Literal["constant", "cosine", "linear"]
    """The rate after warm-up: it stays, or falls to 0 along a cosine or a line."""
    warmup_ratio: Share
    """Share of the steps in which the rate rises to its peak."""
    optimizer: OptimizerTarget
    """The optimiser (`bm.optimizers`); the schedule sets its rate at each step."""
    loss: LossTarget
    """What is minimised (`bm.losses`)."""
    relation: RelationTarget | None
    """A second loss: how the traces of a pack relate to each other (`bm.losses`); null: none."""
    teacher: Literal["experts", "mixture"] | Annotated[Path, Content] | None
    """A Hugging Face folder that loss or relation see beside the student; `mixture`: the run's own, for experts and
    consolidations. In a consolidation `experts`: the expert of each trace's domain."""
    stored: Literal["hidden"] | Positive | None
    """What is stored of the teacher beside the traces, once for all trainings that ask it the same: at each label so
    many of its likeliest tokens with their log-probabilities, or `hidden`, its last hidden states. null: nothing; the
    teacher is asked in every training, at every step."""
    stored_by: EngineTarget | None
    """What computes the likeliest tokens that are stored: vllm with the teacher's folder, or openai, an endpoint that
    serves it with vLLM, of whose folder configuration and tokenizer are then enough; null: a pass in this process."""
    own: Own | None
    """Learn on the student's own responses to the traces' prompts; null: on the traces alone."""
    gradient_clip: Annotated[float, Field(gt=0)]
    """Greatest norm of a step's gradient; a longer one is scaled down to it."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None
    """Decay of an exponential moving average of the weights, which is the model in the end; null: the last weights."""
    tail: Annotated[float, Field(gt=0, le=1)] | None
    """Share of the steps, the last ones, over whose weights the model is the mean; null: the last weights."""
    second_moments: bool
    """Whether Adam's second moment is kept beside the expert, for merges that weigh by it (`merge=ota`)."""
    seed: Seed
    """Seed of the order of the traces, of their packs, and of everything else that training draws."""
    held_out: Annotated[int, Field(ge=0)]
    """Traces of each domain kept from training to measure its loss and its gradient."""
    watch_every: Annotated[int, Field(gt=0), NoKey]
    """Optimiser steps between those measurements."""
    checkpoint_seconds: Annotated[float, Field(gt=0), NoKey]
    """Longest time between two checkpoints, from which a killed training resumes."""
    keep: Sequence[Annotated[float, Field(gt=0)]]
    """Epochs after which the model is kept as well: a ladder of models of several lengths out of one training."""
    at: Annotated[float, Field(gt=0)] | None
    """Which model of `keep`, or `epochs`, is used by what follows; null: the last. Training does not depend on it."""

    @model_validator(mode="after")
    def _moments_and_averages(self) -> Self:
        if self.second_moments and self.adapter is not None:
            raise ValueError("second_moments: an adapter's are not those of the weights; leave one of them out")
        if self.ema is not None and self.tail is not None:
            raise ValueError("ema, tail: one average at most; set the other to null")
        return self

    @model_validator(mode="after")
    def _ladder(self) -> Self:
        if late := [epochs for epochs in self.keep if epochs >= self.epochs]:
            raise ValueError(f"keep: after {late[0]:g} epochs nothing is left to train of {self.epochs:g}")
        if self.at is not None and self.at not in (*self.keep, self.epochs):
            kept = ", ".join(f"{epochs:g}" for epochs in (*self.keep, self.epochs))
            raise ValueError(f"at: no model is kept after {self.at:g} epochs, but after {kept}")
        return self

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        ask = [c for c in (self.loss, self.relation) if c and "teacher" in asks(c)]
        if ask and self.teacher is None:
            raise ValueError(f"loss: `{ask[0].target}` learns from a teacher; set branch.teacher to its folder")
        if self.teacher is not None and not ask:
            raise ValueError(
                f"loss: `{self.loss.target}` does not look at a teacher; leave out branch.teacher, or choose loss=kd"
            )
        if self.stored is not None:
            self._check_stored()
        elif self.stored_by:
            raise ValueError("stored_by: nothing is stored; set stored=64, or leave it out")
        if self.own and "teacher" not in asks(self.loss):
            raise ValueError(
                f"own: `{self.loss.target}` learns a response's own tokens, of which the student has nothing to learn; "
                "choose a loss with a teacher, such as loss=opd"
            )
        return self

    def _check_stored(self) -> None:
        if self.stored_by and (self.stored == "hidden" or self.loss.parameters.get("temperature", 1.0) != 1):
            raise ValueError("stored_by: an engine tells its likeliest tokens alone, at temperature 1; set stored to "
                             "how many of them and loss.temperature to 1, or stored_by to null")  # fmt: skip
        if self.teacher is None:
            raise ValueError("stored: there is no teacher to store anything of; set branch.teacher, or stored to null")
        if self.own is not None:
            raise ValueError("stored: the student's own responses are new in every run, so its teacher must be asked "
                             "then; leave it out, or learn on the traces (loss=kd)")  # fmt: skip
        if self.packing == "packing":
            raise ValueError("stored: with packing=packing a trace is read behind others of its pack, which differ "
                             "from epoch to epoch; take packing=neat")  # fmt: skip
        if self.stored != "hidden" and self.relation and "teacher" in asks(self.relation):
            raise ValueError(f"stored: `{self.relation.target}` compares hidden states; set it to hidden")


@dataclass(frozen=True, config=STRICT)
class Consolidate:
    """The third arm: a model that is trained on, by the traces of all domains or by what their experts say."""

    start: Literal["merge", "student", "mixture"]
    """What it begins as: the first merge that is listed, the student, or the mixture."""
    branch: Mapping[str, Any]
    """Overrides of `branch` for that training; `teacher: experts` has each domain's expert teach its traces."""


@dataclass(frozen=True, config=STRICT)
class Trainer:
    """Where training runs: the settings of Lightning's Trainer that `bm` uses."""

    accelerator: Literal["cpu", "gpu"]
    """What trains. The kind of device counts in a key. How many ranks there are, and how they share the work, does
    not: another number adds the same gradients in another order, so an expert is the same up to rounding and not to
    the bit."""
    devices: Annotated[int, Field(gt=0), NoKey]
    """Ranks on one machine: GPUs, or processes on CPUs."""
    nodes: Annotated[int, Field(gt=0), NoKey]
    """Machines that train together."""
    precision: Literal["32-true", "bf16-mixed"]
    """Precision of the arithmetic; weights and optimiser state are fp32 either way."""
    sequence_parallel: Annotated[int, Field(gt=0), NoKey]
    """Ranks that share one sequence (Ulysses); the others go to data, and weights are sharded over all (FSDP2)."""
    activation_checkpointing: Annotated[Literal["none", "selective", "full"], NoKey]
    """What the backward pass computes again: nothing; all but matrix products and attention; every block."""
    activation_offload: Annotated[bool, NoKey]
    """Whether activations wait for the backward pass in CPU memory."""
    weight_offload: Annotated[bool, NoKey]
    """Whether each rank's share of weights, gradients and optimiser state stays in CPU memory, where the optimiser then
    steps; GPUs hold the block that they compute. For several ranks, whose weights are sharded (FSDP2)."""
    compile: Annotated[bool, NoKey]
    """Whether decoder layers are compiled, each by itself (`bm.branch.compiling`): less time a step, some seconds more
    before the first. An expert is the same up to rounding."""
    async_checkpoints: Annotated[bool, NoKey]
    """Whether training waits for a checkpoint's copy in CPU memory alone, and goes on while that is written."""
    launch: Annotated[str, NoKey]
    """The command that starts the ranks, when there are several."""

    @model_validator(mode="after")
    def _sharded(self) -> Self:
        if self.weight_offload and self.devices * self.nodes == 1:
            raise ValueError("weight_offload: one rank alone does not shard its weights, of which it would gather one "
                             "block at a time; choose trainer=fsdp, or set it to false")  # fmt: skip
        return self

    @model_validator(mode="after")
    def _whole_layers(self) -> Self:
        if self.compile and self.activation_checkpointing == "selective":
            raise ValueError("compile: compiled layers decide by themselves what is computed again; "
                             "set activation_checkpointing to none or full, or compile to false")  # fmt: skip
        return self

"""What a plan assumes where nothing can be computed; the figures are in `conf/settings/plan.yaml`."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from bm.config.settings import STRICT, Name, Positive
from bm.config.training import Adapter
from bm.errors import nearest

Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, config=STRICT)
class Card:
    """A GPU."""

    gib: Annotated[float, Field(gt=0)]
    """Memory of the card, in GiB."""
    tflops: Annotated[float, Field(gt=0)]
    """Peak of dense matrix products in bf16, in TFLOP/s."""


@dataclass(frozen=True, config=STRICT)
class Utilisation:
    """Share of a processor's peak that useful arithmetic reaches."""

    train: Share
    """Share of the peak that training reaches."""
    generate: Share
    """Share of the peak that generation reaches."""


@dataclass(frozen=True, config=STRICT)
class Asked:
    """An evaluation task: its questions, samples of each, and tokens of a response."""

    questions: Positive
    """Questions of the task."""
    samples: Positive
    """Samples of each question."""
    tokens: Positive
    """Mean tokens of a response."""


@dataclass(frozen=True, config=STRICT)
class Planning:
    """The assumptions behind `bm plan`."""

    gpu: Name
    """The card that every GPU of the plan is, one of `cards`."""
    cards: Mapping[str, Card]
    """The GPUs that are known, by name."""
    reserve_gib: Annotated[float, Field(ge=0)]
    """Memory of each card for what no tensor shows: CUDA's context, NCCL's buffers, fragments."""
    utilisation: Mapping[Literal["gpu", "cpu"], Utilisation]
    """Share of the peak that is reached, by kind of processor."""
    trace_tokens: Mapping[str, Positive]
    """By domain, mean tokens of a trace with its prompt; of others a quarter of branch.sequence_length."""
    prompt_share: Share
    """The share of a trace's tokens that have no loss."""
    tasks: Mapping[str, Asked]
    """What the evaluation tasks with questions of their own ask."""
    response_tokens: Share
    """The share of evaluate.max_new_tokens that a response to any other question takes."""
    disk_gb_per_second: Annotated[float, Field(gt=0)]
    """How fast models and traces are written."""
    judged_per_second: Annotated[float, Field(gt=0)]
    """Responses that a core verifies."""
    adapter: Adapter
    """What is tried in place of all weights where these do not fit."""
    refuse: bool
    """Whether `bm run` refuses to begin a training that does not fit its GPUs, or this machine where its CPUs train."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.gpu not in self.cards:
            raise ValueError(f"gpu: no such card{nearest(self.gpu, self.cards)}")
        return self

    @property
    def card(self) -> Card:
        return self.cards[self.gpu]

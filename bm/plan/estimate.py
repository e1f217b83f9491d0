"""What each stage of an experiment would take in tokens, memory, time, disk and money, and how that is known."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from os import cpu_count
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

from bm.branch.architecture import attention_for
from bm.branch.flops import Flops, matmul_peak
from bm.branch.ram import physical
from bm.branch.stored import About
from bm.config import Branch, Component, Domain, Experiment, Feedback, overridden
from bm.errors import UserError
from bm.mixtures import ratios
from bm.plan.architecture import architecture, heads, shaped
from bm.plan.fitting import Fit, fit, taken
from bm.plan.lengths import of_lengths, packed
from bm.plan.memory import HOLES, Memory

GIB = 2**30
SEQUENCES = 8
"""Responses of the greatest length that a copy of a model has room for at least: fewer would take for ever."""
SIMULATED = "simulated: two steps of the real module on one of the ranks, every pack full"
LIBRARIES = 0.8 * GIB
"""What a process on CPUs holds beside the tensors of its training, as metrics.csv of `bm branch recipe=tiny` has it."""
IN_RAM = (
    f"{SIMULATED}; assumed: {LIBRARIES / GIB:g} GiB of libraries beside them, as measured with recipe=tiny, and a heap "
    f"that leaves {HOLES:.0%} of what a forward pass makes unused, as with recipe=smollm2"
)
TRAINED_BYTES = 12
"""Bytes of a checkpoint for each parameter that is trained: fp32, and AdamW's two moments."""


@dataclass(frozen=True)
class Stage:
    """One artefact of the experiment, before it is made."""

    stage: str
    label: str
    seconds: float
    basis: Mapping[str, str]
    """By figure, how it is known: simulated, computed or assumed, and from what."""
    gpus: int = 0
    tokens: int = 0
    flops: float = 0.0
    disk: float = 0.0
    """Bytes at the most while it is made."""
    memory: Memory | None = None
    """The tensors of one GPU, or of one process on CPUs, in a training."""
    gpu_bytes: float = 0.0
    """At the most, on one GPU."""
    ram_bytes: float = 0.0
    """At the most, in one process that trains on CPUs."""
    fits: bool = True
    change: str | None = None
    """The smallest change that fits, where it does not."""
    money: float | None = 0.0

    @property
    def gpu_hours(self) -> float:
        return self.gpus * self.seconds / 3600


class Estimates:
    """The stages of `config`, in the order in which they are made.

    tuned: those of its merges that are tuned too; quick: without the memory of trainings that any machine has.
    """

    def __init__(
        self, config: Experiment, merges: Sequence[str], tuned: Sequence[str] = (), quick: bool = False
    ) -> None:
        self.config, self.merges, self.tuned, self.of = config, merges, tuned, config.plan
        self.architecture = architecture(config)
        self.model = shaped(self.architecture)
        self.parameters = int(self.model.num_parameters())
        dtype = self.architecture.dtype
        self.bytes = self.parameters * (dtype if isinstance(dtype, torch.dtype) else torch.bfloat16).itemsize
        self.cores = cpu_count() or 1
        self.cpu = matmul_peak(torch.device("cpu"), mixed=False)
        self.flops = Flops(self.model)
        self.frozen = Flops(self.model.requires_grad_(False))
        """Operations of a model whose weights get no gradient of their own."""
        self.on_gpu = config.trainer.accelerator == "gpu"
        self.small = quick and not self.on_gpu and 16 * self.parameters < GIB
        self._fits: dict[tuple[Any, ...], Fit] = {}

    def stages(self) -> Iterator[Stage]:
        config, student = self.config, self.config.student
        yield from (self._distill(domain, f"{name} student") for name, domain in student.domains.items())
        yield from (self._distill(domain, name) for name, domain in config.domains.items())
        yield self._student()
        sets = {name: (d, 1.0) for name, d in student.domains.items()}
        yield from (self._branch(student.name, settings, sets) for settings in config.student_trainings())
        for name, domain in config.domains.items():
            settings = overridden(config.branch, domain.branch, f"domains.{name}.branch")
            yield self._branch(name, settings, {name: (domain, 1.0)})
        if config.rounds.feedback is not None:
            yield from self._feedback(config.rounds.feedback)
        if (mixture := config.mixture) is not None:
            used = {name: d for name, d in config.domains.items() if name != mixture.leave_out}
            ratio = ratios(mixture, {name: self._traces(d) for name, d in used.items()})
            settings = overridden(config.branch, mixture.branch, "mixture.branch")
            yield self._branch("mixture", settings, {name: (d, ratio.get(name, 1.0)) for name, d in used.items()})
        parts = range(1, config.rounds.parts)
        yield from (self._merge(f"{name} {part}/{len(parts) + 1}") for name in self.merges for part in parts)
        yield from (self._merge(name) for name in self.merges)
        tuned = [f"{name} tuned" for name in self.tuned]
        for name in tuned:
            yield self._tune(name)
            yield self._merge(name)
        for name, arm in config.consolidate.items():
            settings = overridden(replace(config.branch, keep=(), at=None), arm.branch, f"consolidate.{name}.branch")
            yield self._branch(name, settings, {n: (domain, 1.0) for n, domain in config.domains.items()})
        models = ["student", *config.domains, *["mixture"] * (mixture is not None), *self.merges, *tuned]
        yield from (self._evaluate(name) for name in [*models, *config.consolidate])
        if config.ensemble:
            yield self._evaluate("ensemble", len(config.domains))

    def _student(self) -> Stage:
        disk = 2 * self.bytes
        return Stage("student", self.config.student.name, disk / self._disk, disk=disk, money=0.0, basis={
            "disk": "computed: its files twice, as fetched and as an artefact",
            "seconds": "assumed: plan.disk_gb_per_second",
        })  # fmt: skip

    def _feedback(self, feedback: Feedback) -> Iterator[Stage]:
        """The second stage of each expert at the most: as if it answered every question wrongly."""
        for name, domain in self.config.domains.items():
            yield self._distill(domain, f"{name} attempts", self.config.rounds.teacher)
            yield self._distill(domain, f"{name} mistakes")
            settings = overridden(self.config.branch, {**domain.branch, **feedback.branch}, "rounds.feedback.branch")
            yield self._branch(f"{name} again", settings, {name: (domain, 1.0)})

    def _distill(self, domain: Domain, label: str, own: Component | None = None) -> Stage:
        """Traces: what a teacher of this machine generates or an endpoint is paid for, and the verifying of it.

        own: how an expert is sampled, where it answers in the teacher's place.
        """
        teacher = own or self.config.teacher
        engine = teacher.parameters.get("engine") or {}
        traces, length = self._traces(domain), self._trace_tokens(domain.name)
        asked = int(teacher.parameters.get("samples", 1)) * traces * length if engine else 0
        verifying = traces / (self.of.judged_per_second * self.cores)
        spent = self._generation(asked, engine, self.parameters if own else self._teacher_parameters())
        price = (engine.get("price") or {}).get("output", 0.0)
        seconds, disk = spent.seconds + verifying, 5.0 * traces * length
        return Stage(
            "distill", label, seconds, gpus=spent.gpus, tokens=asked, flops=spent.flops, disk=disk,
            money=self._money(spent.gpus, seconds, asked * float(price) / 1e6), basis={
                "tokens": f"assumed: {length:,} a trace (plan.trace_tokens); none is generated for published traces",
                "seconds": "assumed: plan.utilisation, plan.judged_per_second", "disk": "assumed: 5 bytes per token",
            },
        )  # fmt: skip

    def _teacher_parameters(self) -> int:
        folder = self.config.teacher.parameters.get("model")
        return int(shaped(AutoConfig.from_pretrained(folder)).num_parameters()) if folder else 0

    def _branch(self, label: str, settings: Branch, sets: Mapping[str, tuple[Domain, float]]) -> Stage:
        trainer = self.config.trainer
        gpus = trainer.devices * trainer.nodes if self.on_gpu else 0
        tokens, flops = self._training(settings, sets)
        own = self._own(settings, tokens)
        peak = gpus * self.of.card.tflops * 1e12 or self.cpu
        share = self.of.utilisation["gpu" if gpus else "cpu"].train
        seconds = flops / (peak * share) + own.seconds
        known = heads(self.architecture) and not self.small  # no CPU has a state's fast kernels
        fit = self._fit(settings) if known else None
        peak_bytes = taken(fit.memory, trainer) if fit else 0.0
        trained = self._trained(settings)
        disk = self.bytes + 2 * TRAINED_BYTES * trained + self._stored(settings, tokens)
        return Stage(
            "branch", label, seconds, gpus=gpus, tokens=tokens, flops=flops + own.flops, disk=disk,
            memory=fit.memory if fit else None, gpu_bytes=peak_bytes if gpus else 0.0,
            ram_bytes=0.0 if gpus or not fit else LIBRARIES + peak_bytes,
            fits=fit is None or fit.fits, change=fit.change if fit else None,
            money=self._money(gpus, seconds), basis={
                **({"peak": SIMULATED if gpus else IN_RAM} if fit else {}),
                "tokens": "assumed: plan.trace_tokens x traces x epochs",
                "flops": "computed: products and attention, forward and backward, without what is computed again",
                "seconds": f"assumed: {share:.0%} of {peak / 1e12:,.2f} TFLOP/s"
                           + ("" if gpus else ", measured on this machine"),
                "disk": "computed: the model, a checkpoint beside its successor, and what is stored of its teacher",
            },
        )  # fmt: skip

    def _training(self, settings: Branch, sets: Mapping[str, tuple[Domain, float]]) -> tuple[int, float]:
        """Tokens and operations of all epochs, every trace of a domain as long as its mean."""
        limit, counts, lengths = settings.sequence_length, [], []
        for name, (domain, ratio) in sets.items():
            counts.append(max(1, round(ratio * (self._traces(domain) - settings.held_out))))
            lengths.append(min(self._trace_tokens(name), limit))
        documents = of_lengths(counts, lengths, self.of.prompt_share)
        packs, isolate = packed(documents, settings), settings.packing != "packing"
        flops = self.flops if settings.adapter is None else self.frozen
        epoch = flops.step(documents, packs, isolate)
        tokens = int(documents.lengths.sum())
        if settings.adapter is not None:
            epoch += 6.0 * self._trained(settings) * tokens
        if (teacher := self._teacher(settings)) is not None:  # forward alone, and each trace through one
            asked = Flops(teacher).forward(documents, packs, isolate)
            epoch += asked / settings.epochs if settings.stored else asked  # once for all epochs, if it is stored
        return round(settings.epochs * tokens), settings.epochs * epoch

    def _teacher(self, settings: Branch) -> PreTrainedModel | None:
        """What a training asks beside its student, or each of several such."""
        if settings.teacher is None:
            return None
        theirs = isinstance(settings.teacher, Path)
        return shaped(AutoConfig.from_pretrained(str(settings.teacher)) if theirs else self.architecture)

    def _stored(self, settings: Branch, tokens: int) -> float:
        """Bytes of what is stored of a teacher at the labels of one epoch."""
        teacher = self._teacher(settings) if settings.stored else None
        if teacher is None:
            return 0.0
        likeliest = settings.stored if isinstance(settings.stored, int) else None
        sizes = teacher.config.get_text_config()
        record = About(0, sizes.vocab_size, likeliest, sizes.hidden_size).record
        return (1 - self.of.prompt_share) * tokens / settings.epochs * record.itemsize

    def _own(self, settings: Branch, tokens: int) -> Stage:
        """The student's own responses, which it learns from in place of so many of the traces' tokens."""
        if settings.own is None:
            return Stage("", "", 0.0, {})
        engine, asked = settings.own.engine, round(settings.own.share * (1 - self.of.prompt_share) * tokens)
        least = int(self.on_gpu)
        return self._generation(asked, {"_target_": engine.target, **engine.parameters}, self.parameters, least)

    def _trained(self, settings: Branch) -> int:
        """Parameters that a step changes."""
        if settings.adapter is None:
            return self.parameters
        shapes = [m for n, m in self.model.named_modules() if isinstance(m, torch.nn.Linear) and ".layers." in n]
        return sum(settings.adapter.rank * (m.in_features + m.out_features) for m in shapes)

    def _fit(self, settings: Branch) -> Fit:
        what = settings.sequence_length, settings.micro_batch, *map(str, (settings.adapter, settings.optimizer))
        held = 0 if settings.stored else self._teachers(settings)
        if (*what, held) not in self._fits:
            self._fits[*what, held] = self._simulated(settings, held)
        return self._fits[*what, held]

    def _teachers(self, settings: Branch) -> int:
        """Bytes of the models that a training asks beside its student, fp32 and over all ranks."""
        teacher, count = self._teacher(settings), len(self.config.domains) if settings.teacher == "experts" else 1
        return 4 * count * int(teacher.num_parameters()) if teacher else 0

    def _simulated(self, settings: Branch, held: int) -> Fit:
        card, trainer = (self.of.card.gib - self.of.reserve_gib) * GIB, self.config.trainer
        free = card if self.on_gpu else physical() / trainer.devices - LIBRARIES
        attention = attention_for(self.architecture, settings, trainer)
        try:
            return fit(self.architecture, settings, trainer, self.of.adapter, free, attention, held)
        except UserError:
            raise
        except Exception as problem:  # whatever an architecture's code does without data
            kind = self.architecture.model_type
            raise UserError(f"{kind}: what a step of it holds cannot be simulated: {problem}") from problem

    def _merge(self, name: str) -> Stage:
        entries = self.parameters * len(self.config.domains)
        read, wrote = self.bytes * len(self.config.domains), self.bytes
        seconds = (read + wrote) / self._disk + entries * 2e-9 / self.cores
        return Stage("merge", name, seconds, flops=float(entries), disk=wrote, money=self._money(0, seconds), basis={
            "flops": "computed: one an entry read", "disk": "computed: the merged model",
            "seconds": "assumed: plan.disk_gb_per_second and 2 ns an entry and core; merging takes no GPU",
        })  # fmt: skip

    def _tune(self, label: str) -> Stage:
        """Trials of a merge method's parameters: merges in memory, each asked everything at the most."""
        tune, domains = self.config.tune, self.config.domains
        assert tune is not None
        each = tune.questions * tune.samples
        tokens = tune.trials * each * sum(self._response(str(domain.task)) for domain in domains.values())
        spent = self._generation(tokens, self.config.evaluate.engine.parameters, self.parameters)
        seconds = spent.seconds + tune.trials * self._merge(label).seconds
        return Stage(
            "tune", label, seconds, gpus=spent.gpus, tokens=tokens, flops=spent.flops, disk=5.0 * tokens,
            money=self._money(spent.gpus, seconds), basis={
                "tokens": "assumed: plan.response_tokens, and that no trial leaves the race early",
                "flops": "computed: 2 a parameter and token", "disk": "assumed: 5 bytes per token",
                "seconds": "assumed: plan.utilisation, plan.disk_gb_per_second, 2 ns an entry and core",
            },
        )  # fmt: skip

    def _response(self, task: str) -> int:
        """Mean tokens of a response to a question of a task."""
        known = self.of.tasks.get(task)
        return known.tokens if known else ceil(self.of.response_tokens * (self.config.evaluate.max_new_tokens or 1024))

    def _evaluate(self, name: str, members: int = 1) -> Stage:
        """A model on every task, or so many of them that answer together."""
        evaluate = self.config.evaluate
        own = {str(d.task): d.questions for d in self.config.domains.values()}
        tokens = 0
        for task in dict.fromkeys([*own, *evaluate.tasks]):
            known = self.of.tasks.get(task)
            questions = own.get(task) or (known.questions if known else 500)
            questions = min(questions, evaluate.limit or questions)
            tokens += questions * (evaluate.samples or (known.samples if known else 1)) * self._response(task)
        engine = evaluate.engine.parameters
        spent = self._generation(tokens, engine, members * self.parameters)
        peak, fits, change = self._serving(engine) if spent.gpus else (0.0, True, None)
        seconds = spent.seconds + self.bytes / self._disk
        return Stage(
            "evaluate", name, seconds, gpus=spent.gpus, tokens=tokens, flops=spent.flops, disk=5.0 * tokens,
            gpu_bytes=peak, fits=fits, change=change, money=self._money(spent.gpus, seconds), basis={
                "peak": "computed: the share that the engine takes, in which weights and keys of 8 sequences must fit",
                "tokens": "assumed: plan.tasks, plan.response_tokens", "flops": "computed: 2 a parameter and token",
                "seconds": "assumed: plan.utilisation, plan.disk_gb_per_second", "disk": "assumed: 5 bytes per token",
            },
        )  # fmt: skip

    def _generation(self, tokens: int, engine: Mapping[str, Any], parameters: int, least: int = 0) -> Stage:
        """Tokens by an engine of this machine, on `least` GPUs if it names none; an endpoint takes none of its time."""
        target = str(engine.get("_target_", self.config.evaluate.engine.target))
        gpus = int(engine.get("tensor_parallel", 0)) * int(engine.get("data_parallel", 0)) or least
        flops = 0.0 if target.endswith(".openai") else 2.0 * parameters * tokens
        peak = gpus * self.of.card.tflops * 1e12 or self.cpu
        seconds = flops / (peak * self.of.utilisation["gpu" if gpus else "cpu"].generate)
        return Stage("", "", seconds, {}, gpus=gpus, flops=flops)

    def _serving(self, engine: Mapping[str, Any]) -> tuple[float, bool, str | None]:
        """Bytes that vLLM takes of each GPU, whether weights and keys fit into them, and what would if not."""
        parallel, share = int(engine["tensor_parallel"]), float(engine["memory"])
        taken = share * self.of.card.gib * GIB
        needs = self.bytes + SEQUENCES * self._sequence_bytes()
        if needs / parallel <= taken - GIB:
            return taken, True, None
        gpus = parallel * int(engine["data_parallel"])
        enough = next((n for n in (2, 4, 8) if n > parallel and needs / n <= taken - GIB), None)
        if enough is None:
            return needs / parallel, False, "a card with more memory"
        copies = max(1, gpus // enough)
        return (
            needs / parallel,
            False,
            f"evaluate.engine.tensor_parallel={enough} evaluate.engine.data_parallel={copies}",
        )

    def _sequence_bytes(self) -> float:
        """Keys and values of one response of the greatest length, in bf16."""
        config = self.architecture
        kept = getattr(config, "num_key_value_heads", None) or heads(config)
        width = getattr(config, "head_dim", None) or config.hidden_size // max(heads(config), 1)
        tokens = (self.config.evaluate.max_new_tokens or 1024) + 4096
        return float(2 * 2 * width * kept * config.num_hidden_layers * tokens)

    def _traces(self, domain: Domain) -> int:
        return domain.traces or domain.expected or 10000

    def _trace_tokens(self, domain: str) -> int:
        return self.of.trace_tokens.get(domain) or max(1, self.config.branch.sequence_length // 4)

    @property
    def _disk(self) -> float:
        return self.of.disk_gb_per_second * 1e9

    def _money(self, gpus: int, seconds: float, bill: float = 0.0) -> float | None:
        """USD; None where the card has no price."""
        prices = self.config.prices
        if not gpus:
            return seconds / 3600 * prices.machine + bill
        price = next((p for part, p in prices.gpus.items() if part in self.of.gpu), None)
        return None if price is None else gpus * seconds / 3600 * price + bill

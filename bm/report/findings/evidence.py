"""What stands behind a run's results: loss curves, kept shares, the distillation funnel, lineage, and how to repeat it.

Each loader takes what another stage left on disk and returns a plain frozen dataclass.
"""

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from bm.ledger import Ledger
from bm.report.findings.results import Cost, Kind
from bm.store import Artefact

OUTSIDE = -1
"""The layer number of tensors that belong to no layer: embeddings, final norm, output head."""


@dataclass(frozen=True)
class Subject:
    """A model that a run made and tested: the artefacts of both, and its row's name and kind."""

    name: str
    kind: Kind
    model: Artefact
    evaluation: Artefact
    task: str | None = None
    """An expert's own task."""
    seen: Mapping[str, int] | None = None
    """Questions of each task that are among the traces the model was trained on; None: these are not known."""
    out_after: int | None = None
    """Questions of each task after which it left a race; None: all were asked."""
    round: int = 1
    method: str | None = None
    """The method of a merge; below are its order and the expert that is its base."""
    order: str | None = None
    base: str | None = None
    domains: tuple[str, ...] = ()
    """Those that an expert was trained on, or that a merge has experts of."""


@dataclass(frozen=True)
class Curve:
    """Training loss (nats per supervised token) after each optimiser step."""

    name: str
    kind: Kind
    steps: tuple[int, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class KeptShare:
    """One step of a merge: the share of each layer's and module's entries that was taken from `other` into `base`."""

    merge: str
    step: int
    base: str
    other: str
    shares: Mapping[tuple[int, str], float]
    """(layer, module) → share in [0, 1], tensors of one module weighted by their elements."""
    total: float
    """Share over all entries of the model."""


@dataclass(frozen=True)
class Meeting:
    """How two experts' updates meet (paper, appendix C): over all entries, and the tensors' range for the cosine."""

    pair: str
    cosine: float
    lowest: float
    highest: float
    conflict: float
    """Share of the entries changed by both that are changed in opposite directions."""
    overlap: float
    """Jaccard index of what Arcee Fusion would take of either into the student."""


@dataclass(frozen=True)
class Funnel:
    """What became of one distillation: questions asked, responses to them, traces kept, and the rest by reason."""

    name: str
    asked: int
    answered: int
    kept: int
    rejected: Mapping[str, int]
    duplicates: int
    """Repeated questions that were passed over before asking."""


@dataclass(frozen=True)
class Node:
    """An artefact of the run, what it was made from, and what that step took."""

    key: str
    stage: str
    label: str
    inputs: tuple[str, ...]
    cost: Cost


@dataclass(frozen=True)
class Evidence:
    title: str
    curves: tuple[Curve, ...]
    kept: tuple[KeptShare, ...]
    meetings: tuple[Meeting, ...]
    funnels: tuple[Funnel, ...]
    lineage: tuple[Node, ...]
    command: str
    config: str
    """The resolved config, as YAML."""
    environment: Mapping[str, str]
    """Versions, machine, commit."""


def gather(
    title: str, subjects: Sequence[Subject], artefacts: Sequence[Artefact], command: str, config: str, ledger: Ledger
) -> Evidence:
    """Everything the page shows beside the results.

    `artefacts` are all that the run made or used (those of `subjects` may be among them); `config` is YAML text.
    """
    known = behind(subjects, artefacts)
    return Evidence(
        title=title,
        curves=tuple(curve(s.name, s.kind, s.model.path) for s in subjects if (s.model.path / "metrics.csv").exists()),
        kept=tuple(
            step
            for s in subjects
            if (s.model.path / "tensors.parquet").exists()
            for step in kept_shares(s.name, s.model.path)
        ),
        meetings=tuple(m for a in known.values() if a.manifest["stage"] == "interference" for m in meetings(a.path)),
        funnels=tuple(funnel(a) for a in known.values() if a.manifest["stage"] == "distill"),
        lineage=tuple(node(a, ledger.of(a)) for a in known.values()),
        command=command,
        config=config,
        environment=environment(list(known.values())),
    )


def behind(subjects: Sequence[Subject], artefacts: Sequence[Artefact]) -> dict[str, Artefact]:
    """Every artefact of a run by its key, those of its subjects among them."""
    return {a.key: a for a in [*artefacts, *(s.model for s in subjects), *(s.evaluation for s in subjects)]}


def curve(name: str, kind: Kind, folder: Path) -> Curve:
    """The loss curve of a branch artefact, from its metrics.csv."""
    with (folder / "metrics.csv").open(newline="") as file:
        points = [(int(line["step"]), float(line["loss"])) for line in csv.DictReader(file)]
    return Curve(name, kind, tuple(step for step, _ in points), tuple(loss for _, loss in points))


def kept_shares(name: str, folder: Path) -> tuple[KeptShare, ...]:
    """The kept shares of a merge artefact, one per merge step; empty for a method that selects nothing."""
    from bm import parquet

    columns = ["step", "base", "other", "layer", "module", "elements", "kept_share"]
    steps: dict[tuple[int, str, str], list[tuple[int, str, int, float]]] = defaultdict(list)
    for t in parquet.read(folder / "tensors.parquet", columns=columns).to_pylist():
        if t["kept_share"] is not None:
            steps[t["step"], t["base"], t["other"]].append((t["layer"], t["module"], t["elements"], t["kept_share"]))
    return tuple(_kept_share(name, *step, tensors) for step, tensors in sorted(steps.items()))


def _kept_share(name: str, step: int, base: str, other: str, tensors: list[tuple[int, str, int, float]]) -> KeptShare:
    kept: Counter[tuple[int, str]] = Counter()
    elements: Counter[tuple[int, str]] = Counter()
    for layer, module, size, share in tensors:
        kept[layer, module] += share * size  # type: ignore[assignment]
        elements[layer, module] += size
    shares = {place: kept[place] / elements[place] for place in elements if elements[place]}
    return KeptShare(name, step, base, other, shares, kept.total() / elements.total())


def meetings(folder: Path) -> list[Meeting]:
    """A line for each pair of experts; tensors count by their entries, those that an expert left alone not at all."""
    from bm import parquet

    pairs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in parquet.read(folder / "interference.parquet").to_pylist():
        if row["cosine"] is not None:
            pairs[f"{row['one']} & {row['other']}"].append(row)
    return [_meeting(pair, rows) for pair, rows in pairs.items()]


def cosines(subjects: Sequence[Subject], artefacts: Sequence[Artefact]) -> dict[str, dict[str, float]]:
    """`updates`: of each pair of experts, whole models; `gradients`: of each pair of domains, mean over a mixture's
    training, on the traces that it held out. Empty where a run measured none.
    """
    updates = {m.pair: m.cosine for a in artefacts if a.manifest["stage"] == "interference" for m in meetings(a.path)}
    pairs, gradients = {f"cosine_{pair.replace(' & ', '_')}": pair for pair in updates}, {}
    for mixture in (s.model.path / "metrics.csv" for s in subjects if s.kind == "mixture"):
        with mixture.open(newline="") as file:
            steps = list(csv.DictReader(file))
        for column, pair in pairs.items():
            if measured := [float(step[column]) for step in steps if step.get(column)]:
                gradients[pair] = fmean(measured)
    return {name: of for name, of in (("updates", updates), ("gradients", gradients)) if of}


def losses(artefacts: Sequence[Artefact]) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """By model, its held-out loss on every domain, and how far it went from the student; of those measured."""
    models = {name: of for record in _measured(artefacts) for name, of in record["models"].items()}
    return {name: of["losses"] for name, of in models.items()}, {name: of["distance"] for name, of in models.items()}


def met(artefacts: Sequence[Artefact]) -> dict[str, dict[str, float]]:
    """By pair of experts, `conflict` and `barrier`, as far as they were measured."""
    tables = [m for a in artefacts if a.manifest["stage"] == "interference" for m in meetings(a.path)]
    barriers = {
        " & ".join(line["experts"]): _barrier(line, record["models"])
        for record in _measured(artefacts)
        for line in record["lines"]
    }
    by_measure = {"conflict": {m.pair: m.conflict for m in tables}, "barrier": barriers}
    return {name: of for name, of in by_measure.items() if of}


def _measured(artefacts: Sequence[Artefact]) -> Iterator[dict[str, Any]]:
    for artefact in artefacts:
        if artefact.manifest["stage"] == "losses":
            yield json.loads((artefact.path / "losses.json").read_text())


def _barrier(line: Mapping[str, Any], models: Mapping[str, Any]) -> float:
    """How far the loss, mean over both experts' domains, rises above the line between its ends; at least 0."""
    experts = line["experts"]
    first, last = (fmean(models[end]["losses"][domain] for domain in experts) for end in experts)
    inner = [fmean(point[domain] for domain in experts) for point in line["losses"]]
    shares = [place / (len(inner) + 1) for place in range(1, len(inner) + 1)]
    return max([0.0, *(loss - first - share * (last - first) for share, loss in zip(shares, inner, strict=True))])


def _meeting(pair: str, rows: Sequence[Mapping[str, Any]]) -> Meeting:
    def mean(column: str) -> float:
        known = [(row[column], row["elements"]) for row in rows if row[column] is not None]
        return float(sum(value * size for value, size in known) / (sum(size for _, size in known) or 1))

    product = sum(row["cosine"] * row["one_norm"] * row["other_norm"] for row in rows)
    lengths = [sum(row[norm] ** 2 for row in rows) ** 0.5 for norm in ("one_norm", "other_norm")]
    cosines = [row["cosine"] for row in rows]
    whole = product / (lengths[0] * lengths[1])
    return Meeting(pair, whole, min(cosines), max(cosines), mean("sign_conflict"), mean("mask_overlap"))


def funnel(artefact: Artefact) -> Funnel:
    """The funnel of a distillation artefact, the most frequent reason for rejection first."""
    facts = artefact.facts
    rejected = sorted(facts["rejected"].items(), key=lambda pair: (-pair[1], pair[0]))
    return Funnel(artefact.label, facts["asked"], facts["answered"], facts["kept"], dict(rejected), facts["duplicates"])


def node(artefact: Artefact, cost: Cost) -> Node:
    inputs = tuple(reference["key"] for reference in artefact.manifest["inputs"])
    return Node(artefact.key, str(artefact.manifest["stage"]), artefact.label, inputs, cost)


HARDWARE = ("processor", "GPUs")
"""What of an environment is the machine."""


def hardware(artefacts: Sequence[Artefact]) -> dict[str, str]:
    """The processors and GPUs that made some artefacts."""
    return {name: value for name, value in environment(artefacts).items() if name in HARDWARE}


def environment(artefacts: Sequence[Artefact]) -> dict[str, str]:
    """Versions, commit and machines behind some artefacts; several values where they were made under several."""
    gathered: dict[str, set[str]] = defaultdict(set)
    for manifest in (a.manifest for a in artefacts):
        hardware = manifest["hardware"]
        gathered["processor"].add(f"{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gb']} GB")
        gathered["GPUs"].add(", ".join(hardware["gpus"]) or "none")
        gathered["commit"].add(manifest["git_commit"] or "installed package")
        for library, version in {"python": manifest["python"], **manifest["versions"]}.items():
            gathered[library].add(version)
    return {name: "; ".join(sorted(values)) for name, values in gathered.items()}


def lineage_of(keys: Iterable[str], lineage: Iterable[Node]) -> tuple[Node, ...]:
    """The artefacts with these keys and everything that they were made from, in the order of `lineage`."""
    nodes = {n.key: n for n in lineage}
    seen: set[str] = set()
    ahead = list(keys)
    while ahead:
        if (here := ahead.pop()) in nodes and here not in seen:
            seen.add(here)
            ahead.extend(nodes[here].inputs)
    return tuple(n for n in nodes.values() if n.key in seen)

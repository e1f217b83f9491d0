"""Grids of runs as they are on disk, without the stages that would make them: scores from a seeded draw."""

import random
import re
from collections.abc import Mapping
from itertools import permutations, product
from pathlib import Path
from typing import Any

import yaml

from bm.config import Prices
from bm.report import Cost, Results, Retained, Row, Run, Score, Verdict
from bm.report.findings.results import Kind, write

PRICES = Prices(gpus={}, machine=3600.0)
TASKS = {"coding": "tiny_coding", "math": "tiny_math", "science": "tiny_science"}
SECONDS: dict[Kind, float] = {"student": 62, "expert": 12.5, "mixture": 37, "merge": 0.4}
METHODS = {"arcee_fusion": 0.66, "linear": 0.61, "ties": 0.55, "dare_ties": 0.31}
ORDERS = [f"({a} & {b}) & {c}" for a, b, c in permutations(TASKS)]


def cell(outputs: Path, experiment: str, seed: int, models: Mapping[str, Mapping[str, Any]], **settings: Any) -> Path:
    """A finished run: models by name, each with its `kind` and `skill`, and what else decides it (`made_of`)."""
    config = {"recipe": "tiny", "experiment": experiment, "seed": seed, "output": None, **settings}
    rows = [_row(name, seed, **model) for name, model in models.items()]
    verdicts = [
        Verdict("expert over student", domain, "student", task, 0.2, 0.1, 0.3, 0.001, "better", 150, None, None, 0.2)
        for domain, task in TASKS.items()
        if domain in models
    ]
    merges, experts = ([row.name for row in rows if row.kind == kind] for kind in ("merge", "expert"))
    draw = random.Random(f"{seed} {settings}")
    kept = [Retained(m, e, TASKS[e], draw.uniform(0.5, 1), 0.4, 1.1) for m in merges for e in experts if e in TASKS]
    pairs = {"math & coding": draw.gauss(0.02, 0.01), "math & science": draw.gauss(0.03, 0.01)}
    folder = outputs / "runs" / f"tiny-{random.Random(repr(config)).getrandbits(32):08x}"
    run = Run(experiment, "tiny", seed, (f"seed={seed}",), f"bm run experiment={experiment} seed={seed}", folder.name)
    write(
        Results(
            tuple(rows),
            tuple(verdicts),
            tuple(kept),
            run,
            {"updates": pairs} if experts else {},
            domains={domain: task for domain, task in TASKS.items() if domain in models},
        ),
        folder / "results.json",
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def _row(name: str, seed: int, kind: Kind, skill: float, made_of: Any = None) -> Row:
    key = f"{random.Random(f'{name} {seed} {made_of}').getrandbits(64):016x}"
    draw, scores = random.Random(key), {}
    for domain, task in TASKS.items():
        own = 0.12 if kind == "expert" and name == domain else -0.12 if kind == "expert" else 0
        mean = min(1.0, max(0.0, skill + own + draw.gauss(0, 0.02)))
        scores[task] = Score(mean, max(0.0, mean - 0.06), min(1.0, mean + 0.06), 150, 2, 40 + 20 * mean)
    seconds = SECONDS[kind] * draw.uniform(0.95, 1.1) * (1 + 0.3 * (name == "dare_ties"))
    total = Cost(3 * seconds, 0.0, int(seconds * 20_000), 1e12, 0.01)
    method, _, order = name.partition(" ") if kind == "merge" else (None, "", "")
    domains = tuple(re.findall("[a-z]+", order)) if kind == "merge" else (name,) if kind == "expert" else ()
    base = domains[-1] if order else None
    return Row(name, kind, scores, Cost(seconds, 0.0, int(seconds * 9000)), key, total=total,
               method=method, order=order or None, base=base, domains=domains)  # fmt: skip


def shared(seed: int) -> dict[str, dict[str, Any]]:
    """What every cell of a seed has: the student, its experts and the mixture."""
    models: dict[str, dict[str, Any]] = {"student": {"kind": "student", "skill": 0.33}}
    models |= {domain: {"kind": "expert", "skill": 0.5} for domain in TASKS}
    return models | {"mixture": {"kind": "mixture", "skill": 0.62}}


def methods(outputs: Path, experiment: str = "figure2", seeds: int = 3) -> None:
    """A merge method a cell."""
    for seed, (name, skill) in product(range(1, seeds + 1), METHODS.items()):
        merge = {name: {"kind": "merge", "skill": skill}}
        parameters = {"_target_": f"bm.merge.methods.{name}", "density": 0.5}
        cell(outputs, experiment, seed, shared(seed) | merge, merge={"methods": {name: parameters}})


def orders(outputs: Path, experiment: str = "orders", seeds: int = 3) -> None:
    """All orders in each cell."""
    for seed in range(1, seeds + 1):
        merges = {
            f"arcee_fusion {order}": {"kind": "merge", "skill": 0.58 + 0.03 * order.endswith("coding")}
            for order in ORDERS
        }
        cell(outputs, experiment, seed, shared(seed) | merges, merge={"order": "all"})


def curve(outputs: Path, experiment: str = "lambda", seeds: int = 3) -> None:
    """A λ a cell."""
    for seed, lam in product(range(1, seeds + 1), (0.0, 0.5, 1.5, 3.0, 6.0)):
        merge = {"arcee_fusion": {"kind": "merge", "skill": 0.66 - 0.012 * (lam - 1.5) ** 2, "made_of": lam}}
        method = {"_target_": "bm.merge.methods.arcee_fusion", "lam": lam}
        cell(outputs, experiment, seed, shared(seed) | merge, merge={"methods": {"arcee_fusion": method}})


def distance(outputs: Path, experiment: str = "distance", seeds: int = 2) -> None:
    """Learning rate times epochs."""
    for seed, rate, epochs in product(range(1, seeds + 1), (5e-5, 1e-4, 2e-4, 5e-4), (1, 2, 4)):
        far = 2e3 * rate * epochs
        models = {n: {**m, "made_of": (rate, epochs) if n != "student" else None} for n, m in shared(seed).items()}
        for name, skill in (("arcee_fusion", 0.66), ("linear", 0.62)):
            models[name] = {"kind": "merge", "skill": skill - 0.05 * (far - 1) ** 2, "made_of": (rate, epochs)}
        cell(outputs, experiment, seed, models, branch={"learning_rate": rate, "epochs": epochs})


ALL = {"figure2": methods, "orders": orders, "lambda": curve, "distance": distance}

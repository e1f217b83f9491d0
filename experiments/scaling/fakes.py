"""Finished runs, grids, stores and sweeps as bm leaves them on disk, without the training that would make them."""

import hashlib
import random
import time
from collections.abc import Iterator
from contextlib import chdir
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

import bm.runs
from bm import finished
from bm.cli import conf_dir
from bm.config import Experiment, load, resolved
from bm.origin import origin
from bm.report import Cost, Results, Row, Run, Score, Verdict
from bm.report.findings.results import Kind, write
from bm.store import MANIFEST, write_json

EXPERIMENT = "many_cells"
SEEDS = 5
LAM = "merge.methods.arcee_fusion.lam"
WORDS = ("merge=arcee_fusion", "tracker=none")

TASKS = {"math": "tiny_math", "coding": "tiny_coding", "science": "tiny_science"}
MODELS: dict[str, tuple[Kind, float]] = {
    "student": ("student", 0.25), "math": ("expert", 0.35), "coding": ("expert", 0.35), "science": ("expert", 0.35),
    "mixture": ("mixture", 0.6), "arcee_fusion": ("merge", 0.4),
}  # fmt: skip


def composed(*words: str) -> DictConfig:
    with initialize_config_dir(str(conf_dir().resolve()), version_base="1.3"):
        return compose("run", [*WORDS, *words])


def lams(count: int) -> list[float]:
    return [round(0.001 * (k + 1), 3) for k in range(count)]


def runs(outputs: Path, count: int) -> list[str]:
    """Runs that differ in λ, each with six models."""
    for lam, folder in zip(lams(count), _folders(outputs), strict=False):
        _run(folder, None, 42, lam)
    return []


def grid(outputs: Path, count: int) -> list[str]:
    """The cells of one experiment: values of λ over five seeds. A seed's cells share its experts."""
    cells = ((lam, seed) for lam in lams(count) for seed in range(1, SEEDS + 1))
    for (lam, seed), folder in zip(islice(cells, count), _folders(outputs), strict=False):
        _run(folder, EXPERIMENT, seed, lam)
    return []


def store(outputs: Path, count: int) -> list[str]:
    """Artefacts of 8 kB, each made from the one before it."""
    made_by, before = origin(), None
    for number in range(count):
        key = f"{random.Random(number).getrandbits(64):016x}"
        folder = outputs / "store" / ("distill", "branch", "merge", "evaluate")[number % 4] / key
        before = _artefact(folder, key, before, made_by)
    return []


def finished_sweep(outputs: Path, count: int) -> list[str]:
    """Every cell of a sweep over λ, done; returns the words of the sweep."""
    settings = composed(f"paths.outputs={outputs}")
    for lam in lams(count):
        OmegaConf.update(settings, LAM, lam)
        _done(load(Experiment, settings), lam)
    return [f"{LAM}={','.join(map(str, lams(count)))}"]


def finished_run(outputs: Path, count: int) -> list[str]:
    """One run that is done, and the `count` artefacts that it rests on."""
    store(outputs, count)
    words = [f"paths.outputs={outputs}", f"{LAM}=1"]
    config = load(Experiment, settings := composed(*words))
    home = _done(config, 1)
    (home / "report").mkdir()
    for name in ("index.html", "summary.txt"):
        (home / "report" / name).write_text("the results of this run\n")
    with chdir(outputs.parent):  # where the command is given
        finished.note(settings, time.time(), home, 0.4, [path.parent for path in outputs.glob(f"store/*/*/{MANIFEST}")])
    return words[1:]


def _folders(outputs: Path) -> Iterator[Path]:
    number = 0
    while True:
        yield outputs / "runs" / f"tiny-{number:08x}"
        number += 1


def _run(folder: Path, experiment: str | None, seed: int, lam: float) -> None:
    run = Run(experiment, "tiny", seed, (f"{LAM}={lam}",), f"bm run {LAM}={lam} seed={seed}", folder.name)
    rows = tuple(_row(name, kind, skill, seed, lam) for name, (kind, skill) in MODELS.items())
    verdicts = tuple(
        Verdict("expert over student", name, "student", task, 0.1, 0.05, 0.15, 0.001, "better", 150, None, None, 0.2)
        for name, task in TASKS.items()
    )
    write(Results(rows, verdicts, run=run, domains=TASKS), folder / "results.json")
    of = {"recipe": "tiny", "experiment": experiment, "seed": seed}
    text = _config().replace("lam: 0.987654", f"lam: {lam}")
    (folder / "config.yaml").write_text(text + "".join(f"{name}: {value or 'null'}\n" for name, value in of.items()))


@cache
def _config() -> str:
    """The resolved settings of a run as YAML, with a λ to be replaced."""
    settings = resolved(load(Experiment, composed(f"{LAM}=0.987654")))
    apart = ("recipe", "experiment", "seed")
    return OmegaConf.to_yaml(OmegaConf.create({n: v for n, v in settings.items() if n not in apart}))


def _row(name: str, kind: Kind, skill: float, seed: int, lam: float) -> Row:
    """A model's row; merges differ with λ, and all others are shared by the cells of a seed."""
    draw = random.Random(f"{name} {seed} {lam if kind == 'merge' else ''}")
    means = {task: min(1.0, max(0.0, draw.gauss(skill, 0.02))) for task in TASKS.values()}
    scores = {task: Score(m, max(0.0, m - 0.05), min(1.0, m + 0.05), 150, 4, 40.0) for task, m in means.items()}
    method = name if kind == "merge" else None
    domains = (name,) if kind == "expert" else tuple(TASKS) if kind == "merge" else ()
    order, base = ("(math & science) & coding", "coding") if method else (None, None)
    return Row(name, kind, scores, Cost(1.0, 0.0, 1000), f"{draw.getrandbits(64):016x}", total=Cost(9.0, 0.0, 9000),
               method=method, order=order, base=base, domains=domains)  # fmt: skip


def _artefact(folder: Path, key: str, before: Any, made_by: Any) -> dict[str, str]:
    folder.mkdir(parents=True)
    data = (key * 512).encode()
    (folder / "data.bin").write_bytes(data)
    status, sha256 = (folder / "data.bin").stat(), hashlib.sha256(data).hexdigest()
    stage = folder.parent.name
    files = {"data.bin": {"bytes": status.st_size, "modified": status.st_mtime_ns, "sha256": sha256}}
    manifest = {"stage": stage, "key": key, "label": key, "config": {}, "code": "0", "facts": {}, "seconds": 1.0,
                "created": "2026-01-01T00:00:00Z", "inputs": [before] if before else [], "files": files,
                **made_by}  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    return {"stage": stage, "key": key, "label": key, "content": sha256[:16]}


def _done(config: Experiment, lam: float) -> Path:
    """The folder of a run of these settings, which has ended."""
    home = bm.runs.folder_of(config)
    _run(home, None, 42, lam)
    bm.runs.finish(config, bm.runs.made_by(config), 0.4, [])
    return home

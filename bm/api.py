"""`bm` from Python: the commands as functions, with the same settings, checks and files (`import bm`).

    config = bm.compose("recipe=tiny", "merge=[linear]")
    results = bm.run(config)
    results.frame

Heavy libraries are imported by the call that needs them.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bm import commands, runs
from bm.cli import conf_dir, importable
from bm.config import EvaluateFolder, Experiment, MergeFolders, VerifyFile, load
from bm.errors import UserError
from bm.overrides import explain, opened, searched

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from pandas import DataFrame

    from bm.report import Results

T = TypeVar("T")

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of transformers too, as for the command


@dataclass(frozen=True)
class Finished:
    """A finished run: its folder, with `results.json` and the page, and what `results.json` holds."""

    folder: Path
    results: "Results"

    @property
    def frame(self) -> "DataFrame":
        """A row per model: kind, mean and each task's pass@1 in percent with its interval, seconds, tokens and key."""
        from pandas import DataFrame

        rows = {}
        for row in self.results.rows:
            mean = self.results.mean(row)
            scores = {
                name: 100 * value
                for task, score in row.scores.items()
                for name, value in ((task, score.mean), (f"{task} low", score.low), (f"{task} high", score.high))
            }
            rows[row.name] = {"kind": row.kind, "mean": None if mean is None else 100 * mean, **scores,
                              "seconds": row.cost.seconds, "tokens": row.cost.tokens, "key": row.key}  # fmt: skip
        return DataFrame.from_dict(rows, orient="index")

    @property
    def verdicts(self) -> "DataFrame":
        """A row per comparison: difference and interval as shares, the adjusted p-value and the verdict."""
        from pandas import DataFrame

        return DataFrame([vars(verdict) for verdict in self.results.verdicts])

    def _repr_html_(self) -> str:
        return str(self.frame.round(1).to_html())


def compose(*overrides: str, config_dir: Path | str | None = None) -> Experiment:
    """The settings of an experiment, as `bm run OVERRIDES` composes them: frozen and checked.

    `config_dir` is a folder of your own YAML and the functions that it names (`--config-dir`).
    UserError names the first setting that is wrong.
    """
    return _settings(Experiment, "run", overrides, {}, config_dir)


def run(config: Experiment) -> Finished:
    """`bm run`: makes what is missing, and returns the results; a finished run is only read."""
    from bm.report import read

    commands.run(config)
    folder = runs.folder_of(config)
    return Finished(folder, read(folder / "results.json"))


def merge(
    *,
    models: Sequence[Path | str],
    output: Path | str,
    base: Path | str | None = None,
    method: str = "arcee_fusion",
    overrides: Sequence[str] = (),
    **parameters: Any,
) -> Path:
    """`bm merge`: Hugging Face folders into one, which is returned.

    `parameters` are the method's own (`lam=1.5`); `overrides` are any other settings (`"merge.out_dtype=float32"`).
    UserError if `output` exists.
    """
    given = {
        "base": None if base is None else str(base),
        "models": [str(model) for model in models],
        "output": str(output),
        **{f"merge.methods.{method}.{name}": value for name, value in parameters.items()},
    }
    commands.merge(_settings(MergeFolders, "merge", [f"merge={method}", *overrides], given))
    return Path(output)


def evaluate(*overrides: str, model: Path | str, output: Path | str) -> "DataFrame":
    """`bm evaluate`: a Hugging Face folder on tasks (`"domain=[]", "evaluate.tasks=[mmlu_stem]"`); a row per task.

    `mean`, `low` and `high` are shares in [0, 1]; every sample is in `output`.
    """
    from pandas import DataFrame

    given = {"model": str(model), "output": str(output)}
    commands.evaluate(_settings(EvaluateFolder, "evaluate", overrides, given))
    return DataFrame.from_dict(json.loads((Path(output) / "scores.json").read_text()), orient="index")


def verify(*overrides: str, verifier: str, file: Path | str, output: Path | str) -> "DataFrame":
    """`bm verify`: responses graded one by one; a row per response, with `accepted` and `reason`."""
    from pandas import read_json

    given = {"verifier": verifier, "file": str(file), "output": str(output)}
    commands.verify(_settings(VerifyFile, "verify", overrides, given))
    return read_json(output, lines=True, dtype=False)


def _settings(
    kind: type[T], stage: str, overrides: Sequence[str], given: dict[str, Any], config_dir: Path | str | None = None
) -> T:
    """The typed settings of a stage: composed from `overrides`, then `given` values that no grammar has to read."""
    from omegaconf import OmegaConf

    for word in overrides:
        if not isinstance(word, str):
            raise UserError(f"{word!r}: an override is a string, such as 'branch.epochs=1'")
    settings = _composed(stage, overrides, config_dir)
    for name, value in given.items():
        OmegaConf.update(settings, name, value, force_add=True)
    return load(kind, settings)


def _composed(stage: str, overrides: Sequence[str], config_dir: Path | str | None) -> "DictConfig":
    """What Hydra makes of the overrides, without a command line around it."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if config_dir:
        importable(config_dir)
    yours = [config_dir] if config_dir else []
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose(stage, [*opened(stage, overrides), *searched(yours)])
    except (HydraException, OmegaConfBaseException) as problem:
        raise UserError(explain(problem, stage, conf_dir(), overrides, yours)) from problem

"""The `bm` command: picks the stage and hands over to Hydra. Imports nothing heavy before the stage runs."""

import atexit
import gc
import os
import sys
from itertools import pairwise
from pathlib import Path

from bm import __version__
from bm.errors import UserError, nearest, refusal

STAGES = {
    "run": "the whole experiment: distill, branch, merge, evaluate, report (recipe=tiny by default)",
    "distill": "verified reasoning traces of a domain",
    "branch": "an expert (domain=math), or the data-mixture baseline (mixture=proportional)",
    "merge": "any Hugging Face folders into one: base=DIR models=[DIR] output=DIR",
    "evaluate": "a Hugging Face folder on tasks: model=DIR output=DIR",
    "verify": "responses graded one by one: verifier=math file=R.jsonl output=G.jsonl",
    "plan": "memory, GPU-hours, disk and cost of an experiment before it runs: recipe=tinyr1 output=PLAN.json",
    "doctor": "what this machine has, and what an experiment needs and lacks: recipe=tinyr1",
    "push": "a model or a set of traces to the hub, private unless public=true: folder=DIR repo=OWNER/NAME",
    "report": "every run side by side, and beside what the paper reports",
}

HELP = f"""bm {__version__} - Branch-Merge distillation: experts per domain, one merged model, and whether it paid off

usage: bm STAGE [group=option] [path.to.setting=value] [-m] [--help]

{"".join(f"  {name:<10} {what}{chr(10)}" for name, what in STAGES.items())}
  bm run                                          the tiny experiment, in minutes on a laptop
  bm run -m merge=arcee_fusion,linear             a sweep; what the jobs share is made once, finished jobs are skipped
  bm run -m hydra/launcher=joblib seed=1,2,3      jobs side by side (submitit_slurm, ray: on a cluster)
  bm run -m hydra/sweeper=optuna merge=arcee_fusion 'merge.methods.arcee_fusion.lam=interval(0.5,3)'    a search
  bm STAGE --help                                 the stage's groups and settings
  bm STAGE --cfg job                              the composed configuration
  bm --shell-completion                           tab completion for bash: eval "$(bm --shell-completion)"

hydra.sweeper.zip, when, skip and on_error shape a sweep: conf/hydra/sweeper/ says how, and what a search can seek.
Settings are Hydra's (https://hydra.cc); add a folder of your own settings and functions with --config-dir DIR.
Everything is written below outputs/ (paths.outputs=DIR changes it)."""

COMPLETION = """_bm() {
  local stage=${COMP_WORDS[1]}
  if [ "$COMP_CWORD" -le 1 ]; then COMPREPLY=($(compgen -W "%s" -- "${COMP_WORDS[1]}")); return; fi
  local line="bm ${COMP_LINE#* $stage }"
  COMPREPLY=($(COMP_LINE="$line" COMP_POINT=${#line} bm "$stage" --shell-completion query=bash 2>/dev/null))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=/}
complete -o nospace -o default -F _bm bm"""

VALUED = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--package", "-p", "--cfg", "-c")
"""Hydra's options that are followed by a value."""


def conf_dir() -> Path:
    """The folder of the Hydra tree: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def importable(folder: Path | str) -> None:
    """Let the settings in a folder of yours name functions in the Python files beside them, in other processes too."""
    path = str(Path(folder).resolve())
    if path not in sys.path:
        sys.path.append(path)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), path]))


def _folders(words: list[str]) -> list[str]:
    """What `--config-dir` names."""
    given = [word.partition("=")[2] for word in words if word.startswith(("--config-dir=", "-cd="))]
    return given + [after for word, after in pairwise(words) if word in ("--config-dir", "-cd")]


def _parted(words: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's options with their values, and the overrides; a user may mix them, and Hydra's parser may not."""
    options: list[str] = []
    overrides: list[str] = []
    for before, word in pairwise(["", *words]):
        valued = before in VALUED or (before == "--info" and "=" not in word)
        (options if word.startswith("-") or valued else overrides).append(word)
    return options, overrides


def main() -> None:
    """Run a stage. Exit status 0 on success, 2 on a mistake in the input, 1 on a failed job or anything unforeseen."""
    atexit.register(gc.freeze)  # else the interpreter's last collection walks all of torch, for half a second
    try:
        _main(sys.argv[1:])
        sys.stdout.flush()
    except UserError as mistake:
        print(f"bm: {mistake}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("bm: interrupted; rerun the command to resume", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as problem:
        if (said := refusal(problem)) is None:
            raise
        print(f"bm: {said}", file=sys.stderr)
        sys.exit(2)


def _main(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP)
    elif words[0] == "--version":
        print(f"bm {__version__}")
    elif words[0] == "--shell-completion":
        print(COMPLETION % " ".join(STAGES))
    elif words[0] not in STAGES:
        raise UserError(f"there is no stage '{words[0]}'{nearest(words[0], STAGES)}")
    else:
        _hydra(words[0], words[1:])


def _hydra(stage: str, words: list[str]) -> None:
    """Compose the stage's configuration and run it, once or as a sweep; Hydra's complaints become one line."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of transformers too; our own tell more
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us as they are, and we say what a user needs to know
    import hydra
    import yaml  # type: ignore[import-untyped]
    from hydra._internal.hydra import Hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    from bm.overrides import explain, opened, unreadable_yaml

    for word in words:
        group, _, option = word.partition("=")
        if option == "null" and (conf_dir() / group).is_dir():
            raise UserError(f"{word}: a group needs an option; leave it out with ~{group}")

    for folder in _folders(words):
        importable(folder)
    Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]  # `-m` decides: no composing twice to ask
    mistakes: list[UserError] = []

    def job(composed: DictConfig) -> float | None:
        from bm.sweeps.jobs import perform

        try:
            return perform(stage, composed)
        except UserError as mistake:  # Hydra would announce it with words of its own
            mistakes.append(mistake)
        except OSError as problem:
            if (said := refusal(problem)) is None:
                raise
            mistakes.append(said)
        return None

    job.__name__ = stage
    options, overrides = _parted(words)
    sys.argv = [f"bm {stage}", *options, *opened(stage, overrides)]
    try:
        if {"--help", "-h"} & set(words):
            from bm.help import stage_help

            print(stage_help(stage, STAGES[stage], conf_dir(), overrides, _folders(words)))
            return
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=stage)(job)()
    except (HydraException, OmegaConfBaseException) as problem:
        raise UserError(explain(problem, stage, conf_dir(), overrides, _folders(words))) from problem
    except yaml.YAMLError as problem:
        raise UserError(unreadable_yaml(problem)) from problem
    if mistakes:
        raise mistakes[0]

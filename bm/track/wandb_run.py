"""A run at Weights & Biases, and the check that W&B holds what was logged."""

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from bm.store import file_digest
from bm.track.about import About, LoggedTable, Reference
from bm.track.wandb_log import Held, differences, ended, held, logs, plain

Mode = Literal["offline", "online"]


class WandbRun:
    """One attempt at a run. What is told to W&B is kept, to be compared with what its transaction log holds."""

    def __init__(
        self, about: About, folder: Path, project: str, group: str | None, tags: list[str], mode: Mode
    ) -> None:
        import wandb

        folder = folder.absolute()  # W&B's own process may stand elsewhere
        folder.mkdir(parents=True, exist_ok=True)
        self._step, self._files, before = about.step, folder, logs(folder, about.key)
        self.held = frozenset(held(before, about.step).rows)
        quiet = wandb.Settings(console="off", silent=True, x_disable_stats=True, x_disable_meta=True, disable_git=True,
                               save_code=False, disable_job_creation=True)  # fmt: skip
        # W&B names the folder of an attempt by its second
        while any(time.strftime("%Y%m%d_%H%M%S") in str(log) for log in before):
            time.sleep(0.1)
        self._run = wandb.init(
            id=about.key, name=about.name, project=project, group=group or "", job_type=about.job, tags=tags,
            config=dict(about.settings), dir=folder, mode=mode, resume="allow", settings=quiet, reinit="create_new",
        )  # fmt: skip
        self._file = Path(self._run.settings.sync_file)
        told = {"id": about.key, "name": about.name, "project": project, "group": group or "", "job type": about.job,
                "tags": tags}  # fmt: skip
        self._told = Held(told, plain(dict(about.settings)), {"*": about.step, **about.axes})
        self._run.define_metric(about.step)
        for metric, axis in self._told.axes.items():
            self._run.define_metric(metric, step_metric=axis)

    def log(self, values: Mapping[str, float], step: int) -> None:
        row = {self._step: step, **values}
        self._run.log(row)
        self._told.rows[step] = plain(row)

    def summarise(self, values: Mapping[str, float]) -> None:
        self._run.summary.update(dict(values))
        self._told.summary |= plain(dict(values))

    def table(self, name: str, table: LoggedTable) -> None:
        import wandb

        self._media(name, wandb.Table(list(table.columns), [list(row) for row in table.rows], allow_mixed_types=True))

    def figure(self, name: str, file: Path) -> None:
        import wandb

        self._media(name, wandb.Image(str(file)))
        self._told.media[name] = file_digest(file)

    def _media(self, name: str, value: Any) -> None:
        self._run.log({name: value})
        self._told.media[name] = value._sha256

    def uses(self, artefacts: Sequence[Reference]) -> None:
        for what in artefacts:
            if self._run.offline:  # what `use_artifact` does, which would wait for a server besides
                self._run._log_artifact(
                    _artifact(what), aliases=[what.key], is_user_created=True, use_after_commit=True
                )
            else:
                self._run.use_artifact(_artifact(what), aliases=[what.key])
            self._told.used.add(what.uri)

    def makes(self, artefacts: Sequence[Reference]) -> None:
        for what in artefacts:
            self._run.log_artifact(_artifact(what), aliases=[what.key])
            self._told.made.add(what.uri)

    def finish(self, failed: bool) -> list[str]:
        self._run.finish(exit_code=int(failed))
        self._told.exits = [int(failed)]
        if not ended(self._file):
            return [f"W&B has not ended the run: {self._file}"]
        there = held(logs(self._files, self._told.about["id"]), self._step)
        wrong = differences(self._told, there)
        return [f"W&B holds something else than what was logged ({'; '.join(wrong)}): {self._file}"] if wrong else []


def _artifact(what: Reference) -> Any:
    """An artefact of the store, in W&B's graph of what was made from what: a reference, not a copy."""
    import wandb

    name = re.sub(r"[^\w.-]+", "-", f"{what.stage}-{what.label}").strip("-")
    artifact = wandb.Artifact(name, type=what.stage, description=what.label, metadata={"key": what.key})
    with redirect_stderr(StringIO()):  # W&B warns that it has no checksum for a scheme of ours: the key is one
        artifact.add_reference(what.uri, name=what.key, checksum=False)
    return artifact

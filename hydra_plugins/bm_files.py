"""Where the settings of a group's file go, so that the file is plain YAML: `merge/mine.yaml` is `merge.methods.mine`.

Hydra puts a file of a group `x` below `x`, unless a `# @package` line says otherwise. These groups go elsewhere, and
this is the only place that says so; a `# @package` line still counts before it. What a file builds on, such as
`defaults: [jsonl]`, goes where that file goes.
"""

from functools import cache
from pathlib import Path, PurePath
from typing import Any

from hydra._internal.core_plugins import file_config_source as hydras
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from omegaconf import ListConfig, OmegaConf, open_dict

from bm.yaml import read_yaml

PACKAGES = {
    "domain": "domains.{name}",
    "merge": "merge.methods.{name}",
    "adapter": "branch.adapter",
    "consolidate": "consolidate.{name}",
    "optimizer": "branch.optimizer",
    "loss": "branch.loss",
    "judge": "verify.judge",
    "feedback": "rounds.feedback",
    "recipe": "_global_",
    "experiment": "_global_",
}


class FileConfigSource(hydras.FileConfigSource):
    """Hydra's source of YAML files, which knows where each group goes."""

    def load_config(self, config_path: str) -> ConfigResult:
        file = Path(self.path, self._normalize_file_name(config_path)).resolve()
        if not file.exists():
            raise ConfigLoadError(f"Config not found : {file}")
        content, head = _read(file, file.stat().st_mtime_ns)
        header = self._get_header_dict(head)
        result = ConfigResult(self.provider, f"file://{self.path}", OmegaConf.create(content), header)
        path = PurePath(config_path)
        package = PACKAGES.get(path.parts[0]) if len(path.parts) > 1 else None
        if package is None:
            return result
        if result.header.get("package") is None:
            result.header["package"] = package.format(name=path.stem)
        defaults = result.config.get("defaults")
        if isinstance(defaults, ListConfig) and package != "_global_":
            with open_dict(result.config):
                result.config["defaults"] = [_here(entry) for entry in defaults]
        return result


@cache
def _read(file: Path, changed_ns: int) -> tuple[Any, str]:
    """What a file says, and the beginning of its text, where a `# @package` line would be; read once while it stays."""
    return read_yaml(file) or {}, file.read_text(encoding="utf-8")[:512]


def _here(entry: object) -> object:
    """An entry of a defaults list that names a file of the same group goes where the file that names it goes."""
    alone = isinstance(entry, str) and entry != "_self_" and "@" not in entry
    return f"{entry}@_here_" if alone else entry


SourcesRegistry.instance().types["file"] = FileConfigSource

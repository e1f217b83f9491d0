"""The schema of every setting. Defaults live in `conf/`, types and ranges here, and nowhere else.

Composed YAML becomes one frozen, typed dataclass at the door (`load`); inside the package nothing is a `DictConfig`.
A field or a component's parameter marked `NoKey` changes how a result is made but not the result: it stays out of the
artefact's key. One marked `Content` is a path that counts by what is there, one marked `Device` by its kind.
"""

from bm.config import resolvers as _resolvers  # noqa: F401  # so that the YAML can name them
from bm.config.commands import Doctor, EvaluateFolder, Experiment, MergeFolders, Push, Report, VerifyFile
from bm.config.component import Component, EngineTarget, SourceTarget, Target, TeacherTarget, asks
from bm.config.loading import (
    Content,
    Device,
    NoKey,
    absent,
    components,
    contents,
    identity,
    load,
    overridden,
    resolved,
    typed,
)
from bm.config.settings import (
    STRICT,
    Decontamination,
    Distill,
    Domain,
    Evaluate,
    Feedback,
    Head,
    Merge,
    Mixture,
    Name,
    NearDuplicates,
    Prices,
    Verify,
)
from bm.config.training import Adapter, Branch, Consolidate, Own, Trainer
from bm.config.tuning import Range

__all__ = [
    "STRICT",
    "Adapter",
    "Branch",
    "Component",
    "Consolidate",
    "Content",
    "Decontamination",
    "Device",
    "Distill",
    "Doctor",
    "Domain",
    "EngineTarget",
    "Evaluate",
    "EvaluateFolder",
    "Experiment",
    "Feedback",
    "Head",
    "Merge",
    "MergeFolders",
    "Mixture",
    "Name",
    "NearDuplicates",
    "NoKey",
    "Own",
    "Prices",
    "Push",
    "Range",
    "Report",
    "SourceTarget",
    "Target",
    "TeacherTarget",
    "Trainer",
    "Verify",
    "VerifyFile",
    "absent",
    "asks",
    "components",
    "contents",
    "identity",
    "load",
    "overridden",
    "resolved",
    "typed",
]

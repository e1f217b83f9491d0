"""The trackers' real settings, and a run to be tracked."""

from pathlib import Path
from typing import Any

from bm.config import Component, Target, typed
from bm.track import About
from bm.yaml import read_yaml

CONF = Path(__file__).parents[2] / "conf" / "tracker"
KEY = "0123456789abcdef"
"""W&B's process knows a run by its key for a while after its end: runs of one process have keys of their own."""


def tracker(name: str, **settings: Any) -> Component:
    made: Component = typed(Target, {**read_yaml(CONF / f"{name}.yaml"), **settings})
    return made


def wandb(folder: Path, **settings: Any) -> Component:
    return tracker("wandb", **{"dir": str(folder), "group": None, **settings})


def about(key: str = KEY, **more: Any) -> About:
    settings = {"branch": {"batch": 2, "warmup": None}, "domains": ["math"]}
    return About(key, "math", "branch", settings, axes={"loss": "tokens"}, **more)

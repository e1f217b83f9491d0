"""Where an artefact was made, and with which versions."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "lightning", "lm_eval", "reasoning-gym", "safetensors", "tokenizers", "numpy")


def origin() -> dict[str, Any]:
    """Where and with which versions."""
    return {"versions": _versions(), "git_commit": _git_commit(), "python": platform.python_version(),
            "hardware": hardware(), "command": sys.argv}  # fmt: skip


def hardware() -> dict[str, Any]:
    """The machine: processor, cores, memory in GB, and GPUs where torch has been loaded and sees some."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    torch = sys.modules.get("torch")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch else []
    return {"processor": _processor(), "cores": os.cpu_count(), "memory_gb": round(memory, 1), "gpus": gpus}


@cache
def _versions() -> dict[str, str]:
    installed = {}
    for library in LIBRARIES:
        try:
            installed[library] = version(library)
        except ImportError:
            continue
    return installed


@cache
def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


@cache
def _git_commit() -> str | None:
    """The commit of the code if it runs from a checkout of its own, else None."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    asked = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    return asked.stdout.strip() or None

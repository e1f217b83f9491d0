"""The memory of this process, and of the machine, as Linux counts it; elsewhere as near as the system tells."""

import os
import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
"""Linux's account of this process. `getrusage` would count what the process had before it became this program."""


def most() -> int:
    """The most bytes that this process has held."""
    return _counted("VmHWM")


def physical() -> int:
    """Bytes of memory that the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _counted(name: str) -> int:
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    if line := next((line for line in lines if line.startswith(f"{name}:")), None):
        return 1024 * int(line.split()[1])
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used

"""The shipped settings of the verifiers, and whether this machine has a sandbox."""

from pathlib import Path
from typing import Any

import pytest

from bm.config import Verify, typed
from bm.errors import UserError
from bm.verify.sandbox import check
from bm.yaml import read_yaml

CONF = Path(__file__).parents[2] / "conf"


def verifying(**changes: Any) -> Verify:
    """conf/settings/verify.yaml with some settings changed."""
    return typed(Verify, read_yaml(CONF / "settings" / "verify.yaml") | changes, "verify")


def _works() -> str:
    try:
        check()
    except UserError as problem:
        return str(problem)
    return ""


BUBBLEWRAP = pytest.mark.skipif(bool(_works()), reason=_works())

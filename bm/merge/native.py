"""The merge kernels, called: machine code kept between processes, so that a merge loads neither numba nor a compiler.

Code is compiled when it is first needed and kept beside this file, in the user's cache folder where that cannot be
written, or else below the folder for temporary files. Its name tells what it was made of: the kernels' source, the
compiler, the processor and the kinds of the arguments; another of these is other code.
"""

import ctypes
import hashlib
import os
import struct
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import llvmlite  # type: ignore[import-untyped]
import llvmlite.binding as llvm  # type: ignore[import-untyped]
import numpy as np

from bm.merge.arrays import CHUNK, Array
from bm.progress import say

FOLDERS = (
    Path(__file__).parent / "__pycache__" / "kernels",
    Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "bm" / "kernels",
    Path(tempfile.gettempdir()) / f"bm-kernels-{os.getuid()}",
)
Kind: TypeAlias = tuple[str, int]
"""The kind of an argument: numpy's character code for its type, and how many dimensions it has, 0 for a number."""
_loading = threading.RLock()


class Kernel:
    """A function of `bm.merge.kernels`, run without the interpreter's lock.

    Its arguments are arrays in C order, which it reads and writes where they are, and integers, floats (as float32) and
    booleans. Their types choose the code.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: dict[tuple[Kind, ...], Callable[[Any], None]] = {}
        """The code by the kinds of its arguments."""

    def __call__(self, *arguments: Any) -> None:
        kinds: list[Kind] = []
        words: list[int] = []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                if not argument.flags.c_contiguous:
                    raise ValueError(f"{self.name}: an array is not in C order")
                kinds.append((argument.dtype.char, argument.ndim))
                words += (argument.__array_interface__["data"][0], *argument.shape)
            elif isinstance(argument, bool):
                kinds.append(("?", 0))
                words.append(argument)
            elif isinstance(argument, int):
                kinds.append(("l", 0))
                words.append(argument)
            else:
                kinds.append(("f", 0))
                words += struct.unpack("<q", struct.pack("<d", argument))
        code = self.ready.get(tuple(kinds)) or self._load(tuple(kinds))
        code((ctypes.c_int64 * len(words))(*words))

    def _load(self, kinds: tuple[Kind, ...]) -> Callable[[Any], None]:
        with _loading:
            if kinds not in self.ready:
                symbol, code = _kept(self.name, kinds) or _compiled(self.name, kinds)
                self.ready[kinds] = _linked(symbol, code)
        return self.ready[kinds]


def addresses(arrays: Iterable[Array | None]) -> Array:
    """Where arrays in C order begin, 0 for None, int64 [arrays]; they must live while this is in use."""
    return np.array([0 if a is None else a.__array_interface__["data"][0] for a in arrays], np.int64)


sample, count, brackets = Kernel("sample"), Kernel("count"), Kernel("brackets")
select, average, combine = Kernel("select"), Kernel("average"), Kernel("combine")


@cache
def _made_of() -> "hashlib._Hash":
    """What all kernels' code depends on."""
    features = llvm.get_host_cpu_features().flatten()
    made_of = hashlib.sha256(f"{llvmlite.__version__}\0{llvm.get_host_cpu_name()}\0{features}\0{CHUNK}".encode())
    for source in ("kernels.py", "compiling.py", "native.py"):
        made_of.update(Path(__file__).with_name(source).read_bytes())
    return made_of


def _file(name: str, kinds: Sequence[Kind]) -> str:
    own = _made_of().copy()
    own.update(repr(kinds).encode())
    return f"{name}-{own.hexdigest()[:16]}.o"


def _kept(name: str, kinds: Sequence[Kind]) -> tuple[str, bytes] | None:
    """The entry's name and the code, if they are kept, whole, in a folder into which none but its owner writes."""
    for folder in FOLDERS:
        try:
            digest, symbol, code = (folder / _file(name, kinds)).read_bytes().split(b"\n", 2)
        except (OSError, ValueError):
            continue
        if digest.decode() == hashlib.sha256(code).hexdigest() and _safe(folder):
            return symbol.decode(), code
    return None


def _safe(folder: Path) -> bool:
    """Whether what is in a folder is of this user or of root, who installed it."""
    there = folder.stat()
    return there.st_uid in (0, os.getuid()) and not there.st_mode & 0o002


def _compiled(name: str, kinds: Sequence[Kind]) -> tuple[str, bytes]:
    _say_so()
    from bm.merge import compiling, kernels

    symbol, code = compiling.machine_code(getattr(kernels, name), kinds)
    _keep(_file(name, kinds), hashlib.sha256(code).hexdigest().encode() + b"\n" + symbol.encode() + b"\n" + code)
    return symbol, code


@cache
def _say_so() -> None:
    say("compiling the merge kernels for this processor: some seconds, once; they are kept for the next time")


def _keep(file: str, content: bytes) -> None:
    """Writes a file into the first folder that allows it; where none does, the next process compiles again."""
    for folder in FOLDERS:
        try:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            if not _safe(folder):
                continue
            handle, part = tempfile.mkstemp(dir=folder)
            with os.fdopen(handle, "wb") as opened:
                opened.write(content)
            os.chmod(part, 0o644)
            os.replace(part, folder / file)
        except OSError:
            continue
        return


def _linked(symbol: str, code: bytes) -> Callable[[Any], None]:
    """Code placed in this process's memory: the function at its entry."""
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    call: Callable[[Any], None] = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(engine.get_function_address(symbol))
    return call


_engines: list[Any] = []  # they own the code's memory


def _machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(jit=True)

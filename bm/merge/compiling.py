"""The merge kernels made into machine code by numba. Imported where a kernel is compiled, and nowhere else."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import cfunc, from_dtype, njit, types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

__all__ = ["bits", "entries", "machine_code", "njit", "number"]

WORD = ir.IntType(64)


def _as_number(_, entry):  # type: ignore[no-untyped-def]
    """A stored entry as float32: from the bits of bfloat16 (uint16) or of float32 (uint32), or as it is."""

    def build(_, builder, __, values):  # type: ignore[no-untyped-def]
        (value,) = values
        if entry == types.uint16:
            value = builder.shl(builder.zext(value, ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return value if entry == types.float32 else builder.bitcast(value, ir.FloatType())

    return types.float32(entry), build


def _as_bits(_, number):  # type: ignore[no-untyped-def]
    """The bits of a float32, uint32."""
    return types.uint32(number), lambda _, builder, __, values: builder.bitcast(values[0], ir.IntType(32))


def _at_address(_, address, begin, end, of):  # type: ignore[no-untyped-def]
    """Entries [begin, end) of what begins at an address, numbers `of` a type."""
    kind = types.Array(of.dtype, 1, "C")

    def build(context, builder, __, values):  # type: ignore[no-untyped-def]
        place, begin, end, _ = values
        data = builder.inttoptr(place, context.get_data_type(kind.dtype).as_pointer())
        return _array(context, builder, kind, builder.gep(data, [begin]), [builder.sub(end, begin)])

    return kind(address, types.int64, types.int64, of), build


number: Any = intrinsic(_as_number)
bits: Any = intrinsic(_as_bits)
entries: Any = intrinsic(_at_address)


def machine_code(kernel: Any, kinds: Sequence[tuple[str, int]]) -> tuple[str, bytes]:
    """A kernel for arguments of these kinds (`bm.merge.native`), as an object file: the name of its entry, its bytes.

    The entry takes the address of the arguments' words and returns nothing.
    """
    arguments = _arguments([_type(*kind) for kind in kinds])

    def entry(words):  # type: ignore[no-untyped-def]
        kernel(*arguments(words))

    compiled: Any = cfunc(types.void(types.CPointer(types.int64)), error_model="numpy")(entry)  # type: ignore[no-untyped-call]
    _, _, (code, _) = compiled._library.serialize_using_object_code()
    if b"\0numba_" in code or b"\0NRT_" in code:
        raise RuntimeError("a kernel that may raise, or makes arrays, needs numba where it runs")
    return compiled.native_name, code


def _type(letter: str, dimensions: int) -> Any:
    own = from_dtype(np.dtype(letter))
    return types.Array(own, dimensions, "C") if dimensions else own


def _arguments(wanted: Sequence[Any]) -> Any:
    """A function of the address of words that gives a tuple of these types."""

    def read(_, words):  # type: ignore[no-untyped-def]
        own = types.Tuple(wanted)  # type: ignore[no-untyped-call]

        def build(context, builder, _, values):  # type: ignore[no-untyped-def]
            words = _words(builder, values[0])
            return context.make_tuple(builder, own, [_argument(context, builder, kind, words) for kind in wanted])

        return own(words), build

    return intrinsic(read)


def _words(builder: Any, address: Any) -> Iterator[Any]:
    """The words from an address on, each loaded when it is asked for."""
    place = 0
    while True:
        yield builder.load(builder.gep(address, [ir.Constant(WORD, place)]))
        place += 1


def _argument(context: Any, builder: Any, kind: Any, words: Iterator[Any]) -> Any:
    """One argument from its words: an array's address and lengths, a float64's bits for a float32, or an integer."""
    if not isinstance(kind, types.Array):
        word = next(words)
        as_it_is: dict[Any, Callable[[], Any]] = {
            types.int64: lambda: word,
            types.boolean: lambda: builder.trunc(word, ir.IntType(1)),
            types.float32: lambda: builder.fptrunc(builder.bitcast(word, ir.DoubleType()), ir.FloatType()),
        }
        return as_it_is[kind]()
    data = builder.inttoptr(next(words), context.get_data_type(kind.dtype).as_pointer())
    return _array(context, builder, kind, data, [next(words) for _ in range(kind.ndim)])


def _array(context: Any, builder: Any, kind: Any, data: Any, shape: Sequence[Any]) -> Any:
    """An array in C order over memory that is another's."""
    size = ir.Constant(WORD, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    strides = [size]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    array = make_array(kind)(context, builder)  # type: ignore[no-untyped-call]
    parts = {"data": data, "shape": shape, "strides": strides, "itemsize": size, "meminfo": None}
    populate_array(array, **parts)  # type: ignore[no-untyped-call]
    return array._getvalue()

"""Vector types for Numba: code that is written for one frame runs for eight, one in each lane of a vector register.

LLVM vectorises a loop over lanes only where it can prove that loads and stores do not overlap, and in a Fourier
transform in place it cannot. Here the vector is a type, and nothing has to be proved:

    a, b = load(x, i), load(x, i + 8)       # x[i : i + 8], x[i + 8 : i + 16]
    store(x, i, a + b * scale)

A vector takes as many registers as the machine needs: of float64 one with AVX-512, two with AVX2, four with NEON.
"""

from __future__ import annotations

import operator
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from headrace.store.arrays.jit import jit as machine_code

LANES = 8
ELEMENTS = {types.int16: ir.IntType(16), types.float32: ir.FloatType(), types.float64: ir.DoubleType()}


class Lanes(types.Type):
    """The type of a vector of eight numbers, one for each frame. LLVM maps it to as many registers as needed."""

    def __init__(self, element: Any) -> None:
        super().__init__(f"Lanes({element})")
        self.element = element
        self.llvm = ir.VectorType(ELEMENTS[element], LANES)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, lanes.llvm)


def _pointer(context: Any, builder: Any, array: Any, value: Any, at: Any) -> Any:
    data = context.make_array(array)(context, builder, value).data
    return builder.bitcast(builder.gep(data, [at]), Lanes(array.dtype).llvm.as_pointer())


def _load(context: Any, builder: Any, array: Any, value: Any, at: Any) -> Any:
    return builder.load(_pointer(context, builder, array, value, at), align=array.dtype.bitwidth // 8)


def _shuffle(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    """Return a vector of lanes chosen from a (0 to 7) and b (8 to 15)."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), LANES), lanes))


@intrinsic
def load(_: Any, array: Any, at: Any) -> Any:
    """Load array[at : at + 8]."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _load(context, builder, array, *args)

    return Lanes(array.dtype)(array, types.intp), code


@intrinsic
def store(_: Any, array: Any, at: Any, lanes: Any) -> Any:
    """Store lanes to array[at : at + 8]."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _pointer(context, builder, array, *args[:2]), align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), code


@intrinsic
def load_transposed(_: Any, array: Any, at: Any, stride: Any) -> Any:
    """Load eight vectors, transposed: lane i of vector j is array[at + i * stride + j]."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        starts = (builder.add(args[1], builder.mul(args[2], args[2].type(i))) for i in range(LANES))
        rows = [_load(context, builder, array, args[0], start) for start in starts]
        for width in (4, 2, 1):  # in squares of 8, 4 and 2, two of the quarters change places
            first = [i + LANES - width if i & width else i for i in range(LANES)]
            second = [i + LANES if i & width else i + width for i in range(LANES)]
            for i in (i for i in range(LANES) if not i & width):
                a, b = rows[i], rows[i + width]
                rows[i], rows[i + width] = _shuffle(builder, a, b, first), _shuffle(builder, a, b, second)
        return context.make_tuple(builder, signature.return_type, rows)

    return types.UniTuple(Lanes(array.dtype), LANES)(array, types.intp, types.intp), code


@intrinsic
def to_float32(_: Any, lanes: Any) -> Any:
    """Round float64 lanes to float32."""
    narrow = Lanes(types.float32)
    return narrow(lanes), lambda context, builder, signature, args: builder.fptrunc(args[0], narrow.llvm)


@intrinsic
def to_float64(_: Any, lanes: Any) -> Any:
    """Convert int16 or float32 lanes to float64."""
    wide, widen = Lanes(types.float64), "sitofp" if lanes.element == types.int16 else "fpext"
    return wide(lanes), lambda context, builder, signature, args: getattr(builder, widen)(args[0], wide.llvm)


@intrinsic
def sqrt(_: Any, lanes: Any) -> Any:
    """Return the square roots of lanes."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        name = f"llvm.sqrt.v{LANES}f{lanes.element.bitwidth}"
        kind = ir.FunctionType(lanes.llvm, [lanes.llvm])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)

    return lanes(lanes), code


def _elementwise(sign: Callable[..., Any], instruction: str) -> None:
    """Implement an operator for lanes, and lanes and a scalar. A product may be fused with a following sum."""

    @intrinsic
    def apply(_: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            left, right = args
            if b != a:
                scalar = context.cast(builder, right, b, a.element)
                lone = builder.insert_element(ir.Constant(a.llvm, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
                right = _shuffle(builder, lone, lone, [0] * LANES)
            return getattr(builder, instruction)(left, right, flags=("contract",))

        return a(a, b), code

    def applied(a: Any, b: Any) -> Any:
        return apply(a, b)

    @overload(sign)
    def typed(a: Any, b: Any) -> Any:
        return applied if isinstance(a, Lanes) else None


_elementwise(operator.add, "fadd")
_elementwise(operator.sub, "fsub")
_elementwise(operator.mul, "fmul")


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that uses lanes, like `headrace.store.arrays.jit.jit`."""
    # Numba recompiles when the function's own file changes. The checksum in the name covers this file too.
    function.__qualname__ += f"_{zlib.crc32(Path(__file__).read_bytes()):08x}"
    return machine_code(function)

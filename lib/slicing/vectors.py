"""Sixteen whole numbers at a time, for compiled loops: numba has no such operations, LLVM has.

Each works on 16 places of a uint32 array from a start on, which the caller has made room for. The compiler takes the
widest registers that the processor has; `WIDE` tells whether it picks and packs lanes in one instruction (AVX-512).
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
_intrinsic: Any = intrinsic  # numba types what it makes as taking the typing context
try:
    WIDE = bool(llvmlite.binding.get_host_cpu_features().get("avx512f"))
except RuntimeError:  # a processor that LLVM has no list of features for
    WIDE = False
_INDEX, _WORD = ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(_WORD, LANES)
_ANY = ir.Constant(_VECTOR, ir.Undefined)


def _address(context: Any, builder: Any, array_type: Any, array: Any, start: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [start]), _VECTOR.as_pointer())


def _load(builder: Any, address: Any) -> Any:
    found = builder.load(address)
    found.align = 4
    return found


def _store(builder: Any, vector: Any, address: Any) -> None:
    builder.store(vector, address).align = 4


def _call(builder: Any, name: str, *given: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, [value.type for value in given])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}i32"), given)


def _lanes(builder: Any, first: Any, second: Any, order: list[int]) -> Any:
    """A vector of the lanes of two, numbered from 0 on in the first and from 16 on in the second."""
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(_WORD, LANES), order))


@_intrinsic
def split(typing: Any, array: Any, start: Any, below: Any, above: Any, cut: Any) -> Any:
    """Pack array[start : start + 16] into those under `cut`, from `below` on, and the others, from `above` on.

    Order is kept. 16 places are written at either: what follows the packed ones is undefined.
    Returns: how many there are of the others.
    """
    signature = types.int64(array, types.int64, types.int64, types.int64, types.uint32)

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        array, start, below, above, cut = given
        kind = signature.args[0]
        vector = _load(builder, _address(context, builder, kind, array, start))
        cuts = _lanes(builder, builder.insert_element(_ANY, cut, ir.Constant(_WORD, 0)), _ANY, [0] * LANES)
        over = builder.icmp_unsigned(">=", vector, cuts)
        under = _call(builder, "experimental.vector.compress", vector, builder.not_(over), _ANY)
        _store(builder, under, _address(context, builder, kind, array, below))
        packed = _call(builder, "experimental.vector.compress", vector, over, _ANY)
        _store(builder, packed, _address(context, builder, kind, array, above))
        return builder.zext(builder.ctpop(builder.bitcast(over, ir.IntType(LANES))), _INDEX)

    return signature, code


@_intrinsic
def clear(typing: Any, array: Any, start: Any) -> Any:
    """Zeros from start on, 16."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        zeros = ir.Constant(_VECTOR, [0] * LANES)
        _store(builder, zeros, _address(context, builder, signature.args[0], *given))
        return context.get_dummy_value()

    return types.void(array, types.int64), code


def _sorter(size: int) -> Any:
    """Sort array[start : start + size], largest first, into `target` on: Batcher's bitonic network (1968)."""

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        array, start, target = given
        places = [ir.Constant(_INDEX, place) for place in range(0, size, LANES)]

        def at(base: Any, place: Any) -> Any:
            return _address(context, builder, signature.args[0], array, builder.add(base, place))

        vectors = [_load(builder, at(start, place)) for place in places]
        run = 2  # length of the runs that are sorted after the next steps, in turn down and up
        while run <= size:
            apart = run // 2
            while apart:
                _exchange(builder, vectors, apart, run)
                apart //= 2
            run *= 2
        for vector, place in zip(vectors, places, strict=True):
            _store(builder, vector, at(target, place))
        return context.get_dummy_value()

    @_intrinsic
    def sort(typing: Any, array: Any, start: Any, target: Any) -> Any:
        return types.void(array, types.int64, types.int64), code

    return sort


def _exchange(builder: Any, vectors: list[Any], apart: int, run: int) -> None:
    """One step of the network: each pair of values that lie `apart` is put in the order of its run."""
    for index, vector in enumerate(vectors):
        first = index * LANES
        if apart >= LANES:
            other = index ^ (apart // LANES)
            if other > index:
                pair = [_call(builder, name, vector, vectors[other]) for name in ("umax", "umin")]
                vectors[index], vectors[other] = pair if not first & run else pair[::-1]
            continue
        mirrored = _lanes(builder, vector, _ANY, [lane ^ apart for lane in range(LANES)])
        high, low = (_call(builder, name, vector, mirrored) for name in ("umax", "umin"))
        order = [lane if (not lane & apart) == (not (first + lane) & run) else lane + LANES for lane in range(LANES)]
        vectors[index] = _lanes(builder, high, low, order)


sort_16, sort_32, sort_64 = _sorter(16), _sorter(32), _sorter(64)

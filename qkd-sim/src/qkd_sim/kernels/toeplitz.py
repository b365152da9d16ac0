"""toeplitz - Toeplitz products over GF(2), word by word: exact, no rounding anywhere.

A Toeplitz matrix-vector product of ``N`` words by ``N`` words is split in two
with three products of half the size (Karatsuba's idea, applied to the matrix),
down to `BASE_WORDS`; there the carry-less multiplication of the processor does
it, or shifts and exclusive-ors where the processor has none.
"""

from typing import Any, Final, TypeAlias

import numpy as np
from llvmlite import binding, ir
from numba import config, njit, types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

BASE_WORDS: Final = 32
"""Products of this size are done directly."""


_Untyped: TypeAlias = Any
"""What numba and LLVM hand around without types."""


def _has_carryless_multiplication() -> bool:
    if getattr(config, "CPU_NAME", None) not in {None, "", "host"}:
        # numba was told to compile for another processor than this one
        return "+pclmul" in (getattr(config, "CPU_FEATURES", None) or "")
    features = binding.get_host_cpu_features()
    return bool(features.get("pclmul") and features.get("sse2"))


HAS_CARRYLESS: Final = _has_carryless_multiplication()
"""Whether this processor multiplies polynomials over GF(2) (PCLMULQDQ)."""


def _carryless_dot_code(
    _context: _Untyped, work: _Untyped, left: _Untyped, right: _Untyped
) -> _Untyped:
    """Return ``xor_c work[left + c] * work[right + c]`` over `BASE_WORDS` words as (low, high)."""
    signature = types.UniTuple(types.uint64, 2)(work, left, right)

    def generate(
        context: _Untyped, builder: _Untyped, sig: _Untyped, arguments: _Untyped
    ) -> _Untyped:
        pair = ir.VectorType(ir.IntType(64), 2)
        byte = ir.IntType(8)
        name = "llvm.x86.pclmulqdq"
        multiply = builder.module.globals.get(name) or ir.Function(
            builder.module, ir.FunctionType(pair, [pair, pair, byte]), name
        )
        data = context.make_array(sig.args[0])(context, builder, arguments[0]).data
        operands = [builder.gep(data, [arguments[1]]), builder.gep(data, [arguments[2]])]
        sums = [ir.Constant(pair, [0, 0]), ir.Constant(pair, [0, 0])]
        for offset in range(0, BASE_WORDS, 2):
            step = ir.Constant(ir.IntType(64), offset)
            a, b = (
                builder.load(
                    builder.bitcast(builder.gep(operand, [step]), pair.as_pointer()), align=8
                )
                for operand in operands
            )
            # selector 0x00 multiplies the two lower words, 0x11 the two upper ones
            for half, selector in enumerate((0x00, 0x11)):
                product = builder.call(multiply, [a, b, ir.Constant(byte, selector)])
                sums[half] = builder.xor(sums[half], product)
        total = builder.xor(*sums)
        words = [builder.extract_element(total, ir.Constant(ir.IntType(32), i)) for i in (0, 1)]
        return context.make_tuple(builder, sig.return_type, words)

    return signature, generate


_carryless_dot: _Untyped = intrinsic(_carryless_dot_code)


def _dot(work: NDArray[np.uint64], left: int, right: int) -> tuple[np.uint64, np.uint64]:
    raise NotImplementedError


@overload(_dot, strict=False)
def _compile_dot(work: _Untyped, left: _Untyped, right: _Untyped) -> _Untyped:  # noqa: ARG001
    if HAS_CARRYLESS:
        return lambda work, left, right: _carryless_dot(work, left, right)  # noqa: PLW0108
    # never reached: without the instruction every caller asks for the portable way
    return lambda work, left, right: (np.uint64(0), np.uint64(0))  # noqa: ARG005


@njit(cache=True, nogil=True)
def _base_carryless(work: NDArray[np.uint64], matrix: int, vector: int, out: int) -> None:
    _, carry = _dot(work, matrix, vector)
    for row in range(BASE_WORDS):
        low, high = _dot(work, matrix + 1 + row, vector)
        work[out + row] = low ^ carry
        carry = high


@njit(cache=True, nogil=True)
def _base_portable(work: NDArray[np.uint64], matrix: int, vector: int, out: int) -> None:
    for row in range(BASE_WORDS):
        work[out + row] = np.uint64(0)
    for column in range(BASE_WORDS):
        word = work[vector + column]
        first = matrix + column
        for bit in range(64):
            up = np.uint64(bit)
            down = np.uint64(63 - bit)
            # all ones or all zeros: no branch depends on the key
            mask = np.uint64(0) - ((word >> up) & np.uint64(1))
            for row in range(BASE_WORDS):
                window = (work[first + 1 + row] << up) | (
                    (work[first + row] >> np.uint64(1)) >> down
                )
                work[out + row] ^= window & mask


@njit(cache=True, nogil=True)
def _add(work: NDArray[np.uint64], left: int, right: int, out: int, n_words: int) -> None:
    for i in range(n_words):
        work[out + i] = work[left + i] ^ work[right + i]


@njit(cache=True, nogil=True)
def _descend(
    work: NDArray[np.uint64], stage: int, here: NDArray[np.int64], half: int
) -> tuple[int, int, int, int]:
    """Prepare one of the three half-size products; return its four places."""
    matrix, vector, out, sums = here
    folded = sums + 2 * half
    part = folded + half
    if stage == 0:
        _add(work, vector, vector + half, folded, half)
        return matrix + half, folded, out, part + half
    if stage == 1:
        _add(work, matrix + half, matrix, sums, 2 * half)
        return sums, vector, part, part + half
    _add(work, matrix + half, matrix + 2 * half, sums, 2 * half)
    return sums, vector + half, out + half, part + half


@njit(cache=True, nogil=True)
def _square_product(work: NDArray[np.uint64], n_words: int, is_portable: bool) -> None:
    """Multiply the square Toeplitz matrix at word 0 by the vector at ``2 n_words``.

    The matrix has ``2 n_words`` words, the vector `n_words`, last word first;
    the product is written behind them, and what follows is scratch.

    Notes
    -----
    On each level, with the matrix ``((A, B), (C, A))`` and the vector
    ``(v0, v1)`` in halves::

        y0 = A (v0 + v1) + (A + B) v1
        y1 = A (v0 + v1) + (A + C) v0

    The recursion is written out with a stack, because numba's cache does not
    keep functions that call themselves.
    """
    stage = np.zeros(64, np.int64)
    places = np.empty((64, 4), np.int64)  # of matrix, vector, product and scratch
    places[0] = 0, 2 * n_words, 3 * n_words, 4 * n_words
    level = 0
    while level >= 0:
        half = n_words >> (level + 1)
        matrix, vector, out, sums = places[level]
        if 2 * half == BASE_WORDS:
            if is_portable:
                _base_portable(work, matrix, vector, out)
            else:
                _base_carryless(work, matrix, vector, out)
            level -= 1
        elif stage[level] < 3:
            places[level + 1] = _descend(work, stage[level], places[level], half)
            stage[level] += 1
            stage[level + 1] = 0
            level += 1
        else:
            _add(work, out + half, out, out + half, half)
            _add(work, out, sums + 3 * half, out, half)
            level -= 1


@njit(cache=True, nogil=True)
def toeplitz_product(
    matrix: NDArray[np.uint64],
    vector: NDArray[np.uint64],
    out: NDArray[np.uint64],
    n_square: int,
    is_portable: bool,
) -> None:
    """Multiply a Toeplitz matrix by a vector, in squares of `n_square` words.

    With all arrays read as polynomials over GF(2), lowest bit first, `out` gets
    the coefficients of ``matrix * vector`` from ``64 * vector.size`` on.

    Parameters
    ----------
    matrix : (v + m,) ndarray of uint64
        The matrix' first row and column as one string of bits.
    vector : (v,) ndarray of uint64
        Whole squares: ``v`` is a multiple of `n_square`.
    out : (m,) ndarray of uint64
        Result, whole squares.
    n_square : int
        `BASE_WORDS` times a power of two.
    is_portable : bool
        Do without carry-less multiplication.
    """
    # matrix, vector, result of one square, then scratch: 4 + 2 + 1 + ... < 8 squares
    work = np.zeros(9 * n_square + 64, np.uint64)
    for index in range(out.size):
        out[index] = np.uint64(0)
    n_columns = vector.size // n_square
    for row in range(out.size // n_square):
        for column in range(n_columns):
            first = (n_columns - 1 - column + row) * n_square
            for i in range(2 * n_square):
                work[i] = matrix[first + i]
            last = (column + 1) * n_square - 1
            for i in range(n_square):
                work[2 * n_square + i] = vector[last - i]
            _square_product(work, n_square, is_portable)
            for i in range(n_square):
                out[row * n_square + i] ^= work[3 * n_square + i]

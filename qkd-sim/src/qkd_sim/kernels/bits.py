"""bits - single machine words and bitmaps of them: counting, scanning, a small generator.

Bit ``i`` of a bitmap is bit ``i % 64`` (from the least significant one) of word ``i // 64``.
"""

from typing import Any, Final, TypeAlias

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

WORD_BITS: Final = 64

_Untyped: TypeAlias = Any
"""What numba and LLVM hand around without types."""


def popcount(word: np.uint64) -> int:
    """Return how many bits of a word are one (one instruction when compiled)."""
    return int(word).bit_count()


def trailing_zeros(word: np.uint64) -> int:
    """Return the index of a word's lowest one bit; 64 for the word zero."""
    value = int(word)
    return (value & -value).bit_length() - 1 if value else WORD_BITS


def leading_zeros(word: np.uint64) -> int:
    """Return how many zero bits stand above a word's highest one bit."""
    return WORD_BITS - int(word).bit_length()


def _ctpop_code(_context: _Untyped, _word: _Untyped) -> _Untyped:
    def generate(_c: _Untyped, builder: _Untyped, _s: _Untyped, words: _Untyped) -> _Untyped:
        return builder.ctpop(words[0])

    return types.int64(types.uint64), generate


def _cttz_code(_context: _Untyped, _word: _Untyped) -> _Untyped:
    def generate(_c: _Untyped, builder: _Untyped, _s: _Untyped, words: _Untyped) -> _Untyped:
        return builder.cttz(words[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


def _ctlz_code(_context: _Untyped, _word: _Untyped) -> _Untyped:
    def generate(_c: _Untyped, builder: _Untyped, _s: _Untyped, words: _Untyped) -> _Untyped:
        return builder.ctlz(words[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


_ctpop: _Untyped = intrinsic(_ctpop_code)
_cttz: _Untyped = intrinsic(_cttz_code)
_ctlz: _Untyped = intrinsic(_ctlz_code)


@overload(popcount, strict=False)
def _compile_popcount(_word: _Untyped) -> _Untyped:
    return lambda _word: _ctpop(_word)  # noqa: PLW0108 - numba wants a function


@overload(trailing_zeros, strict=False)
def _compile_trailing_zeros(_word: _Untyped) -> _Untyped:
    return lambda _word: _cttz(_word)  # noqa: PLW0108


@overload(leading_zeros, strict=False)
def _compile_leading_zeros(_word: _Untyped) -> _Untyped:
    return lambda _word: _ctlz(_word)  # noqa: PLW0108


@njit(cache=True, nogil=True)
def next_one(bitmap: NDArray[np.uint64], start: int) -> int:
    """Return the index of the first one bit after `start`; there has to be one."""
    place = start + 1
    word = place >> 6
    rest = bitmap[word] & (~np.uint64(0) << np.uint64(place & 63))
    while rest == np.uint64(0):
        word += 1
        rest = bitmap[word]
    return (word << 6) + trailing_zeros(rest)


@njit(cache=True, nogil=True)
def last_one(bitmap: NDArray[np.uint64], end: int) -> int:
    """Return the index of the last one bit at or before `end`; there has to be one."""
    word = end >> 6
    rest = bitmap[word] & (~np.uint64(0) >> np.uint64(63 - (end & 63)))
    while rest == np.uint64(0):
        word -= 1
        rest = bitmap[word]
    return (word << 6) + 63 - leading_zeros(rest)


@njit(cache=True, nogil=True)
def mix(state: NDArray[np.uint64]) -> np.uint64:
    """Advance a one-word state and return 64 pseudo-random bits.

    For public permutations and subsets only, which need to be the same on both
    sides and spread evenly, not to be unpredictable.

    References
    ----------
    .. [1] G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number
       generators", OOPSLA 2014 (SplitMix64).
    """
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    word = state[0]
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.uint64(word ^ (word >> np.uint64(31)))


@njit(cache=True, nogil=True)
def fill_random(words: NDArray[np.uint64], seed: np.uint64) -> None:
    """Fill words with pseudo-random bits grown from a seed."""
    state = np.empty(1, np.uint64)
    state[0] = seed
    for index in range(words.size):
        words[index] = mix(state)


@njit(cache=True, nogil=True)
def shuffle(order: NDArray[np.int32], seed: np.uint64) -> None:
    """Fill `order` with a pseudo-random permutation of ``0 .. order.size - 1``.

    Notes
    -----
    Fisher-Yates; an index below ``n <= 2**24`` is drawn by multiplying 32
    random bits, so probabilities are off by less than one part in 256.
    """
    state = np.empty(1, np.uint64)
    state[0] = seed
    for place in range(order.size):
        order[place] = place
    for place in range(order.size - 1, 0, -1):
        draw = mix(state) >> np.uint64(32)
        other = np.int64((draw * np.uint64(place + 1)) >> np.uint64(32))
        kept = order[place]
        order[place] = order[other]
        order[other] = kept


def pack_words(bits: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Pack bits into words, first bit lowest, zeros behind the last one.

    Parameters
    ----------
    bits : (n,) ndarray of uint8
        One bit per element, each 0 or 1.

    Returns
    -------
    (ceil(n / 64),) ndarray of uint64
        The bits, 64 to a word.
    """
    packed = np.zeros(-(-bits.size // WORD_BITS) * 8, np.uint8)
    packed[: -(-bits.size // 8)] = np.packbits(bits, bitorder="little")
    return packed.view("<u8").astype(np.uint64, copy=False)


def unpack_words(words: NDArray[np.uint64], n_bits: int) -> NDArray[np.uint8]:
    """Return the first `n_bits` bits of packed words, one per element."""
    little = words.astype("<u8", copy=False).view(np.uint8)
    return np.unpackbits(little, count=n_bits, bitorder="little")

"""bitpack - small values to bits in 32-bit words and back, the first bit in the highest place."""

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def pack_bits(values: NDArray[np.uint8], n_bits: int, words: NDArray[np.uint32]) -> None:
    """Write each value's lowest bits one behind the other.

    Parameters
    ----------
    values : (n,) ndarray of uint8
        What to write, each below ``2**n_bits``.
    n_bits : int
        Bits of one value, 1 to 8.
    words : (ceil(n * n_bits / 32),) ndarray of uint32
        Receives the bits; the last word is filled up with zeros.
    """
    held = 0  # bits that wait in the accumulator, always fewer than 32
    accumulator = 0
    n_words = 0
    for i in range(values.size):
        accumulator = (accumulator << n_bits) | int(values[i])
        held += n_bits
        if held >= 32:
            held -= 32
            words[n_words] = accumulator >> held
            accumulator &= (1 << held) - 1
            n_words += 1
    if held:
        words[n_words] = accumulator << (32 - held)


@njit(cache=True, nogil=True)
def unpack_bits(words: NDArray[np.uint32], n_bits: int, values: NDArray[np.uint8]) -> None:
    """Read as many values as `values` has room for.

    Parameters
    ----------
    words : (m,) ndarray of uint32
        Packed bits, ``32 * m >= n * n_bits``.
    n_bits : int
        Bits of one value, 1 to 8.
    values : (n,) ndarray of uint8
        Receives the values.
    """
    held = 0
    accumulator = 0
    n_words = 0
    for i in range(values.size):
        if held < n_bits:
            accumulator = (accumulator << 32) | int(words[n_words])
            n_words += 1
            held += 32
        held -= n_bits
        values[i] = accumulator >> held
        accumulator &= (1 << held) - 1

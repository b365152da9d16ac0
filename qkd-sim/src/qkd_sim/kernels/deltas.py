"""deltas - the entries of packet types 2 and 4: short differences, and escapes for long ones.

One grammar serves both types. With a width of w bits and b bits of data, an
entry is ``value (w), data (b)`` if the value is below 2^w, else ``0 (w),
value (32), data (b)``. Value 1 with data 0 ends the stream; the last word is
filled up with zeros.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def encode_entries(
    values: NDArray[np.int64],
    data: NDArray[np.uint8],
    width_bits: int,
    base_bits: int,
    words: NDArray[np.uint32],
) -> int:
    """Write all entries and the end mark; return how many words were filled.

    Parameters
    ----------
    values : (n,) ndarray of int64
        Differences, each in ``2 .. 2**32 - 1``.
    data : (n,) ndarray of uint8
        What goes with each, below ``2**base_bits``.
    width_bits : int
        Bits of a short difference, ``2 <= width_bits <= 32 - base_bits``.
    base_bits : int
        Bits of data in each entry, 0 to 8.
    words : (m,) ndarray of uint32
        Receives the bits; large enough for all entries.

    Returns
    -------
    int
        Number of words filled.
    """
    short_bits = width_bits + base_bits
    width_mask = (1 << width_bits) - 1
    held = 0  # bits that wait in the accumulator, always fewer than 32
    accumulator = 0
    n_words = 0
    for i in range(values.size + 1):
        value = 1
        datum = 0
        if i < values.size:
            value = int(values[i])
            datum = int(data[i])
        if value >> width_bits:
            # zeros and the upper part of the value make exactly one word together
            accumulator = (accumulator << 32) | (value >> width_bits)
            words[n_words] = accumulator >> held
            accumulator &= (1 << held) - 1
            n_words += 1
        accumulator = (accumulator << short_bits) | ((value & width_mask) << base_bits) | datum
        held += short_bits
        if held >= 32:
            held -= 32
            words[n_words] = accumulator >> held
            accumulator &= (1 << held) - 1
            n_words += 1
    if held:
        words[n_words] = accumulator << (32 - held)
        n_words += 1
    return n_words


@njit(cache=True, nogil=True)
def decode_entries(
    words: NDArray[np.uint32],
    width_bits: int,
    base_bits: int,
    values: NDArray[np.int64],
    data: NDArray[np.uint8],
) -> tuple[int, int, int]:
    """Read entries until the end mark, at most as many as there is room for.

    Parameters
    ----------
    words : (m,) ndarray of uint32
        Packed entries; what lies behind the end mark's word isn't looked at.
    width_bits, base_bits : int
        As in `encode_entries`.
    values : (n,) ndarray of int64
        Receives the differences.
    data : (n,) ndarray of uint8
        Receives what goes with each.

    Returns
    -------
    n_entries : int
        How many entries were read.
    end_bit : int
        First bit behind the end mark's word; after a failure the first bit of
        the entry that is wrong.
    status : int
        0 well; 1 no end mark; 2 more than n entries; 3 end mark with data;
        4 a long entry that would have fitted a short one; 5 bits set behind
        the end mark.
    """
    short_bits = width_bits + base_bits
    base_mask = (1 << base_bits) - 1
    held = 0
    accumulator = 0
    n_words = 0
    n_entries = 0
    while True:
        start_bit = 32 * n_words - held
        if held < short_bits:
            if n_words == words.size:
                return n_entries, start_bit, 1
            accumulator = (accumulator << 32) | int(words[n_words])
            n_words += 1
            held += 32
        held -= short_bits
        value = (accumulator >> held) >> base_bits
        datum = (accumulator >> held) & base_mask
        accumulator &= (1 << held) - 1
        if value == 1:
            if datum:
                return n_entries, start_bit, 3
            return n_entries, 32 * n_words, 5 if accumulator else 0
        if value == 0:
            # what was taken for data are the first bits of the long value
            if n_words == words.size:
                return n_entries, start_bit, 1
            accumulator = (accumulator << 32) | int(words[n_words])
            n_words += 1
            value = (datum << (32 - base_bits)) | ((accumulator >> held) >> base_bits)
            datum = (accumulator >> held) & base_mask
            accumulator &= (1 << held) - 1
            if value >> width_bits == 0:
                return n_entries, start_bit, 4
        if n_entries == values.size:
            return n_entries, start_bit, 2
        values[n_entries] = value
        data[n_entries] = datum
        n_entries += 1

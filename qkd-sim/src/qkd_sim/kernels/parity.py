"""parity - parities of intervals of a packed key, and the bookkeeping that finds odd ones.

One *pass* of Cascade looks at the key in one order. What is known about a pass
is a bitmap of interval starts (bit ``n`` marks the end) and a bitmap that has a
one at the start of every interval whose parity differs from the other side's.
No trees: a known block of any size is a union of such intervals, so whatever a
correction changes, it changes exactly one interval of every pass.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from qkd_sim.kernels.bits import last_one, next_one, popcount


class Pass(NamedTuple):
    """What the correcting side knows about one pass over ``n`` bits in ``w`` words.

    Parameters
    ----------
    words : (w,) ndarray of uint64
        The key in the order of this pass.
    order : (n,) ndarray of int32
        Which bit of the key stands at each place.
    place : (n,) ndarray of int32
        At which place each bit of the key stands: the inverse of `order`.
    starts : (w + 1,) ndarray of uint64
        Bitmap of interval starts; bits 0 and ``n`` are one.
    odd : (w + 1,) ndarray of uint64
        Bitmap, one at the start of every interval whose parity differs.
    """

    words: NDArray[np.uint64]
    order: NDArray[np.int32]
    place: NDArray[np.int32]
    starts: NDArray[np.uint64]
    odd: NDArray[np.uint64]


@njit(cache=True, nogil=True)
def gather(words: NDArray[np.uint64], order: NDArray[np.int32], out: NDArray[np.uint64]) -> None:
    """Write the bits of `words` in another order: bit ``j`` of `out` is bit ``order[j]``."""
    for word in range(out.size):
        first = word << 6
        value = np.uint64(0)
        for bit in range(min(64, order.size - first)):
            source = np.int64(order[first + bit])
            value |= ((words[source >> 6] >> np.uint64(source & 63)) & np.uint64(1)) << np.uint64(
                bit
            )
        out[word] = value


@njit(cache=True, nogil=True)
def invert(order: NDArray[np.int32], place: NDArray[np.int32]) -> None:
    """Fill `place` with the inverse of the permutation `order`."""
    for index in range(order.size):
        place[order[index]] = index


@njit(cache=True, nogil=True)
def interval_parity(words: NDArray[np.uint64], start: int, end: int) -> np.uint8:
    """Return the parity of bits ``start .. end - 1``, at least one of them."""
    first = start >> 6
    last = (end - 1) >> 6
    head = ~np.uint64(0) << np.uint64(start & 63)
    tail = ~np.uint64(0) >> np.uint64(63 - ((end - 1) & 63))
    if first == last:
        return np.uint8(popcount(words[first] & head & tail) & 1)
    folded = words[first] & head
    for word in range(first + 1, last):
        folded ^= words[word]
    folded ^= words[last] & tail
    return np.uint8(popcount(folded) & 1)


@njit(cache=True, nogil=True)
def block_parities(
    words: NDArray[np.uint64], ends: NDArray[np.int64], out: NDArray[np.uint8]
) -> None:
    """Write the parity of each block; one ends before ``ends[b]``, where the next one starts."""
    start = 0
    for block in range(ends.size):
        out[block] = interval_parity(words, start, ends[block])
        start = ends[block]


@njit(cache=True, nogil=True)
def lower_parities(
    words: NDArray[np.uint64], intervals: NDArray[np.int64], out: NDArray[np.uint8]
) -> None:
    """Write the parity of the lower half of each interval.

    Parameters
    ----------
    words
        Packed key.
    intervals : (m, 2) ndarray of int64
        Starts and ends of intervals of at least two bits.
    out : (m,) ndarray of uint8
        Result.
    """
    for index in range(intervals.shape[0]):
        start = intervals[index, 0]
        middle = (start + intervals[index, 1]) >> 1
        out[index] = interval_parity(words, start, middle)


@njit(cache=True, nogil=True)
def narrow(intervals: NDArray[np.int64], branches: NDArray[np.uint8]) -> int:
    """Replace each interval by its lower half (branch 1) or its upper half (branch 0).

    Intervals that have come down to one bit are dropped; the others move up.

    Returns
    -------
    int
        How many intervals are left.
    """
    kept = 0
    for index in range(branches.size):
        start = intervals[index, 0]
        end = intervals[index, 1]
        middle = (start + end) >> 1
        if branches[index]:
            end = middle
        else:
            start = middle
        if end - start > 1:
            intervals[kept, 0] = start
            intervals[kept, 1] = end
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def mark_blocks(
    state: Pass,
    ends: NDArray[np.int64],
    parities: NDArray[np.uint8],
    odd: NDArray[np.int64],
) -> int:
    """Start a pass: mark where blocks start and which of them are odd.

    Parameters
    ----------
    state
        The pass; its bitmaps are empty.
    ends : (b,) ndarray of int64
        Where each block ends; the last one is ``n``.
    parities : (b,) ndarray of uint8
        The other side's parities.
    odd : (b,) ndarray of int64
        Result: starts of the odd blocks.

    Returns
    -------
    int
        How many blocks are odd.
    """
    n_odd = 0
    start = 0
    state.starts[0] |= np.uint64(1)
    for block in range(ends.size):
        end = ends[block]
        state.starts[end >> 6] |= np.uint64(1) << np.uint64(end & 63)
        if interval_parity(state.words, start, end) != parities[block]:
            state.odd[start >> 6] |= np.uint64(1) << np.uint64(start & 63)
            odd[n_odd] = start
            n_odd += 1
        start = end
    return n_odd


@njit(cache=True, nogil=True)
def take_odd(
    state: Pass, queued: NDArray[np.int64], intervals: NDArray[np.int64], found: NDArray[np.int64]
) -> tuple[int, int]:
    """Take the odd intervals among the queued starts out of the bitmap.

    Parameters
    ----------
    state
        The pass.
    queued : (q,) ndarray of int64
        Starts of intervals that became odd at some time.
    intervals : (q, 2) ndarray of int64
        Result: starts and ends of those of at least two bits.
    found : (q,) ndarray of int64
        Result: places of those of one bit.

    Returns
    -------
    tuple of int
        How many of either.
    """
    n_intervals = 0
    n_found = 0
    for index in range(queued.size):
        start = queued[index]
        bit = np.uint64(1) << np.uint64(start & 63)
        if state.odd[start >> 6] & bit == np.uint64(0):
            continue
        state.odd[start >> 6] ^= bit
        end = next_one(state.starts, start)
        if end - start == 1:
            found[n_found] = start
            n_found += 1
        else:
            intervals[n_intervals, 0] = start
            intervals[n_intervals, 1] = end
            n_intervals += 1
    return n_intervals, n_found


@njit(cache=True, nogil=True)
def compare_halves(
    words: NDArray[np.uint64],
    intervals: NDArray[np.int64],
    parities: NDArray[np.uint8],
    branches: NDArray[np.uint8],
    found: NDArray[np.int64],
) -> int:
    """Say for each odd interval which half is odd, from the other side's lower parities.

    Parameters
    ----------
    words
        Own key in the order of the pass.
    intervals : (m, 2) ndarray of int64
        Starts and ends of odd intervals of at least two bits.
    parities : (m,) ndarray of uint8
        The other side's parities of their lower halves.
    branches : (m,) ndarray of uint8
        Result: 1 where the lower half is the odd one.
    found : (m,) ndarray of int64
        Result: places of the halves that have one bit.

    Returns
    -------
    int
        How many places were found.
    """
    n_found = 0
    for index in range(parities.size):
        start = intervals[index, 0]
        end = intervals[index, 1]
        middle = (start + end) >> 1
        is_lower = interval_parity(words, start, middle) != parities[index]
        branches[index] = is_lower
        if is_lower:
            end = middle
        else:
            start = middle
        if end - start == 1:
            found[n_found] = start
            n_found += 1
    return n_found


@njit(cache=True, nogil=True)
def split(starts: NDArray[np.uint64], intervals: NDArray[np.int64]) -> None:
    """Mark the middle of each interval as the start of another."""
    for index in range(intervals.shape[0]):
        middle = (intervals[index, 0] + intervals[index, 1]) >> 1
        starts[middle >> 6] |= np.uint64(1) << np.uint64(middle & 63)


@njit(cache=True, nogil=True)
def flip(
    state: Pass, bits: NDArray[np.int32], is_found_here: bool, queued: NDArray[np.int64]
) -> int:
    """Flip bits of the key and, in every pass but the one that found them, their intervals.

    Parameters
    ----------
    state
        The pass to bring up to date.
    bits : (m,) ndarray of int32
        Which bits of the key were wrong.
    is_found_here
        Whether bisection in this pass found them: then its intervals are even already.
    queued : (m,) ndarray of int64
        Result: starts of intervals that became odd.

    Returns
    -------
    int
        How many intervals became odd.
    """
    n_queued = 0
    for index in range(bits.size):
        place = int(state.place[bits[index]])
        state.words[place >> 6] ^= np.uint64(1) << np.uint64(place & 63)
        if is_found_here:
            continue
        start = last_one(state.starts, place)
        bit = np.uint64(1) << np.uint64(start & 63)
        state.odd[start >> 6] ^= bit
        if state.odd[start >> 6] & bit != np.uint64(0):
            queued[n_queued] = start
            n_queued += 1
    return n_queued

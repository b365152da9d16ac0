"""correlate - two streams of times in, histograms and lists of their differences out."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["LINES_PER_AXIS", "count_lines", "count_pairs", "fold", "list_pairs"]

LINES_PER_AXIS = 5
"""`count_lines` tries so many offsets and so many slopes."""


@njit(cache=True, nogil=True)
def fold(ticks: NDArray[np.int64], shift: int, histogram: NDArray[np.float64]) -> None:
    """Count events by time in bins of 2^`shift` ticks, modulo the histogram's length.

    Parameters
    ----------
    ticks : (n,) ndarray of int64
        Times.
    shift
        Bits of the time to drop.
    histogram : (m,) ndarray of float64
        Counts, added to; m is a power of two.
    """
    mask = histogram.size - 1
    for i in range(ticks.size):
        histogram[(ticks[i] >> shift) & mask] += 1.0


@njit(cache=True, nogil=True)
def count_pairs(
    hec: NDArray[np.int64], lec: NDArray[np.int64], low: int, high: int, stride: int
) -> int:
    """Return how many differences ``lec - hec`` lie in ``low <= difference < high``.

    Parameters
    ----------
    hec, lec : (n,) and (m,) ndarray of int64
        Times in order.
    low, high
        Limits of the difference.
    stride
        Only every so-manieth event of `lec` is looked at.
    """
    first, behind, total = 0, 0, 0
    for j in range(0, lec.size, stride):
        while first < hec.size and lec[j] - hec[first] >= high:
            first += 1
        while behind < hec.size and lec[j] - hec[behind] >= low:
            behind += 1
        total += behind - first
    return total


@njit(cache=True, nogil=True)
def list_pairs(
    hec: NDArray[np.int64],
    lec: NDArray[np.int64],
    limits: tuple[int, int],
    stride: int,
    times: NDArray[np.int64],
    differences: NDArray[np.int64],
) -> None:
    """List the pairs that `count_pairs` counts.

    Parameters
    ----------
    hec, lec : (n,) and (m,) ndarray of int64
        Times in order.
    limits, stride
        As for `count_pairs`.
    times, differences : (k,) ndarray of int64
        Filled with the time in `hec` and the difference of each pair.
    """
    low, high = limits
    first, k = 0, 0
    for j in range(0, lec.size, stride):
        while first < hec.size and lec[j] - hec[first] >= high:
            first += 1
        i = first
        while i < hec.size and lec[j] - hec[i] >= low:
            times[k] = hec[i]
            differences[k] = lec[j] - hec[i]
            k += 1
            i += 1


@njit(cache=True, nogil=True)
def count_lines(
    x: NDArray[np.float64], residuals: NDArray[np.float64], half_width: float
) -> NDArray[np.int64]:
    """Count the points near each of 5 by 5 straight lines.

    Parameters
    ----------
    x, residuals : (n,) ndarray of float64
        Points.
    half_width
        A point belongs to a line if it is at most so far above or below it; also
        the step between lines, of the offset as of the slope.

    Returns
    -------
    (5, 5) ndarray of int64
        Counts by offset and slope, the middle one being the x axis.
    """
    counts = np.zeros((5, 5), np.int64)
    for k in range(x.size):
        for slope in range(5):
            place = (residuals[k] / half_width) - (slope - 2) * x[k] + 2.0
            first = max(0, math.ceil(place - 1.0))
            last = min(4, math.floor(place + 1.0))
            for offset in range(first, last + 1):
                counts[offset, slope] += 1
    return counts

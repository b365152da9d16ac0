"""offsetline - the differences around a candidate offset to a line of offset over time."""

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qkd_sim.kernels.correlate import LINES_PER_AXIS, count_lines, count_pairs, list_pairs

__all__ = ["OffsetLine", "Streams", "lines_per_bin", "log10_tail", "narrowed", "span_ticks"]

WINDOW_BINS: Final = 3
"""A difference that falls into one bin of folded times may be one bin off either way."""

MIN_HALF_WIDTH_TICKS: Final = 4
"""Half a nanosecond is less than most detectors' jitter."""

MAX_PAIRS: Final = 1 << 21
"""More differences than this say nothing new, and take long."""

MIN_FIT_SPAN: Final = 1e-3
"""Points nearer to each other in time say nothing about a slope."""


class Streams(NamedTuple):
    """Times of both sides in order, in ticks from the start of the first epoch."""

    hec: NDArray[np.int64]
    lec: NDArray[np.int64]


class OffsetLine(NamedTuple):
    """Offset as a straight line over time, -1/2 to 1/2 over the whole span; in ticks.

    `log10_p` is the logarithm of the probability that noise puts so many points
    near this line, `excess` how many there are more than noise puts there.
    """

    offset: float
    slope: float
    log10_p: float
    excess: float


def narrowed(streams: Streams, centre_ticks: int, bin_ticks: int) -> OffsetLine:
    """Narrow the offset down to the line that is least probable by chance.

    Every step halves the width of a line and the distance between lines, and
    keeps the one with the most points; the least probable of all widths is
    then fitted.

    Parameters
    ----------
    streams
        Times of both sides.
    centre_ticks, bin_ticks
        Candidate: the offset is less than `bin_ticks` away from `centre_ticks`,
        and drifts by less than that over the whole time.

    Returns
    -------
    OffsetLine
        The best line; of ``log10_p`` 0 if there is none.
    """
    x, y, stride = _points(streams, centre_ticks, bin_ticks)
    window_ticks, n_points = WINDOW_BINS * bin_ticks, x.size
    offset, slope = float(centre_ticks), 0.0
    best, best_width = OffsetLine(offset, slope, 0.0, 0.0), bin_ticks / 2
    half_width = bin_ticks / 2
    while half_width >= MIN_HALF_WIDTH_TICKS:
        residuals = y - offset - slope * x
        is_near = np.abs(residuals) <= 4 * half_width
        x, y, residuals = x[is_near], y[is_near], residuals[is_near]
        counts = count_lines(x, residuals, half_width)
        row, column = _most(counts)
        middle = LINES_PER_AXIS // 2
        offset += (row - middle) * half_width
        slope += (column - middle) * half_width
        count = int(counts[row, column])
        # one more than there are: no points elsewhere are no proof that there cannot be any
        expected = (n_points - count + 1) * 2 * half_width / (window_ticks - 2 * half_width)
        log10_p = log10_tail(count, expected)
        if log10_p < best.log10_p:
            best = OffsetLine(offset, slope, log10_p, stride * (count - expected))
            best_width = half_width
        half_width /= 2
    return _fitted(best, x, y, 2 * best_width)


def lines_per_bin(bin_ticks: int) -> float:
    """Return how many lines that differ by their width `narrowed` may look at."""
    n_offsets = WINDOW_BINS * bin_ticks / MIN_HALF_WIDTH_TICKS
    n_slopes = 2 * bin_ticks / MIN_HALF_WIDTH_TICKS
    return n_offsets * n_slopes


def _points(
    streams: Streams, centre_ticks: int, bin_ticks: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """List the differences around a candidate over time; if they are too many, one in so many."""
    low = centre_ticks - WINDOW_BINS * bin_ticks // 2
    high = centre_ticks + WINDOW_BINS * bin_ticks // 2
    n_pairs = count_pairs(streams.hec, streams.lec, low, high, 1)
    stride = max(1, -(-n_pairs // MAX_PAIRS))
    n_pairs = count_pairs(streams.hec, streams.lec, low, high, stride)
    times, differences = np.empty(n_pairs, np.int64), np.empty(n_pairs, np.int64)
    list_pairs(streams.hec, streams.lec, (low, high), stride, times, differences)
    x = (times - _middle_ticks(streams)) / span_ticks(streams)
    return x, differences.astype(np.float64), stride


def _fitted(
    line: OffsetLine, x: NDArray[np.float64], y: NDArray[np.float64], width: float
) -> OffsetLine:
    """Fit a straight line to the points within `width` ticks of a line."""
    offset, slope = line.offset, line.slope
    for _ in range(2):
        is_near = np.abs(y - offset - slope * x) <= width
        if np.count_nonzero(is_near) < 3 or np.ptp(x[is_near]) < MIN_FIT_SPAN:
            return line
        slope, offset = (float(value) for value in np.polyfit(x[is_near], y[is_near], 1))
    return line._replace(offset=offset, slope=slope)


def _most(counts: NDArray[np.int64]) -> tuple[int, int]:
    """Return where the most points are; among equals, nearest to the middle."""
    away = np.arange(LINES_PER_AXIS) - LINES_PER_AXIS // 2
    distance = away[:, None] ** 2 + away[None, :] ** 2
    row, column = np.unravel_index(np.argmax(counts - distance / 100.0), counts.shape)
    return int(row), int(column)


def log10_tail(count: int, expected: float) -> float:
    """Return log10 of the Poisson probability of at least `count`; exact far below 1e-308."""
    if count <= expected or expected <= 0.0:
        return 0.0
    log_first = count * math.log(expected) - expected - math.lgamma(count + 1)
    total, term, k = 1.0, 1.0, count
    while term > 1e-17 * total:
        k += 1
        term *= expected / k
        total += term
    return min(0.0, (log_first + math.log(total)) / math.log(10))


def span_ticks(streams: Streams) -> int:
    """Return from when to when there are events of the high-count side."""
    return max(1, int(streams.hec[-1] - streams.hec[0]))


def _middle_ticks(streams: Streams) -> float:
    """Return the middle of that time."""
    return (int(streams.hec[0]) + int(streams.hec[-1])) / 2

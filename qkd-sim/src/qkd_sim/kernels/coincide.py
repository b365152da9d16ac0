"""coincide - two streams of times in, pairs within a window out; two pointers, clock tracked."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["HEC_USED_UP", "LEC_USED_UP", "PROGRESS", "Windows", "coincide"]

HEC_USED_UP = 1
LEC_USED_UP = 2

PROGRESS = np.dtype(
    [
        ("hec_next", np.int64),
        ("lec_next", np.int64),
        ("hec_ticks", np.int64),
        ("lec_ticks", np.int64),
        ("hec_pattern", np.int64),
        ("hec_is_used", np.int64),
        ("lec_is_used", np.int64),
        ("filter", np.int64),
        ("last_tracked_ticks", np.int64),
        ("n_pairs", np.int64),
        ("n_accidentals", np.int64),
    ],
    align=True,
)
"""Where the search stands. `hec_next` and `lec_next` are positions in the arrays at
hand; the times, whether they are used up, and the tracking filter (in 1/4096 tick)
carry over from epoch to epoch, as does the time of the last pair that steered the
clock (long ago before the first); `n_pairs` and `n_accidentals` count up."""


class Windows(NamedTuple):
    """What counts as a coincidence, in ticks of 125 ps.

    `offset_ticks` is the low-count side's clock less the other at the start.
    Differences within `window_ticks` are coincidences, those up to
    `tracking_ticks` steer the clock, those around `accidental_ticks` tell how many
    are accidental. `gain` is the tracking filter's weight of one difference in
    1/4096; or, if it is 0, differences are weighted with the time since the one
    before, over `divisor`, if that is below `max_gap_ticks`; `divisor` 0 is no
    tracking.
    """

    offset_ticks: int
    window_ticks: int
    tracking_ticks: int
    accidental_ticks: int
    gain: int
    divisor: int
    max_gap_ticks: int


@njit(cache=True, nogil=True)
def _truncated(dividend: int, divisor: int) -> int:
    """Return a quotient rounded towards zero, for a divisor above 0."""
    if dividend < 0:
        return -(-dividend // divisor)
    return dividend // divisor


@njit(cache=True, nogil=True)
def _correction(windows: Windows, difference: int, elapsed_ticks: int) -> int:
    """Return what one time difference adds to the tracking filter, in 1/4096 tick."""
    if windows.gain > 0:
        return difference * windows.gain
    if windows.divisor > 0 and elapsed_ticks < windows.max_gap_ticks:
        return _truncated(2 * difference * elapsed_ticks, windows.divisor)
    return 0


@njit(cache=True, nogil=True)
def _use(
    windows: Windows,
    progress: np.recarray,
    difference: int,
    events: tuple[np.int64, np.int64, np.int64],
    pairs: tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]],
) -> None:
    """Count and keep a pair, and let it steer the clock, each if it is near enough.

    `events` are time and pattern on the high-count side, position on the other.
    """
    at = progress[0]
    hec, hec_pattern, lec_index = events
    patterns, indices, differences = pairs
    if difference > windows.accidental_ticks - 2 * windows.window_ticks:
        at.n_accidentals += 1
    if -windows.window_ticks < difference < windows.window_ticks:
        patterns[at.n_pairs] = hec_pattern
        indices[at.n_pairs] = lec_index
        differences[at.n_pairs] = difference
        at.n_pairs += 1
    if difference < windows.tracking_ticks:
        at.filter += _correction(windows, difference, hec - at.last_tracked_ticks)
        at.last_tracked_ticks = hec


@njit(cache=True, nogil=True)
def coincide(
    windows: Windows,
    progress: np.recarray,
    hec_ticks: NDArray[np.int64],
    hec_patterns: NDArray[np.uint8],
    lec_ticks: NDArray[np.int64],
    pairs: tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]],
) -> int:
    """Pair events until one of the two arrays is used up.

    Every pair of events that is close enough to be looked at is used up, also if
    it turns out to be no coincidence, so an event is never in two pairs.

    Parameters
    ----------
    windows
        What counts as a coincidence.
    progress : (1,) recarray of PROGRESS
        Where the search stands, updated.
    hec_ticks : (n,) ndarray of int64
        Times of the high-count side; those not above their predecessor are skipped.
    hec_patterns : (n,) ndarray of uint8
        Its detector patterns.
    lec_ticks : (m,) ndarray of int64
        Times of the low-count side, in order.
    pairs
        Room for at least m pairs, filled from ``n_pairs`` on: pattern of the
        high-count side, position in `lec_ticks`, and time difference in ticks
        after tracking (high-count side less low-count side).

    Returns
    -------
    int
        HEC_USED_UP or LEC_USED_UP: which array must be replaced by its successor.
    """
    at = progress[0]
    hec_next, lec_next = at.hec_next, at.lec_next
    hec, lec, hec_pattern = at.hec_ticks, at.lec_ticks, at.hec_pattern
    hec_is_used, lec_is_used = at.hec_is_used != 0, at.lec_is_used != 0
    shift = windows.offset_ticks - _truncated(at.filter, 4096)
    result = 0
    while result == 0:
        difference = hec - lec + shift
        if hec_is_used or (not lec_is_used and difference < -windows.tracking_ticks):
            if hec_next == hec_ticks.size:
                result = 1
                continue
            if hec_ticks[hec_next] > hec:
                hec = hec_ticks[hec_next]
                hec_pattern = np.int64(hec_patterns[hec_next])
                hec_is_used = False
            hec_next += 1
        elif lec_is_used or difference > windows.accidental_ticks:
            if lec_next == lec_ticks.size:
                result = 2
                continue
            lec = lec_ticks[lec_next]
            lec_next += 1
            lec_is_used = False
        else:
            hec_is_used = lec_is_used = True
            _use(windows, progress, difference, (hec, hec_pattern, lec_next - 1), pairs)
            shift = windows.offset_ticks - _truncated(at.filter, 4096)
    at.hec_next, at.lec_next = hec_next, lec_next
    at.hec_ticks, at.lec_ticks, at.hec_pattern = hec, lec, hec_pattern
    at.hec_is_used, at.lec_is_used = np.int64(hec_is_used), np.int64(lec_is_used)
    return result

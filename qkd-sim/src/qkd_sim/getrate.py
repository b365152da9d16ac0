"""getrate - raw events to count rates: how many fall into each stretch of time."""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kme.errors import InputError
from kme.units import TICKS_PER_EPOCH
from qkd_sim.detectors import containing_counts, count_patterns, exact_counts, n_clicks
from qkd_sim.events import Events, unwrap_ticks

DEFAULT_WINDOW_TICKS: Final = TICKS_PER_EPOCH
MAX_EMPTY_WINDOWS: Final = 1_000_000
"""A longer silence is taken for a clock that jumped, or a window far too short."""


def count_windows(
    chunks: Iterable[Events], window_ticks: int = DEFAULT_WINDOW_TICKS
) -> Iterator[NDArray[np.int64]]:
    """Count events by pattern in windows that follow each other from the first event on.

    The first event starts the clock and isn't counted. An event exactly at the
    end of a window belongs to it. One that is late is counted in the window
    that is open. A window is handed over when an event beyond it was seen, so
    the last one, cut off by the end of the stream, is not.

    Parameters
    ----------
    chunks
        The stream, see `qkd_sim.events.read_chunks`.
    window_ticks
        Length of a window in ticks of 125 ps.

    Yields
    ------
    (16,) ndarray of int64
        Number of events by pattern, of one window; zeros where there are none.

    Raises
    ------
    InputError
        If the window isn't longer than nothing, or a million follow each other
        without an event.
    EpochFileError
        If `chunks` raises it.
    """
    if window_ticks <= 0:
        raise InputError(f"window is {window_ticks} ticks, must be 1 or more")
    open_counts = count_patterns(np.empty(0, np.uint8))
    open_window = 0
    since_start = np.empty(0, np.int64)  # last event: recorded time, ticks since the first one
    for chunk in chunks:
        patterns = chunk.patterns if since_start.size else chunk.patterns[1:]
        times, since_start = _continue_time(chunk, since_start)
        windows = np.maximum.accumulate(np.maximum((times - 1) // window_ticks, open_window))
        for window, members in _runs(windows):
            if window - open_window > MAX_EMPTY_WINDOWS:
                raise InputError(
                    f"no event for {window - open_window} windows of {window_ticks} ticks:"
                    " the clock jumped, or the window is too short"
                )
            for _ in range(window - open_window):
                yield open_counts
                open_counts = np.zeros_like(open_counts)
            open_window = window
            open_counts = open_counts + count_patterns(patterns[members])


def rate_columns(
    counts: NDArray[np.int64], n_detectors: int, *, with_coincidences: bool
) -> list[int]:
    """Return what one line says: events with a detector, then by detector.

    Parameters
    ----------
    counts : (16,) ndarray of int64
        Number of events by pattern.
    n_detectors
        0 for the total only, 4, 6 or 8.
    with_coincidences
        Whether a coincidence counts for each detector in it.
    """
    by_detector = containing_counts if with_coincidences else exact_counts
    return [n_clicks(counts), *by_detector(counts, n_detectors)]


def _continue_time(
    chunk: Events, last: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return times since the very first event, without that event; and what the next chunk needs.

    Parameters
    ----------
    chunk
        Not empty.
    last : (2,) or (0,) ndarray of int64
        Recorded time of the last event before, and the same since the first
        event; empty if there was none.
    """
    recorded = chunk.times_ticks
    before, since_first = (recorded[0], 0) if not last.size else last
    times = unwrap_ticks(np.concatenate(([before], recorded))) - before + since_first
    times = times[1:] if last.size else times[2:]
    last_time = times[-1] if times.size else since_first
    return times, np.array([recorded[-1], last_time], np.int64)


def _runs(windows: NDArray[np.int64]) -> Iterator[tuple[int, slice]]:
    """Return each window's number and where its events stand; numbers never fall."""
    borders = np.flatnonzero(np.diff(windows)) + 1
    starts = [0, *borders.tolist(), windows.size]
    for start, end in pairwise(starts):
        if start < end:
            yield int(windows[start]), slice(start, end)

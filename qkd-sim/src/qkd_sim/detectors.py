"""detectors - how often each detector clicked, as the chain's logs count it."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qkd_sim.protocols import N_PATTERNS, PATTERN_MASK

DETECTOR_PATTERNS: Final = (1, 2, 4, 8, 3, 6, 12, 9)
"""Patterns of detectors 1 to 8; from the fifth on they share lines with others."""

_FOUR: Final = 4


def count_patterns(patterns: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return how many events there are of each pattern of four lines.

    Parameters
    ----------
    patterns : (n,) ndarray of uint8
        Patterns as recorded; bits above the lowest four are not looked at.

    Returns
    -------
    (16,) ndarray of int64
        Number of events by pattern.
    """
    return np.bincount(patterns & PATTERN_MASK, minlength=N_PATTERNS).astype(np.int64)


def exact_counts(counts: NDArray[np.int64], n_detectors: int) -> list[int]:
    """Return for each detector how many events are its pattern and nothing else.

    Parameters
    ----------
    counts : (16,) ndarray of int64
        Number of events by pattern.
    n_detectors
        4, 6 or 8.
    """
    return [int(counts[pattern]) for pattern in DETECTOR_PATTERNS[:n_detectors]]


def containing_counts(counts: NDArray[np.int64], n_detectors: int) -> list[int]:
    """Return for each detector how many events contain its pattern, coincidences included.

    Parameters
    ----------
    counts : (16,) ndarray of int64
        Number of events by pattern.
    n_detectors
        4, 6 or 8.
    """
    patterns = np.arange(N_PATTERNS)
    return [
        int(counts[patterns & pattern == pattern].sum())
        for pattern in DETECTOR_PATTERNS[:n_detectors]
    ]


def n_clicks(counts: NDArray[np.int64]) -> int:
    """Return how many events have at least one detector."""
    return int(counts[1:].sum())


def log_columns(counts: NDArray[np.int64], n_detectors: int) -> list[int]:
    """Return the total and the counts by detector as both choppers log them.

    Parameters
    ----------
    counts : (16,) ndarray of int64
        Number of events by pattern.
    n_detectors
        4: events with a detector, then those that contain each; 6: all
        events, then those that are exactly each.
    """
    if n_detectors == _FOUR:
        return [n_clicks(counts), *containing_counts(counts, n_detectors)]
    return [int(counts.sum()), *exact_counts(counts, n_detectors)]

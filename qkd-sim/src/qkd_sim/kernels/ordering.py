"""ordering - which events of a stream stand where time allows them to."""

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def judge_events(
    times_ticks: NDArray[np.int64],
    max_gap_ticks: int,
    max_strays: int,
    memory: NDArray[np.int64],
    verdicts: NDArray[np.uint8],
) -> int:
    """Judge events one by one; stop at the first that is one stray too many.

    An event is taken (verdict 0) unless it follows its predecessor by more
    than `max_gap_ticks` (1), lies more than one epoch away from the last event
    that was taken (2, a stray) or is earlier than that event (3).

    Parameters
    ----------
    times_ticks : (n,) ndarray of int64
        Times of 49 bits, which wrap.
    max_gap_ticks : int
        Longest step from the event before, taken or not; 0 allows any.
    max_strays : int
        How many strays are put up with before an epoch ends well.
    memory : (3,) ndarray of int64
        Carried from call to call: time of the last event taken, time of the
        last event, number of strays. At first -1, -1, 0.
    verdicts : (n,) ndarray of uint8
        Receives what is thought of each event.

    Returns
    -------
    int
        Index of the stray that is too much, or -1.
    """
    time_mask = (1 << 49) - 1
    time_half = 1 << 48
    epoch_mask = (1 << 17) - 1
    epoch_half = 1 << 16
    last_taken, last_seen, n_strays = int(memory[0]), int(memory[1]), int(memory[2])
    failed_at = -1
    for i in range(times_ticks.size):
        time = int(times_ticks[i])
        if last_taken < 0:
            last_taken = last_seen = time
        since_seen = ((time - last_seen + time_half) & time_mask) - time_half
        since_taken = ((time - last_taken + time_half) & time_mask) - time_half
        n_epochs = (time >> 32) - (last_taken >> 32)
        n_epochs = ((n_epochs + epoch_half) & epoch_mask) - epoch_half
        last_seen = time
        if max_gap_ticks > 0 and since_seen > max_gap_ticks:
            verdicts[i] = 1
        elif n_epochs > 1 or n_epochs < -1:
            verdicts[i] = 2
            n_strays += 1
            if n_strays > max_strays:
                failed_at = i
                break
        elif since_taken < 0:
            verdicts[i] = 3
        else:
            verdicts[i] = 0
            last_taken = time
            if n_epochs == 1:
                n_strays = 0
    memory[0], memory[1], memory[2] = last_taken, last_seen, n_strays
    return failed_at

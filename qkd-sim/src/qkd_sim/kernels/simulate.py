"""simulate - photon pairs and dark counts in, clicks of four detectors per side out, in order.

Two steps, each resumable. `emit` draws detected photons and dark counts: what no
detector sees is never generated (a thinned Poisson process is a Poisson process).
`detect` turns one side's candidates into events: dead time, afterpulses, patterns.

Detectors are numbered 0 to 3 = V, -, H, + (pattern ``1 << number``): bit 0 is the
basis (0 = H/V, 1 = +/-), bit 1 the outcome. A pair is anti-correlated: the partner
of detector k is k ^ 2.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["Detection", "Emission", "begin", "detect", "emit", "next_word", "uniform"]


class Emission(NamedTuple):
    """What `emit` must know; times in ticks of the high-count side's clock, from the start.

    `pair_rate` counts pairs per tick of which at least one photon is detected; if
    `slot_ticks` is above 0, pairs start at its multiples instead, and `log_miss` is
    the logarithm of the probability that a pair goes undetected. `only_hec` and
    `only_lec` are the probabilities that a detected pair is seen on one side alone.
    `error_hv` and `error_diagonal` are error probabilities of the two bases. Dark
    rates are per tick and side, `sigma` is the jitter's standard deviation in ticks.
    `lec_drift` is relative.
    """

    pair_rate: float
    slot_ticks: float
    log_miss: float
    only_hec: float
    only_lec: float
    error_hv: float
    error_diagonal: float
    intercepted: float
    hec_dark_rate: float
    lec_dark_rate: float
    hec_sigma: float
    lec_sigma: float
    hec_offset_ticks: float
    lec_offset_ticks: float
    lec_drift: float
    end_ticks: float


class Detection(NamedTuple):
    """What `detect` must know of one side; times in ticks."""

    dead_ticks: int
    merge_ticks: int
    afterpulse_probability: float
    afterpulse_decay_ticks: float


@njit(cache=True, nogil=True)
def next_word(state: NDArray[np.uint64]) -> np.uint64:
    """Return the next 64 random bits of xoshiro256++ and step its state of 4 words.

    References
    ----------
    .. [1] D. Blackman, S. Vigna, "Scrambled linear pseudorandom number generators",
       ACM Trans. Math. Softw. 47 (2021), arXiv:1805.01407.
    """
    total = state[0] + state[3]
    word: np.uint64 = ((total << np.uint64(23)) | (total >> np.uint64(41))) + state[0]
    shifted = state[1] << np.uint64(17)
    state[2] ^= state[0]
    state[3] ^= state[1]
    state[1] ^= state[2]
    state[0] ^= state[3]
    state[2] ^= shifted
    state[3] = (state[3] << np.uint64(45)) | (state[3] >> np.uint64(19))
    return word


@njit(cache=True, nogil=True)
def uniform(state: NDArray[np.uint64]) -> float:
    """Return a random number above 0 and up to 1, of 53 bits."""
    return np.float64((next_word(state) >> np.uint64(11)) + np.uint64(1)) * 2.0**-53


@njit(cache=True, nogil=True)
def _wait(rate: float, state: NDArray[np.uint64]) -> float:
    """Return the time to the next event of a Poisson process, infinite at rate 0."""
    if rate <= 0.0:
        return math.inf
    return -math.log(uniform(state)) / rate


@njit(cache=True, nogil=True)
def _wait_pair(model: Emission, state: NDArray[np.uint64]) -> float:
    """Return the time from one detected pair to the next."""
    if model.slot_ticks <= 0.0 or model.pair_rate <= 0.0:
        return _wait(model.pair_rate, state)
    return model.slot_ticks * (1.0 + math.floor(math.log(uniform(state)) / model.log_miss))


@njit(cache=True, nogil=True)
def _insert(
    times: NDArray[np.int64],
    detectors: NDArray[np.uint8],
    n: int,
    time: np.int64,
    detector: np.int64,
) -> None:
    """Put a click behind the first `n`, which are in order, and keep the order."""
    place = n
    while place > 0 and times[place - 1] > time:
        times[place] = times[place - 1]
        detectors[place] = detectors[place - 1]
        place -= 1
    times[place] = time
    detectors[place] = detector


@njit(cache=True, nogil=True)
def _partner(
    model: Emission, hec: np.int64, word: np.uint64, state: NDArray[np.uint64]
) -> np.int64:
    """Return the detector that clicks on the low-count side when `hec` does on the other.

    Bits 2 to 4 of `word` are the basis, an outcome at random, and the basis of an
    eavesdropper. Who resends in the wrong basis leaves the outcome to chance.
    """
    basis = np.int64((word >> np.uint64(2)) & np.uint64(1))
    chance = np.int64((word >> np.uint64(3)) & np.uint64(1))
    eve_basis = np.int64((word >> np.uint64(4)) & np.uint64(1))
    if basis != hec & 1:
        return basis | chance << 1
    if model.intercepted > 0.0 and uniform(state) <= model.intercepted and eve_basis != basis:
        return basis | chance << 1
    error = model.error_diagonal if basis else model.error_hv
    if error > 0.0 and uniform(state) <= error:
        return hec
    return hec ^ 2


@njit(cache=True, nogil=True)
def _jitter(state: NDArray[np.uint64]) -> tuple[float, float]:
    """Return two normal deviates of mean 0, deviation 1, none beyond 6 (Box and Muller)."""
    while True:
        radius = math.sqrt(-2.0 * math.log(uniform(state)))
        if radius <= 6.0:
            angle = 2.0 * math.pi * uniform(state)
            return radius * math.cos(angle), radius * math.sin(angle)


@njit(cache=True, nogil=True)
def _draw(
    model: Emission, state: NDArray[np.uint64], clock: NDArray[np.float64]
) -> tuple[np.int64, np.int64]:
    """Say which detector clicks on either side, -1 for none, and step the clock that was due."""
    word = next_word(state)
    hec = np.int64(word & np.uint64(3))
    lec = np.int64((word >> np.uint64(2)) & np.uint64(3))
    now = min(clock[1], clock[2], clock[3])
    if now == clock[1]:
        clock[1] += _wait_pair(model, state)
        which = np.float64(word >> np.uint64(11)) * 2.0**-53
        if which < model.only_lec:
            return np.int64(-1), lec
        if which < model.only_lec + model.only_hec:
            return hec, np.int64(-1)
        return hec, _partner(model, hec, word, state)
    if now == clock[2]:
        clock[2] += _wait(model.hec_dark_rate, state)
        return hec, np.int64(-1)
    clock[3] += _wait(model.lec_dark_rate, state)
    return np.int64(-1), lec


@njit(cache=True, nogil=True)
def begin(model: Emission, state: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Draw the first pair and dark counts: the clock from which `emit` starts."""
    clock = np.zeros(4)
    clock[1] = _wait_pair(model, state)
    clock[2] = _wait(model.hec_dark_rate, state)
    clock[3] = _wait(model.lec_dark_rate, state)
    return clock


@njit(cache=True, nogil=True)
def emit(
    model: Emission,
    state: NDArray[np.uint64],
    clock: NDArray[np.float64],
    hec: tuple[NDArray[np.int64], NDArray[np.uint8]],
    lec: tuple[NDArray[np.int64], NDArray[np.uint8]],
    fill: NDArray[np.int64],
) -> bool:
    """Draw clicks until a buffer is full or the run is over.

    Parameters
    ----------
    model
        Rates and probabilities.
    state : (4,) ndarray of uint64
        Generator, stepped.
    clock : (4,) ndarray of float64
        Time base, a multiple of 2^32 ticks; next pair, next dark count of the
        high-count side and of the low-count side, in ticks behind it. Updated.
    hec, lec
        Buffers of each side: (m,) ndarray of int64 times in ticks of that side's
        own clock, in order; (m,) ndarray of uint8 detectors 0 to 3.
    fill : (2,) ndarray of int64
        How much of each buffer is in use, updated.

    Returns
    -------
    bool
        Whether the run is over.
    """
    hec_jitter, lec_jitter = 0.0, 0.0
    while fill[0] < hec[0].size and fill[1] < lec[0].size:
        now = min(clock[1], clock[2], clock[3])
        if clock[0] + min(now, 4294967296.0) >= model.end_ticks:
            return True
        if now >= 4294967296.0:
            clock[0] += 4294967296.0
            clock[1:] -= 4294967296.0
            continue
        hec_detector, lec_detector = _draw(model, state, clock)
        if model.hec_sigma > 0.0 or model.lec_sigma > 0.0:
            hec_jitter, lec_jitter = _jitter(state)
        if hec_detector >= 0:
            shift = model.hec_offset_ticks + model.hec_sigma * hec_jitter
            time = np.int64(clock[0]) + np.int64(math.floor(now + shift))
            _insert(hec[0], hec[1], fill[0], time, hec_detector)
            fill[0] += 1
        if lec_detector >= 0:
            shift = model.lec_offset_ticks + model.lec_drift * (clock[0] + now)
            shift += model.lec_sigma * lec_jitter
            time = np.int64(clock[0]) + np.int64(math.floor(now + shift))
            _insert(lec[0], lec[1], fill[1], time, lec_detector)
            fill[1] += 1
    return False


@njit(cache=True, nogil=True)
def _afterpulse(
    model: Detection, random_state: NDArray[np.uint64], time: np.int64, pending: np.int64
) -> np.int64:
    """Return when a detector that clicks at `time` clicks again by itself, else `pending`."""
    if model.afterpulse_probability <= 0.0:
        return pending
    if uniform(random_state) > model.afterpulse_probability:
        return pending
    wait = -math.log(uniform(random_state)) * model.afterpulse_decay_ticks
    return time + model.dead_ticks + 1 + np.int64(wait)


@njit(cache=True, nogil=True)
def _first_afterpulse(state: NDArray[np.int64]) -> np.int64:
    """Return the detector that is the first to afterpulse."""
    first = np.int64(0)
    for detector in range(1, 4):
        if state[4 + detector] < state[4 + first]:
            first = np.int64(detector)
    return first


@njit(cache=True, nogil=True)
def detect(
    model: Detection,
    random_state: NDArray[np.uint64],
    state: NDArray[np.int64],
    clicks: tuple[NDArray[np.int64], NDArray[np.uint8]],
    limit_ticks: int,
    events: tuple[NDArray[np.int64], NDArray[np.uint8]],
) -> tuple[int, int]:
    """Turn candidates of one side into events until they or the room for events end.

    Parameters
    ----------
    model
        Dead time, afterpulses, merging.
    random_state : (4,) ndarray of uint64
        Generator, stepped.
    state : (10,) ndarray of int64
        Last click of each detector (4); when each will afterpulse (4), 2^62 for
        never; time and pattern of the event that may still grow. Updated.
    clicks
        (n,) ndarray of int64 times in order, and (n,) ndarray of uint8 detectors.
    limit_ticks
        Every candidate earlier than this is among `clicks`, none later.
    events
        Room for times, (m,) ndarray of int64, and patterns, (m,) ndarray of uint8.

    Returns
    -------
    n_used : int
        How many clicks were used up.
    n_events : int
        How many events were written.
    """
    times, detectors = clicks
    event_times, event_patterns = events
    i, n_events = 0, 0
    while n_events < event_times.size:
        detector = _first_afterpulse(state)
        time = state[4 + detector]
        if i < times.size and times[i] <= time:
            time = times[i]
            detector = np.int64(detectors[i])
            i += 1
        elif time < limit_ticks:
            state[4 + detector] = 1 << 62
        else:
            break
        if time - state[detector] < model.dead_ticks:
            continue
        state[detector] = time
        state[4 + detector] = _afterpulse(model, random_state, time, state[4 + detector])
        if state[9] and time - state[8] <= model.merge_ticks:
            state[9] |= 1 << detector
            continue
        if state[9]:
            event_times[n_events] = state[8]
            event_patterns[n_events] = state[9]
            n_events += 1
        state[8] = time
        state[9] = 1 << detector
    return i, n_events

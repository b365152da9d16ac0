"""esim - event simulator: pairs, fibre, detectors and clocks to two streams of events."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kme.files import TEMPORARY_PREFIX, sync_directory
from kme.units import TICKS_PER_NS
from qkd_sim.errors import InputError
from qkd_sim.events import TIME_PERIOD_TICKS, Events
from qkd_sim.kernels.simulate import Detection, Emission, begin, detect, emit
from qkd_sim.params import Detectors, Scenario

__all__ = ["Chunk", "simulate", "simulate_chunks", "write_events"]

TICKS_PER_SECOND: Final = 8e9
FWHM_PER_SIGMA: Final = 2.0 * math.sqrt(2.0 * math.log(2.0))
JITTER_SIGMAS: Final = 6.0
"""No jitter is farther out than this: what lies before it is in its final order."""

N_DETECTORS: Final = 4
CANDIDATES_PER_CHUNK: Final = 1 << 17
MIN_CANDIDATES: Final = 1000
NEVER: Final = 1 << 62


class Chunk(NamedTuple):
    """Events of both sides from about the same stretch of time."""

    hec: Events
    lec: Events


def simulate(scenario: Scenario, start_time_ns: int, seed: int) -> Chunk:
    """Simulate a whole run at once.

    Parameters
    ----------
    scenario
        Source, channels, detectors, clocks, and how long.
    start_time_ns
        Unix time at which the run starts, in nanoseconds.
    seed
        Where all randomness comes from, not negative: the same seed gives the
        same events.

    Returns
    -------
    Chunk
        Events of the high-count and the low-count side, each in order, times in
        ticks of 125 ps of that side's own clock, low 49 bits.

    See Also
    --------
    simulate_chunks : The same events in bounded memory.

    Examples
    --------
    >>> from qkd_sim.params import Run, Source
    >>> scenario = Scenario(Source(pair_rate_hz=1e4, is_uniform=True), Run(duration_s=0.001))
    >>> hec, lec = simulate(scenario, start_time_ns=0, seed=1)
    >>> hec.times_ticks[:3]
    array([ 800000, 1600000, 2400000])
    """
    chunks = list(simulate_chunks(scenario, start_time_ns, seed))
    return Chunk(
        Events.concatenate(chunk.hec for chunk in chunks),
        Events.concatenate(chunk.lec for chunk in chunks),
    )


def simulate_chunks(
    scenario: Scenario,
    start_time_ns: int,
    seed: int,
    *,
    candidates_per_chunk: int = CANDIDATES_PER_CHUNK,
    is_endless: bool = False,
) -> Iterator[Chunk]:
    """Simulate a run piece by piece, in memory that doesn't grow with its duration.

    Parameters
    ----------
    scenario, start_time_ns, seed
        As for `simulate`.
    candidates_per_chunk
        How many clicks per side are drawn for one piece, at most (but never so few
        that jitter could keep them all waiting); the events don't depend on it.
    is_endless
        Go on for ever, whatever duration the scenario says.

    Yields
    ------
    Chunk
        Next events of both sides. Joined together they are what `simulate` returns.

    Notes
    -----
    Photons of one pair reach the two sides' files with the offset and the drift
    of the low-count side's clock and the delays of the two channels. An
    intercepted photon is measured in a random basis and resent: if that is the
    wrong one, the outcome on the low-count side is random, which makes errors of
    a quarter of the intercepted fraction [1]_.

    References
    ----------
    .. [1] C. H. Bennett et al., "Experimental quantum cryptography",
       J. Cryptology 5 (1992), section 3.
    """
    pair_state, hec_state, lec_state = (
        item.generate_state(4, np.uint64).astype(np.uint64)
        for item in np.random.SeedSequence(seed).spawn(3)
    )
    model = _emission(scenario)
    if is_endless:
        model = model._replace(end_ticks=math.inf)
    start_ticks = start_time_ns * TICKS_PER_NS % TIME_PERIOD_TICKS
    n_candidates = max(candidates_per_chunk, _least_candidates(model))
    hec = _Receiver(scenario.hec.detectors, hec_state, start_ticks, n_candidates)
    lec = _Receiver(scenario.lec.detectors, lec_state, start_ticks, n_candidates)
    clock = begin(model, pair_state)
    is_over = False
    while not is_over:
        fill = np.array([hec.n_held, lec.n_held])
        is_over = emit(model, pair_state, clock, hec.candidates, lec.candidates, fill)
        now = model.end_ticks if is_over else clock[0] + clock[1:].min()
        hec_now = now + model.hec_offset_ticks
        lec_now = now * (1.0 + model.lec_drift) + model.lec_offset_ticks
        yield Chunk(
            hec.release(int(fill[0]), hec_now, is_last=is_over),
            lec.release(int(fill[1]), lec_now, is_last=is_over),
        )


def write_events(chunks: Iterator[Chunk], hec_path: Path, lec_path: Path) -> tuple[int, int]:
    """Write a simulation into two files of raw events, whole or not at all.

    Parameters
    ----------
    chunks
        What `simulate_chunks` yields; only one piece is held in memory.
    hec_path, lec_path
        The files' names; older files of these names are replaced.

    Returns
    -------
    n_hec, n_lec : int
        How many events were written.

    Raises
    ------
    InputError
        If a file cannot be written; nothing half-written stays behind.
    """
    paths = (hec_path, lec_path)
    partial = [path.with_name(f"{TEMPORARY_PREFIX}{path.name}") for path in paths]
    counts = [0, 0]
    try:
        with partial[0].open("wb") as hec_stream, partial[1].open("wb") as lec_stream:
            streams = (hec_stream, lec_stream)
            for chunk in chunks:
                for side, events in enumerate(chunk):
                    streams[side].write(events.pack())
                    counts[side] += len(events)
            for stream in streams:
                stream.flush()
                os.fchmod(stream.fileno(), 0o600)
                os.fsync(stream.fileno())
        for temporary, path in zip(partial, paths, strict=True):
            temporary.replace(path)
            sync_directory(path.parent)
    except OSError as error:
        name = error.filename or hec_path.parent
        raise InputError(f"{name}: cannot be written: {error.strerror}") from error
    finally:
        for temporary in partial:
            temporary.unlink(missing_ok=True)
    return counts[0], counts[1]


def _emission(scenario: Scenario) -> Emission:
    """Translate a scenario into rates per tick and probabilities."""
    hec, lec = scenario.hec, scenario.lec
    p_hec, p_lec = hec.detection_probability, lec.detection_probability
    p_any = p_hec + p_lec - p_hec * p_lec
    rate = scenario.source.pair_rate_hz / TICKS_PER_SECOND
    clock = scenario.clock
    drift = clock.drift_ppb * 1e-9
    return Emission(
        pair_rate=rate * p_any,
        slot_ticks=TICKS_PER_SECOND / scenario.source.pair_rate_hz
        if scenario.source.is_uniform
        else 0.0,
        log_miss=math.log1p(-p_any) if p_any < 1.0 else -math.inf,
        only_hec=p_hec * (1.0 - p_lec) / p_any if p_any else 0.0,
        only_lec=p_lec * (1.0 - p_hec) / p_any if p_any else 0.0,
        error_hv=(1.0 - scenario.source.visibility_hv) / 2.0,
        error_diagonal=(1.0 - scenario.source.visibility_diagonal) / 2.0,
        intercepted=scenario.eavesdropper.intercepted_fraction,
        hec_dark_rate=N_DETECTORS * hec.detectors.dark_rate_hz / TICKS_PER_SECOND,
        lec_dark_rate=N_DETECTORS * lec.detectors.dark_rate_hz / TICKS_PER_SECOND,
        hec_sigma=_sigma_ticks(hec.detectors),
        lec_sigma=_sigma_ticks(lec.detectors),
        hec_offset_ticks=hec.channel.delay_ns * TICKS_PER_NS,
        lec_offset_ticks=(clock.offset_ns + lec.channel.delay_ns * (1.0 + drift)) * TICKS_PER_NS,
        lec_drift=drift,
        end_ticks=scenario.run.duration_s * TICKS_PER_SECOND,
    )


def _least_candidates(model: Emission) -> int:
    """Return a number of clicks that surely lasts longer than the jitter."""
    rate = model.pair_rate + model.hec_dark_rate + model.lec_dark_rate
    jitter_ticks = 2 * JITTER_SIGMAS * max(model.hec_sigma, model.lec_sigma)
    return MIN_CANDIDATES + math.ceil(4 * rate * jitter_ticks)


def _sigma_ticks(detectors: Detectors) -> float:
    """Return the standard deviation of the jitter."""
    return detectors.jitter_fwhm_ps * 1e-3 * TICKS_PER_NS / FWHM_PER_SIGMA


class _Receiver:
    """One side's detectors: holds clicks back until nothing can come before them.

    Parameters
    ----------
    detectors
        Dead time, afterpulses, merging, jitter.
    random_state : (4,) ndarray of uint64
        Generator for afterpulses.
    start_ticks
        Time of tick 0, low 49 bits.
    n_candidates
        Room for clicks.
    """

    def __init__(
        self,
        detectors: Detectors,
        random_state: NDArray[np.uint64],
        start_ticks: int,
        n_candidates: int,
    ) -> None:
        self.candidates = (np.empty(n_candidates, np.int64), np.empty(n_candidates, np.uint8))
        self.n_held = 0
        self._model = Detection(
            dead_ticks=round(detectors.dead_time_ns * TICKS_PER_NS),
            merge_ticks=round(detectors.merge_window_ns * TICKS_PER_NS),
            afterpulse_probability=detectors.afterpulse_probability,
            afterpulse_decay_ticks=detectors.afterpulse_decay_ns * TICKS_PER_NS,
        )
        self._guard_ticks = JITTER_SIGMAS * _sigma_ticks(detectors) + 1.0
        self._random_state = random_state
        self._start_ticks = start_ticks
        self._state = np.array([-NEVER] * N_DETECTORS + [NEVER] * N_DETECTORS + [0, 0])

    def release(self, n_filled: int, now_ticks: float, *, is_last: bool) -> Events:
        """Return the events that are settled at `now_ticks`, and keep the other clicks.

        Parameters
        ----------
        n_filled
            How many candidates there are.
        now_ticks
            Time that the generator has reached, by this side's clock.
        is_last
            Whether nothing comes any more.
        """
        times = self.candidates[0]
        limit_ticks = math.floor(now_ticks + (1 if is_last else -1) * self._guard_ticks)
        n_settled = int(np.searchsorted(times[:n_filled], limit_ticks))
        parts = list(self._detected(n_settled, limit_ticks))
        if is_last:
            parts.append(self._unfinished())
        self.n_held = n_filled - n_settled
        for array in self.candidates:
            array[: self.n_held] = array[n_settled:n_filled].copy()
        return Events.concatenate(parts)

    def _detected(self, n_settled: int, limit_ticks: int) -> Iterator[Events]:
        """Yield the events that the first `n_settled` candidates make."""
        n_used = 0
        while True:
            room = n_settled - n_used + 64
            events = (np.empty(room, np.int64), np.empty(room, np.uint8))
            clicks = (
                self.candidates[0][n_used:n_settled],
                self.candidates[1][n_used:n_settled],
            )
            n_more, n_events = detect(
                self._model, self._random_state, self._state, clicks, limit_ticks, events
            )
            n_used += n_more
            yield self._events(events[0][:n_events], events[1][:n_events])
            if n_events < room:
                return

    def _unfinished(self) -> Events:
        """Return the event that was waiting for more clicks, if there is one."""
        has_event = slice(0, 1 if self._state[9] else 0)
        patterns = self._state[9:10].astype(np.uint8)
        return self._events(self._state[8:9][has_event], patterns[has_event])

    def _events(self, ticks: NDArray[np.int64], patterns: NDArray[np.uint8]) -> Events:
        """Make events of times since the start."""
        return Events((ticks + self._start_ticks) % TIME_PERIOD_TICKS, patterns)

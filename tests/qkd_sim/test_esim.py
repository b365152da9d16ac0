import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qkd_sim.errors import InputError
from qkd_sim.esim import Chunk, simulate, simulate_chunks, write_events
from qkd_sim.events import Events
from qkd_sim.params import (
    Channel,
    Clock,
    Detectors,
    Eavesdropper,
    Run,
    Scenario,
    Side,
    Source,
)

START_NS = 1587318692304817123
START_TICKS = START_NS * 8 % (1 << 49)

IDEAL = Scenario(Source(1e5), Run(1.0))
LOSSY = Scenario(
    source=Source(1e6, visibility_hv=0.9, visibility_diagonal=0.8),
    run=Run(1.0),
    hec=Side(Channel(loss_db=3.0), Detectors(0.6, 350, 2000, 45, 0.01, 30, 1.0)),
    lec=Side(Channel(transmission=0.3), Detectors(0.5, 500, 5000, 45, 0.0, 30, 1.0)),
    clock=Clock(1234.5, 20.0),
)


def elapsed(events: Events) -> NDArray[np.int64]:
    """Return times since the start; they may begin a little before it."""
    return events.unwrapped_ticks() - START_TICKS


def assert_count(n: int, expected: float) -> None:
    """Check a count of independent events against its mean, to 4 standard deviations."""
    assert abs(n - expected) <= 4 * math.sqrt(expected), f"{n} instead of {expected:.1f}"


def assert_fraction(n: int, total: int, p: float) -> None:
    """Check a count of successes against its probability, to 4 standard deviations."""
    deviation = math.sqrt(total * p * (1 - p))
    assert abs(n - total * p) <= 4 * deviation, f"{n / total:.5f} instead of {p:.5f}"


def sifted(chunk: Chunk, basis: int) -> tuple[int, int]:
    """Return how many events of an ideal, noiseless run agree in a basis, and how many differ.

    Events must come one by one on both sides.
    """
    assert len(chunk.hec) == len(chunk.lec)
    patterns = [1, 4] if basis == 0 else [2, 8]
    is_basis = np.isin(chunk.hec.patterns, patterns) & np.isin(chunk.lec.patterns, patterns)
    is_error = chunk.hec.patterns[is_basis] == chunk.lec.patterns[is_basis]
    return int(is_basis.sum()), int(is_error.sum())


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not() -> None:
    first, second = simulate(LOSSY, START_NS, 7), simulate(LOSSY, START_NS, 7)
    other = simulate(LOSSY, START_NS, 8)
    for side in range(2):
        assert first[side].pack() == second[side].pack()
        assert first[side].pack() != other[side].pack()


@pytest.mark.parametrize("candidates_per_chunk", [1, 4567])
def test_a_run_in_pieces_is_the_run_as_a_whole(candidates_per_chunk: int) -> None:
    scenario = replace(LOSSY, run=Run(0.1))
    chunks = list(simulate_chunks(scenario, START_NS, 7, candidates_per_chunk=candidates_per_chunk))
    assert len(chunks) > 5
    whole = simulate(scenario, START_NS, 7)
    for side in range(2):
        pieces = Events.concatenate(chunk[side] for chunk in chunks)
        assert pieces.pack() == whole[side].pack()


def test_a_jitter_longer_than_a_piece_does_not_stop_the_run() -> None:
    blurred = Side(detectors=Detectors(jitter_fwhm_ps=1e6, dark_rate_hz=1e6))
    scenario = Scenario(Source(5e7), Run(2e-3), hec=blurred, lec=blurred)
    chunks = list(simulate_chunks(scenario, START_NS, 7, candidates_per_chunk=1))
    assert_count(sum(len(chunk.hec) for chunk in chunks), 1.08e5)
    whole = Events.concatenate(chunk.lec for chunk in chunks)
    assert (np.diff(elapsed(whole)) > 0).all()


def test_an_endless_run_begins_like_one_that_ends() -> None:
    endless = simulate_chunks(replace(IDEAL, run=Run(1e-3)), START_NS, 7, is_endless=True)
    pieces = Events.concatenate(chunk.hec for chunk in islice(endless, 2))
    assert len(pieces) > 2e5
    whole = simulate(replace(IDEAL, run=Run(2.0)), START_NS, 7).hec
    assert pieces.pack()[: 8 * 150_000] == whole.pack()[: 8 * 150_000]


def test_events_are_in_order_within_the_run_and_have_a_pattern() -> None:
    chunk = simulate(LOSSY, START_NS, 7)
    for events, offset_ticks in ((chunk.hec, 0.0), (chunk.lec, 1234.5 * 8)):
        times = elapsed(events)
        assert (np.diff(times) > 0).all()
        assert offset_ticks - 50 < times[0] < times[-1] < offset_ticks + 8e9 + 8e9 * 20e-9 + 50
        assert (events.patterns > 0).all()
        assert (events.patterns < 16).all()


def test_ideal_pairs_come_as_a_poisson_process_at_their_rate() -> None:
    times = elapsed(simulate(IDEAL, START_NS, 7).hec)
    assert_count(times.size, 1e5)
    gaps = np.diff(times) / 8e4
    assert abs(gaps.mean() - 1) < 4 / math.sqrt(gaps.size)
    # the variance of an exponential distribution is 1, that of its estimate 8 over n
    assert abs(gaps.var() - 1) < 4 * math.sqrt(8 / gaps.size)


def test_uniform_pairs_keep_their_distance_also_when_some_are_lost() -> None:
    uniform = replace(IDEAL, source=Source(1e5, is_uniform=True))
    times = elapsed(simulate(uniform, START_NS, 7).hec)
    assert times.size == 99_999
    np.testing.assert_array_equal(times, 80000 * np.arange(1, 100_000))
    lossy = replace(
        uniform, hec=Side(Channel(transmission=0.3)), lec=Side(Channel(transmission=0.5))
    )
    chunk = simulate(lossy, START_NS, 7)
    for events, p in ((chunk.hec, 0.3), (chunk.lec, 0.5)):
        times = elapsed(events)
        assert (times % 80000 == 0).all()
        assert_fraction(times.size, 99_999, p)


def test_rates_are_those_of_source_losses_and_dark_counts() -> None:
    plain = replace(
        LOSSY,
        hec=Side(LOSSY.hec.channel, Detectors(0.6, dark_rate_hz=2000)),
        lec=Side(LOSSY.lec.channel, Detectors(0.5, dark_rate_hz=5000)),
    )
    chunk = simulate(plain, START_NS, 3)
    p_hec, p_lec = 0.6 * 10**-0.3, 0.5 * 0.3
    # simultaneous clicks of one side are one event, but at these rates hardly ever happen
    assert_count(len(chunk.hec), 1e6 * p_hec + 4 * 2000)
    assert_count(len(chunk.lec), 1e6 * p_lec + 4 * 5000)
    differences = elapsed(chunk.lec)
    shifted = np.round((differences - 1234.5 * 8) / (1 + 20e-9))
    common = np.isin(elapsed(chunk.hec), np.concatenate([shifted + d for d in (-1, 0, 1)]))
    assert_count(int(common.sum()), 1e6 * p_hec * p_lec)


def test_dark_counts_alone_are_spread_over_the_detectors() -> None:
    dark = Scenario(
        Source(1e5),
        Run(1.0),
        hec=Side(detectors=Detectors(efficiency=0.0, dark_rate_hz=5000)),
        lec=Side(detectors=Detectors(efficiency=0.0)),
    )
    chunk = simulate(dark, START_NS, 3)
    assert len(chunk.lec) == 0
    for pattern in (1, 2, 4, 8):
        assert_count(int((chunk.hec.patterns == pattern).sum()), 5000)


def test_bases_and_outcomes_are_balanced_on_both_sides() -> None:
    chunk = simulate(replace(IDEAL, run=Run(2.0)), START_NS, 11)
    for events in chunk:
        for pattern in (1, 2, 4, 8):
            assert_fraction(int((events.patterns == pattern).sum()), len(events), 0.25)
    n_same = sum(sifted(chunk, basis)[0] for basis in range(2))
    assert_fraction(n_same, len(chunk.hec), 0.5)


@pytest.mark.parametrize(("hv", "diagonal"), [(1.0, 1.0), (0.94, 0.94), (0.9, 0.7), (0.0, 1.0)])
def test_errors_of_a_basis_are_half_of_what_its_visibility_lacks(
    hv: float, diagonal: float
) -> None:
    chunk = simulate(replace(IDEAL, source=Source(2e5, hv, diagonal)), START_NS, 5)
    for basis, visibility in ((0, hv), (1, diagonal)):
        n_sifted, n_errors = sifted(chunk, basis)
        assert n_sifted > 40_000
        assert_fraction(n_errors, n_sifted, (1 - visibility) / 2)


def test_different_bases_have_nothing_in_common() -> None:
    chunk = simulate(replace(IDEAL, run=Run(2.0)), START_NS, 5)
    is_hv = np.isin(chunk.hec.patterns, [1, 4])
    is_other = is_hv & np.isin(chunk.lec.patterns, [2, 8])
    is_equal = (chunk.hec.patterns[is_other] == 1) == (chunk.lec.patterns[is_other] == 2)
    assert_fraction(int(is_equal.sum()), int(is_other.sum()), 0.5)


@pytest.mark.parametrize("fraction", [0.2, 0.6, 1.0])
def test_intercepting_and_resending_makes_errors_of_a_quarter(fraction: float) -> None:
    attacked = replace(IDEAL, source=Source(2e5, 0.96, 0.96), eavesdropper=Eavesdropper(fraction))
    chunk = simulate(attacked, START_NS, 5)
    for basis in range(2):
        n_sifted, n_errors = sifted(chunk, basis)
        # half of the intercepted photons are resent in the wrong basis
        expected = fraction / 2 * 0.5 + (1 - fraction / 2) * 0.02
        assert_fraction(n_errors, n_sifted, expected)


@pytest.mark.parametrize("dead_time_ns", [50.0, 1000.0, 20000.0])
def test_dead_time_keeps_clicks_of_a_detector_apart_and_lowers_the_rate(
    dead_time_ns: float,
) -> None:
    slow = replace(
        IDEAL,
        source=Source(4e5),
        hec=Side(detectors=Detectors(dead_time_ns=dead_time_ns)),
    )
    events = simulate(slow, START_NS, 5).hec
    times = elapsed(events)
    for pattern in (1, 2, 4, 8):
        own = times[events.patterns & pattern > 0]
        assert np.diff(own).min() >= dead_time_ns * 8
        # a renewal process: each wait is the dead time and then an exponential one
        live_s = dead_time_ns * 1e-9 + 1e-5
        deviation = 1e-5 / live_s * math.sqrt(1 / live_s)
        assert abs(own.size - 1 / live_s) < 4 * deviation + 1


def test_jitter_has_its_width_and_no_bias() -> None:
    blurred = replace(
        IDEAL,
        hec=Side(detectors=Detectors(jitter_fwhm_ps=2000)),
        lec=Side(detectors=Detectors(jitter_fwhm_ps=4000)),
        source=Source(1e5, is_uniform=True),
    )
    chunk = simulate(blurred, START_NS, 5)
    for events, fwhm_ticks in ((chunk.hec, 16.0), (chunk.lec, 32.0)):
        jitter = (elapsed(events) + 40000) % 80000 - 40000 + 0.5
        sigma = math.sqrt((fwhm_ticks / 2.354820045) ** 2 + 1 / 12)
        assert abs(jitter.mean()) < 4 * sigma / math.sqrt(jitter.size)
        assert abs(jitter.std() - sigma) < 4 * sigma / math.sqrt(2 * jitter.size)
        assert np.abs(jitter).max() <= 6 * sigma + 1


def test_afterpulses_raise_the_rate_by_their_probability() -> None:
    pulsing = Detectors(dead_time_ns=50, afterpulse_probability=0.1, afterpulse_decay_ns=100)
    slow = Scenario(Source(1e4), Run(5.0), hec=Side(detectors=pulsing))
    events = simulate(slow, START_NS, 5).hec
    # a click has 0.1 afterpulses, these have as many again, and so on: 1 / 0.9 clicks in all
    deviation = math.sqrt(5e4 / 0.9**2 + 5e4 * 0.1 / 0.9**3)
    assert abs(len(events) - 5e4 / 0.9) < 4 * deviation
    times = elapsed(events)
    waits = np.concatenate([np.diff(times[events.patterns == p]) for p in (1, 2, 4, 8)]) / 8 - 50
    waits = waits[waits < 1000]
    assert waits.min() > 0
    # the deviation of an exponential distribution's median is its mean over the root of n
    assert abs(np.median(waits) - 100 * math.log(2)) < 4 * 100 / math.sqrt(waits.size)


def test_clicks_of_different_detectors_at_once_are_one_event() -> None:
    merging = replace(
        IDEAL, source=Source(1e7), run=Run(0.05),
        hec=Side(detectors=Detectors(merge_window_ns=10)),
    )  # fmt: skip
    events = simulate(merging, START_NS, 5).hec
    assert np.diff(elapsed(events)).min() > 80
    n_clicks = sum(int(count) for count in np.bitwise_count(events.patterns))
    assert n_clicks > len(events)
    is_multiple = np.bitwise_count(events.patterns) > 1
    # another click within 10 ns at 1e7/s, on one of the three other detectors
    assert_fraction(int(is_multiple.sum()), len(events), 1 - math.exp(-0.1 * 0.75))


def test_the_low_side_s_clock_is_ahead_by_offset_delay_and_drift() -> None:
    scenario = replace(
        IDEAL,
        source=Source(1e5, is_uniform=True),
        lec=Side(Channel(length_km=1.0, attenuation_db_per_km=0.0)),
        clock=Clock(offset_ns=-5000.25, drift_ppb=100.0),
    )
    chunk = simulate(scenario, START_NS, 5)
    hec, lec = elapsed(chunk.hec), elapsed(chunk.lec)
    delay_ns = 1468 / 0.299792458
    expected = (-5000.25 + delay_ns) * 8 + hec * 100e-9
    assert np.abs(lec - hec - expected + 0.5).max() <= 0.51


def test_times_wrap_at_49_bits() -> None:
    wrap_ns = (1 << 49) // 8
    events = simulate(IDEAL, wrap_ns - 500_000_000, 5).hec
    assert int(events.times_ticks[0]) > (1 << 48)
    assert int(events.times_ticks[-1]) < 8 * 500_000_000
    assert (np.diff(events.unwrapped_ticks()) >= 0).all()


def test_a_simulation_is_written_as_two_files_that_only_their_owner_reads(tmp_path: Path) -> None:
    paths = tmp_path / "hec", tmp_path / "lec"
    chunks = simulate_chunks(LOSSY, START_NS, 7, candidates_per_chunk=100_000)
    counts = write_events(chunks, *paths)
    whole = simulate(LOSSY, START_NS, 7)
    for path, events, count in zip(paths, whole, counts, strict=True):
        assert path.read_bytes() == events.pack()
        assert path.stat().st_mode & 0o777 == 0o600
        assert count == len(events)
    assert {path.name for path in tmp_path.iterdir()} == {"hec", "lec"}


def test_a_folder_that_is_missing_is_named_and_nothing_stays_behind(tmp_path: Path) -> None:
    chunks = simulate_chunks(IDEAL, START_NS, 7)
    with pytest.raises(InputError, match=r"missing/.*lec: cannot be written: No such file"):
        write_events(chunks, tmp_path / "hec", tmp_path / "missing" / "lec")
    assert list(tmp_path.iterdir()) == []

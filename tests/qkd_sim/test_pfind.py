import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from kme.errors import InputError
from kme.ids import Epoch
from photon_chain import as_events, chopped, shifted
from photon_files import SET_A, files_of
from qkd_sim import pfind
from qkd_sim.errors import OffsetNotFoundError
from qkd_sim.events import Events
from qkd_sim.packets import Type1, Type2
from qkd_sim.pfind import PfindSettings, Streams, correlate, find_offset

EPOCH_TICKS = 1 << 32
FIRST = 1000
"""Epoch in which made-up events begin."""


def set_a(n_epochs: int = 16) -> tuple[list[Type1], list[Type2]]:
    """Return the epochs that the C program looked at."""
    hec = [Type1.read(path) for path in files_of(SET_A / "hec" / "t1")[1 : 1 + n_epochs]]
    lec = [Type2.read(path) for path in files_of(SET_A / "lec" / "t2")[1 : 1 + n_epochs]]
    return hec, lec


def noise(seed: int, n_hec: int, n_lec: int, n_epochs: int = 1) -> tuple[Events, Events]:
    """Return events that have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    sides = (
        as_events(FIRST * EPOCH_TICKS + rng.integers(1, n_epochs * EPOCH_TICKS, n))
        for n in (n_hec, n_lec)
    )
    hec, lec = sides
    return hec, lec


def coincident(
    seed: int, n_pairs: int, n_others: int, offset: float, drift: float = 0.0, n_epochs: int = 4
) -> tuple[Events, Events]:
    """Return pairs with jitter of half a nanosecond among others, the low side's clock ahead."""
    rng = np.random.default_rng(seed)
    span = n_epochs * EPOCH_TICKS

    def times(n: int) -> NDArray[np.float64]:
        return rng.uniform(0.1 * EPOCH_TICKS, span - 0.1 * EPOCH_TICKS, n)

    common = times(n_pairs)
    hec = np.concatenate([common + rng.normal(0, 2, n_pairs), times(n_others)])
    lec = np.concatenate([common + rng.normal(0, 2, n_pairs), times(n_others)])
    lec = lec * (1 + drift) + offset
    start = FIRST * EPOCH_TICKS
    return tuple(as_events(start + np.floor(t).astype(np.int64)) for t in (hec, lec))  # type: ignore[return-value]


def test_set_a_has_the_offset_and_significances_of_its_log() -> None:
    hec, lec = set_a()
    found = find_offset(hec, lec)
    assert found.offset_ticks == 8
    assert found.start_ticks == pytest.approx(8.0, abs=1e-6)
    assert found.drift == pytest.approx(0.0, abs=1e-15)
    assert found.rounded_ticks(1) == 8
    streams = pfind.read_streams(hec, lec)
    line = pfind.log_line(8, correlate(streams, 17, 3), correlate(streams, 17, 14), 1)
    assert (
        line + "\n" == (SET_A / "logs" / "pfind_V1.log").read_text().splitlines(keepends=True)[-1]
    )
    assert pfind.log_line(8, None, None, 0) == "8"


@pytest.mark.parametrize("seed", range(6))
def test_raw_events_shifted_by_up_to_50_us_are_found_to_a_tick(seed: int) -> None:
    shift = int(np.random.default_rng(seed).integers(-400_000, 400_001))
    hec = Events.read(SET_A / "hec" / "events.raw")
    lec = shifted(Events.read(SET_A / "lec" / "events.raw"), shift)
    packets = chopped(hec, lec, is_last_kept=False)
    found = find_offset(packets.hec[1:], packets.lec[1:])
    assert found.offset_ticks == shift + 8
    assert found.rounded_ticks(1) == 8 * round((shift + 8) / 8)
    assert found.rounded_ticks(2) == 16 * round((shift + 8) / 16)


@pytest.mark.parametrize(
    "offset_ms", [0.05, -0.05, 3.0, -40.0, 133.0, -133.0, 150.0, -200.0, 390.0]
)
def test_far_offsets_are_found_also_beyond_the_folded_length(offset_ms: float) -> None:
    hec, lec = coincident(1, 3000, 20_000, offset_ms * 8e6)
    packets = chopped(hec, lec)
    found = find_offset(packets.hec, packets.lec)
    assert found.start_ticks == pytest.approx(offset_ms * 8e6, abs=0.7)


def test_a_larger_order_finds_an_offset_of_a_second() -> None:
    hec, lec = coincident(1, 6000, 40_000, 8e9, n_epochs=8)
    packets = chopped(hec, lec)
    with pytest.raises(OffsetNotFoundError, match="larger order if the clocks may be more than"):
        find_offset(packets.hec, packets.lec)
    found = find_offset(packets.hec, packets.lec, PfindSettings(order=21))
    assert found.start_ticks == pytest.approx(8e9, abs=0.7)


@pytest.mark.parametrize("drift", [1e-9, -1e-9, 1e-8, -1e-7, 5e-7])
def test_a_drift_is_found_and_the_offset_is_that_of_the_start(drift: float) -> None:
    hec, lec = coincident(6, 5000, 50_000, 58_571.0, drift)
    packets = chopped(hec, lec)
    found = find_offset(packets.hec, packets.lec)
    # jitter of 2 ticks on either side; a line over 3.8 epochs, as seen from its first event
    sigma = 2 * math.sqrt(2) / math.sqrt(5000)
    first_ticks = 0.1 * EPOCH_TICKS
    assert abs(found.start_ticks - 58_571.0 - drift * first_ticks) < 4 * 2 * sigma + 0.05
    assert abs(found.drift - drift) < 4 * sigma * math.sqrt(12) / (3.8 * EPOCH_TICKS)
    assert found.n_pairs == pytest.approx(5000, rel=0.1)


@pytest.mark.parametrize(
    ("n_hec", "n_lec", "n_epochs"),
    [(300, 300, 1), (30_000, 3000, 1), (200_000, 100_000, 1), (20_000, 20_000, 3), (5, 5, 1)],
)
def test_pure_noise_is_refused(n_hec: int, n_lec: int, n_epochs: int) -> None:
    for seed in range(3):
        packets = chopped(*noise(seed, n_hec, n_lec, n_epochs))
        with pytest.raises(OffsetNotFoundError, match="no common offset: the highest peak has p"):
            find_offset(packets.hec, packets.lec)


def test_noise_is_refused_when_time_does_not_fill_the_bins() -> None:
    hec, lec = coincident(3, 0, 60_000, 0.0, n_epochs=1)
    packets = chopped(hec, lec)
    for order in (18, 19, 20):
        with pytest.raises(OffsetNotFoundError):
            find_offset(packets.hec, packets.lec, PfindSettings(order=order))


def test_p_values_of_noise_are_not_too_small() -> None:
    values = []
    for seed in range(25):
        packets = chopped(*noise(100 + seed, 20_000, 20_000))
        values.append(find_offset(packets.hec, packets.lec, PfindSettings(max_p=1.0)).log10_p)
    assert min(values) > -3, "of 25, the least is not expected below 1/25, and never 1e-3"


@pytest.mark.parametrize("snr", [4, 5, 6, 7])
def test_the_peak_is_found_as_often_as_theory_says(snr: int) -> None:
    n_bins, n_events, n_trials = 1 << 17, 20_000, 50
    n_pairs = round(snr * math.sqrt(n_events**2 / n_bins))
    rng = np.random.default_rng(snr)
    n_found = 0
    for _ in range(n_trials):
        position = int(rng.integers(-n_bins // 2, n_bins // 2))
        common = rng.integers(0, n_bins, n_pairs)
        hec, lec = (
            np.sort(np.concatenate([part, rng.integers(0, n_bins, n_events - n_pairs)]))
            for part in (common, (common + position) % n_bins)
        )
        n_found += correlate(Streams(hec, lec), 17, 0).position == position
    # a normal deviate around the SNR must be above the highest of as many others
    x = np.linspace(snr - 8, snr + 8, 2001)
    p = float(np.sum(norm.pdf(x - snr) * norm.cdf(x) ** n_bins) * (x[1] - x[0]))
    deviation = math.sqrt(n_trials * p * (1 - p))
    assert abs(n_found - n_trials * p) < 4 * deviation + 1


@pytest.mark.parametrize(("offset_bins", "snr"), [(4.0, 6.0), (3.5, 8.5)])
def test_what_the_coarse_search_finds_is_significant_also_at_low_snr(
    offset_bins: float, snr: float
) -> None:
    n_events, offset = 20_000, offset_bins * (1 << 14)
    n_pairs = round(snr * math.sqrt(n_events**2 / (1 << 17)))
    n_found = 0
    for seed in range(10):
        packets = chopped(*coincident(seed, n_pairs, n_events - n_pairs, offset))
        try:
            found = find_offset(packets.hec, packets.lec)
        except OffsetNotFoundError:
            continue
        assert found.start_ticks == pytest.approx(offset, abs=3)
        assert found.log10_p < -50
        n_found += 1
    assert n_found >= 7, "0.93 of them, by theory; between two bins at 6.0 = 8.5 / sqrt(2)"


def test_the_coarse_peak_is_not_the_rates_own_shape() -> None:
    rng = np.random.default_rng(5)
    # both sides are brighter for a tenth of the time
    bright = rng.integers(0, EPOCH_TICKS // 10, 60_000)
    events = [
        as_events(FIRST * EPOCH_TICKS + np.concatenate([
            bright[k::2], rng.integers(1, EPOCH_TICKS, 20_000)
        ])) for k in range(2)
    ]  # fmt: skip
    packets = chopped(*events)
    with pytest.raises(OffsetNotFoundError):
        find_offset(packets.hec, packets.lec, PfindSettings(order=18))


def test_epochs_are_counted_across_the_wrap_of_their_number() -> None:
    hec, lec = coincident(4, 2000, 5000, 80_000.0, n_epochs=3)
    ticks = ((1 << 17) - 1 - FIRST) * EPOCH_TICKS
    packets = chopped(shifted(hec, ticks), shifted(lec, ticks))
    assert [packet.epoch for packet in packets.lec] == [Epoch((1 << 17) - 1), Epoch(0), Epoch(1)]
    assert find_offset(packets.hec, packets.lec).start_ticks == pytest.approx(80_000, abs=0.7)


def test_a_side_without_events_or_packets_has_no_offset() -> None:
    hec, lec = set_a(1)
    empty = Type1(hec[0].epoch, Events.empty())
    with pytest.raises(OffsetNotFoundError, match="one side has no events"):
        find_offset([empty], lec)
    with pytest.raises(OffsetNotFoundError, match="one side has no packets"):
        find_offset(hec, [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": 11}, "order is 11, must be in 12..24"),
        ({"order": 25}, "order is 25, must be in 12..24"),
        ({"resolution_ns": 3}, "resolution is 3 ns, must be a power of two up to 1048576"),
        ({"resolution_ns": 0}, "resolution is 0 ns"),
        ({"max_p": 0.0}, "largest p-value is 0, must be above 0 and up to 1"),
        ({"max_p": math.nan}, "largest p-value is nan"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PfindSettings(**changes)  # type: ignore[arg-type]

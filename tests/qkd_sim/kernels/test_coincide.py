from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plain_kernels import WAYS, Kernel, way
from qkd_sim.kernels.coincide import HEC_USED_UP, LEC_USED_UP, PROGRESS, Windows, coincide

LONG_AGO = -(1 << 61)

NARROW = Windows(0, 8, 40, 160, 0, 0, 0)


@dataclass
class Outcome:
    """What a search finds."""

    pairs: list[tuple[int, int, int]] = field(default_factory=list)
    n_accidentals: int = 0
    filter: int = 0

    def take(self, windows: Windows, pair: tuple[int, int, int], elapsed: int) -> None:
        """Judge a pair: pattern, position, and how far it is apart."""
        apart = pair[2]
        if apart > windows.accidental_ticks - 2 * windows.window_ticks:
            self.n_accidentals += 1
        if abs(apart) < windows.window_ticks:
            self.pairs.append(pair)
        if apart >= windows.tracking_ticks:
            return
        if windows.gain:
            self.filter += apart * windows.gain
        elif windows.divisor and elapsed < windows.max_gap_ticks:
            self.filter += int(2 * apart * elapsed / windows.divisor)


def by_hand(windows: Windows, hec: list[int], patterns: list[int], lec: list[int]) -> Outcome:
    """Search as the rules read, with lists that are used up and Python's own numbers."""
    outcome = Outcome()
    times = [LONG_AGO, *hec]
    todo = [
        (time, pattern)
        for k, (time, pattern) in enumerate(zip(hec, patterns, strict=True))
        if time > max(times[: k + 1])
    ]
    rest = list(enumerate(lec))
    high: tuple[int, int] | None = None
    low: tuple[int, int] | None = None
    last_tracked = LONG_AGO
    while True:
        shift = windows.offset_ticks - int(outcome.filter / 4096)
        apart = high[0] - low[1] + shift if high and low else 0
        if high is None or (low is not None and apart < -windows.tracking_ticks):
            if not todo:
                return outcome
            high = todo.pop(0)
        elif low is None or apart > windows.accidental_ticks:
            if not rest:
                return outcome
            low = rest.pop(0)
        else:
            outcome.take(windows, (high[1], low[0], apart), high[0] - last_tracked)
            if apart < windows.tracking_ticks:
                last_tracked = high[0]
            high = low = None


def searched(
    kernel: Kernel, windows: Windows, hec: list[int], patterns: list[int], lec: list[int], cut: int
) -> Outcome:
    """Run the kernel, with the high side's events coming in two parts."""
    progress = np.zeros(1, PROGRESS).view(np.recarray)
    progress["hec_is_used"] = progress["lec_is_used"] = 1
    progress["hec_ticks"] = progress["last_tracked_ticks"] = LONG_AGO
    pairs = (np.empty(len(lec), np.uint8), np.empty(len(lec), np.int64), np.empty(len(lec), int))
    for part in (slice(0, cut), slice(cut, None)):
        progress["hec_next"] = 0
        high = (np.array(hec[part], np.int64), np.array(patterns[part], np.uint8))
        status = kernel(windows, progress, *high, np.array(lec, np.int64), pairs)
        assert status in {HEC_USED_UP, LEC_USED_UP}
        if status == LEC_USED_UP:
            break
    n = int(progress["n_pairs"][0])
    found = list(zip(*(array[:n].tolist() for array in pairs), strict=True))
    return Outcome(found, int(progress["n_accidentals"][0]), int(progress["filter"][0]))


STREAM = st.lists(st.integers(0, 4000), max_size=30).map(sorted)
WINDOWS = st.builds(
    Windows,
    offset_ticks=st.integers(-300, 300),
    window_ticks=st.integers(1, 60),
    tracking_ticks=st.integers(1, 100),
    accidental_ticks=st.integers(0, 300),
    gain=st.sampled_from([0, 0, 1, 100, 4096]),
    divisor=st.sampled_from([0, 1, 2, 390, 3906250]),
    max_gap_ticks=st.sampled_from([1, 100, 800_000_000]),
)


@pytest.mark.parametrize("name", WAYS)
@settings(max_examples=150, deadline=None)
@given(WINDOWS, STREAM, STREAM, st.integers(0, 30))
def test_the_search_is_as_by_hand(
    name: str, windows: Windows, hec: list[int], lec: list[int], cut: int
) -> None:
    patterns = [k % 16 for k in range(len(hec))]
    found = searched(way(coincide, name), windows, hec, patterns, lec, cut)
    assert found == by_hand(windows, hec, patterns, lec)


@settings(max_examples=100, deadline=None)
@given(WINDOWS, STREAM, STREAM)
def test_no_event_is_in_two_pairs(windows: Windows, hec: list[int], lec: list[int]) -> None:
    distinct = sorted(set(hec))
    numbers = list(range(len(distinct)))
    found = searched(coincide, windows, distinct, numbers, lec, 0)
    high, low = [pair[0] for pair in found.pairs], [pair[1] for pair in found.pairs]
    assert sorted(set(high)) == high
    assert sorted(set(low)) == low
    assert all(abs(pair[2]) < windows.window_ticks for pair in found.pairs)


def test_a_difference_of_the_window_itself_is_no_coincidence() -> None:
    for difference, n_pairs in ((7, 1), (8, 0), (-7, 1), (-8, 0)):
        found = searched(coincide, NARROW, [1000 + difference], [4], [1000], 1)
        assert len(found.pairs) == n_pairs


def test_a_pair_too_far_apart_to_count_uses_up_both_events() -> None:
    # 1030 is paired with 1000, 30 ticks apart, and so is gone when 1031 comes
    found = searched(coincide, NARROW, [1030], [1], [1000, 1031], 1)
    assert found.pairs == []


def test_accidentals_are_counted_in_two_windows_below_their_distance() -> None:
    for difference, n in ((144, 0), (145, 1), (160, 1), (161, 0)):
        found = searched(coincide, NARROW, [1000 + difference], [1], [1000], 1)
        assert found.n_accidentals == n


def test_an_offset_moves_the_window() -> None:
    late = NARROW._replace(offset_ticks=500)
    assert searched(coincide, late, [1000], [2], [1500], 1).pairs == [(2, 0, 0)]
    assert searched(coincide, NARROW, [1000], [2], [1500], 1).pairs == []


@pytest.mark.parametrize("drift", [1e-4, -1e-4])
@pytest.mark.parametrize(
    "windows",
    [
        NARROW._replace(gain=4096 // 10),
        NARROW._replace(divisor=8000 * 10 // 4096, max_gap_ticks=80000),
    ],
)
def test_a_drift_is_followed(windows: Windows, drift: float) -> None:
    hec = list(range(1000, 2_001_000, 1000))
    lec = [time + round(drift * time) for time in hec]
    followed = searched(coincide, windows, hec, [1] * len(hec), lec, len(hec))
    assert len(followed.pairs) == len(hec)
    assert followed.filter / 4096 == pytest.approx(-drift * 2e6, abs=6)
    fixed = searched(coincide, NARROW, hec, [1] * len(hec), lec, len(hec))
    assert len(fixed.pairs) < 0.1 * len(hec)

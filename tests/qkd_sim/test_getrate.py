from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kme.errors import InputError
from photon_files import SET_A, events
from qkd_sim.detectors import n_clicks
from qkd_sim.events import TIME_PERIOD_TICKS, Events
from qkd_sim.getrate import count_windows, rate_columns


def totals(chunks: list[Events], window_ticks: int) -> list[int]:
    return [int(counts.sum()) for counts in count_windows(chunks, window_ticks)]


@pytest.mark.parametrize("side", ["hec", "lec"])
def test_rates_of_set_a_are_those_that_the_c_program_logged(side: str) -> None:
    whole = Events.read(SET_A / side / "events.raw")
    found = [n_clicks(counts) for counts in count_windows([whole])]
    logged = (SET_A / "logs" / f"getrate_{side}.log").read_text().split()
    assert found[: len(logged)] == [int(count) for count in logged]


def test_windows_begin_behind_the_first_event_and_include_their_end() -> None:
    whole = events([1000, 1000, 1010, 1011, 1020, 1031])
    assert totals([whole], 10) == [2, 2, 0]


def test_a_window_is_only_counted_when_an_event_behind_it_was_seen() -> None:
    assert totals([events([0, 1, 2, 10])], 10) == []
    assert totals([events([0, 1, 2, 10, 11])], 10) == [3]
    assert totals([], 10) == []
    assert totals([events([5])], 10) == []


def by_hand(times: list[int], window_ticks: int) -> list[int]:
    counts, open_count, end = [], 0, times[0] + window_ticks if times else 0
    for time in times[1:]:
        while time > end:
            counts.append(open_count)
            open_count = 0
            end += window_ticks
        open_count += 1
    return counts


@settings(deadline=None, max_examples=100)
@given(
    start=st.sampled_from([0, 77, TIME_PERIOD_TICKS - 40]),
    steps=st.lists(st.integers(-9, 30), max_size=50),
    window_ticks=st.integers(1, 50),
    n_events=st.integers(1, 60),
)
def test_windows_are_those_of_a_loop_over_events_however_they_come(
    start: int, steps: list[int], window_ticks: int, n_events: int
) -> None:
    times = np.cumsum([start, *[abs(step) if i == 0 else step for i, step in enumerate(steps)]])
    true = [int(time) for time in times]
    whole = events([time % TIME_PERIOD_TICKS for time in true])
    chunks = [whole.part(slice(i, i + n_events)) for i in range(0, len(whole), n_events)]
    assert totals(chunks, window_ticks) == by_hand(true, window_ticks)


def test_columns_say_how_often_each_detector_clicked() -> None:
    patterns = [1, 1, 3, 15, 0, 8]
    counts = next(count_windows([events([0, 1, 2, 3, 4, 5, 6, 99], [2, *patterns, 1])], 50))
    assert rate_columns(counts, 0, with_coincidences=False) == [5]
    assert rate_columns(counts, 4, with_coincidences=False) == [5, 2, 0, 0, 1]
    assert rate_columns(counts, 4, with_coincidences=True) == [5, 4, 2, 1, 2]
    assert rate_columns(counts, 8, with_coincidences=False) == [5, 2, 0, 0, 1, 1, 0, 0, 0]
    assert rate_columns(counts, 8, with_coincidences=True) == [5, 4, 2, 1, 2, 2, 1, 1, 1]


def test_a_window_that_is_no_time_is_refused() -> None:
    with pytest.raises(InputError, match="window is 0 ticks"):
        list(count_windows([], 0))


def test_a_clock_that_jumps_for_hours_does_not_print_for_hours() -> None:
    jump = [events([0, 1, 1 << 47])]
    with pytest.raises(InputError, match=r"no event for .* windows of 5 ticks: the clock jumped"):
        list(count_windows(jump, 5))
    assert len(list(islice(count_windows(jump, 1 << 32), 40_000))) == (1 << 15) - 1

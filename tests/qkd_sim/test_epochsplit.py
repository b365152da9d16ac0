from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kme.ids import Epoch
from photon_files import at, events, random_events
from qkd_sim.epochsplit import (
    EpochEvents,
    SplitRules,
    following,
    split_epochs,
    universal_epoch,
)
from qkd_sim.errors import EventOrderError
from qkd_sim.events import Events

KEEP_LAST = SplitRules(is_last_kept=True)
EPOCH_SECONDS = 2**29 / 1e9


class FixedClock:
    """A clock that says the same once, then fails."""

    def __init__(self, unix_s: float) -> None:
        self._times = iter([unix_s])

    def now_s(self) -> float:
        return next(self._times)

    def monotonic_s(self) -> float:
        raise NotImplementedError

    async def sleep(self, duration_s: float) -> None:
        raise NotImplementedError


def in_chunks(whole: Events, n_events: int) -> Iterator[Events]:
    for start in range(0, len(whole), n_events):
        yield whole.part(slice(start, start + n_events))


def summary(epochs: Iterator[EpochEvents]) -> list[tuple[int, list[int]]]:
    return [(each.epoch.number, each.events.times_ticks.tolist()) for each in epochs]


def test_events_are_cut_at_the_borders_of_epochs() -> None:
    whole = events([at(7, 5), at(7, (1 << 32) - 1), at(8, 0), at(9, 3)], [1, 2, 4, 8])
    found = list(split_epochs([whole], KEEP_LAST))
    assert [each.epoch for each in found] == [Epoch(7), Epoch(8), Epoch(9)]
    assert [each.offsets_ticks.tolist() for each in found] == [[5, (1 << 32) - 1], [0], [3]]
    assert [each.events.patterns.tolist() for each in found] == [[1, 2], [4], [8]]
    assert not any(each.is_universal for each in found)


def test_the_epoch_in_which_the_stream_ends_is_dropped_unless_asked_for() -> None:
    whole = events([at(7, 5), at(8, 0), at(9, 3)])
    assert [each.epoch.number for each in split_epochs([whole])] == [7, 8]
    assert list(split_epochs([events([at(7, 5)])])) == []


def test_an_empty_stream_has_no_epochs() -> None:
    assert list(split_epochs([], KEEP_LAST)) == []
    assert list(split_epochs([Events.empty()], KEEP_LAST)) == []


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 99), n_events=st.integers(1, 60), first=st.sampled_from([0, 131069]))
def test_it_does_not_matter_how_the_stream_comes_in_pieces(
    seed: int, n_events: int, first: int
) -> None:
    whole = random_events(seed, 60, 5, first)
    pieces = summary(split_epochs(in_chunks(whole, n_events), KEEP_LAST))
    assert pieces == summary(split_epochs([whole], KEEP_LAST))
    assert sum(len(times) for _, times in pieces) == 60


def test_local_epochs_and_times_wrap_together() -> None:
    last = (1 << 17) - 1
    whole = events([at(last - 1, 9), at(last, 9), at(0, 9), at(1, 9)])
    numbers = [each.epoch.number for each in split_epochs([whole], KEEP_LAST)]
    assert numbers == [last - 1, last, 0, 1]


def test_late_events_are_ignored_and_counted() -> None:
    whole = events([at(7, 50), at(7, 49), at(7, 50), at(8, 10), at(7, 99), at(8, 9), at(9, 1)])
    found = list(split_epochs([whole]))
    assert [(len(each.events), each.n_ignored) for each in found] == [(2, 1), (1, 2)]
    pieces = split_epochs(in_chunks(whole, 2))
    assert [each.n_ignored for each in pieces] == [1, 2]


def test_events_far_away_are_ignored_five_times_but_not_six() -> None:
    near, far = at(7, 50), at(90, 0)
    found = list(split_epochs([events([near, *[far] * 5, near + 1])], KEEP_LAST))
    assert [(len(each.events), each.n_ignored) for each in found] == [(2, 5)]
    stream = [events([near] * 10), events([near, *[far] * 7])]
    with pytest.raises(
        EventOrderError, match=r"raw: byte 128: event 16 is the 6th .* more than one epoch"
    ):
        list(split_epochs(stream, name="raw"))


@pytest.mark.parametrize("there", [at(9, 0), at(5, 0), at(60000, 0)])
def test_a_gap_or_a_clock_set_back_ends_the_work(there: int) -> None:
    whole = events([at(7, i) for i in range(20)] + [there + i for i in range(20)])
    with pytest.raises(EventOrderError, match="byte 200: event 25 is the 6th"):
        list(split_epochs([whole], KEEP_LAST))


def test_an_event_too_long_after_its_predecessor_is_ignored() -> None:
    whole = events([at(7, 5), at(7, 1000), at(7, 10), at(7, 2000), at(7, 2001)])
    found = list(split_epochs([whole], SplitRules(max_gap_ticks=100, is_last_kept=True)))
    assert found[0].events.times_ticks.tolist() == [at(7, 5), at(7, 10), at(7, 2001)]


@pytest.mark.parametrize("n_events", [1, 3, 100])
def test_first_events_are_skipped_and_still_counted_in_places(n_events: int) -> None:
    wild = [at(3, 0), at(900, 0), at(50, 0), at(7000, 0)]
    good = [at(7, i) for i in range(5)]
    rules = SplitRules(n_skipped_events=4, is_last_kept=True)
    found = list(split_epochs(in_chunks(events(wild + good), n_events), rules))
    assert [each.events.times_ticks.tolist() for each in found] == [good]
    bad = events(wild + good + wild * 2)
    with pytest.raises(EventOrderError, match=f"byte {(4 + 5 + 5) * 8}: event 14 is the 6th"):
        list(split_epochs(in_chunks(bad, n_events), rules))


def test_universal_epochs_ask_the_clock_once_and_count_on() -> None:
    start = (1 << 17) - 2
    whole = events([at((start + i) % (1 << 17), 5) for i in range(4)])
    universal = 0x12340000 // (1 << 17) * (1 << 17) + start
    clock = FixedClock((universal + 20) * EPOCH_SECONDS)
    found = list(split_epochs([whole], SplitRules(clock=clock, is_last_kept=True)))
    assert [each.epoch.number for each in found] == [universal + i for i in range(4)]
    assert all(each.is_universal for each in found)


def test_the_universal_epoch_of_the_c_programs_is_found() -> None:
    assert universal_epoch(0x04F86, 1795206532).file_name == "c74e4f86"


@settings(max_examples=200)
@given(
    universal=st.integers(1 << 18, (1 << 32) - (1 << 18)),
    age_epochs=st.integers(-(1 << 15) + 3, 2 * (1 << 15) - 3),
)
def test_an_event_of_the_last_hours_finds_its_universal_epoch(
    universal: int, age_epochs: int
) -> None:
    unix_s = (universal + age_epochs + 0.5) * EPOCH_SECONDS
    assert universal_epoch(universal % (1 << 17), unix_s).number == universal


def test_epochs_are_followed_by_the_next_or_the_first() -> None:
    assert following(Epoch(5), is_universal=False) == Epoch(6)
    assert following(Epoch((1 << 17) - 1), is_universal=False) == Epoch(0)
    assert following(Epoch((1 << 17) - 1), is_universal=True) == Epoch(1 << 17)
    assert following(Epoch((1 << 32) - 1), is_universal=True) == Epoch(0)


def test_only_one_epoch_is_held_at_a_time() -> None:
    taken = []

    def stream() -> Iterator[Events]:
        for number in range(5):
            taken.append(number)
            yield events([at(number, i) for i in range(3)])

    epochs = split_epochs(stream())
    assert next(epochs).epoch == Epoch(0)
    assert taken == [0, 1]
    assert np.array_equal(next(epochs).offsets_ticks, [0, 1, 2])
    assert taken == [0, 1, 2]

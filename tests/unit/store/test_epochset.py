"""The set of epochs as intervals equals a plain set, and stays small."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from kme.store.epochset import EpochSet


@given(st.lists(st.integers(0, 40)))
def test_intervals_hold_exactly_what_was_added(numbers: list[int]) -> None:
    kept, plain = EpochSet(), set[int]()
    for number in numbers:
        assert kept.add(number) == (number not in plain)
        plain.add(number)
    assert {n for first, last in kept for n in range(first, last + 1)} == plain
    assert all((n in kept) == (n in plain) for n in range(-1, 42))
    ends = [end for interval in kept for end in interval]
    assert all(b[0] - a[1] > 1 for a, b in zip(list(kept), list(kept)[1:], strict=False))
    assert ends == sorted(ends)


def test_a_run_of_epochs_is_one_interval() -> None:
    kept = EpochSet([(5, 9)])
    for number in (11, 10, 4, 3):
        kept.add(number)
    assert list(kept) == [(3, 11)]


def test_filling_up_closes_all_gaps_below_and_keeps_what_is_above() -> None:
    for begin in ([], [(3, 4), (8, 9), (20, 21)], [(0, 9)], [(11, 12)], [(10, 30)]):
        came_in = EpochSet(begin)
        before = {number for first, last in begin for number in range(first, last + 1)}
        came_in.fill(10)
        assert {n for n in range(40) if n in came_in} == before | set(range(11))
        assert list(came_in) == list(EpochSet(came_in))
        assert all(last + 1 < first for (_, last), (first, _) in itertools.pairwise(came_in))
        assert came_in.last == max(before | {10})


def test_an_empty_set_has_no_highest_number() -> None:
    assert EpochSet().last is None

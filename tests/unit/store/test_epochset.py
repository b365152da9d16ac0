"""The set of epochs as intervals equals a plain set, and stays small."""

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

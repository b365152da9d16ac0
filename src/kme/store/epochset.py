"""epochset - which epochs of a source ever came in, kept as a few intervals."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator


class EpochSet:
    """A set of epoch numbers that only grows; neighbours merge into one interval.

    Parameters
    ----------
    intervals
        Pairs (first, last), both included, in order and with gaps between.

    Examples
    --------
    >>> came_in = EpochSet()
    >>> [came_in.add(number) for number in (7, 9, 8, 7)]
    [True, True, True, False]
    >>> list(came_in)
    [(7, 9)]
    """

    def __init__(self, intervals: Iterable[tuple[int, int]] = ()) -> None:
        self._intervals = list(intervals)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._intervals)

    def __contains__(self, number: int) -> bool:
        at = self._place(number)
        return at > 0 and self._intervals[at - 1][1] >= number

    def add(self, number: int) -> bool:
        """Add an epoch's number; return False if it was in the set before."""
        if number in self:
            return False
        at = self._place(number)
        first = last = number
        begin = end = at
        if at > 0 and self._intervals[at - 1][1] == number - 1:
            begin, first = at - 1, self._intervals[at - 1][0]
        if at < len(self._intervals) and self._intervals[at][0] == number + 1:
            end, last = at + 1, self._intervals[at][1]
        self._intervals[begin:end] = [(first, last)]
        return True

    def fill(self, last: int) -> None:
        """Add all epochs up to this one, it included."""
        end = self._place(last + 1)
        behind = self._intervals[end - 1][1] if end else last
        self._intervals[:end] = [(0, max(last, behind))]

    @property
    def last(self) -> int | None:
        """The highest number in the set; None if it is empty."""
        return self._intervals[-1][1] if self._intervals else None

    def _place(self, number: int) -> int:
        """Return how many intervals begin at or before `number`."""
        return bisect_right(self._intervals, number, key=lambda interval: interval[0])

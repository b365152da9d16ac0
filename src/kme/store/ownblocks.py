"""ownblocks - blocks that a KME allocates from, as dictionaries: claims in, used-up ones out."""

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from kme.store.records import MAX_OPEN_FROM, RESERVED_GRANULES, GranuleRange, Stock


@dataclass(slots=True)
class OwnBlocks:
    """How much room is left in the own blocks of one pair, and what is claimed of them.

    Parameters
    ----------
    numbers
        The blocks that something may still be allocated of, in order.
    sizes, marks
        Their granules, and the first one never claimed, by number.
    claimed
        The first granules of the open claims, by number; only of claimed blocks.
    fresh
        The blocks that count and of which nothing was claimed: from room to numbers, in order.
    begun
        The other blocks that count.
    """

    numbers: list[int] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)
    marks: dict[int, int] = field(default_factory=dict)
    claimed: dict[int, list[int]] = field(default_factory=dict)
    fresh: dict[int, list[int]] = field(default_factory=dict)
    begun: set[int] = field(default_factory=set)

    def add(self, number: int, n_granules: int) -> None:
        """Take note of a new block, the highest so far; it doesn't count yet."""
        self.numbers.append(number)
        self.sizes[number] = n_granules
        self.marks[number] = RESERVED_GRANULES

    def between(self, above: int, upto: int) -> list[int]:
        """List the blocks with ``above < number <= upto``."""
        return self.numbers[bisect_right(self.numbers, above) : bisect_right(self.numbers, upto)]

    def room(self, number: int) -> int:
        """Return how many granules of a block were never claimed."""
        return self.sizes[number] - self.marks[number]

    def open(self, number: int) -> None:
        """Let a block count from now on."""
        if self.marks[number] > RESERVED_GRANULES:
            self.begun.add(number)
        else:
            insort(self.fresh.setdefault(self.room(number), []), number)

    def shut(self, number: int) -> None:
        """Let a block count no longer, if it does."""
        if number in self.begun:
            self.begun.remove(number)
            return
        room = self.room(number)
        equals = self.fresh.get(room, [])
        at = bisect_left(equals, number)
        if equals[at : at + 1] == [number]:
            del equals[at]
        if not equals:
            self.fresh.pop(room, None)

    def take(self, min_granules: int, want_granules: int) -> GranuleRange | None:
        """Cut a range from the begun block with the least room, else from the lowest fresh one."""
        number = self._fitting(min_granules)
        if number is None:
            return None
        start = self.marks[number]
        self.shut(number)
        self.marks[number] += min(self.room(number), want_granules)
        self.open(number)
        self.claimed.setdefault(number, []).append(start)
        return GranuleRange(number, start, self.marks[number])

    def close(self, reserved: GranuleRange) -> None:
        """Close a claim; nothing returns."""
        starts = self.claimed[reserved.block_number]
        starts.remove(reserved.start)
        if not starts:
            del self.claimed[reserved.block_number]

    def give_back(self, reserved: GranuleRange, untouched_from: int, *, is_usable: bool) -> None:
        """Close a claim; its tail returns if nothing behind it was claimed."""
        number = reserved.block_number
        self.close(reserved)
        if self.marks[number] == reserved.stop:
            self.shut(number)
            self.marks[number] = untouched_from
            if is_usable:
                self.open(number)

    def leave(self, numbers: Iterable[int], floor: int) -> list[int]:
        """Let used-up blocks go, and the smallest of too many remainders.

        Parameters
        ----------
        numbers
            The blocks that may be used up by now.
        floor
            Nothing is allocated from blocks at or below it, but what is claimed.

        Returns
        -------
        list of int
            The blocks that went.
        """
        gone = [
            number
            for number in set(numbers) & self.marks.keys() - self.claimed.keys()
            if number <= floor or not self.room(number)
        ]
        self._forget(gone)
        idle = sorted((self.room(n), n) for n in self.begun if n not in self.claimed)
        spare = [number for _, number in idle[: max(0, len(idle) - MAX_OPEN_FROM)]]
        self._forget(spare)
        return gone + spare

    def open_from(self, floor: int) -> dict[int, int]:
        """Return from where on the lowest blocks may be allocated, one more than have a name."""
        at = bisect_right(self.numbers, floor)
        named = self.numbers[at : at + MAX_OPEN_FROM + 1]
        named += [number for number in self.claimed if number <= floor]
        return {n: min([self.marks[n], *self.claimed.get(n, [])]) for n in named}

    def stock(self) -> Stock:
        """Return how many blocks that count have how much room."""
        rooms = Counter({room: len(numbers) for room, numbers in self.fresh.items()})
        rooms.update(self.room(number) for number in self.begun)
        return Stock({room: n_blocks for room, n_blocks in rooms.items() if room})

    def _fitting(self, min_granules: int) -> int | None:
        begun = [(self.room(n), n) for n in self.begun if self.room(n) >= min_granules]
        if begun:
            return min(begun)[1]
        fresh = (numbers[0] for room, numbers in self.fresh.items() if room >= min_granules)
        return min(fresh, default=None)

    def _forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.shut(number)
            del self.numbers[bisect_left(self.numbers, number)]
            del self.sizes[number], self.marks[number]

"""roomstate - how much of this KME's own blocks is left, and the claims on it: one document.

The document has at most a few hundred blocks in front, from which claims are cut;
the rest of a large stock stands in pages (`Page`), which are written once, under
names never used before, and are part of the stock while this document lists them.

Numbers are used up in order, so that the frontier moves: begun blocks first, then
the fresh one with the lowest number, wherever it stands.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from kme.store.records import (
    MAX_OPEN_FROM,
    RESERVED_GRANULES,
    Claim,
    Frontier,
    GranuleRange,
    Stock,
)

PAGE_BLOCKS: Final = 256
"""So many fresh blocks make a page."""

MAX_FRONT: Final = 2 * PAGE_BLOCKS
"""With more fresh blocks than that in front, some go to a page."""


@dataclass(frozen=True, slots=True)
class Page:
    """What is known of a page without reading it.

    Parameters
    ----------
    name
        Its name, random.
    first
        The lowest number in it.
    rooms
        From room in granules to how many of its blocks have it.
    """

    name: str
    first: int
    rooms: Mapping[int, int]

    @classmethod
    def of(cls, name: str, blocks: Mapping[int, int]) -> Self:
        """Describe the page with these blocks, from number to granules."""
        rooms = Counter(granules - RESERVED_GRANULES for granules in blocks.values())
        return cls(name, min(blocks), dict(rooms))


@dataclass(slots=True)
class OwnBlock:
    """A block in front: its granules, and the first one never claimed."""

    granules: int
    mark: int = RESERVED_GRANULES

    @property
    def room(self) -> int:
        """How many granules were never claimed."""
        return self.granules - self.mark

    @property
    def is_begun(self) -> bool:
        """Whether something of it was claimed."""
        return self.mark > RESERVED_GRANULES


@dataclass(slots=True)
class RoomState:
    """What a pair's room document says; each method is one atomic step.

    Parameters
    ----------
    peer_settled, floor_allocate
        As in `kme.store.records.PairingRecord`.
    added_up_to
        The highest number that was ever added.
    blocks
        The blocks in front, by number.
    pages
        The pages.
    claims
        The open claims, by nonce.
    spent
        Own blocks that nothing will be allocated from any more, to be destroyed.
    drawn
        Blocks whose ledger is about to be full, to be destroyed if it is.
    """

    peer_settled: int = 0
    floor_allocate: int = 0
    added_up_to: int = 0
    blocks: dict[int, OwnBlock] = field(default_factory=dict)
    pages: list[Page] = field(default_factory=list)
    claims: dict[str, Claim] = field(default_factory=dict)
    spent: set[int] = field(default_factory=set)
    drawn: set[int] = field(default_factory=set)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Read a document."""
        return cls(
            int(data.get("peer_settled", 0)),
            int(data.get("floor_allocate", 0)),
            int(data.get("added_up_to", 0)),
            {number: OwnBlock(*rest) for number, *rest in data.get("blocks", [])},
            [Page(name, first, dict(rooms)) for name, first, rooms in data.get("pages", [])],
            {
                nonce: Claim(nonce, worker, GranuleRange(number, start, stop))
                for nonce, (worker, number, start, stop) in data.get("claims", {}).items()
            },
            set(data.get("spent", [])),
            set(data.get("drawn", [])),
        )

    def to_data(self) -> dict[str, Any]:
        """Return the document."""
        return {
            "peer_settled": self.peer_settled,
            "floor_allocate": self.floor_allocate,
            "added_up_to": self.added_up_to,
            "blocks": [[number, one.granules, one.mark] for number, one in self.blocks.items()],
            "pages": [
                [page.name, page.first, [[r, n] for r, n in sorted(page.rooms.items())]]
                for page in self.pages
            ],
            "claims": {nonce: _told(claim) for nonce, claim in self.claims.items()},
            "spent": sorted(self.spent),
            "drawn": sorted(self.drawn),
        }

    def is_usable(self, number: int) -> bool:
        """Return whether a block of this number may be allocated from."""
        return self.floor_allocate < number <= self.peer_settled

    def stock(self) -> Stock:
        """Return how many usable blocks have how much room."""
        rooms = Counter(one.room for number, one in self.blocks.items() if self.is_usable(number))
        for page in self.pages:
            rooms.update(page.rooms)
        return Stock({room: n_blocks for room, n_blocks in rooms.items() if room > 0})

    def put(self, number: int, granules: int | None) -> None:
        """Take note of a new block; None says that this number is no block of our own.

        A number is settled once, but an earlier try that was killed may have
        left another block here under the newest number: nothing was claimed of
        it, and what is put now counts.
        """
        if number < self.added_up_to:
            return
        before = self.blocks.get(number)
        if before is not None and before.granules != granules and number not in self._claimed():
            del self.blocks[number]
        if granules is not None and (number > self.added_up_to or before is not None):
            self.blocks.setdefault(number, OwnBlock(granules))
            self.added_up_to = number
            self._leave(number)

    def take(self, claim: Claim, n_granules: tuple[int, int]) -> Claim | None:
        """Cut a range from the block whose turn it is, of those in front with enough room.

        `page_before` says whether one in a page comes first.

        Parameters
        ----------
        claim
            With the nonce and the worker; its range is replaced.
        n_granules
            How many at least, how many at most.
        """
        least, want = n_granules
        number = self._next(least)
        if number is None:
            return None
        one = self.blocks[number]
        start = one.mark
        one.mark += min(one.room, want)
        taken = Claim(claim.nonce, claim.worker, GranuleRange(number, start, one.mark))
        self.claims[claim.nonce] = taken
        return taken

    def page_before(self, least: int) -> Page | None:
        """Return a page to be absorbed before so much can be claimed.

        It is the first that may have a block with enough room, and a lower
        number than the block in front whose turn it would be.
        """
        number = self._next(least)
        if number is not None and self.blocks[number].is_begun:
            return None
        fitting = [page for page in self.pages if max(page.rooms) >= least]
        found = min(fitting, key=lambda page: page.first, default=None)
        return None if found is None or (number is not None and number < found.first) else found

    def _next(self, least: int) -> int | None:
        """Return the block in front to claim from: begun with the least room, else the first."""
        fitting = (
            (not one.is_begun, one.room if one.is_begun else 0, number)
            for number, one in self.blocks.items()
            if one.room >= least and self.is_usable(number)
        )
        found = min(fitting, default=None)
        return None if found is None else found[-1]

    def lowest(self, behind: int) -> int:
        """Return the lowest number that is not used up; `behind` if there is none."""
        return min([*self.blocks, *(page.first for page in self.pages)], default=behind)

    def frontier(self, settled: int) -> Frontier:
        """Return what is never allocated any more.

        Of a page only the lowest number is known, so nothing from there on is behind.

        Parameters
        ----------
        settled
            The highest number that was settled, read before this document: all own
            blocks up to it were put here.
        """
        first_paged = min((page.first for page in self.pages), default=None)
        open_from = {number: one.mark for number, one in self.blocks.items()}
        for claim in self.claims.values():
            number, start = claim.reserved.block_number, claim.reserved.start
            open_from[number] = min(start, open_from.get(number, start))
        order = sorted(open_from)
        if first_paged is not None:
            order = [number for number in order if number < first_paged]
        highest = max(settled, self.added_up_to)
        behind = first_paged or (highest + 1 if highest else 0)
        following = order[MAX_OPEN_FROM:] or [behind]
        return Frontier(following[0], {n: open_from[n] for n in order[:MAX_OPEN_FROM]})

    def give_back(self, claim: Claim, untouched_from: int) -> None:
        """Close an open claim; its tail returns if nothing behind it was claimed."""
        if self.claims.get(claim.nonce) != claim:
            return
        del self.claims[claim.nonce]
        one = self.blocks.get(claim.reserved.block_number)
        if one is not None and one.mark == claim.reserved.stop:
            one.mark = untouched_from
        self._leave(claim.reserved.block_number)

    def give_back_whole(self, nonce: str) -> None:
        """Close a claim that nobody knows of, if it is open."""
        claim = self.claims.get(nonce)
        if claim is not None:
            self.give_back(claim, claim.reserved.start)

    def close_claims(self, worker: str | None) -> int:
        """Close all open claims of a worker, or of all; return how many."""
        closed = [one for one in self.claims.values() if worker in {None, one.worker}]
        for claim in closed:
            self.give_back(claim, claim.reserved.stop)
        return len(closed)

    def raise_marks(self, peer_settled: int = 0, floor_allocate: int = 0) -> Page | None:
        """Raise what the peer settled and the floor.

        Returns
        -------
        Page or None
            A page with blocks at or below the new floor: it must be absorbed
            first, nothing has changed.
        """
        floor = max(self.floor_allocate, floor_allocate)
        for page in self.pages:
            if page.first <= floor:
                return page
        self.peer_settled = max(self.peer_settled, peer_settled)
        self.floor_allocate = floor
        for number in [number for number in self.blocks if number <= floor]:
            self._leave(number)
        return None

    def overflow(self) -> dict[int, int]:
        """Return the fresh blocks that should go to a page, from number to granules."""
        if len(self.blocks) <= MAX_FRONT:
            return {}
        fresh = sorted(number for number in self.blocks if self._is_fresh(number))
        if len(fresh) <= MAX_FRONT:
            return {}
        return {number: self.blocks[number].granules for number in fresh[-PAGE_BLOCKS:]}

    def spill(self, page: Page, blocks: Mapping[int, int]) -> bool:
        """Move blocks from the front to a page, if they are what they were."""
        if not all(
            self._is_fresh(number) and self.blocks[number].granules == granules
            for number, granules in blocks.items()
        ):
            return False
        for number in blocks:
            del self.blocks[number]
        self.pages.append(page)
        return True

    def absorb(self, page: Page, blocks: Mapping[int, int]) -> bool:
        """Move all blocks of a page to the front, if it is still listed."""
        if page not in self.pages:
            return False
        self.pages.remove(page)
        self.blocks |= {number: OwnBlock(granules) for number, granules in blocks.items()}
        return True

    def forget(self, destroyed: Iterable[int]) -> None:
        """Take note that blocks were destroyed."""
        self.spent.difference_update(destroyed)
        self.drawn.difference_update(destroyed)

    def _is_fresh(self, number: int) -> bool:
        one = self.blocks.get(number)
        return (
            one is not None
            and not one.is_begun
            and one.room > 0
            and self.is_usable(number)
            and number not in self._claimed()
        )

    def _claimed(self) -> set[int]:
        return {claim.reserved.block_number for claim in self.claims.values()}

    def _leave(self, number: int) -> None:
        """Let blocks leave that nothing will be allocated from: this one, too small remainders."""
        one, claimed = self.blocks.get(number), self._claimed()
        if one is None or number in claimed:
            return
        if one.room == 0 or number <= self.floor_allocate:
            self._spend(number)
        begun = [
            (one.room, number)
            for number, one in self.blocks.items()
            if one.is_begun and number not in claimed
        ]
        for _, spare in sorted(begun)[: max(0, len(begun) - MAX_OPEN_FROM)]:
            self._spend(spare)

    def _spend(self, number: int) -> None:
        del self.blocks[number]
        self.spent.add(number)


def _told(claim: Claim) -> list[str | int]:
    span = claim.reserved
    return [claim.worker, span.block_number, span.start, span.stop]

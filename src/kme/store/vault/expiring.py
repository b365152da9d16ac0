"""expiring - frontiers that are due in; tombstones, drawn granules, raised floors out.

What the peer owns and is behind its frontier is destroyed: bytes first, ledger
last, in batches, and after each one the pair's expiry document says how far it
came. So a call that was killed is finished by the next one, and what is done is
never looked at again. Of a block that the frontier names the granules behind
count as drawn; it is looked at again with each later frontier.

Floors and forgetting. Below the lowest number that lives at all, on either side,
there are tombstones and full ledgers only. The floors rise to there, and a day
later all versions and metadata of what lies below are removed. Then the paths are
free, and a worker that was paused in the middle of a settlement, and goes on only
now, could create the block and its fresh ledger again. Why nothing is drawn twice
nevertheless, however long it was paused:

1. It settles a number that was settled long ago: its write of the pair's document
   fails, since that was written since. So the block is in nobody's room and is
   never allocated from, and the worker itself removes what it created. Whoever
   begins to settle such a number now is refused before anything is created.
2. What it creates has version 1, and nothing ever raises that: who reads a ledger
   of version 1 reads the floor after it. The floor was durable there a day before
   the path became free, hence before the ledger came back, so it is seen, and the
   draw is refused. No ledger of version 1 is kept in memory; to one of a higher
   version that is, check-and-set does not fit. Neither needs a clock.
3. The day is for the case that two calls were paused at once, the settlement and a
   draw between reading the fresh ledger and writing it: nobody waits for the answer
   to that draw any more. That alone needs the caller's clock to be about right.

Draws never create a document: they name the version that they have read.
"""

import functools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from kme.errors import ConflictError, IntegrityError
from kme.ids import KmeId
from kme.store.records import Expiry, Frontier
from kme.store.vault.cell import MAX_TRIES, Cell, Cells, DocumentStore, all_of, busy
from kme.store.vault.expirystate import ExpiryState
from kme.store.vault.keydocs import TOMBSTONE, block_path, is_drawn_here
from kme.store.vault.ledgers import KeptLedger, forget_block, ledger_path, read_ledger
from kme.store.vault.pairing import Pairing
from kme.store.vault.rooms import Rooms

_logger = logging.getLogger(__name__)

BATCH: Final = 64
"""So many blocks are destroyed, or forgotten, before that is written down."""

MAX_BATCHES: Final = 4
"""So many batches make a call; the next one goes on."""

_NOTHING: Final = Frontier()


@dataclass(frozen=True, slots=True)
class _Bound:
    """What can be drawn no more: up to the floor, and behind the frontier."""

    frontier: Frontier
    floor: int
    settled: int

    @property
    def last(self) -> int:
        """The last number that anything can be said about."""
        return min(max(self.frontier.number - 1, self.floor), self.settled)

    def concerns(self, number: int) -> bool:
        """Return whether something of a block may have ended."""
        return number <= self.floor or number < self.frontier.number

    def open_from(self, number: int) -> int | None:
        """Return the first granule that can still be drawn; None if none can."""
        return None if number <= self.floor else self.frontier.open_from.get(number)


class Expiring:
    """The expiry documents of all pairs, and what follows from them.

    Parameters
    ----------
    documents
        Where all lies.
    pairing
        Knows what was settled, and the floor of draws.
    rooms
        Know the lowest own number that lives.
    raise_floors
        Raises both floors of a pair to a number, durably.
    """

    def __init__(
        self,
        documents: DocumentStore,
        pairing: Pairing,
        rooms: Rooms,
        raise_floors: Callable[[KmeId, int], Awaitable[None]],
    ) -> None:
        self._documents = documents
        self._pairing = pairing
        self._rooms = rooms
        self._raise_floors = raise_floors
        self._cells = Cells(self._cell)

    def _cell(self, peer: KmeId) -> Cell[ExpiryState]:
        return Cell(self._documents, f"expiry/{peer}", ExpiryState)

    async def settled(self) -> None:
        """Wait until nothing is under way."""
        await self._cells.settled()

    async def expiries(self, peer: KmeId) -> list[Expiry]:
        """Return what is noted."""
        return (await self._cells[peer,].read()).noted

    async def note(self, peer: KmeId, expiry: Expiry) -> None:
        """Note when what is behind a frontier expires."""
        await self._cells[peer,].change(lambda state: state.note(expiry))

    async def expire(self, peer: KmeId, now_unix_s: float) -> int:
        """Carry out what is due, then let the floors follow; return how many granules expired."""
        n_expired = await self.destroy(peer, now_unix_s)
        state = await self._cells[peer,].read()
        if state.is_over(now_unix_s):
            await self._forget(peer, state)
        elif state.forgotten == state.passed and state.lowest > state.passed + 1:
            await self._pass(peer, state, now_unix_s)
        return n_expired

    async def destroy(self, peer: KmeId, now_unix_s: float | None = None) -> int:
        """Destroy what expired by now, if that is given, and what the floor of draws has shut."""
        n_expired = 0
        for _ in range(MAX_BATCHES):
            n_more, is_done = await self._destroy_some(peer, now_unix_s)
            n_expired += n_more
            if is_done:
                break
        return n_expired

    async def destroy_all(self, peer: KmeId) -> None:
        """Destroy all that the floor of draws has shut, however much it is."""
        is_done = False
        while not is_done:
            _, is_done = await self._destroy_some(peer, None)

    async def _destroy_some(self, peer: KmeId, now_unix_s: float | None) -> tuple[int, bool]:
        """Do one batch; return how many granules expired, and whether that was all."""
        settled, floor = await self._pairing.settled_and_floor(peer)
        before = await self._cells[peer,].read()
        due = [] if now_unix_s is None else before.due(now_unix_s)
        bound = _Bound(due[-1].frontier if due else _NOTHING, floor, settled)
        again = [number for number in before.left if bound.concerns(number)]
        begin = before.looked_up_to + 1
        stop = max(begin, min(bound.last + 1, begin + BATCH))
        numbers = [*again, *range(begin, stop)]
        is_done = stop > bound.last
        if not numbers and not due:
            return 0, True
        found = await all_of(*(self._end(peer, number, bound) for number in numbers))
        left = set(before.left).difference(again)
        left.update(n for n, (_, is_left) in zip(numbers, found, strict=True) if is_left)
        done = due if is_done else []
        await self._cells[peer,].change(lambda state: state.looked(before, stop - 1, left, done))
        return sum(n_granules for n_granules, _ in found), is_done

    async def _end(self, peer: KmeId, number: int, bound: _Bound) -> tuple[int, bool]:
        """End what can be drawn no more of a block; return how much, and whether some is left."""
        open_from = bound.open_from(number)
        for _ in range(MAX_TRIES):
            try:
                kept = await read_ledger(self._documents, peer, number)
            except IntegrityError as error:
                # Nothing can be drawn by it; it stays until it is forgotten, to be looked into.
                _logger.error("a ledger cannot be read", extra={"error": str(error)})
                return 0, False
            if kept is None:
                return 0, False
            ended = kept.ended_before(open_from)
            n_expired = kept.ledger.n_free - ended.ledger.n_free
            try:
                if not ended.is_full:
                    if n_expired:
                        path = ledger_path(peer, number)
                        await self._documents.write(path, ended.to_data(), kept.version)
                    return n_expired, True
                await self._remove(peer, number, kept)
            except ConflictError:
                continue
            return n_expired, False
        raise busy(ledger_path(peer, number))

    async def _remove(self, peer: KmeId, number: int, kept: KeptLedger) -> None:
        """Overwrite a block's bytes, then its ledger, if that is what it was."""
        path = block_path(peer, number)
        found = await self._documents.read(path)
        data = {} if found is None else found.data
        # An own block may stand beside a ledger that a killed try left.
        is_ended = is_drawn_here(self._rooms.kme, peer, data)
        if found is not None and data and is_ended:
            await self._documents.write(path, TOMBSTONE, found.version)
        if not kept.is_full:  # which is as good as a tombstone
            await self._documents.write(ledger_path(peer, number), TOMBSTONE, kept.version)

    # Behind all that lives

    async def _pass(self, peer: KmeId, state: ExpiryState, now_unix_s: float) -> None:
        """Raise the floors to right below the lowest number that lives on either side."""
        settled, _ = await self._pairing.settled_and_floor(peer)
        room = await self._rooms.read(peer)
        number = min(state.lowest, room.lowest(behind=settled + 1)) - 1
        if number > state.passed:
            await self._raise_floors(peer, number)
            await self._cells[peer,].change(lambda now: now.passes(number, now_unix_s))

    async def _forget(self, peer: KmeId, state: ExpiryState) -> None:
        """Forget what the floors passed long ago, some of it."""
        end = min(state.forgotten + MAX_BATCHES * BATCH, state.passed)
        for begin in range(state.forgotten, end, BATCH):
            last = min(begin + BATCH, end)
            numbers = range(begin + 1, last + 1)
            await all_of(*(forget_block(self._documents, peer, number) for number in numbers))
            await self._cells[peer,].change(functools.partial(ExpiryState.forget, number=last))

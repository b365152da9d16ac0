"""stocktaker - claims and what the store has left in, what `new_keys` could give out."""

import asyncio
from dataclasses import dataclass

from kme.clock import Clock
from kme.ids import KmeId
from kme.store.ports import Store
from kme.store.records import SourceClass, Stock
from kme.supply.allocator import Allocator
from kme.supply.claim import OpenClaim
from kme.supply.ports import SupplyStock


@dataclass(frozen=True, slots=True)
class _Counted:
    """What the store had left, and which claims were ours before it was asked."""

    stored: Stock
    classes: frozenset[SourceClass]
    claims: tuple[OpenClaim, ...]
    asked_s: float


class StockTaker:
    """Counts the stock of one pair.

    What the store said may be shared for a moment by all who ask. This process
    then still knows what it has cut meanwhile; of what other processes claimed,
    the count may promise too much for that moment, as any count does as soon as
    it is sent.

    Parameters
    ----------
    peer
        The pair's other KME.
    allocator
        Whose claims count.
    store
        What else is there.
    clock
        The time.
    shared_s
        For how long an answer of the store is shared; 0 for not at all.
    """

    def __init__(
        self, peer: KmeId, allocator: Allocator, store: Store, clock: Clock, shared_s: float
    ) -> None:
        self._peer = peer
        self._allocator = allocator
        self._store = store
        self._clock = clock
        self._shared_s = shared_s
        self._counted: _Counted | None = None
        self._asking = asyncio.Lock()

    def forget(self) -> None:
        """Ask the store the next time, because something was cleared."""
        self._counted = None

    async def count(self, *, is_alive: bool) -> SupplyStock:
        """Return the stock.

        Parameters
        ----------
        is_alive
            Whether the peer is there; then a claim under way is waited for.

        Raises
        ------
        StoreUnavailableError
            If the store doesn't answer.
        """
        if is_alive:
            await self._allocator.settle()  # bounded: its calls have time-outs
        async with self._asking:
            counted = self._counted
            if counted is None or not self._counts(counted):
                counted = self._counted = await self._ask()
        # Counted are claims from before the store was asked that are still there:
        # what was claimed or given back meanwhile would count twice.
        claims = [claim for claim in counted.claims if claim in self._allocator.claims]
        pieces = dict(counted.stored.blocks_by_room)
        for claim in claims:
            pieces[claim.room] = pieces.get(claim.room, 0) + 1
        classes = counted.classes | {claim.source_class for claim in claims}
        return SupplyStock(self._peer, is_alive, classes, Stock(pieces))

    def _counts(self, counted: _Counted) -> bool:
        """Return whether it is recent, and nothing was claimed of it by this process."""
        is_recent = self._clock.monotonic_s() - counted.asked_s < self._shared_s
        return is_recent and all(claim in counted.claims for claim in self._allocator.claims)

    async def _ask(self) -> _Counted:
        claims, asked_s = self._allocator.claims, self._clock.monotonic_s()
        stored, record = await asyncio.gather(
            self._store.stock(self._peer), self._store.pairing(self._peer)
        )
        last = record.last
        classes = frozenset() if last is None else frozenset({last.proposal.source_class})
        return _Counted(stored, classes, claims, asked_s)

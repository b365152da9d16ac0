"""rooms - claims, stock and floors of each pair; used-up blocks in, tombstones out."""

import contextlib
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from kme.errors import ConflictError, IntegrityError, KmeError, StoreUnavailableError
from kme.ids import KmeId
from kme.store.records import RESERVED_GRANULES, Claim, GranuleRange, Stock
from kme.store.vault.cell import MAX_TRIES, Cell, Cells, DocumentStore, all_of
from kme.store.vault.keydocs import TOMBSTONE, block_path, is_drawn_here
from kme.store.vault.ledgers import read_ledger
from kme.store.vault.roomstate import Page, RoomState

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_NONCE_BYTES: Final = 16
_NO_RANGE: Final = GranuleRange(0, RESERVED_GRANULES, RESERVED_GRANULES + 1)


class Rooms:
    """The room documents of all pairs.

    Parameters
    ----------
    kme
        Whose blocks they are.
    documents
        Where all lies.
    """

    def __init__(self, kme: KmeId, documents: DocumentStore) -> None:
        self.kme = kme
        self._documents = documents
        self._cells = Cells(self._cell)

    def _cell(self, peer: KmeId) -> Cell[RoomState]:
        return Cell(self._documents, f"room/{peer}", RoomState)

    async def settled(self) -> None:
        """Wait until nothing is under way."""
        await self._cells.settled()

    async def read(self, peer: KmeId) -> RoomState:
        """Return what a pair's document says now."""
        return await self._cells[peer,].read()

    async def put(self, peer: KmeId, number: int, granules: int | None) -> None:
        """Take note of a new block of our own, or that this number is none."""

        def act(room: RoomState) -> dict[int, int]:
            room.put(number, granules)
            return room.overflow()

        overflow = await self._cells[peer,].change(act)
        if overflow:
            await self._spill(peer, overflow)

    async def stock(self, peer: KmeId) -> Stock:
        """Return how many usable blocks have how much room."""
        return (await self.read(peer)).stock()

    async def claim(
        self, peer: KmeId, worker: str, min_granules: int, want_granules: int
    ) -> Claim | None:
        """Cut a range from one of the pair's blocks."""
        asked = Claim(secrets.token_hex(_NONCE_BYTES), worker, _NO_RANGE)

        def act(room: RoomState) -> Claim | Page | None:
            return room.page_before(min_granules) or room.take(asked, (min_granules, want_granules))

        for _ in range(MAX_TRIES):
            found = await self._cells[peer,].change(
                act, undo=lambda room: room.give_back_whole(asked.nonce)
            )
            if not isinstance(found, Page):
                return found
            await self._absorb(peer, found)
        raise StoreUnavailableError(f"room/{peer}: no end of pages: try again")

    async def give_back(self, peer: KmeId, claim: Claim, untouched_from: int) -> None:
        """Close a claim and return its tail, if nothing behind it was claimed since."""
        await self._change(peer, lambda room: room.give_back(claim, untouched_from))

    async def claimants(self) -> frozenset[str]:
        """Return the workers with open claims."""
        rooms = await all_of(*(self.read(peer) for peer in await self._peers()))
        return frozenset(claim.worker for room in rooms for claim in room.claims.values())

    async def close_claims(self, worker: str | None) -> int:
        """Close all open claims of a worker, or of all; return how many."""
        return sum(
            await all_of(
                *(
                    self._change(peer, lambda room: room.close_claims(worker))
                    for peer in await self._peers()
                )
            )
        )

    async def _peers(self) -> list[KmeId]:
        """Return of whom there is a room."""
        names = await self._documents.names("room")
        return [KmeId(name) for name in names if not name.endswith("/")]

    async def raise_marks(
        self, peer: KmeId, peer_settled: int = 0, floor_allocate: int = 0
    ) -> None:
        """Raise what the peer settled and the floor of allocation."""
        for _ in range(MAX_TRIES):
            straddling = await self._change(
                peer, lambda room: room.raise_marks(peer_settled, floor_allocate)
            )
            if straddling is None:
                return
            await self._absorb(peer, straddling)
        raise StoreUnavailableError(f"room/{peer}: no end of pages: try again")

    # Pages

    async def _spill(self, peer: KmeId, blocks: dict[int, int]) -> None:
        """Move blocks to a new page; if that fails, they stay in front, which is as good."""
        page = Page.of(secrets.token_hex(_NONCE_BYTES), blocks)
        path = f"room/{peer}/{page.name}"
        try:
            await self._documents.write(path, {"blocks": sorted(blocks.items())}, 0)
            if not await self._cells[peer,].change(lambda room: room.spill(page, blocks)):
                await self._documents.forget(path)
        except StoreUnavailableError as error:
            _logger.warning("no page of room written", extra={"peer": peer, "error": str(error)})

    async def _absorb(self, peer: KmeId, page: Page) -> None:
        """Move a page's blocks to the front, unless somebody else just did."""
        path = f"room/{peer}/{page.name}"
        found = await self._documents.read(path)
        if found is None:
            if page in (await self.read(peer)).pages:
                raise IntegrityError(f"{path}: a page with blocks in stock is gone")
            return
        blocks = {int(number): int(granules) for number, granules in found.data["blocks"]}
        await self._cells[peer,].change(lambda room: room.absorb(page, blocks))
        try:
            await self._documents.forget(path)
        except StoreUnavailableError as error:
            # No longer listed, so it says nothing any more.
            _logger.info("page of room left behind", extra={"path": path, "error": str(error)})

    # Destroying

    async def expect_drawn(self, peer: KmeId, numbers: Iterable[int]) -> None:
        """Note that these ledgers are about to be full, so that no crash saves their blocks."""
        expected = frozenset(numbers)
        await self._cells[peer,].change(lambda room: room.drawn.update(expected))

    async def sweep(self, peer: KmeId, numbers: Sequence[int]) -> None:
        """Destroy the bytes of blocks that are used up; what fails is done by the next sweep."""
        try:
            done = await all_of(*(self._destroy(peer, number) for number in numbers))
            destroyed = [number for number, is_gone in zip(numbers, done, strict=True) if is_gone]
            if destroyed:
                await self._cells[peer,].change(lambda room: room.forget(destroyed))
        except KmeError as error:
            _logger.warning("used blocks not destroyed yet", extra={"error": str(error)})

    async def _change(self, peer: KmeId, act: Callable[[RoomState], _T]) -> _T:
        """Change a room and destroy what is used up after it."""

        def both(room: RoomState) -> tuple[_T, list[int]]:
            outcome = act(room)
            if peer == self.kme:
                room.spent.clear()  # drawn here, too: these go with their ledgers
            return outcome, sorted(room.spent | room.drawn)

        outcome, used = await self._cells[peer,].change(both)
        if used:
            await self.sweep(peer, used)
        return outcome

    async def _destroy(self, peer: KmeId, number: int) -> bool:
        """Overwrite a block's bytes; False if some of them may still be drawn."""
        path = block_path(peer, number)
        found = await self._documents.read(path)
        if found is None or not found.data:
            return True
        if is_drawn_here(self.kme, peer, found.data):
            ledger = await read_ledger(self._documents, peer, number)
            if ledger is not None and not ledger.is_full:
                return False
        with contextlib.suppress(ConflictError):  # destroyed by somebody else
            await self._documents.write(path, TOMBSTONE, found.version)
        return True

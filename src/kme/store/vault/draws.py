"""draws - ranges of granules given out once: draws that wait together are judged and written so."""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from kme.errors import ConflictError, KeyNotFoundError, KmeError, StoreUnavailableError
from kme.ids import KmeId
from kme.store import rules
from kme.store.ledger import Ledger, draw_all
from kme.store.records import GranuleRange
from kme.store.vault.cell import MAX_TRIES, DocumentStore, all_of, busy
from kme.store.vault.keydocs import is_drawn_here
from kme.store.vault.ledgers import KeptLedger, ledger_path, read_ledger
from kme.store.vault.rooms import Rooms

_logger = logging.getLogger(__name__)

_MAX_CACHED: Final = 256

_GATHER_S: Final = 0.02
"""The longest wait for more draws before a commit; nor is it longer than the last one took."""


@dataclass(slots=True, eq=False)
class _Draw:
    """A draw under way: what is left of it, and what became of it so far."""

    ranges: Sequence[GranuleRange]
    outcome: asyncio.Future[None]
    written: set[int] = field(default_factory=set)
    error: KmeError | None = None

    @property
    def numbers(self) -> set[int]:
        """The blocks that it still has to be written in."""
        return {wanted.block_number for wanted in self.ranges} - self.written

    @property
    def rest(self) -> list[GranuleRange]:
        """The ranges that it still has to be written for."""
        return [one for one in self.ranges if one.block_number not in self.written]

    def touches(self, numbers: Sequence[int]) -> bool:
        """Whether it lies in one of these blocks."""
        return any(one.block_number in numbers for one in self.ranges)


class Draws:
    """The draws of one pair.

    All that wait at the same moment are judged one after another on the
    ledgers as they were last seen, then the ledgers that change are written in
    order of their numbers, each naming the version it was judged on. If one was
    written by somebody else meanwhile, it is read and what is open is judged
    again. A draw over several blocks that no longer holds then is refused; what
    it drew already is burnt.

    Bits are never cleared, so a refusal needs no fresh ledger.

    Parameters
    ----------
    peer
        The pair's other KME.
    documents
        Where all lies.
    rooms
        Told of blocks that are used up.
    floor
        Reads the floor of draws.

    Notes
    -----
    A ledger that a paused worker brings back after it was forgotten has version 1
    (`kme.store.vault.expiring`). So one of that version is not kept in memory, and
    the floor, which had passed it by then, is read after it. Any other is the one
    made in pairing; whatever has ended it wrote a next version, or removed it, and
    check-and-set fails.
    """

    def __init__(
        self,
        peer: KmeId,
        documents: DocumentStore,
        rooms: Rooms,
        floor: Callable[[KmeId], Awaitable[int]],
    ) -> None:
        self._peer = peer
        self._documents = documents
        self._rooms = rooms
        self._read_floor = floor
        self._floor: int | None = None
        self._ledgers: OrderedDict[int, KeptLedger] = OrderedDict()
        self._waiting: list[_Draw] = []
        self._n_expected = 0
        self._are_there = asyncio.Event()
        self._ending: set[asyncio.Task[None]] = set()
        self._runner: asyncio.Task[None] | None = None

    async def draw(self, ranges: Sequence[GranuleRange]) -> None:
        """Mark ranges as drawn: all or none."""
        if not ranges:
            return
        draw = _Draw(ranges, asyncio.get_running_loop().create_future())
        self._waiting.append(draw)
        if len(self._waiting) >= self._n_expected:
            self._are_there.set()
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        await draw.outcome

    def raise_floor(self, number: int) -> None:
        """Take note that this process raised the floor."""
        if self._floor is not None:
            self._floor = max(self._floor, number)

    def forget(self) -> None:
        """Forget the ledgers in memory: some were written by somebody else in this process."""
        self._ledgers.clear()

    async def settled(self) -> None:
        """Wait until nothing is under way."""
        if self._runner is not None:
            await asyncio.wait([self._runner])
        if self._ending:
            await asyncio.wait(self._ending)

    async def _run(self) -> None:
        loop, batch = asyncio.get_running_loop(), list[_Draw]()
        try:
            while self._waiting:
                begun_s, batch, self._waiting = loop.time(), self._waiting, []
                full: Sequence[int] = ()
                try:
                    full = await self._commit(batch)
                except KmeError as error:
                    self._fail(batch, error)
                ending = [draw for draw in batch if draw.touches(full)]
                if full:
                    self._keep_running(self._end_blocks(full, ending))
                for draw in batch:
                    if draw not in ending:
                        self._answer(draw)
                n_answered, batch = len(batch), []
                await self._gather(n_answered, min(loop.time() - begun_s, _GATHER_S))
        finally:
            stopping = StoreUnavailableError("the store is stopping; these keys may be burnt")
            for draw in (*batch, *self._waiting):
                if not draw.outcome.done():
                    draw.outcome.set_exception(stopping)
            self._waiting, self._runner = [], None

    def _keep_running(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end_blocks(self, full: Sequence[int], ending: Sequence[_Draw]) -> None:
        """Destroy blocks that are used up; only who drew the last of them waits for it."""
        try:
            await self._rooms.sweep(self._peer, full)
        finally:
            for draw in ending:
                self._answer(draw)

    async def _gather(self, n_expected: int, at_most_s: float) -> None:
        """Wait a moment for as many draws again: who was just answered soon asks for more.

        Left to itself, commits of a single draw and of all others would take turns.
        """
        if len(self._waiting) >= n_expected or n_expected == 1:
            return
        self._n_expected = n_expected
        self._are_there.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._are_there.wait()
        self._n_expected = 0

    def _fail(self, batch: Sequence[_Draw], error: KmeError) -> None:
        for draw in batch:
            if draw.numbers and draw.error is None:
                draw.error = error

    def _answer(self, draw: _Draw) -> None:
        if draw.error is not None and draw.written:
            _logger.warning(
                "part of a draw burnt", extra={"peer": self._peer, "blocks": sorted(draw.written)}
            )
        if draw.outcome.done():
            return
        if draw.error is None:
            draw.outcome.set_result(None)
        else:
            draw.outcome.set_exception(draw.error)

    async def _commit(self, batch: Sequence[_Draw]) -> Sequence[int]:
        """Write all draws that hold; return the blocks that are used up with them."""
        for _ in range(MAX_TRIES):
            kept = await self._kept({number for draw in batch for number in draw.numbers})
            after = _judge(batch, kept)
            changed = {n: kept[n].marked(ledger) for n, ledger in after.items()}
            full = [n for n, one in changed.items() if one.is_full and self._ends_block(one)]
            if full:
                await self._rooms.expect_drawn(self._peer, full)
            if await self._write(batch, changed):
                return full
        self._fail(batch, busy(f"ledgers/{self._peer}"))
        return ()

    def _ends_block(self, full: KeptLedger) -> bool:
        """Return whether a block is used up with its ledger; not if we still allocate from it."""
        return is_drawn_here(self._rooms.kme, self._peer, full.about)

    async def _write(self, batch: Sequence[_Draw], changed: Mapping[int, KeptLedger]) -> bool:
        """Write ledgers; False if one of them was written by somebody else before."""
        accepted = [draw for draw in batch if draw.error is None]
        if all(len(draw.numbers) <= 1 for draw in accepted):
            done = await all_of(
                *(self._write_one(accepted, number, one) for number, one in changed.items())
            )
            return all(done)
        for number in sorted(changed):
            if not await self._write_one(accepted, number, changed[number]):
                return False
        return True

    async def _write_one(self, accepted: Sequence[_Draw], number: int, kept: KeptLedger) -> bool:
        self._ledgers.pop(number, None)
        path = ledger_path(self._peer, number)
        try:
            version = await self._documents.write(path, kept.to_data(), kept.version)
        except ConflictError:
            return False
        self._keep(number, KeptLedger(kept.ledger, kept.about, version))
        for draw in accepted:
            if number in draw.numbers:
                draw.written.add(number)
        return True

    async def _kept(self, numbers: set[int]) -> dict[int, KeptLedger]:
        """Return the ledgers of blocks that may be drawn from, read if they aren't in memory."""
        missing = [n for n in numbers if 0 < n <= rules.MAX_NUMBER and n not in self._ledgers]
        found = await all_of(*(read_ledger(self._documents, self._peer, n) for n in missing))
        fresh = {n: kept for n, kept in zip(missing, found, strict=True) if kept is not None}
        if self._floor is None or any(kept.version == 1 for kept in fresh.values()):
            self._floor = max(self._floor or 0, await self._read_floor(self._peer))
        for number, kept in fresh.items():
            self._keep(number, kept)
        known = {number: self._ledgers[number] for number in numbers if number in self._ledgers}
        return {n: kept for n, kept in (fresh | known).items() if n > self._floor}

    def _keep(self, number: int, kept: KeptLedger) -> None:
        """Keep a ledger in memory, unless it could be one that was brought back."""
        if kept.version == 1:
            return
        self._ledgers[number] = kept
        self._ledgers.move_to_end(number)
        while len(self._ledgers) > _MAX_CACHED:
            self._ledgers.popitem(last=False)


def _judge(batch: Sequence[_Draw], kept: Mapping[int, KeptLedger]) -> dict[int, Ledger]:
    """Accept or refuse each draw, as if they came one after another; return what changes."""
    ledgers: dict[int, Ledger | None] = {number: one.ledger for number, one in kept.items()}
    after: dict[int, Ledger] = {}
    for draw in batch:
        draw.error = None
        try:
            marked = draw_all(ledgers, draw.rest)
        except KeyNotFoundError as error:
            draw.error = error
        else:
            ledgers.update(marked)
            after |= marked
    return after

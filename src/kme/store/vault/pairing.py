"""pairing - proposals and verdicts in, blocks and ledgers out; the pair's document commits them.

A settlement writes block, ledger and room, none of which counts before the pair's
document says that it is settled: that write names the version that was read
first. Then the listed entries leave the inbox; until that is surely done, they
are left out of whatever is listed, and the next call of this kind finishes it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kme.errors import ConflictError
from kme.ids import KmeId, SourceId
from kme.secret import Secret
from kme.store import rules
from kme.store.ledger import Ledger
from kme.store.records import (
    FinalKey,
    FinalKeyRef,
    InboxEntry,
    KeyBlock,
    PairingRecord,
    Proposal,
    Settlement,
    Verdict,
)
from kme.store.vault.cell import MAX_TRIES, DocumentStore, all_of, busy
from kme.store.vault.inbox import Inbox
from kme.store.vault.keydocs import TOMBSTONE, KeyDocs, block_path
from kme.store.vault.ledgers import KeptLedger, forget_block, ledger_path
from kme.store.vault.pairs import PairState
from kme.store.vault.rooms import Rooms


class Pairing:
    """The records of all pairs, and the blocks that settlements make.

    Parameters
    ----------
    documents
        Where all lies.
    keydocs
        How key bytes are written.
    inbox
        What blocks are made of.
    rooms
        Where claims on them are made.
    """

    def __init__(
        self, documents: DocumentStore, keydocs: KeyDocs, inbox: Inbox, rooms: Rooms
    ) -> None:
        self._documents = documents
        self._keydocs = keydocs
        self._inbox = inbox
        self._rooms = rooms
        # The settlement of each pair after which this process has cleaned up.
        self._cleaned: dict[KmeId, Settlement] = {}

    async def pairing(self, peer: KmeId) -> PairingRecord:
        """Return the pair's record; a fresh one before the first write."""
        room, (pair, _) = await asyncio.gather(self._rooms.read(peer), self._load(peer))
        return replace(
            pair.record, peer_settled=room.peer_settled, floor_allocate=room.floor_allocate
        )

    async def floor_draw(self, peer: KmeId) -> int:
        """Return below and at which number nothing is drawn."""
        return (await self._load(peer))[0].record.floor_draw

    async def settled_and_floor(self, peer: KmeId) -> tuple[int, int]:
        """Return the highest number that was settled, and the floor of draws."""
        pair, _ = await self._load(peer)
        return pair.settled, pair.record.floor_draw

    async def open_proposal(self, peer: KmeId, proposal: Proposal) -> None:
        """Write the leader's next proposal."""
        for _ in range(MAX_TRIES):
            pair, version = await self._load(peer)
            if not rules.opens(pair.record, proposal):
                return
            await self._clean_up(peer, pair)
            is_any_gone = await self._inbox.is_any_gone(peer, proposal.entries)
            rules.check_none_gone(proposal, is_any_gone=is_any_gone)
            record = rules.opened(pair.record, proposal)
            try:
                await self._write(peer, replace(pair, record=record, is_clean=True), version)
            except ConflictError:
                continue
            return
        raise busy(_path(peer))

    async def raise_marks(self, peer: KmeId, highest: int = 0, floor_draw: int = 0) -> None:
        """Raise the highest number seen and the floor of draws; neither ever falls."""
        for _ in range(MAX_TRIES):
            pair, version = await self._load(peer)
            record = rules.raised(pair.record, floor_draw=floor_draw)
            record = replace(record, highest=max(record.highest, highest))
            if record == pair.record:
                return
            try:
                await self._write(peer, replace(pair, record=record), version)
            except ConflictError:
                continue
            return
        raise busy(_path(peer))

    async def settle(self, peer: KmeId, settlement: Settlement, key: Secret | None) -> None:
        """Write a verdict, and the block if it is equal."""
        for _ in range(MAX_TRIES):
            pair, version = await self._load(peer)
            if not rules.settles(pair.record, settlement, key):
                await self._clean_up(peer, pair)
                return
            await self._clean_up(peer, pair)
            after = replace(pair, record=rules.settled(pair.record, settlement), is_clean=False)
            try:
                if key is not None:
                    version = await self._add_block(
                        peer, _block_of(settlement.proposal, key), pair, version
                    )
                await self._write(peer, after, version)
            except ConflictError:
                await self._take_back(peer, settlement.proposal.number)
                continue
            await self._clean_up(peer, after)
            return
        raise busy(_path(peer))

    async def _take_back(self, peer: KmeId, number: int) -> None:
        """Remove what this call may have brought back after it was paused for very long.

        The number was settled, used up and forgotten meanwhile, so its paths were free.
        """
        settled, floor = await self.settled_and_floor(peer)
        if number < settled and number <= floor:
            await forget_block(self._documents, peer, number)

    async def block(self, peer: KmeId, number: int) -> KeyBlock | None:
        """Read a block with its bytes."""
        if not 0 < number <= rules.MAX_NUMBER:
            return None
        found = await self._documents.read(block_path(peer, number))
        return None if found is None else self._keydocs.to_block(peer, number, found.data)

    # The inbox as it is after the last settlement

    async def entries(
        self, peer: KmeId, source: SourceId, after: FinalKeyRef | None, limit: int
    ) -> list[InboxEntry]:
        """List entries of one source in order, behind `after`."""
        if limit <= 0:
            return []
        listed = await self._inbox.entries(peer, source, after, limit)
        left = await self._without_settled(peer, listed)
        if len(left) < len(listed):
            n_more = len(listed) - len(left)
            listed = await self._inbox.entries(peer, source, after, limit + n_more)
            left = await self._without_settled(peer, listed)
        return left[:limit]

    async def held(self, peer: KmeId, refs: Sequence[FinalKeyRef]) -> list[InboxEntry]:
        """Return those of `refs` that wait here."""
        return await self._without_settled(peer, await self._inbox.held(peer, refs))

    async def _without_settled(self, peer: KmeId, entries: list[InboxEntry]) -> list[InboxEntry]:
        """Leave out what the last settlement lists; read after the index, so that it is newer."""
        if not entries:
            return entries
        unclean = (await self._load(peer))[0].unclean
        return [entry for entry in entries if entry.ref not in unclean]

    async def final_keys(self, peer: KmeId, refs: Sequence[FinalKeyRef]) -> list[FinalKey]:
        """Read entries with their bytes; absent ones are left out."""
        here = await self.held(peer, refs)
        return await self._inbox.final_keys(peer, [entry.ref for entry in here])

    async def burn_inbox(self, peer: KmeId) -> int:
        """Remove the final keys that wait, but for those of an open proposal; return how many.

        First they wait no longer, then the pair's document is written: so a
        proposal either is there by then, and spares what it lists, or finds
        that gone. Only then bytes are overwritten.
        """
        pair, _ = await self._load(peer)
        await self._clean_up(peer, pair)
        n_burnt, to_burn = await self._inbox.begin_burning(peer, pair.listed)
        if to_burn:
            listed = (await self._fence(peer)).listed
            n_burnt -= await self._inbox.end_burning(peer, to_burn, listed)
        return n_burnt

    async def _fence(self, peer: KmeId) -> PairState:
        """Write the pair's document, so that whoever has read it before does not commit."""
        for _ in range(MAX_TRIES):
            pair, version = await self._load(peer)
            try:
                await self._write(peer, pair.fenced(), version)
            except ConflictError:
                continue
            return pair
        raise busy(_path(peer))

    # The steps of a settlement

    async def _load(self, peer: KmeId) -> tuple[PairState, int]:
        found = await self._documents.read(_path(peer))
        if found is None:
            return PairState(PairingRecord()), 0
        return PairState.from_data(found.data), found.version

    async def _write(self, peer: KmeId, pair: PairState, version: int) -> int:
        return await self._documents.write(_path(peer), pair.to_data(), version)

    async def _add_block(self, peer: KmeId, block: KeyBlock, pair: PairState, version: int) -> int:
        """Write block, ledger and room; return the version of the pair's document after it.

        An own block gets no ledger: its keys are drawn at the other KME.
        """
        about = self._keydocs.about(peer, block)
        is_drawn_here = rules.is_drawn_here(self._keydocs.kme, peer, block.owner)
        ledger = KeptLedger(Ledger.fresh(block.n_granules), about, 0)
        wanted: dict[str, Mapping[str, Any]] = {
            block_path(peer, block.number): self._keydocs.of_block(peer, block),
            ledger_path(peer, block.number): ledger.to_data() if is_drawn_here else TOMBSTONE,
        }
        found = await all_of(*(self._create(path, data) for path, data in wanted.items()))
        others = dict(zip(wanted, found, strict=True))
        if any(others.values()):
            # Left by an earlier try that was killed, with other content. Whoever else may
            # still be at it has read the pair's document before now and will not commit.
            version = await self._write(peer, pair.fenced(), version)
            for path, other in others.items():
                if other:
                    await self._documents.write(path, wanted[path], other)
        is_own = block.owner == self._keydocs.kme
        await self._rooms.put(peer, block.number, block.n_granules if is_own else None)
        return version

    async def _create(self, path: str, data: Mapping[str, Any]) -> int:
        """Create a document; return the version of another one that is there instead, or 0.

        A tombstone isn't created, only told what it has to overwrite.
        """
        if data:
            try:
                await self._documents.write(path, data, 0)
            except ConflictError:
                pass
            else:
                return 0
        found = await self._documents.read(path)
        if found is None:
            if data:
                raise ConflictError(f"{path} was forgotten meanwhile")
            return 0
        return 0 if found.data.get("digest") == data.get("digest") else found.version

    async def _clean_up(self, peer: KmeId, pair: PairState) -> None:
        """Do all that follows from the last settlement, unless it was done."""
        last = pair.record.last
        if last is None or pair.is_clean or self._cleaned.get(peer) == last:
            return
        if last.verdict is not Verdict.EQUAL:
            await self._remove_block(peer, last.proposal.number)
        await self._inbox.remove(peer, last.proposal.entries)
        self._cleaned[peer] = last

    async def _remove_block(self, peer: KmeId, number: int) -> None:
        """Make sure that there is no block of this number, whatever a killed try left or sends."""
        await self._rooms.put(peer, number, None)
        await all_of(
            *(self._bury(path) for path in (block_path(peer, number), ledger_path(peer, number)))
        )

    async def _bury(self, path: str) -> None:
        for _ in range(MAX_TRIES):
            found = await self._documents.read(path)
            if found is not None and not found.data:
                return
            try:
                await self._documents.write(path, TOMBSTONE, 0 if found is None else found.version)
            except ConflictError:
                continue
            return
        raise busy(path)


def _path(peer: KmeId) -> str:
    return f"pairs/{peer}"


def _block_of(proposal: Proposal, key: Secret) -> KeyBlock:
    return KeyBlock(
        number=proposal.number,
        owner=proposal.owner,
        source=proposal.source,
        source_class=proposal.source_class,
        lifetime_s=proposal.lifetime_s,
        key=key,
    )

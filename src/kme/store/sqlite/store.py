"""store - the calls of the port, each handed to the one writer of the store's file."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from kme.ids import Epoch, KeyId, KmeId, SaeId, SourceId
from kme.secret import Secret
from kme.store import restore, rules
from kme.store.grants import Grant, KeptGrant
from kme.store.records import (
    Claim,
    Expiry,
    FinalKey,
    FinalKeyRef,
    Frontier,
    GranuleRange,
    HeartbeatRecord,
    InboxEntry,
    Incident,
    KeyBlock,
    PairingRecord,
    Proposal,
    Settlement,
    Stock,
)
from kme.store.restore import RestoreAgreement
from kme.store.sqlite import (
    copies,
    draws,
    expiry,
    grantrows,
    heartbeats,
    inbox,
    incidents,
    pairing,
    restores,
    room,
)
from kme.store.sqlite.lock import StoreLock
from kme.store.sqlite.schema import connect
from kme.store.sqlite.seal import Sealer
from kme.store.sqlite.transaction import Transaction
from kme.store.sqlite.writer import Writer

_MAX_SWEEPS: Final = 64
"""So many times `kme.store.sqlite.expiry.CHUNK` blocks are destroyed by one call."""


class SqliteStore:
    """A `kme.store.ports.Store` in one SQLite file.

    Made by `open`. One process at a time uses the file; all reads and writes
    go through one connection of one thread, and calls that wait at the same
    time share a commit. Key bytes are sealed (`kme.store.sqlite.seal`), all
    else stands in plain columns (`kme.store.sqlite.schema`).

    Parameters
    ----------
    kme
        Whose store it is.
    lock
        The right to use the file.
    writer
        The running thread that uses it.
    """

    def __init__(self, kme: KmeId, lock: StoreLock, writer: Writer) -> None:
        self.kme = kme
        self._lock = lock
        self._writer = writer

    @classmethod
    async def open(cls, kme: KmeId, path: Path, master_key: Secret) -> Self:
        """Open a store, making its file if there is none.

        Parameters
        ----------
        kme
            Whose store it is.
        path
            The file; `path` with ``.lock`` and ``-wal`` behind it stand beside it.
        master_key
            32 bytes, the same for ever.

        Raises
        ------
        SettingsError
            If another process uses the store, it cannot be opened or written,
            is another KME's or of a newer version, or a restore was cut off.
        SealError
            If it was made with another master key.
        """
        lock = StoreLock.take(path)
        try:
            copies.require_finished(path)
            sealer = Sealer(master_key, kme)
            connection = await asyncio.to_thread(connect, path, kme, sealer)
        except BaseException:
            lock.release()
            raise
        writer = Writer(Transaction(connection, kme, sealer), asyncio.get_running_loop())
        writer.start()
        return cls(kme, lock, writer)

    async def close(self) -> None:
        """Finish what is under way and let go of the file."""
        await self._writer.close()
        self._lock.release()

    # Inbox

    async def ingest(
        self, peer: KmeId, source: SourceId, epoch: Epoch, parts: Sequence[Secret]
    ) -> bool:
        """Take one epoch's final key, once for good."""
        return await self._writer.call(inbox.ingest, peer, source, epoch, parts)

    async def inbox(
        self, peer: KmeId, source: SourceId, after: FinalKeyRef | None, limit: int
    ) -> list[InboxEntry]:
        """List entries of one source in order of epoch and part, behind `after`."""
        return await self._writer.call_traceless(inbox.entries, peer, source, after, limit)

    async def n_waiting(self, peer: KmeId, source: SourceId, most: int) -> int:
        """Return how many entries of one source wait, but no more than `most`."""
        return await self._writer.call_traceless(inbox.n_waiting, peer, source, most)

    async def held(self, peer: KmeId, refs: Sequence[FinalKeyRef]) -> list[InboxEntry]:
        """Return those of `refs` that are in the inbox now, in the order given."""
        return await self._writer.call_traceless(inbox.held, peer, refs)

    async def final_keys(self, peer: KmeId, refs: Sequence[FinalKeyRef]) -> list[FinalKey]:
        """Read entries with their bytes; absent ones are left out."""
        return await self._writer.call_traceless(inbox.final_keys, peer, refs)

    async def burn_inbox(self, peer: KmeId) -> int:
        """Remove the final keys that wait, but for those of an open proposal."""
        return await self._writer.call(inbox.burn, peer)

    # Pairing

    async def pairing(self, peer: KmeId) -> PairingRecord:
        """Return the pair's record; a fresh one before the first write."""
        return await self._writer.call_traceless(pairing.pairing, peer)

    async def open_proposal(self, peer: KmeId, proposal: Proposal) -> None:
        """Leader: write a proposal before it is sent."""
        await self._writer.call(pairing.open_proposal, peer, proposal)

    async def settle(self, peer: KmeId, settlement: Settlement, key: Secret | None) -> None:
        """Write the verdict and all that follows from it, in one step."""
        await self._writer.call(pairing.settle, peer, settlement, key)

    async def raise_peer_settled(self, peer: KmeId, number: int) -> None:
        """Note that the peer settled all numbers up to `number`; the mark only rises."""
        await self._writer.call(pairing.raise_marks, peer, number, 0, 0)

    async def raise_floors(self, peer: KmeId, allocate: int = 0, draw: int = 0) -> None:
        """Raise the floors of allocation and draws; they never fall."""
        await self._writer.call(pairing.raise_marks, peer, 0, allocate, draw)
        await self._sweep(peer)

    async def _sweep(self, peer: KmeId) -> None:
        """Destroy blocks below the floors, some at a time, so that other calls get their turn."""
        for _ in range(_MAX_SWEEPS):
            if await self._writer.call(expiry.sweep, peer):
                break

    # Supply

    async def block(self, peer: KmeId, number: int) -> KeyBlock | None:
        """Read a block with its bytes; None if there is none (any more)."""
        return await self._writer.call_traceless(pairing.block, peer, number)

    async def claim(
        self, peer: KmeId, worker: str, min_granules: int, want_granules: int
    ) -> Claim | None:
        """Reserve a range in one of this KME's own blocks, durably."""
        rules.check_wish(min_granules, want_granules)
        return await self._writer.call(room.claim, peer, worker, min_granules, want_granules)

    async def give_back(self, peer: KmeId, claim: Claim, untouched_from: int) -> None:
        """Close a claim and return what was not used of it."""
        rules.check_untouched(claim, untouched_from)
        await self._writer.call(room.give_back, peer, claim, untouched_from)

    async def close_claims(self, worker: str | None = None) -> int:
        """Close all open claims of a worker (of all workers if None); return how many."""
        return await self._writer.call(room.close_claims, worker)

    async def stock(self, peer: KmeId) -> Stock:
        """Return what `claim` could still reserve."""
        return await self._writer.call_traceless(room.stock, peer)

    async def draw(self, peer: KmeId, ranges: Sequence[GranuleRange]) -> None:
        """Mark ranges as drawn: all of them, for ever, or none."""
        await self._writer.call_traceless(draws.draw, peer, ranges)

    # Expiry

    async def frontier(self, peer: KmeId) -> Frontier:
        """Return what this KME will never allocate from any more, of its own blocks."""
        return await self._writer.call_traceless(expiry.frontier, peer)

    async def expiries(self, peer: KmeId) -> list[Expiry]:
        """Return the expiries noted and not yet carried out, the earliest first."""
        return await self._writer.call_traceless(expiry.expiries, peer)

    async def note_expiry(self, peer: KmeId, noted: Expiry) -> None:
        """Note when what is behind the peer's frontier expires."""
        await self._writer.call(expiry.note, peer, noted)

    async def expire(self, peer: KmeId, now_unix_s: float) -> int:
        """Carry out the expiries that are due, some blocks at a time."""
        await self._sweep(peer)
        n_expired, is_done = 0, False
        while not is_done:
            n_more, is_done = await self._writer.call(expiry.expire, peer, now_unix_s)
            n_expired += n_more
        return n_expired

    # Grants

    async def keep_grants(self, peer: KmeId, grants: Sequence[Grant]) -> None:
        """Draw the pads of these grants and keep the grants, in one step."""
        await self._writer.call(grantrows.keep, peer, grants)

    async def grants(self, peer: KmeId, key_ids: Sequence[KeyId]) -> dict[KeyId, KeptGrant]:
        """Return what is kept of these grants, with the bytes."""
        return await self._writer.call_traceless(grantrows.find, peer, key_ids)

    async def take_grants(self, peer: KmeId, slave: SaeId, key_ids: Sequence[KeyId]) -> None:
        """Note that a slave is given these keys: all of them or none."""
        await self._writer.call(grantrows.take, peer, slave, key_ids)

    async def purge_grants(self, now_unix_s: float, limit: int) -> int:
        """Forget grants that were due at this time."""
        return await self._writer.call(grantrows.purge, now_unix_s, limit)

    # Heartbeats

    async def heartbeat(self, peer: KmeId) -> HeartbeatRecord:
        """Return the pair's heartbeat record, freshly read."""
        return await self._writer.call_traceless(heartbeats.heartbeat, peer)

    async def begin_heartbeat(
        self, peer: KmeId, nonce: str, accepted: str | None
    ) -> HeartbeatRecord:
        """Write that a heartbeat is about to be sent, and return the record."""
        return await self._writer.call(heartbeats.begin, peer, nonce, accepted)

    async def accept_heartbeat(
        self, peer: KmeId, nonce: str, acknowledged: str | None
    ) -> HeartbeatRecord:
        """Remember the peer's heartbeat as the last one heard, if it follows."""
        return await self._writer.call(heartbeats.accept, peer, nonce, acknowledged)

    # Restore

    async def mark_restored(self, incarnation: str) -> None:
        """Note that this store was restored; with every peer that has to be agreed."""
        restore.check_incarnation(incarnation)
        await self._writer.call(restores.mark, incarnation)

    async def restoring(self, peer: KmeId) -> str | None:
        """Return the incarnation of a restore that isn't agreed with a peer yet; None if none."""
        return await self._writer.call_traceless(restores.restoring, peer)

    async def highest_epochs(self, peer: KmeId) -> Mapping[SourceId, Epoch]:
        """Return the highest epoch that ever came in, of each source that any came from."""
        return await self._writer.call_traceless(inbox.highest_epochs, peer)

    async def agree_restore(self, peer: KmeId, agreement: RestoreAgreement) -> None:
        """Restored side: give up what may have been used since, and be in step with the peer."""
        await self._writer.call(restores.agree, peer, agreement)

    async def accept_restore(self, peer: KmeId, nonce: str, highest: int) -> HeartbeatRecord:
        """Other side: never allocate again from what the restored peer has given up."""
        return await self._writer.call(restores.accept, peer, nonce, highest)

    async def retire(self, peer: KmeId) -> int:
        """Give up all that is kept for a peer that is gone for good."""
        highest = await self._writer.call(restores.retire, peer)
        await self._sweep(peer)
        return highest

    # Incidents

    async def record_incident(self, incident: Incident) -> None:
        """Keep an alarm."""
        await self._writer.call(incidents.record, incident)

    async def incidents(self, limit: int) -> list[Incident]:
        """Return the latest alarms, newest first."""
        return await self._writer.call_traceless(incidents.latest, limit)

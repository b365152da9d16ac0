"""store - the calls of the port, each handed to the documents that it changes."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, Self

from kme.errors import SettingsError, StoreUnavailableError
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
from kme.store.vault.cell import Cell, Cells, DocumentStore
from kme.store.vault.draws import Draws
from kme.store.vault.expiring import Expiring
from kme.store.vault.grants import Grants
from kme.store.vault.inbox import Inbox
from kme.store.vault.keydocs import KeyDocs
from kme.store.vault.notes import HeartbeatState, IncidentState
from kme.store.vault.pairing import Pairing
from kme.store.vault.restores import Restores
from kme.store.vault.rooms import Rooms

_DIGEST_KEY_BYTES: Final = 32


class VaultStore:
    """A `kme.store.ports.Store` in documents of HashiCorp Vault.

    Made by `open`. Any number of processes may use the same documents. There
    are no transactions: each call ends with one write under check-and-set that
    makes all before it count (the index of the inbox, the pair's document, the
    room's, a ledger), and what has to follow it is repeated until it is done.

    Which rights a process needs depends on what it calls: `ingest` creates
    ``inbox`` entries and reads and writes ``index``, nothing else.

    Parameters
    ----------
    kme
        Whose store it is.
    documents
        The documents; they are not closed with the store.
    digest_key
        The site's 32 bytes under which all that holds key has its digest.
    """

    def __init__(self, kme: KmeId, documents: DocumentStore, digest_key: Secret) -> None:
        self.kme = kme
        self._documents = documents
        keydocs = KeyDocs(kme, digest_key[:])
        self._inbox = Inbox(documents, keydocs)
        self._rooms = Rooms(kme, documents)
        self._pairing = Pairing(documents, keydocs, self._inbox, self._rooms)
        self._draws: dict[KmeId, Draws] = {}
        self._expiring = Expiring(documents, self._pairing, self._rooms, self._pass_floors)
        self._grants = Grants(documents, keydocs)
        self._heartbeats = Cells(lambda peer: Cell(documents, f"heartbeats/{peer}", HeartbeatState))
        self._incidents = Cell(documents, "incidents", IncidentState)
        self._restores = Restores(documents, self._pairing, self._inbox, self._heartbeats)
        self._n_calls = 0
        self._is_open = True
        self._is_quiet = asyncio.Event()
        self._is_quiet.set()

    @classmethod
    async def open(cls, kme: KmeId, documents: DocumentStore, digest_key: Secret) -> Self:
        """Open a store; nothing is asked of Vault before the first call.

        Raises
        ------
        SettingsError
            If the digest key hasn't 32 bytes.
        """
        if len(digest_key) != _DIGEST_KEY_BYTES:
            raise SettingsError(f"the site's digest key has not {_DIGEST_KEY_BYTES} bytes")
        return cls(kme, documents, digest_key)

    async def close(self) -> None:
        """Finish what is under way; refuse all calls from now on."""
        self._is_open = False
        await self._is_quiet.wait()
        for kind in (
            *(self._inbox, self._rooms, self._expiring),
            *(self._heartbeats, self._incidents),
        ):
            await kind.settled()
        for draws in self._draws.values():
            await draws.settled()

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        if not self._is_open:
            raise StoreUnavailableError("the store is closed")
        self._n_calls += 1
        self._is_quiet.clear()
        try:
            yield
        finally:
            self._n_calls -= 1
            if self._n_calls == 0:
                self._is_quiet.set()

    # Inbox

    async def ingest(
        self, peer: KmeId, source: SourceId, epoch: Epoch, parts: Sequence[Secret]
    ) -> bool:
        """Take one epoch's final key, once for good."""
        async with self._call():
            return await self._inbox.ingest(peer, source, epoch, parts)

    async def inbox(
        self, peer: KmeId, source: SourceId, after: FinalKeyRef | None, limit: int
    ) -> list[InboxEntry]:
        """List entries of one source in order of epoch and part, behind `after`."""
        async with self._call():
            return await self._pairing.entries(peer, source, after, limit)

    async def n_waiting(self, peer: KmeId, source: SourceId, most: int) -> int:
        """Return about how many entries of one source wait, but no more than `most`.

        Whoever takes files in may not read where pairing stands, so what was
        settled just now counts until the index says so, too.
        """
        async with self._call():
            return len(await self._inbox.entries(peer, source, None, most))

    async def held(self, peer: KmeId, refs: Sequence[FinalKeyRef]) -> list[InboxEntry]:
        """Return those of `refs` that are in the inbox now, in the order given."""
        async with self._call():
            return await self._pairing.held(peer, refs)

    async def final_keys(self, peer: KmeId, refs: Sequence[FinalKeyRef]) -> list[FinalKey]:
        """Read entries with their bytes; absent ones are left out."""
        async with self._call():
            return await self._pairing.final_keys(peer, refs)

    async def burn_inbox(self, peer: KmeId) -> int:
        """Remove the final keys that wait, but for those of an open proposal."""
        async with self._call():
            return await self._pairing.burn_inbox(peer)

    # Pairing

    async def pairing(self, peer: KmeId) -> PairingRecord:
        """Return the pair's record; a fresh one before the first write."""
        async with self._call():
            return await self._pairing.pairing(peer)

    async def open_proposal(self, peer: KmeId, proposal: Proposal) -> None:
        """Leader: write a proposal before it is sent."""
        async with self._call():
            await self._pairing.open_proposal(peer, proposal)

    async def settle(self, peer: KmeId, settlement: Settlement, key: Secret | None) -> None:
        """Write the verdict and all that follows from it, in one step."""
        async with self._call():
            await self._pairing.settle(peer, settlement, key)

    async def raise_peer_settled(self, peer: KmeId, number: int) -> None:
        """Note that the peer settled all numbers up to `number`; the mark only rises."""
        rules.check_number(number)
        async with self._call():
            await self._rooms.raise_marks(peer, peer_settled=number)

    async def raise_floors(self, peer: KmeId, allocate: int = 0, draw: int = 0) -> None:
        """Raise the floors of allocation and draws; they never fall."""
        rules.check_number(allocate)
        rules.check_number(draw)
        async with self._call():
            await self._raise_floors(peer, allocate, draw)
            if draw > 0:
                await self._expiring.destroy(peer)

    async def _raise_floors(self, peer: KmeId, allocate: int, draw: int) -> None:
        await self._pairing.raise_marks(peer, floor_draw=draw)
        self._draws_of(peer).raise_floor(draw)
        await self._rooms.raise_marks(peer, floor_allocate=allocate)

    async def _pass_floors(self, peer: KmeId, number: int) -> None:
        await self._raise_floors(peer, number, number)

    # Supply

    async def block(self, peer: KmeId, number: int) -> KeyBlock | None:
        """Read a block with its bytes; None if there is none (any more)."""
        async with self._call():
            return await self._pairing.block(peer, number)

    async def claim(
        self, peer: KmeId, worker: str, min_granules: int, want_granules: int
    ) -> Claim | None:
        """Reserve a range in one of this KME's own blocks, durably."""
        rules.check_wish(min_granules, want_granules)
        async with self._call():
            return await self._rooms.claim(peer, worker, min_granules, want_granules)

    async def give_back(self, peer: KmeId, claim: Claim, untouched_from: int) -> None:
        """Close a claim and return what was not used of it."""
        rules.check_untouched(claim, untouched_from)
        async with self._call():
            await self._rooms.give_back(peer, claim, untouched_from)

    async def claimants(self) -> frozenset[str]:
        """Return the workers that have open claims."""
        async with self._call():
            return await self._rooms.claimants()

    async def close_claims(self, worker: str | None = None) -> int:
        """Close all open claims of a worker (of all workers if None); return how many."""
        async with self._call():
            return await self._rooms.close_claims(worker)

    async def stock(self, peer: KmeId) -> Stock:
        """Return what `claim` could still reserve."""
        async with self._call():
            return await self._rooms.stock(peer)

    async def draw(self, peer: KmeId, ranges: Sequence[GranuleRange]) -> None:
        """Mark ranges as drawn: all of them, for ever, or none."""
        async with self._call():
            await self._draws_of(peer).draw(ranges)

    def _draws_of(self, peer: KmeId) -> Draws:
        if peer not in self._draws:
            self._draws[peer] = Draws(peer, self._documents, self._rooms, self._pairing.floor_draw)
        return self._draws[peer]

    # Expiry

    async def frontier(self, peer: KmeId) -> Frontier:
        """Return what this KME will never allocate from any more, of its own blocks."""
        async with self._call():
            settled, _ = await self._pairing.settled_and_floor(peer)
            return (await self._rooms.read(peer)).frontier(settled)

    async def expiries(self, peer: KmeId) -> list[Expiry]:
        """Return the expiries noted and not yet carried out, the earliest first."""
        async with self._call():
            return await self._expiring.expiries(peer)

    async def note_expiry(self, peer: KmeId, expiry: Expiry) -> None:
        """Note when what is behind the peer's frontier expires."""
        async with self._call():
            await self._expiring.note(peer, expiry)

    async def expire(self, peer: KmeId, now_unix_s: float) -> int:
        """Carry out the expiries that are due; return how many granules expired."""
        async with self._call():
            n_expired = None
            try:
                n_expired = await self._expiring.expire(peer, now_unix_s)
            finally:
                if n_expired != 0:
                    self._draws_of(peer).forget()
            return n_expired

    # Grants

    async def keep_grants(self, peer: KmeId, grants: Sequence[Grant]) -> None:
        """Draw the pads of these grants, then keep the grants."""
        async with self._call():
            await self._grants.keep(peer, grants, self._draws_of(peer).draw)

    async def grants(self, peer: KmeId, key_ids: Sequence[KeyId]) -> dict[KeyId, KeptGrant]:
        """Return what is kept of these grants, with the bytes."""
        async with self._call():
            return await self._grants.find(peer, key_ids)

    async def take_grants(self, peer: KmeId, slave: SaeId, key_ids: Sequence[KeyId]) -> None:
        """Note that a slave is given these keys: all of them or none."""
        async with self._call():
            await self._grants.take(peer, slave, key_ids)

    async def purge_grants(self, now_unix_s: float, limit: int) -> int:
        """Forget grants that were due at this time."""
        async with self._call():
            return await self._grants.purge(now_unix_s, limit)

    # Heartbeats

    async def heartbeat(self, peer: KmeId) -> HeartbeatRecord:
        """Return the pair's heartbeat record, freshly read."""
        async with self._call():
            return (await self._heartbeats[peer,].read()).record

    async def begin_heartbeat(
        self, peer: KmeId, nonce: str, accepted: str | None
    ) -> HeartbeatRecord:
        """Write that a heartbeat is about to be sent, and return the record."""
        async with self._call():
            return await self._heartbeats[peer,].change(lambda state: state.begin(nonce, accepted))

    async def accept_heartbeat(
        self, peer: KmeId, nonce: str, acknowledged: str | None
    ) -> HeartbeatRecord:
        """Remember the peer's heartbeat as the last one heard, if it follows."""
        async with self._call():
            return await self._heartbeats[peer,].change(
                lambda state: state.accept(nonce, acknowledged)
            )

    # Restore

    async def mark_restored(self, incarnation: str) -> None:
        """Note that this store was restored; with every peer that has to be agreed."""
        restore.check_incarnation(incarnation)
        async with self._call():
            await self._restores.mark(incarnation)

    async def restoring(self, peer: KmeId) -> str | None:
        """Return the incarnation of a restore that isn't agreed with a peer yet; None if none."""
        async with self._call():
            return await self._restores.restoring(peer)

    async def highest_epochs(self, peer: KmeId) -> Mapping[SourceId, Epoch]:
        """Return the highest epoch that ever came in, of each source that any came from."""
        async with self._call():
            return await self._inbox.highest_epochs(peer)

    async def agree_restore(self, peer: KmeId, agreement: RestoreAgreement) -> None:
        """Restored side: give up what may have been used since, and be in step with the peer."""
        async with self._call():
            if await self._restores.is_due(peer, agreement):
                await self._restores.fill(peer, agreement.epochs)
                highest = await self._restores.give_up(peer, agreement.highest)
                await self._raise_floors(peer, highest, highest)
                await self._grants.burn(peer)
                await self._restores.agree(peer, agreement)

    async def accept_restore(self, peer: KmeId, nonce: str, highest: int) -> HeartbeatRecord:
        """Other side: never allocate again from what the restored peer has given up."""
        rules.check_number(highest)
        async with self._call():
            highest = await self._restores.give_up(peer, highest)
            await self._raise_floors(peer, highest, 0)
            return await self._restores.accept(peer, nonce)

    async def retire(self, peer: KmeId) -> int:
        """Give up all that is kept for a peer that is gone for good."""
        async with self._call():
            highest = await self._restores.give_up(peer, 0)
            await self._raise_floors(peer, highest, highest)
            await self._grants.burn(peer)
            await self._expiring.destroy_all(peer)
            return highest

    # Incidents

    async def record_incident(self, incident: Incident) -> None:
        """Keep an alarm."""
        async with self._call():
            await self._incidents.change(lambda state: state.record(incident))

    async def incidents(self, limit: int) -> list[Incident]:
        """Return the latest alarms, newest first."""
        async with self._call():
            return (await self._incidents.read()).latest(limit)

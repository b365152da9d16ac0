"""memory - a store in dictionaries with the promises of the durable ones, for simulations."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from kme.errors import StoreUnavailableError
from kme.ids import Epoch, KeyId, KmeId, SaeId, SourceId
from kme.secret import Secret
from kme.store import restore, rules
from kme.store.grants import Grant, GrantShelf, KeptGrant, fresh_of, pads_of
from kme.store.pairstate import PairState
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

_T = TypeVar("_T")

Pause = Callable[[str], Awaitable[None]]
"""Awaited as ``before claim`` and ``after claim`` around each call's one atomic step."""


@dataclass(slots=True)
class _State:
    """What survives a crash."""

    pairs: dict[KmeId, PairState] = field(default_factory=dict)
    claims: dict[str, tuple[KmeId, Claim]] = field(default_factory=dict)
    n_claims: int = 0
    incidents: list[Incident] = field(default_factory=list)
    grants: GrantShelf = field(default_factory=GrantShelf)
    incarnation: str | None = None

    def pair(self, peer: KmeId) -> PairState:
        return self.pairs.setdefault(peer, PairState())

    def copy(self) -> "_State":
        return _State(
            {peer: pair.copy() for peer, pair in self.pairs.items()},
            dict(self.claims),
            self.n_claims,
            list(self.incidents),
            self.grants.copy(),
            self.incarnation,
        )


async def _no_pause(step: str) -> None:
    """Let a call go on at once."""


class MemoryStore:
    """A `kme.store.ports.Store` that lives as long as the process.

    It is deterministic (nonces count up). What a crash leaves is what was
    committed: `reopened` hands it to a new store, and this one refuses
    whatever its callers still try.

    Parameters
    ----------
    kme
        Whose store it is.
    pause
        Awaited before and after each call's atomic step; a simulation may let
        other tasks run there, or raise where a crash shall be.
    """

    def __init__(self, kme: KmeId, pause: Pause = _no_pause) -> None:
        self.kme = kme
        self._pause = pause
        self._state = _State()
        self._is_open = True

    def reopened(self) -> "MemoryStore":
        """Return the store as the next process finds it; this one is closed from now on."""
        self._is_open = False
        return self._holding(self._state)

    def backup(self) -> "MemoryStore":
        """Return an independent store with the present state, as a restored backup would be."""
        return self._holding(self._state.copy())

    def _holding(self, state: _State) -> "MemoryStore":
        store = MemoryStore(self.kme, self._pause)
        store._state = state
        return store

    async def _step(self, name: str, act: Callable[[], _T]) -> _T:
        await self._pause(f"before {name}")
        if not self._is_open:
            raise StoreUnavailableError("the store is closed")
        result = act()
        await self._pause(f"after {name}")
        return result

    async def close(self) -> None:
        """Refuse all calls from now on."""
        self._is_open = False

    # Inbox

    async def ingest(
        self, peer: KmeId, source: SourceId, epoch: Epoch, parts: Sequence[Secret]
    ) -> bool:
        """Take one epoch's final key, once for good."""
        inbox = self._state.pair(peer).inbox
        return await self._step("ingest", lambda: inbox.ingest(source, epoch, parts))

    async def inbox(
        self, peer: KmeId, source: SourceId, after: FinalKeyRef | None, limit: int
    ) -> list[InboxEntry]:
        """List entries of one source in order of epoch and part, behind `after`."""
        inbox = self._state.pair(peer).inbox
        return await self._step("inbox", lambda: inbox.entries(source, after, limit))

    async def n_waiting(self, peer: KmeId, source: SourceId, most: int) -> int:
        """Return how many entries of one source wait, but no more than `most`."""
        waiting = self._state.pair(peer).inbox.order.get(source, [])
        return await self._step("n_waiting", lambda: min(len(waiting), most))

    async def held(self, peer: KmeId, refs: Sequence[FinalKeyRef]) -> list[InboxEntry]:
        """Return those of `refs` that are in the inbox now, in the order given."""
        inbox = self._state.pair(peer).inbox
        return await self._step("held", lambda: inbox.held(refs))

    async def final_keys(self, peer: KmeId, refs: Sequence[FinalKeyRef]) -> list[FinalKey]:
        """Read entries with their bytes; absent ones are left out."""
        inbox = self._state.pair(peer).inbox
        return await self._step("final_keys", lambda: inbox.final_keys(refs))

    async def burn_inbox(self, peer: KmeId) -> int:
        """Remove the final keys that wait, but for those of an open proposal."""
        return await self._step("burn_inbox", self._state.pair(peer).burn_inbox)

    # Pairing

    async def pairing(self, peer: KmeId) -> PairingRecord:
        """Return the pair's record; a fresh one before the first write."""
        return await self._step("pairing", lambda: self._state.pair(peer).record)

    async def open_proposal(self, peer: KmeId, proposal: Proposal) -> None:
        """Leader: write a proposal before it is sent."""
        pair = self._state.pair(peer)
        await self._step("open_proposal", lambda: pair.open_proposal(proposal))

    async def settle(self, peer: KmeId, settlement: Settlement, key: Secret | None) -> None:
        """Write the verdict and all that follows from it, in one step."""
        pair = self._state.pair(peer)
        await self._step("settle", lambda: pair.settle(self.kme, peer, settlement, key))

    async def raise_peer_settled(self, peer: KmeId, number: int) -> None:
        """Note that the peer settled all numbers up to `number`; the mark only rises."""
        pair = self._state.pair(peer)
        await self._step("raise_peer_settled", lambda: pair.raise_marks(peer_settled=number))

    async def raise_floors(self, peer: KmeId, allocate: int = 0, draw: int = 0) -> None:
        """Raise the floors of allocation and draws; they never fall."""
        pair = self._state.pair(peer)
        await self._step(
            "raise_floors",
            lambda: pair.raise_marks(floor_allocate=allocate, floor_draw=draw),
        )

    # Supply

    async def block(self, peer: KmeId, number: int) -> KeyBlock | None:
        """Read a block with its bytes; None if there is none (any more)."""
        return await self._step("block", lambda: self._state.pair(peer).block(number))

    async def claim(
        self, peer: KmeId, worker: str, min_granules: int, want_granules: int
    ) -> Claim | None:
        """Reserve a range in one of this KME's own blocks."""
        rules.check_wish(min_granules, want_granules)
        return await self._step(
            "claim", lambda: self._claim(peer, worker, min_granules, want_granules)
        )

    def _claim(
        self, peer: KmeId, worker: str, min_granules: int, want_granules: int
    ) -> Claim | None:
        reserved = self._state.pair(peer).own.take(min_granules, want_granules)
        if reserved is None:
            return None
        self._state.n_claims += 1
        claim = Claim(f"{self._state.n_claims:032x}", worker, reserved)
        self._state.claims[claim.nonce] = peer, claim
        return claim

    async def give_back(self, peer: KmeId, claim: Claim, untouched_from: int) -> None:
        """Close a claim and return what was not used of it."""
        rules.check_untouched(claim, untouched_from)
        await self._step("give_back", lambda: self._give_back(peer, claim, untouched_from))

    def _give_back(self, peer: KmeId, claim: Claim, untouched_from: int) -> None:
        if self._state.claims.get(claim.nonce) == (peer, claim):
            del self._state.claims[claim.nonce]
            self._state.pair(peer).give_back(claim.reserved, untouched_from)

    async def close_claims(self, worker: str | None = None) -> int:
        """Close all open claims of a worker (of all workers if None); return how many."""
        return await self._step("close_claims", lambda: self._close_claims(worker))

    def _close_claims(self, worker: str | None) -> int:
        claims = self._state.claims
        closed = [n for n, (_, claim) in claims.items() if worker in {None, claim.worker}]
        ranges: dict[KmeId, list[GranuleRange]] = {}
        for nonce in closed:
            peer, claim = claims.pop(nonce)
            ranges.setdefault(peer, []).append(claim.reserved)
        for peer, reserved in ranges.items():
            self._state.pair(peer).close_claims(reserved)
        return len(closed)

    async def stock(self, peer: KmeId) -> Stock:
        """Return what `claim` could still reserve."""
        return await self._step("stock", lambda: self._state.pair(peer).stock())

    async def draw(self, peer: KmeId, ranges: Sequence[GranuleRange]) -> None:
        """Mark ranges as drawn: all of them, for ever, or none."""
        await self._step("draw", lambda: self._state.pair(peer).draw(ranges))

    # Expiry

    async def frontier(self, peer: KmeId) -> Frontier:
        """Return what this KME will never allocate from any more, of its own blocks."""
        return await self._step("frontier", lambda: self._state.pair(peer).frontier())

    async def expiries(self, peer: KmeId) -> list[Expiry]:
        """Return the expiries noted and not yet carried out, the earliest first."""
        return await self._step("expiries", lambda: list(self._state.pair(peer).expiries))

    async def note_expiry(self, peer: KmeId, expiry: Expiry) -> None:
        """Note when what is behind the peer's frontier expires."""
        pair = self._state.pair(peer)
        await self._step("note_expiry", lambda: pair.note_expiry(expiry))

    async def expire(self, peer: KmeId, now_unix_s: float) -> int:
        """Carry out the expiries that are due."""
        pair = self._state.pair(peer)
        return await self._step("expire", lambda: pair.expire(now_unix_s))

    # Grants

    async def keep_grants(self, peer: KmeId, grants: Sequence[Grant]) -> None:
        """Draw the pads of these grants and keep the grants, in one step."""
        await self._step("keep_grants", lambda: self._keep_grants(peer, grants))

    def _keep_grants(self, peer: KmeId, grants: Sequence[Grant]) -> None:
        shelf = self._state.grants
        fresh = fresh_of(shelf.find(peer, [grant.key_id for grant in grants]), grants)
        self._state.pair(peer).draw(pads_of(fresh))
        shelf.add(peer, fresh)

    async def grants(self, peer: KmeId, key_ids: Sequence[KeyId]) -> dict[KeyId, KeptGrant]:
        """Return what is kept of these grants, with the bytes."""
        return await self._step("grants", lambda: self._state.grants.find(peer, key_ids))

    async def take_grants(self, peer: KmeId, slave: SaeId, key_ids: Sequence[KeyId]) -> None:
        """Note that a slave is given these keys: all of them or none."""
        await self._step("take_grants", lambda: self._state.grants.take(peer, slave, key_ids))

    async def purge_grants(self, now_unix_s: float, limit: int) -> int:
        """Forget grants that were due at this time."""
        return await self._step("purge_grants", lambda: self._state.grants.purge(now_unix_s, limit))

    # Heartbeats

    async def heartbeat(self, peer: KmeId) -> HeartbeatRecord:
        """Return the pair's heartbeat record."""
        return await self._step("heartbeat", lambda: self._state.pair(peer).heartbeat)

    async def begin_heartbeat(
        self, peer: KmeId, nonce: str, accepted: str | None
    ) -> HeartbeatRecord:
        """Write that a heartbeat is about to be sent, and return the record."""
        pair = self._state.pair(peer)
        return await self._step("begin_heartbeat", lambda: pair.begin_heartbeat(nonce, accepted))

    async def accept_heartbeat(
        self, peer: KmeId, nonce: str, acknowledged: str | None
    ) -> HeartbeatRecord:
        """Remember the peer's heartbeat as the last one heard, if it follows."""
        pair = self._state.pair(peer)
        return await self._step(
            "accept_heartbeat", lambda: pair.accept_heartbeat(nonce, acknowledged)
        )

    # Restore

    async def mark_restored(self, incarnation: str) -> None:
        """Note that this store was restored; with every peer that has to be agreed."""
        restore.check_incarnation(incarnation)
        await self._step("mark_restored", lambda: self._mark_restored(incarnation))

    def _mark_restored(self, incarnation: str) -> None:
        self._state.incarnation = incarnation

    async def restoring(self, peer: KmeId) -> str | None:
        """Return the incarnation of a restore that isn't agreed with a peer yet; None if none."""
        return await self._step("restoring", lambda: self._restoring(peer))

    def _restoring(self, peer: KmeId) -> str | None:
        return restore.due(self._state.incarnation, self._state.pair(peer).agreed_incarnation)

    async def highest_epochs(self, peer: KmeId) -> Mapping[SourceId, Epoch]:
        """Return the highest epoch that ever came in, of each source that any came from."""
        return await self._step("highest_epochs", self._state.pair(peer).highest_epochs)

    async def agree_restore(self, peer: KmeId, agreement: RestoreAgreement) -> None:
        """Restored side: give up what may have been used since, and be in step with the peer."""
        await self._step("agree_restore", lambda: self._agree_restore(peer, agreement))

    def _agree_restore(self, peer: KmeId, agreement: RestoreAgreement) -> None:
        pair = self._state.pair(peer)
        if restore.is_due(self._state.incarnation, pair.agreed_incarnation, agreement):
            pair.agree_restore(self.kme, peer, agreement)
            self._state.grants.burn(peer)

    async def accept_restore(self, peer: KmeId, nonce: str, highest: int) -> HeartbeatRecord:
        """Other side: never allocate again from what the restored peer has given up."""
        pair = self._state.pair(peer)
        return await self._step(
            "accept_restore", lambda: pair.accept_restore(self.kme, peer, nonce, highest)
        )

    async def retire(self, peer: KmeId) -> int:
        """Give up all that is kept for a peer that is gone for good."""
        return await self._step("retire", lambda: self._retire(peer))

    def _retire(self, peer: KmeId) -> int:
        self._state.grants.burn(peer)
        return self._state.pair(peer).retire(self.kme, peer)

    # Incidents

    async def record_incident(self, incident: Incident) -> None:
        """Keep an alarm."""
        await self._step("record_incident", lambda: self._state.incidents.append(incident))

    async def incidents(self, limit: int) -> list[Incident]:
        """Return the latest alarms, newest first."""
        return await self._step("incidents", lambda: self._state.incidents[::-1][: max(limit, 0)])

"""ports - what every store promises to the stages of the flow.

One suite (`tests/store_contract.py`) holds every backend to these promises:

- What a method wrote is durable when it returns (it survives SIGKILL and loss
  of power); what it refuses leaves no trace.
- Each method is atomic: a crash in it leaves the state before or after. A
  backend without transactions (Vault) orders its writes so that repeating the
  call finishes it, and callers repeat after a restart.
- Calls may run concurrently, from several tasks and several workers.
- Key bytes are sealed at rest. What was consumed never comes back.
- The cost of a call doesn't grow with the number of blocks or entries kept.

Every method may raise `StoreUnavailableError`; after it the outcome of a write
is unknown until the call is repeated or the state is read again.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from kme.ids import Epoch, KeyId, KmeId, SaeId, SourceId
from kme.secret import Secret
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


class InboxStore(Protocol):
    """Final keys that wait to be paired, and which epochs ever came in."""

    async def ingest(
        self, peer: KmeId, source: SourceId, epoch: Epoch, parts: Sequence[Secret]
    ) -> bool:
        """Take one epoch's final key, once for good.

        The epoch joins the source's set of epochs that ever came in, in the
        same step.

        Parameters
        ----------
        peer
            The KME that gets the same key at the other end.
        source
            What made it.
        epoch
            Its first universal epoch.
        parts
            The key, split into parts of at most `MAX_BLOCK_BYTES`.

        Returns
        -------
        bool
            False if this epoch of this source came in before, whatever became
            of it since; nothing is stored then.
        """
        ...

    async def inbox(
        self, peer: KmeId, source: SourceId, after: FinalKeyRef | None, limit: int
    ) -> list[InboxEntry]:
        """List entries of one source in order of epoch and part, behind `after`."""
        ...

    async def n_waiting(self, peer: KmeId, source: SourceId, most: int) -> int:
        """Return about how many entries of one source wait, but no more than `most`.

        It needs no more rights than `ingest`. What pairing is taking away just
        now may count.
        """
        ...

    async def held(self, peer: KmeId, refs: Sequence[FinalKeyRef]) -> list[InboxEntry]:
        """Return those of `refs` that are in the inbox now, in the order given."""
        ...

    async def final_keys(self, peer: KmeId, refs: Sequence[FinalKeyRef]) -> list[FinalKey]:
        """Read entries with their bytes; absent ones are left out."""
        ...

    async def burn_inbox(self, peer: KmeId) -> int:
        """Remove the final keys that wait, of all sources; return how many.

        Those that an open proposal lists stay: its verdict is due, and needs
        them. The epochs stay known, so nothing burnt comes in again.
        """
        ...


class PairingStore(Protocol):
    """Where pairing stands, and the blocks that it makes."""

    async def pairing(self, peer: KmeId) -> PairingRecord:
        """Return the pair's record; a fresh one before the first write."""
        ...

    async def open_proposal(self, peer: KmeId, proposal: Proposal) -> None:
        """Leader: write a proposal before it is sent; `highest` becomes its number.

        Repeating the open proposal, unchanged, is allowed and does nothing.

        Raises
        ------
        PairingError
            If its number isn't above `highest`, another one is open, or
            something that it lists came in and waits no longer.
        """
        ...

    async def settle(self, peer: KmeId, settlement: Settlement, key: Secret | None) -> None:
        """Write the verdict and all that follows from it, in one step.

        With EQUAL the block comes to be with the bytes `key`, and, if its keys
        are drawn here (`kme.store.rules.is_drawn_here`), its ledger: all
        granules free, the reserved ones drawn. With VOID and UNEQUAL no block
        does. In each case the listed entries leave the inbox, `last` is
        the settlement, `highest` is at least its number, and an open proposal
        of that number is closed. Repeating the last settlement does nothing.

        Raises
        ------
        PairingError
            If the number isn't above the last settlement's (and it isn't that
            settlement itself), or `key` is missing or too much.
        """
        ...

    async def raise_peer_settled(self, peer: KmeId, number: int) -> None:
        """Note that the peer settled all numbers up to `number`; the mark only rises."""
        ...

    async def raise_floors(self, peer: KmeId, allocate: int = 0, draw: int = 0) -> None:
        """Refuse claims and draws from blocks at or below these numbers; floors only rise.

        Those of them of which nothing is claimed are destroyed. Of very many
        some are left to the next calls of `expire`, so that no call takes long.
        """
        ...


class SupplyStore(Protocol):
    """Blocks, claims on them and the ledger of what was drawn."""

    async def block(self, peer: KmeId, number: int) -> KeyBlock | None:
        """Read a block with its bytes; None if there is none (any more).

        A block is destroyed when nothing can come of it any more: one of our
        own when it is used up or below the floor and no claim on it is open,
        one that is drawn from here when all of it was drawn or expired. Of
        own blocks that were begun and that nobody claims from, only the
        `MAX_OPEN_FROM` with the most room are kept.
        """
        ...

    async def claim(
        self, peer: KmeId, worker: str, min_granules: int, want_granules: int
    ) -> Claim | None:
        """Reserve a range in one of this KME's own blocks, durably.

        Only blocks count that this KME owns, with a number that is at most
        `peer_settled` and above `floor_allocate`. Of those with room for
        `min_granules`, one that was begun (something of it was claimed) goes
        first, the one with the least room (the lowest number among equals);
        else the fresh one with the lowest number. So remainders are used up
        before fresh blocks, and numbers in order, and the frontier moves.

        Returns
        -------
        Claim or None
            At least `min_granules`, at most `want_granules` granules; None if
            no block has the room.
        """
        ...

    async def give_back(self, peer: KmeId, claim: Claim, untouched_from: int) -> None:
        """Close a claim and return what was not used of it.

        Parameters
        ----------
        peer
            The pair's other KME.
        claim
            The claim, open until now; a closed one is left alone.
        untouched_from
            First granule that was never used. The tail returns to the block
            if nothing behind it was claimed since, else it is burnt.
        """
        ...

    async def close_claims(self, worker: str | None = None) -> int:
        """Close all open claims of a worker (of all workers if None); return how many.

        Nothing of a closed claim is ever allocated again; ids that were given
        out of it stay drawable.
        """
        ...

    async def stock(self, peer: KmeId) -> Stock:
        """Return what `claim` could still reserve."""
        ...

    async def draw(self, peer: KmeId, ranges: Sequence[GranuleRange]) -> None:
        """Mark ranges as drawn: all of them, for ever, or none.

        Raises
        ------
        KeyNotFoundError
            If a block has no ledger here, is at or below `floor_draw`, a range
            ends behind its block, or all granules of one were drawn before.
        OverlapError
            If some, but not all, granules of a range were drawn before, or two
            of the ranges overlap.
        """
        ...


class ExpiryStore(Protocol):
    """When keys that nobody drew expire (ADR 0013).

    Each fact has one home: the owner of a block knows what it may still
    allocate, the other KME, where its keys are drawn, what became of the rest.
    """

    async def frontier(self, peer: KmeId) -> Frontier:
        """Return what this KME will never allocate from any more, of its own blocks.

        At most `MAX_OPEN_FROM` blocks, those with the lowest numbers that are
        not used up, are named; the next one's number, or the one behind the
        highest that was settled, is the frontier's own.
        """
        ...

    async def expiries(self, peer: KmeId) -> list[Expiry]:
        """Return the expiries noted and not yet carried out, the earliest first."""
        ...

    async def note_expiry(self, peer: KmeId, expiry: Expiry) -> None:
        """Note when what is behind the peer's frontier expires.

        Noting the last one that waits again does nothing.

        Raises
        ------
        InputError
            If `MAX_EXPIRIES` wait already, it is due before the last of them,
            or it names a time, block or granule that cannot be.
        """
        ...

    async def expire(self, peer: KmeId, now_unix_s: float) -> int:
        """Carry out the expiries that are due.

        What is behind the latest of them, of the blocks that the peer owns, can
        be drawn no more: whole blocks are destroyed, bytes first, ledger last;
        of a block that is still in use the granules behind it count as drawn.
        Interrupted anywhere and called again it goes on.

        Returns
        -------
        int
            How many granules expired that were not drawn, as far as this call
            counted them.
        """
        ...


class GrantStore(Protocol):
    """Keys granted to further slaves of this KME (`kme.store.grants`)."""

    async def keep_grants(self, peer: KmeId, grants: Sequence[Grant]) -> None:
        """Draw the pads of these grants and keep the grants, in one step; all or none.

        One that is kept already and is the same stays as it is, whatever became
        of it. In Vault a call that was cut off may have drawn pads and kept
        nothing: those keys are burnt, and the repeat is refused.

        Parameters
        ----------
        peer
            The KME where the master lives, and which owns the pads' blocks;
            this KME itself for grants without pads.
        grants
            What is granted.

        Raises
        ------
        KeyNotFoundError, OverlapError
            If a pad cannot be drawn (as `SupplyStore.draw`).
        InputError
            If another key was granted under one of the key_IDs, or one is
            listed twice.
        """
        ...

    async def grants(self, peer: KmeId, key_ids: Sequence[KeyId]) -> dict[KeyId, KeptGrant]:
        """Return what is kept of these grants, with the bytes; those not known are left out."""
        ...

    async def take_grants(self, peer: KmeId, slave: SaeId, key_ids: Sequence[KeyId]) -> None:
        """Note that a slave is given these keys: all of them, for ever, or none.

        In Vault a refusal because of another call at the same moment may leave
        some of them taken.

        Raises
        ------
        KeyNotFoundError
            If one is not here, or does not wait for this slave.
        InputError
            If one is listed twice.
        """
        ...

    async def purge_grants(self, now_unix_s: float, limit: int) -> int:
        """Forget grants that were due at this time, and shred their bytes.

        One call looks at or removes `limit` grants at most; called again and
        again it comes to all. Infinite time burns all that there are. Their
        pads stay drawn, so none of them can be kept again.

        Returns
        -------
        int
            How many were removed.
        """
        ...


class HeartbeatStore(Protocol):
    """The nonces by which a roll-back is seen."""

    async def heartbeat(self, peer: KmeId) -> HeartbeatRecord:
        """Return the pair's heartbeat record, freshly read."""
        ...

    async def begin_heartbeat(
        self, peer: KmeId, nonce: str, accepted: str | None
    ) -> HeartbeatRecord:
        """Write, in any case, that a heartbeat is about to be sent, and return the record.

        The pending one is acknowledged if it is the one that the peer
        `accepted`, and that of `nonce` is pending from then on; any other stays
        pending. So an acknowledgement needs no write of its own: one that a
        crash loses only makes the same nonce be sent again, and the peer
        accepts that one because it is what it remembers.
        """
        ...

    async def accept_heartbeat(
        self, peer: KmeId, nonce: str, acknowledged: str | None
    ) -> HeartbeatRecord:
        """Remember the peer's heartbeat as the last one heard, and return the record before it.

        Nothing changes unless the last one heard was this one or the one that
        it says was acknowledged (`kme.store.rules.follows`).
        """
        ...


class RestoreStore(Protocol):
    """That this store is an older copy of itself, until that is agreed with each peer.

    Until then nothing may be allocated, drawn, proposed or judged with a peer:
    callers see to that. Final keys may come in; the agreement burns them.
    """

    async def mark_restored(self, incarnation: str) -> None:
        """Note that this store was restored; with every peer that has to be agreed.

        That counts for peers that it doesn't know yet as well: they may have
        been known before. No other process uses the store meanwhile.

        Raises
        ------
        InputError
            If `incarnation` isn't 32 hexadecimal digits; they are fresh for each restore.
        """
        ...

    async def restoring(self, peer: KmeId) -> str | None:
        """Return the incarnation of a restore that isn't agreed with a peer yet; None if none."""
        ...

    async def highest_epochs(self, peer: KmeId) -> Mapping[SourceId, Epoch]:
        """Return the highest epoch that ever came in, of each source that any came from."""
        ...

    async def agree_restore(self, peer: KmeId, agreement: RestoreAgreement) -> None:
        """Restored side: give up what may have been used since, and be in step with the peer.

        Both floors and `highest` rise to the highest number of either side, an
        open proposal is void, what waits in the inbox is burnt, sources are
        filled up to the epochs given, and the heartbeats go on from the two
        nonces agreed on. Repeating it does nothing.

        Raises
        ------
        PairingError
            If the store isn't marked with this incarnation.
        """
        ...

    async def accept_restore(self, peer: KmeId, nonce: str, highest: int) -> HeartbeatRecord:
        """Other side: never allocate again from what the restored peer has given up.

        The floor of allocation and `highest` rise to the highest number of
        either side, an open proposal is void, what waits in the inbox is burnt
        (its counterparts are), and `nonce` counts as the last heartbeat heard.
        Draws go on: what this KME's SAEs were promised is theirs.

        Returns
        -------
        HeartbeatRecord
            The nonces after it: the peer's next heartbeat follows `nonce`, our
            next one the pending or else the acknowledged one.
        """
        ...

    async def retire(self, peer: KmeId) -> int:
        """Give up all that is kept for a peer that is gone for good (architecture: rule 13).

        Both floors rise to the highest number seen, an open proposal is void,
        what waits in the inbox is burnt, and the peer's grants are forgotten.
        Numbers, epochs and nonces stay. It may be repeated.

        Returns
        -------
        int
            The highest number seen.
        """
        ...


class IncidentStore(Protocol):
    """Alarms."""

    async def record_incident(self, incident: Incident) -> None:
        """Keep an alarm."""
        ...

    async def incidents(self, limit: int) -> list[Incident]:
        """Return the latest alarms, newest first."""
        ...


class Store(
    InboxStore,
    PairingStore,
    SupplyStore,
    ExpiryStore,
    GrantStore,
    HeartbeatStore,
    RestoreStore,
    IncidentStore,
    Protocol,
):
    """All that one KME keeps."""

    async def close(self) -> None:
        """Finish what is under way and let go of the files or connections."""
        ...

"""propose - the leader's side: final keys that both hold in, the next settled block out."""

import asyncio
import logging
from collections import deque
from dataclasses import replace
from typing import Final, TypeAlias

from kme.errors import PairingError, PeerUnavailableError
from kme.ids import KmeId, SourceId
from kme.pairing.gather import Gatherer
from kme.pairing.heartbeat import Heartbeats
from kme.pairing.pair import PairEnd
from kme.pairing.ports import PeerLink
from kme.pairing.standing import settled_number
from kme.pairing.tags import TAG_BYTES, has_right_tag, make_tag
from kme.secret import Secret
from kme.store.records import (
    MIN_BLOCK_BYTES,
    FinalKeyRef,
    Incident,
    IncidentKind,
    Proposal,
    Settlement,
    Verdict,
)

_logger = logging.getLogger(__name__)

FULL_AGAIN_S: Final = 5.0
"""A full stock is looked at again after so long."""

_Due: TypeAlias = tuple[SourceId, tuple[FinalKeyRef, ...]]


class Leader:
    """Proposes one block after the other (architecture: rules 2 to 4).

    Nothing is proposed before the last proposal is settled here, and nothing
    is sent before it is durable here. What is in memory only may be lost at
    any moment: which entries were looked at, and what was given to whom since
    the follower last said how much it has.

    Parameters
    ----------
    end
        This end of the pair, the one with the smaller id.
    link
        The way to the follower.
    heartbeats
        Whether the follower is alive, and how much it may allocate.
    """

    def __init__(self, end: PairEnd, link: PeerLink, heartbeats: Heartbeats) -> None:
        self._end = end
        self._link = link
        self._heartbeats = heartbeats
        self._gatherers = {source: Gatherer(end, link, source) for source in end.config.sources}
        self._turns = deque(end.config.sources)
        self._given: deque[tuple[int, int]] = deque()
        self._alarmed_number = 0
        self._is_at_rest = False
        self._kept_due: _Due | None = None
        self._full_until_s = 0.0
        self.opening = asyncio.Lock()
        """Held from reading what a block is made of until its proposal is written."""

    async def step(self) -> bool:
        """Do one round: settle what is open, or propose the next block and settle it.

        Returns
        -------
        bool
            Whether a block was settled, so that another one may be due at once.

        Raises
        ------
        PeerUnavailableError
            If the follower isn't there; what is open stays open.
        PairingError
            If the follower refuses, or what was proposed is no longer here.
        StoreUnavailableError
            If our own store doesn't answer.
        """
        self._heartbeats.require_alive()
        if self._end.clock.monotonic_s() < self._full_until_s:
            return False
        due: _Due | None = None
        if self._is_at_rest:
            # Nobody else proposes or settles, so the record is looked at when a block is due.
            due = await self._due()
            if due is None:
                return False
        self._is_at_rest = False
        store, peer = self._end.store, self._end.peer
        record = await store.pairing(peer)
        if record.peer_settled < settled_number(record):
            # The verdict came from the follower, which was durable with it.
            await store.raise_peer_settled(peer, settled_number(record))
        proposal = record.open_proposal or await self._open_next(record.highest + 1, due)
        if proposal is None:
            self._is_at_rest = True
            return False
        try:
            await self._settle(proposal)
        except PairingError as error:
            await self._alarm_once(proposal, error)
            raise
        return True

    async def _open_next(self, number: int, due: _Due | None) -> Proposal | None:
        """Write the next proposal durably, if a block is due from any source."""
        due = due or await self._due()
        if due is None:
            return None
        if await self._is_stock_full():
            self._kept_due = due
            self._full_until_s = self._end.clock.monotonic_s() + FULL_AGAIN_S
            return None
        async with self.opening:
            return await self._open(number, *due)

    async def _due(self) -> _Due | None:
        """Return what the next block is to be made of, if one is due; each source in turn."""
        if self._kept_due is not None:
            due, self._kept_due = self._kept_due, None
            return due
        for _ in range(len(self._turns)):
            source = self._turns[0]
            self._turns.rotate(-1)
            refs = await self._gatherers[source].gather()
            if refs:
                self._gatherers[source].forget()
                return source, refs
        return None

    async def _open(
        self, number: int, source: SourceId, refs: tuple[FinalKeyRef, ...]
    ) -> Proposal | None:
        end = self._end
        found = await end.store.final_keys(end.peer, refs)
        block = Secret.join([final_key.key for final_key in found])
        if len(block) < MIN_BLOCK_BYTES:
            return None
        untagged = Proposal(
            number,
            await self._choose_owner(number),
            tuple(final_key.ref for final_key in found),
            end.config.lifetime_s,
            end.config.sources[source],
            bytes(TAG_BYTES),
        )
        proposal = replace(untagged, tag=make_tag(end.ids, untagged, block))
        await end.store.open_proposal(end.peer, proposal)
        if proposal.owner == end.peer:
            self._given.append((number, len(block)))
        return proposal

    async def _choose_owner(self, number: int) -> KmeId:
        """Give the block to whoever may allocate less; turn by turn if both have the same."""
        end = self._end
        ours, theirs = await self._stocks()
        if ours == theirs:
            return end.ids[(number + 1) % 2]
        return end.local if ours < theirs else end.peer

    async def _is_stock_full(self) -> bool:
        """Whether both KMEs have as much as is to be kept: then final keys wait in the inbox."""
        return min(await self._stocks()) >= self._end.config.max_stock_bytes

    async def _stocks(self) -> tuple[int, int]:
        """Return how many bytes this KME may allocate, and how many the follower."""
        end, report = self._end, self._heartbeats.report
        if report is None:
            raise PeerUnavailableError(f"KME {end.peer} has not said yet what it has in stock")
        while self._given and self._given[0][0] <= report.told_settled:
            self._given.popleft()
        theirs = report.free_bytes + sum(n_bytes for _, n_bytes in self._given)
        return (await end.store.stock(end.peer)).n_bytes, theirs

    async def _settle(self, proposal: Proposal) -> None:
        end = self._end
        verdict = await self._link.propose(proposal)
        key = await self._block_of(proposal) if verdict is Verdict.EQUAL else None
        if verdict is Verdict.UNEQUAL:
            await end.store.record_incident(unequal_block(end, proposal))
        await end.store.settle(end.peer, Settlement(proposal, verdict), key)
        await end.store.raise_peer_settled(end.peer, proposal.number)
        self._heartbeats.hasten()
        log_settled(end, proposal, verdict)

    async def _alarm_once(self, proposal: Proposal, error: PairingError) -> None:
        record = await self._end.store.pairing(self._end.peer)
        # What was given up meanwhile, after a restore, is refused as it should be.
        if self._alarmed_number != proposal.number and record.open_proposal == proposal:
            await self._end.store.record_incident(broken_proposal(self._end, proposal, error))
            self._alarmed_number = proposal.number

    async def _block_of(self, proposal: Proposal) -> Secret:
        """Return the bytes that were tagged; nothing removes listed entries meanwhile."""
        end = self._end
        found = await end.store.final_keys(end.peer, proposal.entries)
        block = Secret.join([final_key.key for final_key in found])
        if len(found) != len(proposal.entries) or not has_right_tag(end.ids, proposal, block):
            raise PairingError(
                f"block {proposal.number} was found equal by KME {end.peer}, but what it is made"
                " of has changed or gone here: was the store restored from an older copy?"
            )
        return block


def unequal_block(end: PairEnd, proposal: Proposal) -> Incident:
    """Return the alarm about final keys that are not the same at both ends."""
    first, last = proposal.entries[0].epoch, proposal.entries[-1].epoch
    details = (
        f"block {proposal.number}: {len(proposal.entries)} final keys of source {proposal.source}"
        f" (epochs {first} to {last}) differ between the two KMEs and were burnt at both"
    )
    return Incident(end.peer, IncidentKind.UNEQUAL_BLOCK, end.clock.now_s(), details)


def broken_proposal(end: PairEnd, proposal: Proposal, error: PairingError) -> Incident:
    """Return the alarm about a proposal that breaks the rules of pairing."""
    details = f"block {proposal.number} of source {proposal.source}: {error.message}"
    return Incident(end.peer, IncidentKind.BROKEN_PROPOSAL, end.clock.now_s(), details)


def log_settled(end: PairEnd, proposal: Proposal, verdict: Verdict) -> None:
    """Write what became of a proposal to the log."""
    level = logging.INFO if verdict is Verdict.EQUAL else logging.WARNING
    fields = {
        "peer": end.peer,
        "number": proposal.number,
        "verdict": verdict.value,
        "owner": proposal.owner,
        "source": proposal.source,
        "n_final_keys": len(proposal.entries),
    }
    _logger.log(level, "block settled", extra=fields)

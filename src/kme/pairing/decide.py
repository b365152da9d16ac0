"""decide - the follower's side: a proposal in; equal, unequal or void out, the same for ever."""

import asyncio
import logging

from kme.errors import PairingError
from kme.pairing.heartbeat import Heartbeats
from kme.pairing.pair import MAX_ENTRIES, PairEnd
from kme.pairing.propose import broken_proposal, log_settled, unequal_block
from kme.pairing.tags import has_right_tag
from kme.secret import Secret
from kme.store import rules
from kme.store.records import (
    MAX_BLOCK_BYTES,
    MIN_BLOCK_BYTES,
    PairingRecord,
    Proposal,
    Settlement,
    Verdict,
)

_logger = logging.getLogger(__name__)


class Follower:
    """Decides about the leader's proposals (architecture: rule 2).

    Parameters
    ----------
    end
        This end of the pair, the one with the larger id.
    heartbeats
        Whether this KME was heard since it started: until then it might be an
        older copy of itself.
    """

    def __init__(self, end: PairEnd, heartbeats: Heartbeats) -> None:
        self._end = end
        self._heartbeats = heartbeats
        self.deciding = asyncio.Lock()
        """Held from reading what a block would be made of until its verdict is written."""
        self._alarmed: Proposal | None = None

    async def decide(self, proposal: Proposal) -> Verdict:
        """Return the verdict on a proposal, after all that follows from it is durable.

        Raises
        ------
        PairingError
            If the proposal breaks a rule; nothing is recorded, and the same
            number may come again.
        PeerUnavailableError
            If this KME cannot take part in pairing now.
        """
        if self._end.is_leader:
            raise PairingError(f"KME {self._end.local} leads this pair and takes no proposals")
        async with self.deciding:
            self._heartbeats.require_sound()  # here: the leader may have been restored meanwhile
            record = await self._end.store.pairing(self._end.peer)
            if record.last is not None and proposal == record.last.proposal:
                return record.last.verdict
            await self._check_number(record, proposal)
            self._check_content(proposal)
            return await self._settle(proposal)

    async def _settle(self, proposal: Proposal) -> Verdict:
        end = self._end
        verdict, key = await self._judge(proposal)
        if verdict is Verdict.UNEQUAL:
            await end.store.record_incident(unequal_block(end, proposal))
        await end.store.settle(end.peer, Settlement(proposal, verdict), key)
        log_settled(end, proposal, verdict)
        return verdict

    async def _judge(self, proposal: Proposal) -> tuple[Verdict, Secret | None]:
        """Return the verdict, and the block's bytes if it is equal."""
        end = self._end
        entries = await end.store.held(end.peer, proposal.entries)
        if len(entries) != len(proposal.entries):
            return Verdict.VOID, None
        n_bytes = sum(entry.n_bytes for entry in entries)
        if not MIN_BLOCK_BYTES <= n_bytes <= MAX_BLOCK_BYTES:
            raise PairingError(
                f"block {proposal.number} would have {n_bytes} bytes, not"
                f" {MIN_BLOCK_BYTES} to {MAX_BLOCK_BYTES}"
            )
        final_keys = await end.store.final_keys(end.peer, proposal.entries)
        block = Secret.join([final_key.key for final_key in final_keys])
        if has_right_tag(end.ids, proposal, block):
            return Verdict.EQUAL, block
        return Verdict.UNEQUAL, None

    async def _check_number(self, record: PairingRecord, proposal: Proposal) -> None:
        """Refuse a number that was judged before, unless its verdict is to be repeated."""
        if proposal.number > record.highest:
            rules.check_step(record, proposal.number)
            return
        error = PairingError(
            f"block {proposal.number} cannot be proposed to KME {self._end.local},"
            f" it has judged all numbers up to {record.highest}"
        )
        # Below the highest number it may be an old message that comes late: no alarm then.
        if proposal.number == record.highest and proposal != self._alarmed:
            await self._end.store.record_incident(broken_proposal(self._end, proposal, error))
            self._alarmed = proposal
        raise error

    def _check_content(self, proposal: Proposal) -> None:
        end = self._end
        if proposal.owner not in end.ids:
            raise PairingError(f"the owner {proposal.owner} is not a KME of this pair")
        source_class = end.config.sources.get(proposal.source)
        if source_class is None:
            raise PairingError(f"KME {end.local} has no source {proposal.source} for this pair")
        if source_class is not proposal.source_class:
            raise PairingError(
                f"source {proposal.source} is {source_class} at KME {end.local},"
                f" {proposal.source_class} in the proposal"
            )
        if len(proposal.entries) > MAX_ENTRIES:
            raise PairingError(f"a block is made of at most {MAX_ENTRIES} final keys")

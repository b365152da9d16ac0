"""pairstate - all that a KME keeps for one pair, as dictionaries; each method one atomic step."""

import copy
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from kme.ids import Epoch, KmeId, SourceId
from kme.secret import Secret
from kme.store import restore, rules
from kme.store.epochset import EpochSet
from kme.store.ledger import Ledger, draw_all, expire_all
from kme.store.ownblocks import OwnBlocks
from kme.store.records import (
    Expiry,
    FinalKey,
    FinalKeyRef,
    Frontier,
    GranuleRange,
    HeartbeatRecord,
    InboxEntry,
    KeyBlock,
    PairingRecord,
    Proposal,
    Settlement,
    Stock,
)
from kme.store.restore import RestoreAgreement


@dataclass(slots=True)
class Inbox:
    """Final keys that wait, and the epochs that ever came in, per source."""

    keys: dict[FinalKeyRef, Secret] = field(default_factory=dict)
    order: dict[SourceId, list[FinalKeyRef]] = field(default_factory=dict)
    epochs: dict[SourceId, EpochSet] = field(default_factory=dict)

    def ingest(self, source: SourceId, epoch: Epoch, parts: Sequence[Secret]) -> bool:
        """Take one epoch's final key, or return False if it came in before."""
        rules.check_parts(parts)
        if not self.epochs.setdefault(source, EpochSet()).add(epoch.number):
            return False
        for part, key in enumerate(parts):
            ref = FinalKeyRef(source, epoch, part)
            self.keys[ref] = key[:]
            insort(self.order.setdefault(source, []), ref)
        return True

    def entries(self, source: SourceId, after: FinalKeyRef | None, limit: int) -> list[InboxEntry]:
        """List entries in order, behind `after`."""
        order = self.order.get(source, [])
        begin = 0 if after is None else bisect_right(order, replace(after, source=source))
        return self.held(order[begin : begin + max(limit, 0)])

    def held(self, refs: Sequence[FinalKeyRef]) -> list[InboxEntry]:
        """Return those of `refs` that wait here."""
        return [InboxEntry(ref, len(self.keys[ref])) for ref in refs if ref in self.keys]

    def final_keys(self, refs: Sequence[FinalKeyRef]) -> list[FinalKey]:
        """Return copies of those of `refs` that wait here."""
        return [FinalKey(ref, self.keys[ref][:]) for ref in refs if ref in self.keys]

    def is_any_gone(self, refs: Sequence[FinalKeyRef]) -> bool:
        """Return whether one of these came in and waits no longer."""
        return any(
            ref.epoch.number in self.epochs.get(ref.source, EpochSet()) and ref not in self.keys
            for ref in refs
        )

    def remove(self, refs: Sequence[FinalKeyRef]) -> None:
        """Forget entries and wipe their bytes."""
        for ref in refs:
            if ref in self.keys:
                self.keys.pop(ref).wipe()
                order = self.order[ref.source]
                del order[bisect_left(order, ref)]


@dataclass(slots=True)
class PairState:
    """All that is kept for the pair of this KME and one other.

    Blocks and ledgers stand in the order of their numbers, because they came in it.
    """

    record: PairingRecord = field(default_factory=PairingRecord)
    heartbeat: HeartbeatRecord = field(default_factory=HeartbeatRecord)
    inbox: Inbox = field(default_factory=Inbox)
    own: OwnBlocks = field(default_factory=OwnBlocks)
    blocks: dict[int, KeyBlock] = field(default_factory=dict)
    ledgers: dict[int, Ledger] = field(default_factory=dict)
    expiries: list[Expiry] = field(default_factory=list)
    agreed_incarnation: str | None = None

    def open_proposal(self, proposal: Proposal) -> None:
        """Write the leader's next proposal."""
        if rules.opens(self.record, proposal):
            rules.check_none_gone(proposal, is_any_gone=self.inbox.is_any_gone(proposal.entries))
            self.record = rules.opened(self.record, proposal)

    def settle(self, kme: KmeId, peer: KmeId, settlement: Settlement, key: Secret | None) -> None:
        """Write a verdict, and the block if it is equal."""
        if not rules.settles(self.record, settlement, key):
            return
        self.record = rules.settled(self.record, settlement)
        proposal = settlement.proposal
        if key is not None:
            self._add_block(kme, peer, proposal, key)
        self.inbox.remove(proposal.entries)

    def burn_inbox(self) -> int:
        """Remove the final keys that wait, but for those of an open proposal; return how many."""
        listed = self.record.open_proposal.entries if self.record.open_proposal else ()
        burnt = [ref for ref in self.inbox.keys if ref not in listed]
        self.inbox.remove(burnt)
        return len(burnt)

    def _add_block(self, kme: KmeId, peer: KmeId, proposal: Proposal, key: Secret) -> None:
        number = proposal.number
        block = KeyBlock(
            number=number,
            owner=proposal.owner,
            source=proposal.source,
            source_class=proposal.source_class,
            lifetime_s=proposal.lifetime_s,
            key=key[:],
        )
        self.blocks[number] = block
        if rules.is_drawn_here(kme, peer, block.owner):
            self._keep_ledgers({number: Ledger.fresh(block.n_granules)})
        if block.owner == kme:
            self.own.add(number, block.n_granules)
            if rules.is_usable(self.record, number):
                self.own.open(number)
            self._leave([number])

    def raise_marks(
        self, peer_settled: int = 0, floor_allocate: int = 0, floor_draw: int = 0
    ) -> None:
        """Raise what the peer settled and the floors; none of them ever falls."""
        before = self.record
        after = rules.raised(before, peer_settled, floor_allocate, floor_draw)
        self.record = after
        for number in self.own.between(*rules.shut_by(before, after)):
            self.own.shut(number)
        for number in self.own.between(*rules.opened_by(before, after)):
            self.own.open(number)
        self._leave(self.own.between(0, after.floor_allocate))
        self._expire(lambda number: number <= after.floor_draw, {})

    def give_back(self, reserved: GranuleRange, untouched_from: int) -> None:
        """Return a closed claim's tail to its block, if nothing behind it was claimed."""
        number = reserved.block_number
        is_usable = rules.is_usable(self.record, number)
        self.own.give_back(reserved, untouched_from, is_usable=is_usable)
        self._leave([number])

    def close_claims(self, ranges: Iterable[GranuleRange]) -> None:
        """Close claims of which nothing returns."""
        closed = list(ranges)
        for reserved in closed:
            self.own.close(reserved)
        self._leave([reserved.block_number for reserved in closed])

    def stock(self) -> Stock:
        """Return how many blocks have how much room."""
        return self.own.stock()

    def frontier(self) -> Frontier:
        """Return what is never allocated any more of the own blocks."""
        return rules.frontier(self.own.open_from(self.record.floor_allocate), self.record)

    def draw(self, ranges: Sequence[GranuleRange]) -> None:
        """Mark ranges as drawn: all or none."""
        ledgers = {
            wanted.block_number: self.ledgers.get(wanted.block_number)
            for wanted in ranges
            if wanted.block_number > self.record.floor_draw
        }
        self._keep_ledgers(draw_all(ledgers, ranges))

    def note_expiry(self, expiry: Expiry) -> None:
        """Note when what is behind the peer's frontier expires."""
        if rules.notes(self.expiries, expiry):
            self.expiries.append(expiry)

    def expire(self, now_unix_s: float) -> int:
        """Carry out the expiries that are due; return how many granules expired undrawn."""
        due = [one for one in self.expiries if one.due_unix_s <= now_unix_s]
        if not due:
            return 0
        self.expiries = self.expiries[len(due) :]
        frontier = due[-1].frontier
        return self._expire(lambda number: number < frontier.number, frontier.open_from)

    def _expire(self, is_behind: Callable[[int], bool], open_from: Mapping[int, int]) -> int:
        numbers = takewhile(is_behind, self.ledgers)
        after, n_expired = expire_all({n: self.ledgers[n] for n in numbers}, open_from)
        self._keep_ledgers(after)
        return n_expired

    def _keep_ledgers(self, changed: Mapping[int, Ledger]) -> None:
        """Keep ledgers as they are now, and destroy the blocks of which all was drawn."""
        self.ledgers.update(changed)
        for number, ledger in changed.items():
            if ledger.is_full:
                del self.ledgers[number]
                self._destroy(number)

    def _leave(self, numbers: Iterable[int]) -> None:
        """Destroy own blocks of which nothing is allocated any more, unless they are drawn here."""
        for number in self.own.leave(numbers, self.record.floor_allocate):
            if number not in self.ledgers:
                self._destroy(number)

    def _destroy(self, number: int) -> None:
        block = self.blocks.pop(number, None)
        if block is not None:
            block.key.wipe()

    def begin_heartbeat(self, nonce: str, accepted: str | None) -> HeartbeatRecord:
        """Write that a heartbeat is about to be sent."""
        self.heartbeat = rules.begun(self.heartbeat, nonce, accepted)
        return self.heartbeat

    def accept_heartbeat(self, nonce: str, acknowledged: str | None) -> HeartbeatRecord:
        """Remember the peer's heartbeat as the last one heard, if it follows."""
        before = self.heartbeat
        self.heartbeat = rules.heard(before, nonce, acknowledged)
        return before

    def highest_epochs(self) -> Mapping[SourceId, Epoch]:
        """Return the highest epoch of each source."""
        lasts = {source: epochs.last for source, epochs in self.inbox.epochs.items()}
        return {source: Epoch(last) for source, last in lasts.items() if last is not None}

    def agree_restore(self, kme: KmeId, peer: KmeId, agreement: RestoreAgreement) -> None:
        """Give up what may have been used since this state, and be in step with the peer."""
        highest = self._give_up(kme, peer, agreement.highest)
        self.raise_marks(floor_allocate=highest, floor_draw=highest)
        for source, epoch in agreement.epochs.items():
            self.inbox.epochs.setdefault(source, EpochSet()).fill(epoch.number)
        self.heartbeat = restore.heartbeat_agreed(agreement)
        self.agreed_incarnation = agreement.incarnation

    def accept_restore(self, kme: KmeId, peer: KmeId, nonce: str, highest: int) -> HeartbeatRecord:
        """Never allocate again from what the restored peer has given up."""
        self.raise_marks(floor_allocate=self._give_up(kme, peer, highest))
        self.heartbeat = restore.heartbeat_accepted(self.heartbeat, nonce)
        return self.heartbeat

    def retire(self, kme: KmeId, peer: KmeId) -> int:
        """Give up all of a peer that is gone for good, and return the highest number seen."""
        highest = self._give_up(kme, peer, 0)
        self.raise_marks(floor_allocate=highest, floor_draw=highest)
        return highest

    def _give_up(self, kme: KmeId, peer: KmeId, highest: int) -> int:
        """End what is under way, burn what waits, and return the highest number of either side."""
        highest = restore.highest_of(self.record, highest)
        void = restore.void_of(self.record)
        if void is not None:
            self.settle(kme, peer, void, None)
        self.burn_inbox()
        self.record = replace(self.record, highest=highest)
        return highest

    def block(self, number: int) -> KeyBlock | None:
        """Return a copy of a block."""
        block = self.blocks.get(number)
        return None if block is None else replace(block, key=block.key[:])

    def copy(self) -> "PairState":
        """Return an independent copy; secrets are copied, too."""
        memo: dict[int, object] = {}
        for secret in [*self.inbox.keys.values(), *(block.key for block in self.blocks.values())]:
            memo[id(secret)] = secret[:]
        return copy.deepcopy(self, memo)

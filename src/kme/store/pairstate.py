"""pairstate - all that a KME keeps for one pair, as dictionaries; each method one atomic step."""

import copy
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from kme.ids import Epoch, KmeId, SourceId
from kme.secret import Secret
from kme.store import restore, rules
from kme.store.epochset import EpochSet
from kme.store.ledger import Ledger, draw_all
from kme.store.records import (
    RESERVED_GRANULES,
    FinalKey,
    FinalKeyRef,
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
class OwnBlocks:
    """How much room is left in the blocks that this KME allocates from.

    `usable` lists (room, number) of the blocks that count, in order; `marks`
    holds the first granule never claimed of every own block, `numbers` their
    numbers in order.
    """

    numbers: list[int] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)
    marks: dict[int, int] = field(default_factory=dict)
    usable: list[tuple[int, int]] = field(default_factory=list)
    stock: Counter[int] = field(default_factory=Counter)

    def add(self, number: int, n_granules: int) -> None:
        """Take note of a new block, the highest so far; it doesn't count yet."""
        self.numbers.append(number)
        self.sizes[number] = n_granules
        self.marks[number] = RESERVED_GRANULES

    def between(self, above: int, upto: int) -> list[int]:
        """List the own blocks with ``above < number <= upto``."""
        return self.numbers[bisect_right(self.numbers, above) : bisect_right(self.numbers, upto)]

    def room(self, number: int) -> int:
        """Return how many granules of a block were never claimed."""
        return self.sizes[number] - self.marks[number]

    def open(self, number: int) -> None:
        """Let a block count from now on."""
        room = self.room(number)
        if room:
            insort(self.usable, (room, number))
            self.stock[room] += 1

    def shut(self, number: int) -> None:
        """Let a block count no longer."""
        room = self.room(number)
        if room:
            del self.usable[bisect_left(self.usable, (room, number))]
            self.stock[room] -= 1

    def take(self, min_granules: int, want_granules: int) -> GranuleRange | None:
        """Cut a range from the block with the least room that is enough."""
        at = bisect_left(self.usable, (min_granules, 0))
        if at == len(self.usable):
            return None
        room, number = self.usable[at]
        start = self.marks[number]
        self.shut(number)
        self.marks[number] = start + min(room, want_granules)
        self.open(number)
        return GranuleRange(number, start, self.marks[number])


@dataclass(slots=True)
class PairState:
    """All that is kept for the pair of this KME and one other."""

    record: PairingRecord = field(default_factory=PairingRecord)
    heartbeat: HeartbeatRecord = field(default_factory=HeartbeatRecord)
    inbox: Inbox = field(default_factory=Inbox)
    own: OwnBlocks = field(default_factory=OwnBlocks)
    blocks: dict[int, KeyBlock] = field(default_factory=dict)
    ledgers: dict[int, Ledger] = field(default_factory=dict)
    agreed_incarnation: str | None = None

    def open_proposal(self, proposal: Proposal) -> None:
        """Write the leader's next proposal."""
        if rules.opens(self.record, proposal):
            rules.check_none_gone(proposal, is_any_gone=self.inbox.is_any_gone(proposal.entries))
            self.record = rules.opened(self.record, proposal)

    def settle(self, kme: KmeId, settlement: Settlement, key: Secret | None) -> None:
        """Write a verdict, and the block if it is equal."""
        if not rules.settles(self.record, settlement, key):
            return
        self.record = rules.settled(self.record, settlement)
        proposal = settlement.proposal
        if key is not None:
            self._add_block(kme, proposal, key)
        self.inbox.remove(proposal.entries)

    def burn_inbox(self) -> int:
        """Remove the final keys that wait, but for those of an open proposal; return how many."""
        listed = self.record.open_proposal.entries if self.record.open_proposal else ()
        burnt = [ref for ref in self.inbox.keys if ref not in listed]
        self.inbox.remove(burnt)
        return len(burnt)

    def _add_block(self, kme: KmeId, proposal: Proposal, key: Secret) -> None:
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
        self.ledgers[number] = Ledger.fresh(block.n_granules)
        if block.owner == kme:
            self.own.add(number, block.n_granules)
            if rules.is_usable(self.record, number):
                self.own.open(number)

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

    def give_back(self, reserved: GranuleRange, untouched_from: int) -> None:
        """Return a closed claim's tail to its block, if nothing behind it was claimed."""
        number = reserved.block_number
        if self.own.marks[number] != reserved.stop:
            return
        is_usable = rules.is_usable(self.record, number)
        if is_usable:
            self.own.shut(number)
        self.own.marks[number] = untouched_from
        if is_usable:
            self.own.open(number)

    def stock(self) -> Stock:
        """Return how many blocks have how much room."""
        return Stock({room: n_blocks for room, n_blocks in self.own.stock.items() if n_blocks})

    def draw(self, ranges: Sequence[GranuleRange]) -> None:
        """Mark ranges as drawn: all or none."""
        ledgers = {
            wanted.block_number: self.ledgers.get(wanted.block_number)
            for wanted in ranges
            if wanted.block_number > self.record.floor_draw
        }
        self.ledgers.update(draw_all(ledgers, ranges))

    def begin_heartbeat(self, nonce: str) -> HeartbeatRecord:
        """Write that a heartbeat is about to be sent."""
        self.heartbeat = rules.begun(self.heartbeat, nonce)
        return self.heartbeat

    def acknowledge_heartbeat(self, nonce: str) -> None:
        """Note that the peer accepted the pending heartbeat."""
        self.heartbeat = rules.acknowledged(self.heartbeat, nonce)

    def accept_heartbeat(self, nonce: str, acknowledged: str | None) -> HeartbeatRecord:
        """Remember the peer's heartbeat as the last one heard, if it follows."""
        before = self.heartbeat
        self.heartbeat = rules.heard(before, nonce, acknowledged)
        return before

    def highest_epochs(self) -> Mapping[SourceId, Epoch]:
        """Return the highest epoch of each source."""
        lasts = {source: epochs.last for source, epochs in self.inbox.epochs.items()}
        return {source: Epoch(last) for source, last in lasts.items() if last is not None}

    def agree_restore(self, kme: KmeId, agreement: RestoreAgreement) -> None:
        """Give up what may have been used since this state, and be in step with the peer."""
        highest = self._give_up(kme, agreement.highest)
        self.raise_marks(floor_allocate=highest, floor_draw=highest)
        for source, epoch in agreement.epochs.items():
            self.inbox.epochs.setdefault(source, EpochSet()).fill(epoch.number)
        self.heartbeat = restore.heartbeat_agreed(agreement)
        self.agreed_incarnation = agreement.incarnation

    def accept_restore(self, kme: KmeId, nonce: str, highest: int) -> HeartbeatRecord:
        """Never allocate again from what the restored peer has given up."""
        self.raise_marks(floor_allocate=self._give_up(kme, highest))
        self.heartbeat = restore.heartbeat_accepted(self.heartbeat, nonce)
        return self.heartbeat

    def _give_up(self, kme: KmeId, highest: int) -> int:
        """End what is under way, burn what waits, and return the highest number of either side."""
        highest = restore.highest_of(self.record, highest)
        void = restore.void_of(self.record)
        if void is not None:
            self.settle(kme, void, None)
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

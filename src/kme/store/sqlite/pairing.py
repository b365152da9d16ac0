"""pairing - where pairing stands with each peer, and the blocks that settlements make."""

from dataclasses import replace

from kme.ids import Epoch, KmeId, SourceId
from kme.secret import Secret
from kme.store import rules
from kme.store.ledger import Ledger
from kme.store.records import (
    FinalKeyRef,
    KeyBlock,
    PairingRecord,
    Proposal,
    Settlement,
    SourceClass,
    Verdict,
)
from kme.store.sqlite import inbox, room
from kme.store.sqlite.seal import Sealed
from kme.store.sqlite.transaction import Transaction
from kme.units import GRANULE_BYTES


def pairing(tx: Transaction, peer: KmeId) -> PairingRecord:
    """Return the pair's record; a fresh one before the first write."""
    marks = tx.row(
        "SELECT highest, peer_settled, floor_allocate, floor_draw FROM pairs WHERE peer = ?", peer
    )
    if marks is None:
        return PairingRecord()
    highest, peer_settled, floor_allocate, floor_draw = marks
    proposed = _read_proposal(tx, peer, "open")
    last = _read_proposal(tx, peer, "last")
    return PairingRecord(
        highest=highest,
        open_proposal=None if proposed is None else proposed[0],
        last=None if last is None else Settlement(last[0], Verdict(last[1])),
        peer_settled=peer_settled,
        floor_allocate=floor_allocate,
        floor_draw=floor_draw,
    )


def open_proposal(tx: Transaction, peer: KmeId, proposal: Proposal) -> None:
    """Write the leader's next proposal."""
    record = pairing(tx, peer)
    if rules.opens(record, proposal):
        is_any_gone = inbox.is_any_gone(tx, peer, proposal.entries)
        rules.check_none_gone(proposal, is_any_gone=is_any_gone)
        _write_marks(tx, peer, rules.opened(record, proposal))
        _write_proposal(tx, peer, "open", proposal, None)


def settle(tx: Transaction, peer: KmeId, settlement: Settlement, key: Secret | None) -> None:
    """Write a verdict, and the block if it is equal."""
    before = pairing(tx, peer)
    if not rules.settles(before, settlement, key):
        return
    after = rules.settled(before, settlement)
    proposal = settlement.proposal
    _write_marks(tx, peer, after)
    _write_proposal(tx, peer, "last", proposal, settlement.verdict)
    if after.open_proposal is None:
        _delete_proposal(tx, peer, "open")
    if key is not None:
        _add_block(tx, peer, proposal, key)
        n_granules = len(key) // GRANULE_BYTES
        if rules.is_drawn_here(tx.kme, peer, proposal.owner):
            tx.add_ledger(peer, proposal.number, Ledger.fresh(n_granules))
        if proposal.owner == tx.kme:
            is_usable = rules.is_usable(after, proposal.number)
            room.add(tx, peer, proposal.number, n_granules, is_usable=is_usable)
    inbox.remove(tx, peer, proposal.entries)


def raise_marks(
    tx: Transaction, peer: KmeId, peer_settled: int, floor_allocate: int, floor_draw: int
) -> None:
    """Raise what the peer settled and the floors; none of them ever falls."""
    before = pairing(tx, peer)
    after = rules.raised(before, peer_settled, floor_allocate, floor_draw)
    _write_marks(tx, peer, after)
    room.recount(tx, peer, before, after)


def raise_highest(tx: Transaction, peer: KmeId, number: int) -> None:
    """Take note of the highest number that either side has seen."""
    record = pairing(tx, peer)
    _write_marks(tx, peer, replace(record, highest=max(record.highest, number)))


def block(tx: Transaction, peer: KmeId, number: int) -> KeyBlock | None:
    """Read and open a block; None if there is none."""
    if not 0 <= number <= rules.MAX_NUMBER:
        return None
    found = tx.row(
        "SELECT owner, source, source_class, lifetime_s, data_key, key FROM blocks"
        " WHERE peer = ? AND number = ?",
        peer,
        number,
    )
    if found is None:
        return None
    owner, source, source_class, lifetime_s, *sealed = found
    place = ("blocks", peer, number, owner, source, source_class, lifetime_s)
    key = tx.sealer.open(Sealed(*sealed), *place)
    return KeyBlock(
        number=number,
        owner=KmeId(owner),
        source=SourceId(source),
        source_class=SourceClass(source_class),
        lifetime_s=lifetime_s,
        key=key,
    )


def _add_block(tx: Transaction, peer: KmeId, proposal: Proposal, key: Secret) -> None:
    # Bound with the bytes, so that nobody can change who owns a block by editing its row.
    columns = (
        peer,
        proposal.number,
        proposal.owner,
        proposal.source,
        proposal.source_class,
        proposal.lifetime_s,
    )
    sealed = tx.sealer.seal(key, "blocks", *columns)
    tx.run(
        "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        *columns,
        len(key),
        sealed.data_key,
        sealed.key,
    )


def _write_marks(tx: Transaction, peer: KmeId, record: PairingRecord) -> None:
    tx.run(
        "INSERT OR REPLACE INTO pairs VALUES (?, ?, ?, ?, ?)",
        peer,
        record.highest,
        record.peer_settled,
        record.floor_allocate,
        record.floor_draw,
    )
    tx.forget_floors()


def _read_proposal(tx: Transaction, peer: KmeId, state: str) -> tuple[Proposal, str] | None:
    found = tx.row(
        "SELECT source, verdict, number, owner, lifetime_s, source_class, tag FROM proposals"
        " WHERE peer = ? AND state = ?",
        peer,
        state,
    )
    if found is None:
        return None
    source, verdict, number, owner, lifetime_s, source_class, tag = found
    entries = tx.rows(
        "SELECT epoch, part FROM proposal_entries WHERE peer = ? AND state = ? ORDER BY position",
        peer,
        state,
    )
    proposal = Proposal(
        number=number,
        owner=KmeId(owner),
        entries=tuple(FinalKeyRef(SourceId(source), Epoch(at), part) for at, part in entries),
        lifetime_s=lifetime_s,
        source_class=SourceClass(source_class),
        tag=tag,
    )
    return proposal, verdict


def _write_proposal(
    tx: Transaction, peer: KmeId, state: str, proposal: Proposal, verdict: Verdict | None
) -> None:
    _delete_proposal(tx, peer, state)
    tx.run(
        "INSERT INTO proposals VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        peer,
        state,
        proposal.number,
        proposal.owner,
        proposal.source,
        proposal.lifetime_s,
        proposal.source_class,
        proposal.tag,
        verdict,
    )
    tx.run_many(
        "INSERT INTO proposal_entries VALUES (?, ?, ?, ?, ?)",
        [
            (peer, state, position, entry.epoch.number, entry.part)
            for position, entry in enumerate(proposal.entries)
        ],
    )


def _delete_proposal(tx: Transaction, peer: KmeId, state: str) -> None:
    tx.run("DELETE FROM proposals WHERE peer = ? AND state = ?", peer, state)
    tx.run("DELETE FROM proposal_entries WHERE peer = ? AND state = ?", peer, state)

"""heartbeats - the nonces of the heartbeats with each peer."""

from kme.ids import KmeId
from kme.store import rules
from kme.store.records import HeartbeatRecord
from kme.store.sqlite.transaction import Transaction


def heartbeat(tx: Transaction, peer: KmeId) -> HeartbeatRecord:
    """Return the pair's heartbeat record."""
    found = tx.row("SELECT pending, acknowledged, heard FROM heartbeats WHERE peer = ?", peer)
    return HeartbeatRecord() if found is None else HeartbeatRecord(*found)


def begin(tx: Transaction, peer: KmeId, nonce: str, accepted: str | None) -> HeartbeatRecord:
    """Write that a heartbeat is about to be sent, and return the record."""
    return write(tx, peer, rules.begun(heartbeat(tx, peer), nonce, accepted))


def accept(tx: Transaction, peer: KmeId, nonce: str, acknowledged: str | None) -> HeartbeatRecord:
    """Remember the peer's heartbeat as the last one heard, if it follows."""
    before = heartbeat(tx, peer)
    write(tx, peer, rules.heard(before, nonce, acknowledged))
    return before


def write(tx: Transaction, peer: KmeId, record: HeartbeatRecord) -> HeartbeatRecord:
    """Write the pair's record and return it."""
    tx.run(
        "INSERT OR REPLACE INTO heartbeats VALUES (?, ?, ?, ?)",
        peer,
        record.pending,
        record.acknowledged,
        record.heard,
    )
    return record

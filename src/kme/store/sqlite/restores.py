"""restores - that the store is an older copy of itself, and what was agreed on with each peer.

Both stand among the facts about the store itself (table ``meta``): which
restore it was marked with last, and which one was agreed with each peer.
"""

from typing import Final

from kme.ids import KmeId
from kme.store import restore, rules
from kme.store.records import HeartbeatRecord
from kme.store.restore import RestoreAgreement
from kme.store.sqlite import grantrows, heartbeats, inbox, pairing
from kme.store.sqlite.transaction import Transaction

_MARK: Final = "incarnation"


def mark(tx: Transaction, incarnation: str) -> None:
    """Note that the store was restored."""
    _put(tx, _MARK, incarnation)


def restoring(tx: Transaction, peer: KmeId) -> str | None:
    """Return the incarnation of a restore that isn't agreed with a peer yet; None if none."""
    return restore.due(_get(tx, _MARK), _get(tx, _agreed(peer)))


def agree(tx: Transaction, peer: KmeId, agreement: RestoreAgreement) -> None:
    """Give up what may have been used since, and be in step with the peer."""
    if not restore.is_due(_get(tx, _MARK), _get(tx, _agreed(peer)), agreement):
        return
    highest = _give_up(tx, peer, agreement.highest)
    pairing.raise_marks(tx, peer, 0, highest, highest)
    for source, epoch in agreement.epochs.items():
        inbox.fill_epochs(tx, peer, source, epoch)
    grantrows.burn(tx, peer)
    heartbeats.write(tx, peer, restore.heartbeat_agreed(agreement))
    _put(tx, _agreed(peer), agreement.incarnation)


def accept(tx: Transaction, peer: KmeId, nonce: str, highest: int) -> HeartbeatRecord:
    """Never allocate again from what the restored peer has given up."""
    highest = _give_up(tx, peer, highest)
    pairing.raise_marks(tx, peer, 0, highest, 0)
    before = heartbeats.heartbeat(tx, peer)
    return heartbeats.write(tx, peer, restore.heartbeat_accepted(before, nonce))


def retire(tx: Transaction, peer: KmeId) -> int:
    """Give up all of a peer that is gone for good, and return the highest number seen."""
    highest = _give_up(tx, peer, 0)
    pairing.raise_marks(tx, peer, 0, highest, highest)
    grantrows.burn(tx, peer)
    return highest


def _give_up(tx: Transaction, peer: KmeId, highest: int) -> int:
    """End what is under way, burn what waits, and return the highest number of either side."""
    rules.check_number(highest)
    record = pairing.pairing(tx, peer)
    void = restore.void_of(record)
    if void is not None:
        pairing.settle(tx, peer, void, None)
    inbox.burn(tx, peer)
    highest = restore.highest_of(record, highest)
    pairing.raise_highest(tx, peer, highest)
    return highest


def _agreed(peer: KmeId) -> str:
    return f"agreed/{peer}"


def _get(tx: Transaction, name: str) -> str | None:
    found = tx.row("SELECT value FROM meta WHERE name = ?", name)
    return None if found is None else str(found[0])


def _put(tx: Transaction, name: str, value: str) -> None:
    tx.run("INSERT OR REPLACE INTO meta VALUES (?, ?)", name, value)

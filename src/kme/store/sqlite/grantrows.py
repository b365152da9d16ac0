"""grantrows - granted keys: one row for each SAE that may have one, sealed on its own."""

from collections.abc import Sequence

from kme.ids import KeyId, KmeId, SaeId
from kme.store.grants import Grant, KeptGrant, check_takes, fresh_of, pads_of
from kme.store.sqlite import draws
from kme.store.sqlite.seal import Sealed
from kme.store.sqlite.transaction import Transaction


def keep(tx: Transaction, peer: KmeId, grants: Sequence[Grant]) -> None:
    """Draw the pads of grants that are not kept yet, and keep them."""
    fresh = fresh_of(find(tx, peer, [grant.key_id for grant in grants]), grants)
    if pads := pads_of(fresh):
        draws.draw(tx, peer, pads)
    for grant in fresh:
        for slave in grant.slaves:
            place = (peer, str(grant.key_id), slave, grant.master)
            sealed = tx.sealer.seal(grant.key, "grants", *place)
            tx.run(
                "INSERT INTO grants VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                *place,
                grant.proof,
                grant.due_unix_s,
                sealed.data_key,
                sealed.key,
            )


def find(tx: Transaction, peer: KmeId, key_ids: Sequence[KeyId]) -> dict[KeyId, KeptGrant]:
    """Return those that are here."""
    found = {key_id: _find(tx, peer, key_id) for key_id in key_ids}
    return {key_id: kept for key_id, kept in found.items() if kept is not None}


def _find(tx: Transaction, peer: KmeId, key_id: KeyId) -> KeptGrant | None:
    rows = tx.rows(
        "SELECT slave, master, proof, due_unix_s, data_key, key FROM grants"
        " WHERE peer = ? AND key_id = ? ORDER BY slave",
        peer,
        str(key_id),
    )
    if not rows:
        return None
    _, master, proof, due_unix_s, *_ = rows[0]
    waiting = [row for row in rows if row[5] is not None]
    key = None
    if waiting:
        slave, *_, data_key, sealed = waiting[0]
        place = ("grants", peer, str(key_id), slave, master)
        key = tx.sealer.open(Sealed(data_key, sealed), *place)
    return KeptGrant(
        SaeId(master),
        tuple(SaeId(row[0]) for row in rows),
        proof,
        due_unix_s,
        tuple(SaeId(row[0]) for row in waiting),
        key,
    )


def take(tx: Transaction, peer: KmeId, slave: SaeId, key_ids: Sequence[KeyId]) -> None:
    """Shred what a slave is given: all of it or nothing."""
    check_takes(find(tx, peer, key_ids), slave, key_ids)
    tx.run_many(
        "UPDATE grants SET data_key = NULL, key = NULL WHERE peer = ? AND key_id = ? AND slave = ?",
        [(peer, str(key_id), slave) for key_id in key_ids],
    )
    tx.has_shredded = True


def purge(tx: Transaction, now_unix_s: float, limit: int) -> int:
    """Forget up to `limit` grants that were due at this time."""
    over = tx.rows(
        "SELECT DISTINCT peer, key_id FROM grants WHERE due_unix_s <= ? LIMIT ?",
        now_unix_s,
        max(limit, 0),
    )
    if over:
        tx.run_many("DELETE FROM grants WHERE peer = ? AND key_id = ?", over)
        tx.has_shredded = True
    return len(over)


def burn(tx: Transaction, peer: KmeId) -> None:
    """Forget all grants of a peer."""
    if tx.run("DELETE FROM grants WHERE peer = ?", peer):
        tx.has_shredded = True

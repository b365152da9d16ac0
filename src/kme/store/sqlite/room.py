"""room - how much of this KME's own blocks is left, and the claims on it."""

import secrets
from typing import Final

from kme.ids import KmeId
from kme.store.records import RESERVED_GRANULES, Claim, GranuleRange, Stock
from kme.store.sqlite.transaction import Transaction

_NONCE_BYTES: Final = 16


def add(tx: Transaction, peer: KmeId, number: int, n_granules: int, *, is_usable: bool) -> None:
    """Take note of a new block of this KME's own."""
    room = n_granules - RESERVED_GRANULES
    tx.run(
        "INSERT INTO own_blocks VALUES (?, ?, ?, ?, ?)",
        peer,
        number,
        RESERVED_GRANULES,
        room,
        is_usable,
    )
    if is_usable:
        _count(tx, peer, room, 1)


def set_usable(tx: Transaction, peer: KmeId, span: tuple[int, int], *, is_usable: bool) -> None:
    """Let the own blocks above the span's first number, up to its second, count or not."""
    above, upto = span
    found = tx.rows(
        "SELECT room, count(*) FROM own_blocks"
        " WHERE peer = ? AND number > ? AND number <= ? GROUP BY room",
        peer,
        above,
        upto,
    )
    for room, n_blocks in found:
        _count(tx, peer, room, n_blocks if is_usable else -n_blocks)
    if found:
        tx.run(
            "UPDATE own_blocks SET is_usable = ? WHERE peer = ? AND number > ? AND number <= ?",
            is_usable,
            peer,
            above,
            upto,
        )


def claim(
    tx: Transaction, peer: KmeId, worker: str, min_granules: int, want_granules: int
) -> Claim | None:
    """Cut a range from the usable block with the least room that is enough."""
    found = tx.row(
        "SELECT number, next_granule, room FROM own_blocks"
        " WHERE peer = ? AND is_usable = 1 AND room >= ? ORDER BY room, number LIMIT 1",
        peer,
        min_granules,
    )
    if found is None:
        return None
    number, start, room = found
    n_granules = min(room, want_granules)
    _count(tx, peer, room, -1)
    _set_room(tx, peer, number, start + n_granules, room - n_granules)
    _count(tx, peer, room - n_granules, 1)
    claimed = Claim(
        secrets.token_hex(_NONCE_BYTES), worker, GranuleRange(number, start, start + n_granules)
    )
    tx.run(
        "INSERT INTO claims VALUES (?, ?, ?, ?, ?, ?)",
        claimed.nonce,
        peer,
        worker,
        number,
        start,
        start + n_granules,
    )
    return claimed


def give_back(tx: Transaction, peer: KmeId, claimed: Claim, untouched_from: int) -> None:
    """Close a claim and return its tail, if nothing behind it was claimed since."""
    reserved = claimed.reserved
    number = reserved.block_number
    n_closed = tx.run(
        "DELETE FROM claims WHERE nonce = ? AND peer = ? AND worker = ?"
        " AND number = ? AND start = ? AND stop = ?",
        claimed.nonce,
        peer,
        claimed.worker,
        number,
        reserved.start,
        reserved.stop,
    )
    if not n_closed:
        return
    found = tx.row(
        "SELECT room, is_usable FROM own_blocks WHERE peer = ? AND number = ? AND next_granule = ?",
        peer,
        number,
        reserved.stop,
    )
    if found is None:
        return
    room, is_usable = found
    more = reserved.stop - untouched_from
    _set_room(tx, peer, number, untouched_from, room + more)
    if is_usable:
        _count(tx, peer, room, -1)
        _count(tx, peer, room + more, 1)


def close_claims(tx: Transaction, worker: str | None) -> int:
    """Close all open claims of a worker, or of all; return how many."""
    if worker is None:
        return tx.run("DELETE FROM claims")
    return tx.run("DELETE FROM claims WHERE worker = ?", worker)


def stock(tx: Transaction, peer: KmeId) -> Stock:
    """Return how many usable blocks have how much room."""
    return Stock(dict(tx.rows("SELECT room, n_blocks FROM stock WHERE peer = ?", peer)))


def _set_room(tx: Transaction, peer: KmeId, number: int, next_granule: int, room: int) -> None:
    tx.run(
        "UPDATE own_blocks SET next_granule = ?, room = ? WHERE peer = ? AND number = ?",
        next_granule,
        room,
        peer,
        number,
    )


def _count(tx: Transaction, peer: KmeId, room: int, n_more: int) -> None:
    """Change how many usable blocks have so much room; blocks without any aren't counted."""
    if room == 0:
        return
    if n_more > 0:
        tx.run(
            "INSERT INTO stock VALUES (?, ?, ?) ON CONFLICT (peer, room)"
            " DO UPDATE SET n_blocks = n_blocks + excluded.n_blocks",
            peer,
            room,
            n_more,
        )
        return
    tx.run(
        "UPDATE stock SET n_blocks = n_blocks + ? WHERE peer = ? AND room = ?", n_more, peer, room
    )
    tx.run("DELETE FROM stock WHERE peer = ? AND room = ? AND n_blocks = 0", peer, room)

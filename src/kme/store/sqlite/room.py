"""room - how much of this KME's own blocks is left, and the claims on it."""

import secrets
from collections.abc import Collection, Sequence
from typing import Final

from kme.ids import KmeId
from kme.store import rules
from kme.store.records import (
    MAX_OPEN_FROM,
    RESERVED_GRANULES,
    Claim,
    GranuleRange,
    PairingRecord,
    Stock,
)
from kme.store.sqlite.transaction import Transaction

_NONCE_BYTES: Final = 16


def add(tx: Transaction, peer: KmeId, number: int, n_granules: int, *, is_usable: bool) -> None:
    """Take note of a new block of this KME's own."""
    room = n_granules - RESERVED_GRANULES
    tx.run(
        "INSERT INTO own_blocks VALUES (?, ?, ?, ?, FALSE)", peer, number, RESERVED_GRANULES, room
    )
    if is_usable:
        _count(tx, peer, room, 1)
    _leave(tx, peer, {number})


def recount(tx: Transaction, peer: KmeId, before: PairingRecord, after: PairingRecord) -> None:
    """Count the blocks that count since marks rose, and no longer those that don't."""
    above, upto = rules.shut_by(before, after)
    if upto == before.peer_settled:
        tx.run("DELETE FROM stock WHERE peer = ?", peer)
    else:
        _count_span(tx, peer, (above, upto), -1)
    _count_span(tx, peer, rules.opened_by(before, after), 1)


def claim(
    tx: Transaction, peer: KmeId, worker: str, min_granules: int, want_granules: int
) -> Claim | None:
    """Cut a range from the begun block with the least room, else from the lowest fresh one."""
    found = _begun(tx, peer, min_granules) or _fresh(tx, peer, min_granules)
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
        "SELECT room FROM own_blocks WHERE peer = ? AND number = ? AND next_granule = ?",
        peer,
        number,
        reserved.stop,
    )
    if found is not None:
        room, more = found[0], reserved.stop - untouched_from
        _set_room(tx, peer, number, untouched_from, room + more)
        if number > floor_allocate(tx, peer):
            _count(tx, peer, room, -1)
            _count(tx, peer, room + more, 1)
    _leave(tx, peer, {number})


def close_claims(tx: Transaction, worker: str | None) -> int:
    """Close all open claims of a worker, or of all; return how many."""
    if worker is None:
        closed = tx.rows("SELECT peer, number FROM claims")
        tx.run("DELETE FROM claims")
    else:
        closed = tx.rows("SELECT peer, number FROM claims WHERE worker = ?", worker)
        tx.run("DELETE FROM claims WHERE worker = ?", worker)
    for peer in {peer for peer, _ in closed}:
        _leave(tx, KmeId(peer), {number for other, number in closed if other == peer})
    return len(closed)


def stock(tx: Transaction, peer: KmeId) -> Stock:
    """Return how many usable blocks have how much room."""
    return Stock(dict(tx.rows("SELECT room, n_blocks FROM stock WHERE peer = ?", peer)))


def floor_allocate(tx: Transaction, peer: KmeId) -> int:
    """Return up to which block nothing is claimed any more."""
    found = tx.row("SELECT floor_allocate FROM pairs WHERE peer = ?", peer)
    return 0 if found is None else int(found[0])


def open_from(tx: Transaction, peer: KmeId) -> dict[int, int]:
    """Return from where on the lowest blocks may be allocated, one more than have a name."""
    lowest = tx.rows(
        "SELECT number, next_granule FROM own_blocks WHERE peer = ? AND number > ?"
        " ORDER BY number LIMIT ?",
        peer,
        floor_allocate(tx, peer),
        MAX_OPEN_FROM + 1,
    )
    claimed = tx.rows("SELECT number, min(start) FROM claims WHERE peer = ? GROUP BY number", peer)
    return dict(lowest) | dict(claimed)


def sweep(tx: Transaction, peer: KmeId, limit: int) -> bool:
    """Destroy blocks at or below the floor, at most `limit`; return whether that was all."""
    found = tx.rows(
        "SELECT number FROM own_blocks AS o WHERE peer = ? AND number <= ? AND NOT EXISTS"
        " (SELECT 1 FROM claims AS c WHERE c.peer = o.peer AND c.number = o.number) LIMIT ?",
        peer,
        floor_allocate(tx, peer),
        limit,
    )
    _forget(tx, peer, [number for (number,) in found])
    return len(found) < limit


def _begun(tx: Transaction, peer: KmeId, min_granules: int) -> tuple[int, int, int] | None:
    return tx.row(
        "SELECT number, next_granule, room FROM own_blocks INDEXED BY own_blocks_begun"
        " WHERE peer = ? AND is_begun = 1 AND room >= ? AND number > ?"
        " ORDER BY room, number LIMIT 1",
        peer,
        min_granules,
        floor_allocate(tx, peer),
    )


def _fresh(tx: Transaction, peer: KmeId, min_granules: int) -> tuple[int, int, int] | None:
    """Return the lowest fresh block with the room, found through the rooms that there are."""
    marks = tx.row("SELECT floor_allocate, peer_settled FROM pairs WHERE peer = ?", peer)
    if marks is None:
        return None
    return tx.row(
        "SELECT number, next_granule, room FROM own_blocks WHERE peer = ? AND number ="
        " (SELECT min((SELECT o.number FROM own_blocks AS o"
        " INDEXED BY own_blocks_fresh WHERE o.peer = s.peer AND o.is_begun = 0"
        " AND o.room = s.room AND o.number > ? AND o.number <= ?"
        " ORDER BY o.number LIMIT 1)) FROM stock AS s WHERE s.peer = ? AND s.room >= ?)",
        peer,
        *marks,
        peer,
        min_granules,
    )


def _leave(tx: Transaction, peer: KmeId, numbers: Collection[int]) -> None:
    """Let blocks go that are used up now, and the smallest of too many remainders."""
    floor = floor_allocate(tx, peer)
    for number in sorted(numbers):
        used_up = tx.row(
            "SELECT 1 FROM own_blocks AS o WHERE peer = ? AND number = ?"
            " AND (room = 0 OR number <= ?) AND NOT EXISTS"
            " (SELECT 1 FROM claims AS c WHERE c.peer = o.peer AND c.number = o.number)",
            peer,
            number,
            floor,
        )
        if used_up is not None:
            _forget(tx, peer, [number])
    spare = tx.rows(
        "SELECT number, room FROM own_blocks AS o INDEXED BY own_blocks_begun"
        " WHERE peer = ? AND is_begun = 1 AND number > ? AND NOT EXISTS"
        " (SELECT 1 FROM claims AS c WHERE c.peer = o.peer AND c.number = o.number)"
        " ORDER BY room DESC, number DESC LIMIT -1 OFFSET ?",
        peer,
        floor,
        MAX_OPEN_FROM,
    )
    for number, room in spare:
        _count(tx, peer, room, -1)
        _forget(tx, peer, [number])


def _forget(tx: Transaction, peer: KmeId, numbers: Sequence[int]) -> None:
    """Destroy own blocks; one whose keys are drawn here goes when that is done."""
    places = [(peer, number) for number in numbers]
    tx.run_many("DELETE FROM own_blocks WHERE peer = ? AND number = ?", places)
    if peer != tx.kme and places:
        tx.run_many("DELETE FROM blocks WHERE peer = ? AND number = ?", places)
        tx.has_shredded = True


def _set_room(tx: Transaction, peer: KmeId, number: int, next_granule: int, room: int) -> None:
    tx.run(
        "UPDATE own_blocks SET next_granule = ?, room = ?, is_begun = ?"
        " WHERE peer = ? AND number = ?",
        next_granule,
        room,
        next_granule > RESERVED_GRANULES,
        peer,
        number,
    )


def _count_span(tx: Transaction, peer: KmeId, span: tuple[int, int], sign: int) -> None:
    """Change how many usable blocks there are by those above one number, up to another."""
    found = tx.rows(
        "SELECT room, count(*) FROM own_blocks"
        " WHERE peer = ? AND number > ? AND number <= ? GROUP BY room",
        peer,
        *span,
    )
    for room, n_blocks in found:
        _count(tx, peer, room, sign * n_blocks)


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

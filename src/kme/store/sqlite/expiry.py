"""expiry - what is never allocated any more, when the peer's like expires, and what then goes."""

import json
from collections.abc import Mapping, Sequence
from typing import Final

from kme.ids import KmeId
from kme.store import rules
from kme.store.ledger import expire_all
from kme.store.records import Expiry, Frontier
from kme.store.sqlite import pairing, room
from kme.store.sqlite.transaction import Transaction

CHUNK: Final = 32
"""So many blocks are destroyed in one transaction: at most 2 MiB to overwrite."""


def frontier(tx: Transaction, peer: KmeId) -> Frontier:
    """Return what is never allocated any more of the own blocks."""
    return rules.frontier(room.open_from(tx, peer), pairing.pairing(tx, peer))


def expiries(tx: Transaction, peer: KmeId) -> list[Expiry]:
    """Return the expiries that wait, the earliest first."""
    found = tx.rows(
        "SELECT number, open_from, due_unix_s FROM expiries WHERE peer = ? ORDER BY due_unix_s, id",
        peer,
    )
    return [
        Expiry(Frontier(number, _read(open_from)), due_unix_s)
        for number, open_from, due_unix_s in found
    ]


def note(tx: Transaction, peer: KmeId, expiry: Expiry) -> None:
    """Note when what is behind the peer's frontier expires."""
    if rules.notes(expiries(tx, peer), expiry):
        tx.run(
            "INSERT INTO expiries (peer, number, open_from, due_unix_s) VALUES (?, ?, ?, ?)",
            peer,
            expiry.frontier.number,
            json.dumps(sorted(expiry.frontier.open_from.items())),
            expiry.due_unix_s,
        )


def expire(tx: Transaction, peer: KmeId, now_unix_s: float) -> tuple[int, bool]:
    """Carry out a part of the latest expiry that is due.

    Returns
    -------
    tuple of int and bool
        How many granules expired that were not drawn, and whether nothing is left to do.
    """
    found = tx.row(
        "SELECT number, open_from FROM expiries WHERE peer = ? AND due_unix_s <= ?"
        " ORDER BY due_unix_s DESC, id DESC LIMIT 1",
        peer,
        now_unix_s,
    )
    if found is None:
        return 0, True
    number, open_from = found[0], _read(found[1])
    limit = CHUNK + len(open_from)
    behind = _lowest(tx, peer, number - 1, limit)
    is_last = len(behind) < limit
    if is_last:
        tx.run("DELETE FROM expiries WHERE peer = ? AND due_unix_s <= ?", peer, now_unix_s)
    return _mark(tx, peer, behind, open_from), is_last


def sweep(tx: Transaction, peer: KmeId) -> bool:
    """Destroy some of the blocks that the floors left behind; return whether that was all."""
    is_last = room.sweep(tx, peer, CHUNK)
    behind = _lowest(tx, peer, tx.floor_draw(peer), CHUNK)
    _mark(tx, peer, behind, {})
    return is_last and len(behind) < CHUNK


def _lowest(tx: Transaction, peer: KmeId, upto: int, limit: int) -> list[int]:
    found = tx.rows(
        "SELECT number FROM ledgers WHERE peer = ? AND number <= ? ORDER BY number LIMIT ?",
        peer,
        upto,
        limit,
    )
    return [number for (number,) in found]


def _mark(
    tx: Transaction, peer: KmeId, numbers: Sequence[int], open_from: Mapping[int, int]
) -> int:
    """Let granules count as drawn: blocks without any others go with this transaction."""
    ledgers = {number: tx.ledger(peer, number) for number in numbers}
    here = {number: ledger for number, ledger in ledgers.items() if ledger is not None}
    changed, n_expired = expire_all(here, open_from)
    tx.keep_ledgers(peer, changed)
    return n_expired


def _read(open_from: str) -> dict[int, int]:
    return dict(json.loads(open_from))

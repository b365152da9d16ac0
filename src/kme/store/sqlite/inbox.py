"""inbox - final keys in, once for good; listed, read, and removed when a block is settled."""

from collections.abc import Iterable, Sequence

from kme.ids import Epoch, KmeId, SourceId
from kme.secret import Secret
from kme.store import rules
from kme.store.records import FinalKey, FinalKeyRef, InboxEntry
from kme.store.sqlite.seal import Sealed
from kme.store.sqlite.transaction import Transaction, Value


def ingest(
    tx: Transaction, peer: KmeId, source: SourceId, epoch: Epoch, parts: Sequence[Secret]
) -> bool:
    """Take one epoch's final key, or return False if it came in before."""
    rules.check_parts(parts)
    if not _add_epoch(tx, peer, source, epoch.number):
        return False
    for part, key in enumerate(parts):
        place = _place(peer, FinalKeyRef(source, epoch, part))
        sealed = tx.sealer.seal(key, "inbox", *place)
        tx.run(
            "INSERT INTO inbox VALUES (?, ?, ?, ?, ?, ?, ?)",
            *place,
            len(key),
            sealed.data_key,
            sealed.key,
        )
    return True


def entries(
    tx: Transaction, peer: KmeId, source: SourceId, after: FinalKeyRef | None, limit: int
) -> list[InboxEntry]:
    """List entries of one source in order of epoch and part, behind `after`."""
    epoch, part = (-1, -1) if after is None else (after.epoch.number, after.part)
    found = tx.rows(
        "SELECT epoch, part, n_bytes FROM inbox WHERE peer = ? AND source = ?"
        " AND (epoch, part) > (?, ?) ORDER BY epoch, part LIMIT ?",
        peer,
        source,
        epoch,
        part,
        max(limit, 0),
    )
    return [InboxEntry(FinalKeyRef(source, Epoch(at), nth), n_bytes) for at, nth, n_bytes in found]


def n_waiting(tx: Transaction, peer: KmeId, source: SourceId, most: int) -> int:
    """Return how many entries of one source wait, but no more than `most`."""
    found = tx.row(
        "SELECT count(*) FROM (SELECT 1 FROM inbox WHERE peer = ? AND source = ? LIMIT ?)",
        peer,
        source,
        max(most, 0),
    )
    return 0 if found is None else int(found[0])


def held(tx: Transaction, peer: KmeId, refs: Iterable[FinalKeyRef]) -> list[InboxEntry]:
    """Return those of `refs` that wait here."""
    here = []
    for ref in refs:
        found = tx.row(
            "SELECT n_bytes FROM inbox WHERE peer = ? AND source = ? AND epoch = ? AND part = ?",
            *_place(peer, ref),
        )
        if found is not None:
            here.append(InboxEntry(ref, found[0]))
    return here


def final_keys(tx: Transaction, peer: KmeId, refs: Iterable[FinalKeyRef]) -> list[FinalKey]:
    """Read and open those of `refs` that wait here."""
    here = []
    for ref in refs:
        place = _place(peer, ref)
        found = tx.row(
            "SELECT data_key, key FROM inbox"
            " WHERE peer = ? AND source = ? AND epoch = ? AND part = ?",
            *place,
        )
        if found is not None:
            here.append(FinalKey(ref, tx.sealer.open(Sealed(*found), "inbox", *place)))
    return here


def is_any_gone(tx: Transaction, peer: KmeId, refs: Sequence[FinalKeyRef]) -> bool:
    """Return whether one of these came in and waits no longer."""
    waiting = {entry.ref for entry in held(tx, peer, refs)}
    return any(
        ref not in waiting
        and tx.row(
            "SELECT 1 FROM source_epochs WHERE peer = ? AND source = ? AND first <= ?"
            " AND last >= ?",
            peer,
            ref.source,
            ref.epoch.number,
            ref.epoch.number,
        )
        for ref in refs
    )


def remove(tx: Transaction, peer: KmeId, refs: Iterable[FinalKeyRef]) -> None:
    """Delete entries and, with their data keys, the possibility to read them."""
    tx.run_many(
        "DELETE FROM inbox WHERE peer = ? AND source = ? AND epoch = ? AND part = ?",
        [_place(peer, ref) for ref in refs],
    )
    tx.has_shredded = True


def burn(tx: Transaction, peer: KmeId) -> int:
    """Remove the final keys that wait, but for those of an open proposal; return how many."""
    # A pair's proposals are of one source, which stands beside the list of their entries.
    n_burnt = tx.run(
        "DELETE FROM inbox WHERE peer = ? AND NOT EXISTS ("
        " SELECT 1 FROM proposals AS p JOIN proposal_entries AS e"
        " ON e.peer = p.peer AND e.state = p.state"
        " WHERE p.peer = inbox.peer AND p.state = 'open' AND p.source = inbox.source"
        " AND e.epoch = inbox.epoch AND e.part = inbox.part)",
        peer,
    )
    tx.has_shredded = True
    return n_burnt


def highest_epochs(tx: Transaction, peer: KmeId) -> dict[SourceId, Epoch]:
    """Return the highest epoch that ever came in, of each source."""
    found = tx.rows(
        "SELECT source, max(last) FROM source_epochs WHERE peer = ? GROUP BY source", peer
    )
    return {SourceId(source): Epoch(last) for source, last in found}


def fill_epochs(tx: Transaction, peer: KmeId, source: SourceId, last: Epoch) -> None:
    """Let all epochs of a source up to this one, it included, count as come in."""
    place = (peer, source, last.number + 1)
    found = tx.row(
        "SELECT max(last) FROM source_epochs WHERE peer = ? AND source = ? AND first <= ?", *place
    )
    tx.run("DELETE FROM source_epochs WHERE peer = ? AND source = ? AND first <= ?", *place)
    behind = found[0] if found is not None and found[0] is not None else 0
    tx.run("INSERT INTO source_epochs VALUES (?, ?, 0, ?)", peer, source, max(last.number, behind))


def _place(peer: KmeId, ref: FinalKeyRef) -> tuple[str, str, int, int]:
    # A peer may ask for any part; one that no file can have isn't here.
    part = ref.part if 0 <= ref.part <= rules.MAX_PART else -1
    return peer, ref.source, ref.epoch.number, part


def _add_epoch(tx: Transaction, peer: KmeId, source: SourceId, number: int) -> bool:
    """Add an epoch to those that came in; neighbours merge into one interval."""
    before = tx.row(
        "SELECT first, last FROM source_epochs WHERE peer = ? AND source = ? AND first <= ?"
        " ORDER BY first DESC LIMIT 1",
        peer,
        source,
        number,
    )
    if before is not None and before[1] >= number:
        return False
    behind = tx.row(
        "SELECT first, last FROM source_epochs WHERE peer = ? AND source = ? AND first = ?",
        peer,
        source,
        number + 1,
    )
    first = before[0] if before is not None and before[1] == number - 1 else number
    last = number if behind is None else behind[1]
    interval: tuple[Value, ...] = (peer, source, first, last)
    tx.run(
        "DELETE FROM source_epochs WHERE peer = ? AND source = ? AND first IN (?, ?)",
        peer,
        source,
        first,
        number + 1,
    )
    tx.run("INSERT INTO source_epochs VALUES (?, ?, ?, ?)", *interval)
    return True

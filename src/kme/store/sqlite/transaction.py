"""transaction - what a call may do within the transaction that it shares with others."""

import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from kme.ids import KmeId
from kme.store.ledger import Ledger
from kme.store.sqlite.seal import Sealer

Value = str | int | float | bytes | None

_MAX_LEDGERS: Final = 256
"""So many ledgers stay in memory: of blocks of the largest size, a quarter of a MiB."""


class Transaction:
    """The one connection, in use by the writer's thread only.

    Nobody else writes to the file, so ledgers and floors that were read or
    written are remembered from one transaction to the next, until one fails.
    Ledgers are written once at the end of a transaction, however many draws of
    a block it holds. So a call that changes ledgers does so last, when it can
    fail no more.

    Parameters
    ----------
    connection
        In autocommit mode; who calls begins and commits.
    kme
        Whose store it is.
    sealer
        Seals and opens key bytes.
    """

    def __init__(self, connection: sqlite3.Connection, kme: KmeId, sealer: Sealer) -> None:
        self.connection = connection
        self.kme = kme
        self.sealer = sealer
        self.has_shredded = False
        self._ledgers: OrderedDict[tuple[KmeId, int], Ledger] = OrderedDict()
        self._floors: dict[KmeId, int] = {}
        self._drawn: set[tuple[KmeId, int]] = set()

    def run(self, statement: str, *values: Value) -> int:
        """Run a statement and return how many rows it changed."""
        return self.connection.execute(statement, values).rowcount

    def run_many(self, statement: str, rows: Iterable[tuple[Value, ...]]) -> None:
        """Run a statement for each row."""
        self.connection.executemany(statement, rows)

    def row(self, statement: str, *values: Value) -> tuple[Any, ...] | None:
        """Return the first row of a query, or None."""
        found: tuple[Any, ...] | None = self.connection.execute(statement, values).fetchone()
        return found

    def rows(self, statement: str, *values: Value) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        return self.connection.execute(statement, values).fetchall()

    def floor_draw(self, peer: KmeId) -> int:
        """Return up to which block nothing is drawn any more."""
        known = self._floors.get(peer)
        if known is None:
            found = self.row("SELECT floor_draw FROM pairs WHERE peer = ?", peer)
            known = self._floors[peer] = 0 if found is None else int(found[0])
        return known

    def forget_floors(self) -> None:
        """Have the floors read again: one was written, or what was read is undone."""
        self._floors.clear()

    def ledger(self, peer: KmeId, number: int) -> Ledger | None:
        """Return a block's ledger as the draws so far left it."""
        place = peer, number
        known = self._ledgers.get(place)
        if known is not None:
            self._ledgers.move_to_end(place)
            return known
        found = self.row(
            "SELECT n_granules, drawn FROM ledgers WHERE peer = ? AND number = ?", peer, number
        )
        if found is None:
            return None
        return self._ledgers.setdefault(place, Ledger.from_bytes(*found))

    def add_ledger(self, peer: KmeId, number: int, ledger: Ledger) -> None:
        """Write a new block's ledger."""
        self.run(
            "INSERT INTO ledgers VALUES (?, ?, ?, ?)",
            peer,
            number,
            ledger.n_granules,
            ledger.to_bytes(),
        )

    def keep_ledgers(self, peer: KmeId, changed: Mapping[int, Ledger]) -> None:
        """Remember changed ledgers until they are written."""
        for number, ledger in changed.items():
            self._ledgers[peer, number] = ledger
            self._drawn.add((peer, number))

    def write_ledgers(self) -> None:
        """Write the changed ledgers, or destroy block and ledger if all of it was drawn.

        Called once, before the commit: what a call that failed would roll back
        stands in no ledger that is kept here.
        """
        full = [place for place in sorted(self._drawn) if self._ledgers[place].is_full]
        self.run_many(
            "UPDATE ledgers SET drawn = ? WHERE peer = ? AND number = ?",
            (
                (self._ledgers[place].to_bytes(), *place)
                for place in sorted(self._drawn.difference(full))
            ),
        )
        if full:
            self.run_many("DELETE FROM blocks WHERE peer = ? AND number = ?", full)
            self.run_many("DELETE FROM ledgers WHERE peer = ? AND number = ?", full)
            self.has_shredded = True

    def committed(self) -> None:
        """Take note that what the ledgers say is durable; keep the latest of them."""
        for place in [place for place in self._drawn if self._ledgers[place].is_full]:
            del self._ledgers[place]
        self._drawn.clear()
        while len(self._ledgers) > _MAX_LEDGERS:
            self._ledgers.popitem(last=False)

    def rolled_back(self) -> None:
        """Forget what was read and changed: the file may say something else."""
        self._ledgers.clear()
        self._floors.clear()
        self._drawn.clear()

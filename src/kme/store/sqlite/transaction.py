"""transaction - what a call may do within the transaction that it shares with others."""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from kme.ids import KmeId
from kme.store.ledger import Ledger
from kme.store.sqlite.seal import Sealer

Value = str | int | float | bytes | None


class Transaction:
    """The one connection, in use by the writer's thread only.

    Ledgers are read at most once per transaction and written once at its end,
    however many draws of a block it holds. So a call that changes ledgers does
    so last, when it can fail no more.

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
        self._ledgers: dict[tuple[KmeId, int], Ledger] = {}
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

    def ledger(self, peer: KmeId, number: int) -> Ledger | None:
        """Return a block's ledger as the draws of this transaction left it."""
        known = self._ledgers.get((peer, number))
        if known is not None:
            return known
        found = self.row(
            "SELECT n_granules, drawn FROM ledgers WHERE peer = ? AND number = ?", peer, number
        )
        if found is None:
            return None
        return self._ledgers.setdefault((peer, number), Ledger.from_bytes(*found))

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

    def forget_ledgers(self) -> None:
        """Forget what was read; called after commit or roll-back."""
        self._ledgers.clear()
        self._drawn.clear()

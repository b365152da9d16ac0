"""writer - calls from an event loop, gathered into transactions that commit together."""

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from kme.errors import InputError, KmeError, StoreUnavailableError
from kme.store.sqlite.transaction import Transaction

_logger = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")

_MAX_GROUP: Final = 256
"""At most so many calls share a commit, so that the first of them doesn't wait long."""

_MAX_WAITING: Final = 4096
_SHRED_AFTER_S: Final = 0.5
"""Idle time after which shredded data keys are also cut off the write-ahead log."""


@dataclass(slots=True)
class _Call:
    """One call and, later, what came of it."""

    act: Callable[[Transaction], Any]
    answer: asyncio.Future[Any]
    needs_undo: bool
    result: Any = None
    error: BaseException | None = None

    def complete(self) -> None:
        """Tell the caller, unless it waits no longer."""
        if self.answer.done():
            return
        if self.error is None:
            self.answer.set_result(self.result)
        else:
            self.answer.set_exception(self.error)


class Writer(threading.Thread):
    """The one thread that uses a store's connection.

    All calls made within one turn of the event loop, and all that came while
    a commit was under way, share the next transaction: one fsync for all. A
    call that fails rolls back to where it began and disturbs no other.

    Parameters
    ----------
    transaction
        The connection and what goes with it.
    loop
        Where callers wait.
    """

    def __init__(self, transaction: Transaction, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name="store-writer", daemon=True)
        self._transaction = transaction
        self._loop = loop
        self._queue: queue.SimpleQueue[list[_Call] | None] = queue.SimpleQueue()
        self._gathered: list[_Call] = []
        self._n_waiting = 0
        self._is_closing = False
        self._ended: asyncio.Future[None] = loop.create_future()

    # In the event loop

    async def call(
        self,
        act: Callable[Concatenate[Transaction, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Run `act` in the next transaction; return once that is durable.

        Raises
        ------
        StoreUnavailableError
            If the store is closed or too busy, or the disk refuses.
        """
        return await self._outcome(lambda tx: act(tx, *args, **kwargs), needs_undo=True)

    async def call_traceless(
        self,
        act: Callable[Concatenate[Transaction, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Do as `call` with what leaves no trace if it fails.

        It reads only, or changes ledgers last. What it can spare is a savepoint.
        """
        return await self._outcome(lambda tx: act(tx, *args, **kwargs), needs_undo=False)

    async def _outcome(self, act: Callable[[Transaction], _T], *, needs_undo: bool) -> _T:
        if self._is_closing:
            raise StoreUnavailableError("the store is closed")
        if self._n_waiting >= _MAX_WAITING:
            raise StoreUnavailableError("too many calls wait for the store")
        if not self._gathered:
            self._loop.call_soon(self._hand_over)
        answer: asyncio.Future[_T] = self._loop.create_future()
        self._gathered.append(_Call(act, answer, needs_undo))
        self._n_waiting += 1
        return await answer

    async def close(self) -> None:
        """Finish what was called and end the thread."""
        if not self._is_closing:
            self._is_closing = True
            self._hand_over()
            self._queue.put(None)
        await asyncio.shield(self._ended)

    def _hand_over(self) -> None:
        if self._gathered:
            self._queue.put(self._gathered)
            self._gathered = []

    def _complete(self, calls: list[_Call]) -> None:
        self._n_waiting -= len(calls)
        for call in calls:
            call.complete()

    def _end(self) -> None:
        self._ended.set_result(None)

    # In the thread

    def run(self) -> None:
        """Commit group after group until the store is closed."""
        is_last = False
        while not is_last:
            calls, is_last = self._next_calls()
            for begin in range(0, len(calls), _MAX_GROUP):
                group = calls[begin : begin + _MAX_GROUP]
                self._commit(group)
                self._tell(self._complete, group)
        self._truncate_log()
        self._transaction.connection.close()
        self._tell(self._end)

    def _next_calls(self) -> tuple[list[_Call], bool]:
        """Wait for calls and take all that are there; True with the last ones."""
        waiting = self._first_calls()
        calls: list[_Call] = []
        while waiting is not None:
            calls += waiting
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                return calls, False
        return calls, True

    def _first_calls(self) -> list[_Call] | None:
        if self._transaction.has_shredded:
            try:
                return self._queue.get(timeout=_SHRED_AFTER_S)
            except queue.Empty:
                self._truncate_log()
        return self._queue.get()

    def _commit(self, group: list[_Call]) -> None:
        transaction = self._transaction
        try:
            transaction.run("BEGIN IMMEDIATE")
            for call in group:
                self._attempt(call)
            transaction.write_ledgers()
            transaction.run("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            for call in group:
                call.error = _unavailable(error)
        else:
            transaction.committed()

    def _attempt(self, call: _Call) -> None:
        """Run one call; what it did is undone if it fails."""
        transaction = self._transaction
        if call.needs_undo:
            transaction.run("SAVEPOINT one_call")
        try:
            call.result = call.act(transaction)
        except sqlite3.Error as error:
            call.error = _unavailable(error)
        except KmeError as error:
            call.error = error
        except (OverflowError, UnicodeEncodeError) as error:
            call.error = InputError("a number or text cannot be stored")
            call.error.__cause__ = error
        except Exception as error:  # noqa: BLE001 - a defect goes to the caller, the thread lives on
            call.error = error
        if not call.needs_undo:
            return
        if call.error is not None:
            # Fails if SQLite gave up the whole transaction already; so does the group then.
            transaction.run("ROLLBACK TO one_call")
            transaction.forget_floors()
        transaction.run("RELEASE one_call")

    def _roll_back(self) -> None:
        self._transaction.rolled_back()
        try:
            if self._transaction.connection.in_transaction:
                self._transaction.run("ROLLBACK")
        except sqlite3.Error:
            _logger.exception("a transaction could not be rolled back")

    def _truncate_log(self) -> None:
        """Move the write-ahead log into the database, so that nothing deleted stays in it."""
        self._transaction.has_shredded = False
        try:
            self._transaction.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            _logger.exception("the write-ahead log could not be truncated")

    def _tell(self, report: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(report, *args)
        except RuntimeError:
            # The loop is closed: nobody waits any more.
            _logger.debug("a store's event loop ended before the store was closed")


def _unavailable(error: sqlite3.Error) -> StoreUnavailableError:
    unavailable = StoreUnavailableError("the store cannot be used now", reason=str(error))
    unavailable.__cause__ = error
    return unavailable
